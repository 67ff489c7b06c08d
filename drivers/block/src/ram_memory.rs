//! The memory of a RAM disk: chunks of the same size, which another life of the kernel finds again.

use alloc::vec::Vec;
use core::ops::Range;

use spindle_hw::{DmaAlloc, PAGE_SIZE, Retake, SharedPages};

/// Bytes of memory that are asked for at once: large runs may not be had, small ones cost a
/// lookup table.
pub(crate) const CHUNK: usize = 1 << 20;

/// Memory of whole MiB.
#[derive(Debug)]
pub struct RamMemory {
    /// In the order of the disk's blocks.
    chunks: Vec<SharedPages>,
}

impl RamMemory {
    /// Zeroed memory of `bytes`, rounded up to whole MiB; `None` if there is not so much.
    pub fn new(bytes: u64, memory: &impl DmaAlloc) -> Option<Self> {
        let count = usize::try_from(bytes.div_ceil(CHUNK as u64)).ok()?;
        let nth = |_| memory.alloc(CHUNK / PAGE_SIZE);
        let mut all = Self::gather(count, (0..count).map(nth), memory)?;
        // They come from the end of memory: this way round, neighbours are one run.
        all.chunks.reverse();
        Some(all)
    }

    /// The memory that a former life has had at these bus addresses, with what it holds; `None` if
    /// not all of that is free memory.
    pub fn again(runs: &[Range<u64>], memory: &impl Retake) -> Option<Self> {
        let len = |run: &Range<u64>| run.end.saturating_sub(run.start);
        if runs
            .iter()
            .any(|run| !len(run).is_multiple_of(CHUNK as u64))
        {
            return None;
        }
        let count = runs
            .iter()
            .try_fold(0_u64, |sum, run| sum.checked_add(len(run)));
        let count = usize::try_from(count? / CHUNK as u64).ok()?;
        let starts = runs.iter().flat_map(|run| run.clone().step_by(CHUNK));
        let chunks = starts.map(|at| memory.retake(at, CHUNK / PAGE_SIZE));
        Self::gather(count, chunks, memory)
    }

    /// All of the chunks or none.
    fn gather(
        count: usize,
        found: impl Iterator<Item = Option<SharedPages>>,
        memory: &impl DmaAlloc,
    ) -> Option<Self> {
        let mut all = Self { chunks: Vec::new() };
        // A mistyped size is no reason to end for lack of heap.
        all.chunks.try_reserve_exact(count).ok()?;
        for chunk in found {
            let Some(chunk) = chunk else {
                all.give_back(memory);
                return None;
            };
            all.chunks.push(chunk);
        }
        Some(all)
    }

    /// Gives it back to where it is from.
    pub fn give_back(self, memory: &impl DmaAlloc) {
        self.chunks.into_iter().for_each(|chunk| memory.free(chunk));
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK as u64
    }

    /// Its bus addresses, in the order of the disk's blocks.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let meets = |a: &SharedPages, b: &SharedPages| a.bus() + CHUNK as u64 == b.bus();
        self.chunks.chunk_by(meets).map(|run| {
            let start = run.first().map_or(0, SharedPages::bus);
            start..start + run.len() as u64 * CHUNK as u64
        })
    }

    pub(crate) fn into_chunks(self) -> Vec<SharedPages> {
        self.chunks
    }
}
