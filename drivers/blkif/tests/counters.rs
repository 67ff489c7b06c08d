//! The counters: each field summed over a device's rings and shown under its own name, and equal
//! to what frontends have asked for and what the core has done.

mod common;

use std::sync::Arc;

use common::{COPIED, PERSISTENT, Rig};
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::{
    BATCH_PLACES, CoreSnapshot, CoreStats, Counts, DelayLine, LATENCY_PLACES, RingSnapshot,
};
use spindle_blkif::worker::{Link, Next, Order, Report, Worker};
use spindle_block::IoError;

/// A ring whose counters all differ from each other: the field's number times `scale`.
fn ring(scale: u64) -> RingSnapshot {
    let mut batches = [0; BATCH_PLACES];
    let mut latency = [0; LATENCY_PLACES];
    (batches[1], batches[2], latency[3], latency[5]) =
        (15 * scale, 16 * scale, 17 * scale, 18 * scale);
    let [mut wait, mut device, mut tokens] = [[0; LATENCY_PLACES]; 3];
    (wait[1], device[2], tokens[3]) = (21 * scale, 23 * scale, 25 * scale);
    RingSnapshot {
        out_of_room: scale,
        reads: 2 * scale,
        writes: 3 * scale,
        flushes: 4 * scale,
        discards: 5 * scale,
        errors: 6 * scale,
        sectors_read: 7 * scale,
        sectors_written: 8 * scale,
        in_flight_peak: 9 * scale,
        notifications: 10 * scale,
        grants_mapped: 11 * scale,
        grants_evicted: 12 * scale,
        copied_requests: 13 * scale,
        frames_lost: 14 * scale,
        batches: Counts(batches),
        latency: Counts(latency),
        held_ns: 15 * scale,
        batched: 19 * scale,
        latency_ns: 20 * scale,
        wait: Counts(wait),
        wait_ns: 22 * scale,
        device: Counts(device),
        device_ns: 24 * scale,
        tokens: Counts(tokens),
        tokens_ns: 26 * scale,
    }
}

#[test]
fn every_counter_is_summed_over_the_rings_but_the_peak() {
    let sum = RingSnapshot::sum([ring(1000), ring(1), ring(100), ring(10)]);
    let expected = RingSnapshot {
        in_flight_peak: 9000,
        ..ring(1111)
    };
    assert_eq!(sum, expected);
    assert_eq!(RingSnapshot::sum([ring(7)]), ring(7));
}

#[test]
fn every_counter_is_shown_under_its_own_name() {
    assert_eq!(
        ring(1).to_string(),
        "oo_req=1 rd_req=2 wr_req=3 f_req=4 ds_req=5 err=6 rd_sect=7 wr_sect=8 peak=9 \
         notify=10 mapped=11 evicted=12 copied=13 lost=14 batch=1:15,2:16 lat_us=4:17,16:18 held_ns=15 \
         batched=19 lat_ns=20"
    );
    assert_eq!(
        DelayLine(ring(1)).to_string(),
        "wait_us=1:21 wait_ns=22 dev_us=2:23 dev_ns=24 tok_us=4:25 tok_ns=26"
    );
    let core = CoreSnapshot {
        polls_busy: 1,
        polls_idle: 2,
        sleeps: 3,
        grant_calls: 4,
        busy_ns: 5,
        idle_ns: 15,
    };
    assert_eq!(
        core.to_string(),
        "busy=25.0% polls=1 idle_polls=2 sleeps=3 grant_calls=4 busy_ns=5 idle_ns=15"
    );
}

