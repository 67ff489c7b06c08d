//! One command to a disk: what, where, and which memory.

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

/// A piece of one page of memory that the disk can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Bus address of the first byte.
    pub bus: u64,
    /// Bytes, at least 1; the piece does not cross a 4 KiB boundary.
    pub len: u32,
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
        let bytes: u64 = self.segments.iter().map(|s| u64::from(s.len)).sum();
        self.blocks + (bytes >> (self.block_shift & 31))
    }
}
