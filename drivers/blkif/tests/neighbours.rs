//! What one guest must not do to its neighbours on a core beside taking the disk (`fairness`):
//! keep the core awake or asleep, its hypercalls busy, or memory of theirs mapped.

mod common;

use std::sync::Arc;

use common::{COPIED, How, PERSISTENT, Rig, Sizes, TestDisk};
use spindle_blkif::abi::Operation;
use spindle_blkif::pacer::{Pacer, PollTime, Rest};
use spindle_blkif::stats::CoreStats;
use spindle_blkif::wait::Wait;
use spindle_blkif::worker::{Link, Order, Report, Worker};
use spindle_blkif::{Gate, Session};
use spindle_block::DiskQueue;
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::grants::{FakeEvents, FakeGrants};

type Bench = Worker<TestDisk, &'static FakeGrants<'static>, &'static FakeEvents>;

const SECOND: u64 = 1_000_000_000;

fn attach(worker: &mut Bench, link: &Link<TestDisk>, session: Session, now: &mut u64) {
    link.orders
        .put(Order::Attach {
            token: 1,
            session: Box::new(session),
        })
        .unwrap();
    loop {
        *now += 1000;
        worker.turn(*now);
        if let Some(Report::Attached { .. }) = link.reports.take() {
            return;
        }
    }
}

/// "Unmapped after one to two minutes without use" (ctl/docs/features.md), whatever others on the core do.
fn kept_after_an_hour(neighbour_busy: bool) -> usize {
    let mut rig = Rig::new();
    rig.disk().record = false;
    let (idle, mut idle_front) = rig.session(1, PERSISTENT);
    let (busy, mut busy_front) = rig.session(2, PERSISTENT);
    let grants = rig.grants;
    let link = Arc::new(Link::default());
    let mut worker: Bench = Worker::new(
        rig.core,
        link.clone(),
        PollTime::For(1000),
        Arc::<CoreStats>::default(),
    );
    let mut now = 0;
    attach(&mut worker, &link, idle, &mut now);
    attach(&mut worker, &link, busy, &mut now);
    for _ in 0..20 {
        let page = idle_front.page(false);
        idle_front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        idle_front.publish();
        now += 1000;
        worker.turn(now);
        now += 1000;
        worker.turn(now);
        idle_front.answers();
    }
    let page = busy_front.page(false);
    for _ in 0..3600 {
        if neighbour_busy {
            busy_front.push(Operation::READ, 0, &[page.segment(0, 7)]);
            busy_front.publish();
        }
        now += SECOND;
        worker.turn(now);
        busy_front.answers();
    }
    // One page is the busy one's own.
    grants.outstanding() - usize::from(neighbour_busy)
}

#[test]
fn grants_without_use_are_let_go_of_on_a_quiet_core() {
    assert_eq!(kept_after_an_hour(false), 0);
}

#[test]
fn grants_without_use_are_let_go_of_on_a_core_that_a_neighbour_keeps_busy() {
    assert_eq!(
        kept_after_an_hour(true),
        0,
        "grants still mapped after an hour without use"
    );
}

/// A guest that never uses a grant twice: how many visits with an unmap hypercall, of how many.
#[test]
fn a_guest_that_never_uses_a_grant_twice_does_not_cost_an_unmap_in_every_visit() {
    let mut rig = Rig::sized(&Sizes {
        buffers: 1024,
        depth: 256,
        ..Sizes::default()
    });
    rig.disk().record = false;
    let (_, mut front) = rig.attach(
        1,
        How {
            frames: Some(1056),
            ..PERSISTENT
        },
    );
    let (mut with, mut visits) = (0u32, 0u32);
    let (mut maps, mut unmaps, mut requests) = (0, 0, 0);
    for round in 0..150u32 {
        while front.free() > 0 {
            let segments: Vec<_> = (0..11).map(|_| front.page(false).segment(0, 7)).collect();
            front.push(Operation::WRITE, 0, &segments);
            requests += 1;
        }
        front.publish();
        let before = rig.grants.counts();
        rig.core.visit(u64::from(round) * 1000);
        let after = rig.grants.counts();
        front.answers();
        if round >= 50 {
            visits += 1;
            with += u32::from(after.unmap_calls > before.unmap_calls);
            maps += after.maps - before.maps;
            unmaps += after.unmaps - before.unmaps;
        }
    }
    assert!(
        with * 10 <= visits,
        "{with} of {visits} visits unmapped ({unmaps} pages unmapped, {maps} mapped; {requests} requests in all)"
    );
}

