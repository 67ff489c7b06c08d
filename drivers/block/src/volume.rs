//! A volume: the run of a disk's blocks that one attachment serves.

use alloc::string::String;
use alloc::vec::Vec;

use crate::SECTOR_SIZE;

/// A part of a controller with its own block addresses: an NVMe namespace, a RAM disk's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit(pub u32);

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

/// What can be attached to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The name used in `target=`, without `/dev/`: `nvme0n1`, `ram0`.
    pub name: String,
    /// Other names for it, which stay the same wherever the disk is plugged in: by serial number,
    /// by EUI-64 or NGUID, by partition UUID or label.
    pub aliases: Vec<String>,
    /// Index of the disk (controller) in the kernel's table.
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
        Extent {
            start: self.start,
            sectors: self.sectors,
            odd: self.sectors_per_block() - 1,
            shift: self.block_shift - 9,
            read_only: self.read_only,
        }
    }

    /// The disk's block size in sectors.
    #[inline]
    #[must_use]
    pub fn sectors_per_block(&self) -> u64 {
        (1 << self.block_shift) / SECTOR_SIZE
    }
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
}

impl Extent {
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

    /// Whether so many sectors are whole blocks; of several numbers or-ed together, whether all
    /// are.
    #[inline]
    #[must_use]
    pub fn are_blocks(&self, sectors: u64) -> bool {
        sectors & self.odd == 0
    }
}
