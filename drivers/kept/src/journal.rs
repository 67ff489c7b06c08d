//! The journal of a ring: which of its requests have no response yet, at every instruction.
//!
//! A response goes into the slot of a request that may still be under way, and requests are answered
//! in any order. So what a ring holds does not tell which of its requests were answered, and the
//! indices in it can be written by the guest. The journal tells it, in pages that no start of the
//! kernel touches and no guest reaches. It has as many pages as its ring ([`Journal::pages_for`]),
//! one writer, and needs neither two stores that are atomic together nor a store that is undone.
//!
//! # What is kept
//! A request that is taken off the ring has a *place*, one of as many as the ring has slots, until
//! its response is published. With indices that count up and wrap at 2^32, as the ring's do:
//!
//! | what | meaning |
//! | --- | --- |
//! | `consumed` | requests taken: below it all are taken |
//! | `published` | responses of which the guest may know |
//! | `order[i]` | the place that request number `i`, modulo the number of slots, is taken into |
//! | `entry[p]` | the request in place `p`: a private copy, and its number |
//!
//! The places *ahead*, `order[i]` for `i` from `consumed` up to `published` plus the number of slots,
//! are free; all others hold a request without a published response. There are as many of those as
//! `consumed` is ahead of `published`. In the order of the stores:
//!
//! 1. **take**: requests are copied into `entry[order[consumed]]` and those after it, free places. Then
//!    `consumed` goes up: with that one store the places are in use, and their entries are whole.
//! 2. **answer**, of the request in place `p` by response number `k`: `order[k]` becomes `p`, and the
//!    response is written into the ring, over request number `k`.
//! 3. **publish** of all responses below `k`: `published` becomes `k`. With that one store the places
//!    `order[..k]` are free. Then the ring's own `rsp_prod` becomes `k`.
//!
//! # Why that is right at every instruction
//! A response that is not published was not given. Recovery forgets it and does its request again, of
//! which the guest knows as little as of one that no disk ever saw. So it has to find those requests
//! that are taken and have no published response, each once, whichever store was the last:
//!
//! - In 1, before `consumed` goes up, the entries that change are those of free places, at which
//!   recovery does not look. The requests are still in their slots of the ring and will be taken from
//!   there: only the response of the same number is ever written over one, and that is after the
//!   request was taken, as is every response.
//! - In 2, `k` is below `consumed` and at least `published`. Such places in `order` are not ahead, so
//!   recovery does not look at them, whether written or not. The slot of the ring that is written
//!   over, in part or as a whole, was that of request number `k`, which is in its entry, or was
//!   answered. The guest puts no later request there before response number `k` is published.
//! - In 3, the store that publishes frees just the places of the requests that it answers, and all of
//!   these responses are in the ring by then. If the ring's own index was not written, recovery writes
//!   it again. The guest's next requests are for slots whose responses are published.
//! - A place is taken again only after it was freed, by a store that comes before those of its new
//!   request. Requests are not taken beyond `published` plus the number of slots, whatever the guest
//!   claims ([`Journal::place`]).
//!
//! Recovery ([`Journal::recover`]) only reads. What it finds is there unchanged for the next, so that
//! a death while it is at work, or after it did some of the requests again, is like any other. What
//! the guest can write is not looked at, and what does not fit together is refused.
//!
//! A request is done again from its copy: a guest that changes the slot of one that was taken has no
//! influence on it. To do a request again that was carried out already has no effect that the
//! guest could tell from a late first time, since it knows nothing of the first: it may not reuse the
//! memory, nor count on an order with any request that it sent before it had a response.
//!
//! # Cost
//! Four words and two indices for a request of one page, and an index for each batch of responses. The
//! stores to `order` stand in for a stack of free numbers that a ring would have without a journal.
use core::sync::atomic::{Ordering, fence};

use spindle_hw::SharedPages;

mod layout;
mod memory;
mod recovery;

use layout::JournalLayout;
pub use memory::JournalMemory;
pub use recovery::{BadJournal, Unanswered};

/// Segments of a request that lie in its slot of the ring.
pub const SEGMENTS: usize = 11;

/// What marks the pages of a journal.
const MAGIC: u64 = u64::from_le_bytes(*b"SpndJrnl");

/// The version of the format.
const VERSION: u32 = 1;

/// A journal's pages, and where they are in kept memory.
#[derive(Debug)]
pub struct JournalPages {
    /// As many as its ring has.
    pub pages: SharedPages,
    /// The number of the first in kept memory: the name of the ring for records and for
    /// [`crate::AtWork`]. Any, where there is no kept memory.
    pub first: u32,
}

/// A request as it lies in an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its number: how many requests of the ring were taken before it.
    pub index: u32,
    /// The first four bytes of its slot.
    pub head: u32,
    /// Given back in the response.
    pub id: u64,
    /// Start, in 512-byte sectors.
    pub sector: u64,
    /// Its first segment, or what other operations keep there.
    pub first: u64,
}

/// A request's or response's number, modulo the number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotNumber(u32);

