//! LVM2 metadata: from sectors to maps.
//!
//! [`find`] looks for a physical volume on a disk or partition (`label`) and reads the newest metadata
//! that it holds (`area`), whose text (`text`) becomes a [`Group`] ([`parse()`], `logical`).
//! [`assemble()`] puts together what was found on all disks. A volume is made, extended, removed or renamed
//! by editing the text (`change`, `space`) and writing the next one beside it (`rewrite`).
//!
//! What is not served is refused by name, with the reason: whatever is no linear or striped logical
//! volume on physical volumes that are all there. Metadata may have been written by a guest that had
//! the disk, so that nothing in it is believed before it is checked, and what it can cost is bounded:
//!
//! | limit | at most |
//! | --- | --- |
//! | metadata areas of a physical volume | [`MAX_AREAS`] |
//! | bytes of metadata text | [`MAX_TEXT`], what LVM allows in areas of the usual size |
//! | physical volumes of a group | [`MAX_PVS`] |
//! | logical volumes of a group, hidden ones included | [`MAX_LVS`] |
//! | areas of all segments of a group | [`MAX_SPANS`] |
//!
//! The text is gone over at most once for each of its five levels. The format is described in
//! lvm2's `pvck(8)`, `lvmsystemid(7)` and `vgcfgbackup(8)`, and in the comments of the text itself.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod area;
mod assemble;
mod change;
mod crc;
mod group;
mod label;
mod logical;
mod parse;
mod rewrite;
mod source;
mod space;
mod text;
mod uuid;

pub use area::{MAX_AREAS, MAX_TEXT};
pub use assemble::{Assembled, assemble};
pub use change::{VolumeChange, change};
pub use group::{Group, LogicalVolume, LvArea, LvSegment, MemberPv};
pub use label::{FoundPv, find};
pub use logical::{MAX_LVS, MAX_SPANS};
pub use parse::{MAX_PVS, parse};
pub use rewrite::{Rewrite, RewriteStep, Unchanged};
pub use source::{SectorSource, Unread, has_room};
pub use uuid::LvmUuid;

/// Bytes of a sector, the unit of all lengths in metadata.
pub const SECTOR: u64 = 512;

/// Why something is refused, in words for people.
pub type Reason = &'static str;
