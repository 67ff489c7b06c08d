//! The heap behind `alloc`: a first-fit list in one fixed range. Nothing on the data path uses it.

// UNSAFETY: implements `GlobalAlloc`.
#![expect(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use spin::Mutex;

/// Bytes in a cache line.
const CACHE_LINE: usize = 64;

struct KernelHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(Mutex::new(Heap::empty()));

/// Gives the heap its memory. Called once.
pub(super) fn init(range: Range<u64>) {
    let start = ptr::with_exposed_provenance_mut(range.start as usize);
    // SAFETY: the range is free RAM that nothing else can reach any longer, mapped
    // writable for good.
    unsafe {
        HEAP.0
            .lock()
            .init(start, (range.end - range.start) as usize)
    };
}

/// Bytes that are free. One block of them may be smaller.
pub(crate) fn free() -> usize {
    HEAP.0.lock().free()
}

/// What is asked of the list: whole cache lines, so that what one core writes never shares a line
/// with what another core uses.
fn lines(layout: Layout) -> Layout {
    layout
        .align_to(CACHE_LINE)
        .map_or(layout, |l| l.pad_to_align())
}

// SAFETY: `Heap` hands out disjoint blocks of at least the requested layout, and the lock makes it
// usable from any core.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0
            .lock()
            .allocate_first_fit(lines(layout))
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller got `block` from `alloc` with the same layout.
            unsafe { self.0.lock().deallocate(block, lines(layout)) };
        }
    }
}
