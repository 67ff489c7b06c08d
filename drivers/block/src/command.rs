//! One command to a disk: what, where, and which memory.

use spindle_hw::PAGE_SIZE;

use crate::Unit;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Disk to memory.
    Read,
    /// Memory to disk.
    Write,
    /// As [`Op::Write`], and on stable media when it is answered (forced unit access). Only for
    /// volumes with a write cache.
    WriteThrough,
    /// Everything answered before this command is on stable media when this one is answered.
    Flush,
    /// The blocks' contents are no longer needed; reading them gives anything.
    Discard,
    /// As [`Op::Discard`], and the old contents cannot be had back.
    SecureDiscard,
}

impl Op {
    /// Whether the disk's contents change.
    #[must_use]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }
}

/// A piece of one page of memory that the disk can reach, in one word, so that those of a large request
/// take half the memory and half the stores: the address, and in the bits below it the length less one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment(u64);

/// Bits of the length: it is at most a page. An address has 52 bits on x86.
const LENGTH_BITS: u32 = PAGE_SIZE.ilog2();
const LENGTH: u64 = PAGE_SIZE as u64 - 1;

/// Bits of a whole page's offset and length.
const IN_PAGE: u64 = LENGTH << LENGTH_BITS | LENGTH;

impl Segment {
    /// The `len` bytes from bus address `bus` on, 1 to [`PAGE_SIZE`]; the piece does not cross a 4 KiB
    /// boundary.
    #[inline(always)]
    #[must_use]
    pub const fn new(bus: u64, len: u32) -> Self {
        debug_assert!(len > 0 && len <= PAGE_SIZE as u32);
        Self(bus << LENGTH_BITS | len.wrapping_sub(1) as u64 & LENGTH)
    }

    /// The whole page at bus address `bus`.
    #[inline(always)]
    #[must_use]
    pub const fn page(bus: u64) -> Self {
        Self(bus << LENGTH_BITS | LENGTH)
    }

    /// The same so many pages on.
    #[inline(always)]
    #[must_use]
    pub const fn pages_on(self, pages: u32) -> Self {
        Self(self.0.wrapping_add((pages as u64) << (2 * LENGTH_BITS)))
    }

    /// Bus address of the first byte.
    #[inline(always)]
    #[must_use]
    pub const fn bus(self) -> u64 {
        self.0 >> LENGTH_BITS
    }

    /// Bytes.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(self) -> u32 {
        (self.0 & LENGTH) as u32 + 1
    }

    /// Whether it is a whole page.
    #[inline(always)]
    #[must_use]
    pub const fn is_page(self) -> bool {
        self.0 & IN_PAGE == LENGTH
    }
}

/// Whether each of several pieces is a whole page, at the price of two instructions for each.
#[derive(Clone, Copy, Debug)]
pub struct AllPages {
    /// Bits that any has, and those that all have.
    any: u64,
    all: u64,
}

impl Default for AllPages {
    fn default() -> Self {
        Self {
            any: 0,
            all: u64::MAX,
        }
    }
}

impl AllPages {
    /// One more.
    #[inline(always)]
    pub const fn add(&mut self, piece: Segment) {
        self.any |= piece.0;
        self.all &= piece.0;
    }

    /// Whether all so far are.
    #[inline(always)]
    #[must_use]
    pub const fn hold(self) -> bool {
        self.any & IN_PAGE == LENGTH && self.all & LENGTH == LENGTH
    }
}

/// The submitter's name for a command, given back when it finishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag(pub u32);

/// A command for [`crate::DiskQueue::submit`].
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// What to do.
    pub op: Op,
    /// Which part of the controller (an NVMe namespace).
    pub unit: Unit,
    /// log2 of the disk's block size in bytes: 9 or 12.
    pub block_shift: u8,
    /// First block, in the disk's own blocks, counted from the start of the unit.
    pub block: u64,
    /// How many blocks, for a discard; 0 for everything else, where the segments tell.
    pub blocks: u64,
    /// The memory, in order; its total is a whole number of blocks. Empty for a flush or discard.
    pub segments: &'a [Segment],
}

impl Command<'_> {
    /// How many blocks it is for; 0 for a flush.
    #[must_use]
    pub fn total_blocks(&self) -> u64 {
        let bytes: u64 = self.segments.iter().map(|s| u64::from(s.bytes())).sum();
        self.blocks + (bytes >> (self.block_shift & 31))
    }
}
