//! What runs on two cores at once, under every interleaving and every stale read that the memory
//! model allows: the real [`BackRing`] against a frontend that follows `public/io/ring.h`, the
//! real [`Mailbox`] between control and a core that rests, and the real [`Gate`] and [`Claims`]
//! between rings.
//!
//! Run by `cargo xtask loom`. A lost wake-up shows as a deadlock, which loom reports.
#![cfg(loom)]

use std::cell::Cell;
// Not loom's: that one cannot be dropped when a model has failed, as two here must.
use std::sync::Arc;

use loom::sync::Notify;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;
use spindle_blkif::abi::{Abi, Operation, RING_HEADER, RspStatus};
use spindle_blkif::claims::{Claims, Span};
use spindle_blkif::gate::Gate;
use spindle_blkif::mailbox::Mailbox;
use spindle_blkif::ring::{BackRing, Index, RingMemory};
use spindle_kept::journal::{Journal, JournalMemory};

/// Slots whose memory is modelled; ring numbers are folded onto them.
const SLOTS: usize = 2;
/// Words of a slot that are modelled: what precedes the segments.
const WORDS: usize = 3;

/// A ring of one page, and one event channel in each direction.
struct Shared {
    indices: [AtomicU32; 4],
    slots: [[AtomicU64; WORDS]; SLOTS],
    to_back: Notify,
    to_front: Notify,
    /// Whether the backend's fences count: without, the model must find a lost wake-up.
    fenced: bool,
}

impl Shared {
    fn new(start: u32, fenced: bool) -> Arc<Self> {
        let event = start.wrapping_add(1);
        Arc::new(Self {
            indices: [start, event, start, event].map(AtomicU32::new),
            slots: core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(u64::MAX))),
            to_back: Notify::new(),
            to_front: Notify::new(),
            fenced,
        })
    }

    fn index(&self, index: Index) -> &AtomicU32 {
        &self.indices[index as usize / 4]
    }

    fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        &self.slots[slot % SLOTS][word]
    }
}

struct Memory(Arc<Shared>);

impl Memory {
    /// The word at `offset`; none for a segment's, which are not modelled.
    fn at(&self, offset: usize) -> Option<&AtomicU64> {
        let slot = (offset - RING_HEADER) / Abi::Native.slot_bytes();
        let byte = (offset - RING_HEADER) % Abi::Native.slot_bytes();
        (byte / 8 < WORDS).then(|| self.0.word(slot, byte / 8))
    }
}

impl RingMemory for Memory {
    fn bytes(&self) -> usize {
        4096
    }

    fn load(&self, index: Index, order: Ordering) -> u32 {
        self.0.index(index).load(order)
    }

    fn store(&self, index: Index, value: u32, order: Ordering) {
        self.0.index(index).store(value, order);
    }

    fn fence(&self) {
        if self.0.fenced {
            fence(Ordering::SeqCst);
        }
    }

    fn read(&self, offset: usize) -> u64 {
        let word = self.at(offset);
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn write(&self, offset: usize, value: u64) {
        let word = self.at(offset).expect("responses are two words");
        word.store(value, Ordering::Relaxed);
    }

    fn read_half(&self, _: usize) -> u32 {
        unreachable!("the native layout has whole words")
    }

    fn write_half(&self, _: usize, _: u32) {
        unreachable!("the native layout has whole words")
    }
}

/// The frontend: `RING_PUSH_REQUESTS_AND_CHECK_NOTIFY` and `RING_FINAL_CHECK_FOR_RESPONSES`.
struct Front {
    shared: Arc<Shared>,
    req_prod: u32,
    rsp_cons: u32,
    notified: u32,
    asked: u32,
}

impl Front {
    fn new(shared: &Arc<Shared>, start: u32) -> Self {
        Self {
            shared: shared.clone(),
            req_prod: start,
            rsp_cons: start,
            notified: 0,
            asked: 0,
        }
    }

    /// Pushes a request whose number is its index and notifies if asked to.
    fn push(&mut self) {
        let slot = self.req_prod as usize;
        let id = u64::from(self.req_prod);
        let read = u64::from(Operation::READ.0);
        for (word, value) in [read, id, 8].into_iter().enumerate() {
            let word = self.shared.word(slot, word);
            word.store(value, Ordering::Relaxed);
        }
        self.req_prod = self.req_prod.wrapping_add(1);
        let prod = self.shared.index(Index::ReqProd);
        prod.store(self.req_prod, Ordering::Release);
        fence(Ordering::SeqCst);
        let event = self.shared.index(Index::ReqEvent);
        if self.req_prod.wrapping_sub(event.load(Ordering::Relaxed)) < 1 {
            self.notified += 1;
            self.shared.to_back.notify();
        }
    }

