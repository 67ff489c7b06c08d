//! One ring's state: every request between ring slot and response.
//!
//! A request takes a slot of the session, waits in line for its memory ([`crate::session::prepare`])
//! and for the disk, and leaves by a response. Its slot number is the disk's tag for it, so a
//! completion finds it without a search. Everything is allocated when the session is made.

mod prepare;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use spindle_block::{Command, DiskQueue, IoError, IoResult, Op, Segment, SubmitError, Tag, Volume};
use spindle_hw::SharedPages;
use spindle_xen::DomId;
use spindle_xen::event::Port;
use spindle_xen::grant::{CopyEnd, CopyOp, GrantOps, GrantRef};

use crate::abi::{Abi, MAX_SEGMENTS, Operation, RawSegment, RspStatus};
use crate::batch::CopyBatch;
use crate::cache::GrantCache;
use crate::fifo::Fifo;
use crate::pool::BufferPool;
use crate::request::Request;
use crate::ring::{BackRing, BadRingSize, Body, Halt};
use crate::ring_core::Detached;
use crate::stats::RingStats;
use crate::window::Window;

pub(crate) use prepare::Means;

/// What a frontend and the toolstack agreed on for a ring.
#[derive(Debug)]
pub struct Attachment {
    /// The frontend's domain.
    pub domain: DomId,
    /// Our end of its event channel.
    pub port: Port,
    /// What it is served; `read_only` if either the disk or the toolstack says so.
    pub volume: Volume,
    /// The layout of its ring.
    pub abi: Abi,
    /// Requests consumed before: 0, but for a reconnect.
    pub start: u32,
    /// Where its grants are mapped if it offered `feature-persistent`; without, data is copied.
    pub window: Option<Window>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// In line, without memory that the disk can reach.
    Waiting,
    /// In line, to be submitted.
    Ready,
    /// With the disk.
    InFlight,
    /// Read into buffers, to be copied to the frontend.
    Finished,
}

/// How a request's data is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    None,
    /// The disk's DMA goes to pinned pages of the cache.
    Mapped,
    /// The disk's DMA goes to pages of the buffer pool.
    Copied,
}

/// A request between ring and response. All of it lies together, for the cache's sake.
#[derive(Clone, Debug)]
struct Slot {
    /// When the visit that took it began.
    taken_ns: u64,
    id: u64,
    block: u64,
    sectors: u32,
    /// Segments in the body.
    segments: u8,
    /// How many of `memory` count.
    pieces: u8,
    operation: Operation,
    op: Op,
    state: State,
    path: Path,
    /// Mapping was tried, or would not do.
    must_copy: bool,
    /// A grant copy failed.
    failed: bool,
    /// The private copy of its segments.
    body: Body,
    /// Its memory as the disk is told of it.
    memory: [Segment; MAX_SEGMENTS],
}

impl Slot {
    #[inline]
    fn words(&self) -> &[u64] {
        &self.body[..MAX_SEGMENTS.min(self.segments.into())]
    }

    #[inline]
    fn pieces(&self) -> &[Segment] {
        &self.memory[..MAX_SEGMENTS.min(self.pieces.into())]
    }
}

