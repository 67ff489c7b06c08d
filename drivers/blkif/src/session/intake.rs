//! Taking requests off the ring, and the short way to the disk of those that need no preparation.

use core::slice;

use spindle_block::{Command, DiskQueue, Extent, Op, Segment, Tag, Unit};
use spindle_status::trace::kind;
use spindle_xen::grant::GrantOps;

use super::progress::Progress;
use super::slot::{Path, Slot, State};
use super::submit::is_in_pieces;
use super::{Session, tag};
use crate::abi::{MAX_SEGMENTS, Operation, RspStatus, SECTORS_PER_PAGE};
use crate::cache::{GrantCache, part_of};
use crate::pool::{BufferPool, Purpose};
use crate::request::{List, Reject, Request, is_whole_page};
use crate::ring::BackRing;

/// What requests go to that need not wait in line.
pub(crate) struct Sink<'a, Q> {
    pub(crate) queue: &'a mut Q,
    pub(crate) pool: &'a mut BufferPool,
}

/// What became of the next request of the ring.
pub(super) enum Taken {
    /// It is a barrier, after which nothing is taken.
    Nothing,
    /// It was answered, or is with the disk already.
    Settled,
    /// It is in this slot.
    Slot(u16),
}

/// What an intake counts, written to the ring's counters once at its end: of reads, then of
/// writes, as their operations are numbered.
#[derive(Default)]
pub(super) struct Tally {
    /// Requests, above [`REQUEST`], and sectors of 512 bytes below.
    both: [u64; 2],
}

/// One request.
const REQUEST: u64 = 1 << 32;

impl Tally {
    #[inline(always)]
    fn count(&mut self, operation: Operation, sectors: u32) {
        let at = usize::from(operation.0 & 1);
        self.both[at] += REQUEST + u64::from(sectors);
    }

    /// Counts requests of a page each, of which so many are writes.
    #[inline(always)]
    fn count_pages(&mut self, requests: u32, writes: u32) {
        const PAGE: u64 = REQUEST + SECTORS_PER_PAGE as u64;
        let [reads, written] = &mut self.both;
        *reads += PAGE * u64::from(requests - writes);
        *written += PAGE * u64::from(writes);
    }
}

impl Session {
    /// Takes up to `budget` requests off the ring; answers those that are not for the disk.
    ///
    /// While the line is empty, requests whose pages are all in the cache go straight to the disk, if
    /// there is a `sink`, and so do reads of a page through a buffer. The first that cannot, and all
    /// after it, go in line.
    pub(crate) fn intake<Q: DiskQueue, G: GrantOps>(
        &mut self,
        ring: u16,
        budget: u32,
        sink: Option<Sink<'_, Q>>,
        grants: &G,
    ) -> u32 {
        // One that takes nothing any more waits for no credit.
        self.throttled = false;
        if self.stopped {
            return self.intake_within(ring, budget, sink, grants);
        }
        self.intake_new::<Q, G, false>(ring, budget, 0, sink, grants)
    }

    /// The same of a ring that may take new requests: if it is `LIMITED`, until it has taken so many
    /// `pages`, at least `budget`, a request of none counting as one, or more with the last request.
    #[inline(always)]
    pub(super) fn intake_new<Q: DiskQueue, G: GrantOps, const LIMITED: bool>(
        &mut self,
        ring: u16,
        budget: u32,
        pages: u32,
        sink: Option<Sink<'_, Q>>,
        grants: &G,
    ) -> u32 {
        let waiting = match self.ring.pending() {
            Ok(0) => return 0,
            Ok(waiting) => self.affordable(waiting.min(budget)),
            Err(halt) => {
                self.stop(halt);
                return 0;
            }
        };
        let waiting = self.gate.allows(waiting);
        if waiting == 0 {
            return 0;
        }
        if let Some(cache) = &mut self.cache {
            cache.next_turn();
        }
        let direct = self.line.len() == 0 && (self.goes_directly() || self.is_copied_directly());
        let sink = sink.filter(|_| direct);
        self.take_all::<Q, G, LIMITED>(ring, waiting, pages, sink, grants)
    }

