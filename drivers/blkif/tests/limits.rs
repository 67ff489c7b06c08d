//! A ring takes no more than its limits let it, costs its core nothing while it waits for that, and has
//! its weight's share of the disk.

mod common;

use std::sync::Arc;

use common::{COPIED, How, INDIRECT, PERSISTENT, Rig};
use spindle_blkif::abi::Operation;
use spindle_blkif::pacer::PollTime;
use spindle_blkif::worker::{Link, Next, Order, Report, Worker};
use spindle_blkif::{RingId, RingShare};
use spindle_limits::{IoLimits, Meters};
use spindle_testkit::blkfront::{Blkfront, GuestPage};

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const SECOND: u64 = 1_000 * MS;

fn meters(words: &str) -> Arc<Meters> {
    let mut limits = IoLimits::default();
    limits.set_all(words).expect(words);
    Arc::new(Meters::new(&limits, 0))
}

fn share(of: &[&Arc<Meters>]) -> RingShare {
    RingShare::new(
        8,
        None,
        of.iter().map(|&meters| Arc::clone(meters)).collect(),
    )
}

/// A guest that keeps its ring full of requests of as many pages as it has.
struct Flood {
    front: Blkfront<'static>,
    pages: Vec<GuestPage>,
    list: Option<GuestPage>,
    answered: usize,
}

impl Flood {
    fn new(front: Blkfront<'static>, pages: usize, indirect: bool) -> Self {
        let pages: Vec<_> = (0..pages).map(|_| front.page(false)).collect();
        let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
        let list = indirect.then(|| front.list(&segments));
        Self {
            front,
            pages,
            list,
            answered: 0,
        }
    }

    fn ask(&mut self, operation: Operation) {
        self.answered += self.front.answers().len();
        while self.front.free() > 0 {
            let segments: Vec<_> = self.pages.iter().map(|page| page.segment(0, 7)).collect();
            match &self.list {
                Some(list) => {
                    let count = segments.len() as u16;
                    self.front.push_indirect(operation, 0, list.gref, count)
                }
                None => self.front.push(operation, 0, &segments),
            };
        }
        self.front.publish();
    }
}

/// Visits the core every 50 us for so long; gives what was answered in that time.
fn run(rig: &mut Rig, flood: &mut Flood, now: &mut u64, time: u64) -> usize {
    let (before, end) = (flood.answered, *now + time);
    while *now < end {
        flood.ask(Operation::READ);
        rig.core.visit(*now);
        *now += 50 * US;
    }
    flood.ask(Operation::READ);
    flood.answered - before
}

fn near(count: usize, expected: usize) -> bool {
    count.abs_diff(expected) * 50 <= expected
}

#[test]
fn requests_are_taken_at_their_rate_however_memory_is_reached_and_however_large_they_are() {
    let indirect = How {
        indirect: INDIRECT,
        ..PERSISTENT
    };
    for (how, pages) in [
        (PERSISTENT, 1),
        (COPIED, 1),
        (PERSISTENT, 8),
        (indirect, 32),
    ] {
        for (words, rate) in [
            ("iops=2000", 2000),
            ("bandwidth=16M", 4096 / pages),
            ("iops-read=500:iops-write=1", 500),
            ("bandwidth-read=4M", 1024 / pages),
        ] {
            let mut rig = Rig::with_indirect();
            let (ring, front) = rig.attach(1, how);
            rig.core.share(ring, share(&[&meters(words)]));
            let mut flood = Flood::new(front, pages, how.indirect > 0);
            let mut now = SECOND;
            run(&mut rig, &mut flood, &mut now, SECOND / 5);
            let count = run(&mut rig, &mut flood, &mut now, SECOND);
            assert!(near(count, rate), "{words}, {pages} pages: {count}");
            let stats = rig.core.session(ring).unwrap().stats().snapshot();
            let held = stats.held_ns / MS;
            assert!((1000..=1200).contains(&held), "held for {held} of 1200 ms");
        }
    }
}

#[test]
fn rings_of_one_device_or_group_share_its_rate_and_another_is_left_alone() {
    let mut rig = Rig::new();
    let group = meters("iops=1000");
    let mut floods: Vec<_> = (1..=3)
        .map(|dom| {
            let (ring, front) = rig.attach(dom, PERSISTENT);
            if dom < 3 {
                rig.core.share(ring, share(&[&group]));
            }
            Flood::new(front, 1, false)
        })
        .collect();
    let mut now = SECOND;
    while now < 2 * SECOND {
        floods
            .iter_mut()
            .for_each(|flood| flood.ask(Operation::READ));
        rig.core.visit(now);
        now += 50 * US;
    }
    let [a, b, c] = [0, 1, 2].map(|at| floods[at].answered);
    assert!(near(a + b, 1000) && near(a, 500), "{a} {b}");
    assert!(c > 100_000, "{c}");
}

