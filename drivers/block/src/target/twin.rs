//! Whether two disks are one: a namespace that is reached through two controllers of a subsystem.
//!
//! Two writers to one namespace are worse than a disk that is refused, so that where nothing tells two
//! disks apart they are one.

use alloc::string::String;

use crate::Volume;

/// Kinds of names by identifiers of a namespace, as a beginning and a length; 0 for any length.
const KINDS: [(&str, usize); 3] = [("nvme-eui.", 25), ("nvme-eui.", 41), ("nvme-uuid.", 0)];

/// How names by subsystem begin.
const SUBSYSTEM: &str = "nvme-nqn.";

/// Whether `one` and `other` are the same namespace.
///
/// They must have the name by serial number or the one by subsystem in common, each of which has the
/// number of the namespace. A namespace has the latter only if it says that several controllers may
/// have it: there are makers that give all their disks one subsystem's name. Of its identifiers, each
/// that both have must be the same: some may be missing where a controller could not tell them. They
/// do not count alone, since there are disks that all have the same. Without any in common, model and
/// size must be the same.
pub(super) fn are_one(one: &Volume, other: &Volume) -> bool {
    let in_common = |name: fn(&Volume) -> Option<&str>| {
        let names = name(one).zip(name(other));
        names.is_some_and(|(one, other)| one == other)
    };
    if one.unit != other.unit || !(in_common(by_serial) || in_common(by_subsystem)) {
        return false;
    }
    let both = KINDS.map(|kind| by_id(one, kind).zip(by_id(other, kind)));
    if both.iter().all(Option::is_none) {
        let shape = |disk: &Volume| (disk.sectors, disk.block_shift);
        let same_model = in_common(by_subsystem) || model(one) == model(other);
        return shape(one) == shape(other) && same_model;
    }
    both.iter().flatten().all(|(one, other)| one == other)
}

/// The name by serial number.
fn by_serial(disk: &Volume) -> Option<&str> {
    let by_id = |alias: &str| KINDS.iter().any(|(start, _)| alias.starts_with(start));
    let mut aliases = disk.aliases.iter().map(String::as_str);
    aliases
        .find(|alias| alias.starts_with("nvme-") && !by_id(alias) && !alias.starts_with(SUBSYSTEM))
}

/// The name by subsystem.
fn by_subsystem(disk: &Volume) -> Option<&str> {
    let mut aliases = disk.aliases.iter().map(String::as_str);
    aliases.find(|alias| alias.starts_with(SUBSYSTEM))
}

/// The name by an identifier of this kind.
fn by_id<'a>(disk: &'a Volume, (start, length): (&str, usize)) -> Option<&'a str> {
    let mut aliases = disk.aliases.iter().map(String::as_str);
    aliases.find(|alias| alias.starts_with(start) && (length == 0 || alias.len() == length))
}

/// What the description says before the firmware, of which each controller may have its own: the
/// model, and the serial number once more.
fn model(disk: &Volume) -> &str {
    const FIRMWARE: &[u8] = b", firmware ";
    let text = &disk.description;
    let mut windows = text.as_bytes().windows(FIRMWARE.len());
    let model = windows.position(|window| window == FIRMWARE);
    model.and_then(|end| text.get(..end)).unwrap_or(text)
}
