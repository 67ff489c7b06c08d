//! `poll_us`: for how long a core that finds nothing goes on polling.

mod common;

use std::sync::Arc;

use common::{PERSISTENT, Rig};
use spindle_blkif::abi::Operation;
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Next, Order, Worker};

/// From turn to turn.
const STEP_NS: u64 = 500;

/// For how long a core polls after work, in nanoseconds: once for each of `rounds` pieces of work
/// that come long after it went to sleep. `None` if it did not rest within 50 ms.
fn polls(poll: PollTime, rounds: usize) -> Vec<Option<u64>> {
    let mut rig = Rig::new();
    let (session, mut front) = rig.session(1, PERSISTENT);
    let link = Arc::new(Link::default());
    let mut worker = Worker::new(rig.core, link.clone(), poll, Arc::<CoreStats>::default());
    let session = Box::new(session);
    link.orders
        .put(Order::Attach { token: 1, session })
        .unwrap();
    let mut now = 1_000_000;
    while !worker.take_reported() {
        now += STEP_NS;
        worker.turn(now);
    }
    let page = front.page(false);
    let mut all = Vec::new();
    for _ in 0..rounds {
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        front.publish();
        now += STEP_NS;
        assert_eq!(worker.turn(now), Next::Turn);
        now += STEP_NS;
        let (mut next, worked) = (worker.turn(now), now);
        assert_eq!(front.answers().len(), 1);
        while next == Next::Turn && now < worked + 50_000_000 {
            now += STEP_NS;
            next = worker.turn(now);
        }
        all.push((next != Next::Turn).then_some(now - worked));
        if next != Next::Turn {
            assert!(worker.listen(), "nothing is in flight");
        }
        // It sleeps until an event comes.
        now += 100_000_000;
    }
    all
}

#[test]
fn a_core_polls_for_as_long_as_it_is_told_at_most() {
    for us in [10, 100, 1000] {
        let most = us * 1000;
        let polled = polls(PollTime::For(most), 40);
        let first = polled[0].unwrap();
        // It begins with less than that, since nothing has come for a while; and the turn in which
        // the time has passed is the last.
        assert!(
            (most / 2..=most + 2 * STEP_NS).contains(&first),
            "{us} us: {first}"
        );
        for polled in polled {
            assert!(polled.unwrap() <= most + 2 * STEP_NS, "{us} us: {polled:?}");
        }
    }
}

#[test]
fn a_core_that_shall_not_poll_sleeps_at_once() {
    for polled in polls(PollTime::For(0), 10) {
        assert!(polled.unwrap() <= STEP_NS, "{polled:?}");
    }
}

#[test]
fn a_core_that_shall_poll_always_never_sleeps() {
    assert_eq!(polls(PollTime::Always, 2), [None, None]);
}

/// "A core with rings every 2 s, without every 4 s": it looks though no event has come.
#[test]
fn a_core_that_sleeps_looks_every_two_seconds_with_rings_and_every_four_without() {
    for (rings, seconds) in [(1, 2), (0, 4)] {
        let mut rig = Rig::new();
        let (session, _front) = rig.session(1, PERSISTENT);
        let link = Arc::new(Link::default());
        let poll = PollTime::For(0);
        let mut worker = Worker::new(rig.core, link.clone(), poll, Arc::<CoreStats>::default());
        let mut now = 1_000_000;
        if rings > 0 {
            let session = Box::new(session);
            link.orders
                .put(Order::Attach { token: 1, session })
                .unwrap();
        }
        let mut looks = Vec::new();
        while looks.len() < 5 {
            now += STEP_NS;
            if let Next::Rest(until) = worker.turn(now) {
                assert!(worker.listen());
                looks.push(until.ns() - now);
                now = until.ns() - STEP_NS;
            }
        }
        assert_eq!(looks[1..], [seconds * 1_000_000_000; 4], "{rings} rings");
    }
}
