//! What the fuzzers have in common: an allocator that takes back the pages that the fakes leak.
//!
//! Host pages are never freed, so that views of them cannot dangle. A fuzzer would run out of
//! memory in a minute, so pages come from an arena here that each run starts over.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

pub use libfuzzer_sys;
pub use spindle_fuzz;

const ARENA: usize = 64 << 20;
const PAGE: usize = 4096;
const LAYOUT: Layout = match Layout::from_size_align(ARENA, PAGE) {
    Ok(layout) => layout,
    Err(_) => panic!("page-aligned and not too large"),
};

thread_local! {
    /// Where the arena is, and how much of it is in use.
    static PAGES: Cell<(*mut u8, usize)> = const { Cell::new((ptr::null_mut(), 0)) };
}

struct PageArena;

#[global_allocator]
static ALLOCATOR: PageArena = PageArena;

// SAFETY: page-aligned blocks come one after the other from one block that is never freed and are
// handed out again only after the next `run` begins, when none is in use; all
// others are the system allocator's.
unsafe impl GlobalAlloc for PageArena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() < PAGE {
            // SAFETY: the caller's promises are those that are asked for.
            return unsafe { System.alloc(layout) };
        }
        let (mut base, used) = PAGES.get();
        if base.is_null() {
            // SAFETY: the layout is not empty.
            base = unsafe { System.alloc(LAYOUT) };
        }
        let size = layout.size().next_multiple_of(PAGE);
        if base.is_null() || size > ARENA - used {
            return ptr::null_mut();
        }
        PAGES.set((base, used + size));
        // SAFETY: in bounds by the check.
        unsafe { base.add(used) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.align() < PAGE {
            // SAFETY: the caller's promises are those that are asked for.
            unsafe { System.dealloc(block, layout) }
        }
    }
}

/// Runs a target with the arena empty, which afterwards nothing refers to: a target keeps nothing
/// from one run to the next.
pub fn run(target: spindle_fuzz::Run, data: &[u8]) {
    PAGES.set((PAGES.get().0, 0));
    target(data);
}

/// The entry of a target's fuzzer.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            $crate::run($crate::spindle_fuzz::$name::run, data);
        });
    };
}
