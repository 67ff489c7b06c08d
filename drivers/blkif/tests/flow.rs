//! Flow: budgets, fairness, back-pressure, hold-off, flush, detaching.

mod common;

use common::{COPIED, How, PERSISTENT, Rig, Sizes, assert_all};
use spindle_blkif::abi::{Abi, NativeRequest, Operation, RspStatus};
use spindle_blkif::ring_core::RingError;
use spindle_blkif::{Config, RingId};
use spindle_block::{Discard, IoError, Op, SubmitError, Unit};
use spindle_testkit::blkfront::{Blkfront, GuestPage, fill};
use spindle_xen::event::Port;

fn push_reads(front: &mut Blkfront<'_>, page: &GuestPage, count: u32) {
    for _ in 0..count {
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
    }
    front.publish();
}

#[test]
fn a_visit_takes_no_more_than_the_budget_of_each_ring() {
    let config = Config {
        budget: 5,
        ..Config::default()
    };
    let mut rig = Rig::sized(&Sizes {
        config,
        ..Sizes::default()
    });
    let mut fronts: Vec<_> = (1..4).map(|dom| rig.attach(dom, PERSISTENT).1).collect();
    for front in &mut fronts {
        let page = front.page(false);
        push_reads(front, &page, 12);
    }
    let taken: Vec<_> = (0..4).map(|_| rig.core.visit(0).taken).collect();
    assert_eq!(taken, [15, 15, 6, 0]);
}

#[test]
fn a_full_disk_is_shared_by_all_rings_and_order_is_kept() {
    let mut rig = Rig::sized(&Sizes {
        depth: 2,
        ..Sizes::default()
    });
    let mut fronts: Vec<_> = (1..4).map(|dom| rig.attach(dom, PERSISTENT).1).collect();
    let pages: Vec<_> = fronts.iter().map(|front| front.page(false)).collect();
    let mut answered = [0; 3];
    for _ in 0..300 {
        for (front, page) in fronts.iter_mut().zip(&pages) {
            let free = front.free();
            push_reads(front, page, free);
        }
        rig.core.visit(0);
        for (front, count) in fronts.iter_mut().zip(&mut answered) {
            let ids: Vec<_> = front.answers().iter().map(|a| a.id).collect();
            let expected: Vec<_> = (*count + 1..).take(ids.len()).collect();
            assert_eq!(ids, expected);
            *count += ids.len() as u64;
        }
    }
    assert!(
        answered.iter().all(|&n| (180..=220).contains(&n)),
        "{answered:?}"
    );
}

#[test]
fn a_large_request_is_not_starved_of_buffers_by_small_ones() {
    // Whichever ring's turn comes first when the buffers come back.
    for visits_before in 0..2 {
        large_against_small(visits_before);
    }
}

fn large_against_small(visits_before: u32) {
    let mut rig = Rig::sized(&Sizes {
        buffers: 11,
        ..Sizes::default()
    });
    let (_, mut small) = rig.attach(1, COPIED);
    let (_, mut large) = rig.attach(2, COPIED);
    let page = small.page(false);
    let pages: Vec<_> = (0..11).map(|_| large.page(false)).collect();
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    for _ in 0..visits_before {
        rig.core.visit(0);
    }
    let mut answered = (0, 0);
    for _ in 0..200 {
        let free = small.free();
        push_reads(&mut small, &page, free);
        if large.outstanding() == 0 {
            large.push(Operation::READ, 0, &segments);
            large.publish();
        }
        rig.core.visit(0);
        answered.0 += small.answers().len();
        answered.1 += large.answers().len();
    }
    assert!(answered.0 > 200 && answered.1 > 20, "{answered:?}");
}

