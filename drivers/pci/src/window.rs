//! Addresses for BARs: where there is room for them in a guest's address space, and what of it has
//! been taken.

use alloc::vec::Vec;
use core::ops::Range;

use spindle_hw::PAGE_SIZE;

/// Where Xen leaves room for PCI memory in a container with a device model.
const USUAL: Range<u64> = 0xf000_0000..0xfc00_0000;
/// What lies between RAM and the usual place may be used as well, but for what comes directly
/// after RAM: QEMU populates frames there for option ROMs and video memory, and no memory map
/// lists them.
const BEHIND_RAM: u64 = 256 << 20;
/// Addresses above this need a register of 64 bits.
const FOUR_GIB: u64 = 4 << 30;
/// `HyperTransport`'s own range below 1 TiB, which AMD's processors and IOMMUs keep for themselves.
const HYPER_TRANSPORT: Range<u64> = 0xfd_0000_0000..0x100_0000_0000;

/// Guest-physical addresses for BARs to be placed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarWindow {
    /// Where BARs may be, best first.
    places: [Range<u64>; 3],
    /// What they must not meet: memory, and BARs placed before.
    taken: Vec<Range<u64>>,
}

impl BarWindow {
    /// The 192 MiB that are free in every container with a device model.
    pub const HVM: Self = Self::new(USUAL);

    /// A window of free addresses.
    #[must_use]
    pub const fn new(range: Range<u64>) -> Self {
        Self {
            places: [range, 0..0, 0..0],
            taken: Vec::new(),
        }
    }

    /// All room in a container with a device model in which `claimed` is memory or reserved, and
    /// nothing from `end` on can be addressed: the usual place, then what lies above 4 GiB, then
    /// what lies below the usual place, where a large BAR of 32 bits has to go.
    #[must_use]
    pub fn around(claimed: impl IntoIterator<Item = Range<u64>>, end: u64) -> Self {
        let mut taken: Vec<_> = claimed.into_iter().collect();
        taken.push(HYPER_TRANSPORT);
        let low = taken.iter().filter(|claim| claim.start < USUAL.start);
        let low = low.map(|claim| claim.end).max().unwrap_or(USUAL.start);
        Self {
            places: [
                USUAL,
                FOUR_GIB..end,
                low.saturating_add(BEHIND_RAM)..USUAL.start,
            ],
            taken,
        }
    }

    /// Takes `size` bytes, a power of two, aligned to their size and to pages, and below 4 GiB for
    /// a BAR that is not `wide`. The alignment lets Xen map a large BAR with large pages.
    pub(crate) fn take(&mut self, size: u64, wide: bool) -> Option<u64> {
        let size = size.max(PAGE_SIZE as u64);
        let end = if wide { u64::MAX } else { FOUR_GIB };
        let mut places = self.places.iter();
        let start = places.find_map(|place| self.room(place.start..place.end.min(end), size))?;
        self.taken.push(start..start + size);
        Some(start)
    }

    /// Takes the `size` bytes at `start`, where a BAR was placed before; false if it could not be placed
    /// there now.
    pub(crate) fn hold(&mut self, start: u64, size: u64, wide: bool) -> bool {
        let size = size.max(PAGE_SIZE as u64);
        let end = if wide { u64::MAX } else { FOUR_GIB };
        let Some(last) = start.checked_add(size).filter(|&last| last <= end) else {
            return false;
        };
        let mut places = self.places.iter();
        let mut taken = self.taken.iter();
        let is_free = start.is_multiple_of(size)
            && places.any(|place| place.start <= start && last <= place.end)
            && taken.all(|other| other.end <= start || last <= other.start);
        if is_free {
            self.taken.push(start..last);
        }
        is_free
    }

