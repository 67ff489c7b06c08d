//! From the disk's word back to the ring: completions, copies of what was read, responses.

use spindle_block::{IoError, IoResult, Op};
use spindle_status::trace::kind;
use spindle_xen::grant::CopyOp;

use super::arena::Arena;
use super::slot::{Freed, Path, Slot, State};
use super::{LATENCY_SHIFT, Session, tag};
use crate::abi::{Operation, RawSegment, RspStatus};
use crate::batch::CopyBatch;
use crate::cache::GrantCache;
use crate::pool::BufferPool;
use crate::request::extent;
use crate::ring_core::Shared;

impl Session {
    /// The disk has done what a request asked for, unless it makes that up.
    #[inline(always)]
    pub(crate) fn succeed(&mut self, index: u16, now_ns: u64, shared: &mut Shared) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            if slot.state == State::OnePage {
                let freed = slot.free();
                return self.answer(index, freed, RspStatus::OKAY, now_ns);
            }
            if slot.state == State::Pages {
                return self.finish_pages(index, RspStatus::OKAY, now_ns);
            }
        }
        // In other ways, or it is a piece of a request.
        self.complete(index, Ok(()), now_ns, shared);
    }

    /// The disk is done with a request, unless it makes that up.
    #[inline(never)]
    pub(crate) fn complete(
        &mut self,
        index: u16,
        result: IoResult,
        now_ns: u64,
        shared: &mut Shared,
    ) {
        let pool = &mut shared.pool;
        self.now_ns = now_ns;
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return self.complete_piece(index, result, now_ns, shared);
        };
        match slot.state {
            State::InFlight | State::Ready => {
                if !self.take_part(index, result) {
                    return;
                }
            }
            State::OneBuffer => {
                self.ledger.take(1);
                match result {
                    Ok(()) if slot.op == Op::Read => {
                        slot.state = State::Finished;
                        self.finished.push(index);
                    }
                    Ok(()) => self.finish_page(index, RspStatus::OKAY, pool),
                    Err(_) => self.finish_page(index, RspStatus::ERROR, pool),
                }
                return;
            }
            State::OnePage => {
                let status = match result {
                    Ok(()) => RspStatus::OKAY,
                    Err(_) => RspStatus::ERROR,
                };
                let freed = slot.free();
                self.answer(index, freed, status, now_ns);
                return;
            }
            State::Pages => {
                let status = match result {
                    Ok(()) => RspStatus::OKAY,
                    Err(_) => RspStatus::ERROR,
                };
                self.finish_pages(index, status, now_ns);
                return;
            }
            _ => return,
        }
        let result = self.slots[usize::from(index)].progress.outcome();
        self.conclude(index, result, shared);
    }

    /// Nothing of a request is with the disk any longer, nor will be of what it has memory for.
    #[inline]
    pub(super) fn conclude(&mut self, index: u16, result: IoResult, shared: &mut Shared) {
        if self.slots[usize::from(index)].has_data() {
            self.end(index, result, &mut shared.pool);
        } else {
            self.end_turn(index, result, &mut shared.turns);
            self.end_aside(index, result, &mut shared.pool);
        }
    }

    /// Takes a request on to what comes next for it, or answers it.
    #[inline]
    pub(super) fn end(&mut self, index: u16, result: IoResult, pool: &mut BufferPool) {
        let whole = result.is_err() || !self.has_more(index);
        if self.barrier.is_some() && whole && self.next_step(index, result, pool) {
            return;
        }
        let slot = &mut self.slots[usize::from(index)];
        match result {
            Ok(()) if slot.op == Op::Read && slot.path == Path::Copied => {
                slot.state = State::Finished;
                self.finished.push(index);
            }
            Ok(()) => self.finish_chunk(index, pool),
            Err(IoError::Unsupported) if !slot.has_data() || slot.is_barrier() => {
                self.finish(index, RspStatus::EOPNOTSUPP, pool);
            }
            Err(_) => self.finish(index, RspStatus::ERROR, pool),
        }
    }

    /// The disk has answered a part of a request in line or beyond it. True if that was the last
    /// of all that it has been or will be given of this chunk.
    fn take_part(&mut self, index: u16, result: IoResult) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        if !slot.progress.is_with_disk() {
            return false;
        }
        self.ledger.take(slot.progress.take(result));
        if slot.state == State::Ready {
            // The rest of it is in line. It goes no further if a part failed.
            slot.failed |= slot.progress.has_failed();
            return false;
        }
        if slot.progress.is_with_disk() {
            return false;
        }
        if self.special && !slot.progress.has_failed() && self.end_fill(index) {
            return false;
        }
        let slot = &mut self.slots[usize::from(index)];
        let progress = &slot.progress;
        if progress.sent < progress.blocks && !progress.has_failed() {
            // A discard, of which a part is with the disk at a time.
            slot.state = State::Ready;
            self.line.push(index);
            return false;
        }
        true
    }

    /// Whether there are further chunks of a request's data after the present one.
    fn has_more(&self, index: u16) -> bool {
        let slot = &self.slots[usize::from(index)];
        let progress = &slot.progress;
        let end = progress.done() + progress.chunk(self.volume.block_shift);
        slot.path == Path::Copied && end < slot.sectors * 512
    }

    /// The chunk that a request had memory for is done: takes it on to the next, or answers it.
    fn finish_chunk(&mut self, index: u16, pool: &mut BufferPool) {
        if !self.has_more(index) {
            return self.finish(index, RspStatus::OKAY, pool);
        }
        let slot = &mut self.slots[usize::from(index)];
        slot.progress.next(self.volume.block_shift);
        slot.state = State::Waiting;
        slot.must_copy = true;
        self.line.push_front(index);
        self.ready = 0;
    }

    /// Adds the copies of finished reads to the batch, as far as they fit.
    pub(crate) fn copy_out(&mut self, ring: u16, copies: &mut CopyBatch) {
        while let Some(index) = self.finished.get(self.copying) {
            let slot = &self.slots[usize::from(index)];
            if copies.room() < 2 * usize::from(slot.segments) {
                self.stats.out_of_room.add(1);
                return;
            }
            if slot.is_one_page() {
                let (granted, bus, len) = slot.page_copy(self.domain);
                copies.push(CopyOp::to_grant(bus, granted, len), tag(ring, index));
                self.copying += 1;
                continue;
            }
            self.push_copies(ring, index, copies, |granted, bus, len| {
                CopyOp::to_grant(bus, granted, len)
            });
            self.copying += 1;
        }
    }

    /// Answers the reads whose copies were carried out.
    pub(crate) fn finish_copies(&mut self, pool: &mut BufferPool) {
        for _ in 0..core::mem::take(&mut self.copying) {
            let Some(index) = self.finished.pop() else {
                return;
            };
            let slot = &self.slots[usize::from(index)];
            if slot.is_one_page() && !slot.waited {
                let status = match slot.failed {
                    false => RspStatus::OKAY,
                    true => RspStatus::ERROR,
                };
                self.finish_page(index, status, pool);
            } else if slot.failed {
                self.finish(index, RspStatus::ERROR, pool);
            } else {
                self.finish_chunk(index, pool);
            }
        }
    }

    /// Notes that a grant copy for a request failed.
    pub(crate) fn copy_failed(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.failed = true;
        }
    }

    /// Answers a request and frees all that it held; counts for how long it waited for the disk to get it,
    /// which shorter ways are not for.
    pub(super) fn finish(&mut self, index: u16, status: RspStatus, pool: &mut BufferPool) {
        if self.special {
            self.end_barrier(index);
            self.end_unaligned(index);
        }
        if self.slots[usize::from(index)].waited {
            self.count_wait(index);
        }
        let slot = &mut self.slots[usize::from(index)];
        let (cache, keep) = (&mut self.cache, self.persistent);
        let_go(slot, &self.arena, cache, keep, pool);
        if let Some(run) = slot.run.take() {
            self.arena.give(run);
        }
        let freed = Freed {
            operation: slot.raw.answered(),
            ..slot.free()
        };
        self.ledger.free();
        if self.partial == Some(index) {
            self.partial = None;
        }
        self.answer(index, freed, status, self.now_ns);
    }

    /// The same for one that is with the disk whole, and has its pages in the cache, which is shorter.
    #[inline(never)]
    fn finish_pages(&mut self, index: u16, status: RspStatus, now_ns: u64) {
        if self.slots[usize::from(index)].waited {
            self.now_ns = now_ns;
            self.count_wait(index);
        }
        let slot = &mut self.slots[usize::from(index)];
        if !self.persistent
            && let Some(cache) = &mut self.cache
        {
            let pieces = slot.mapped(&self.arena).iter();
            pieces.for_each(|piece| cache.let_go(piece.bus()));
        }
        if let Some(run) = slot.run.take() {
            self.arena.give(run);
        }
        self.ledger.take(slot.segments.into());
        (slot.path, slot.pieces) = (Path::None, 0);
        let freed = Freed {
            operation: slot.raw.answered(),
            ..slot.free()
        };
        self.ledger.free();
        self.answer(index, freed, status, now_ns);
    }

    /// The same for one that has one page in a buffer and is no barrier, which is shorter.
    #[inline(always)]
    fn finish_page(&mut self, index: u16, status: RspStatus, pool: &mut BufferPool) {
        let slot = &mut self.slots[usize::from(index)];
        // Unless the buffer was given up, since the disk may still write into it.
        if slot.path == Path::Copied {
            pool.give(slot.memory.bus());
        }
        (slot.path, slot.pieces) = (Path::None, 0);
        let freed = slot.free();
        self.ledger.free();
        self.answer(index, freed, status, self.now_ns);
    }

    /// Answers a request whose slot was freed.
    #[inline(always)]
    fn answer(&mut self, index: u16, freed: Freed, status: RspStatus, now_ns: u64) {
        let latency = now_ns.saturating_sub(freed.taken_ns);
        self.stats.latency.count(latency >> LATENCY_SHIFT);
        self.stats.latency_ns.add(latency);
        self.respond(index, freed.id, freed.operation, status);
    }

    /// Counts what of the latency of a request, which is about to be answered, it waited for Spindle.
    #[cold]
    fn count_wait(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        slot.waited = false;
        let all = self.now_ns.saturating_sub(slot.taken_ns) >> LATENCY_SHIFT;
        let wait = self.waits.get(usize::from(index)).copied();
        let wait = u64::from(wait.unwrap_or(0)).min(all);
        let wait_ns = wait << LATENCY_SHIFT;
        self.stats.wait.count(wait);
        self.stats.wait_ns.add(wait_ns);
        self.stats.device.shift(all, all - wait);
        self.stats.device_ns.take(wait_ns);
    }

    #[inline(always)]
    pub(super) fn respond(&mut self, index: u16, id: u64, operation: Operation, status: RspStatus) {
        if status != RspStatus::OKAY {
            self.stats.errors.add(1);
            self.note_error(index, kind::FAILED, operation);
        }
        self.ring.push_response(index, id, operation, status);
    }

    /// Lets go of a request's memory.
    pub(super) fn release(&mut self, index: u16, pool: &mut BufferPool) {
        let slot = &mut self.slots[usize::from(index)];
        let (cache, keep) = (&mut self.cache, self.persistent);
        let_go(slot, &self.arena, cache, keep, pool);
    }

    /// Walks the pieces that the data of a request's chunk is copied in: for each the segment, the offset in
    /// its page, the address in the buffers, and the length. No piece crosses a page on either
    /// side, and nothing outside `first_sect..=last_sect` is touched (XSA-403).
    pub(super) fn each_copy(&self, index: u16, mut copy: impl FnMut(RawSegment, u16, u64, u16)) {
        let slot = &self.slots[usize::from(index)];
        let (words, pieces) = slot.parts(&self.arena);
        let mut buffers = pieces.iter();
        // What is left of the present one: where, and how much.
        let (mut bus, mut room) = (0, 0);
        let (done, head) = (slot.progress.done(), self.head(index));
        let mut before = done.saturating_sub(head);
        // What of the first block is not the request's own.
        let mut skip = head.saturating_sub(done);
        for &word in words {
            let segment = RawSegment::from_word(word);
            let (mut offset, mut left) = extent(segment);
            if before > 0 {
                // What chunks before this one have moved.
                let skipped = before.min(left);
                before -= skipped;
                offset += skipped;
                left -= skipped;
            }
            while left > 0 {
                if room == 0 {
                    let Some(next) = buffers.next() else { return };
                    let skip = core::mem::take(&mut skip);
                    (bus, room) = (next.bus() + u64::from(skip), next.bytes() - skip);
                }
                let len = left.min(room);
                copy(segment, offset as u16, bus, len as u16);
                bus += u64::from(len);
                room -= len;
                offset += len;
                left -= len;
            }
        }
    }
}

/// Lets go of a request's memory, which is from a cache, to be kept there or not, or from a pool.
#[inline(always)]
fn let_go(
    slot: &mut Slot,
    arena: &Arena,
    cache: &mut Option<GrantCache>,
    keep: bool,
    pool: &mut BufferPool,
) {
    let path = core::mem::replace(&mut slot.path, Path::None);
    match (path, cache) {
        (Path::Mapped, Some(cache)) if !keep => {
            let pieces = slot.pieces(arena).iter();
            pieces.for_each(|piece| cache.let_go(piece.bus()));
        }
        (Path::Copied, _) => {
            pool.give_all(slot.pieces(arena));
        }
        _ => {}
    }
    slot.pieces = 0;
}
