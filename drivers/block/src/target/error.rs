//! Why a target is not given out, in words for the one who asked for it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Names that a message lists.
const LISTED: usize = 12;

/// Why a volume was not given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No volume of that name.
    #[error("no such target \"{wanted}\"; have {}", list(.have, "no disk at all"))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// The names there are.
        have: Vec<String>,
    },
    /// The disk, or its controller, did not start.
    #[error("target \"{wanted}\" cannot be had: {name} is out of use: {reason}")]
    Failed {
        /// What was asked for.
        wanted: String,
        /// The disk or the controller.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More than one volume of that name: of a name that a disk or its table claims, anybody may
    /// have a second one.
    #[error("target \"{wanted}\" could be each of {}; say which", list(.have, "none"))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// The names of those.
        have: Vec<String>,
    },
    /// Another device has it or a part of it, and one of the two wants to write.
    #[error("target \"{name}\" is in use by {holder}{}, and not by readers only", part(.held))]
    InUse {
        /// The volume.
        name: String,
        /// Who has it.
        holder: String,
        /// What that one has, if it goes by another name.
        held: Option<String>,
    },
    /// Another holder writes to it, too, and one of the two in smaller sectors than its blocks.
    #[error(
        "target \"{name}\" is written to by {holder}, as \"{held}\": those who share a disk either all \
         have it by the same name with 512e:, or all without"
    )]
    Mixed {
        /// The volume.
        name: String,
        /// Who has it.
        holder: String,
        /// What that one has.
        held: String,
    },
    /// Another controller that has the same namespace is lost, and has not been kept from carrying out
    /// what it was given.
    #[error(
        "target \"{name}\" may change under its guest: {lost} has the same namespace, is lost, and may \
         still carry out what it was given; this target can be had once {lost} is back, or after a \
         restart of Spindle"
    )]
    MayChange {
        /// The volume.
        name: String,
        /// The controller that is lost.
        lost: String,
    },
    /// Asked for writing, but the disk refuses writes.
    #[error("target \"{0}\" is read-only; attach it with access=ro")]
    ReadOnly(String),
    /// The table that it is an entry of could be written since that was read.
    #[error(
        "target \"{name}\" may not be where it was: \"{disk}\" was given out whole for writing; have \
         the disks looked at again (spindlectl rescan) once no guest has any of it"
    )]
    Stale {
        /// The partition.
        name: String,
        /// Its disk.
        disk: String,
    },
    /// What a logical volume is described by could be written since that was read, or has another
    /// description of it.
    #[error(
        "target \"{0}\" may not be where it was: a disk or partition under it was given out for writing, \
         or its volume group has been changed; have the disks looked at again (spindlectl rescan) once \
         no guest has any of it"
    )]
    Relocated(String),
    /// Its table or metadata have been changed while a guest has it open.
    #[error(
        "target \"{name}\" is still what it was before its table or volume group was changed, since a guest \
         has it open: {reason}; have the disks looked at again (spindlectl rescan) once that has closed it"
    )]
    Kept {
        /// The volume.
        name: String,
        /// Why it could not follow.
        reason: String,
    },
    /// The disk has no blocks, or none any more.
    #[error("target \"{0}\" is empty, or has gone")]
    Empty(String),
    /// The disk has shrunk.
    #[error("target \"{0}\" reaches beyond the end of its disk")]
    Beyond(String),
}

fn list(names: &[String], none: &str) -> String {
    let mut text = names[..names.len().min(LISTED)].join(", ");
    if names.is_empty() {
        text = none.to_string();
    } else if names.len() > LISTED {
        text += " and others";
    }
    text
}

fn part(held: &Option<String>) -> String {
    held.as_ref()
        .map_or_else(String::new, |name| alloc::format!(" (as \"{name}\")"))
}
