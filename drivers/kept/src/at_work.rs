//! The ring that a core is serving, kept so that the next life of the kernel can blame it.
//!
//! A request that kills the kernel would do so again when it is done again. A ring that was being
//! served at several deaths is left out.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use spindle_hw::{PAGE_SIZE, SharedPages};

/// Words of a core: a cache line.
const WORDS: usize = 8;
/// Bytes of them.
const CORE: usize = WORDS * size_of::<u64>();

/// Cores of a page.
const CORES: usize = PAGE_SIZE / CORE;

/// A core's word for the ring that it is serving, in a page of kept memory.
#[derive(Debug)]
pub struct AtWork {
    word: &'static AtomicU64,
}

/// Where it is noted that is not kept.
static NOWHERE: AtomicU64 = AtomicU64::new(0);

impl AtWork {
    /// The word of core number `core`, in the first of these pages, which has room for 64 cores; none
    /// for those beyond. The value for the pages is never dropped.
    #[must_use]
    pub fn at(page: SharedPages, core: usize) -> Option<Self> {
        if core >= CORES || page.len() < PAGE_SIZE {
            return None;
        }
        let page: &'static SharedPages = Box::leak(Box::new(page));
        let [word, ..] = page.group::<WORDS>(core);
        Some(Self { word })
    }

    /// For a core of which it need not be known.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { word: &NOWHERE }
    }

    /// The core serves the ring whose journal is at page `first` of kept memory.
    #[inline]
    pub fn begin(&self, first: u32) {
        self.word.store(u64::from(first) + 1, Ordering::Relaxed);
        // What is done for the ring comes after it. On x86 that is no instruction.
        fence(Ordering::Release);
    }

    /// The core serves no ring.
    #[inline]
    pub fn end(&self) {
        self.word.store(0, Ordering::Release);
    }

    /// Which ring core number `core` was serving in the life before: the first page of its journal.
    #[must_use]
    pub fn read(page: &SharedPages, core: usize) -> Option<u32> {
        let at = core.checked_mul(CORE).filter(|&at| at < page.len())?;
        let first = page.u64_at(at).load(Ordering::Acquire).checked_sub(1)?;
        u32::try_from(first).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_core_has_a_word_of_its_own_for_its_ring() {
        let page = SharedPages::host(1, 0);
        let cores = [0, 63].map(|core| AtWork::at(page.alias(), core).unwrap());
        assert!(AtWork::at(page.alias(), 64).is_none());
        assert_eq!(AtWork::read(&page, 0), None);
        cores[0].begin(0);
        cores[1].begin(700);
        assert_eq!(
            [0, 1, 63].map(|n| AtWork::read(&page, n)),
            [Some(0), None, Some(700)]
        );
        cores[0].end();
        assert_eq!([0, 63].map(|n| AtWork::read(&page, n)), [None, Some(700)]);
        assert_eq!(AtWork::read(&page, usize::MAX), None);
    }
}