    /// The same for one that is awake alone, with nothing in line: [`Session::is_plain`] and
    /// [`Session::is_short`]. `most` is 0 for one that has limits, and else `budget`.
    #[inline(always)]
    pub(crate) fn intake_alone<Q: DiskQueue, G: GrantOps>(
        &mut self,
        ring: u16,
        (most, budget): (u32, u32),
        sink: Sink<'_, Q>,
        grants: &G,
    ) -> u32 {
        let waiting = self.ring.pending().unwrap_or(0).min(most);
        if waiting == 0 {
            return match (self.limited, self.leased) {
                (true, true) => self.intake_leased(ring, budget, sink, grants),
                (true, false) => self.intake_within(ring, budget, Some(sink), grants),
                // A whole visit follows.
                (false, _) => 0,
            };
        }
        if let Some(cache) = &mut self.cache {
            cache.next_turn();
        }
        self.take_all::<Q, G, false>(ring, waiting, 0, Some(sink), grants)
    }

    /// The same of one with limits that do not hold it back now.
    #[inline(never)]
    fn intake_leased<Q: DiskQueue, G: GrantOps>(
        &mut self,
        ring: u16,
        budget: u32,
        sink: Sink<'_, Q>,
        grants: &G,
    ) -> u32 {
        let left = self.allowance.as_ref().map_or(0, |it| it.left());
        let waiting = self.ring.pending().unwrap_or(0).min(budget).min(left);
        if waiting == 0 {
            return 0;
        }
        if let Some(cache) = &mut self.cache {
            cache.next_turn();
        }
        self.more_pages = 0;
        let taken = self.take_all::<Q, G, true>(ring, waiting, left, Some(sink), grants);
        self.leased = self.use_up(taken) > 0;
        taken
    }

    /// Whether requests whose pages are in the cache need not go in line. Writes that claim their blocks
    /// do so in line.
    #[inline]
    pub(super) fn goes_directly(&self) -> bool {
        self.persistent && self.cache.is_some() && self.unaligned.is_none()
    }

    /// Whether reads of a page that go through a buffer need not go in line.
    #[inline]
    fn is_copied_directly(&self) -> bool {
        self.cache.is_none() && !self.special
    }

    /// Takes so many requests, 1 or more; of one that is `LIMITED`, no more than so many pages.
    #[inline(always)]
    fn take_all<Q: DiskQueue, G: GrantOps, const LIMITED: bool>(
        &mut self,
        ring: u16,
        waiting: u32,
        pages: u32,
        mut sink: Option<Sink<'_, Q>>,
        grants: &G,
    ) -> u32 {
        let mut tally = Tally::default();
        let start = self.ring.consumed();
        let pages_end = LIMITED.then(|| start.wrapping_add(pages));
        let first = match &mut sink {
            Some(sink) if self.cache.is_some() => {
                self.send_all(ring, (waiting, pages_end), sink.queue, grants, &mut tally)
            }
            _ => self.take_next(),
        };
        if let Some(index) = first {
            let end = start.wrapping_add(waiting);
            let ends = (end, start.wrapping_add(pages));
            self.take_others::<Q, G, LIMITED>(ring, index, ends, sink, grants, &mut tally);
        }
        self.ring.note_taken();
        let taken = self.ring.consumed().wrapping_sub(start);
        self.note_intake(taken, &tally);
        taken
    }

