//! `BLKIF_OP_INDIRECT`: requests whose segments are listed on a granted page.
//!
//! The page is read once, into the ring's own memory, and only that copy is looked at. A frontend
//! with persistent grants keeps such pages as well, so that they are read where they are mapped;
//! of others they are copied by the hypercall that carries data, into a page of the buffer pool
//! which is free again when the visit ends.

use spindle_block::Segment;
use spindle_hw::PAGE_SIZE;
use spindle_xen::grant::{CopyEnd, CopyOp, GrantOps, GrantRef};

use super::intake::read;
use super::prepare::Means;
use super::slot::{Path, State};
use super::{Session, tag};
use crate::abi::MAX_INDIRECT_SEGMENTS;
use crate::pool::{BufferPool, Purpose};
use crate::request::{self, Reject};

// All segments of the largest request are listed on its first page.
const _: () = assert!(MAX_INDIRECT_SEGMENTS * size_of::<u64>() <= PAGE_SIZE);

impl Session {
    /// Reads the list of a request in line if it is at hand; false if it has to be mapped or
    /// copied first.
    pub(super) fn read_list<G: GrantOps>(&mut self, index: u16, means: &mut Means<'_, G>) -> bool {
        if self.read_list_directly(index, means.grants) {
            return true;
        }
        let slot = &mut self.slots[usize::from(index)];
        let tried = core::mem::replace(&mut slot.must_copy, true);
        let Some(cache) = self.cache.as_mut().filter(|_| self.persistent && !tried) else {
            return false;
        };
        // Mapped for the next visit. If that fails it is copied.
        if let Err(missing) = cache.find_or_miss(slot.list())
            && means.maps.room() > 0
            && let Some((_, op)) = cache.reserve(missing)
        {
            means.maps.push(op);
        }
        false
    }

    /// Reads the list of a request if it is mapped; if not, nothing has changed.
    pub(super) fn read_list_directly<G: GrantOps>(&mut self, index: u16, grants: &G) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let cache = self.cache.as_mut().filter(|_| self.persistent);
        let (Some(cache), Some(run)) = (cache, slot.run) else {
            return false;
        };
        let count = usize::from(slot.segments);
        let words = &mut self.arena.parts_mut(run).0[..count];
        let read = read(cache, slot.list(), words, grants);
        if read {
            self.check_list(index);
        }
        read
    }

    /// Copies lists from the place `start` in line on, with the batch of this visit.
    pub(super) fn fetch_lists<G: GrantOps>(
        &mut self,
        ring: u16,
        start: usize,
        means: &mut Means<'_, G>,
    ) {
        let holder = self.holder(ring);
        for at in start..self.line.len() {
            let Some(index) = self.line.get(at) else {
                return;
            };
            let slot = &self.slots[usize::from(index)];
            if slot.state != State::Listed {
                continue;
            }
            // Strictly in line order, as everything that may run out.
            if !slot.must_copy && self.cache.is_some() && self.persistent {
                return;
            }
            if !means.pool.has_any() {
                let slot = &mut self.slots[usize::from(index)];
                slot.failed = true;
                slot.state = State::Ready;
                continue;
            }
            let fits = means.copies.room() > 0;
            let page = fits.then(|| means.pool.take_one(holder, Purpose::FromGuest));
            let Some(bus) = page.flatten() else {
                self.stats.out_of_room.add(1);
                return;
            };
            let slot = &mut self.slots[usize::from(index)];
            let len = slot.segments * size_of::<u64>() as u16;
            let granted = CopyEnd::granted(self.domain, GrantRef(slot.list()), 0);
            means
                .copies
                .push(CopyOp::from_grant(granted, bus, len), tag(ring, index));
            slot.memory = Segment::new(bus, len.into());
            slot.state = State::Fetching;
            self.fetching += 1;
        }
    }

    /// Takes in the lists that the visit's batch has copied.
    pub(crate) fn take_lists(&mut self, pool: &mut BufferPool) {
        let mut at = self.ready;
        while self.fetching > 0
            && let Some(index) = self.line.get(at)
        {
            at += 1;
            let slot = &mut self.slots[usize::from(index)];
            if slot.state != State::Fetching {
                continue;
            }
            self.fetching -= 1;
            let bus = slot.memory.bus();
            if let Some(run) = slot.run {
                let count = usize::from(slot.segments);
                pool.read(bus, &mut self.arena.parts_mut(run).0[..count]);
            }
            pool.give(bus);
            if slot.failed {
                slot.state = State::Ready;
            } else {
                self.check_list(index);
            }
        }
    }

    /// Validates the private copy of a list; the request then waits for memory, or fails when it
    /// is at the head of the line.
    fn check_list(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        let (words, _) = slot.parts(&self.arena);
        let mut listed = request::listed(slot.raw.sector, words, &self.volume);
        let mut own = listed.map_or(0, |(_, sectors, _)| sectors);
        if listed == Err(Reject::Range) && self.unaligned.is_some() {
            listed = self.enclose_list(index).map(|(block, sectors, all)| {
                own = sectors;
                (block, all, false)
            });
        }
        let slot = &mut self.slots[usize::from(index)];
        match listed {
            Ok((block, sectors, whole_blocks)) => {
                slot.block = block;
                slot.sectors = sectors;
                slot.must_copy = !whole_blocks;
                slot.state = State::Waiting;
                let (requests, moved) = if slot.op.writes() {
                    (&self.stats.writes, &self.stats.sectors_written)
                } else {
                    (&self.stats.reads, &self.stats.sectors_read)
                };
                requests.add(1);
                moved.add(own.into());
            }
            Err(_) => {
                slot.path = Path::None;
                slot.failed = true;
                slot.state = State::Ready;
            }
        }
    }
}
