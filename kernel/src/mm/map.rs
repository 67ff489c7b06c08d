//! Changes to the page tables after boot. All cores share one tree; a lock guards it.

// UNSAFETY: hands out memory that was just mapped.
#![expect(unsafe_code)]

use alloc::alloc::alloc_zeroed;
use core::alloc::Layout;
use core::ops::Range;
use core::ptr::{self, NonNull};

use spin::Mutex;
use spindle_hw::{IdentityMap, Mmio, SharedPages};
use xen_pvh_boot::{IdentityTables, MapError, MemoryKind, PAGE, PageTables};

use crate::arch::cpu;

static LOCK: Mutex<()> = Mutex::new(());

type Tables = PageTables<IdentityTables<fn() -> Option<u64>>>;

fn with_tables<T>(change: impl FnOnce(&mut Tables) -> T) -> T {
    let _guard = LOCK.lock();
    // SAFETY: new tables come from the heap, which is identity-mapped; the callers below map only
    // what is not mapped, and unmap only guard pages and what becomes code.
    let memory = unsafe { IdentityTables::new(table_page as fn() -> Option<u64>) };
    change(&mut PageTables::from_root(cpu::root_table(), memory))
}

fn table_page() -> Option<u64> {
    let layout = Layout::from_size_align(PAGE as usize, PAGE as usize).ok()?;
    // SAFETY: the layout is not empty.
    let page = unsafe { alloc_zeroed(layout) };
    (!page.is_null()).then(|| page.expose_provenance() as u64)
}

/// Maps memory that is not ours alone, and was not mapped before, and returns it.
fn fresh(range: Range<u64>, kind: MemoryKind) -> Result<NonNull<u8>, MapError> {
    with_tables(|tables| {
        let mut page = range.start;
        while page < range.end {
            if tables.is_mapped(page) {
                return Err(MapError::Occupied(page));
            }
            page += PAGE;
        }
        tables.map(range.clone(), kind)
    })?;
    NonNull::new(ptr::with_exposed_provenance_mut(range.start as usize))
        .ok_or(MapError::Range(range.start, range.end))
}

/// Maps the grant window.
pub(super) fn window(range: Range<u64>) -> Result<(), MapError> {
    with_tables(|tables| tables.map(range, MemoryKind::Memory))
}

/// Makes memory code that is not part of the image: executable, and no longer writable.
///
/// # Errors
/// If it is not whole pages, or no memory is left for page tables.
pub(crate) fn make_code(range: Range<u64>) -> Result<(), MapError> {
    with_tables(|tables| {
        tables.unmap(range.clone())?;
        tables.map(range, MemoryKind::Text)
    })
}

/// Maps one page that the hypervisor or dom0 put at guest frame `frame`, outside RAM.
///
/// # Errors
/// If the frame is mapped already, or no memory is left for page tables.
pub(crate) fn special_page(frame: u64) -> Result<SharedPages, MapError> {
    let at = frame
        .checked_mul(PAGE)
        .ok_or(MapError::Range(frame, frame))?;
    let base = fresh(at..at.saturating_add(PAGE), MemoryKind::Memory)?;
    // SAFETY: just mapped for good; it was not mapped before, so no reference covers it.
    Ok(unsafe { SharedPages::from_raw(base, 1, at) })
}

/// Maps the device registers at physical address `at`, uncached.
///
/// # Errors
/// If `at` is not 8-byte aligned, if any page of it is mapped as memory, or no memory is left for
/// page tables.
pub(crate) fn registers(at: u64, len: usize) -> Result<Mmio, MapError> {
    let end = at.saturating_add(len as u64);
    if !at.is_multiple_of(8) || at == 0 {
        return Err(MapError::Range(at, end));
    }
    let pages = at & !(PAGE - 1)..end.checked_next_multiple_of(PAGE).unwrap_or(end);
    with_tables(|tables| tables.map(pages, MemoryKind::Mmio))?;
    let base = NonNull::new(ptr::with_exposed_provenance_mut(at as usize));
    let base = base.ok_or(MapError::Range(at, end))?;
    // SAFETY: mapped uncached for good, and not memory: mapping would have failed.
    Ok(unsafe { Mmio::new(base, len) })
}

/// Takes the page at `at` out for good, so that a stack that overflows ends there.
pub(super) fn guard(at: u64) -> Result<(), MapError> {
    with_tables(|tables| tables.unmap(at..at + PAGE))
}

/// Access by bus address to `windows`: the memory for DMA and the grant window.
pub(super) fn identity(windows: &'static [Range<u64>]) -> IdentityMap {
    // SAFETY: `init` passes RAM that only `Dma` hands out, and the grant window; both are
    // identity-mapped for good and never behind a reference.
    unsafe { IdentityMap::new(windows) }
}
