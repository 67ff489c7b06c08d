//! A slot: one request between ring and response.

use core::mem::offset_of;
use core::slice;

use spindle_block::{Command, Op, Segment, Volume};
use spindle_xen::DomId;
use spindle_xen::grant::{CopyEnd, GrantRef};

use super::arena::{Arena, Run};
use super::progress::Progress;
use crate::abi::{Operation, RawSegment, SECTORS_PER_PAGE};
use crate::losses::Known;
use crate::request::{List, Request, extent};
use crate::ring::RawRequest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// In line, without memory that the disk can reach; or a barrier, before it is in line.
    Waiting,
    /// In line, an indirect request whose list of segments has not been read.
    Listed,
    /// In line, its list in the copy batch of this visit.
    Fetching,
    /// In line, to be submitted; parts of it may be with the disk already.
    Ready,
    /// A flush or discard that waits, out of line, for another of its ring.
    Aside,
    /// With the disk, all of it or of what it has memory for.
    InFlight,
    /// With the disk, straight from the ring: its only piece of memory is in the cache, and none
    /// of what only the line needs is set.
    OnePage,
    /// With the disk, whole: its memory, of more pages than one, is in the cache, and nothing depends on
    /// how it ends but its answer.
    Pages,
    /// With the disk, from the line: all of it is one page in a buffer, and it is no barrier.
    OneBuffer,
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

/// A request between ring and response. In the order of the fields, and on cache lines of its own:
/// most requests, of one page each, that find it in the cache are all in the first line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    /// When the visit that took it began.
    pub(super) taken_ns: u64,
    /// What precedes the body.
    pub(super) raw: RawRequest,
    pub(super) sectors: u32,
    /// How many segments it has.
    pub(super) segments: u16,
    /// How many pieces of memory count: of a request that waits, pages that are pinned already.
    pub(super) pieces: u16,
    /// Where its segments are, and their memory, if there are more than one.
    pub(super) run: Option<Run>,
    pub(super) op: Op,
    pub(super) state: State,
    pub(super) path: Path,
    /// Mapping was tried, or would not do.
    pub(super) must_copy: bool,
    /// A grant copy failed.
    pub(super) failed: bool,
    /// It was given to the disk in a later visit than the one that took it.
    pub(super) waited: bool,
    /// Its memory as the disk is given it, if it has no run; or the buffer for its list.
    pub(super) memory: Segment,
    /// The first word of the private copy of what follows: its only segment, or where the list of them is.
    pub(super) word: u64,
    /// Where on the unit it begins, in the disk's blocks.
    pub(super) block: u64,
    /// What of its way most requests have no need of.
    pub(super) progress: Progress,
    /// What the guest knew of losses when it was taken, if it is a flush or barrier.
    pub(super) known: Known,
}

/// Where most requests have all that they need.
const LINE: usize = 64;
const _: () = assert!(offset_of!(Slot, memory) + size_of::<Segment>() <= LINE);
const _: () = assert!(size_of::<Slot>() == 2 * LINE);