/// A guest gets another disk while a request of its first one goes through the buffers in chunks:
/// what it holds for that one is not forgotten, and it does not wait for buffers that it can do
/// without, in front of all others.
#[test]
fn a_guest_that_gets_another_disk_keeps_no_buffers_from_others() {
    let mut rig = Rig::sized(&Sizes {
        disks: 2,
        buffers: 16,
        ..Sizes::default()
    });
    let (_, mut first) = rig.attach(1, COPIED);
    rig.volume.disk = 1;
    let (_, mut other) = rig.attach(2, COPIED);
    let read = |front: &mut Blkfront<'_>, pages: usize| {
        let page = front.page(false);
        front.push(Operation::READ, 0, &vec![page.segment(0, 7); pages]);
        front.publish();
    };
    for disk in 0..2 {
        rig.core.queue_mut(disk).unwrap().hold = true;
    }
    read(&mut other, 11);
    read(&mut other, 1);
    rig.core.visit(0);
    assert_eq!(rig.core.free_buffers(), 4);
    read(&mut first, 11);
    rig.core.visit(0);
    assert_eq!(rig.core.free_buffers(), 0);
    rig.volume.disk = 0;
    let (_, _second) = rig.attach(1, COPIED);
    rig.core.queue_mut(0).unwrap().hold = false;
    for _ in 0..10 {
        rig.core.visit(0);
    }
    assert_all(&first.answers(), 1, RspStatus::OKAY);
    rig.core.queue_mut(1).unwrap().hold = false;
    assert_all(&rig.settle(&mut other), 2, RspStatus::OKAY);
    read(&mut other, 1);
    assert_all(&rig.settle(&mut other), 1, RspStatus::OKAY);
}

#[test]
fn waiting_for_room_is_counted_and_loses_nothing() {
    let mut rig = Rig::sized(&Sizes {
        depth: 1,
        buffers: 11,
        ..Sizes::default()
    });
    let (ring, mut front) = rig.attach(
        1,
        How {
            ring_pages: 2,
            ..COPIED
        },
    );
    let page = front.page(false);
    push_reads(&mut front, &page, 64);
    assert_all(&rig.settle(&mut front), 64, RspStatus::OKAY);
    assert!(rig.detach(ring).stats.snapshot().out_of_room > 0);
    rig.assert_nothing_leaked();
}

#[test]
fn the_frontend_is_notified_only_when_it_asked() {
    for start in [0, u32::MAX - 2] {
        let mut rig = Rig::new();
        let (_, mut front) = rig.attach(
            5,
            How {
                start,
                ..PERSISTENT
            },
        );
        let page = front.page(false);
        let sent = |rig: &Rig| rig.events.sent(Port(5));
        // Asks for the fourth response: the first three come quietly.
        front.arm(4);
        for expected in [0, 0, 0, 1, 1] {
            push_reads(&mut front, &page, 1);
            rig.core.visit(0);
            rig.core.visit(0);
            assert_eq!(sent(&rig), expected);
        }
        assert_eq!(front.answers().len(), 5);
    }
}

#[test]
fn an_event_that_is_held_back_is_sent_when_the_ring_closes() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(5, PERSISTENT);
    let page = front.page(false);
    let mut now = 0;
    let mut visit = |rig: &mut Rig, time: u64| {
        now += time;
        rig.core.visit(now);
    };
    // It keeps 32 requests in flight, and is told of all of them together.
    for _ in 0..20 {
        front.arm(1);
        push_reads(&mut front, &page, 32);
        visit(&mut rig, 1000);
        visit(&mut rig, 100_000);
        assert_eq!(front.answers().len(), 32);
    }
    // Then it is answered a few, with the others still in its hands.
    front.arm(1);
    push_reads(&mut front, &page, 4);
    visit(&mut rig, 1000);
    let sent = rig.events.sent(Port(5));
    visit(&mut rig, 1000);
    assert_eq!(front.answers().len(), 4);
    assert_eq!(rig.events.sent(Port(5)), sent, "held back");
    assert_eq!(rig.core.in_flight(), 4, "and owed");
    rig.core.begin_detach(ring);
    visit(&mut rig, 1000);
    assert_eq!(rig.events.sent(Port(5)), sent + 1);
    assert_eq!(rig.core.in_flight(), 0);
}

#[test]
fn a_core_that_armed_is_notified_of_the_next_request_and_only_of_that() {
    for start in [0, u32::MAX - 1] {
        let mut rig = Rig::new();
        let (_, mut front) = rig.attach(
            5,
            How {
                start,
                ..PERSISTENT
            },
        );
        let page = front.page(false);
        let segment = [page.segment(0, 0)];
        for _ in 0..5 {
            assert!(rig.core.arm());
            front.push(Operation::READ, 0, &segment);
            assert!(front.publish(), "the first after arming");
            assert!(!rig.core.arm(), "there is a request");
            rig.core.visit(0);
            front.push(Operation::READ, 0, &segment);
            assert!(!front.publish(), "not asked for");
            assert!(!rig.core.arm(), "one is in flight");
            assert_all(&rig.settle(&mut front), 2, RspStatus::OKAY);
        }
    }
}

