//! What a request waited for: Spindle, the disk, the tokens of its limits.

mod common;

use std::sync::Arc;

use common::{COPIED, How, MAPPED, PERSISTENT, Rig, Sizes};
use spindle_blkif::abi::Operation;
use spindle_blkif::stats::RingSnapshot;
use spindle_blkif::{RingId, RingShare};
use spindle_limits::{IoLimits, Meters};

const US: u64 = 1_024;

/// What a ring has counted, as it is published.
fn counted(rig: &Rig, ring: RingId) -> RingSnapshot {
    let session = rig.core.session(ring).expect("a ring");
    session.stats().snapshot().completed()
}

/// Two requests for a disk that takes one at a time.
fn one_behind_the_other(how: How, operation: Operation) -> RingSnapshot {
    let mut rig = Rig::sized(&Sizes {
        depth: 1,
        ..Sizes::default()
    });
    let (ring, mut front) = rig.attach(1, how);
    // Their pages are known from then on.
    let pages = [front.page(false), front.page(false)];
    let ask = |front: &mut spindle_testkit::blkfront::Blkfront<'static>| {
        for page in &pages {
            front.push(operation, 0, &[page.segment(0, 7)]);
        }
        front.publish();
    };
    ask(&mut front);
    rig.settle(&mut front);
    let before = counted(&rig, ring);
    ask(&mut front);
    rig.disk().hold = true;
    rig.core.visit(100 * US);
    rig.core.visit(110 * US);
    // The second gets to the disk once the first is done.
    rig.disk().hold = false;
    rig.core.visit(132 * US);
    rig.disk().hold = true;
    rig.core.visit(140 * US);
    rig.disk().hold = false;
    rig.core.visit(196 * US);
    assert_eq!(front.answers().len(), 2);
    counted(&rig, ring).since(&before)
}

#[test]
fn what_waits_for_another_waits_for_spindle_and_then_for_the_disk() {
    for how in [PERSISTENT, MAPPED, COPIED] {
        for operation in [Operation::READ, Operation::WRITE] {
            let counted = one_behind_the_other(how, operation);
            let words = [counted.latency, counted.wait, counted.device].map(|it| it.to_string());
            assert_eq!(words, ["32:1,64:1", "0:1,32:1", "32:1,64:1"], "{how:?}");
            let sums = (counted.latency_ns, counted.wait_ns, counted.device_ns);
            assert_eq!(sums, (128 * US, 32 * US, 96 * US), "{how:?}");
        }
    }
}

#[test]
fn a_request_in_parts_waits_until_the_disk_has_the_first() {
    let mut rig = Rig::sized(&Sizes {
        depth: 1,
        ..Sizes::default()
    });
    let (ring, mut front) = rig.attach(1, MAPPED);
    rig.disk().most_pieces = 1;
    let page = front.page(false);
    front.push(Operation::WRITE, 0, &[page.segment(0, 7)]);
    front.push(Operation::WRITE, 0, &[page.segment(0, 7); 3]);
    front.publish();
    // One page, then three of which one at a time.
    for at in 0..6 {
        rig.core.visit((100 + 16 * at) * US);
    }
    assert_eq!(front.answers().len(), 2);
    let counted = counted(&rig, ring);
    assert_eq!(counted.wait.to_string(), "0:1,16:1");
    assert_eq!(counted.device.to_string(), "16:1,32:1");
    assert_eq!((counted.wait_ns, counted.device_ns), (16 * US, 64 * US));
}

#[test]
fn a_ring_with_limits_waits_for_tokens_before_it_is_taken() {
    let mut limits = IoLimits::default();
    limits.set_all("iops=1000:burst=0").expect("limits");
    let meters = Arc::new(Meters::new(&limits, 0));
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    rig.core.share(ring, RingShare::new(8, None, vec![meters]));
    let page = front.page(false);
    for _ in 0..20 {
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
    }
    front.publish();
    let mut now = 1_000_000_000;
    let mut answers = 0;
    while answers < 20 {
        rig.core.visit(now);
        answers += front.answers().len();
        now += 50_000;
        assert!(now < 1_100_000_000, "{answers} answers");
    }
    let counted = counted(&rig, ring);
    let all: u64 = counted.tokens.0.iter().sum();
    assert_eq!(all, 20, "each is counted once");
    // They come one a millisecond: on average they have waited for ten.
    let mean = counted.tokens_ns / 20;
    assert!((9_000_000..=10_500_000).contains(&mean), "{mean}");
    assert_eq!(counted.wait_ns, 0, "that is no time with Spindle");
    assert!(counted.latency_ns <= 20 * 100_000, "nor with the disk");
}

#[test]
fn a_ring_whose_limits_do_not_hold_it_back_waits_for_no_tokens_and_keeps_to_them() {
    let mut limits = IoLimits::default();
    limits.set_all("iops=20000:burst=0").expect("limits");
    let meters = Arc::new(Meters::new(&limits, 0));
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    rig.core.share(ring, RingShare::new(8, None, vec![meters]));
    let page = front.page(false);
    let mut now = 1_000_000_000;
    // One at a time, at half of the rate: each lease of ten is used up without another look.
    for _ in 0..100 {
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        front.publish();
        rig.core.visit(now);
        rig.core.visit(now + 1000);
        assert_eq!(front.answers().len(), 1);
        now += 100_000;
    }
    assert_eq!(counted(&rig, ring).tokens.to_string(), "-");
    assert_eq!(counted(&rig, ring).tokens_ns, 0);
    // What comes at once is more than there is.
    for _ in 0..25 {
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
    }
    front.publish();
    let mut answers = 0;
    for _ in 0..40 {
        rig.core.visit(now);
        answers += front.answers().len();
        now += 50_000;
    }
    let counted = counted(&rig, ring);
    let all: u64 = counted.tokens.0.iter().sum();
    assert_eq!(
        (answers, all),
        (25, 125),
        "those that did not wait count with them"
    );
    assert!(counted.tokens_ns > 5 * 500_000, "{}", counted.tokens_ns);
}
