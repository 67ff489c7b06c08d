//! The boundary in each namespace that a read or write had better not cross (NOIOB, 5.15.2.1), and the
//! size of its blocks, as queues look them up.
//!
//! Control writes what namespaces report, queues read it: one table for all queues of a controller.
//! To cross a boundary is allowed and costs time, so that nothing depends on when a queue sees a
//! change.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Boundaries at shorter distances than this, in bytes, are not respected: a request would become
/// more commands than the boundary saves.
pub(crate) const LEAST_BYTES: u64 = 16 << 10;

/// log2 of the largest block size that is served, in bytes.
const LARGEST_SHIFT: u8 = 12;

const PLACES: usize = 128;

/// Boundaries by namespace. Of two namespaces whose numbers differ by a multiple of [`PLACES`] only
/// the one that was looked at last has its boundary respected.
#[derive(Debug)]
pub(crate) struct Boundaries {
    /// Namespace identifier in the upper half; log2 of the block size in bytes in bits 31:16, blocks
    /// between boundaries in bits 15:0.
    places: [AtomicU64; PLACES],
    any: AtomicBool,
}

impl Default for Boundaries {
    fn default() -> Self {
        Self {
            places: [const { AtomicU64::new(0) }; PLACES],
            any: AtomicBool::new(false),
        }
    }
}

impl Boundaries {
    fn place(&self, id: u32) -> &AtomicU64 {
        &self.places[id as usize % PLACES]
    }

    /// Control: namespace `id` has blocks of `1 << shift` bytes, and a boundary every `blocks` blocks, or
    /// none if that is 0.
    pub(crate) fn set(&self, id: u32, shift: u8, blocks: u16) {
        let word = u64::from(id) << 32 | u64::from(shift) << 16 | u64::from(blocks);
        self.place(id).store(word, Relaxed);
        let any = self.places.iter().any(|it| it.load(Relaxed) as u16 != 0);
        self.any.store(any, Relaxed);
    }

    /// Queue: whether any namespace has one.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// Queue: blocks from one boundary of namespace `id` to the next, 0 if there are none.
    pub(crate) fn blocks(&self, id: u32) -> u32 {
        let word = self.place(id).load(Relaxed);
        if (word >> 32) as u32 == id {
            word as u16 as u32
        } else {
            0
        }
    }

    /// Queue: log2 of the block size of namespace `id` in bytes, or that of the largest blocks there are
    /// if it is not known.
    pub(crate) fn shift(&self, id: u32) -> u8 {
        let word = self.place(id).load(Relaxed);
        let known = (word >> 32) as u32 == id && id != 0;
        if known {
            (word >> 16) as u8 & 31
        } else {
            LARGEST_SHIFT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_has_its_own_and_the_last_of_two_in_one_place_counts() {
        let table = Boundaries::default();
        assert!(!table.any());
        table.set(1, 9, 0);
        assert!(!table.any());
        table.set(2, 9, 256);
        assert!(table.any());
        assert_eq!((table.blocks(1), table.blocks(2)), (0, 256));
        assert_eq!((table.shift(1), table.shift(2), table.shift(3)), (9, 9, 12));
        table.set(130, 9, 96);
        assert_eq!((table.blocks(2), table.blocks(130)), (0, 96));
        assert_eq!((table.shift(2), table.shift(130)), (12, 9));
        table.set(130, 12, 0);
        assert!(!table.any());
    }
}
