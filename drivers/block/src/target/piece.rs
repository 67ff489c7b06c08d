//! Pieces of media: which blocks are whose, whatever the disks and volumes that lead to them.

use alloc::vec::Vec;

use crate::{SECTOR_SIZE, Unit, Volume};

/// A run of sectors of a medium, 512 bytes each. The number of a medium is one that no other disk has
/// had, or that of another disk that reaches the same namespace through a controller of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) medium: u64,
    start: u64,
    end: u64,
}

impl Piece {
    /// All of a medium, whatever its size is.
    pub(super) const fn whole(medium: u64) -> Self {
        let (start, end) = (0, u64::MAX);
        Self { medium, start, end }
    }

    /// That of a volume which has no map.
    pub(super) fn of(volume: &Volume, medium: u64) -> Self {
        let start = volume.start.saturating_mul(volume.sectors_per_block());
        let end = start.saturating_add(volume.sectors);
        Self { medium, start, end }
    }
}

/// Whether two volumes with these pieces have a sector in common.
pub(super) fn meet(one: &[Piece], other: &[Piece]) -> bool {
    let meets = |a: &Piece, b: &Piece| a.medium == b.medium && a.start < b.end && b.start < a.end;
    one.iter().any(|a| other.iter().any(|b| meets(a, b)))
}

/// The runs of a volume's blocks: disk, unit, first block, and sectors of 512 bytes.
pub(super) fn runs(volume: &Volume) -> Vec<(usize, Unit, u64, u64)> {
    let shift = volume.block_shift - SECTOR_SIZE.trailing_zeros() as u8;
    match &volume.map {
        None => Vec::from([(volume.disk, volume.unit, volume.start, volume.sectors)]),
        Some(map) => {
            let runs = map.runs();
            runs.map(|(disk, first, blocks)| (disk.disk, disk.unit, first, blocks << shift))
                .collect()
        }
    }
}
