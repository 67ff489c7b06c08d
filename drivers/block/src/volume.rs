//! A volume: the run of a disk's blocks that one attachment serves.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spindle_hw::PAGE_SIZE;

use crate::{Map, SECTOR_SIZE};

/// A part of a controller with its own block addresses: an NVMe namespace, a RAM disk's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit(pub u32);

impl Unit {
    /// No part of a controller that has several: commands for it fail. The only part of one that has
    /// no others is named so as well.
    pub const NONE: Self = Self(0);
}

/// How a volume takes discards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Bytes that the disk frees at once; a multiple of the block size.
    pub granularity: u32,
    /// Bytes from the start of the volume to the first multiple of the granularity.
    pub alignment: u32,
    /// Whether [`crate::Op::SecureDiscard`] is known.
    pub secure: bool,
}

/// What a guest may do with a volume (`mode` in xenstore), and beside whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `r`: read it; no other guest may write.
    Read,
    /// `w`: write it; no other guest may have it.
    Write,
    /// `w!`, or `w` and `target=shared:...`: write it, whoever else has it; the guests have agreed on
    /// how.
    SharedWrite,
}

/// What can be attached to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The name used in `target=`, without `/dev/`: `nvme0n1`, `ram0`.
    pub name: String,
    /// Other names for it, which stay the same wherever the disk is plugged in: by serial number,
    /// by EUI-64 or NGUID, by partition UUID or label.
    pub aliases: Vec<String>,
    /// Index of the disk (controller) in the kernel's table. Of a volume with a map: of one of its
    /// disks, as are the unit and the first block.
    pub disk: usize,
    /// Which part of the disk.
    pub unit: Unit,
    /// First block on the unit, in the disk's blocks.
    pub start: u64,
    /// Length in 512-byte sectors.
    pub sectors: u64,
    /// log2 of the block size in bytes: 9 or 12.
    pub block_shift: u8,
    /// log2 of the size in bytes below which a write is a read-modify-write on the medium.
    pub physical_block_shift: u8,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether finished writes may sit in a cache that a power cut empties.
    pub write_cache: bool,
    /// How it takes discards, if at all.
    pub discard: Option<Discard>,
    /// Model, serial number and whatever tells a person which disk this is.
    pub description: String,
    /// Where its blocks are, if they are more than one run. Its blocks are then counted from its own
    /// start wherever they are not asked of the map.
    pub map: Option<Arc<Map>>,
}

impl Volume {
    /// Where a transfer goes: the first block on the unit, if `count` sectors from `sector` on
    /// are inside the volume and on block boundaries. `count` must not be 0.
    #[must_use]
    pub fn locate(&self, sector: u64, count: u64) -> Option<u64> {
        self.extent().locate(sector, count)
    }

    /// What [`Volume::locate`] reckons with, for many transfers at once.
    #[inline]
    #[must_use]
    pub fn extent(&self) -> Extent {
        let start = if self.map.is_some() { 0 } else { self.start };
        Extent::new(start, self.sectors, self.block_shift, self.read_only)
    }

    /// The disk's block size in sectors.
    #[inline]
    #[must_use]
    pub fn sectors_per_block(&self) -> u64 {
        (1 << self.block_shift) / SECTOR_SIZE
    }
}

/// Whole blocks around a run of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enclosing {
    /// The first on the unit, in the disk's blocks.
    pub block: u64,
    /// How many, at least 1.
    pub blocks: u64,
    /// Sectors of the first one before the run.
    pub head: u8,
    /// Sectors of the last one behind the run.
    pub tail: u8,
}

/// A volume's place and size at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    start: u64,
    sectors: u64,
    /// The bits of a number of sectors that are no whole block.
    odd: u64,
    /// log2 of the sectors in a block.
    shift: u8,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whole pages that are read, and those that are written, begin before these sectors: 0 if none may.
    page_ends: [u64; 2],
}

/// Sectors of a page.
const PAGE_SECTORS: u64 = PAGE_SIZE as u64 / SECTOR_SIZE;

impl Extent {
    fn new(start: u64, sectors: u64, block_shift: u8, read_only: bool) -> Self {
        let shift = block_shift - SECTOR_SIZE.ilog2() as u8;
        let odd = (1 << shift) - 1;
        let end = match odd < PAGE_SECTORS {
            true => sectors.saturating_sub(PAGE_SECTORS - 1),
            false => 0,
        };
        Self {
            start,
            sectors,
            odd,
            shift,
            read_only,
            page_ends: [end, if read_only { 0 } else { end }],
        }
    }

    /// The first block of a whole page from `sector` on, to be read or, as `write` says, written; `None`
    /// if that is not allowed, is not inside the volume or does not begin with a block.
    #[inline(always)]
    #[must_use]
    pub fn locate_page(&self, sector: u64, write: bool) -> Option<u64> {
        let end = self.page_ends[usize::from(write)];
        if sector >= end || sector & self.odd != 0 {
            return None;
        }
        Some(self.start + (sector >> self.shift))
    }

