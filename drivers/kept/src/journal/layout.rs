//! Where what is in a journal: the wire format, of which every kernel of the same version knows.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | the mark, 8 bytes |
//! | 8 | version, 4 bytes |
//! | 12 | number of slots of the ring, 4 bytes |
//! | 16 | `consumed`, 4 bytes |
//! | 20 | `published`, 4 bytes |
//! | 64 | `order`: 2 bytes for each slot |
//! | at the next multiple of 32 | entries: 32 bytes for each place |
//! | behind them | further segments: 80 bytes for each place |
//!
//! Most requests have one segment, so that two of them share a cache line.

use super::{SEGMENTS, SlotNumber};

pub(super) const MARK: usize = 0;
pub(super) const VERSION: usize = 8;
pub(super) const REQUESTS: usize = 12;
pub(super) const CONSUMED: usize = 16;
pub(super) const PUBLISHED: usize = 20;
const ORDER: usize = 64;

/// Words of an entry.
pub(super) const ENTRY: usize = 4;
/// Bytes of an entry.
const ENTRY_BYTES: usize = ENTRY * size_of::<u64>();
/// Bytes of the segments that are not in it.
const REST_BYTES: usize = (SEGMENTS - 1) * size_of::<u64>();

/// The layout of the journal of a ring with some number of slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct JournalLayout {
    /// Number of slots, a power of two, less one.
    mask: u32,
    /// The number of the first entry, as the memory is divided into those.
    entries: usize,
}

impl JournalLayout {
    /// For a ring of so many slots; none if that is no power of two, or too many for the memory.
    pub(super) const fn of(requests: u32, bytes: usize) -> Option<Self> {
        let count = requests as usize;
        if !requests.is_power_of_two() || requests > 1 << 15 || count > bytes {
            return None;
        }
        let entries = (ORDER + count * size_of::<u16>()).div_ceil(ENTRY_BYTES);
        if entries * ENTRY_BYTES + count * (ENTRY_BYTES + REST_BYTES) > bytes {
            return None;
        }
        Some(Self {
            mask: requests - 1,
            entries,
        })
    }

    /// Number of slots.
    pub(super) const fn requests(&self) -> u32 {
        self.mask + 1
    }

    /// The slot of request or response number `index`.
    #[inline(always)]
    pub(super) const fn slot(&self, index: u32) -> SlotNumber {
        SlotNumber(index & self.mask)
    }

    /// Where the place for the request in this slot is.
    #[inline(always)]
    pub(super) const fn order(&self, slot: SlotNumber) -> usize {
        ORDER + slot.get() * size_of::<u16>()
    }

    /// The entry of a place.
    #[inline(always)]
    pub(super) const fn entry(&self, place: u16) -> usize {
        self.entries + place as usize
    }

    /// Where the further segments of a place begin.
    #[inline]
    pub(super) const fn rest(&self, place: u16) -> usize {
        let count = self.requests() as usize;
        (self.entries + count) * ENTRY_BYTES + place as usize * REST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spindle_hw::PAGE_SIZE;

    #[test]
    fn the_journal_of_every_ring_fits_into_as_many_pages_as_the_ring() {
        for pages in [1, 2, 4, 8, 16] {
            let requests = 32 * pages;
            let layout = JournalLayout::of(requests as u32, pages * PAGE_SIZE).unwrap();
            assert_eq!(layout.requests() as usize, requests);
            let last = (requests - 1) as u16;
            assert!(layout.order(layout.slot(u32::MAX)) < layout.entry(0) * ENTRY_BYTES);
            assert_eq!(
                (layout.entry(last) + 1) * ENTRY_BYTES,
                layout.rest(0),
                "entries and segments meet"
            );
            assert!(layout.rest(last) + REST_BYTES <= pages * PAGE_SIZE);
            assert!(JournalLayout::of(2 * requests as u32, pages * PAGE_SIZE).is_none());
        }
        assert!(JournalLayout::of(3, PAGE_SIZE).is_none());
        assert!(JournalLayout::of(0, PAGE_SIZE).is_none());
        assert!(JournalLayout::of(1 << 31, PAGE_SIZE).is_none());
    }
}