    /// The lowest free address in `place` for so many bytes.
    fn room(&self, place: Range<u64>, size: u64) -> Option<u64> {
        let mut start = place.start.checked_next_multiple_of(size)?;
        loop {
            let end = start.checked_add(size).filter(|&end| end <= place.end)?;
            let mut taken = self.taken.iter();
            let Some(other) = taken.find(|other| other.start < end && start < other.end) else {
                return Some(start);
            };
            // Further on each time: the other one ends behind `start`.
            start = other.end.checked_next_multiple_of(size)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// 64 MiB of RAM, and a GiB for grants above 4 GiB.
    fn small() -> BarWindow {
        BarWindow::around([0..64 * MIB, 4 * GIB..5 * GIB], 1 << 39)
    }

    #[test]
    fn a_window_aligns_to_the_size_and_ends() {
        let mut window = BarWindow::new(0xf000_1000..0xf000_8000);
        assert_eq!(window.take(0x10, false), Some(0xf000_1000));
        assert_eq!(window.take(0x4000, false), Some(0xf000_4000));
        assert_eq!(window.take(0x2000, false), Some(0xf000_2000), "before it");
        assert_eq!(window.take(0x10, false), None);
        let mut last = BarWindow::new(u64::MAX - 10..u64::MAX);
        assert_eq!(last.take(4096, true), None);
    }

    #[test]
    fn a_bar_stays_where_it_was_as_long_as_it_meets_no_other() {
        let free = || BarWindow::new(0xf000_0000..0xf000_8000);
        let mut window = free();
        assert!(window.hold(0xf000_2000, 0x2000, false));
        // Directly before and behind it there is room, in it there is none.
        assert!(window.hold(0xf000_0000, 0x2000, false));
        assert!(window.hold(0xf000_4000, 0x4000, false));
        for start in [0xf000_0000, 0xf000_2000, 0xf000_3000, 0xf000_7000] {
            assert!(!window.hold(start, 0x1000, false), "{start:#x}");
        }
        // Aligned to its size, and within the window.
        for (start, size) in [
            (0xf000_1000, 0x2000),
            (0xefff_f000, 0x1000),
            (0xf000_8000, 0x1000),
        ] {
            assert!(!free().hold(start, size, false), "{start:#x}");
        }
        let above = BarWindow::new(4 * GIB..5 * GIB);
        assert!(above.clone().hold(4 * GIB, GIB, true));
        assert!(!above.clone().hold(4 * GIB, GIB, false), "32 bits");
    }

    #[test]
    fn what_does_not_fit_where_bars_usually_are_goes_above_4_gib_or_below_that() {
        let mut window = small();
        assert_eq!(window.take(0x4000, true), Some(0xf000_0000));
        // The 64 MiB from 0xf800_0000 on are too few.
        let below = window.take(128 * MIB, false).unwrap();
        assert_eq!(below, 384 * MIB, "320 MiB, aligned");
        assert_eq!(window.take(GIB, false), Some(GIB));
        assert_eq!(window.take(GIB, false), Some(2 * GIB));
        assert_eq!(window.take(GIB, false), None, "not above 4 GiB");
        assert_eq!(window.take(GIB, true), Some(5 * GIB), "not among grants");
        assert_eq!(window.take(64 * GIB, true), Some(64 * GIB));
        assert_eq!(window.take(64 * GIB, true), Some(128 * GIB));
        assert_eq!(window.take(512 * GIB, true), None, "not addressable");
        assert_eq!(window.take(0x4000, false), Some(0xf000_4000));
    }

    #[test]
    fn memory_below_4_gib_is_kept_clear_of() {
        let mut window = BarWindow::around([0..3 * GIB, 4 * GIB..6 * GIB], 1 << 36);
        assert_eq!(window.take(GIB, false), None);
        assert_eq!(window.take(256 * MIB, false), Some(3 * GIB + 256 * MIB));
        assert_eq!(window.take(GIB, true), Some(6 * GIB));
    }

    #[test]
    fn addresses_that_an_iommu_keeps_for_itself_are_left_out() {
        let mut window = BarWindow::around(core::iter::once(0..64 * MIB), 1 << 42);
        assert_eq!(window.take(512 * GIB, true), Some(1024 * GIB));
    }
}
