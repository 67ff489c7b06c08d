//! Taking requests off the ring, and the short way to the disk of those that need no preparation.

use core::slice;

use spindle_block::{Command, DiskQueue, Op, Segment};

use super::slot::{Path, State, extent};
use super::{Session, tag};
use crate::abi::{MAX_SEGMENTS, Operation, RawSegment, RspStatus};
use crate::cache::GrantCache;
use crate::request::{Reject, Request};
use crate::ring::RawRequest;

/// What became of the next request of the ring.
enum Taken {
    /// There is none, or no slot for it; or it is a barrier, after which nothing is taken.
    Nothing,
    /// It was answered, or is with the disk already.
    Settled,
    /// It is in this slot.
    Slot(u16),
}

/// What an intake counts, written to the ring's counters once at its end.
#[derive(Default)]
struct Tally {
    requests: u64,
    sectors: u64,
}

impl Session {
    /// Takes up to `budget` requests off the ring; answers those that are not for the disk.
    ///
    /// While the line is empty, requests whose pages are all in the cache go straight to `queue`,
    /// if there is one. The first that cannot, and all after it, go in line.
    pub(crate) fn intake<Q: DiskQueue>(
        &mut self,
        ring: u16,
        budget: u32,
        queue: Option<&mut Q>,
    ) -> u32 {
        if self.closing || self.halt.is_some() {
            return 0;
        }
        let waiting = match self.ring.pending() {
            Ok(0) => return 0,
            Ok(waiting) => self.gate.allows(waiting.min(budget)),
            Err(halt) => {
                self.halt = Some(halt);
                return 0;
            }
        };
        if let Some(cache) = &mut self.cache {
            cache.next_turn();
        }
        let mut queue =
            queue.filter(|_| self.line.len() == 0 && self.cache.is_some() && self.persistent);
        let mut tally = [Tally::default(), Tally::default()];
        let start = self.ring.consumed();
        for _ in 0..waiting {
            match self.take_one(ring, queue.as_deref_mut(), &mut tally) {
                Taken::Nothing => break,
                Taken::Settled => {}
                Taken::Slot(index) => {
                    let sent = queue.as_deref_mut();
                    if !sent.is_some_and(|queue| self.send_directly(ring, index, queue)) {
                        queue = None;
                        self.line.push(index);
                    }
                }
            }
        }
        let taken = self.ring.consumed().wrapping_sub(start);
        self.gate.took(taken);
        self.stats.batches.count(taken.into());
        let [reads, writes] = tally;
        self.stats.reads.add(reads.requests);
        self.stats.writes.add(writes.requests);
        self.stats.sectors_read.add(reads.sectors);
        self.stats.sectors_written.add(writes.sectors);
        self.stats.in_flight_peak.raise(self.active() as u64);
        taken
    }

    /// Takes the next request; sends it to `queue`, if there is one and it is for one page that is
    /// in the cache, as most are.
    #[inline(always)]
    fn take_one<Q: DiskQueue>(
        &mut self,
        ring: u16,
        queue: Option<&mut Q>,
        tally: &mut [Tally; 2],
    ) -> Taken {
        let Some(index) = self.free.last() else {
            return Taken::Nothing;
        };
        let slot = &mut self.slots[usize::from(index)];
        let Some(raw) = self.ring.take(&mut slot.body) else {
            return Taken::Nothing;
        };
        let op = match raw.operation {
            Operation::READ => Op::Read,
            Operation::WRITE => Op::Write,
            _ => return self.take_other(index, &raw),
        };
        let request = match Request::transfer(op, &raw, &slot.body, &self.volume) {
            Ok(request) => request,
            Err(reject) => {
                self.respond(raw.id, raw.operation, reject.status());
                return Taken::Settled;
            }
        };
        let counted = &mut tally[usize::from(op == Op::Write)];
        counted.requests += 1;
        counted.sectors += u64::from(request.sectors);
        self.free.pop();
        slot.taken_ns = self.now_ns;
        slot.id = raw.id;
        slot.operation = raw.operation;
        if let (Some(queue), Some(cache)) = (queue, &mut self.cache)
            && request.segments == 1
            && request.whole_blocks
            && let Some(piece) = pin(cache, slot.body[0])
        {
            slot.memory[0] = piece;
            let command = Command {
                op: request.op,
                unit: self.volume.unit,
                block_shift: self.volume.block_shift,
                block: request.block,
                blocks: 0,
                segments: slice::from_ref(&slot.memory[0]),
            };
            if queue.submit(&command, tag(ring, index)).is_ok() {
                slot.state = State::OnePage;
                self.sent += 1;
                return Taken::Settled;
            }
            cache.unpin(piece.bus);
        }
        slot.fill(&request);
        Taken::Slot(index)
    }

