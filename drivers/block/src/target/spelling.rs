//! The ways in which a target can be written, and the one in which it stands in the table.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A target as it stands in the table: without its directory, and UUIDs in small letters.
pub(super) fn spelling(target: &str) -> String {
    for (directory, key) in [
        ("/dev/disk/by-partuuid/", "PARTUUID="),
        ("/dev/disk/by-partlabel/", "PARTLABEL="),
        ("/dev/disk/by-id/dm-name-", "mapper/"),
        ("/dev/disk/by-id/", ""),
        ("/dev/", ""),
    ] {
        if let Some(name) = target.strip_prefix(directory) {
            return spelling(&alloc::format!("{key}{name}"));
        }
    }
    if let Some(name) = target.strip_prefix("mapper/").and_then(logical) {
        return name;
    }
    match target.strip_prefix("PARTUUID=") {
        Some(uuid) => alloc::format!("PARTUUID={}", uuid.to_ascii_lowercase()),
        None => target.to_string(),
    }
}

/// A name that is written as udev and the list of targets write it, `my\x20data` for `my data`.
pub(super) fn unescape(name: &str) -> String {
    let escaped = |text: &[u8]| {
        let hex = str::from_utf8(text.strip_prefix(b"\\x")?.get(..2)?).ok()?;
        u8::from_str_radix(hex, 16).ok()
    };
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some(&first) = rest.first() {
        let code = escaped(rest);
        bytes.push(code.unwrap_or(first));
        rest = &rest[if code.is_some() { 4 } else { 1 }..];
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_string())
}

/// The logical volume that the device mapper knows by this name: group and volume with a hyphen between,
/// and a hyphen of their own written twice.
fn logical(name: &str) -> Option<String> {
    let bytes = name.as_bytes();
    let (mut plain, mut at, mut slash) = (String::new(), 0, false);
    while let Some(&byte) = bytes.get(at) {
        let doubled = byte == b'-' && bytes.get(at + 1) == Some(&b'-');
        let between = byte == b'-' && !doubled;
        if between && slash || !byte.is_ascii() {
            return None;
        }
        slash |= between;
        plain.push(char::from(if between { b'/' } else { byte }));
        at += 1 + usize::from(doubled);
    }
    slash.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_mappers_name_is_that_of_a_logical_volume() {
        for (target, name) in [
            ("/dev/mapper/vg0-web", "vg0/web"),
            ("/dev/disk/by-id/dm-name-vg0-web", "vg0/web"),
            ("/dev/mapper/my--group-a--b", "my-group/a-b"),
            ("mapper/a---b", "a-/b"),
            ("/dev/vg0/web", "vg0/web"),
            ("/dev/mapper/control", "mapper/control"),
            ("/dev/mapper/vg0-web-real", "mapper/vg0-web-real"),
            ("LVUUID=aB", "LVUUID=aB"),
        ] {
            assert_eq!(spelling(target), name, "{target}");
        }
    }
}
