//! Kept memory, as control and the ring cores use it: in a domain that can start its kernel again, what
//! they write there is found by the next life.

use alloc::boxed::Box;

use spindle_hw::{DmaAlloc, PAGE_SIZE};
use spindle_kept::Kept;
use spindle_kept::layout::FIXED_PAGES;

use crate::mm::Memory;
use crate::restart;

/// Pages for the journals of rings, at most: 2 MiB.
const JOURNALS: u64 = 512;
/// The part of free memory that journals may take.
const SHARE: u64 = 16;

/// Takes up the pages that outlive the kernel; where there are none, others, with which all works but a
/// restart. `None` if there is no memory at all.
pub(crate) fn open(memory: &Memory) -> Option<Kept> {
    if let Some(kept) = restart::memory() {
        // What cores were serving in the last life is in the note of its end.
        let work = kept.work();
        work.zero(0, work.len());
        restart::work_is_at(work);
        return Some(kept);
    }
    let journals = JOURNALS.min(memory.dma.free_bytes() / PAGE_SIZE as u64 / SHARE);
    let pages = memory.dma.alloc(FIXED_PAGES + journals as usize)?;
    Kept::open(Box::leak(Box::new(pages))).ok()
}
