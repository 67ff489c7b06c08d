//! A ring core under control's orders: rings come and go while others are at work.

mod common;

use std::sync::Arc;

use common::{PERSISTENT, Rig, Sizes, TestDisk, assert_all};
use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::ring_core::RingError;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{LOOK_NS, LOOK_WITHOUT_RINGS_NS, Link, Next, Order, Report, Worker};
use spindle_blkif::{BlockAccess, Config, RingGrowth, RingId};
use spindle_block::{Op, ReadError, Run, Stretch, Unit, Volume};
use spindle_hw::DmaAlloc;
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::FakeBus;
use spindle_xen::event::Port;

type Bench = Worker<TestDisk, &'static FakeGrants<'static>, &'static FakeEvents>;

struct Desk {
    worker: Bench,
    link: Arc<Link<TestDisk>>,
    stats: Arc<CoreStats>,
    grants: &'static FakeGrants<'static>,
    bus: &'static FakeBus,
    now: u64,
}

const POLL_NS: u64 = 1000;

impl Desk {
    /// A worker with place for `rings`, and sessions for as many frontends.
    fn new(rings: usize, fronts: u16) -> (Self, Vec<(Order, Blkfront<'static>)>) {
        Self::make(rings, fronts, false)
    }

    /// The same, which may not use its disk yet if it is held.
    fn make(rings: usize, fronts: u16, held: bool) -> (Self, Vec<(Order, Blkfront<'static>)>) {
        let config = Config {
            rings,
            ..Config::default()
        };
        let sizes = Sizes {
            config,
            ..Sizes::default()
        };
        Self::sized(&sizes, fronts, held)
    }

    fn sized(sizes: &Sizes, fronts: u16, held: bool) -> (Self, Vec<(Order, Blkfront<'static>)>) {
        let mut rig = Rig::sized(sizes);
        let attach = |dom| {
            let (session, front) = rig.session(dom, PERSISTENT);
            (
                Order::Attach {
                    token: dom.into(),
                    session: Box::new(session),
                },
                front,
            )
        };
        let fronts = (1..=fronts).map(attach).collect();
        if held {
            rig.core.hold();
        }
        let link = Arc::new(Link::default());
        let stats = Arc::<CoreStats>::default();
        let poll = PollTime::For(POLL_NS);
        let worker = Worker::new(rig.core, link.clone(), poll, stats.clone());
        (
            Self {
                worker,
                link,
                stats,
                grants: rig.grants,
                bus: rig.bus,
                now: 0,
            },
            fronts,
        )
    }

    fn turn(&mut self) -> Next {
        self.now += 100;
        self.worker.turn(self.now)
    }

    /// Takes turns until there is a report.
    fn report(&mut self) -> Report<TestDisk> {
        for _ in 0..1000 {
            self.turn();
            if self.worker.take_reported() {
                return self.link.reports.take().unwrap();
            }
        }
        panic!("no report");
    }

    fn attach(&mut self, order: Order) -> RingId {
        self.link.orders.put(order).unwrap();
        match self.report() {
            Report::Attached { ring, .. } => ring,
            other => panic!("{other:?}"),
        }
    }
}

fn read(front: &mut Blkfront<'_>) {
    let page = front.page(false);
    front.push(Operation::READ, 0, &[page.segment(0, 7)]);
    front.publish();
}

#[test]
fn a_ring_whose_disk_has_grown_takes_requests_for_the_new_part() {
    let (mut desk, mut fronts) = Desk::new(4, 1);
    let (order, mut front) = fronts.pop().unwrap();
    let ring = desk.attach(order);
    let page = front.page(false);
    for (sectors, status) in [
        (2040, RspStatus::ERROR),
        (2048, RspStatus::OKAY),
        (2047, RspStatus::ERROR),
    ] {
        let order = Order::Resize { ring, sectors };
        desk.link.orders.put(order).unwrap();
        desk.turn();
        front.push(Operation::READ, 2040, &[page.segment(0, 7)]);
        front.publish();
        desk.turn();
        desk.turn();
        assert_all(&front.answers(), 1, status);
    }
}

#[test]
fn a_ring_whose_volume_needs_a_map_is_given_it_between_requests_or_leaves_first() {
    let (mut desk, mut fronts) = Desk::new(4, 2);
    let map = {
        let disk = Rig::new().volume;
        let stretch = |sector| Stretch {
            sectors: 64,
            chunk: 0,
            runs: vec![Run { volume: 0, sector }],
        };
        let stretches = [stretch(0), stretch(1024)];
        Volume::assembled("vg/lv".into(), &stretches, &[disk]).unwrap()
    };
    let growth = |ring| {
        let shape = (1, Abi::Native, 0);
        let arc = map.map.as_ref().unwrap();
        let growth = RingGrowth::new(arc, map.sectors, None, shape).unwrap();
        let growth = Box::new(growth);
        Order::Grow { ring, growth }
    };
    let (order, mut front) = fronts.pop().unwrap();
    let ring = desk.attach(order);
    let page = front.page(false);
    front.push(Operation::READ, 1024, &[page.segment(0, 7)]);
    front.publish();
    desk.link.orders.put(growth(ring)).unwrap();
    for _ in 0..10 {
        desk.turn();
    }
    assert_all(&front.answers(), 1, RspStatus::OKAY);
    for (sector, status) in [(127, RspStatus::ERROR), (120, RspStatus::OKAY)] {
        front.push(Operation::READ, sector, &[page.segment(0, 7)]);
        front.publish();
        desk.turn();
        desk.turn();
        assert_all(&front.answers(), 1, status);
    }
    // The place of a ring that has left may be another's.
    desk.link.orders.put(Order::Detach(ring)).unwrap();
    let Report::Detached { .. } = desk.report() else {
        panic!("it leaves");
    };
    desk.link.orders.put(growth(ring)).unwrap();
    desk.turn();
    let (order, mut front) = fronts.pop().unwrap();
    assert_eq!(desk.attach(order), ring);
    let page = front.page(false);
    front.push(Operation::READ, 1024, &[page.segment(0, 7)]);
    front.publish();
    for _ in 0..4 {
        desk.turn();
    }
    assert_all(&front.answers(), 1, RspStatus::OKAY);
}

#[test]
fn a_core_that_is_held_rests_and_serves_its_rings_once_it_is_told_to_begin() {
    let (mut desk, mut fronts) = Desk::make(4, 1, true);
    let (order, mut front) = fronts.pop().unwrap();
    desk.attach(order);
    read(&mut front);
    let mut next = desk.turn();
    for _ in 0..20 {
        next = desk.turn();
    }
    assert!(matches!(next, Next::Rest(_)), "{next:?}");
    assert!(desk.worker.listen(), "a request keeps it awake");
    assert_all(&front.answers(), 0, RspStatus::OKAY);
    desk.link.orders.put(Order::Begin(0)).unwrap();
    desk.turn();
    assert!(!desk.worker.listen(), "it has something to do");
    desk.turn();
    desk.turn();
    assert_all(&front.answers(), 1, RspStatus::OKAY);
}

#[test]
fn an_order_counts_as_done_once_it_is_carried_out() {
    let (mut desk, fronts) = Desk::new(4, 3);
    for (done, (order, _)) in fronts.into_iter().enumerate() {
        desk.link.orders.put(order).unwrap();
        assert_eq!(desk.link.done(), done as u64);
        desk.turn();
        // A report that is not taken keeps the order after the next one waiting.
        assert_eq!(desk.link.done(), (done as u64 + 1).min(2));
    }
    assert!(desk.link.orders.is_full());
    desk.link.reports.take().unwrap();
    desk.turn();
    desk.turn();
    assert_eq!((desk.link.done(), desk.link.orders.is_full()), (3, false));
    let unit = Unit(7);
    desk.link
        .orders
        .put(Order::Remove { disk: 0, unit })
        .unwrap();
    desk.link.reports.take().unwrap();
    desk.turn();
    desk.turn();
    assert_eq!(desk.link.done(), 4);
}

#[test]
fn a_ring_is_attached_served_and_given_back() {
    let (mut desk, mut fronts) = Desk::new(4, 1);
    let (order, mut front) = fronts.pop().unwrap();
    let ring = desk.attach(order);
    assert_eq!(desk.worker.ports().collect::<Vec<_>>(), [Port(1)]);
    read(&mut front);
    desk.turn();
    desk.turn();
    assert_all(&front.answers(), 1, RspStatus::OKAY);
    desk.link.orders.put(Order::Detach(ring)).unwrap();
    let Report::Detached {
        ring: gone,
        remains,
    } = desk.report()
    else {
        panic!("it has nothing in flight");
    };
    assert_eq!((gone, remains.consumed), (ring, 1));
    assert_eq!(desk.grants.outstanding(), 0);
    assert_eq!(desk.worker.ports().count(), 0);
}

#[test]
fn what_is_in_flight_is_waited_for_before_a_ring_is_given_back() {
    let (mut desk, mut fronts) = Desk::new(4, 2);
    let (order, mut busy) = fronts.pop().unwrap();
    let ring = desk.attach(order);
    let (order, mut other) = fronts.pop().unwrap();
    desk.attach(order);
    read(&mut busy);
    // Taken in this turn; its completion is only looked for in the next.
    desk.link.orders.put(Order::Detach(ring)).unwrap();
    desk.turn();
    assert!(!desk.link.reports.is_full());
    read(&mut other);
    assert!(matches!(desk.report(), Report::Detached { ring: gone, .. } if gone == ring));
    assert_all(&busy.answers(), 1, RspStatus::OKAY);
    desk.turn();
    assert_all(&other.answers(), 1, RspStatus::OKAY);
}

#[test]
fn a_ring_for_which_there_is_no_place_comes_back() {
    let (mut desk, mut fronts) = Desk::new(1, 2);
    desk.attach(fronts.pop().unwrap().0);
    desk.link.orders.put(fronts.pop().unwrap().0).unwrap();
    let Report::Refused {
        token: 1,
        error: RingError::Crowded,
        session,
    } = desk.report()
    else {
        panic!("there is one place");
    };
    session.dismantle(&desk.grants);
}

#[test]
fn a_halted_ring_is_reported_once_and_can_be_detached() {
    let (mut desk, mut fronts) = Desk::new(2, 1);
    let (order, mut front) = fronts.pop().unwrap();
    let ring = desk.attach(order);
    front.set_req_prod(1000);
    assert!(matches!(desk.report(), Report::Halted { ring: halted, .. } if halted == ring));
    for _ in 0..10 {
        desk.turn();
    }
    assert!(!desk.link.reports.is_full());
    desk.link.orders.put(Order::Detach(ring)).unwrap();
    assert!(matches!(desk.report(), Report::Detached { .. }));
}

#[test]
fn a_worker_polls_for_its_time_then_rests_until_a_request_comes() {
    let (mut desk, mut fronts) = Desk::new(2, 1);
    let (order, mut front) = fronts.pop().unwrap();
    desk.attach(order);
    read(&mut front);
    desk.turn();
    desk.turn();
    let idle: Vec<_> = (0..20).map(|_| desk.turn()).collect();
    assert_eq!(idle[0], Next::Turn);
    assert!(matches!(idle[19], Next::Rest(until) if until.ns() == desk.now + LOOK_NS));
    assert!(desk.worker.listen());
    let stats = desk.stats.snapshot();
    assert_eq!((stats.polls_busy, stats.sleeps), (2, 1));
    assert!(stats.busy_ns > 0 && stats.idle_ns >= 19 * 100);
    read(&mut front);
    assert!(!desk.worker.listen(), "a request came in between");
    desk.link.orders.put(Order::FailDisk(0)).unwrap();
    desk.turn();
    desk.turn();
    assert!(desk.worker.listen());
    desk.link.orders.put(Order::FailDisk(0)).unwrap();
    assert!(!desk.worker.listen(), "an order came in between");
}

impl Desk {
    /// Takes turns until the worker rests, as long as it says; then goes to that time.
    fn sleep(&mut self) {
        loop {
            if let Next::Rest(until) = self.turn() {
                assert!(self.worker.listen());
                self.now = until.ns();
                return;
            }
        }
    }

    /// Sleeps until something has been unmapped.
    fn sleep_until_trimmed(&mut self) {
        let before = self.grants.counts().unmap_calls;
        while self.grants.counts().unmap_calls == before {
            self.sleep();
        }
    }
}

#[test]
fn grants_that_are_not_used_for_minutes_are_let_go_of_a_batch_at_a_time() {
    const SECOND: u64 = 1_000_000_000;
    let (mut desk, mut fronts) = Desk::new(2, 1);
    let (order, mut front) = fronts.pop().unwrap();
    desk.attach(order);
    let pages: Vec<_> = (0..100).map(|_| front.page(false)).collect();
    for page in &pages {
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        front.publish();
        desk.turn();
        desk.turn();
        assert_all(&front.answers(), 1, RspStatus::OKAY);
    }
    let start = desk.now;
    assert_eq!(desk.grants.outstanding(), 100);
    // One goes on being used.
    while desk.grants.outstanding() > 1 {
        desk.sleep_until_trimmed();
        front.push(Operation::READ, 0, &[pages[7].segment(0, 7)]);
        front.publish();
        desk.turn();
        desk.turn();
        assert_all(&front.answers(), 1, RspStatus::OKAY);
    }
    assert_eq!(desk.grants.outstanding(), 1);
    assert_eq!(desk.grants.counts().unmap_calls, 2, "64 pages in each");
    assert!((59..500).contains(&((desk.now - start) / SECOND)));
    // And in the end nothing is mapped.
    let start = desk.now;
    desk.sleep_until_trimmed();
    assert!((59..200).contains(&((desk.now - start) / SECOND)));
    assert_eq!(desk.grants.outstanding(), 0);
    read(&mut front);
    desk.turn();
    desk.turn();
    assert_all(&front.answers(), 1, RspStatus::OKAY);
}

#[test]
fn a_core_that_sleeps_looks_at_its_rings_and_orders_though_no_event_comes() {
    let (mut desk, mut fronts) = Desk::new(2, 1);
    desk.sleep();
    let start = desk.now;
    desk.sleep();
    assert!(desk.now - start <= LOOK_WITHOUT_RINGS_NS + 100);
    let (order, mut front) = fronts.pop().unwrap();
    desk.attach(order);
    desk.sleep();
    let (start, before) = (desk.now, desk.stats.snapshot());
    for _ in 0..10 {
        desk.sleep();
    }
    assert!(desk.now - start <= 10 * (LOOK_NS + 100));
    let after = desk.stats.snapshot();
    assert_eq!(before.to_string(), after.to_string(), "a look is not work");
    // What is there is found by the next look, and by then all the time is accounted for.
    read(&mut front);
    desk.turn();
    desk.turn();
    assert_all(&front.answers(), 1, RspStatus::OKAY);
    let idle = desk.stats.snapshot().idle_ns - before.idle_ns;
    assert!(
        (desk.now - start - 200..=desk.now).contains(&idle),
        "{idle}"
    );
}

#[test]
fn a_core_does_not_sleep_over_rings_that_are_to_be_given_back() {
    let (mut desk, mut fronts) = Desk::new(2, 2);
    let rings: Vec<_> = (0..2)
        .map(|_| desk.attach(fronts.pop().unwrap().0))
        .collect();
    for ring in rings {
        desk.sleep();
        // The one event is for the order, and the turn that takes it finds nothing in flight.
        desk.link.orders.put(Order::Detach(ring)).unwrap();
        desk.turn();
        if !desk.link.reports.is_full() {
            assert!(!desk.worker.listen());
            desk.turn();
        }
        let report = desk.link.reports.take().unwrap();
        assert!(matches!(report, Report::Detached { ring: gone, .. } if gone == ring));
    }
    assert!(desk.worker.listen());
}

#[test]
fn a_worker_that_does_a_disks_work_takes_turns_until_it_is_done() {
    let (mut desk, mut fronts) = Desk::new(2, 1);
    let (order, mut front) = fronts.pop().unwrap();
    desk.attach(order);
    front.push_discard(0, 2048, false);
    front.publish();
    desk.turn();
    let before = desk.stats.snapshot();
    let mut turns = 1;
    while front.answers().is_empty() {
        // Longer than it polls for.
        desk.now += 10 * POLL_NS;
        assert_eq!(desk.turn(), Next::Turn);
        turns += 1;
        assert!(turns < 100);
    }
    assert!(turns > 2, "a whole disk in one turn");
    let busy = desk.stats.snapshot().polls_busy - before.polls_busy;
    assert_eq!(busy, turns - 1, "zeroing counts as work");
}

#[test]
fn a_guest_that_sends_events_for_nothing_gets_little_of_the_core_and_others_get_theirs() {
    const US: u64 = 1000;
    let (mut desk, mut fronts) = Desk::new(2, 2);
    let (order, mut honest) = fronts.pop().unwrap();
    desk.attach(order);
    desk.attach(fronts.pop().unwrap().0);
    // A second in which an event comes five microseconds after each time that the core listens.
    let end = desk.now + 1_000_000 * US;
    let (mut turns, mut naps, mut longest, mut asked_at) = (0, 0, 0, None);
    while desk.now < end {
        turns += 1;
        match desk.turn() {
            Next::Turn => {}
            Next::Rest(until) => {
                if desk.worker.listen() {
                    desk.now = until.ns().min(desk.now + 5 * US);
                }
            }
            Next::Nap(until) => {
                let until = until.ns();
                assert!(until - desk.now <= 1000 * US);
                // The worst moment to ask, every now and then.
                naps += 1;
                if naps % 16 == 0 && asked_at.is_none() {
                    read(&mut honest);
                    asked_at = Some(desk.now);
                }
                desk.now = until;
            }
            Next::Stop => unreachable!(),
        }
        if let Some(at) = asked_at
            && !honest.answers().is_empty()
        {
            longest = longest.max(desk.now - at);
            asked_at = None;
        }
    }
    assert!(turns < 6000, "{turns} turns");
    assert!(naps > 500, "{naps} naps");
    assert!((1..=1100 * US).contains(&longest), "{longest} ns");
}

#[test]
fn rests_that_end_by_themselves_or_with_a_request_stay_rests() {
    let (mut desk, mut fronts) = Desk::new(1, 1);
    let (order, mut front) = fronts.pop().unwrap();
    desk.attach(order);
    for round in 0..200 {
        let next = loop {
            let next = desk.turn();
            if next != Next::Turn {
                break next;
            }
        };
        assert!(matches!(next, Next::Rest(_)), "{next:?}");
        assert!(desk.worker.listen());
        front.answers();
        if round % 2 == 0 {
            read(&mut front);
        } else {
            desk.now += 2_000_000;
        }
    }
}

#[test]
fn a_report_waits_for_the_mailbox_and_none_is_lost() {
    let (mut desk, fronts) = Desk::new(2, 2);
    let mut orders = fronts.into_iter().map(|(order, _)| order);
    desk.link.orders.put(orders.next().unwrap()).unwrap();
    desk.turn();
    desk.link.orders.put(orders.next().unwrap()).unwrap();
    desk.turn();
    desk.turn();
    assert!(matches!(
        desk.link.reports.take(),
        Some(Report::Attached { token: 1, .. })
    ));
    desk.turn();
    assert!(matches!(
        desk.link.reports.take(),
        Some(Report::Attached { token: 2, .. })
    ));
}

#[test]
fn a_table_is_read_beside_a_guest_that_keeps_the_queue_full() {
    let sizes = Sizes {
        depth: 4,
        ..Sizes::default()
    };
    let (mut desk, mut fronts) = Desk::sized(&sizes, 1, false);
    let (order, mut front) = fronts.pop().unwrap();
    desk.attach(order);
    let page = front.page(false);
    let ask = |front: &mut Blkfront<'_>, count| {
        for _ in 0..count {
            front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        }
        front.publish();
    };
    ask(&mut front, 32);
    desk.turn();
    let read = BlockAccess {
        token: 7,
        op: Op::Read,
        disk: 0,
        unit: Unit::NONE,
        block_shift: 9,
        block: 0,
        bytes: 4096,
        page: Some(desk.bus.alloc(1).unwrap()),
        outcome: Err(ReadError::Pending),
    };
    desk.link.orders.put(Order::Access(Box::new(read))).unwrap();
    for _ in 0..4 {
        desk.turn();
        let answered = front.answers().len();
        assert!(answered >= 3, "the guest keeps all places but one");
        ask(&mut front, answered);
    }
    let Some(Report::Access(read)) = desk.link.reports.take() else {
        panic!("it waits behind the guest");
    };
    assert_eq!((read.token, read.outcome), (7, Ok(())));
}

#[test]
fn a_stopped_worker_gives_its_queues_up() {
    let (mut desk, _) = Desk::new(1, 0);
    desk.link.orders.put(Order::Stop).unwrap();
    assert_eq!(desk.turn(), Next::Stop);
    let Some(Report::Stopped(queues)) = desk.link.reports.take() else {
        panic!("it was told to stop");
    };
    assert_eq!(queues.len(), 1);
    assert_eq!(desk.turn(), Next::Stop);
}
