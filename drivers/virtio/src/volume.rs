//! A device as a volume: its name, its other name, what it can do.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use spindle_block::{Discard, SECTOR_SIZE, Unit, Volume};

use crate::config::{Features, Geometry};
use crate::request::ID_LEN;

/// The serial number of a device, which may end before its field does, made fit for names and
/// consoles: what is neither letter nor digit nor one of `-_.` becomes `_`.
pub(crate) fn serial(id: &[u8; ID_LEN]) -> String {
    let id = id.iter().take_while(|&&byte| byte != 0);
    let id: String = id.copied().map(char::from).collect();
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let shown = id.trim().chars().map(|c| if fit(c) { c } else { '_' });
    shown.collect()
}

/// The name of virtio disk `number`: `vda` to `vdz`, then `vdaa` and so on, as Linux has it.
#[must_use]
pub fn name(number: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = number + 1;
    while rest > 0 {
        rest -= 1;
        letters.push(char::from(b'a' + (rest % 26) as u8));
        rest /= 26;
    }
    let mut name = "vd".to_string();
    name.extend(letters.iter().rev());
    name
}

/// The whole device as a volume.
pub(crate) fn describe(
    geometry: &Geometry,
    features: Features,
    serial: &str,
    disk: usize,
    number: usize,
) -> Volume {
    let discard = geometry.discard.map(|erase| Discard {
        granularity: erase.granularity * SECTOR_SIZE as u32,
        alignment: 0,
        secure: geometry.secure_erase.is_some(),
    });
    let mut aliases = Vec::new();
    let mut description = "virtio disk".to_string();
    if !serial.is_empty() {
        aliases.push(format!("virtio-{serial}"));
        description = format!("{description}, serial {serial}");
    }
    Volume {
        name: name(number),
        aliases,
        disk,
        unit: Unit(0),
        start: 0,
        sectors: geometry.sectors,
        block_shift: geometry.block_shift,
        physical_block_shift: geometry.physical_block_shift,
        read_only: features.contains(Features::RO),
        write_cache: features.contains(Features::FLUSH),
        discard,
        description,
        map: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_on_after_z() {
        let names = [0, 1, 25, 26, 51, 52, 701, 702].map(name);
        let expected = ["vda", "vdb", "vdz", "vdaa", "vdaz", "vdba", "vdzz", "vdaaa"];
        assert_eq!(names, expected);
    }

    #[test]
    fn serial_numbers_are_trimmed_and_harmless() {
        let mut id = [0; ID_LEN];
        id[..7].copy_from_slice(b" a/\x1bb-1");
        assert_eq!(serial(&id), "a__b-1");
        assert_eq!(serial(&[b'x'; ID_LEN]), "x".repeat(ID_LEN));
        assert_eq!(serial(&[0; ID_LEN]), "");
        assert_eq!(serial(&[0xff; ID_LEN]), "_".repeat(ID_LEN));
    }
}