#[test]
fn a_flush_reaches_a_disk_with_a_write_cache_in_order() {
    let mut rig = Rig::new();
    rig.volume.write_cache = true;
    let (_, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    front.push(Operation::WRITE, 8, &[page.segment(0, 7)]);
    front.push(Operation::FLUSH, 0, &[]);
    front.push(Operation::WRITE, 16, &[page.segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 3, RspStatus::OKAY);
    let submitted = [(Op::Write, 8, 1), (Op::Flush, 0, 0), (Op::Write, 16, 1)];
    assert_eq!(rig.disk().submitted, submitted);
    for (result, status) in [
        (IoError::Unsupported, RspStatus::EOPNOTSUPP),
        (IoError::Medium, RspStatus::ERROR),
    ] {
        rig.disk().results.push_back(Err(result));
        front.push(Operation::FLUSH, 0, &[]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, status);
    }
}

#[test]
fn flushes_that_came_while_one_was_with_the_disk_are_answered_by_the_next() {
    let mut rig = Rig::new();
    rig.volume.write_cache = true;
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    rig.disk().hold = true;
    front.push(Operation::FLUSH, 0, &[]);
    front.publish();
    rig.core.visit(0);
    // Nothing else of the ring waits for the flush.
    for _ in 0..3 {
        front.push(Operation::FLUSH, 0, &[]);
        front.push_discard(8, 8, false);
    }
    push_reads(&mut front, &page, 1);
    rig.core.visit(0);
    let ops = |rig: &mut Rig| -> Vec<_> { rig.disk().submitted.drain(..).map(|s| s.0).collect() };
    assert_eq!(ops(&mut rig), [Op::Flush, Op::Discard, Op::Read]);
    // The first ends, and answers itself alone: what was written since may not be durable.
    rig.disk().hold = false;
    rig.core.visit(0);
    rig.disk().hold = true;
    let answers: Vec<_> = front.answers().iter().map(|answer| answer.id).collect();
    assert_eq!(answers, [1, 3, 8]);
    rig.core.visit(0);
    assert_eq!(ops(&mut rig), [Op::Flush, Op::Discard]);
    rig.disk().hold = false;
    assert_all(&rig.settle(&mut front), 5, RspStatus::OKAY);
    assert_eq!(ops(&mut rig), [Op::Discard], "one flush for three");
    // All of them fail with the one that the disk had.
    rig.disk().hold = true;
    for _ in 0..2 {
        front.push(Operation::FLUSH, 0, &[]);
        front.publish();
        rig.core.visit(0);
    }
    rig.disk().refuse = Some(SubmitError::Gone);
    rig.disk().hold = false;
    rig.disk().results.push_back(Err(IoError::Medium));
    assert_all(&rig.settle(&mut front), 2, RspStatus::ERROR);
    rig.disk().refuse = None;
    rig.detach(ring);
}

/// A guest's rings take turns with their discards, and a flush answers those of its other rings that
/// waited when it began. Another guest does not wait.
#[test]
fn the_rings_of_a_guest_take_turns_with_flushes_and_discards() {
    let mut rig = Rig::new();
    rig.volume.write_cache = true;
    let (_, mut first) = rig.attach(1, PERSISTENT);
    let (_, mut second) = rig.attach(1, PERSISTENT);
    let (_, mut third) = rig.attach(1, PERSISTENT);
    let (_, mut other) = rig.attach(2, PERSISTENT);
    let count = |rig: &mut Rig, op| {
        let submitted = rig.disk().submitted.drain(..);
        submitted.filter(|command| command.0 == op).count()
    };
    // One visit in which the disk does what it has, and one in which it does nothing.
    let step = |rig: &mut Rig| {
        rig.disk().hold = false;
        rig.core.visit(0);
        rig.disk().hold = true;
        rig.core.visit(0);
    };
    rig.disk().hold = true;
    for front in [&mut first, &mut second, &mut third, &mut other] {
        for _ in 0..2 {
            front.push_discard(0, 8, false);
        }
        front.publish();
    }
    rig.core.visit(0);
    assert_eq!(count(&mut rig, Op::Discard), 2, "one of each guest");
    // Each ring of the guest has its turn before any has another, as far as it has the credit.
    let (mut done, mut turns) = ([0; 3], Vec::new());
    for _ in 0..12 {
        step(&mut rig);
        let fronts = [&mut first, &mut second, &mut third];
        for (at, front) in fronts.into_iter().enumerate() {
            let answers = front.answers();
            assert!(
                answers
                    .iter()
                    .all(|answer| answer.status == RspStatus::OKAY)
            );
            turns.extend(answers.iter().map(|_| at));
            done[at] += answers.len();
        }
        assert!(done.iter().max() <= done.iter().min().map(|least| least + 1).as_ref());
    }
    assert_eq!((done, other.answers().len()), ([2; 3], 2), "{turns:?}");
    // The first flush is the first ring's own; the next one is for all that came meanwhile.
    rig.disk().submitted.clear();
    first.push(Operation::FLUSH, 0, &[]);
    first.publish();
    rig.core.visit(0);
    for front in [&mut first, &mut second, &mut third] {
        for _ in 0..2 {
            front.push(Operation::FLUSH, 0, &[]);
        }
        front.publish();
    }
    rig.core.visit(0);
    assert_eq!(count(&mut rig, Op::Flush), 1);
    step(&mut rig);
    assert_eq!(first.answers().len(), 1);
    assert_eq!(second.answers().len() + third.answers().len(), 0);
    step(&mut rig);
    let answers = [&mut first, &mut second, &mut third].map(|front| front.answers().len());
    assert_eq!((answers, count(&mut rig, Op::Flush)), ([2; 3], 1));
}

/// What waits aside for another of its kind is answered also if the disk takes the next no longer.
#[test]
fn what_waits_aside_is_answered_when_the_disk_takes_no_more() {
    for error in [SubmitError::Gone, SubmitError::Unsupported] {
        for operation in [Operation::FLUSH, Operation::DISCARD] {
            let mut rig = Rig::new();
            rig.volume.write_cache = true;
            let (ring, mut front) = rig.attach(1, PERSISTENT);
            rig.disk().hold = true;
            for _ in 0..5 {
                match operation {
                    Operation::FLUSH => front.push(operation, 0, &[]),
                    _ => front.push_discard(0, 8, false),
                };
            }
            front.publish();
            rig.core.visit(0);
            assert_eq!(rig.disk().submitted.len(), 1, "the others wait aside");
            rig.disk().hold = false;
            rig.disk().refuse = Some(error);
            let answers = rig.settle(&mut front);
            assert_eq!(answers.len(), 5, "{error:?} {operation:?}");
            let failed = answers.iter().filter(|a| a.status != RspStatus::OKAY);
            assert_eq!(failed.count(), 4, "{error:?} {operation:?}");
            rig.detach(ring);
            rig.assert_nothing_leaked();
        }
    }
}

/// A discard that the disk refuses passes its turn on at once. If the next ring has had its place in
/// this visit, its discard is sent by the next visit, for which the core does not sleep, however busy
/// its other disk is.
#[test]
fn a_turn_that_a_refusal_passes_on_is_taken_without_a_pause() {
    for (error, status) in [
        (SubmitError::Gone, RspStatus::ERROR),
        (SubmitError::Unsupported, RspStatus::EOPNOTSUPP),
    ] {
        let mut rig = Rig::sized(&Sizes {
            disks: 2,
            ..Sizes::default()
        });
        let (a, mut first) = rig.attach(1, PERSISTENT);
        let (b, mut second) = rig.attach(1, PERSISTENT);
        rig.volume.disk = 1;
        let (c, mut other) = rig.attach(2, PERSISTENT);
        rig.core.queue_mut(1).unwrap().hold = true;
        let page = other.page(false);
        push_reads(&mut other, &page, 4);
        // The first ring has the turn, and is in line for another behind the second.
        rig.disk().hold = true;
        for (front, discards) in [(&mut first, 2), (&mut second, 1)] {
            for _ in 0..discards {
                front.push_discard(0, 8, false);
            }
            front.publish();
        }
        rig.core.visit(0);
        assert_eq!(rig.disk().submitted.len(), 1, "one of a guest");
        // The visits begin with one ring after the other: the fourth does with the first again.
        rig.core.visit(0);
        rig.core.visit(0);
        rig.disk().hold = false;
        rig.disk().refuse = Some(error);
        let work = rig.core.visit(0);
        assert_all(&first.answers(), 1, RspStatus::OKAY);
        assert_all(&second.answers(), 1, status);
        assert!(work.more, "{error:?}: {work:?}");
        rig.core.visit(0);
        assert_all(&first.answers(), 1, status);
        let work = rig.core.visit(0);
        assert!(
            !work.more && work.busy,
            "the other disk is at work: {work:?}"
        );
        rig.core.queue_mut(1).unwrap().hold = false;
        assert_eq!(rig.settle(&mut other).len(), 4);
        for ring in [a, b, c] {
            rig.detach(ring);
        }
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_flush_without_a_write_cache_is_answered_at_once() {
    let mut rig = Rig::new();
    let (_, mut front) = rig.attach(1, PERSISTENT);
    front.push(Operation::FLUSH, 0, &[]);
    front.publish();
    rig.core.visit(0);
    assert_all(&front.answers(), 1, RspStatus::OKAY);
    assert!(rig.disk().submitted.is_empty());
}

#[test]
fn what_was_not_offered_or_not_allowed_never_reaches_the_disk() {
    let mut rig = Rig::new();
    rig.volume.read_only = true;
    rig.volume.discard = None;
    let (_, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    let segment = [page.segment(0, 7)];
    for (operation, sector, status) in [
        (Operation::WRITE_BARRIER, 0, RspStatus::ERROR),
        (Operation::DISCARD, 0, RspStatus::EOPNOTSUPP),
        (Operation::INDIRECT, 0, RspStatus::EOPNOTSUPP),
        (Operation(77), 0, RspStatus::EOPNOTSUPP),
        (Operation::WRITE, 0, RspStatus::ERROR),
        (Operation::READ, 2041, RspStatus::ERROR),
        (Operation::READ, u64::MAX - 3, RspStatus::ERROR),
    ] {
        front.push(operation, sector, &segment);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, status);
    }
    assert!(rig.disk().submitted.is_empty());
    assert_eq!(rig.grants.counts().calls(), 0);
}

#[test]
fn discards_reach_a_disk_that_takes_them() {
    for abi in [Abi::Native, Abi::X86_32] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, How { abi, ..PERSISTENT });
        let page = front.page(false);
        fill(&page.memory, 7);
        front.push(Operation::WRITE, 8, &[page.segment(0, 7)]);
        front.push_discard(8, 16, false);
        front.push_discard(2047, 1, true);
        front.publish();
        assert_all(&rig.settle(&mut front), 3, RspStatus::OKAY);
        let expected = [
            (Op::Write, 8, 1),
            (Op::Discard, 8, 0),
            (Op::SecureDiscard, 2047, 0),
        ];
        assert_eq!(rig.disk().submitted, expected);
        assert_eq!(rig.disk().discarded, [16, 1]);
        front.push(Operation::READ, 8, &[page.segment(0, 7)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        let mut read = [1; 4096];
        page.memory.read_bytes(0, &mut read);
        assert_eq!(read, [0; 4096]);
        front.push_discard(2047, 2, false);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::ERROR);
        let stats = rig.detach(ring).stats.snapshot();
        assert_eq!((stats.discards, stats.errors), (2, 1));
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_disk_that_turns_out_not_to_discard_says_so_to_the_guest() {
    let mut rig = Rig::new();
    rig.volume.discard = Some(Discard {
        granularity: 512,
        alignment: 0,
        secure: false,
    });
    let (_, mut front) = rig.attach(1, COPIED);
    rig.disk().results = [Err(IoError::Unsupported), Err(IoError::Medium)].into();
    for status in [RspStatus::EOPNOTSUPP, RspStatus::ERROR] {
        front.push_discard(0, 8, false);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, status);
    }
    rig.disk().discards = false;
    front.push_discard(0, 8, false);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::EOPNOTSUPP);
}

#[test]
fn a_disk_error_is_the_requests_own() {
    for how in [PERSISTENT, COPIED] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, how);
        let page = front.page(false);
        rig.disk().results = [Ok(()), Err(IoError::Medium)].into();
        push_reads(&mut front, &page, 3);
        let statuses: Vec<_> = {
            let mut answers = rig.settle(&mut front);
            answers.sort_by_key(|a| a.id);
            answers.iter().map(|a| a.status).collect()
        };
        assert_eq!(
            statuses,
            [RspStatus::OKAY, RspStatus::ERROR, RspStatus::OKAY]
        );
        assert_eq!(rig.detach(ring).stats.snapshot().errors, 1);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_disk_that_is_gone_fails_what_waits_for_it() {
    for how in [PERSISTENT, COPIED] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, how);
        let page = front.page(false);
        rig.disk().refuse = Some(SubmitError::Full);
        push_reads(&mut front, &page, 3);
        for _ in 0..3 {
            assert!(rig.core.visit(0).busy);
        }
        assert!(front.answers().is_empty());
        rig.disk().refuse = Some(SubmitError::Gone);
        assert_all(&rig.settle(&mut front), 3, RspStatus::ERROR);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn detaching_waits_for_the_disk_and_takes_nothing_new() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    rig.disk().hold = true;
    push_reads(&mut front, &page, 3);
    rig.core.visit(0);
    rig.core.begin_detach(ring);
    push_reads(&mut front, &page, 2);
    rig.core.visit(0);
    assert!(!rig.core.is_drained(ring));
    assert_eq!(rig.core.detach(ring).unwrap_err(), RingError::Busy);
    rig.disk().hold = false;
    rig.core.visit(0);
    assert!(rig.core.is_drained(ring));
    assert_eq!(front.answers().len(), 3);
    assert_eq!(rig.grants.outstanding(), 1);
    let left = rig.core.detach(ring).unwrap();
    assert_eq!((left.consumed, left.ring.len()), (3, 4096));
    assert_eq!(left.window.unwrap().unusable(), 0);
    rig.assert_nothing_leaked();
    assert_eq!(rig.core.detach(ring).unwrap_err(), RingError::Unknown);
    assert!(rig.core.is_drained(RingId(9)));
}

#[test]
fn a_core_takes_as_many_rings_as_it_has_places_and_reuses_them() {
    let config = Config {
        rings: 2,
        ..Config::default()
    };
    let mut rig = Rig::sized(&Sizes {
        config,
        ..Sizes::default()
    });
    let (first, _) = rig.attach(1, COPIED);
    let (second, mut front) = rig.attach(2, COPIED);
    assert_eq!((first, second), (RingId(0), RingId(1)));
    rig.detach(first);
    let page = front.page(false);
    push_reads(&mut front, &page, 4);
    assert_all(&rig.settle(&mut front), 4, RspStatus::OKAY);
    assert_eq!(rig.attach(3, COPIED).0, first);
    rig.detach(second);
    assert_eq!(rig.core.sessions().count(), 1);
}

#[test]
fn numbers_that_repeat_are_answered_as_often_as_asked() {
    let mut rig = Rig::new();
    let (_, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    let mut request = NativeRequest {
        nr_segments: 1,
        id: u64::MAX,
        ..NativeRequest::default()
    };
    request.segments[0] = page.segment(0, 0);
    for _ in 0..7 {
        front.push_raw(&request);
    }
    front.publish();
    assert_all(&rig.settle(&mut front), 7, RspStatus::OKAY);
    assert_eq!(front.outstanding(), 0);
}

#[test]
fn requests_are_dated_by_the_visits_that_take_and_answer_them() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    let start = 1 << 50;
    push_reads(&mut front, &page, 3);
    rig.core.visit(start);
    rig.core.visit(start + (5 << 10));
    front.push(Operation::DISCARD, 0, &[]);
    push_reads(&mut front, &page, 1);
    rig.core.visit(start + (6 << 10));
    // A clock that goes backwards must do no harm.
    rig.core.visit(0);
    let stats = rig.detach(ring).stats.snapshot();
    assert_eq!(stats.latency.to_string(), "0:1,4:3");
    assert_eq!(stats.batches.to_string(), "2:2");
    assert_eq!((stats.reads, stats.discards, stats.errors), (4, 0, 1));
}

/// Requests of every kind, some in line, some aside, some in part with the disk, when their volume
/// goes; and those that come afterwards.
#[test]
fn nothing_of_a_removed_volume_is_submitted_any_longer() {
    for how in [COPIED, PERSISTENT] {
        for write_cache in [false, true] {
            for refused in [false, true] {
                removed_with_requests(how, write_cache, refused);
            }
        }
    }
}

fn removed_with_requests(how: How, write_cache: bool, refused: bool) {
    let mut rig = Rig::new();
    rig.volume.unit = Unit(7);
    rig.volume.write_cache = write_cache;
    let (ring, mut front) = rig.attach(1, how);
    let page = front.page(false);
    push_reads(&mut front, &page, 1);
    assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
    let ask = |front: &mut Blkfront<'_>| {
        for _ in 0..2 {
            front.push(Operation::FLUSH, 0, &[]);
            front.push_discard(0, 8, false);
        }
        front.push(Operation::WRITE, 8, &[page.segment(0, 7)]);
        front.push(Operation::READ, 16, &[page.segment(0, 7); 3]);
        front.push(Operation::WRITE_BARRIER, 8, &[page.segment(0, 7)]);
        front.publish();
    };
    // Held, the disk has some; or, as while the controller is reset, it takes none.
    rig.disk().hold = true;
    rig.disk().refuse = refused.then_some(SubmitError::Full);
    ask(&mut front);
    rig.core.visit(0);
    rig.core.remove(0, Unit(7));
    let before = rig.disk().submitted.len();
    assert_eq!(before == 1, refused);
    rig.disk().hold = false;
    rig.disk().refuse = None;
    let answers = rig.settle(&mut front);
    assert_eq!(answers.len(), 7);
    let done = answers.iter().filter(|a| a.status == RspStatus::OKAY);
    // What the disk had goes on; without a cache a flush is answered when it is taken.
    let at_once = if write_cache { 0 } else { 2 };
    assert_eq!(done.count(), before - 1 + at_once);
    for sectors in [0, 64] {
        // It is gone for good, whatever size is reported later.
        rig.core.resize(ring, sectors);
        ask(&mut front);
        front.push(Operation::WRITE_BARRIER, 0, &[]);
        front.publish();
        assert_all(&rig.settle(&mut front), 8, RspStatus::ERROR);
    }
    let disk = rig.disk();
    assert_eq!((disk.submitted.len(), disk.unit), (before, Some(Unit(7))));
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

/// A ring has a flush waiting for its guest's turn when its volume goes. The flush of a new ring that
/// is on a volume of that number does not answer it.
#[test]
fn a_flush_of_a_removed_volume_is_not_answered_by_one_of_what_has_its_place() {
    let mut rig = Rig::new();
    rig.volume.unit = Unit(7);
    rig.volume.write_cache = true;
    let (_, mut old) = rig.attach(1, PERSISTENT);
    let flush = |front: &mut Blkfront<'_>| {
        front.push(Operation::FLUSH, 0, &[]);
        front.publish();
    };
    rig.disk().hold = true;
    flush(&mut old);
    rig.core.visit(0);
    flush(&mut old);
    rig.core.visit(0);
    assert_eq!(rig.disk().submitted.len(), 1, "the other waits aside");
    rig.core.remove(0, Unit(7));
    let (_, mut new) = rig.attach(1, PERSISTENT);
    flush(&mut new);
    rig.core.visit(0);
    rig.disk().hold = false;
    let answers: Vec<_> = rig.settle(&mut old).iter().map(|a| a.status).collect();
    assert_eq!(answers, [RspStatus::OKAY, RspStatus::ERROR]);
    assert_all(&rig.settle(&mut new), 1, RspStatus::OKAY);
    assert_eq!(rig.disk().submitted.len(), 2);
}

#[test]
fn a_part_that_is_removed_is_removed_for_its_rings_only_and_for_those_that_drain() {
    let mut rig = Rig::new();
    let mut rings = Vec::new();
    for (dom, unit) in [(1, 7), (2, 8), (3, 7)] {
        rig.volume.unit = Unit(unit);
        rings.push(rig.attach(dom, COPIED));
    }
    rig.disk().refuse = Some(SubmitError::Full);
    for (_, front) in &mut rings {
        let page = front.page(false);
        push_reads(front, &page, 1);
    }
    rig.core.visit(0);
    rig.core.begin_detach(rings[2].0);
    rig.core.remove(0, Unit(7));
    rig.core.remove(1, Unit(8));
    rig.disk().refuse = None;
    let mut reached = Vec::new();
    for (ring, _) in &rings {
        let volume = rig.core.session(*ring).unwrap().volume();
        reached.push((volume.unit, volume.sectors > 0));
    }
    let gone = (Unit::NONE, false);
    assert_eq!(reached, [gone, (Unit(8), true), gone]);
    for _ in 0..4 {
        rig.core.visit(0);
    }
    assert_eq!(rings[1].1.answers().len(), 1);
    assert!(rig.core.is_drained(rings[2].0));
}