#[test]
fn limits_come_change_and_go_while_a_ring_is_served() {
    let mut rig = Rig::new();
    let (ring, front) = rig.attach(1, PERSISTENT);
    let mut flood = Flood::new(front, 1, false);
    let mut now = SECOND;
    assert!(run(&mut rig, &mut flood, &mut now, 100 * MS) > 10_000);
    // What was done before does not count.
    rig.core.share(ring, share(&[&meters("iops=1000:burst=0")]));
    let count = run(&mut rig, &mut flood, &mut now, SECOND);
    assert!(near(count, 1000), "{count}");
    // One that is held back for long goes on at once.
    rig.core.share(ring, share(&[&meters("iops=1:burst=0")]));
    assert!(run(&mut rig, &mut flood, &mut now, 500 * MS) <= 3);
    rig.core.share(ring, share(&[&meters("iops=4000:burst=0")]));
    let count = run(&mut rig, &mut flood, &mut now, SECOND);
    assert!(near(count, 4000), "{count}");
    rig.core.share(ring, share(&[]));
    assert!(run(&mut rig, &mut flood, &mut now, 100 * MS) > 10_000);
    rig.detach(ring);
}

#[test]
fn a_ring_that_is_held_back_can_be_given_back() {
    let mut rig = Rig::new();
    let (ring, front) = rig.attach(1, PERSISTENT);
    rig.core.share(ring, share(&[&meters("iops=1:burst=0")]));
    let mut flood = Flood::new(front, 1, false);
    let mut now = SECOND;
    assert_eq!(run(&mut rig, &mut flood, &mut now, 10 * MS), 1);
    let detached = rig.detach(ring);
    assert_eq!(detached.consumed, 1);
    rig.assert_nothing_leaked();
}

type Fakes = (
    Worker<
        common::TestDisk,
        &'static spindle_testkit::grants::FakeGrants<'static>,
        &'static spindle_testkit::grants::FakeEvents,
    >,
    Arc<Link<common::TestDisk>>,
);

/// A worker with the rig's core, whose rings are attached already.
fn worker(rig: Rig, poll: PollTime) -> Fakes {
    let link = Arc::new(Link::default());
    (
        Worker::new(rig.core, Arc::clone(&link), poll, Arc::default()),
        link,
    )
}

/// Runs a worker as a core does, each turn taking 1 us; gives turns and rests.
fn live(worker: &mut Fakes, now: &mut u64, time: u64, mut each: impl FnMut(u64)) -> (usize, usize) {
    let end = *now + time;
    let (mut turns, mut rests) = (0, 0);
    while *now < end {
        each(*now);
        turns += 1;
        let next = worker.0.turn(*now);
        *now += US;
        match next {
            Next::Rest(until) if worker.0.listen() => {
                rests += 1;
                *now = (*now).max(until.ns());
            }
            Next::Nap(until) => {
                rests += 1;
                *now = (*now).max(until.ns());
            }
            Next::Rest(_) | Next::Turn => {}
            Next::Stop => panic!("it was not stopped"),
        }
    }
    (turns, rests)
}

#[test]
fn a_core_whose_guests_wait_for_their_limits_sleeps_and_is_in_time() {
    for (rate, poll) in [(1, 100), (10, 100), (10, 0), (1000, 100), (100_000, 100)] {
        let mut rig = Rig::new();
        let (ring, front) = rig.attach(1, PERSISTENT);
        // A ring that has nothing, on the same core.
        let _idle = rig.attach(2, PERSISTENT);
        rig.core
            .share(ring, share(&[&meters(&format!("iops={rate}:burst=0"))]));
        let mut flood = Flood::new(front, 1, false);
        let mut worker = worker(rig, PollTime::For(poll * US));
        let mut now = SECOND;
        live(&mut worker, &mut now, 4 * SECOND, |_| {
            flood.ask(Operation::READ)
        });
        let before = flood.answered;
        let (turns, rests) = live(&mut worker, &mut now, 2 * SECOND, |_| {
            flood.ask(Operation::READ);
        });
        let count = flood.answered - before;
        assert!(count.abs_diff(2 * rate) <= 1 + rate / 50, "{rate}: {count}");
        // A turn or two that take, some that look, and what is polled for the guest's next request.
        let most = rests * 12 + (2 * SECOND / (100 * US)) as usize / 20;
        assert!(turns <= most, "{rate}: {turns} turns, {rests} rests");
        // No more often than a slice ends.
        let most = (2 * SECOND / spindle_limits::SLICE_NS) as usize + 20;
        assert!(rests <= most, "{rate}: {rests} rests");
    }
}

#[test]
fn a_share_is_ordered_by_the_link() {
    let rig_ring = RingId(0);
    let mut rig = Rig::new();
    let (_, front) = rig.attach(1, PERSISTENT);
    let mut flood = Flood::new(front, 1, false);
    let mut worker = worker(rig, PollTime::For(0));
    let mut now = SECOND;
    live(&mut worker, &mut now, 10 * MS, |_| {
        flood.ask(Operation::READ)
    });
    let order = Order::Share {
        ring: rig_ring,
        share: Box::new(share(&[&meters("iops=1000:burst=0")])),
    };
    worker.1.orders.put(order).unwrap();
    live(&mut worker, &mut now, 10 * MS, |_| {
        flood.ask(Operation::READ)
    });
    let before = flood.answered;
    live(&mut worker, &mut now, SECOND, |_| {
        flood.ask(Operation::READ)
    });
    assert!(
        near(flood.answered - before, 1000),
        "{}",
        flood.answered - before
    );
    assert!(!matches!(
        worker.1.reports.take(),
        Some(Report::Halted { .. })
    ));
}
