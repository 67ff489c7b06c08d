//! Guest frames without memory: the only place where grants may be mapped. Mapping them over RAM
//! would lose that RAM.

use core::ops::Range;

use spin::Mutex;
use spindle_hw::SharedPages;
use xen_pvh_boot::{BootInfo, RunAllocator};

use super::dma;
use crate::arch::cpu;

/// Room for 262,144 grants, more than Xen lets one domain map by default.
const SIZE: u64 = 1 << 30;
const FIRST: u64 = 4 << 30;

/// Hands out runs of guest frames in the window, mapped in the page tables but with nothing
/// behind them until a grant is: until then reads give all ones and writes are lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GrantWindow {
    runs: &'static Mutex<RunAllocator<'static>>,
}

impl GrantWindow {
    pub(super) const fn new(runs: &'static Mutex<RunAllocator<'static>>) -> Self {
        Self { runs }
    }

    /// `pages` consecutive guest frames. Bus address = guest-physical address = address.
    pub(crate) fn alloc(&self, pages: usize) -> Option<SharedPages> {
        let first = self.runs.lock().allocate(pages, 1)?;
        dma::run(first, pages)
    }

    /// Takes frames back. Everything mapped there must have been unmapped.
    pub(crate) fn free(&self, pages: &SharedPages) {
        dma::give_back(self.runs, pages);
    }
}

/// The first GiB, on a GiB boundary, above 4 GiB and above all RAM, that nothing in the memory
/// map claims and the processor can address.
pub(super) fn place(info: &BootInfo) -> Option<Range<u64>> {
    let limit = 1 << cpu::physical_bits();
    let mut start = info.ram.end().max(FIRST).next_multiple_of(SIZE);
    while start + SIZE <= limit {
        let window = start..start + SIZE;
        let claimed = info
            .map
            .iter()
            .any(|e| e.start < window.end && e.start.saturating_add(e.size) > window.start);
        if !claimed {
            return Some(window);
        }
        start += SIZE;
    }
    None
}
