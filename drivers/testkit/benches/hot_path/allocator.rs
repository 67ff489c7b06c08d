//! A heap for cores that are to share nothing: every allocation has cache lines of its own, so
//! that what belongs to one core never lies beside what belongs to another.

// UNSAFETY: a global allocator.
#![expect(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes in a cache line.
pub(crate) const LINE: usize = 64;

struct WholeLines;

fn widen(layout: Layout) -> Layout {
    layout
        .align_to(LINE)
        .map_or(layout, |layout| layout.pad_to_align())
}

// SAFETY: the system's allocator is asked for the same layout at both ends of an allocation's
// life, and never for a smaller or less aligned one than the caller wants.
unsafe impl GlobalAlloc for WholeLines {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises hold for the wider layout as well.
        unsafe { System.alloc(widen(layout)) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` with the same layout, widened in the same way.
        unsafe { System.dealloc(at, widen(layout)) }
    }
}

#[global_allocator]
static ALLOCATOR: WholeLines = WholeLines;
