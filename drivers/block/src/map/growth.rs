//! Whether a volume that is described anew has every block where it was, so that it may take the place of
//! the former beneath those who have that open.

use alloc::vec::Vec;

use crate::{Unit, Volume};

/// Why a new description does not do for those who have the volume open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGrown {
    /// It has fewer blocks.
    #[error("it would be smaller")]
    Smaller,
    /// A block is not where it was, or blocks have another size.
    #[error("it would lie elsewhere")]
    Moved,
    /// Its guest flushes nothing, as there was nothing to flush, and now there would be.
    #[error("it would be on a disk with a write cache, and had none")]
    Cached,
}

/// A row of a map, or all of a volume that has none.
#[derive(PartialEq, Eq)]
struct PlacedRow {
    first: u64,
    /// Blocks in a chunk; 0 with one leg.
    chunk: u64,
    legs: Vec<(usize, Unit, u64)>,
}

impl Volume {
    /// Whether `new` has more blocks than this one; where it has no more, it has the same.
    ///
    /// # Errors
    /// If `new` is no continuation of this one.
    pub fn growth(&self, new: &Self) -> Result<bool, NotGrown> {
        if new.sectors < self.sectors {
            return Err(NotGrown::Smaller);
        }
        if new.write_cache && !self.write_cache {
            return Err(NotGrown::Cached);
        }
        let mut is_kept = new.block_shift == self.block_shift;
        for index in 0.. {
            let Some((row, end)) = self.placed_row(index) else {
                break;
            };
            let is_last = self.placed_row(index + 1).is_none();
            let follows = |(other, other_end)| {
                row == other && (end == other_end || is_last && end < other_end)
            };
            is_kept &= new.placed_row(index).is_some_and(follows);
        }
        is_kept
            .then_some(new.sectors > self.sectors)
            .ok_or(NotGrown::Moved)
    }

    /// Where its first `sectors` are, in words that are the same of any description of it that has these
    /// there. `plugged` gives where a disk is plugged in ([`BlockController::place`]).
    ///
    /// [`BlockController::place`]: crate::BlockController::place
    #[must_use]
    pub fn placement(&self, sectors: u64, plugged: impl Fn(usize) -> u32) -> Vec<u64> {
        let blocks = sectors.div_ceil(self.sectors_per_block()).max(1);
        let rows = (0..).map_while(|index| self.placed_row(index));
        let rows = rows.take_while(|(row, _)| row.first < blocks);
        let words = rows.flat_map(|(row, _)| {
            let legs = row.legs.into_iter();
            let legs = legs.flat_map(|(disk, unit, block)| {
                [u64::from(plugged(disk)) << 32 | u64::from(unit.0), block]
            });
            [row.first, row.chunk]
                .into_iter()
                .chain(legs)
                .collect::<Vec<_>>()
        });
        words.chain([self.block_shift.into()]).collect()
    }

    /// A row, and the block after its last.
    fn placed_row(&self, index: usize) -> Option<(PlacedRow, u64)> {
        let Some(map) = &self.map else {
            let row = PlacedRow {
                first: 0,
                chunk: 0,
                legs: Vec::from([(self.disk, self.unit, self.start)]),
            };
            return (index == 0).then_some((row, self.sectors / self.sectors_per_block()));
        };
        let row = map.rows.get(index)?;
        let legs = map.legs.iter().skip(row.leg as usize);
        let legs = legs.take(row.legs as usize).filter_map(|leg| {
            let disk = map.disks.get(leg.part as usize)?;
            Some((disk.disk, disk.unit, leg.block))
        });
        let placed = PlacedRow {
            first: row.first,
            chunk: if row.legs > 1 { row.chunk } else { 0 },
            legs: legs.collect(),
        };
        Some((placed, row.end))
    }
}
