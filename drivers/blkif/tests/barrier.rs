//! Write barriers: on one ring, and across the rings of a device on two cores.

mod common;

use std::sync::Arc;

use common::{COPIED, Event, How, Log, PERSISTENT, Rig, TestDisk, assert_all};
use proptest::prelude::*;
use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_blkif::{Attachment, Config, Gate, RingCore, RingId, Session, Window};
use spindle_block::{IoError, Op, RamDisk, SubmitError};
use spindle_hw::DmaAlloc;
use spindle_testkit::blkfront::{Blkfront, GuestPage};
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, journal};
use spindle_xen::DomId;
use spindle_xen::event::Port;

fn cached() -> Rig {
    let mut rig = Rig::new();
    rig.volume.write_cache = true;
    rig
}

/// Three writes, of which the second is a barrier with `segments` segments.
fn three(rig: &mut Rig, how: How, segments: usize) -> (RingId, Vec<(Op, u64, usize)>) {
    let (ring, mut front) = rig.attach(1, how);
    let page = front.page(false);
    let segment = [page.segment(0, 7)];
    front.push(Operation::WRITE, 0, &segment);
    front.push(Operation::WRITE_BARRIER, 8, &segment[..segments]);
    front.push(Operation::WRITE, 16, &segment);
    front.publish();
    assert_all(&rig.settle(&mut front), 3, RspStatus::OKAY);
    (ring, core::mem::take(&mut rig.disk().submitted))
}

