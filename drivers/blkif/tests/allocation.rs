//! Nothing is allocated once a ring is attached, whatever its frontend does; and a ring for which
//! there is no memory is refused.

// UNSAFETY: a global allocator that counts, and refuses.
#![expect(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use std::ptr;

use common::{COPIED, How, PERSISTENT, Rig, assert_all};
use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_blkif::{Claims, NoRoom, Session, Unusable};
use spindle_block::{IoError, Run, Stretch, Volume};
use spindle_hw::SharedPages;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Bytes that are allocated and not freed.
    static BYTES: Cell<usize> = const { Cell::new(0) };
    /// The allocation that is refused, counted from now on; 0 = none.
    static REFUSED: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged, or fails; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        let refused = REFUSED.get();
        REFUSED.set(refused.saturating_sub(1));
        if refused == 1 {
            return ptr::null_mut();
        }
        BYTES.set(BYTES.get().wrapping_add(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get().wrapping_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_allocator_counts() {
    let before = COUNT.get();
    drop(Box::new(1u8));
    assert_eq!(COUNT.get(), before + 1);
}

#[test]
#[cfg_attr(miri, ignore = "nothing for Miri in it, and slow there")]
fn visits_allocate_nothing() {
    for how in [PERSISTENT, COPIED] {
        let mut rig = Rig::new();
        let (_, mut front) = rig.attach(1, how);
        let pages: Vec<_> = (0..32).map(|_| front.page(false)).collect();
        rig.disk().record = false;
        let mut counted = 0;
        for round in 0..4 {
            for (sector, page) in pages.iter().enumerate() {
                let operation = Operation(sector as u8 % 4);
                let segment = [page.segment(0, 7)];
                let flush = operation == Operation::FLUSH;
                let segments = if flush { &segment[..0] } else { &segment[..] };
                front.push(operation, 8 * sector as u64, segments);
            }
            rig.disk().results.push_back(Err(IoError::Medium));
            front.publish();
            let before = COUNT.get();
            // Each barrier takes a few.
            for _ in 0..64 {
                rig.core.visit(0);
            }
            rig.core.arm();
            // In the first round the fake grant table grows.
            if round > 0 {
                counted += COUNT.get() - before;
            }
            let answers = front.answers();
            assert_eq!(answers.len(), 32);
            let bad = |a: &&_| matches!(a, spindle_testkit::blkfront::Answer { status, .. } if *status == RspStatus::ERROR);
            assert_eq!(answers.iter().filter(bad).count(), 1);
        }
        assert_eq!(counted, 0);
        assert_all(&rig.settle(&mut front), 0, RspStatus::OKAY);
    }
}

const INDIRECT: How = How {
    indirect: 256,
    ..PERSISTENT
};

/// A volume of the first blocks of so many disks.
fn spread(disk: &Volume, disks: usize) -> Volume {
    let backing: Vec<_> = (0..disks)
        .map(|number| Volume {
            disk: number,
            ..disk.clone()
        })
        .collect();
    let stretch = |volume| Stretch {
        sectors: 64,
        chunk: 0,
        runs: vec![Run { volume, sector: 0 }],
    };
    let stretches: Vec<_> = (0..disks).map(stretch).collect();
    Volume::assembled("vg/lv".into(), &stretches, &backing).unwrap()
}

#[test]
fn a_ring_takes_the_memory_that_it_is_said_to_take() {
    for (how, pages, unaligned, disks) in [
        (COPIED, 1, false, 0),
        (PERSISTENT, 2, true, 2),
        (INDIRECT, 16, false, 0),
        (INDIRECT, 16, false, 3),
    ] {
        let said = Session::footprint(
            pages,
            Abi::Native,
            how.frames.unwrap_or(0),
            how.indirect > 0,
            unaligned,
            disks,
        );
        let mut rig = Rig::new();
        if disks > 0 {
            rig.volume = spread(&rig.volume, disks);
        }
        rig.claims = unaligned.then(|| Arc::new(Claims::new().unwrap()));
        let how = How {
            ring_pages: pages,
            ..how
        };
        let (attachment, front) = rig.attachment(1, &how);
        let ring = front.ring();
        let before = BYTES.get();
        let session = Session::new(ring, attachment);
        let taken = BYTES.get() - before;
        // The counters' `Arc` has two counts of its own, aligned.
        assert!((taken - 64..=taken).contains(&said), "{said} of {taken}");
        drop(session);
        assert!(BYTES.get() <= before);
    }
    assert_eq!(
        Session::footprint(3, Abi::Native, 0, false, false, 0),
        Session::footprint(0, Abi::Native, 0, false, false, 0)
    );
}

#[test]
fn a_ring_without_memory_is_refused_and_all_that_came_with_it_is_given_back() {
    let mut rig = Rig::new();
    // All but the counters, which are small.
    for allocation in 1..=10 {
        let (attachment, front) = rig.attachment(1, &INDIRECT);
        let ring = front.ring();
        REFUSED.set(allocation);
        let unfit = Session::new(ring, attachment).unwrap_err();
        assert_eq!(unfit.why, Unusable::Memory(NoRoom));
        assert_eq!(unfit.ring.bus(), front.ring().bus());
        assert_eq!(unfit.window.map(|w| w.frames()), INDIRECT.frames);
        assert_eq!(REFUSED.get(), 0, "nothing is tried after that");
    }
    let (attachment, _) = rig.attachment(1, &INDIRECT);
    let unfit = Session::new(SharedPages::host(3, 0), attachment).unwrap_err();
    assert!(matches!(unfit.why, Unusable::Ring(_)));
    assert_eq!(unfit.ring.len(), 3 * 4096);
}
