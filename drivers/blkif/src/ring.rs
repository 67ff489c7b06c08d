//! The backend's end of a shared ring (`public/io/ring.h`): indices, private copies, hold-off.
//!
//! The frontend writes `req_prod` and `rsp_event`, the backend `rsp_prod` and `req_event`. Both
//! count up for ever and wrap at 2^32. A slot is used by a request first and by a response later;
//! the backend copies a request out once and never looks at the slot again.

use core::sync::atomic::{Ordering, fence};

use spindle_hw::{PAGE_SIZE, SharedPages};

use crate::abi::{Abi, MAX_RING_PAGES, MAX_SEGMENTS, Operation, RING_HEADER, RspStatus};

/// The index words at the start of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Index {
    /// Requests produced, by the frontend.
    ReqProd = 0,
    /// The request that the backend wants to be notified of.
    ReqEvent = 4,
    /// Responses produced, by the backend.
    RspProd = 8,
    /// The response that the frontend wants to be notified of.
    RspEvent = 12,
}

/// The memory of a ring: real pages, or a model checker's.
pub trait RingMemory {
    /// Size in bytes.
    fn bytes(&self) -> usize;
    /// Reads an index word.
    fn load(&self, index: Index, order: Ordering) -> u32;
    /// Writes an index word.
    fn store(&self, index: Index, value: u32, order: Ordering);
    /// A sequentially consistent fence.
    fn fence(&self);
    /// Reads a word of a slot, relaxed. `offset` is a multiple of 8 inside the ring.
    fn read(&self, offset: usize) -> u64;
    /// Writes a word of a slot, relaxed.
    fn write(&self, offset: usize, value: u64);
}

impl RingMemory for SharedPages {
    fn bytes(&self) -> usize {
        self.len()
    }

    #[inline]
    fn load(&self, index: Index, order: Ordering) -> u32 {
        self.u32_at(index as usize).load(order)
    }

    #[inline]
    fn store(&self, index: Index, value: u32, order: Ordering) {
        self.u32_at(index as usize).store(value, order);
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn read(&self, offset: usize) -> u64 {
        self.u64_at(offset).load(Ordering::Relaxed)
    }

    #[inline]
    fn write(&self, offset: usize, value: u64) {
        self.u64_at(offset).store(value, Ordering::Relaxed);
    }
}

/// Why a ring can no longer be served: the frontend broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// `req_prod` claims more requests than there are free slots, or went backwards.
    #[error("frontend moved req_prod to {req_prod} with {req_cons} consumed, {rsp_prod} answered")]
    Overflow {
        /// What the frontend wrote.
        req_prod: u32,
        /// Requests consumed so far.
        req_cons: u32,
        /// Responses produced so far.
        rsp_prod: u32,
    },
}

/// The pages offered do not make a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ring of {0} bytes: must be 1, 2, 4, 8 or 16 pages")]
pub struct BadRingSize(pub usize);

/// The words of a slot that precede its body, which every layout has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawRequest {
    /// What to do.
    pub operation: Operation,
    /// The byte after it: a number of segments, flags, or an inner operation.
    pub detail: u8,
    /// Given back in the response.
    pub id: u64,
    /// Start, in 512-byte sectors.
    pub sector: u64,
}

/// What follows the header in a slot: segments, or what other operations keep there. The same in
/// every layout.
pub type Body = [u64; MAX_SEGMENTS];

/// The backend's end of a ring.
#[derive(Debug)]
pub struct BackRing<M = SharedPages> {
    memory: M,
    abi: Abi,
    /// Number of slots, a power of two.
    size: u32,
    /// The last `req_prod` that passed the overflow check.
    req_seen: u32,
    req_cons: u32,
    /// Responses written into slots.
    rsp_prod: u32,
    /// Responses that the frontend was told of.
    published: u32,
}

