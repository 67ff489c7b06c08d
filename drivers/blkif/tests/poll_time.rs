//! `poll_us`: for how long a core that finds nothing goes on polling.

mod common;

use std::sync::Arc;

use common::{PERSISTENT, Rig};
use spindle_blkif::abi::Operation;
use spindle_blkif::pacer::{Pacer, PollTime, Rest};
use spindle_blkif::stats::CoreStats;
use spindle_blkif::wait::Wait;
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

/// "At most 1,000 us": however late sleeps have been ending, no command that is about to end is polled
/// for longer. Gives the longest time that was polled without a break for one of many commands.
fn longest_spin(time: u64, late: u64) -> u64 {
    let mut pacer = Pacer::new(PollTime::For(1000));
    let (mut wait, mut now, mut longest) = (Wait::default(), 0, 0);
    for round in 0..300 {
        let slept = pacer.wake(now);
        wait.note(now, false, 1, slept);
        pacer.worked(now);
        // Now and then one takes ten times as long.
        let end = now + if round % 50 == 49 { 10 * time } else { time };
        let mut spun = 0;
        while now < end {
            pacer.wake(now);
            match pacer.idle(now, 1, false, std::iter::once(&wait)) {
                Rest::Poll => {
                    (now, spun) = (now + 1000, spun + 1000);
                    longest = longest.max(spun);
                }
                Rest::Nap { until, .. } => (now, spun) = (until + late, 0),
                Rest::Sleep => panic!("nothing would wake it"),
            }
        }
        let slept = pacer.wake(now);
        wait.note(now, true, 0, slept);
        pacer.worked(now);
        now += 10_000_000;
    }
    longest
}

#[test]
fn what_is_about_to_end_is_polled_for_a_bounded_time() {
    let mut most = 0;
    for time in [
        50_000, 200_000, 700_000, 1_200_000, 2_000_000, 5_000_000, 20_000_000,
    ] {
        for late in [0, 50_000, 300_000, 1_000_000, 20_000_000] {
            most = most.max(longest_spin(time, late));
        }
    }
    assert!((400_000..=1_000_000).contains(&most), "{most}");
}
