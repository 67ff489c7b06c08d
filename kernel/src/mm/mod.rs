//! Memory: who gets which part of RAM, and what is mapped where.
//!
//! Everything is mapped to itself. RAM is split once: a heap (a quarter, between 4 and 64 MiB)
//! that Rust owns, and the rest for DMA ([`Dma`]), which no Rust reference ever covers. Above
//! all RAM, where no memory is, lies a window of guest frames for grants ([`GrantWindow`]).

mod dma;
mod heap;
mod map;
mod stack;
mod window;

pub(crate) use dma::{Dma, RamPages};
pub(crate) use heap::free as heap_free;
pub(crate) use map::{make_code, registers, special_page};
pub(crate) use stack::{Stack, StackError};
pub(crate) use window::GrantWindow;

use alloc::vec;
use core::ops::Range;

use spin::Mutex;
use spindle_hw::IdentityMap;
use xen_pvh_boot::{Boot, PAGE, Regions, RunAllocator};

use crate::arch::cpu;

/// The heap's share of RAM, in bytes.
const HEAP_MIN: u64 = 4 << 20;
const HEAP_MAX: u64 = 64 << 20;

/// All memory, after the heap took its share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Pages for devices and data.
    pub(crate) dma: Dma,
    /// Guest frames without memory, to map grants at.
    pub(crate) grants: GrantWindow,
    /// Access to both by bus address.
    pub(crate) bus: IdentityMap,
    /// Bytes of heap.
    pub(crate) heap: u64,
    /// Where it ends.
    pub(crate) heap_end: u64,
    /// Where the room for grants ends, above which there is nothing.
    pub(crate) end: u64,
}

/// Splits the free RAM. Called once. `life` is 1 for the first start in this domain. Where it is another
/// one, `heap_end` is where the heap ended before: what lies behind it, devices may still write to.
///
/// # Errors
/// With the reason, in a domain too small to run in or without a place for the grant window.
pub(crate) fn init(boot: &Boot, life: u64, heap_end: Option<u64>) -> Result<Memory, &'static str> {
    let mut free = boot.free.clone();
    let heap = (free.total() / 4).clamp(HEAP_MIN, HEAP_MAX) & !(PAGE - 1);
    let largest = free.largest().filter(|r| r.end - r.start > heap);
    let largest = largest.ok_or("not enough memory: 12 MiB are needed")?;
    let end = heap_end.filter(|end| largest.contains(end));
    let heap_range = largest.start..end.unwrap_or(largest.start + heap);
    let heap = heap_range.end - heap_range.start;
    let heap_end = heap_range.end;
    free.remove(&heap_range);
    heap::init(heap_range);

    let (window, end) = window::place(&boot.info, life).ok_or("no room for grants above RAM")?;
    map::window(window.clone()).map_err(|_| "cannot map the grant window")?;
    let mut windows = vec![window.clone()];
    windows.extend(free.iter());
    Ok(Memory {
        dma: Dma::new(runs(&free)),
        grants: GrantWindow::new(runs(&whole(window.clone())), window),
        bus: map::identity(windows.leak()),
        heap,
        heap_end,
        end,
    })
}

/// The first address that cannot be mapped to itself: the processor's limit, or the page tables'.
pub(crate) fn address_limit() -> u64 {
    (1 << cpu::physical_bits()).min(xen_pvh_boot::MAP_LIMIT)
}

fn whole(range: Range<u64>) -> Regions {
    let mut regions = Regions::new();
    regions.insert(range);
    regions
}

/// An allocator for the pages of `regions`, which is never dropped.
fn runs(regions: &Regions) -> &'static Mutex<RunAllocator<'static>> {
    let first = regions.iter().next().map_or(0, |r| r.start) / PAGE;
    let pages = (regions.end() / PAGE - first) as usize;
    let bitmap = vec![0; RunAllocator::words(pages)].leak();
    let mut runs = RunAllocator::new(first, pages, bitmap);
    for r in regions.iter() {
        // Regions are disjoint, so that no page is released twice.
        let _ = runs.release(r.start / PAGE, ((r.end - r.start) / PAGE) as usize);
    }
    alloc::boxed::Box::leak(alloc::boxed::Box::new(Mutex::new(runs)))
}
