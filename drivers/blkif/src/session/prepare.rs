//! Giving a request memory that the disk can reach: pages of the cache, or buffers to copy
//! through.

use spindle_block::{Op, Segment};
use spindle_hw::PAGE_SIZE;
use spindle_xen::grant::{CopyEnd, CopyOp, GrantOps, GrantRef};

use super::{Path, Session, State, extent, tag};
use crate::abi::{MAX_SEGMENTS, RawSegment};
use crate::batch::{CopyBatch, MapBatch};
use crate::pool::BufferPool;

/// What a core lends its rings while they prepare their requests.
pub(crate) struct Means<'a, G> {
    pub(crate) grants: &'a G,
    pub(crate) maps: &'a mut MapBatch,
    pub(crate) copies: &'a mut CopyBatch,
    pub(crate) pool: &'a mut BufferPool,
}

/// What became of an attempt to use mapped pages.
enum Mapping {
    Done,
    /// The batch is full.
    Later,
    /// No frame is to be had.
    Impossible,
}

impl Session {
    /// Prepares the requests in line, in order, until one finds no room. Grants not in the cache
    /// are mapped by one hypercall; copies are left in the core's batch.
    pub(crate) fn prepare<G: GrantOps>(&mut self, ring: u16, means: &mut Means<'_, G>) {
        if self.ready == self.line.len() {
            return;
        }
        if let Some(cache) = &mut self.cache {
            cache.next_turn();
        }
        means.pool.start_turn(ring);
        let start = self.ready;
        while let Some(&index) = self.line.get(self.ready) {
            if !self.prepare_one(ring, index, means) {
                self.stats.out_of_room.add(1);
                break;
            }
            self.ready += 1;
        }
        if !means.maps.is_empty() {
            self.map_misses(ring, start, means);
        }
    }

    /// Prepares one request; false if it has to wait.
    fn prepare_one<G: GrantOps>(
        &mut self,
        ring: u16,
        index: u16,
        means: &mut Means<'_, G>,
    ) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        if slot.state == State::Ready {
            return true;
        }
        if slot.op == Op::Flush {
            slot.state = State::Ready;
            return true;
        }
        if !slot.must_copy {
            match self.map(index, means) {
                Mapping::Done => return true,
                Mapping::Later => return false,
                Mapping::Impossible => {}
            }
        }
        self.buffer(ring, index, means)
    }

    /// Pins a request's pages in the cache.
    fn map<G: GrantOps>(&mut self, index: u16, means: &mut Means<'_, G>) -> Mapping {
        let Some(cache) = &mut self.cache else {
            return Mapping::Impossible;
        };
        if means.maps.room() < MAX_SEGMENTS {
            return Mapping::Later;
        }
        let slot = &mut self.slots[usize::from(index)];
        let count = usize::from(slot.segments);
        let pieces = &mut self.pieces[usize::from(index)][..count];
        let words = &self.bodies[usize::from(index)][..count];
        for (i, &word) in words.iter().enumerate() {
            let segment = RawSegment::from_word(word);
            let page = cache.pin(segment.gref).or_else(|| {
                if cache.is_full() {
                    let (unmapped, lost) = cache.evict(means.grants);
                    self.stats.grants_evicted.add(unmapped as u64);
                    self.stats.frames_lost.add(lost as u64);
                }
                let (page, op) = cache.reserve(segment.gref)?;
                means.maps.push(op);
                Some(page)
            });
            let Some(page) = page else {
                // All or nothing. What was reserved for it is still mapped, for the next time.
                pieces[..i].iter().for_each(|piece| cache.unpin(piece.bus));
                return Mapping::Impossible;
            };
            let (offset, len) = extent(segment);
            pieces[i] = Segment {
                bus: page + u64::from(offset),
                len,
            };
        }
        slot.pieces = slot.segments;
        slot.path = Path::Mapped;
        slot.state = State::Ready;
        Mapping::Done
    }

    /// Maps the batch of misses. A request of which any page could not be mapped lets go of all
    /// of them (XSA-365) and is copied instead, which also settles whether the grant is any good.
    fn map_misses<G: GrantOps>(&mut self, ring: u16, start: usize, means: &mut Means<'_, G>) {
        means.maps.execute(means.grants);
        let Some(cache) = &mut self.cache else {
            means.maps.clear();
            return;
        };
        let ops = means.maps.ops();
        let mapped = ops.iter().filter(|op| cache.record(op)).count();
        let all = mapped == ops.len();
        means.maps.clear();
        self.stats.grants_mapped.add(mapped as u64);
        if all {
            return;
        }
        let prepared = self.ready;
        for at in start..prepared {
            let Some(&index) = self.line.get(at) else {
                return;
            };
            if self.is_whole(index) {
                continue;
            }
            self.release(index, means.pool);
            let slot = &mut self.slots[usize::from(index)];
            slot.state = State::Waiting;
            slot.must_copy = true;
            if !self.buffer(ring, index, means) {
                // It and what is behind it wait; what is behind keeps what it has.
                self.stats.out_of_room.add(1);
                self.ready = self.ready.min(at);
            }
        }
    }

    /// Whether a request has all the pages that it was promised.
    fn is_whole(&self, index: u16) -> bool {
        let slot = &self.slots[usize::from(index)];
        let pieces = &self.pieces[usize::from(index)][..usize::from(slot.pieces)];
        match &self.cache {
            Some(cache) if slot.path == Path::Mapped => {
                pieces.iter().all(|piece| cache.is_mapped(piece.bus))
            }
            _ => true,
        }
    }

    /// Gives a request buffers, filled by the next copy batch if it is a write; false if buffers
    /// or room in the batch are short.
    fn buffer<G: GrantOps>(&mut self, ring: u16, index: u16, means: &mut Means<'_, G>) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let write = slot.op == Op::Write;
        let mut left = slot.sectors * 512;
        let pages = left.div_ceil(PAGE_SIZE as u32) as usize;
        if write && means.copies.room() < 2 * MAX_SEGMENTS {
            return false;
        }
        if !means.pool.claim(ring, pages) {
            return false;
        }
        slot.path = Path::Copied;
        slot.state = State::Ready;
        slot.pieces = 0;
        // Filled page by page, so that the disk sees one run without holes.
        for piece in &mut self.pieces[usize::from(index)][..pages] {
            let Some(bus) = means.pool.take() else {
                break;
            };
            let len = left.min(PAGE_SIZE as u32);
            *piece = Segment { bus, len };
            left -= len;
            slot.pieces += 1;
        }
        self.stats.copied_requests.add(1);
        if write {
            let domain = self.domain;
            self.each_copy(index, |segment, offset, bus, len| {
                let granted = CopyEnd::granted(domain, GrantRef(segment.gref), offset);
                let op = CopyOp::from_grant(granted, bus, len);
                means.copies.push(op, tag(ring, index));
            });
        }
        true
    }
}
