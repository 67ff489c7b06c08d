//! The backend's end of a shared ring (`public/io/ring.h`): indices, private copies, hold-off.
//!
//! The frontend writes `req_prod` and `rsp_event`, the backend `rsp_prod` and `req_event`. Both
//! count up for ever and wrap at 2^32. A slot is used by a request first and by a response later;
//! the backend copies a request out once and never looks at the slot again.
//!
//! What was taken and what was answered goes into the ring's [`Journal`] as well, which also says
//! which *place* a request has meanwhile: the number of what the session keeps of it.

use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};

use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_kept::journal::{
    Journal, JournalEntry, JournalMemory, SEGMENTS, SlotNumber, Unanswered,
};

use crate::abi::{
    Abi, MAX_RING_PAGES, MAX_SEGMENTS, Operation, RING_HEADER, RspStatus, X86_32Request,
};

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
    /// Reads half a word of a slot, relaxed. `offset` is a multiple of 4 inside the ring.
    fn read_half(&self, offset: usize) -> u32;
    /// Writes half a word of a slot, relaxed.
    fn write_half(&self, offset: usize, value: u32);

    /// Reads the words of a slot before its body, and the first word of that. `offset` is as for
    /// [`RingMemory::read`].
    #[inline]
    fn read_head(&self, offset: usize) -> [u64; HEAD] {
        core::array::from_fn(|word| self.read(offset + word * size_of::<u64>()))
    }

    /// Writes two words of a slot.
    #[inline]
    fn write_pair(&self, pair: usize, values: [u64; 2]) {
        let offset = pair * PAIR;
        self.write(offset, values[0]);
        self.write(offset + size_of::<u64>(), values[1]);
    }
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

    #[inline]
    fn read_half(&self, offset: usize) -> u32 {
        self.u32_at(offset).load(Ordering::Relaxed)
    }

    #[inline]
    fn write_half(&self, offset: usize, value: u32) {
        self.u32_at(offset).store(value, Ordering::Relaxed);
    }

    #[inline]
    fn read_head(&self, offset: usize) -> [u64; HEAD] {
        let words = self.u64s_at::<HEAD>(offset);
        core::array::from_fn(|word| words[word].load(Ordering::Relaxed))
    }

    #[inline]
    fn write_pair(&self, pair: usize, values: [u64; 2]) {
        for (word, value) in self.group::<2>(pair).iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Words of a slot that a request of one page has, in the native layout.
const HEAD: usize = 4;

/// Bytes of two words, of which the header and the slots of the native layout have a whole number.
const PAIR: usize = 2 * size_of::<u64>();
const _: () = assert!(RING_HEADER.is_multiple_of(PAIR));
const _: () = assert!(Abi::Native.slot_bytes().is_multiple_of(PAIR));

/// Slots of the largest ring, of whichever layout.
pub(crate) const MOST_SLOTS: usize = {
    let bytes = MAX_RING_PAGES * PAGE_SIZE - RING_HEADER;
    1 << (bytes / Abi::X86_32.slot_bytes()).ilog2()
};
const _: () = assert!(Abi::X86_32.slot_bytes() <= Abi::Native.slot_bytes());

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

/// The entries of a journal hold all segments that a slot can have.
const _: () = assert!(SEGMENTS == MAX_SEGMENTS);

/// The pages offered do not make a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ring of {0} bytes: must be 1, 2, 4, 8 or 16 pages")]
pub struct BadRingSize(pub usize);

/// How many slots a ring of `bytes` bytes has.
///
/// # Errors
/// If that is not a power of two of pages, or more than 16.
pub fn slots_in(bytes: usize, abi: Abi) -> Result<u32, BadRingSize> {
    let pages = bytes / PAGE_SIZE;
    if !pages.is_power_of_two() || pages > MAX_RING_PAGES || !bytes.is_multiple_of(PAGE_SIZE) {
        return Err(BadRingSize(bytes));
    }
    let fit = ((bytes - RING_HEADER) / abi.slot_bytes()) as u32;
    Ok(1 << fit.ilog2())
}

/// The words of a slot that precede its body, which every layout has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawRequest {
    /// The first four bytes, as they came: taken apart where they are looked at.
    head: u32,
    /// Given back in the response.
    pub id: u64,
    /// Start, in 512-byte sectors.
    pub sector: u64,
}

