//! Requests that begin or end inside a block of the disk, where that is shown with smaller sectors.
//!
//! Such a request goes through buffers that hold whole blocks. A read copies out what was asked
//! for. A write reads the blocks at its ends first, then has the guest's data copied over them, and
//! writes what results; until that is done it has a claim on those blocks, and every other write to
//! the same volume claims its own before it goes anywhere ([`crate::claims`]). It waits for that in
//! line, where it holds neither buffers nor other claims. A power cut in the middle of it leaves
//! its blocks old, new or torn, as the disk has it, and no others.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::slice;

use spindle_block::{Command, DiskQueue, Op, Segment, SubmitError, Unit};
use spindle_hw::PAGE_SIZE;
use spindle_xen::grant::{CopyOp, GrantOps};

use super::prepare::Means;
use super::slot::State;
use super::{Session, tag};
use crate::abi::MAX_SEGMENTS;
use crate::claims::{Claims, Span};
use crate::request::{self, NO_SECTORS, Reject, Request};
use crate::room::{NoRoom, filled};

/// What such a ring keeps beside its slots.
#[derive(Debug)]
pub(super) struct Unaligned {
    claims: Arc<Claims>,
    ends: Box<[Ends]>,
    /// The next in line did not get its claim.
    blocked: bool,
}

impl Unaligned {
    pub(super) fn new(claims: Arc<Claims>, requests: usize) -> Result<Self, NoRoom> {
        Ok(Self {
            claims,
            ends: filled(Ends::default(), requests)?,
            blocked: false,
        })
    }

    /// Bytes of that.
    pub(super) const fn footprint(requests: usize) -> usize {
        requests * size_of::<Ends>()
    }
}

/// Both ends of a request.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// Sectors of its first block that are not its own.
    head: u8,
    /// Sectors of its last block that are not.
    tail: u8,
    /// Its blocks are claimed.
    claimed: bool,
    fill: Fill,
}

/// The reading of the blocks at the ends of a chunk that is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fill {
    /// There is none to do.
    #[default]
    None,
    /// To be done, or with the disk.
    Due,
    /// Done. The guest's data is yet to be copied over it.
    Done,
}

