//! Nothing is allocated once a ring is attached, whatever its frontend does.

// UNSAFETY: a global allocator that counts.
#![expect(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{COPIED, PERSISTENT, Rig, assert_all};
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_block::IoError;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
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