impl Slot {
    /// Its segments, and its memory as far as that counts.
    #[inline]
    pub(super) fn parts<'a>(&'a self, arena: &'a Arena) -> (&'a [u64], &'a [Segment]) {
        let (words, memory) = match self.run {
            None => (slice::from_ref(&self.word), slice::from_ref(&self.memory)),
            Some(run) => arena.parts(run),
        };
        let segments = words.len().min(self.segments.into());
        let pieces = memory.len().min(self.pieces.into());
        (&words[..segments], &memory[..pieces])
    }

    /// Its memory as far as that counts.
    #[inline]
    pub(super) fn pieces<'a>(&'a self, arena: &'a Arena) -> &'a [Segment] {
        self.parts(arena).1
    }

    /// Its segments, and room for a piece of memory for each.
    #[inline]
    pub(super) fn room<'a>(&'a mut self, arena: &'a mut Arena) -> (&'a [u64], &'a mut [Segment]) {
        let (words, memory) = match self.run {
            None => (
                slice::from_ref(&self.word),
                slice::from_mut(&mut self.memory),
            ),
            Some(run) => {
                let (words, memory) = arena.parts_mut(run);
                (&*words, memory)
            }
        };
        let segments = words.len().min(self.segments.into());
        (&words[..segments], &mut memory[..segments])
    }

    /// The private copy of what follows `raw`, as far as it was made, before it is known how many segments
    /// count.
    #[inline]
    pub(super) fn body<'a>(&'a self, arena: &'a Arena) -> &'a [u64] {
        match self.run {
            None => slice::from_ref(&self.word),
            Some(run) => arena.parts(run).0,
        }
    }

    /// What of its memory is in the cache, for the disk to reach.
    pub(super) fn mapped<'a>(&'a self, arena: &'a Arena) -> &'a [Segment] {
        match self.state {
            State::Free => &[],
            State::OnePage => slice::from_ref(&self.memory),
            _ if self.path == Path::Mapped => self.pieces(arena),
            _ => &[],
        }
    }

    /// Whether all its segments, which are good, are whole pages.
    #[inline]
    pub(super) fn is_whole_pages(&self) -> bool {
        self.sectors == u32::from(self.segments) * u32::from(SECTORS_PER_PAGE)
    }

    /// The grant that lists the segments of an indirect request.
    pub(super) fn list(&self) -> u32 {
        // After the handle and two bytes of padding.
        (self.word >> 32) as u32
    }

    /// Frees the slot; says what its answer needs.
    #[inline(always)]
    pub(super) fn free(&mut self) -> Freed {
        self.state = State::Free;
        Freed {
            taken_ns: self.taken_ns,
            id: self.raw.id,
            operation: self.raw.operation(),
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
    }

    /// Fills in what was found of an indirect request, whose list is to be read next.
    pub(super) fn fill_list(&mut self, list: &List) {
        self.segments = list.segments;
        self.op = list.op;
        self.state = State::Listed;
        self.must_copy = false;
        self.failed = false;
    }

    /// Whether it moves data to or from the guest's memory.
    #[inline]
    pub(super) fn has_data(&self) -> bool {
        matches!(self.op, Op::Read | Op::Write | Op::WriteThrough)
    }

    /// Whether it is a barrier: its frontend does without them if it hears that there are none.
    pub(super) fn is_barrier(&self) -> bool {
        self.raw.operation() == Operation::WRITE_BARRIER
    }

    /// Whether it has one segment, and thus never needs more than one buffer.
    #[inline]
    pub(super) fn is_one_page(&self) -> bool {
        self.segments == 1 && self.run.is_none()
    }

    /// The two ends of the copy of the only segment of such a request, which has a buffer.
    #[inline]
    pub(super) fn page_copy(&self, guest: DomId) -> (CopyEnd, u64, u16) {
        let segment = RawSegment::from_word(self.word);
        let (offset, len) = extent(segment);
        let granted = CopyEnd::granted(guest, GrantRef(segment.gref), offset as u16);
        (granted, self.memory.bus(), len as u16)
    }

    #[inline]
    fn discards(&self) -> bool {
        matches!(self.op, Op::Discard | Op::SecureDiscard)
    }

    /// Blocks that it moves in all.
    pub(super) fn blocks(&self, volume: &Volume) -> u64 {
        u64::from((self.sectors * 512) >> (volume.block_shift & 31))
    }

    /// What the disk is asked, once it has come so far.
    #[inline]
    pub(super) fn command<'a>(&'a self, volume: &Volume, arena: &'a Arena) -> Command<'a> {
        let progress = &self.progress;
        let blocks = if self.discards() { progress.blocks } else { 0 };
        Command {
            op: self.op,
            unit: volume.unit,
            block_shift: volume.block_shift,
            block: self.block + u64::from(progress.done() >> (volume.block_shift & 31)),
            blocks,
            segments: self.pieces(arena),
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
    raw: RawRequest::new(0, 0, 0),
    sectors: 0,
    segments: 0,
    pieces: 0,
    run: None,
    op: Op::Flush,
    state: State::Free,
    path: Path::None,
    must_copy: false,
    failed: false,
    waited: false,
    memory: Segment::page(0),
    word: 0,
    block: 0,
    progress: Progress::NONE,
    known: Known::NOTHING,
};
