//! What is rare and happens to a ring is recorded, and no guest pushes out what happened to others.

mod common;

use std::sync::Arc;

use common::{PERSISTENT, Rig};
use spindle_blkif::RingShare;
use spindle_blkif::abi::Operation;
use spindle_block::IoError;
use spindle_hw::SharedPages;
use spindle_kept::layout::FIXED_PAGES;
use spindle_kept::{KEPT_EVENTS, Recorder};
use spindle_limits::{IoLimits, Meters};
use spindle_status::trace::{TraceEvent, kind};

const MS: u64 = 1_000_000;

fn recorder() -> Recorder {
    Recorder::at(Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0))), 1)
}

/// Kinds, operations and values of what was recorded.
fn recorded(recorder: Recorder) -> Vec<(u8, u8, [u64; 2])> {
    let events = recorder.events().map(TraceEvent::from_words);
    events
        .map(|event| (event.kind, event.operation, event.values))
        .collect()
}

#[test]
fn what_happens_to_a_ring_is_recorded_with_its_device_and_its_time() {
    let mut rig = Rig::new();
    let recorder = recorder();
    rig.core.record_in(recorder);
    rig.core.visit(5 * MS);
    let (mut session, mut front) = rig.session(7, PERSISTENT);
    session.set_device(51712);
    let ring = rig.core.attach(session).expect("a place");
    let page = front.page(false);
    let mut ask = |rig: &mut Rig, sector, at| {
        front.push(Operation::WRITE, sector, &[page.segment(0, 7)]);
        front.publish();
        rig.core.visit(at);
        rig.core.visit(at + MS);
        front.answers()
    };
    assert_eq!(ask(&mut rig, 1 << 40, 10 * MS).len(), 1);
    rig.disk().results = [Err(IoError::Medium)].into();
    assert_eq!(ask(&mut rig, 8, 2000 * MS).len(), 1);
    // The next ones follow too soon.
    for n in 0..5 {
        assert_eq!(ask(&mut rig, 1 << 40, (2010 + 2 * n) * MS).len(), 1);
    }
    assert_eq!(ask(&mut rig, 16, 2900 * MS).len(), 1, "one that is good");
    assert_eq!(ask(&mut rig, 1 << 40, 3100 * MS).len(), 1);
    rig.core.resize(ring, 1024);
    rig.core.fail_disk(0);
    rig.core.renew(0);
    let unit = rig.volume.unit;
    rig.core.remove(0, unit);
    rig.core.remove(0, unit);
    rig.detach(ring);
    let write = Operation::WRITE.0;
    let expected = [
        (kind::ATTACHED, 0, [0, 0]),
        (kind::REFUSED, write, [1 << 40, 0]),
        (kind::FAILED, write, [8, 0]),
        (kind::REFUSED, write, [1 << 40, 5]),
        (kind::RESIZED, 0, [1024, 0]),
        (kind::DISK_LOST, 0, [0, 0]),
        (kind::DISK_BACK, 0, [0, 0]),
        (kind::REMOVED, 0, [0, 0]),
        (kind::DETACHED, 0, [9, 0]),
    ];
    assert_eq!(recorded(recorder), expected);
    let events: Vec<_> = recorder.events().map(TraceEvent::from_words).collect();
    assert!(
        events
            .iter()
            .all(|event| (event.guest, event.device) == (7, 51712))
    );
    let times: Vec<_> = events.iter().map(|event| event.at_ns / MS).collect();
    assert_eq!(times[..4], [5, 10, 2001, 3100]);
}

#[test]
fn a_guest_that_breaks_rules_without_end_leaves_what_others_have() {
    let mut rig = Rig::new();
    let recorder = recorder();
    rig.core.record_in(recorder);
    let (_, _other) = rig.attach(1, PERSISTENT);
    let (ring, mut front) = rig.attach(2, PERSISTENT);
    let page = front.page(false);
    for n in 0..1000 {
        front.push(Operation(99), 0, &[page.segment(0, 7)]);
        front.publish();
        rig.core.visit(n * MS);
        front.answers();
    }
    assert_eq!(recorded(recorder).len(), 3, "two rings, and one request");
    front.set_req_prod(u32::MAX / 2);
    rig.core.visit(1000 * MS);
    assert_eq!(recorded(recorder)[3], (kind::HALTED, 0, [1000, 0]));
    assert!(rig.core.session(ring).expect("a ring").halted().is_some());
}

#[test]
fn limits_are_recorded_when_they_begin_to_hold_a_ring_back() {
    let mut limits = IoLimits::default();
    limits.set_all("iops=1000:burst=0").expect("limits");
    let meters = Arc::new(Meters::new(&limits, 0));
    let mut rig = Rig::new();
    let recorder = recorder();
    rig.core.record_in(recorder);
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    rig.core.share(ring, RingShare::new(8, None, vec![meters]));
    let page = front.page(false);
    // For two seconds without a pause, and again after one.
    for at in (1000..3000).chain(5000..5100) {
        while front.free() > 0 {
            front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        }
        front.publish();
        rig.core.visit(at * MS);
        rig.core.visit(at * MS + MS / 2);
        front.answers();
    }
    let all = recorded(recorder);
    let held = all
        .iter()
        .filter(|event| event.0 == kind::HELD_BACK)
        .count();
    assert_eq!((held, all[1].0), (2, kind::SHARED), "{all:?}");
    assert!(all.len() < KEPT_EVENTS);
}