    /// Takes the request in slot `index` and those behind it before number `end`; of one that is
    /// `LIMITED`, also before the number `pages_end` is reached if each counts as many as it has pages.
    #[inline(never)]
    fn take_others<Q: DiskQueue, G: GrantOps, const LIMITED: bool>(
        &mut self,
        ring: u16,
        mut index: u16,
        (end, pages_end): (u32, u32),
        mut sink: Option<Sink<'_, Q>>,
        grants: &G,
        tally: &mut Tally,
    ) {
        loop {
            match self.accept(index, tally) {
                Taken::Nothing => break,
                Taken::Settled => {}
                Taken::Slot(index) => {
                    if LIMITED {
                        let segments = u32::from(self.slots[usize::from(index)].segments);
                        self.more_pages += segments.saturating_sub(1);
                    }
                    let sent = sink.as_mut();
                    if !sent.is_some_and(|sink| self.send_directly(ring, index, sink, grants)) {
                        sink = None;
                        self.line.push(index);
                    }
                }
            }
            let mut left = end.wrapping_sub(self.ring.consumed());
            if LIMITED {
                let pages = pages_end.wrapping_sub(self.ring.consumed());
                left = left.min(pages.saturating_sub(self.more_pages));
            }
            let next = match &mut sink {
                _ if left == 0 => break,
                // What goes to the disk as it comes may cost more than one page.
                Some(_) if self.ledger.credit() == 0 => {
                    self.throttled = true;
                    break;
                }
                Some(sink) if self.cache.is_some() => {
                    let pages_end = LIMITED.then_some(pages_end);
                    self.send_all(ring, (left, pages_end), sink.queue, grants, tally)
                }
                _ => self.take_next(),
            };
            index = match next {
                Some(next) => next,
                None => break,
            };
        }
    }

    /// Counts what an intake has taken.
    #[inline(always)]
    pub(super) fn note_intake(&mut self, taken: u32, tally: &Tally) {
        if taken == 0 {
            // There was no room for the first.
            return;
        }
        self.gate.took(taken);
        self.stats.batches.count(taken.into());
        self.stats.batched.add(taken.into());
        let [reads, writes] = tally.both.map(|both| both / REQUEST);
        let [read, written] = tally.both.map(|both| both % REQUEST);
        self.wait.took(read, written);
        self.stats.reads.add(reads);
        self.stats.writes.add(writes);
        self.stats.sectors_read.add(read);
        self.stats.sectors_written.add(written);
        self.stats.in_flight_peak.raise(self.ring.taken().into());
    }

    /// How many of `waiting` requests the ring has the credit for, at a page each, beside those in
    /// line.
    #[inline]
    pub(super) fn affordable(&mut self, waiting: u32) -> u32 {
        let most = self.ledger.credit().saturating_sub(self.line.len() as u32);
        self.throttled = most < waiting;
        waiting.min(most)
    }

    /// Copies the next request out of the ring into a slot; `None` if there is none, or no room for it.
    #[inline(always)]
    fn take_next(&mut self) -> Option<u16> {
        let index = self.ring.next_place()?;
        let slot = &mut self.slots[usize::from(index)];
        (slot.raw, slot.word) = self.ring.take(index);
        self.take_rest(index).then_some(index)
    }

    /// Copies what is left of the request in slot `index`, the last of the ring that was taken. If there is
    /// no room for that, the request stays in the ring until others are done: false.
    #[inline(always)]
    fn take_rest(&mut self, index: u16) -> bool {
        let raw = &self.slots[usize::from(index)].raw;
        let page = raw.detail() == 1 && raw.operation() != Operation::INDIRECT;
        (page && self.unaligned.is_none()) || self.take_large(index)
    }

    #[inline(never)]
    fn take_large(&mut self, index: u16) -> bool {
        let rest = |ring: &BackRing, words: &mut [u64]| ring.take_rest(index, words);
        let found = self.find_room(index, rest);
        if !found {
            self.ring.put_back();
            self.throttled = true;
            self.stats.out_of_room.add(1);
        }
        found
    }

