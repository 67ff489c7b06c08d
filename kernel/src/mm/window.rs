//! Guest frames without memory: the only place where grants may be mapped. Mapping them over RAM
//! would lose that RAM.

use core::ops::Range;

use spin::Mutex;
use spindle_hw::SharedPages;
use xen_pvh_boot::{BootInfo, PAGE, RunAllocator};

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
    start: u64,
    end: u64,
}

impl GrantWindow {
    pub(super) const fn new(
        runs: &'static Mutex<RunAllocator<'static>>,
        Range { start, end }: Range<u64>,
    ) -> Self {
        Self { runs, start, end }
    }

    /// Whether the frame with this bus address is in it.
    pub(crate) fn has(&self, bus: u64) -> bool {
        (self.start..self.end).contains(&bus)
    }

    /// `pages` consecutive guest frames. Bus address = guest-physical address = address.
    pub(crate) fn alloc(&self, pages: usize) -> Option<SharedPages> {
        let first = self.runs.lock().allocate(pages, 1)?;
        dma::run(first, pages)
    }

    /// Something may be mapped at the frame with this bus address: it is not to be given out.
    pub(crate) fn give_up(&self, bus: u64) {
        // False if it is in the window of another life, or in use.
        let _ = self.runs.lock().take(bus / PAGE, 1);
    }

    /// Takes frames back. Everything mapped there must have been unmapped.
    pub(crate) fn free(&self, pages: &SharedPages) {
        dma::give_back(self.runs, pages);
    }
}

/// Places that a window may be at, of which each life uses the next: what an earlier life has mapped
/// stays mapped, and mapping over it would be the end of the domain.
const PLACES: usize = 16;

/// A GiB, on a GiB boundary, above 4 GiB and above all RAM, that nothing in the memory map claims
/// and the processor can address; and the end of all those that other lives use.
pub(super) fn place(info: &BootInfo, life: u64) -> Option<(Range<u64>, u64)> {
    let limit = 1 << cpu::physical_bits();
    let first = info.ram.end().max(FIRST).next_multiple_of(SIZE);
    let starts = (0..).map(|nth| first + nth * SIZE);
    let windows = starts.map(|start| start..start + SIZE);
    let is_free = |window: &Range<u64>| {
        let mut claims = info.map.iter();
        !claims.any(|e| e.start < window.end && e.start.saturating_add(e.size) > window.start)
    };
    let windows = windows.take_while(|window| window.end <= limit);
    let windows: heapless::Vec<_, PLACES> = windows.filter(is_free).take(PLACES).collect();
    let nth = life.saturating_sub(1) % (windows.len() as u64).max(1);
    Some((windows.get(nth as usize)?.clone(), windows.last()?.end))
}