/// A pacer with a hostile guest's slow commands, and a neighbour's fast ones now and then: how long
/// the neighbour's take, in ns: mean and worst.
fn neighbours_wait(hostile: usize, slow_ns: u64) -> (u64, u64) {
    const TRIP: u64 = 30_000;
    const FAST: u64 = 80_000;
    const PERIOD: u64 = 20_000_000;
    let mut pacer = Pacer::new(PollTime::For(100_000));
    let (mut slow_wait, mut fast_wait) = (Wait::default(), Wait::default());
    let mut now = 0u64;
    // Ends of the hostile commands, staggered.
    let mut slow: Vec<u64> = (0..hostile)
        .map(|i| slow_ns + i as u64 * slow_ns / hostile.max(1) as u64)
        .collect();
    let mut next_request = PERIOD;
    let mut fast: Option<(u64, u64)> = None;
    let (mut sum, mut worst, mut count) = (0, 0, 0u64);
    let mut turns = 0u64;
    while count < 400 {
        turns += 1;
        assert!(turns < 80_000_000);
        let (mut slow_done, mut completed, mut taken) = (false, false, false);
        for end in &mut slow {
            if *end <= now {
                slow_done = true;
                *end = now + slow_ns;
            }
        }
        if let Some((began, end)) = fast
            && end <= now
        {
            completed = true;
            fast = None;
            let wait = now - began;
            if count >= 100 {
                sum += wait;
                worst = worst.max(wait);
            }
            count += 1;
            next_request = now + PERIOD;
        }
        if fast.is_none() && next_request <= now {
            fast = Some((next_request, now + FAST));
            next_request = u64::MAX;
            taken = true;
        }
        let slept = pacer.wake(now);
        let own = usize::from(fast.is_some());
        if completed || taken || slow_done {
            slow_wait.note(now, slow_done, hostile, slept);
            fast_wait.note(now, completed, own, slept);
            pacer.worked(now);
            now += 1000;
            continue;
        }
        match pacer.idle(
            now,
            hostile + own,
            false,
            [&slow_wait, &fast_wait].into_iter(),
        ) {
            Rest::Poll => now += 1000,
            Rest::Nap { until, listen } => {
                // A request's event ends it sooner.
                now = if listen && next_request < until {
                    next_request.max(now) + TRIP
                } else {
                    until + TRIP
                };
            }
            Rest::Sleep => now = next_request.max(now) + TRIP,
        }
    }
    (sum / 300, worst)
}

#[test]
fn a_neighbours_slow_commands_do_not_make_fast_ones_slow() {
    let alone = neighbours_wait(0, 0);
    for (hostile, slow_ns) in [
        (1, 10_000_000),
        (4, 10_000_000),
        (7, 50_000_000),
        (8, 10_000_000),
        (8, 100_000_000),
        (32, 100_000_000),
        (255, 1_000_000_000),
    ] {
        let beside = neighbours_wait(hostile, slow_ns);
        assert!(
            beside.0 <= 2 * alone.0,
            "alone {alone:?} ns; beside {hostile} commands of {slow_ns} ns: {beside:?} ns"
        );
    }
}

/// A barrier of one guest that cannot be carried out (one of its rings never drains) holds up
/// nobody but that guest.
#[test]
fn a_barrier_that_waits_for_ever_is_its_guests_own_affair() {
    let mut rig = Rig::new();
    rig.volume.write_cache = true;
    let mut members = Gate::members(2);
    let mut evil = Vec::new();
    for _ in 0..2 {
        let (mut attachment, front) = rig.attachment(1, &PERSISTENT);
        attachment.gate = members.remove(0);
        let session = Session::new(front.ring(), attachment).unwrap();
        evil.push((rig.core.attach(session).unwrap(), front));
    }
    let (_, mut good) = rig.attach(2, COPIED);
    // The first ring never drains: its read is refused by the disk again and again.
    rig.disk().refuse = Some(spindle_block::SubmitError::Full);
    let page = evil[0].1.page(false);
    evil[0].1.push(Operation::READ, 0, &[page.segment(0, 7)]);
    evil[0].1.publish();
    let page = evil[1].1.page(false);
    evil[1]
        .1
        .push(Operation::WRITE_BARRIER, 0, &[page.segment(0, 7)]);
    evil[1].1.publish();
    for _ in 0..100 {
        rig.core.visit(0);
    }
    assert!(evil[1].1.answers().is_empty());
    rig.disk().refuse = None;
    rig.disk().hold = true;
    for _ in 0..10 {
        rig.core.visit(0);
    }
    // The barrier still waits for the held read; the neighbour's read gets to the disk.
    let before = rig.disk().submitted.len();
    let page = good.page(false);
    good.push(Operation::READ, 8, &[page.segment(0, 7)]);
    good.publish();
    for _ in 0..10 {
        rig.core.visit(0);
    }
    assert_eq!(rig.disk().submitted.len(), before + 1);
    assert!(evil[1].1.answers().is_empty());
}

/// What a ring that is being closed has left for want of credit will never be taken.
#[test]
fn a_ring_that_is_closing_is_no_rival() {
    let how = || How {
        ring_pages: 4,
        ..PERSISTENT
    };
    let mut rig = Rig::new();
    let (closing, mut first) = rig.attach(1, how());
    let (_, mut second) = rig.attach(2, how());
    let ask = |front: &mut Blkfront<'_>, count| {
        let page = front.page(false);
        for _ in 0..count {
            front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        }
        front.publish();
    };
    let visits = |rig: &mut Rig, now_ns| {
        for _ in 0..10 {
            rig.core.visit(now_ns);
        }
    };
    rig.disk().hold = true;
    ask(&mut second, 1);
    rig.core.visit(0);
    ask(&mut first, 128);
    visits(&mut rig, 0);
    rig.core.begin_detach(closing);
    rig.disk().hold = false;
    visits(&mut rig, 0);
    assert!(rig.core.is_drained(closing));
    assert!(first.answers().len() < 128, "it had no credit for all");
    // Long after, the other one may have as much with the disk as it asks for.
    rig.disk().hold = true;
    ask(&mut second, 100);
    visits(&mut rig, 2 * SECOND);
    assert_eq!(rig.disk().in_flight(), 100);
}