impl RawRequest {
    /// From the first four bytes of a slot, and what else every layout has somewhere.
    #[inline]
    pub(crate) const fn new(head: u32, id: u64, sector: u64) -> Self {
        Self { head, id, sector }
    }

    /// What to do.
    #[inline]
    #[must_use]
    pub const fn operation(&self) -> Operation {
        Operation(self.head as u8)
    }

    /// The byte after it: a number of segments, flags, or an inner operation.
    #[inline]
    #[must_use]
    pub const fn detail(&self) -> u8 {
        (self.head >> 8) as u8
    }

    /// Whether it reads or writes what one segment asks for.
    #[inline]
    #[must_use]
    pub(crate) const fn is_of_one_segment(&self) -> bool {
        const OTHER: u32 = 0xffff ^ Operation::WRITE.0 as u32;
        const _: () = assert!(Operation::READ.0 == 0 && Operation::WRITE.0 == 1);
        self.head & OTHER == 1 << 8
    }

    /// Whether that is a write.
    #[inline]
    #[must_use]
    pub(crate) const fn is_write(&self) -> bool {
        self.head & Operation::WRITE.0 as u32 != 0
    }

    /// The two bytes after that: a handle that nobody looks at, or a number of segments.
    #[inline]
    #[must_use]
    pub const fn detail2(&self) -> u16 {
        (self.head >> 16) as u16
    }

    /// How many segments its slot has: none if its operation has none there, or if a slot has not so many.
    #[must_use]
    pub(crate) const fn segments(&self) -> usize {
        let count = self.detail() as usize;
        let operation = self.operation();
        let any = matches!(
            operation,
            Operation::READ | Operation::WRITE | Operation::WRITE_BARRIER
        );
        if any && count <= MAX_SEGMENTS {
            count
        } else {
            0
        }
    }

    /// The operation that its response names: of an indirect request the inner one, which is
    /// what frontends look for.
    #[must_use]
    pub const fn answered(&self) -> Operation {
        match self.operation() {
            Operation::INDIRECT => Operation(self.detail()),
            operation => operation,
        }
    }
}

/// What follows the header in a slot: segments, or what other operations keep there. The same in
/// every layout.
pub type Body = [u64; MAX_SEGMENTS];

/// The backend's end of a ring.
#[derive(Clone, Debug)]
pub struct BackRing<M = SharedPages, J = SharedPages> {
    memory: M,
    journal: Journal<J>,
    abi: Abi,
    /// The last `req_prod` that passed the overflow check.
    req_seen: u32,
    req_cons: u32,
    /// Responses written into slots.
    rsp_prod: u32,
    /// Responses that the frontend was told of.
    published: u32,
}

impl<M: RingMemory, J: JournalMemory> BackRing<M, J> {
    /// Takes over a ring on which `start` requests have been consumed and answered: 0, but for a
    /// reconnect. Its journal, of as many slots, begins there.
    pub const fn new(memory: M, journal: Journal<J>, abi: Abi, start: u32) -> Self {
        Self {
            memory,
            journal,
            abi,
            req_seen: start,
            req_cons: start,
            rsp_prod: start,
            published: start,
        }
    }

    /// Goes on where a former life of the kernel has ended, which left this in the journal. What
    /// that has published is published again, since the frontend may not have seen it; what it may
    /// have written into the ring beyond that does not count. The requests that it took are in
    /// their places.
    pub fn resume(memory: M, journal: Journal<J>, abi: Abi, found: Unanswered) -> Self {
        let mut ring = Self::new(memory, journal, abi, found.published);
        ring.req_cons = found.consumed;
        ring.req_seen = found.consumed;
        ring.memory
            .store(Index::RspProd, found.published, Ordering::Release);
        ring
    }