    /// Consumes the responses that are there and checks them.
    fn consume(&mut self) -> u32 {
        let prod = self.shared.index(Index::RspProd).load(Ordering::Acquire);
        let found = prod.wrapping_sub(self.rsp_cons);
        while self.rsp_cons != prod {
            let slot = self.rsp_cons as usize;
            let word = |word| self.shared.word(slot, word).load(Ordering::Relaxed);
            assert_eq!(
                word(0),
                u64::from(self.rsp_cons),
                "a response not yet written"
            );
            assert_eq!(word(1), 0, "operation, status and padding");
            self.rsp_cons = self.rsp_cons.wrapping_add(1);
        }
        found
    }

    /// Consumes until `count` responses are there, asking to be notified of the next one, or
    /// only of the last.
    fn await_responses(&mut self, count: u32, last: bool) {
        let mut found = 0;
        while found < count {
            let more = self.consume();
            found += more;
            if more > 0 {
                continue;
            }
            let ahead = if last { count - found } else { 1 };
            let event = self.shared.index(Index::RspEvent);
            event.store(self.rsp_cons.wrapping_add(ahead), Ordering::Relaxed);
            self.asked += 1;
            fence(Ordering::SeqCst);
            let prod = self.shared.index(Index::RspProd).load(Ordering::Relaxed);
            if prod == self.rsp_cons {
                self.shared.to_front.wait();
            }
        }
    }
}

/// A journal's memory, which only the backend uses.
struct Words(Vec<Cell<u64>>);

impl Words {
    fn part(&self, offset: usize, bytes: usize) -> u64 {
        let shift = offset % 8 * 8;
        self.0[offset / 8].get() >> shift & (u64::MAX >> (64 - 8 * bytes))
    }

    fn set_part(&self, offset: usize, bytes: usize, value: u64) {
        let (shift, mask) = (offset % 8 * 8, u64::MAX >> (64 - 8 * bytes));
        let word = &self.0[offset / 8];
        word.set(word.get() & !(mask << shift) | value << shift);
    }
}

impl JournalMemory for Words {
    fn size(&self) -> usize {
        self.0.len() * 8
    }

    fn word(&self, offset: usize) -> u64 {
        self.part(offset, 8)
    }

    fn set_word(&self, offset: usize, value: u64) {
        self.set_part(offset, 8, value);
    }

    fn index(&self, offset: usize) -> u32 {
        self.part(offset, 4) as u32
    }

    fn set_index(&self, offset: usize, value: u32) {
        self.set_part(offset, 4, value.into());
    }

    fn place(&self, offset: usize) -> u16 {
        self.part(offset, 2) as u16
    }

    fn set_place(&self, offset: usize, place: u16) {
        self.set_part(offset, 2, place.into());
    }
}

/// The backend as a ring core drives it: take, answer, publish; nothing there: arm and sleep.
struct Back {
    shared: Arc<Shared>,
    ring: BackRing<Memory, Words>,
    /// Where the requests are that were taken, the first from `start` on.
    places: Vec<u16>,
    start: u32,
    armed: u32,
    notified: u32,
}

impl Back {
    fn new(shared: &Arc<Shared>, start: u32) -> Self {
        let memory = Memory(shared.clone());
        let words = Words(vec![Cell::new(0); 512]);
        let journal = Journal::begin(words, 32, start);
        let journal = journal.unwrap_or_else(|(error, _)| panic!("{error}"));
        Self {
            shared: shared.clone(),
            ring: BackRing::new(memory, journal, Abi::Native, start),
            places: Vec::new(),
            start,
            armed: 0,
            notified: 0,
        }
    }

    /// Takes requests until there were `count`, and answers them if told to.
    fn serve(&mut self, count: u32, answer: bool) {
        let mut taken = 0;
        while taken < count {
            if self.ring.pending().unwrap() == 0 {
                self.armed += 1;
                if !self.ring.arm().unwrap() {
                    self.shared.to_back.wait();
                }
                continue;
            }
            let index = self.ring.consumed();
            let place = self.ring.next_place().unwrap();
            let request = self.ring.take(place).0;
            self.ring.note_taken();
            self.places.push(place);
            assert_eq!(request.id, u64::from(index), "a request not yet written");
            assert_eq!((request.operation(), request.sector), (Operation::READ, 8));
            taken += 1;
            if answer {
                self.answer(index);
            }
        }
    }

