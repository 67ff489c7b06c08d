//! Requests that go from ring to disk without waiting in line, and those that cannot.

mod common;

use common::{How, PERSISTENT, Rig, Sizes, assert_all};
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_block::{IoError, SubmitError};
use spindle_testkit::blkfront::{Blkfront, GuestPage};

/// Makes the backend know the pages' grants.
fn warm(rig: &mut Rig, front: &mut Blkfront<'_>, pages: &[GuestPage]) {
    for page in pages {
        front.push(Operation::WRITE, 0, &[page.segment(0, 7)]);
    }
    front.publish();
    assert_all(&rig.settle(front), pages.len(), RspStatus::OKAY);
    rig.disk().submitted.clear();
}

#[test]
fn requests_reach_the_disk_in_order_with_a_miss_between_hits() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let pages: Vec<_> = (0..6).map(|_| front.page(false)).collect();
    warm(&mut rig, &mut front, &pages[..5]);
    let one = |page: usize| vec![pages[page].segment(0, 7)];
    let requests = [
        one(0),
        vec![pages[1].segment(0, 7), pages[2].segment(0, 7)],
        // Not known yet, and so those after it wait too.
        vec![pages[3].segment(0, 7), pages[5].segment(0, 7)],
        one(3),
        one(4),
    ];
    for (n, segments) in requests.iter().enumerate() {
        front.push(Operation::READ, 8 * n as u64, segments);
    }
    front.push(Operation::READ, 0, &[pages[5].segment(0, 0)]);
    front.publish();
    rig.core.visit(0);
    let blocks: Vec<_> = rig.disk().submitted.iter().map(|s| s.1).collect();
    assert_eq!(blocks, [0, 8, 16, 24, 32, 0]);
    let pieces: Vec<_> = rig.disk().submitted.iter().map(|s| s.2).collect();
    assert_eq!(pieces, [1, 2, 2, 1, 1, 1]);
    assert_all(&rig.settle(&mut front), 6, RspStatus::OKAY);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn errors_of_direct_requests_are_told_and_counted() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let pages = [front.page(false), front.page(false)];
    warm(&mut rig, &mut front, &pages);
    let results = [Err(IoError::Medium), Ok(()), Err(IoError::Range)];
    rig.disk().results.extend(results);
    let both = pages.each_ref().map(|page| page.segment(0, 7));
    front.push(Operation::READ, 0, &both[..1]);
    front.push(Operation::WRITE, 0, &both[1..]);
    front.push(Operation::READ, 0, &both);
    front.publish();
    let answers = rig.settle(&mut front);
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    let expected = [RspStatus::ERROR, RspStatus::OKAY, RspStatus::ERROR];
    assert_eq!(statuses, expected);
    assert_eq!(rig.detach(ring).stats.snapshot().errors, 2);
    rig.assert_nothing_leaked();
}

#[test]
fn what_the_disk_would_not_take_directly_it_gets_in_line() {
    for segments in 1..=2 {
        let mut rig = Rig::sized(&Sizes {
            depth: 2,
            ..Sizes::default()
        });
        let (ring, mut front) = rig.attach(1, PERSISTENT);
        let pages = [front.page(false), front.page(false)];
        warm(&mut rig, &mut front, &pages);
        let both = pages.each_ref().map(|page| page.segment(0, 7));
        for n in 0..8 {
            front.push(Operation::READ, 8 * n, &both[..segments]);
        }
        front.publish();
        assert_all(&rig.settle(&mut front), 8, RspStatus::OKAY);
        let blocks: Vec<_> = rig.disk().submitted.iter().map(|s| s.1).collect();
        assert_eq!(blocks, [0, 8, 16, 24, 32, 40, 48, 56]);
        let stats = rig.detach(ring).stats.snapshot();
        assert!(stats.out_of_room > 0 && stats.copied_requests == 0);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_lost_disk_fails_direct_requests() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let pages = [front.page(false)];
    warm(&mut rig, &mut front, &pages);
    rig.disk().refuse = Some(SubmitError::Gone);
    front.push(Operation::READ, 0, &[pages[0].segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::ERROR);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn rings_in_line_are_not_overtaken_by_rings_without_a_line() {
    let mut rig = Rig::sized(&Sizes {
        depth: 8,
        ..Sizes::default()
    });
    let (_, mut deep) = rig.attach(1, PERSISTENT);
    let (_, mut shallow) = rig.attach(2, PERSISTENT);
    let deep_pages = [deep.page(false)];
    let shallow_pages = [shallow.page(false)];
    warm(&mut rig, &mut deep, &deep_pages);
    warm(&mut rig, &mut shallow, &shallow_pages);
    let mut answered = [0, 0];
    for _ in 0..200 {
        let sides = [
            (&mut deep, &deep_pages, 32),
            (&mut shallow, &shallow_pages, 8),
        ];
        for ((front, pages, depth), count) in sides.into_iter().zip(&mut answered) {
            *count += front.answers().len();
            for _ in front.outstanding()..depth {
                front.push(Operation::READ, 0, &[pages[0].segment(0, 7)]);
            }
            front.publish();
        }
        rig.core.visit(0);
    }
    let [deep, shallow] = answered;
    assert!(deep * 3 > shallow && shallow * 3 > deep, "{answered:?}");
}

#[test]
fn pages_of_requests_under_way_are_not_given_up() {
    let mut rig = Rig::new();
    let frames = Some(4);
    let how = How {
        frames,
        ..PERSISTENT
    };
    let (ring, mut front) = rig.attach(1, how);
    let pages: Vec<_> = (0..5).map(|_| front.page(false)).collect();
    warm(&mut rig, &mut front, &pages[..4]);
    let segment = |page: usize| pages[page].segment(0, 7);
    // Those of the first two are used by nothing else from now on.
    rig.disk().hold = true;
    front.push(Operation::READ, 0, &[segment(0)]);
    front.push(Operation::READ, 0, &[segment(1), segment(2)]);
    let mut fill = |rig: &mut Rig, count: usize| {
        for n in 0..count {
            let often = [segment(3); 11];
            let one = [segment(4)];
            // What there is no room for, and enough else for rounds to pass.
            front.push(Operation::READ, 0, if n % 6 == 5 { &often } else { &one });
            front.publish();
            rig.core.visit(0);
        }
    };
    fill(&mut rig, 30);
    assert_eq!(rig.grants.counts().unmaps, 0, "a page in use");
    rig.disk().hold = false;
    assert_all(&rig.settle(&mut front), 32, RspStatus::OKAY);
    // Now they may go.
    let fill = |rig: &mut Rig, front: &mut Blkfront<'_>| {
        front.push(Operation::READ, 0, &[segment(3); 11]);
        front.push(Operation::READ, 0, &[segment(4)]);
        front.publish();
        assert_all(&rig.settle(front), 2, RspStatus::OKAY);
    };
    (0..40).for_each(|_| fill(&mut rig, &mut front));
    assert_eq!(rig.grants.counts().unmaps, 1);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}