    /// Number of slots.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.journal.requests()
    }

    /// Whether the frontend may have put in more than was taken. [`BackRing::pending`] tells what.
    #[inline]
    #[must_use]
    pub fn has_new(&self) -> bool {
        // Relaxed: nothing is read of what it announces.
        self.memory.load(Index::ReqProd, Ordering::Relaxed) != self.req_cons
    }

    /// Whether all that was taken has a published response.
    #[inline]
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.published == self.req_cons
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
        // A response that it does not know of frees no slot for it, nor a place in the journal.
        let taken = self.req_cons.wrapping_sub(self.published);
        if waiting > self.size() - taken {
            return Err(Halt::Overflow {
                req_prod,
                req_cons: self.req_cons,
                rsp_prod: self.published,
            });
        }
        self.req_seen = req_prod;
        Ok(waiting)
    }

    /// How many of the requests that [`BackRing::pending`] counted are yet to be taken.
    #[inline(always)]
    pub fn left(&self) -> u32 {
        self.req_seen.wrapping_sub(self.req_cons)
    }

    /// The place of the next of the requests that [`BackRing::pending`] counted, if there is one.
    #[inline(always)]
    pub fn next_place(&self) -> Option<u16> {
        (self.left() > 0).then(|| self.place_ahead())
    }

    /// The same where it is known that there is one.
    #[inline(always)]
    pub fn place_ahead(&self) -> u16 {
        self.journal.place(self.journal.slot(self.req_cons))
    }

    /// Copies out the next request, whose place is the one that [`BackRing::next_place`] gave, but for
    /// what its slot has beyond the first word of its body, which is given beside it: that is for
    /// [`BackRing::take_rest`]. It is not taken for the journal before [`BackRing::note_taken`].
    #[inline(always)]
    pub fn take(&mut self, place: u16) -> (RawRequest, u64) {
        debug_assert_ne!(self.req_cons, self.req_seen, "there is none");
        let taken = if self.abi == Abi::Native {
            self.copy_native()
        } else {
            self.copy_x86_32()
        };
        self.keep(place, &taken.0, taken.1);
        self.req_cons = self.req_cons.wrapping_add(1);
        taken
    }

    /// Copies out the words of the body of the request that was taken last, from the second on.
    #[inline]
    pub fn take_rest(&self, place: u16, words: &mut [u64]) {
        let slot = self.journal.slot(self.req_cons.wrapping_sub(1));
        let count = words.len().min(MAX_SEGMENTS - 1);
        let words = &mut words[..count];
        if self.abi == Abi::Native {
            let mut from = (Self::pair(slot) + 2) * PAIR;
            for word in words.iter_mut() {
                *word = self.memory.read(from);
                from += size_of::<u64>();
            }
        } else {
            let body = Self::slot_x86_32(slot) + offset_of!(X86_32Request, segments);
            self.split_words(body + size_of::<u64>(), words);
        }
        self.journal.write_rest(place, words);
    }

    /// Leaves the request that was taken last in the ring after all, to be copied out again as if it never
    /// was. It must not have been noted.
    #[cold]
    pub fn put_back(&mut self) {
        self.req_cons = self.req_cons.wrapping_sub(1);
    }

    /// All requests copied out so far are taken. To be called before any of them is answered.
    #[inline]
    pub fn note_taken(&self) {
        self.journal.take(self.req_cons);
    }

    /// The request that a former life of the kernel has taken into a place.
    pub fn take_again(&self, place: u16, body: &mut Body) -> RawRequest {
        let request = self.journal.read(place, body);
        RawRequest::new(request.head, request.id, request.sector)
    }

    /// Writes a request into its place of the journal, but for further segments.
    #[inline(always)]
    fn keep(&self, place: u16, request: &RawRequest, first: u64) {
        let request = JournalEntry {
            index: self.req_cons,
            head: request.head,
            id: request.id,
            sector: request.sector,
            first,
        };
        self.journal.write(place, &request);
    }

    #[inline(always)]
    fn copy_native(&self) -> (RawRequest, u64) {
        let at = Self::pair(self.journal.slot(self.req_cons)) * PAIR;
        let [head, id, sector, first] = self.memory.read_head(at);
        (RawRequest::new(head as u32, id, sector), first)
    }

    /// As [`BackRing::copy_native`], where 64-bit words are aligned to 4 bytes only. In pieces
    /// that fit a register: a request that a call returns goes through memory, and then that of
    /// the usual layout does too.
    #[inline(always)]
    fn copy_x86_32(&self) -> (RawRequest, u64) {
        let at = Self::slot_x86_32(self.journal.slot(self.req_cons));
        let request = RawRequest::new(
            self.memory.read_half(at),
            self.split_word(at + offset_of!(X86_32Request, id)),
            self.split_word(at + offset_of!(X86_32Request, sector_number)),
        );
        let first = self.split_word(at + offset_of!(X86_32Request, segments));
        (request, first)
    }

    /// The two halves of a word.
    #[cold]
    fn split_word(&self, at: usize) -> u64 {
        let low = self.memory.read_half(at);
        let high = self.memory.read_half(at + size_of::<u32>());
        u64::from(high) << 32 | u64::from(low)
    }

    #[cold]
    fn split_words(&self, at: usize, to: &mut [u64]) {
        for (i, word) in to.iter_mut().enumerate() {
            *word = self.split_word(at + i * size_of::<u64>());
        }
    }

    /// Writes the response to the request in `place`; the frontend hears of it at
    /// [`BackRing::publish`], and no other request is taken into the place before.
    #[inline(always)]
    pub fn push_response(&mut self, place: u16, id: u64, operation: Operation, status: RspStatus) {
        debug_assert_ne!(self.rsp_prod, self.req_cons, "answered more than was asked");
        debug_assert!(
            self.journal.is_taken(self.req_cons),
            "answered before it was noted"
        );
        let slot = self.journal.slot(self.rsp_prod);
        self.journal.answer(slot, place);
        // Whole words, so the padding goes out as zeroes (XSA-216).
        let outcome = u32::from(operation.0) | u32::from(status.0 as u16) << 16;
        if self.abi != Abi::Native {
            return self.push_x86_32(id, outcome);
        }
        let pair = Self::pair(slot);
        self.memory.write_pair(pair, [id, outcome.into()]);
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
    }

    /// Writes a response of 12 bytes.
    #[cold]
    fn push_x86_32(&mut self, id: u64, outcome: u32) {
        let at = Self::slot_x86_32(self.journal.slot(self.rsp_prod));
        self.memory.write_half(at, id as u32);
        self.memory.write_half(at + 4, (id >> 32) as u32);
        self.memory.write_half(at + 8, outcome);
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
    }

    /// How many responses were pushed since the last [`BackRing::publish`].
    #[inline]
    #[must_use]
    pub fn unpublished(&self) -> u32 {
        self.rsp_prod.wrapping_sub(self.published)
    }

    /// Publishes the responses pushed since the last time; true if the frontend wants to be
    /// notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.rsp_prod);
        if old == new {
            return false;
        }
        self.journal.publish(new);
        // Release: the frontend sees the responses before the index that announces them, and the
        // journal has it before the frontend.
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

    /// Requests taken and not answered.
    #[inline]
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod)
    }

    /// The memory of the ring and its journal.
    pub fn parts(&self) -> (&M, &Journal<J>) {
        (&self.memory, &self.journal)
    }

    /// Gives the memory of the ring and of its journal back.
    pub fn into_memory(self) -> (M, J) {
        (self.memory, self.journal.into_memory())
    }

    /// The first pair of words of a slot in the native layout.
    #[inline]
    fn pair(slot: SlotNumber) -> usize {
        RING_HEADER / PAIR + Abi::Native.slot_bytes() / PAIR * slot.get()
    }

    /// Where a slot in the other layout begins.
    #[inline]
    fn slot_x86_32(slot: SlotNumber) -> usize {
        RING_HEADER + Abi::X86_32.slot_bytes() * slot.get()
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