impl SlotNumber {
    /// The number of the slot in the ring.
    #[inline]
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// The journal of a ring, for its one writer.
#[derive(Clone, Debug)]
pub struct Journal<J = SharedPages> {
    memory: J,
    layout: JournalLayout,
}

impl Journal {
    /// Pages that the journal of a ring of so many pages needs: as many.
    #[must_use]
    pub const fn pages_for(ring_pages: usize) -> usize {
        ring_pages
    }
}

impl<J: JournalMemory> Journal<J> {
    /// Begins the journal of a ring of `requests` slots, a power of two, on which `start` requests
    /// have been taken and answered. What the memory held is gone.
    ///
    /// # Errors
    /// [`BadJournal::Short`], with the memory.
    pub fn begin(memory: J, requests: u32, start: u32) -> Result<Self, (BadJournal, J)> {
        let Some(layout) = JournalLayout::of(requests, memory.size()) else {
            return Err((BadJournal::Short(memory.size()), memory));
        };
        let journal = Self { memory, layout };
        // No journal as long as it is not whole.
        journal.memory.set_word(layout::MARK, 0);
        fence(Ordering::Release);
        journal.memory.set_index(layout::VERSION, VERSION);
        journal.memory.set_index(layout::REQUESTS, requests);
        journal.memory.set_index(layout::CONSUMED, start);
        journal.memory.set_index(layout::PUBLISHED, start);
        for number in 0..requests {
            let slot = journal.slot(start.wrapping_add(number));
            journal.answer(slot, number as u16);
        }
        fence(Ordering::Release);
        journal.memory.set_word(layout::MARK, MAGIC);
        fence(Ordering::Release);
        Ok(journal)
    }

    /// Slots of the ring.
    #[must_use]
    pub const fn requests(&self) -> u32 {
        self.layout.requests()
    }

    /// The slot of the ring for request or response number `index`.
    #[inline(always)]
    pub const fn slot(&self, index: u32) -> SlotNumber {
        self.layout.slot(index)
    }

    /// The place that the next request goes into, or a later one, by its number. It is free if fewer
    /// requests than the ring has slots were taken since the last that is published.
    #[inline(always)]
    pub fn place(&self, request: SlotNumber) -> u16 {
        self.memory.place(self.layout.order(request))
    }

    /// Copies a request into a free place. Of the segments of its slot it has the first; what there
    /// are more go in by [`Journal::write_rest`].
    #[inline(always)]
    pub fn write(&self, place: u16, request: &JournalEntry) {
        let words = [
            u64::from(request.index) << 32 | u64::from(request.head),
            request.id,
            request.sector,
            request.first,
        ];
        self.memory.set_entry(self.layout.entry(place), words);
    }

    /// Copies further segments of the request that is going into a free place: those from the second
    /// on, at most 10.
    #[inline]
    pub fn write_rest(&self, place: u16, words: &[u64]) {
        let from = self.layout.rest(place);
        for (at, &word) in words.iter().take(SEGMENTS - 1).enumerate() {
            self.memory.set_word(from + at * size_of::<u64>(), word);
        }
    }

    /// All requests below number `consumed` are taken; they are in their places. To be called before
    /// any of them is answered.
    #[inline(always)]
    pub fn take(&self, consumed: u32) {
        self.memory.set_index(layout::CONSUMED, consumed);
        // Responses are written over requests after that. On x86 this is no instruction.
        fence(Ordering::Release);
    }

    /// Whether [`Journal::take`] has said so.
    pub fn is_taken(&self, consumed: u32) -> bool {
        self.memory.index(layout::CONSUMED) == consumed
    }

    /// The response by this number is to the request in `place`.
    #[inline(always)]
    pub fn answer(&self, response: SlotNumber, place: u16) {
        self.memory.set_place(self.layout.order(response), place);
    }

    /// All responses below number `published` are in the ring. To be called before the guest learns
    /// of them by a store with [`Ordering::Release`], behind which there is a fence before any
    /// further request is taken.
    #[inline(always)]
    pub fn publish(&self, published: u32) {
        self.memory.set_index(layout::PUBLISHED, published);
    }

    /// The request in a place that is not free, with all that its slot had of segments: of those
    /// that its second byte does not count, what is there is left of earlier requests.
    pub fn read(&self, place: u16, body: &mut [u64; SEGMENTS]) -> JournalEntry {
        let [word, id, sector, first] = self.memory.entry(self.layout.entry(place));
        let [start, rest @ ..] = body;
        *start = first;
        let from = self.layout.rest(place);
        for (at, word) in rest.iter_mut().enumerate() {
            *word = self.memory.word(from + at * size_of::<u64>());
        }
        JournalEntry {
            index: (word >> 32) as u32,
            head: word as u32,
            id,
            sector,
            first,
        }
    }

    /// Gives the memory back.
    pub fn into_memory(self) -> J {
        self.memory
    }

    /// The memory.
    pub fn memory(&self) -> &J {
        &self.memory
    }
}