#[test]
fn a_barrier_is_flush_and_forced_write_between_what_is_before_and_after() {
    for how in [PERSISTENT, COPIED] {
        let mut rig = cached();
        let (ring, submitted) = three(&mut rig, how, 1);
        let expected = [
            (Op::Write, 0, 1),
            (Op::Flush, 8, 0),
            (Op::WriteThrough, 8, 1),
            (Op::Write, 16, 1),
        ];
        assert_eq!(submitted, expected);
        let stats = rig.detach(ring).stats.snapshot();
        let counted = (stats.writes, stats.flushes, stats.sectors_written);
        assert_eq!(counted, (2, 1, 24));
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_barrier_without_data_is_a_flush_that_orders() {
    let mut rig = cached();
    let (_, submitted) = three(&mut rig, PERSISTENT, 0);
    let expected = [(Op::Write, 0, 1), (Op::Flush, 0, 0), (Op::Write, 16, 1)];
    assert_eq!(submitted, expected);
}

#[test]
fn without_a_cache_a_barrier_only_orders() {
    let mut rig = Rig::new();
    let (_, submitted) = three(&mut rig, PERSISTENT, 1);
    assert_eq!(submitted, [0, 8, 16].map(|block| (Op::Write, block, 1)));
    let mut rig = Rig::new();
    let (_, submitted) = three(&mut rig, PERSISTENT, 0);
    assert_eq!(submitted, [0, 16].map(|block| (Op::Write, block, 1)));
}

#[test]
fn a_disk_that_cannot_write_through_its_cache_is_flushed_once_more() {
    for how in [PERSISTENT, COPIED] {
        let mut rig = cached();
        rig.disk().write_through = false;
        let (ring, submitted) = three(&mut rig, how, 1);
        let ops: Vec<_> = submitted.iter().map(|&(op, ..)| op).collect();
        let expected = [Op::Write, Op::Flush, Op::Write, Op::Flush, Op::Write];
        assert_eq!(ops, expected);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_disk_that_says_late_that_it_cannot_write_through_is_flushed_once_more() {
    // Whether the rest of the barrier is with the disk by then, or in line.
    for (pieces, in_line) in [(4, false), (2, false), (2, true)] {
        let mut rig = cached();
        let (ring, mut front) = rig.attach(1, PERSISTENT);
        let pages: Vec<_> = (0..4).map(|_| front.page(false)).collect();
        let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
        rig.disk().most_pieces = pieces;
        rig.disk().results = [Ok(()), Err(IoError::Unsupported)].into();
        front.push(Operation::WRITE_BARRIER, 8, &segments);
        front.publish();
        if in_line {
            rig.disk().most_parts = 1;
        }
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        let submitted = core::mem::take(&mut rig.disk().submitted);
        let cached: usize = submitted
            .iter()
            .filter(|(op, ..)| *op == Op::Write)
            .map(|s| s.2)
            .sum();
        assert_eq!(cached, 4, "all of it is written once more: {submitted:?}");
        assert_eq!(submitted.last().map(|s| s.0), Some(Op::Flush));
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_barrier_that_a_disk_does_not_know_is_answered_so_that_its_frontend_does_without() {
    let mut rig = Rig::new();
    let (_, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    rig.disk().results = [Err(IoError::Unsupported)].into();
    front.push(Operation::WRITE_BARRIER, 8, &[page.segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::EOPNOTSUPP);
}

#[test]
fn a_barrier_that_fails_lets_the_ring_go_on() {
    for failing in 0..2 {
        let mut rig = cached();
        let (ring, mut front) = rig.attach(1, PERSISTENT);
        let page = front.page(false);
        let segment = [page.segment(0, 7)];
        let ok = (0..failing).map(|_| Ok(()));
        rig.disk().results = ok.chain([Err(IoError::Medium)]).collect();
        front.push(Operation::WRITE_BARRIER, 8, &segment);
        front.push(Operation::READ, 8, &segment);
        front.publish();
        let answers = rig.settle(&mut front);
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [RspStatus::ERROR, RspStatus::OKAY]);
        // Nothing of it is taken by a disk that is gone.
        rig.disk().refuse = Some(SubmitError::Gone);
        front.push(Operation::WRITE_BARRIER, 8, &segment);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::ERROR);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn bad_barriers_are_refused_and_order_nothing() {
    let mut rig = cached();
    let (_, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    front.push(Operation::WRITE_BARRIER, 4096, &[page.segment(0, 7)]);
    front.push(Operation::WRITE_BARRIER, 0, &[page.segment(5, 4)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 2, RspStatus::ERROR);
    assert!(rig.disk().submitted.is_empty());
}

type Core = RingCore<TestDisk, &'static FakeGrants<'static>, &'static FakeEvents>;

/// A device with three rings on two cores: 0 and 2 on the first, 1 on the second.
struct Device {
    grants: &'static FakeGrants<'static>,
    events: &'static FakeEvents,
    cores: [Core; 2],
    rings: Vec<Option<RingId>>,
    fronts: Vec<(Blkfront<'static>, GuestPage)>,
    log: Log,
}

/// The port that wakes a core, as the tests number them.
const WAKES: [Port; 2] = [Port(40), Port(41)];

impl Device {
    fn new() -> Self {
        let bus: &FakeBus = Box::leak(Box::new(FakeBus::new()));
        let grants: &FakeGrants<'_> = Box::leak(Box::new(FakeGrants::new(bus)));
        let events: &FakeEvents = Box::leak(Box::default());
        let ram = RamDisk::new(1 << 20, bus).unwrap();
        let log = Log::default();
        let core = || {
            let mut disk = TestDisk::new(ram.queue(64, bus));
            disk.log = Some(Arc::clone(&log));
            let buffers = bus.alloc(64).unwrap();
            RingCore::new(Config::default(), vec![disk], grants, events, buffers).unwrap()
        };
        let mut device = Self {
            grants,
            events,
            cores: [core(), core()],
            rings: Vec::new(),
            fronts: Vec::new(),
            log: Arc::clone(&log),
        };
        for (ring, gate) in Gate::members(3).into_iter().enumerate() {
            gate.set_wake(Some(WAKES[ring % 2]));
            let front = Blkfront::new(grants, DomId(1), 1, 0);
            let page = front.page(false);
            let mut volume = ram.volume("ram0", 0);
            volume.write_cache = true;
            let attachment = Attachment {
                domain: DomId(1),
                port: Port(ring as u32),
                volume,
                abi: Abi::Native,
                start: 0,
                window: Some(Window::new((1 << 40) + ((ring as u64) << 32), 64).unwrap()),
                persistent: true,
                indirect_segments: 0,
                gate,
                claims: None,
                losses: Default::default(),
                journal: journal(&front.ring()),
            };
            let session = Session::new(front.ring(), attachment).unwrap();
            let id = device.cores[ring % 2].attach(session).unwrap();
            device.rings.push(Some(id));
            device.fronts.push((front, page));
        }
        device
    }

    /// Writes the block that is numbered as the request.
    fn write(&mut self, ring: usize, barrier: bool, number: u64) -> bool {
        let (front, page) = &mut self.fronts[ring];
        if self.rings[ring].is_none() || front.free() == 0 {
            return false;
        }
        let operation = if barrier {
            Operation::WRITE_BARRIER
        } else {
            Operation::WRITE
        };
        front.push(operation, number, &[page.segment(0, 0)]);
        front.publish();
        true
    }

    fn visit(&mut self, core: usize) {
        self.cores[core].visit(0);
    }

    /// Visits until all is answered.
    fn settle(&mut self) {
        for core in &mut self.cores {
            core.queue_mut(0).unwrap().hold = false;
        }
        for _ in 0..1000 {
            let [first, second] = &mut self.cores;
            let idle = [first.visit(0).is_idle(), second.visit(0).is_idle()];
            if idle == [true; 2] && first.arm() && second.arm() {
                return;
            }
        }
        panic!("requests never settle");
    }

    fn detach(&mut self, ring: usize) {
        if let Some(id) = self.rings[ring].take() {
            self.settle();
            self.cores[ring % 2].begin_detach(id);
            self.settle();
            self.cores[ring % 2].detach(id).unwrap();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Barrier(usize),
    Visit(usize),
    Hold(usize, bool),
    Halt(usize),
    Close(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..3).prop_map(Step::Write),
        3 => (0usize..3).prop_map(Step::Barrier),
        9 => (0usize..2).prop_map(Step::Visit),
        2 => (0usize..2, any::<bool>()).prop_map(|(core, hold)| Step::Hold(core, hold)),
        1 => (0usize..3).prop_map(Step::Halt),
        1 => (0usize..3).prop_map(Step::Close),
    ]
}

/// A request that was published, in the order of publishing.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ring: usize,
    barrier: bool,
    number: u64,
    /// How long the log was then.
    at: usize,
}

/// Where in the log a request's command is.
fn find(log: &[Event], event: Event) -> Option<usize> {
    log.iter().position(|&other| other == event)
}

/// Holds the log against what barriers promise.
fn check(asked: &[Asked], log: &[Event]) {
    for (at, barrier) in asked.iter().enumerate().filter(|(_, asked)| asked.barrier) {
        let number = barrier.number;
        let Some(flush) = find(log, Event::Submitted(Op::Flush, number)) else {
            continue;
        };
        let end = find(log, Event::Done(Op::WriteThrough, number)).expect("it was carried out");
        // From its flush to its end the device does nothing else.
        let own = [
            Event::Submitted(Op::Flush, number),
            Event::Done(Op::Flush, number),
            Event::Submitted(Op::WriteThrough, number),
            Event::Done(Op::WriteThrough, number),
        ];
        assert_eq!(log[flush..=end], own, "barrier {number}");
        // What was behind a barrier that was under way when this one was asked for is left out.
        let behind = |write: &Asked| {
            let mut barriers = asked[..at].iter().filter(|asked| asked.barrier);
            barriers.any(|other| {
                let done = find(log, Event::Done(Op::WriteThrough, other.number));
                let under_way = done.is_none_or(|done| done >= barrier.at);
                other.ring == write.ring && other.number < write.number && under_way
            })
        };
        let writes = asked[..at].iter().filter(|asked| !asked.barrier);
        for earlier in writes.filter(|write| !behind(write)) {
            let submitted = find(log, Event::Submitted(Op::Write, earlier.number));
            let done = find(log, Event::Done(Op::Write, earlier.number));
            // What a ring that was cut off never took is not waited for.
            if submitted.is_some() {
                assert!(done.is_some_and(|done| done < flush), "{earlier:?} is late");
            }
        }
        for later in asked[at + 1..]
            .iter()
            .filter(|later| later.ring == barrier.ring)
        {
            let op = if later.barrier { Op::Flush } else { Op::Write };
            let submitted = find(log, Event::Submitted(op, later.number));
            assert!(
                submitted.is_none_or(|submitted| submitted > end),
                "{later:?} overtook"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 400 }))]

    /// blkif.h, for the whole device: what was asked on any ring before a barrier was asked for is
    /// done and flushed before it, and nothing goes on beside it, whatever the order in which the
    /// cores take their turns, and whichever ring is halted or closed meanwhile.
    #[test]
    fn barriers_order_all_rings_of_the_device(steps in prop::collection::vec(step(), 1..120)) {
        let mut device = Device::new();
        let mut asked = Vec::new();
        for step in steps {
            let number = asked.len() as u64;
            let at = device.log.lock().unwrap().len();
            match step {
                Step::Write(ring) if device.write(ring, false, number) => {
                    asked.push(Asked { ring, barrier: false, number, at });
                }
                Step::Barrier(ring) if device.write(ring, true, number) => {
                    asked.push(Asked { ring, barrier: true, number, at });
                }
                Step::Visit(core) => device.visit(core),
                Step::Hold(core, hold) => device.cores[core].queue_mut(0).unwrap().hold = hold,
                Step::Halt(ring) => device.fronts[ring].0.set_req_prod(1 << 30),
                Step::Close(ring) => {
                    if let Some(id) = device.rings[ring] {
                        device.cores[ring % 2].begin_detach(id);
                    }
                }
                _ => {}
            }
        }
        device.settle();
        check(&asked, &device.log.lock().unwrap());
        for ring in 0..3 {
            device.detach(ring);
        }
        prop_assert_eq!(device.grants.outstanding(), 0);
    }
}

#[test]
fn the_cores_of_the_other_rings_are_woken_once_for_each_barrier() {
    let mut device = Device::new();
    assert!(device.cores[1].arm());
    device.write(0, true, 0);
    device.visit(0);
    device.visit(0);
    assert_eq!(device.events.sent(WAKES[1]), 1);
    assert!(!device.cores[1].arm(), "it has to look at the gate");
    assert!(!device.cores[0].arm(), "its barrier is not done");
    device.visit(1);
    assert!(device.cores[1].arm(), "drained, and nothing to do");
    device.settle();
    assert_eq!(device.events.sent(WAKES[1]), 1);
    assert_eq!(device.fronts[0].0.answers().len(), 1);
}

#[test]
fn a_ring_that_leaves_for_good_is_not_waited_for() {
    let mut device = Device::new();
    device.detach(1);
    device.write(0, true, 0);
    device.write(2, true, 1);
    for _ in 0..8 {
        device.visit(0);
    }
    assert_eq!(device.fronts[0].0.answers().len(), 1);
    assert_eq!(device.fronts[2].0.answers().len(), 1);
}

#[test]
fn a_session_that_is_dropped_with_its_barrier_lets_the_others_go_on() {
    let mut device = Device::new();
    // The second core stops with a barrier in force.
    device.write(1, true, 0);
    device.visit(1);
    device.write(0, true, 1);
    device.visit(0);
    let Device {
        cores: [first, second],
        mut fronts,
        ..
    } = device;
    drop(second.into_queues());
    let mut first = first;
    for _ in 0..8 {
        first.visit(0);
    }
    assert_eq!(fronts[0].0.answers().len(), 1);
}
