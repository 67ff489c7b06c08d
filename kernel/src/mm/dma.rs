//! Pages for devices and data.

// UNSAFETY: turns page numbers into memory.
#![expect(unsafe_code)]

use core::ptr::{self, NonNull};

use spin::Mutex;
use spindle_hw::{DmaAlloc, PAGE_SIZE, Retake, SharedPages};
use xen_pvh_boot::{PAGE, RunAllocator};

/// All RAM but the heap, in runs of pages. Bus addresses are guest-physical ones: the IOMMU
/// follows the guest's view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dma {
    runs: &'static Mutex<RunAllocator<'static>>,
}

impl Dma {
    /// Takes over the pages in `runs`: RAM that is identity-mapped and used for nothing else.
    pub(super) const fn new(runs: &'static Mutex<RunAllocator<'static>>) -> Self {
        Self { runs }
    }

    /// Bytes that are free.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.runs.lock().free_pages() as u64 * PAGE
    }
}

impl DmaAlloc for Dma {
    fn alloc(&self, pages: usize) -> Option<SharedPages> {
        let first = self.runs.lock().allocate(pages, 1)?;
        zeroed(first, pages)
    }

    fn free(&self, pages: SharedPages) {
        give_back(self.runs, &pages);
    }
}

/// The same pages from the end of RAM on, for RAM disks: what a start uses, whatever image is started,
/// it takes from the beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RamPages(pub(crate) Dma);

impl DmaAlloc for RamPages {
    fn alloc(&self, pages: usize) -> Option<SharedPages> {
        let first = self.0.runs.lock().allocate_last(pages)?;
        zeroed(first, pages)
    }

    fn free(&self, pages: SharedPages) {
        self.0.free(pages);
    }
}

impl Retake for RamPages {
    fn retake(&self, bus: u64, pages: usize) -> Option<SharedPages> {
        let first = bus / PAGE;
        let taken = bus.is_multiple_of(PAGE) && self.0.runs.lock().take(first, pages);
        taken.then(|| run(first, pages)).flatten()
    }
}

fn zeroed(first: u64, count: usize) -> Option<SharedPages> {
    let pages = run(first, count)?;
    pages.zero(0, pages.len());
    Some(pages)
}

/// The pages of a run that an allocator of identity-mapped pages just handed out.
pub(super) fn run(first: u64, count: usize) -> Option<SharedPages> {
    let at = first * PAGE;
    let base = NonNull::new(ptr::with_exposed_provenance_mut(at as usize))?;
    // SAFETY: the allocators in this module cover identity-mapped memory that no reference
    // covers, and hand each page out once.
    Some(unsafe { SharedPages::from_raw(base, count, at) })
}

/// Gives a run back; pages that were never handed out are an error of ours worth telling.
pub(super) fn give_back(runs: &Mutex<RunAllocator<'static>>, pages: &SharedPages) {
    if !runs
        .lock()
        .release(pages.bus() / PAGE, pages.len() / PAGE_SIZE)
    {
        log::error!("memory at {:#x} was given back twice", pages.bus());
    }
}