    /// As [`Volume::locate`].
    #[inline]
    #[must_use]
    pub fn locate(&self, sector: u64, count: u64) -> Option<u64> {
        let end = sector.checked_add(count)?;
        if count == 0 || end > self.sectors || (sector | count) & self.odd != 0 {
            return None;
        }
        Some(self.start + (sector >> self.shift))
    }

    /// The blocks that hold `count` sectors from `sector` on, wherever in a block these begin and
    /// end, if all of them are inside the volume. `count` must not be 0.
    #[must_use]
    pub fn enclose(&self, sector: u64, count: u64) -> Option<Enclosing> {
        let end = sector.checked_add(count)?;
        let last = end.checked_add(self.odd)? & !self.odd;
        if count == 0 || last > self.sectors {
            return None;
        }
        let first = sector & !self.odd;
        Some(Enclosing {
            block: self.start + (first >> self.shift),
            blocks: (last - first) >> self.shift,
            head: (sector - first) as u8,
            tail: (last - end) as u8,
        })
    }

    /// The whole blocks among `count` sectors from `sector` on, which must be inside the volume:
    /// the first on the unit, and how many, which may be none. `count` must not be 0.
    #[must_use]
    pub fn within(&self, sector: u64, count: u64) -> Option<(u64, u64)> {
        let end = sector.checked_add(count)?;
        if count == 0 || end > self.sectors {
            return None;
        }
        let first = (sector + self.odd) >> self.shift;
        let blocks = (end >> self.shift).saturating_sub(first);
        Some((self.start + first, blocks))
    }

    /// Whether so many sectors are whole blocks; of several numbers or-ed together, whether all
    /// are.
    #[inline]
    #[must_use]
    pub fn are_blocks(&self, sectors: u64) -> bool {
        sectors & self.odd == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(start: u64, sectors: u64, block_shift: u8) -> Extent {
        Extent::new(start, sectors, block_shift, false)
    }

    proptest! {
        /// As any number of sectors is located, and written only where that is allowed.
        #[test]
        fn a_page_is_located_as_its_sectors_are(
            shift in prop_oneof![Just(9u8), Just(12)],
            sectors in 0u64..40,
            sector in prop_oneof![0u64..50, any::<u64>()],
            read_only: bool,
        ) {
            let extent = Extent::new(7, sectors, shift, read_only);
            let located = extent.locate(sector, PAGE_SECTORS);
            prop_assert_eq!(extent.locate_page(sector, false), located);
            prop_assert_eq!(extent.locate_page(sector, true), located.filter(|_| !read_only));
        }
    }

    proptest! {
        /// Both against what each sector's block is, one by one.
        #[test]
        fn blocks_around_and_within_a_run_are_those_of_its_sectors(
            shift in prop_oneof![Just(9u8), Just(12)],
            start in 0u64..100,
            sector in prop_oneof![0u64..100, any::<u64>()],
            count in prop_oneof![0u64..40, any::<u64>()],
        ) {
            let extent = extent(start, 96, shift);
            let per_block = 1 << (shift - 9);
            let inside = count > 0 && sector.checked_add(count).is_some_and(|end| end <= 96);
            let around = extent.enclose(sector, count);
            let within = extent.within(sector, count);
            prop_assert_eq!(around.is_some(), inside);
            prop_assert_eq!(within.is_some(), inside);
            if let (Some(around), Some((first, blocks))) = (around, within) {
                let run = sector..sector + count;
                let touched: Vec<u64> = (0..96 / per_block)
                    .filter(|block| run.clone().any(|sector| sector / per_block == *block))
                    .collect();
                let whole: Vec<u64> = touched
                    .iter()
                    .copied()
                    .filter(|block| (0..per_block).all(|at| run.contains(&(block * per_block + at))))
                    .collect();
                prop_assert_eq!(around.block, start + touched[0]);
                prop_assert_eq!(around.blocks, touched.len() as u64);
                prop_assert_eq!(u64::from(around.head), sector - touched[0] * per_block);
                let end = (touched[touched.len() - 1] + 1) * per_block;
                prop_assert_eq!(u64::from(around.tail), end - run.end);
                prop_assert_eq!(blocks, whole.len() as u64);
                if let Some(block) = whole.first() {
                    prop_assert_eq!(first, start + block);
                }
                let aligned = extent.locate(sector, count);
                prop_assert_eq!(aligned.is_some(), around.head == 0 && around.tail == 0);
            }
        }
    }

    #[test]
    fn a_last_block_that_is_not_all_there_is_not_given() {
        let extent = extent(0, 12, 12);
        assert!(extent.enclose(0, 8).is_some());
        assert_eq!(extent.enclose(8, 4), None);
    }
}