    fn answer(&mut self, index: u32) {
        let id = u64::from(index);
        let place = self.places[index.wrapping_sub(self.start) as usize];
        self.ring
            .push_response(place, id, Operation::READ, RspStatus::OKAY);
        if self.ring.publish() {
            self.notified += 1;
            self.shared.to_front.notify();
        }
    }
}

/// Where rings start: at the beginning, and one before the indices wrap.
const STARTS: [u32; 2] = [0, u32::MAX];

fn requests(start: u32, fenced: bool) {
    loom::model(move || {
        let shared = Shared::new(start, fenced);
        let mut front = Front::new(&shared, start);
        let pusher = thread::spawn(move || {
            front.push();
            front.push();
            front.notified
        });
        let mut back = Back::new(&shared, start);
        back.serve(2, false);
        let notified = pusher.join().unwrap();
        // The first is asked for from the start, later ones by arming only.
        assert!(notified <= 1 + back.armed, "notified without being asked");
    });
}

#[test]
fn no_request_is_slept_through() {
    for start in STARTS {
        requests(start, true);
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_its_fence_the_backend_would_sleep_through_a_request() {
    requests(0, false);
}

fn responses(start: u32, fenced: bool, last: bool) {
    loom::model(move || {
        let shared = Shared::new(start, fenced);
        let mut front = Front::new(&shared, start);
        front.push();
        front.push();
        let mut back = Back::new(&shared, start);
        back.serve(2, false);
        let answerer = thread::spawn(move || {
            back.answer(start);
            back.answer(start.wrapping_add(1));
            back.notified
        });
        front.await_responses(2, last);
        let notified = answerer.join().unwrap();
        assert!(notified <= 1 + front.asked, "notified without being asked");
    });
}

#[test]
fn no_response_is_slept_through() {
    for start in STARTS {
        responses(start, true, false);
    }
}

#[test]
fn a_frontend_that_asks_for_the_last_response_only_is_woken_by_it() {
    for start in STARTS {
        responses(start, true, true);
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_backends_fence_a_frontend_would_sleep_through_a_response() {
    responses(0, false, false);
}

#[test]
fn both_ends_asleep_by_turns_get_everything_done() {
    for start in STARTS {
        let mut model = loom::model::Builder::new();
        // Each end runs out of things to do and sleeps twice; more switches than these are
        // covered one direction at a time above.
        model.preemption_bound = Some(3);
        model.check(move || {
            let shared = Shared::new(start, true);
            let mut back = Back::new(&shared, start);
            let mut front = Front::new(&shared, start);
            let server = thread::spawn(move || back.serve(2, true));
            for _ in 0..2 {
                front.push();
                front.await_responses(1, false);
            }
            server.join().unwrap();
        });
    }
}

/// A core's event port: pending until forgotten, and no rest while it is. As with Xen's bits, each
/// change is one atomic operation, not a plain store.
struct Port {
    pending: AtomicBool,
    event: Notify,
}

impl Port {
    fn notify(&self) {
        self.pending.swap(true, Ordering::AcqRel);
        self.event.notify();
    }

    fn forget(&self) {
        if self.pending.load(Ordering::Relaxed) {
            self.pending.swap(false, Ordering::AcqRel);
        }
    }

    fn rest(&self) {
        while !self.pending.load(Ordering::Acquire) {
            self.event.wait();
        }
    }
}

/// Two orders through one mailbox to a core that looks, forgets its events, looks again and
/// rests, or does so in the wrong order.
fn orders(forgets_last: bool) {
    loom::model(move || {
        let link = Arc::new((
            Mailbox::new(),
            Port {
                pending: AtomicBool::new(false),
                event: Notify::new(),
            },
        ));
        let theirs = link.clone();
        let control = thread::spawn(move || {
            let (orders, port) = &*theirs;
            assert_eq!(orders.put(1), Ok(()));
            port.notify();
            // The second has to wait for the first; control tries again when it next wakes,
            // which here it does once.
            let second = orders.put(2).is_ok();
            if second {
                port.notify();
            }
            second
        });
        let (orders, port) = &*link;
        let mut next = 1;
        let mut look = |orders: &Mailbox<i32>| {
            if let Some(order) = orders.take() {
                assert_eq!(order, next, "lost, or there twice");
                next += 1;
            }
            next > 1
        };
        while !look(orders) {
            if !forgets_last {
                port.forget();
            }
            if !orders.is_full() {
                if forgets_last {
                    port.forget();
                }
                port.rest();
            }
        }
        let second = control.join().unwrap();
        look(orders);
        assert_eq!(next, if second { 3 } else { 2 });
        assert!(!orders.is_full());
    });
}

#[test]
fn no_order_is_slept_through_lost_or_doubled() {
    orders(false);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_core_that_forgets_events_after_its_last_look_would_sleep_through_an_order() {
    orders(true);
}

/// A guest that publishes a write on one ring, then a barrier on another, then a write on the
/// first again once the barrier is answered; each ring on a core of its own. If `leaves`, the
/// first ring goes away when it has done its first write.
fn barrier(leaves: bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        // How many writes are published on ring 0 and whether there is a barrier on ring 1; how
        // many writes are done; whether the barrier is being carried out, and whether it is done.
        let published = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let done = Arc::new(AtomicU32::new(0));
        let going = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let mut members = Gate::members(2).into_iter();
        let (mut first, mut second) = (members.next().unwrap(), members.next().unwrap());
        published[0].store(1, Ordering::Release);
        published[1].store(1, Ordering::Release);
        let (p, d, g) = (published.clone(), done.clone(), going.clone());
        let writer = thread::spawn(move || {
            let mut taken = 0;
            let goal = if leaves { 1 } else { 2 };
            while taken < goal {
                let pending = || p[0].load(Ordering::Acquire) - taken;
                if first.is_called() {
                    let call = first.attend(0, pending);
                    assert!(!call.go && !call.wake);
                }
                let take = first.allows(p[0].load(Ordering::Acquire) - taken);
                if take == 0 {
                    thread::yield_now();
                    continue;
                }
                assert!(!g[0].load(Ordering::Relaxed), "a write beside the barrier");
                first.took(1);
                taken += 1;
                d.store(taken, Ordering::Relaxed);
                assert!(!g[0].load(Ordering::Relaxed), "a write beside the barrier");
            }
            drop(first);
        });
        while published[1].load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        second.raise();
        while !second.attend(1, || 0).go {
            thread::yield_now();
        }
        going[0].store(true, Ordering::Relaxed);
        assert!(
            done.load(Ordering::Relaxed) >= 1,
            "a write before it is not done"
        );
        going[0].store(false, Ordering::Relaxed);
        second.finish();
        published[0].store(2, Ordering::Release);
        writer.join().unwrap();
    });
}

#[test]
fn a_barrier_waits_for_the_other_ring_and_keeps_it_waiting() {
    barrier(false);
}

#[test]
fn a_barrier_is_not_held_up_by_a_ring_that_leaves() {
    barrier(true);
}

/// Two cores write to one block of a disk: each a half of it, or one a half and the other the
/// whole. Whoever writes a half reads the block, changes it, and writes it back.
fn block(whole: bool, claimed: bool) {
    const LOW: u64 = u32::MAX as u64;
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let claims = Arc::new(Claims::new().unwrap());
        // The disk: it takes and gives whole blocks.
        let disk = Arc::new(AtomicU64::new(0));
        // In the cell of the other core's second block as well.
        let span = |blocks, alone| Span {
            block: 6,
            blocks,
            first_alone: alone,
            last_alone: false,
        };
        let claim = move |claims: &Claims, span: &Span| {
            while claimed && !claims.claim(span) {
                thread::yield_now();
            }
        };
        let release = move |claims: &Claims, span: &Span| {
            if claimed {
                claims.release(span);
            }
        };
        let core = {
            let (claims, disk) = (claims.clone(), disk.clone());
            thread::spawn(move || {
                let span = span(1, true);
                claim(&claims, &span);
                let old = disk.load(Ordering::Relaxed);
                disk.store(old & !LOW | 1, Ordering::Relaxed);
                release(&claims, &span);
            })
        };
        let span = span(2, !whole);
        claim(&claims, &span);
        let old = if whole {
            2
        } else {
            disk.load(Ordering::Relaxed) & LOW
        };
        disk.store(old | 2 << 32, Ordering::Relaxed);
        release(&claims, &span);
        core.join().unwrap();
        let block = disk.load(Ordering::Relaxed);
        assert_eq!(block >> 32, 2, "a half is lost");
        let either = if whole { 1..=2 } else { 1..=1 };
        assert!(either.contains(&(block & LOW)), "a half is lost");
        let all = Span {
            first_alone: true,
            ..span
        };
        assert!(claims.claim(&all), "all claims are gone");
    });
}

#[test]
fn two_halves_of_a_block_that_are_written_at_once_are_both_there() {
    block(false, true);
}

#[test]
fn a_half_and_a_whole_block_that_are_written_at_once_are_both_there_in_some_order() {
    block(true, true);
}

#[test]
#[should_panic(expected = "a half is lost")]
fn without_claims_a_half_would_be_lost() {
    block(false, false);
}

#[test]
#[should_panic(expected = "a half is lost")]
fn without_claims_a_whole_block_would_be_lost_in_part() {
    block(true, false);
}
