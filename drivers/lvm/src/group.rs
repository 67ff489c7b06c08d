//! What metadata says: a volume group, its physical volumes, and its logical volumes as maps.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{LvmUuid, Reason};

/// A volume group as one generation of its metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name, without a character that names do not have.
    pub name: String,
    /// Its identifier.
    pub uuid: LvmUuid,
    /// Which generation this is; a higher one is newer.
    pub seqno: u64,
    /// The checksum of the text, the same on all disks of one generation.
    pub checksum: u32,
    /// Sectors of an extent, the unit in which space is given out.
    pub extent_size: u64,
    /// Why nothing of it is served, if so.
    pub refused: Option<Reason>,
    /// Its physical volumes.
    pub physical: Vec<MemberPv>,
    /// Its logical volumes, hidden ones included.
    pub logical: Vec<LogicalVolume>,
}

/// A physical volume as its group describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPv {
    /// By which it is found.
    pub uuid: LvmUuid,
    /// The sector on it of the first extent.
    pub start: u64,
    /// How many extents it has.
    pub extents: u64,
    /// Why no volume on it is served, if so.
    pub refused: Option<Reason>,
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalVolume {
    /// Its name, without the group's.
    pub name: String,
    /// Its identifier.
    pub uuid: LvmUuid,
    /// Whether it, or its group, is not to be written.
    pub read_only: bool,
    /// Whether people see it at all; the others are parts of such, and refused as well.
    pub hidden: bool,
    /// Its map, in order and without gaps; empty if it is refused.
    pub segments: Vec<LvSegment>,
    /// Why it is not served, if so.
    pub refused: Option<Reason>,
}

impl LogicalVolume {
    /// Its size in sectors; 0 if it is refused.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.segments.iter().map(|segment| segment.sectors).sum()
    }

    /// Refuses it, unless there is a reason already. Its map goes with that.
    pub(crate) fn refuse(&mut self, reason: Reason) {
        self.refused.get_or_insert(reason);
        self.segments = Vec::new();
    }
}

/// A run of a logical volume's sectors with areas on as many physical volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LvSegment {
    /// How many sectors.
    pub sectors: u64,
    /// With several areas, how many sectors go to one before the next one's turn, and 0 with one
    /// area. Chunk `k` is row `k / areas` of area `k % areas`.
    pub stripe: u64,
    /// Where they are, at least one; each has `sectors / areas` of them.
    pub areas: Vec<LvArea>,
}

/// A run of a physical volume's sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LvArea {
    /// Index of the physical volume in [`Group::physical`].
    pub pv: usize,
    /// Its first sector there.
    pub first: u64,
}
