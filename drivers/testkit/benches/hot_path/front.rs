//! A frontend that asks for as many pages at a time as its case says.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use spindle_blkif::abi::{Operation, RING_HEADER};
use spindle_hw::{PAGE_SIZE, SharedPages};

use crate::case::Case;

/// Bytes of a request slot.
const SLOT: usize = 112;
const SLOTS: u32 = 32;
const REQ_PROD: usize = 0;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;
/// References below this are Xen's.
const FIRST_GREF: u64 = 8;
/// Places on the disk that requests are for.
const PLACES: u64 = 256;

/// The pages that list the segments of indirect requests, and the reference to the first of them.
pub(crate) struct Lists {
    pub(crate) pages: SharedPages,
    pub(crate) first: u32,
}

/// The frontend of one ring.
pub(crate) struct Front {
    ring: SharedPages,
    lists: SharedPages,
    operation: Operation,
    /// Requests that it asks for at once.
    pub(crate) batch: u32,
    pages: u16,
    is_indirect: bool,
    in_turn: u64,
    produced: u32,
    /// Pages used so far.
    used: u64,
}

impl Front {
    pub(crate) fn new(case: Case, ring: SharedPages) -> Self {
        Self {
            ring,
            lists: SharedPages::host(SLOTS as usize, 0),
            operation: if case.write {
                Operation::WRITE
            } else {
                Operation::READ
            },
            batch: case.batch,
            pages: case.pages,
            is_indirect: case.is_indirect(),
            in_turn: case.in_turn,
            produced: 0,
            used: 0,
        }
    }

    /// Its lists, if its requests are indirect.
    pub(crate) fn lists(&self) -> Option<Lists> {
        self.is_indirect.then(|| Lists {
            pages: self.lists.alias(),
            first: self.list(0) as u32,
        })
    }

    /// The reference to the list of the request in a slot: those after the pages.
    fn list(&self, slot: u32) -> u64 {
        FIRST_GREF + self.in_turn + u64::from(slot)
    }

    fn slot(index: u32) -> usize {
        RING_HEADER + SLOT * (index % SLOTS) as usize
    }

    /// The next page, all of it, as a segment.
    fn segment(&mut self) -> u64 {
        let page = self.used % self.in_turn;
        self.used += 1;
        (FIRST_GREF + page) | 7 << 40
    }

    /// Asks for a batch, with the next of its pages and a sector that depends on them.
    pub(crate) fn ask(&mut self) {
        for _ in 0..self.batch {
            let n = u64::from(self.produced);
            let at = Self::slot(self.produced);
            let sector = n % PLACES * 8 * u64::from(self.pages);
            let operation = u64::from(self.operation.0);
            let head = if self.is_indirect {
                let list = self.produced % SLOTS;
                for i in 0..usize::from(self.pages) {
                    let segment = self.segment();
                    let offset = list as usize * PAGE_SIZE + 8 * i;
                    self.lists.u64_at(offset).store(segment, Relaxed);
                }
                let first = self.ring.u64_at(at + 24);
                first.store(self.list(list) << 32, Relaxed);
                let pages = u64::from(self.pages) << 16;
                u64::from(Operation::INDIRECT.0) | operation << 8 | pages
            } else {
                for i in 0..usize::from(self.pages) {
                    let segment = self.segment();
                    self.ring.u64_at(at + 24 + 8 * i).store(segment, Relaxed);
                }
                operation | u64::from(self.pages) << 8
            };
            let words = self.ring.u64s_at::<3>(at);
            words[0].store(head, Relaxed);
            words[1].store(n, Relaxed);
            words[2].store(sector, Relaxed);
            self.produced = self.produced.wrapping_add(1);
        }
        self.ring.u32_at(REQ_PROD).store(self.produced, Release);
    }

    /// Whether all of a batch has been answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.ring.u32_at(RSP_PROD).load(Acquire) == self.produced
    }

    /// Takes the answers to a batch, which are all there and good.
    pub(crate) fn hear(&mut self) {
        assert!(self.is_answered());
        for back in 1..=self.batch {
            let slot = Self::slot(self.produced.wrapping_sub(back));
            let words = self.ring.u64s_at::<2>(slot);
            assert_eq!(words[1].load(Relaxed), self.operation.0.into());
        }
        self.listen();
    }

    /// It wants to hear of the whole of the next batch, as a busy frontend does.
    pub(crate) fn listen(&self) {
        let event = self.produced.wrapping_add(self.batch);
        self.ring.u32_at(RSP_EVENT).store(event, Release);
    }
}