    /// Takes a request, already in slot `index`, that is neither a read nor a write.
    #[cold]
    fn take_other(&mut self, index: u16, raw: &RawRequest) -> Taken {
        let slot = &mut self.slots[usize::from(index)];
        let request = match raw.operation {
            Operation::FLUSH => Request::flush(raw),
            Operation::DISCARD => Request::discard(raw, &slot.body, &self.volume),
            Operation::INDIRECT => Request::indirect(raw, &self.volume, self.indirect),
            Operation::WRITE_BARRIER if raw.detail == 0 => Request::flush(raw),
            Operation::WRITE_BARRIER => Request::transfer(Op::Write, raw, &slot.body, &self.volume),
            _ => Err(Reject::Unsupported),
        };
        let answered = raw.answered();
        let request = match request {
            Ok(request) => request,
            Err(reject) => {
                self.respond(raw.id, answered, reject.status());
                return Taken::Settled;
            }
        };
        let barrier = raw.operation == Operation::WRITE_BARRIER;
        if barrier || request.op == Op::Flush {
            self.stats.flushes.add(1);
            self.stats.sectors_written.add(request.sectors.into());
            if !barrier && !self.volume.write_cache {
                self.respond(raw.id, raw.operation, RspStatus::OKAY);
                return Taken::Settled;
            }
        } else if raw.operation == Operation::DISCARD {
            self.stats.discards.add(1);
        }
        self.free.pop();
        slot.taken_ns = self.now_ns;
        slot.id = raw.id;
        slot.operation = answered;
        slot.fill(&request);
        if raw.operation == Operation::INDIRECT {
            slot.state = State::Listed;
        }
        if barrier {
            self.hold_barrier(index);
            return Taken::Nothing;
        }
        Taken::Slot(index)
    }

    /// Submits a request whose pages are all in the cache; false if it belongs in line, where
    /// nobody is: as it came, or, if it is only the disk that would not have it, as ready.
    #[inline(never)]
    fn send_directly<Q: DiskQueue>(&mut self, ring: u16, index: u16, queue: &mut Q) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let fits = slot.segments > 0 && !slot.must_copy && slot.state != State::Listed;
        let Some(cache) = self.cache.as_mut().filter(|_| fits) else {
            return false;
        };
        let count = MAX_SEGMENTS.min(slot.segments.into());
        let words = slot.body[..count].iter();
        for (i, (&word, piece)) in words.zip(&mut slot.memory).enumerate() {
            let Some(pinned) = pin(cache, word) else {
                slot.memory[..i].iter().for_each(|p| cache.unpin(p.bus));
                return false;
            };
            *piece = pinned;
        }
        slot.pieces = slot.segments;
        slot.path = Path::Mapped;
        let command = slot.command(&self.volume, &self.arena);
        if queue.submit(&command, tag(ring, index)).is_err() {
            slot.state = State::Ready;
            self.ready = 1;
            return false;
        }
        slot.state = State::InFlight;
        self.sent += 1;
        true
    }
}

/// Pins the page of a segment if it is in the cache.
#[inline(always)]
fn pin(cache: &mut GrantCache, word: u64) -> Option<Segment> {
    let segment = RawSegment::from_word(word);
    let page = cache.pin(segment.gref)?;
    let (offset, len) = extent(segment);
    Some(Segment {
        bus: page + u64::from(offset),
        len,
    })
}