impl Session {
    /// Whether the next request in line waits for others' writes to be done.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        self.special && self.unaligned.as_ref().is_some_and(|un| un.blocked)
    }

    /// The request in slot `index` was not fit for the disk as it is. If that is for its ends alone,
    /// and may be: the request for whole blocks, and how many sectors it is for.
    #[cold]
    pub(super) fn enclose(
        &mut self,
        index: u16,
        op: Op,
        reject: Reject,
    ) -> Result<(Request, u32), Reject> {
        let Some(un) = self.unaligned.as_mut().filter(|_| reject == Reject::Range) else {
            return Err(reject);
        };
        let slot = &self.slots[usize::from(index)];
        let (raw, extent) = (slot.raw, self.volume.extent());
        let (mut request, around) = Request::enclosed(op, &raw, slot.body(&self.arena), &extent)?;
        // Its data may be in one block more than in pages; and it is not one page in a buffer.
        let segments = usize::from(request.segments);
        if segments < MAX_SEGMENTS
            && let Some(run) = slot.run
            && let Some(word) = self.arena.parts_mut(run).0.get_mut(segments)
        {
            *word = NO_SECTORS;
            request.segments += 1;
        }
        un.ends[usize::from(index)] = Ends {
            head: around.head,
            tail: around.tail,
            ..Ends::default()
        };
        let own = request.sectors - u32::from(around.head) - u32::from(around.tail);
        Ok((request, own))
    }

    /// The same for an indirect request, from its list: its first block, how many sectors it is for,
    /// and how many its blocks are.
    #[cold]
    pub(super) fn enclose_list(&mut self, index: u16) -> Result<(u64, u32, u32), Reject> {
        let un = self.unaligned.as_mut().ok_or(Reject::Range)?;
        let slot = &self.slots[usize::from(index)];
        let (words, _) = slot.parts(&self.arena);
        let (around, sectors) = request::enclosed(slot.raw.sector, words, &self.volume.extent())?;
        un.ends[usize::from(index)] = Ends {
            head: around.head,
            tail: around.tail,
            ..Ends::default()
        };
        let ends = u32::from(around.head) + u32::from(around.tail);
        Ok((around.block, sectors, sectors + ends))
    }

    /// Claims the blocks of a request in line, if it has to; false if they cannot be had now.
    #[cold]
    pub(super) fn claim(&mut self, index: u16) -> bool {
        let Some(un) = &mut self.unaligned else {
            return true;
        };
        let slot = &self.slots[usize::from(index)];
        let ends = &mut un.ends[usize::from(index)];
        let writes = slot.has_data() && slot.op.writes();
        if slot.state == State::Waiting && writes && !ends.claimed {
            let blocks = slot.blocks(&self.volume);
            ends.claimed = un.claims.claim(&ends.span(slot.block, blocks));
            un.blocked = !ends.claimed;
            return ends.claimed;
        }
        true
    }

    /// A request is over: gives up its claim.
    #[cold]
    pub(super) fn end_unaligned(&mut self, index: u16) {
        let Some(un) = &mut self.unaligned else {
            return;
        };
        let slot = &self.slots[usize::from(index)];
        let ends = core::mem::take(&mut un.ends[usize::from(index)]);
        if ends.claimed {
            let blocks = slot.blocks(&self.volume);
            un.claims.release(&ends.span(slot.block, blocks));
        }
    }

    /// Bytes of a request's first block that are not its own.
    pub(super) fn head(&self, index: u16) -> u32 {
        let head = |un: &Unaligned| u32::from(un.ends[usize::from(index)].head) * 512;
        self.unaligned.as_ref().map_or(0, head)
    }

    /// Whether a request has any end inside a block.
    #[cold]
    pub(super) fn is_unaligned(&self, index: u16) -> bool {
        let un = self.unaligned.as_ref();
        un.map(|un| un.ends[usize::from(index)])
            .is_some_and(|ends| ends.head | ends.tail != 0)
    }

    /// Which of the pieces of the present chunk of a request hold such an end: the first, the last.
    fn ends_of_chunk(&self, index: u16) -> [Option<usize>; 2] {
        let Some(un) = &self.unaligned else {
            return [None; 2];
        };
        let ends = &un.ends[usize::from(index)];
        let slot = &self.slots[usize::from(index)];
        let progress = &slot.progress;
        let last = usize::from(slot.pieces).saturating_sub(1);
        let head = ends.head > 0 && progress.done() == 0;
        let end = progress.done() + progress.chunk(self.volume.block_shift);
        let tail = ends.tail > 0 && end == slot.sectors * 512;
        [
            head.then_some(0),
            (tail && !(head && last == 0)).then_some(last),
        ]
    }

    fn set_fill(&mut self, index: u16, fill: Fill) {
        if let Some(un) = &mut self.unaligned {
            un.ends[usize::from(index)].fill = fill;
        }
    }

    fn fill(&self, index: u16) -> Fill {
        let un = self.unaligned.as_ref();
        un.map_or(Fill::None, |un| un.ends[usize::from(index)].fill)
    }

    /// A write has buffers for a chunk: whether blocks are to be read into them first.
    #[cold]
    pub(super) fn begin_fill(&mut self, index: u16) -> bool {
        let due = self.ends_of_chunk(index) != [None; 2];
        self.set_fill(index, if due { Fill::Due } else { Fill::None });
        due
    }

    /// Whether blocks are to be read into the buffers of a request before it is written.
    #[cold]
    pub(super) fn is_fill_due(&self, index: u16) -> bool {
        self.fill(index) == Fill::Due
    }

    /// Whether they have been, and the guest's data is to be copied over them.
    #[cold]
    pub(super) fn is_filled(&self, index: u16) -> bool {
        self.fill(index) == Fill::Done
    }

    /// The next block at an end of a chunk that is to be read, of which as many have been as the disk was
    /// given, and where to.
    pub(super) fn next_fill(&self, index: u16) -> Option<(u64, Segment)> {
        let slot = &self.slots[usize::from(index)];
        let progress = &slot.progress;
        let mut ends = self.ends_of_chunk(index).into_iter().flatten();
        let at = ends.nth(progress.sent as usize)?;
        let piece = slot.pieces(&self.arena).get(at)?;
        // A buffer is a page, and so is a block.
        let block = slot.block + u64::from(progress.done()) / PAGE_SIZE as u64 + at as u64;
        Some((block, *piece))
    }

    /// What reads such a block of a part of a disk.
    pub(super) fn fill_command<'a>(
        &self,
        unit: Unit,
        block: u64,
        piece: &'a Segment,
    ) -> Command<'a> {
        Command {
            op: Op::Read,
            unit,
            block_shift: self.volume.block_shift,
            block,
            blocks: 0,
            segments: slice::from_ref(piece),
        }
    }

    /// Has the blocks at the ends of a chunk read, for the request at the head of the line, which
    /// leaves the line then.
    #[cold]
    pub(super) fn submit_fill<Q: DiskQueue>(
        &mut self,
        ring: u16,
        index: u16,
        queue: &mut Q,
    ) -> Result<(), SubmitError> {
        while let Some((block, piece)) = self.next_fill(index) {
            let command = self.fill_command(self.volume.unit, block, &piece);
            queue.submit(&command, tag(ring, index))?;
            self.slots[usize::from(index)].progress.give(1, 1);
            self.ledger.give(1, 1);
        }
        self.slots[usize::from(index)].state = State::InFlight;
        self.leave_line();
        Ok(())
    }

    /// The disk has answered all that it had of a request. If that were the blocks at its ends, the
    /// request goes on at the front of the line.
    #[cold]
    pub(super) fn end_fill(&mut self, index: u16) -> bool {
        if !self.is_fill_due(index) {
            return false;
        }
        self.set_fill(index, Fill::Done);
        let slot = &mut self.slots[usize::from(index)];
        slot.progress.restart();
        slot.state = State::Waiting;
        slot.must_copy = true;
        self.line.push_front(index);
        self.ready = 0;
        true
    }

    /// Adds the copies of a write's data to the batch; false if they do not fit.
    #[cold]
    pub(super) fn copy_in<G: GrantOps>(
        &mut self,
        ring: u16,
        index: u16,
        means: &mut Means<'_, G>,
    ) -> bool {
        let segments = self.slots[usize::from(index)].segments;
        if means.copies.room() < 2 * usize::from(segments) {
            return false;
        }
        self.set_fill(index, Fill::None);
        self.push_copies(ring, index, means.copies, CopyOp::from_grant);
        self.slots[usize::from(index)].state = State::Ready;
        true
    }
}

impl Ends {
    /// What a request of so many blocks claims: those of which a part is others' alone.
    fn span(&self, block: u64, blocks: u64) -> Span {
        Span {
            block,
            blocks,
            first_alone: self.head > 0,
            last_alone: self.tail > 0,
        }
    }
}
