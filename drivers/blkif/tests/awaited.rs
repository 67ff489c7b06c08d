//! What a ring waits for, as the idle policy is told: by the request that was taken.

mod common;

use common::{COPIED, How, PERSISTENT, Rig};
use spindle_blkif::abi::Operation;
use spindle_blkif::wait::Awaited;

fn awaited(rig: &Rig) -> Option<Awaited> {
    rig.core
        .waits()
        .next()
        .and_then(spindle_blkif::wait::Wait::awaited)
}

/// Once for each request that is alone in flight, then for two at once.
fn plays(how: How) {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, how);
    let pages: Vec<_> = (0..8).map(|_| front.page(false)).collect();
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    for (operation, pages, what) in [
        (Operation::READ, 1, Awaited::Read),
        (Operation::WRITE, 1, Awaited::Write),
        (Operation::READ, 7, Awaited::Read),
        (Operation::READ, 8, Awaited::LargeRead),
        (Operation::WRITE, 8, Awaited::LargeWrite),
        (Operation::READ, 1, Awaited::Read),
    ] {
        rig.disk().hold = true;
        front.push(operation, 0, &segments[..pages]);
        front.publish();
        rig.core.visit(0);
        assert_eq!(awaited(&rig), Some(what), "{operation:?} of {pages} pages");
        rig.disk().hold = false;
        rig.settle(&mut front);
        assert_eq!(awaited(&rig), None);
    }
    rig.disk().hold = true;
    for segment in &segments[..2] {
        front.push(Operation::READ, 0, &[*segment]);
    }
    front.publish();
    rig.core.visit(0);
    assert_eq!(awaited(&rig), Some(Awaited::Several));
    rig.disk().hold = false;
    rig.settle(&mut front);
    rig.detach(ring);
}

#[test]
fn a_ring_waits_for_what_it_has_taken() {
    plays(PERSISTENT);
    plays(COPIED);
}