impl<M: RingMemory> BackRing<M> {
    /// Takes over a ring on which `start` requests have been consumed and answered: 0, but for a
    /// reconnect.
    ///
    /// # Errors
    /// If the memory is not a power of two of pages, or more than 16.
    pub fn new(memory: M, abi: Abi, start: u32) -> Result<Self, BadRingSize> {
        let bytes = memory.bytes();
        let pages = bytes / PAGE_SIZE;
        if !pages.is_power_of_two() || pages > MAX_RING_PAGES || !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(BadRingSize(bytes));
        }
        let fit = ((bytes - RING_HEADER) / abi.slot_bytes()) as u32;
        Ok(Self {
            memory,
            abi,
            size: 1 << fit.ilog2(),
            req_seen: start,
            req_cons: start,
            rsp_prod: start,
            published: start,
        })
    }

    /// Number of slots.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// How many requests wait to be taken.
    ///
    /// # Errors
    /// [`Halt::Overflow`]: nothing further can be believed.
    #[inline]
    pub fn pending(&mut self) -> Result<u32, Halt> {
        // Acquire: the requests were written before the index that announces them.
        let req_prod = self.memory.load(Index::ReqProd, Ordering::Acquire);
        let waiting = req_prod.wrapping_sub(self.req_cons);
        let taken = self.req_cons.wrapping_sub(self.rsp_prod);
        if waiting > self.size - taken {
            return Err(Halt::Overflow {
                req_prod,
                req_cons: self.req_cons,
                rsp_prod: self.rsp_prod,
            });
        }
        self.req_seen = req_prod;
        Ok(waiting)
    }

    /// Copies out the next of the requests that [`BackRing::pending`] counted, if there is one.
    /// Of `body` only the words that the request uses are written.
    #[inline]
    pub fn take(&mut self, body: &mut Body) -> Option<RawRequest> {
        if self.req_cons == self.req_seen {
            return None;
        }
        let at = self.slot(self.req_cons);
        let head = self.memory.read(at);
        let request = RawRequest {
            operation: Operation(head as u8),
            detail: (head >> 8) as u8,
            id: self.memory.read(at + 8),
            sector: self.memory.read(at + 16),
        };
        let words = match request.operation {
            Operation::READ | Operation::WRITE => usize::from(request.detail).min(MAX_SEGMENTS),
            _ => 0,
        };
        let mut from = at + 24;
        for word in &mut body[..words] {
            *word = self.memory.read(from);
            from += 8;
        }
        self.req_cons = self.req_cons.wrapping_add(1);
        Some(request)
    }

    /// Writes the response to a request that was taken; the frontend hears of it at
    /// [`BackRing::publish`].
    #[inline]
    pub fn push_response(&mut self, id: u64, operation: Operation, status: RspStatus) {
        debug_assert_ne!(self.rsp_prod, self.req_cons, "answered more than was asked");
        let at = self.slot(self.rsp_prod);
        self.memory.write(at, id);
        // Whole words, so the padding goes out as zeroes (XSA-216).
        let outcome = u64::from(operation.0) | u64::from(status.0 as u16) << 16;
        self.memory.write(at + 8, outcome);
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
    }

    /// Publishes the responses pushed since the last time; true if the frontend wants to be
    /// notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.rsp_prod);
        if old == new {
            return false;
        }
        // Release: the frontend sees the responses before the index that announces them.
        self.memory.store(Index::RspProd, new, Ordering::Release);
        self.published = new;
        // The frontend writes rsp_event, then looks at rsp_prod; we do it the other way round.
        // With a full fence on each side at least one of us sees the other's store, so the last
        // response is either found or notified.
        self.memory.fence();
        let event = self.memory.load(Index::RspEvent, Ordering::Relaxed);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Asks to be notified of the next request, then looks once more; true if one is there
    /// already.
    ///
    /// # Errors
    /// As [`BackRing::pending`].
    pub fn arm(&mut self) -> Result<bool, Halt> {
        if self.pending()? > 0 {
            return Ok(true);
        }
        let next = self.req_cons.wrapping_add(1);
        self.memory.store(Index::ReqEvent, next, Ordering::Relaxed);
        // As in `publish`: req_event must be out before req_prod is read again.
        self.memory.fence();
        Ok(self.pending()? > 0)
    }

    /// Requests consumed so far: where a reconnect would start.
    #[must_use]
    pub fn consumed(&self) -> u32 {
        self.req_cons
    }

    /// Gives the ring's memory back.
    pub fn into_memory(self) -> M {
        self.memory
    }

    #[inline]
    fn slot(&self, index: u32) -> usize {
        RING_HEADER + self.abi.slot_bytes() * (index & (self.size - 1)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ordering::Relaxed;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn ring(pages: usize, start: u32) -> (BackRing, SharedPages) {
        let ours = SharedPages::host(pages, 0);
        let theirs = ours.alias();
        for index in [Index::ReqProd, Index::RspProd] {
            theirs.store(index, start, Relaxed);
        }
        for index in [Index::ReqEvent, Index::RspEvent] {
            theirs.store(index, start.wrapping_add(1), Relaxed);
        }
        (BackRing::new(ours, Abi::Native, start).unwrap(), theirs)
    }

    #[test]
    fn ring_sizes_are_those_of_the_header_macros() {
        for (pages, slots) in [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)] {
            assert_eq!(ring(pages, 0).0.size(), slots);
        }
        for pages in [0, 3, 32] {
            let memory = SharedPages::host(pages, 0);
            assert!(BackRing::new(memory, Abi::Native, 0).is_err());
        }
    }

    #[test]
    fn a_producer_beyond_the_free_slots_or_backwards_is_refused() {
        let (mut ring, front) = ring(1, 5);
        for bad in [4, 5 + 33, 5u32.wrapping_sub(32), 5 + 0x8000_0000] {
            front.store(Index::ReqProd, bad, Relaxed);
            assert!(ring.pending().is_err(), "{bad}");
            assert!(ring.arm().is_err());
        }
        front.store(Index::ReqProd, 5 + 32, Relaxed);
        assert_eq!(ring.pending(), Ok(32));
        // Two taken and not answered: those slots are not free.
        let mut body = [0; MAX_SEGMENTS];
        ring.take(&mut body).unwrap();
        ring.take(&mut body).unwrap();
        front.store(Index::ReqProd, 5 + 33, Relaxed);
        assert!(ring.pending().is_err());
        front.store(Index::ReqProd, 6, Relaxed);
        assert!(ring.pending().is_err());
    }

    #[test]
    fn only_counted_requests_are_taken() {
        let (mut ring, front) = ring(1, 0);
        let mut body = [0; MAX_SEGMENTS];
        front.store(Index::ReqProd, 1, Relaxed);
        assert_eq!(ring.take(&mut body), None);
        assert_eq!(ring.pending(), Ok(1));
        assert!(ring.take(&mut body).is_some());
        assert_eq!(ring.take(&mut body), None);
    }

    #[test]
    fn a_response_fills_its_words_and_leaves_no_padding() {
        let (mut ring, front) = ring(1, 0);
        front.write_bytes(RING_HEADER, &[0xa5; 112]);
        front.store(Index::ReqProd, 1, Relaxed);
        ring.pending().unwrap();
        let mut body = [0; MAX_SEGMENTS];
        let request = ring.take(&mut body).unwrap();
        ring.push_response(request.id, Operation(0xa5), RspStatus::EOPNOTSUPP);
        let mut bytes = [0; 16];
        front.read_bytes(RING_HEADER, &mut bytes);
        assert_eq!(bytes[..8], [0xa5; 8]);
        assert_eq!(bytes[8..], [0xa5, 0, 0xfe, 0xff, 0, 0, 0, 0]);
    }

    /// A frontend that keeps the indices as plain counters and follows the header's macros.
    struct Front {
        memory: SharedPages,
        req_prod: u32,
        rsp_cons: u32,
        asleep: bool,
    }

    impl Front {
        fn push(&mut self, size: u32, id: u64) -> bool {
            let at = RING_HEADER + 112 * (self.req_prod & (size - 1)) as usize;
            self.memory.write(at, 0);
            self.memory.write(at + 8, id);
            self.req_prod = self.req_prod.wrapping_add(1);
            self.memory.store(Index::ReqProd, self.req_prod, Relaxed);
            let event = self.memory.load(Index::ReqEvent, Relaxed);
            self.req_prod.wrapping_sub(event) < 1
        }
    }

    proptest! {
        /// ring.h: over any interleaving of whole steps, every request is answered once and in
        /// the order of answering, the ring never halts, and nobody sleeps through an event.
        #[test]
        fn agrees_with_a_model_frontend(
            start in prop_oneof![Just(0u32), Just(u32::MAX - 3), any::<u32>()],
            order in 0u32..2,
            steps in prop::collection::vec((0u8..6, 1u32..40), 1..200),
        ) {
            let (mut ring, memory) = ring(1 << order, start);
            let size = ring.size();
            let mut front = Front { memory, req_prod: start, rsp_cons: start, asleep: true };
            let mut back_asleep = true;
            let mut taken = Vec::new();
            let mut answered = Vec::new();
            let mut body = [0; MAX_SEGMENTS];
            let mut next = 0u64;
            for (step, count) in steps {
                match step {
                    0 | 1 => for _ in 0..count {
                        if front.req_prod.wrapping_sub(front.rsp_cons) < size {
                            back_asleep &= !front.push(size, next);
                            next += 1;
                        }
                    },
                    2 => {
                        ring.pending().unwrap();
                        for _ in 0..count {
                            taken.extend(ring.take(&mut body).map(|r| r.id));
                        }
                    }
                    3 => {
                        for _ in 0..count.min(taken.len() as u32) {
                            let id = taken.swap_remove(taken.len() / 2);
                            ring.push_response(id, Operation::READ, RspStatus::OKAY);
                            answered.push(id);
                        }
                        front.asleep &= !ring.publish();
                    }
                    4 => {
                        let prod = front.memory.load(Index::RspProd, Relaxed);
                        while front.rsp_cons != prod {
                            let at = RING_HEADER + 112 * (front.rsp_cons & (size - 1)) as usize;
                            prop_assert_eq!(front.memory.read(at), answered.remove(0));
                            front.rsp_cons = front.rsp_cons.wrapping_add(1);
                        }
                        let event = front.rsp_cons.wrapping_add(1);
                        front.memory.store(Index::RspEvent, event, Relaxed);
                        front.asleep = true;
                    }
                    _ => back_asleep = !ring.arm().unwrap(),
                }
                if back_asleep {
                    prop_assert_eq!(ring.pending(), Ok(0), "slept through a request");
                }
                if front.asleep {
                    let prod = front.memory.load(Index::RspProd, Relaxed);
                    prop_assert_eq!(prod, front.rsp_cons, "slept through a response");
                }
            }
            prop_assert_eq!(ring.pending().unwrap() as u64 + ring.consumed().wrapping_sub(start) as u64, next);
        }
    }
}
