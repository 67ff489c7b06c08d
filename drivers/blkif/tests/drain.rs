//! A core is drained before the kernel is updated: what was taken is answered, what comes is left in the rings.

mod common;

use std::sync::Arc;

use common::{COPIED, MAPPED, PERSISTENT, Rig, assert_all};
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Order, Report, Worker};
use spindle_testkit::blkfront::Blkfront;

/// Asks for `count` pages, whether that can be served or not.
fn read(front: &mut Blkfront<'_>, count: usize) {
    for _ in 0..count {
        let page = front.page(false);
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
    }
    front.publish();
}

#[test]
fn nothing_is_taken_any_more_and_nothing_is_left_once_it_is_drained() {
    for how in [PERSISTENT, MAPPED, COPIED] {
        let mut rig = Rig::new();
        let (_, mut busy) = rig.attach(1, how);
        let (_, mut other) = rig.attach(2, how);
        rig.disk().hold = true;
        read(&mut busy, 20);
        rig.core.visit(100);
        assert!(!rig.core.drain(), "the disk has something");
        // All that it takes with a disk that answers nothing.
        read(&mut busy, 3);
        read(&mut other, 5);
        for now in 2..10 {
            rig.core.visit(now * 100);
            assert!(!rig.core.drain());
        }
        rig.disk().hold = false;
        let mut visits = 0;
        while !rig.core.drain() {
            visits += 1;
            assert!(visits < 10);
            rig.core.visit(1000 + visits * 100);
        }
        assert_all(&busy.answers(), 20, RspStatus::OKAY);
        assert_all(&other.answers(), 0, RspStatus::OKAY);
        assert_eq!(rig.core.in_flight(), 0);
        let submitted = rig.disk().submitted.len();
        for now in 100..200 {
            rig.core.visit(now * 1000);
        }
        assert_eq!(rig.disk().submitted.len(), submitted);
        // A core that goes on nevertheless finds all of it.
        rig.core.begin(0);
        for now in 200..210 {
            rig.core.visit(now * 1000);
        }
        assert_all(&busy.answers(), 3, RspStatus::OKAY);
        assert_all(&other.answers(), 5, RspStatus::OKAY);
    }
}

#[test]
fn a_worker_says_once_that_it_is_drained_whatever_it_is_ordered_meanwhile() {
    let mut rig = Rig::new();
    let (_, mut busy) = rig.attach(1, PERSISTENT);
    let (late, mut front) = rig.session(2, PERSISTENT);
    let link = Arc::new(Link::default());
    let stats = Arc::<CoreStats>::default();
    let poll = PollTime::For(1000);
    let mut worker = Worker::new(rig.core, link.clone(), poll, stats);
    let mut now = 0;
    read(&mut busy, 20);
    read(&mut front, 4);
    let mut reports = Vec::new();
    let session = Box::new(late);
    let mut orders = vec![
        Order::Begin(0),
        Order::Attach { token: 7, session },
        Order::Drain,
    ];
    for _ in 0..100 {
        now += 100;
        worker.turn(now);
        if !link.orders.is_full()
            && let Some(order) = orders.pop()
        {
            link.orders.put(order).unwrap();
        }
        reports.extend(link.reports.take());
    }
    let drained = reports
        .iter()
        .filter(|report| matches!(report, Report::Drained));
    assert_eq!((drained.count(), reports.len()), (1, 2), "{reports:?}");
    assert_all(&busy.answers(), 20, RspStatus::OKAY);
    assert_all(&front.answers(), 0, RspStatus::OKAY);
}
