//! A slot: one request between ring and response.

use spindle_block::{Command, Op, Segment, Volume};

use crate::abi::{MAX_SEGMENTS, Operation, RawSegment};
use crate::request::Request;
use crate::ring::Body;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// In line, without memory that the disk can reach; or a barrier, before it is in line.
    Waiting,
    /// In line, to be submitted.
    Ready,
    /// With the disk.
    InFlight,
    /// With the disk, straight from the ring: its only piece of memory is in the cache, and none
    /// of what only the line needs is set.
    OnePage,
    /// Read into buffers, to be copied to the frontend.
    Finished,
}

/// How a request's data is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    None,
    /// The disk's DMA goes to pinned pages of the cache.
    Mapped,
    /// The disk's DMA goes to pages of the buffer pool.
    Copied,
}

/// A request between ring and response. All of it lies together, for the cache's sake.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// When the visit that took it began.
    pub(super) taken_ns: u64,
    pub(super) id: u64,
    pub(super) block: u64,
    pub(super) sectors: u32,
    /// Segments in the body.
    pub(super) segments: u8,
    /// How many of `memory` count.
    pub(super) pieces: u8,
    pub(super) operation: Operation,
    pub(super) op: Op,
    pub(super) state: State,
    pub(super) path: Path,
    /// Mapping was tried, or would not do.
    pub(super) must_copy: bool,
    /// A grant copy failed.
    pub(super) failed: bool,
    /// The private copy of its segments; of a discard, how many blocks.
    pub(super) body: Body,
    /// Its memory as the disk is told of it.
    pub(super) memory: [Segment; MAX_SEGMENTS],
}

impl Slot {
    #[inline]
    pub(super) fn words(&self) -> &[u64] {
        &self.body[..MAX_SEGMENTS.min(self.segments.into())]
    }

    #[inline]
    pub(super) fn pieces(&self) -> &[Segment] {
        &self.memory[..MAX_SEGMENTS.min(self.pieces.into())]
    }

    /// Frees the slot; says what its answer needs.
    #[inline(always)]
    pub(super) fn free(&mut self) -> Freed {
        self.state = State::Free;
        Freed {
            taken_ns: self.taken_ns,
            id: self.id,
            operation: self.operation,
        }
    }

    /// Fills in what was found fit for the disk, which then waits in line.
    #[inline]
    pub(super) fn fill(&mut self, request: &Request) {
        self.block = request.block;
        self.sectors = request.sectors;
        self.segments = request.segments;
        self.op = request.op;
        self.state = State::Waiting;
        self.must_copy = !request.whole_blocks;
        self.failed = false;
        if self.discards() {
            self.body[0] = request.blocks;
        }
    }

    /// Whether it moves data to or from the guest's memory.
    #[inline]
    pub(super) fn has_data(&self) -> bool {
        matches!(self.op, Op::Read | Op::Write | Op::WriteThrough)
    }

    #[inline]
    fn discards(&self) -> bool {
        matches!(self.op, Op::Discard | Op::SecureDiscard)
    }

    /// What the disk is asked.
    #[inline]
    pub(super) fn command(&self, volume: &Volume) -> Command<'_> {
        let blocks = if self.discards() { self.body[0] } else { 0 };
        Command {
            op: self.op,
            unit: volume.unit,
            block_shift: volume.block_shift,
            block: self.block,
            blocks,
            segments: self.pieces(),
        }
    }
}

/// What is left of a request to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Freed {
    pub(super) taken_ns: u64,
    pub(super) id: u64,
    pub(super) operation: Operation,
}

pub(super) const FREE_SLOT: Slot = Slot {
    taken_ns: 0,
    id: 0,
    block: 0,
    sectors: 0,
    segments: 0,
    pieces: 0,
    operation: Operation(0),
    op: Op::Flush,
    state: State::Free,
    path: Path::None,
    must_copy: false,
    failed: false,
    body: [0; MAX_SEGMENTS],
    memory: [Segment { bus: 0, len: 0 }; MAX_SEGMENTS],
};

/// Offset in the page and length of a segment that passed validation, in bytes.
#[inline]
pub(super) fn extent(segment: RawSegment) -> (u32, u32) {
    let first = u32::from(segment.first_sect);
    let last = u32::from(segment.last_sect);
    (first * 512, (last + 1).wrapping_sub(first) * 512)
}