const FREE_SLOT: Slot = Slot {
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

/// log2 of the nanoseconds in a unit of [`RingStats::latency`].
const LATENCY_SHIFT: u32 = 10;

/// The backend's side of one ring.
#[derive(Debug)]
pub struct Session {
    ring: BackRing,
    domain: DomId,
    port: Port,
    volume: Volume,
    cache: Option<GrantCache>,
    slots: Box<[Slot]>,
    free: Vec<u16>,
    /// Accepted and not yet with the disk, in the order of the ring.
    line: Fifo,
    /// How many at the head of the line are known to be ready.
    ready: usize,
    /// Reads whose data still is in buffers.
    finished: Fifo,
    /// How many at the head of `finished` are in the copy batch.
    copying: usize,
    stats: Arc<RingStats>,
    /// When the current visit began.
    now_ns: u64,
    halt: Option<Halt>,
    halt_reported: bool,
    closing: bool,
}

impl Session {
    /// Takes over the ring in `pages`.
    ///
    /// # Errors
    /// If the pages do not make a ring.
    pub fn new(pages: SharedPages, attachment: Attachment) -> Result<Self, BadRingSize> {
        let ring = BackRing::new(pages, attachment.abi, attachment.start)?;
        let size = ring.size() as usize;
        let domain = attachment.domain;
        Ok(Self {
            ring,
            domain,
            port: attachment.port,
            volume: attachment.volume,
            cache: attachment
                .window
                .map(|window| GrantCache::new(domain, window)),
            slots: vec![FREE_SLOT; size].into(),
            free: (0..size as u16).rev().collect(),
            line: Fifo::new(size),
            ready: 0,
            finished: Fifo::new(size),
            copying: 0,
            stats: Arc::default(),
            now_ns: 0,
            halt: None,
            halt_reported: false,
            closing: false,
        })
    }

    /// The frontend's domain.
    #[must_use]
    pub fn domain(&self) -> DomId {
        self.domain
    }

    /// Our end of the event channel.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// The volume it serves.
    #[must_use]
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The ring's counters, to be read by any core at any time, also after the ring is gone.
    #[must_use]
    pub fn stats(&self) -> Arc<RingStats> {
        Arc::clone(&self.stats)
    }

    /// Why the ring is no longer served, if so.
    #[must_use]
    pub fn halted(&self) -> Option<Halt> {
        self.halt
    }

    /// Requests taken and not answered.
    #[must_use]
    pub fn active(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The reason for the halt, the first time it is asked for.
    pub(crate) fn take_fault(&mut self) -> Option<Halt> {
        if !self.has_fault() {
            return None;
        }
        self.halt_reported = true;
        self.halt
    }

    /// Whether there is a halt that nobody has asked for.
    pub(crate) fn has_fault(&self) -> bool {
        self.halt.is_some() && !self.halt_reported
    }

    /// Stops taking requests for good.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Starts a visit.
    #[inline]
    pub(crate) fn begin_visit(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Takes up to `budget` requests off the ring; answers those that are not for the disk.
    pub(crate) fn intake(&mut self, budget: u32) -> u32 {
        if self.closing || self.halt.is_some() {
            return 0;
        }
        let waiting = match self.ring.pending() {
            Ok(0) => return 0,
            Ok(waiting) => waiting.min(budget),
            Err(halt) => {
                self.halt = Some(halt);
                return 0;
            }
        };
        self.stats.batches.count(waiting.into());
        for taken in 0..waiting {
            if self.take_one().is_none() {
                return taken;
            }
        }
        self.stats.in_flight_peak.raise(self.active() as u64);
        waiting
    }

    fn take_one(&mut self) -> Option<()> {
        let index = *self.free.last()?;
        let slot = &mut self.slots[usize::from(index)];
        let raw = self.ring.take(&mut slot.body)?;
        let request = match Request::decode(&raw, &slot.body, &self.volume) {
            Ok(request) => request,
            Err(reject) => {
                if raw.operation == Operation::DISCARD {
                    self.stats.discards.add(1);
                }
                self.respond(raw.id, raw.operation, reject.status());
                return Some(());
            }
        };
        let sectors = u64::from(request.sectors);
        match request.op {
            Op::Read => {
                self.stats.reads.add(1);
                self.stats.sectors_read.add(sectors);
            }
            Op::Write => {
                self.stats.writes.add(1);
                self.stats.sectors_written.add(sectors);
            }
            Op::Flush => {
                self.stats.flushes.add(1);
                if !self.volume.write_cache {
                    self.respond(raw.id, raw.operation, RspStatus::OKAY);
                    return Some(());
                }
            }
        }
        self.free.pop();
        slot.taken_ns = self.now_ns;
        slot.id = raw.id;
        slot.block = request.block;
        slot.sectors = request.sectors;
        slot.segments = request.segments;
        slot.operation = raw.operation;
        slot.op = request.op;
        slot.state = State::Waiting;
        slot.must_copy = !request.whole_blocks;
        slot.failed = false;
        self.line.push(index);
        Some(())
    }

    /// Submits what is ready, in line order. Returns how many the disk took, and whether it is
    /// full.
    pub(crate) fn submit<Q: DiskQueue>(
        &mut self,
        ring: u16,
        queue: &mut Q,
        pool: &mut BufferPool,
    ) -> (u32, bool) {
        let mut taken = 0;
        while let Some(index) = self.line.get(0) {
            let slot = &mut self.slots[usize::from(index)];
            if slot.state != State::Ready {
                break;
            }
            let submitted = if slot.failed {
                Err(SubmitError::Gone)
            } else {
                let command = Command {
                    op: slot.op,
                    unit: self.volume.unit,
                    block_shift: self.volume.block_shift,
                    block: slot.block,
                    segments: slot.pieces(),
                };
                queue.submit(&command, tag(ring, index))
            };
            match submitted {
                Ok(()) => {
                    slot.state = State::InFlight;
                    self.leave_line();
                    taken += 1;
                }
                Err(SubmitError::Full) => {
                    self.stats.out_of_room.add(1);
                    return (taken, true);
                }
                Err(SubmitError::Scattered) if slot.path == Path::Mapped => {
                    // It keeps its place and is copied at the next visit. Those behind it give
                    // their buffers back, or it might wait for them for ever.
                    self.take_back(index, pool);
                    for at in 1..core::mem::take(&mut self.ready) {
                        if let Some(index) = self.line.get(at)
                            && self.slots[usize::from(index)].path == Path::Copied
                        {
                            self.take_back(index, pool);
                        }
                    }
                    break;
                }
                Err(SubmitError::Scattered | SubmitError::Gone) => {
                    self.leave_line();
                    self.finish(index, RspStatus::ERROR, pool);
                }
            }
        }
        (taken, false)
    }

    fn leave_line(&mut self) {
        self.line.pop();
        self.ready = self.ready.saturating_sub(1);
    }

    /// The disk is done with a request. False if it had no such request.
    pub(crate) fn complete(&mut self, index: u16, result: IoResult, pool: &mut BufferPool) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return false;
        };
        if slot.state != State::InFlight {
            return false;
        }
        let status = match result {
            Ok(()) if slot.op == Op::Read && slot.path == Path::Copied => {
                slot.state = State::Finished;
                self.finished.push(index);
                return true;
            }
            Ok(()) => RspStatus::OKAY,
            Err(IoError::Unsupported) if slot.op == Op::Flush => RspStatus::EOPNOTSUPP,
            Err(_) => RspStatus::ERROR,
        };
        self.finish(index, status, pool);
        true
    }

    /// Adds the copies of finished reads to the batch, as far as they fit.
    pub(crate) fn copy_out(&mut self, ring: u16, copies: &mut CopyBatch) {
        while let Some(index) = self.finished.get(self.copying) {
            if copies.room() < 2 * MAX_SEGMENTS {
                self.stats.out_of_room.add(1);
                return;
            }
            let domain = self.domain;
            self.each_copy(index, |segment, offset, bus, len| {
                let granted = CopyEnd::granted(domain, GrantRef(segment.gref), offset);
                copies.push(CopyOp::to_grant(bus, granted, len), tag(ring, index));
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
            let failed = self.slots[usize::from(index)].failed;
            let status = if failed {
                RspStatus::ERROR
            } else {
                RspStatus::OKAY
            };
            self.finish(index, status, pool);
        }
    }

    /// Notes that a grant copy for a request failed.
    pub(crate) fn copy_failed(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.failed = true;
        }
    }

    /// Publishes what was answered; true if the frontend is to be notified.
    pub(crate) fn publish(&mut self) -> bool {
        let notify = self.ring.publish();
        if notify {
            self.stats.notifications.add(1);
        }
        notify
    }

    /// Asks for a notification of the next request; true if there is something to do already.
    pub(crate) fn arm(&mut self) -> bool {
        if self.closing || self.halt.is_some() {
            return false;
        }
        match self.ring.arm() {
            Ok(found) => found,
            Err(halt) => {
                self.halt = Some(halt);
                true
            }
        }
    }

    /// Takes the session apart, unmapping its cached grants. For one that no core would have; a
    /// core's own is given back by [`crate::RingCore::detach`]. There must be no request in it.
    pub fn dismantle(self, grants: &impl GrantOps) -> Detached {
        Detached {
            consumed: self.ring.consumed(),
            window: self.cache.map(|cache| cache.dismantle(grants)),
            ring: self.ring.into_memory(),
            port: self.port,
            stats: self.stats,
        }
    }

    /// Answers a request and frees all that it held.
    #[inline]
    fn finish(&mut self, index: u16, status: RspStatus, pool: &mut BufferPool) {
        self.release(index, pool);
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Free;
        let (id, operation) = (slot.id, slot.operation);
        let latency = self.now_ns.saturating_sub(slot.taken_ns);
        self.stats.latency.count(latency >> LATENCY_SHIFT);
        self.free.push(index);
        self.respond(id, operation, status);
    }

    #[inline]
    fn respond(&mut self, id: u64, operation: Operation, status: RspStatus) {
        if status != RspStatus::OKAY {
            self.stats.errors.add(1);
        }
        self.ring.push_response(id, operation, status);
    }

    /// Makes a request in line wait again, for buffers.
    fn take_back(&mut self, index: u16, pool: &mut BufferPool) {
        self.release(index, pool);
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Waiting;
        slot.must_copy = true;
        slot.failed = false;
    }

    /// Lets go of a request's memory.
    #[inline]
    fn release(&mut self, index: u16, pool: &mut BufferPool) {
        let slot = &mut self.slots[usize::from(index)];
        let path = core::mem::replace(&mut slot.path, Path::None);
        match (path, &mut self.cache) {
            (Path::Mapped, Some(cache)) => slot.pieces().iter().for_each(|p| cache.unpin(p.bus)),
            (Path::Copied, _) => slot.pieces().iter().for_each(|p| pool.give(p.bus)),
            _ => {}
        }
        slot.pieces = 0;
    }

    /// Walks the pieces that a request's data is copied in: for each the segment, the offset in
    /// its page, the address in the buffers, and the length. No piece crosses a page on either
    /// side, and nothing outside `first_sect..=last_sect` is touched (XSA-403).
    fn each_copy(&self, index: u16, mut copy: impl FnMut(RawSegment, u16, u64, u16)) {
        let slot = &self.slots[usize::from(index)];
        let mut buffers = slot.pieces().iter();
        let mut buffer = Segment::default();
        for &word in slot.words() {
            let segment = RawSegment::from_word(word);
            let (mut offset, mut left) = extent(segment);
            while left > 0 {
                if buffer.len == 0 {
                    let Some(&next) = buffers.next() else { return };
                    buffer = next;
                }
                let len = left.min(buffer.len);
                copy(segment, offset as u16, buffer.bus, len as u16);
                buffer.bus += u64::from(len);
                buffer.len -= len;
                offset += len;
                left -= len;
            }
        }
    }
}

/// The disk's name for the request in slot `index` of ring number `ring`.
fn tag(ring: u16, index: u16) -> Tag {
    Tag(u32::from(ring) << 16 | u32::from(index))
}

/// Offset in the page and length of a segment, in bytes.
#[inline]
fn extent(segment: RawSegment) -> (u32, u32) {
    let first = u32::from(segment.first_sect);
    let last = u32::from(segment.last_sect);
    (first * 512, (last + 1).saturating_sub(first) * 512)
}
