//! Kept memory: where control writes what another life of the kernel would need.

use alloc::boxed::Box;

use spindle_hw::{DmaAlloc, PAGE_SIZE};
use spindle_kept::Kept;
use spindle_kept::layout::FIXED_PAGES;

use crate::mm::Memory;

/// Pages for the journals of rings, at most: 2 MiB.
const JOURNALS: u64 = 512;
/// The part of free memory that journals may take.
const SHARE: u64 = 16;

/// Takes the pages; `None` if there are none.
pub(crate) fn open(memory: &Memory) -> Option<Kept> {
    let journals = JOURNALS.min(memory.dma.free_bytes() / PAGE_SIZE as u64 / SHARE);
    let pages = memory.dma.alloc(FIXED_PAGES + journals as usize)?;
    Kept::open(Box::leak(Box::new(pages))).ok()
}
