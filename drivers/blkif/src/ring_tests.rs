//! Tests of the backend's end of a ring.

use super::*;
use Ordering::Relaxed;
use alloc::vec::Vec;
use proptest::prelude::*;

fn ring(pages: usize, start: u32) -> (BackRing, SharedPages) {
    ring_of(Abi::Native, pages, start)
}

fn ring_of(abi: Abi, pages: usize, start: u32) -> (BackRing, SharedPages) {
    let ours = SharedPages::host(pages, 0);
    let theirs = ours.alias();
    for index in [Index::ReqProd, Index::RspProd] {
        theirs.store(index, start, Relaxed);
    }
    for index in [Index::ReqEvent, Index::RspEvent] {
        theirs.store(index, start.wrapping_add(1), Relaxed);
    }
    let slots = slots_in(ours.len(), abi).unwrap();
    let journal = Journal::begin(SharedPages::host(pages, 0), slots, start);
    let ring = BackRing::new(ours, journal.expect("room"), abi, start);
    (ring, theirs)
}

/// Copies a request out with all words of its body that count.
fn take_all(ring: &mut BackRing, place: u16, body: &mut Body) -> RawRequest {
    let (request, first) = ring.take(place);
    body[0] = first;
    ring.take_rest(
        place,
        &mut body[1..usize::from(request.detail()).clamp(1, MAX_SEGMENTS)],
    );
    request
}

/// The next request, if there is one, and its place.
fn take(ring: &mut BackRing, body: &mut Body) -> Option<(u16, RawRequest)> {
    let place = ring.next_place()?;
    let request = take_all(ring, place, body);
    ring.note_taken();
    Some((place, request))
}

#[test]
fn ring_sizes_are_those_of_the_header_macros() {
    for (pages, slots) in [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)] {
        for abi in [Abi::Native, Abi::X86_32] {
            assert_eq!(ring_of(abi, pages, 0).0.size(), slots);
        }
    }
    for pages in [0, 3, 32] {
        let bytes = pages * PAGE_SIZE;
        assert_eq!(slots_in(bytes, Abi::Native), Err(BadRingSize(bytes)));
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
    let (place, request) = take(&mut ring, &mut body).unwrap();
    take(&mut ring, &mut body).unwrap();
    // Nor are they when there is a response that the frontend does not know of.
    ring.push_response(place, request.id, Operation::READ, RspStatus::OKAY);
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
    assert_eq!(ring.next_place(), None);
    assert_eq!(ring.pending(), Ok(1));
    assert!(take(&mut ring, &mut body).is_some());
    assert_eq!(ring.next_place(), None);
}

#[test]
fn a_response_fills_its_words_and_leaves_no_padding() {
    let (mut ring, front) = ring(1, 0);
    front.write_bytes(RING_HEADER, &[0xa5; 112]);
    front.store(Index::ReqProd, 1, Relaxed);
    ring.pending().unwrap();
    let mut body = [0; MAX_SEGMENTS];
    let (place, request) = take(&mut ring, &mut body).unwrap();
    ring.push_response(place, request.id, Operation(0xa5), RspStatus::EOPNOTSUPP);
    let mut bytes = [0; 16];
    front.read_bytes(RING_HEADER, &mut bytes);
    assert_eq!(bytes[..8], [0xa5; 8]);
    assert_eq!(bytes[8..], [0xa5, 0, 0xfe, 0xff, 0, 0, 0, 0]);
}

#[test]
fn an_i386_slot_has_its_words_at_multiples_of_four() {
    let (mut ring, front) = ring_of(Abi::X86_32, 1, 1);
    let at = RING_HEADER + 108;
    // What a compiler for i386 makes of `struct blkif_request`.
    let mut slot = Vec::from([1, 11, 0x34, 0x12]);
    slot.extend(0x0102_0304_0506_0708u64.to_le_bytes());
    slot.extend(0x1122_3344_5566_7788u64.to_le_bytes());
    for segment in 0..11u8 {
        slot.extend([segment, 0, 0, 0x80, 1, 7, 0xff, 0xff]);
    }
    assert_eq!(slot.len(), 108);
    front.write_bytes(at, &slot);
    front.store(Index::ReqProd, 2, Relaxed);
    ring.pending().unwrap();
    let mut body = [0; MAX_SEGMENTS];
    let (place, request) = take(&mut ring, &mut body).unwrap();
    assert_eq!(request.operation(), Operation::WRITE);
    assert_eq!((request.detail(), request.detail2()), (11, 0x1234));
    assert_eq!(request.id, 0x0102_0304_0506_0708);
    assert_eq!(request.sector, 0x1122_3344_5566_7788);
    let words = core::array::from_fn(|i| 0xffff_0701_8000_0000 | i as u64);
    assert_eq!(body, words);
    ring.push_response(place, request.id, request.operation(), RspStatus::ERROR);
    let mut response = [0; 16];
    front.read_bytes(at, &mut response);
    assert_eq!(response[..8], request.id.to_le_bytes());
    assert_eq!(response[8..12], [1, 0, 0xff, 0xff]);
    assert_eq!(response[12..], slot[12..16], "not part of the response");
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
                        taken.extend(take(&mut ring, &mut body).map(|(place, r)| (place, r.id)));
                    }
                }
                3 => {
                    for _ in 0..count.min(taken.len() as u32) {
                        let (place, id) = taken.swap_remove(taken.len() / 2);
                        ring.push_response(place, id, Operation::READ, RspStatus::OKAY);
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