    /// Finds room for the segments of the request in slot `index`, of which there may be more than one, and
    /// has `rest` copy those behind the first, unless they are in a list; false if there is none. Each
    /// request has all that it needs of this from the start, so that none waits for another's.
    pub(super) fn find_room(
        &mut self,
        index: u16,
        rest: impl FnOnce(&BackRing, &mut [u64]),
    ) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let own = slot.raw.segments();
        let listed = slot.raw.operation() == Operation::INDIRECT;
        let segments = match own {
            _ if listed => usize::from(slot.raw.detail2().min(self.indirect)),
            // There may be one more (`unaligned`).
            1.. if self.unaligned.is_some() => MAX_SEGMENTS.min(own + 1),
            0 | 1 => return true,
            _ => own,
        };
        if segments == 0 {
            // It will be refused.
            return true;
        }
        slot.run = self.arena.take(segments);
        let Some(run) = slot.run else {
            return false;
        };
        if let [first, others @ ..] = self.arena.parts_mut(run).0
            && let Some(others) = others.get_mut(..own.wrapping_sub(1))
        {
            *first = slot.word;
            rest(&self.ring, others);
        }
        true
    }

    /// Takes up to `most` requests and sends them to `queue`, as long as each reads or writes pages that are in
    /// the cache, as most do; with `pages_end`, also before that number is reached if each counts as many as it
    /// has pages. Returns the slot of the first that does not, of which nothing has come, as
    /// [`Session::take_next`] does; `None` if there is none.
    #[inline(never)]
    fn send_all<Q: DiskQueue, G: GrantOps>(
        &mut self,
        ring: u16,
        (most, pages_end): (u32, Option<u32>),
        queue: &mut Q,
        grants: &G,
        tally: &mut Tally,
    ) -> Option<u16> {
        let unit = (self.volume.unit, self.volume.block_shift);
        let mut end = self
            .ring
            .consumed()
            .wrapping_add(most.min(self.ring.left()));
        loop {
            let from = self.ring.consumed();
            let (mut writes, mut other) = (0, None);
            let cache = self.cache.as_mut()?;
            // Whole pages, as most are.
            while self.ring.consumed() != end {
                let index = self.ring.place_ahead();
                let slot = &mut self.slots[usize::from(index)];
                // Here, so that nothing of it has to be kept elsewhere until it is sent.
                let word;
                (slot.raw, word) = self.ring.take(index);
                if slot.raw.is_of_one_segment()
                    && let Some(page) = cache.find_page(word)
                {
                    slot.memory = page;
                    if send_page(slot, &self.extent, unit, queue, tag(ring, index)) {
                        slot.taken_ns = self.now_ns;
                        slot.state = State::OnePage;
                        writes += u32::from(slot.raw.is_write());
                        continue;
                    }
                }
                slot.word = word;
                other = Some(index);
                break;
            }
            let taken = self.ring.consumed().wrapping_sub(from);
            let sent = taken - u32::from(other.is_some());
            if sent > 0 {
                cache.note_uses(sent);
                self.ledger.sent_pages(sent);
                tally.count_pages(sent, writes);
            }
            let index = other?;
            if !self.take_rest(index) {
                return None;
            }
            let one = self.slots[usize::from(index)].raw.is_of_one_segment();
            let sent = if one {
                self.send_part(ring, index, queue, tally)
            } else {
                self.send_large(ring, index, queue, grants, tally)
            };
            if !sent {
                return Some(index);
            }
            if let Some(pages_end) = pages_end.filter(|_| !one) {
                let segments = u32::from(self.slots[usize::from(index)].segments);
                self.more_pages += segments.saturating_sub(1);
                let consumed = self.ring.consumed();
                let pages = pages_end.wrapping_sub(consumed);
                let left = pages.saturating_sub(self.more_pages);
                end = consumed.wrapping_add(end.wrapping_sub(consumed).min(left));
            }
            if self.ledger.credit() == 0 && self.ring.consumed() != end {
                self.throttled = true;
                return None;
            }
        }
    }

    /// Sends the request in slot `index`, of one segment, to `queue` if it is good and for a part of a page
    /// that is in the cache. If not, for whatever reason, nothing has come of it.
    #[inline(never)]
    fn send_part<Q: DiskQueue>(
        &mut self,
        ring: u16,
        index: u16,
        queue: &mut Q,
        tally: &mut Tally,
    ) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let word = slot.word;
        let op = if slot.raw.is_write() {
            Op::Write
        } else {
            Op::Read
        };
        // The page first: a request whose page is yet to be mapped is validated where that is done.
        let cache = self.cache.as_mut().filter(|_| !is_whole_page(word));
        let Some(page) = cache.and_then(|cache| cache.find_anew(word as u32)) else {
            return false;
        };
        let Ok(request) = Request::transfer(op, &slot.raw, &[word], &self.extent) else {
            return false;
        };
        slot.memory = part_of(page, word);
        let command = Command {
            op,
            unit: self.volume.unit,
            block_shift: self.volume.block_shift,
            block: request.block,
            blocks: 0,
            segments: slice::from_ref(&slot.memory),
        };
        if !request.whole_blocks || queue.submit(&command, tag(ring, index)).is_err() {
            return false;
        }
        slot.taken_ns = self.now_ns;
        slot.state = State::OnePage;
        tally.count(slot.raw.operation(), request.sectors);
        self.ledger.sent_pages(1);
        if let Some(cache) = &mut self.cache {
            cache.note_uses(1);
        }
        true
    }

    /// Sends the request in slot `index`, which has room for what it says of its segments, to `queue` if it
    /// is good and reads or writes whole pages that are in the cache, as is its list if it has one. If not,
    /// for whatever reason, nothing has come of it.
    #[inline(never)]
    fn send_large<Q: DiskQueue, G: GrantOps>(
        &mut self,
        ring: u16,
        index: u16,
        queue: &mut Q,
        grants: &G,
        tally: &mut Tally,
    ) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let (Some(cache), Some(run)) = (&mut self.cache, slot.run) else {
            return false;
        };
        let raw = slot.raw;
        let listed = raw.operation() == Operation::INDIRECT;
        let count = match listed {
            true => raw.detail2(),
            false => u16::from(raw.detail()),
        };
        let op = match raw.answered() {
            Operation::READ => Op::Read,
            Operation::WRITE if !self.extent.read_only => Op::Write,
            _ => return false,
        };
        let (load, count) = (u32::from(count), usize::from(count));
        let (words, memory) = self.arena.parts_mut(run);
        let (Some(words), Some(memory)) = (words.get_mut(..count), memory.get_mut(..count)) else {
            return false;
        };
        let fits = load > 0 && self.ledger.credit() >= load;
        if !fits
            || listed && (load > self.indirect.into() || !read(cache, slot.list(), words, grants))
        {
            return false;
        }
        let sectors = load * u32::from(SECTORS_PER_PAGE);
        let block = self.extent.locate(raw.sector, sectors.into());
        let Some(block) = block.filter(|_| cache.find_pages(words, memory) == count) else {
            return false;
        };
        cache.note_uses(load);
        let command = Command {
            op,
            unit: self.volume.unit,
            block_shift: self.volume.block_shift,
            block,
            blocks: 0,
            segments: memory,
        };
        if queue.submit(&command, tag(ring, index)).is_err() {
            return false;
        }
        slot.taken_ns = self.now_ns;
        (slot.segments, slot.pieces) = (load as u16, load as u16);
        (slot.state, slot.path) = (State::Pages, Path::Mapped);
        self.ledger.keep();
        self.ledger.give(load, load);
        tally.count(raw.answered(), sectors);
        true
    }

    /// Takes the request in slot `index`, which [`Session::take_next`] or [`Session::send_all`]
    /// put there.
    #[inline(always)]
    pub(super) fn accept(&mut self, index: u16, tally: &mut Tally) -> Taken {
        let slot = &mut self.slots[usize::from(index)];
        let raw = slot.raw;
        let op = match raw.operation() {
            Operation::READ => Op::Read,
            Operation::WRITE => Op::Write,
            _ => return self.take_other(index),
        };
        match Request::transfer(op, &raw, slot.body(&self.arena), &self.extent) {
            Ok(request) => {
                tally.count(raw.operation(), request.sectors);
                self.ledger.keep();
                slot.progress = Progress::NONE;
                slot.taken_ns = self.now_ns;
                slot.fill(&request);
                Taken::Slot(index)
            }
            Err(reject) => self.take_unaligned(index, op, reject, tally),
        }
    }

    /// Takes a read or write, already in slot `index`, that is not fit for the disk as it is.
    #[cold]
    fn take_unaligned(&mut self, index: u16, op: Op, reject: Reject, tally: &mut Tally) -> Taken {
        let raw = self.slots[usize::from(index)].raw;
        match self.enclose(index, op, reject) {
            Ok((request, own)) => {
                tally.count(raw.operation(), own);
                self.keep(index, &request);
                Taken::Slot(index)
            }
            Err(reject) => {
                self.respond_now(index, raw.id, raw.operation(), reject.status());
                Taken::Settled
            }
        }
    }

    /// Answers a request that was just taken.
    #[cold]
    fn respond_now(&mut self, index: u16, id: u64, operation: Operation, status: RspStatus) {
        if let Some(run) = self.slots[usize::from(index)].run.take() {
            self.arena.give(run);
        }
        self.ring.note_taken();
        if status != RspStatus::OKAY {
            self.stats.errors.add(1);
            self.note_error(index, kind::REFUSED, operation);
        }
        self.ring.push_response(index, id, operation, status);
    }

    /// Takes slot `index` for a request that is in it.
    fn keep(&mut self, index: u16, request: &Request) {
        self.ledger.keep();
        let slot = &mut self.slots[usize::from(index)];
        slot.progress = Progress::of(request.blocks);
        slot.taken_ns = self.now_ns;
        slot.fill(request);
    }

    /// Takes a request, already in slot `index`, that is neither a read nor a write.
    #[cold]
    fn take_other(&mut self, index: u16) -> Taken {
        let slot = &mut self.slots[usize::from(index)];
        let raw = slot.raw;
        let mut own = None;
        let request = match raw.operation() {
            Operation::FLUSH => Request::flush(&raw),
            Operation::DISCARD => {
                let unaligned = self.unaligned.is_some();
                Request::discard(&raw, slot.word, &self.volume, unaligned)
            }
            Operation::INDIRECT => return self.take_list(index),
            Operation::WRITE_BARRIER if raw.detail() == 0 => Request::flush(&raw),
            Operation::WRITE_BARRIER => {
                Request::transfer(Op::Write, &raw, slot.body(&self.arena), &self.extent).or_else(
                    |reject| {
                        let (request, sectors) = self.enclose(index, Op::Write, reject)?;
                        own = Some(sectors);
                        Ok(request)
                    },
                )
            }
            _ => Err(Reject::Unsupported),
        };
        // A disk may take what names no unit for its first one.
        let request = request.and_then(|request| match self.is_empty() {
            true => Err(Reject::Range),
            false => Ok(request),
        });
        let request = match request {
            Ok(request) => request,
            Err(reject) => {
                self.respond_now(index, raw.id, raw.operation(), reject.status());
                return Taken::Settled;
            }
        };
        let barrier = raw.operation() == Operation::WRITE_BARRIER;
        if barrier || request.op == Op::Flush {
            self.stats.flushes.add(1);
            let sectors = own.unwrap_or(request.sectors);
            self.stats.sectors_written.add(sectors.into());
            if !barrier && !self.volume.write_cache {
                self.respond_now(index, raw.id, raw.operation(), RspStatus::OKAY);
                return Taken::Settled;
            }
        } else if raw.operation() == Operation::DISCARD {
            self.stats.discards.add(1);
            if request.blocks == 0 {
                // No more than advice, of which nothing is left.
                self.respond_now(index, raw.id, raw.operation(), RspStatus::OKAY);
                return Taken::Settled;
            }
        }
        self.keep(index, &request);
        self.slots[usize::from(index)].known = self.losses.known();
        if barrier {
            self.hold_barrier(index);
            return Taken::Nothing;
        }
        Taken::Slot(index)
    }

    /// Takes an indirect request, already in slot `index`.
    fn take_list(&mut self, index: u16) -> Taken {
        let raw = self.slots[usize::from(index)].raw;
        match List::new(&raw, &self.volume, self.indirect) {
            Ok(list) => {
                self.ledger.keep();
                let slot = &mut self.slots[usize::from(index)];
                slot.progress = Progress::NONE;
                slot.taken_ns = self.now_ns;
                slot.fill_list(&list);
                Taken::Slot(index)
            }
            Err(reject) => {
                self.respond_now(index, raw.id, raw.answered(), reject.status());
                Taken::Settled
            }
        }
    }

    /// Submits a request of several pages that are all in the cache, as is its list if it has one;
    /// false if it belongs in line, where no other is: as it came or, if its list is read, with that
    /// checked, or, if it is only the disk that did not take it, as ready.
    #[inline(never)]
    fn send_directly<Q: DiskQueue, G: GrantOps>(
        &mut self,
        ring: u16,
        index: u16,
        sink: &mut Sink<'_, Q>,
        grants: &G,
    ) -> bool {
        if self.cache.is_none() {
            return self.send_buffer(ring, index, sink);
        }
        if self.slots[usize::from(index)].state == State::Listed
            && !self.read_list_directly(index, grants)
        {
            return false;
        }
        let slot = &mut self.slots[usize::from(index)];
        let fits = slot.segments > 1 && !slot.must_copy && slot.state == State::Waiting;
        let Some(cache) = self.cache.as_mut().filter(|_| fits) else {
            return false;
        };
        let load = u32::from(slot.segments);
        // What may go in parts goes from the line.
        let large = slot.raw.operation() == Operation::INDIRECT;
        if large && (load > self.ledger.credit() || is_in_pieces(slot.sectors, slot.segments)) {
            return false;
        }
        let (words, memory) = slot.room(&mut self.arena);
        if !cache.find_all(words, memory) {
            return false;
        }
        slot.pieces = slot.segments;
        slot.path = Path::Mapped;
        let command = slot.command(&self.volume, &self.arena);
        if sink.queue.submit(&command, tag(ring, index)).is_err() {
            slot.progress
                .begin(slot.sectors * 512, self.volume.block_shift);
            slot.state = State::Ready;
            self.ready = 1;
            return false;
        }
        slot.state = State::Pages;
        // No more pages or requests to the disk than there are segments.
        self.ledger.give(load, load);
        true
    }
}