/// Each ring of a device does something else; the device's line is what they did together.
#[test]
fn a_devices_counters_are_what_its_frontend_asked_of_all_its_rings() {
    let mut rig = Rig::new();
    rig.volume.write_cache = true;
    let mut rings: Vec<_> = (0..3).map(|_| rig.attach(5, PERSISTENT)).collect();
    rings.push(rig.attach(5, COPIED));
    let sessions = rig.core.sessions();
    let stats: Vec<_> = sessions.map(|(_, session)| session.stats()).collect();
    let mut ask = |at: usize, push: &dyn Fn(&mut spindle_testkit::blkfront::Blkfront<'static>)| {
        let front = &mut rings[at].1;
        push(front);
        front.publish();
        rig.settle(front);
    };
    // 4 reads of 8 sectors and 3 of 2; 5 writes of 3 sectors and one of 1; and so on.
    for _ in 0..4 {
        ask(0, &|f| {
            let page = f.page(false);
            f.push(Operation::READ, 0, &[page.segment(0, 7)]);
        });
    }
    for _ in 0..3 {
        ask(1, &|f| {
            let page = f.page(false);
            f.push(Operation::READ, 0, &[page.segment(1, 2)]);
        });
    }
    for _ in 0..5 {
        ask(2, &|f| {
            let page = f.page(false);
            f.push(Operation::WRITE, 0, &[page.segment(5, 7)]);
        });
    }
    ask(3, &|f| {
        let page = f.page(false);
        f.push(Operation::WRITE, 0, &[page.segment(0, 0)]);
    });
    ask(1, &|f| {
        f.push(Operation::FLUSH, 0, &[]);
    });
    ask(2, &|f| {
        f.push(Operation::FLUSH, 0, &[]);
    });
    for at in [0, 1, 3] {
        ask(at, &|f| {
            f.push_discard(0, 8, false);
        });
    }
    // Two that fail, on different rings: beyond the end, and one of which the disk says so.
    ask(0, &|f| {
        let page = f.page(false);
        f.push(Operation::READ, u64::MAX, &[page.segment(0, 0)]);
    });
    rig.disk().results = [Err(IoError::Medium)].into();
    let front = &mut rings[3].1;
    let page = front.page(false);
    front.push(Operation::READ, 0, &[page.segment(0, 3)]);
    front.publish();
    common::assert_all(&rig.settle(front), 1, RspStatus::ERROR);
    let sum = RingSnapshot::sum(stats.iter().map(|ring| ring.snapshot()));
    let requests = (sum.reads, sum.writes, sum.flushes, sum.discards, sum.errors);
    assert_eq!(requests, (4 + 3 + 1, 5 + 1, 2, 3, 2));
    let sectors = (sum.sectors_read, sum.sectors_written);
    assert_eq!(sectors, (4 * 8 + 3 * 2 + 4, 5 * 3 + 1));
    // Pages that were granted anew for each request, and those of the ring without them.
    assert_eq!((sum.grants_mapped, sum.copied_requests), (4 + 3 + 5, 2));
    assert_eq!(sum.in_flight_peak, 1);
    assert_eq!(sum.batches.0.iter().sum::<u64>(), 8 + 6 + 2 + 3 + 1);
    assert_eq!(sum.batched, 8 + 6 + 2 + 3 + 1);
}

/// A core's counters over the rings it serves: each turn is counted once, all time is either busy
/// or idle, and two cores do not count each other's.
#[test]
fn a_cores_counters_are_of_all_its_rings_and_of_no_other_core() {
    let mut cores: Vec<_> = (0..2)
        .map(|_| {
            let mut rig = Rig::new();
            let sessions: Vec<_> = (1..4).map(|dom| rig.session(dom, PERSISTENT)).collect();
            let (link, stats) = (Arc::new(Link::default()), Arc::<CoreStats>::default());
            let poll = PollTime::Always;
            let worker = Worker::new(rig.core, link.clone(), poll, stats.clone());
            (worker, link, stats, sessions)
        })
        .collect();
    let mut fronts = Vec::new();
    let mut now = 1_000_000;
    for (core, (worker, link, _, sessions)) in cores.iter_mut().enumerate() {
        for (token, (session, front)) in (0..).zip(sessions.drain(..)) {
            let session = Box::new(session);
            link.orders.put(Order::Attach { token, session }).unwrap();
            while !worker.take_reported() {
                now += 100;
                worker.turn(now);
            }
            assert!(matches!(link.reports.take(), Some(Report::Attached { .. })));
            let page = front.page(false);
            fronts.push((core, front, page));
        }
    }
    // Turns in which nothing came are counted by the next visit, which is due by then.
    now += 20_000;
    for (worker, ..) in &mut cores {
        worker.turn(now);
    }
    let before: Vec<_> = cores.iter().map(|core| core.2.snapshot()).collect();
    let start = now;
    let mut busy = [0; 2];
    for round in 0..300 {
        now += 1000;
        // Only the first core has work, of each ring by turns, in a third of its turns.
        if round % 3 == 0 {
            let (core, front, page) = &mut fronts[round / 3 % 3];
            assert_eq!(*core, 0);
            front.push(Operation::READ, 0, &[page.segment(0, 7)]);
            front.publish();
        }
        for (core, (worker, ..)) in cores.iter_mut().enumerate() {
            assert_eq!(worker.turn(now), Next::Turn, "it polls always");
            busy[core] += u64::from(core == 0 && round % 3 < 2);
        }
        for (_, front, _) in &mut fronts {
            front.answers();
        }
    }
    now += 20_000;
    for (worker, ..) in &mut cores {
        worker.turn(now);
    }
    // A request is taken in one turn and answered in the next.
    assert_eq!(busy, [200, 0]);
    for (core, (_, _, stats, _)) in cores.iter().enumerate() {
        let (before, after) = (before[core], stats.snapshot());
        let polls = after.polls_busy - before.polls_busy;
        assert_eq!(polls, busy[core], "core {core}");
        assert_eq!(after.polls_idle - before.polls_idle, 301 - busy[core]);
        assert_eq!(after.sleeps, before.sleeps);
        let time = |of: CoreSnapshot| of.busy_ns + of.idle_ns;
        let passed = time(after) - time(before);
        // But for the turns at the ends, all of it.
        assert!(
            passed.abs_diff(now - start) <= 1000,
            "core {core}: {passed}"
        );
        let share = (after.busy_ns - before.busy_ns) * 320 / passed;
        assert!(share.abs_diff(busy[core]) <= 2, "core {core}: {share}");
    }
}