impl Session {
    /// Has the disk read what a request is for into a buffer, if that is a page or a part of one; false if it
    /// belongs in line, as [`Session::send_directly`] says. Others are copied before they go to the disk, or
    /// may go in parts.
    #[inline(never)]
    fn send_buffer<Q: DiskQueue>(&mut self, ring: u16, index: u16, sink: &mut Sink<'_, Q>) -> bool {
        let holder = self.holder(ring);
        let slot = &mut self.slots[usize::from(index)];
        if slot.op != Op::Read || !slot.is_one_page() {
            return false;
        }
        let Some(bus) = sink.pool.take_one(holder, Purpose::FromDisk) else {
            return false;
        };
        let len = slot.sectors * 512;
        slot.memory = Segment::new(bus, len);
        slot.pieces = 1;
        slot.path = Path::Copied;
        slot.progress.begin(len, self.volume.block_shift);
        self.stats.copied_requests.add(1);
        let command = Command {
            op: Op::Read,
            unit: self.volume.unit,
            block_shift: self.volume.block_shift,
            block: slot.block,
            blocks: 0,
            segments: slice::from_ref(&slot.memory),
        };
        if sink.queue.submit(&command, tag(ring, index)).is_err() {
            slot.state = State::Ready;
            self.ready = 1;
            return false;
        }
        slot.state = State::OneBuffer;
        self.ledger.give(1, 1);
        true
    }
}

/// Sends the request in `slot`, which reads or writes the whole page in its memory, to `queue` if it is good. If
/// not, for whatever reason, nothing has come of it.
#[inline(always)]
fn send_page<Q: DiskQueue>(
    slot: &Slot,
    extent: &Extent,
    (unit, block_shift): (Unit, u8),
    queue: &mut Q,
    tag: Tag,
) -> bool {
    let write = slot.raw.is_write();
    let Some(block) = extent.locate_page(slot.raw.sector, write) else {
        return false;
    };
    let command = Command {
        op: if write { Op::Write } else { Op::Read },
        unit,
        block_shift,
        block,
        blocks: 0,
        segments: slice::from_ref(&slot.memory),
    };
    queue.submit(&command, tag).is_ok()
}

/// Reads the list that `list` grants, if it is mapped.
#[inline(always)]
pub(super) fn read<G: GrantOps>(
    cache: &mut GrantCache,
    list: u32,
    words: &mut [u64],
    grants: &G,
) -> bool {
    let Some(page) = cache.find(list) else {
        return false;
    };
    cache.note_uses(1);
    cache.is_mapped(page) && grants.read(page, words)
}
