//! What queues need to know of each namespace, by its identifier: the size of its blocks, the boundary
//! that a read or write had better not cross (NOIOB, 5.15.2.1), and its place, a small number that
//! stands for it in the bit sets of [`crate::link`].
//!
//! Control writes, queues read: one table for all queues of a controller. Each namespace has a place of
//! its own as long as anything of it may be in flight, whatever its identifier, so that none is ever
//! taken for another.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Boundaries at shorter distances than this, in bytes, are not respected: a request would become
/// more commands than the boundary saves.
pub(crate) const LEAST_BYTES: u64 = 16 << 10;

/// log2 of the largest block size that is served, in bytes.
const LARGEST_SHIFT: u8 = 12;

/// Places in a table. Control has no more namespaces at once, those included that were removed and may
/// still be in flight.
pub(crate) const PLACES: usize = 256;

/// A place that had a namespace and has none now. Unlike 0 it does not end a search.
const VACANT: u64 = 1;

/// The place of a namespace: below [`PLACES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) u8);

#[derive(Debug)]
pub(crate) struct NamespaceTable {
    /// A namespace is in the first place that was free from the one on that its identifier gives. Its
    /// identifier, which is not 0, is in the upper half; log2 of the block size in bytes in bits 31:16,
    /// blocks between boundaries in bits 15:0.
    places: [AtomicU64; PLACES],
    any: AtomicBool,
}

impl Default for NamespaceTable {
    fn default() -> Self {
        Self {
            places: [const { AtomicU64::new(0) }; PLACES],
            any: AtomicBool::new(false),
        }
    }
}

impl NamespaceTable {
    /// The places in which `id` is looked for, with what they hold.
    #[inline]
    fn search(&self, id: u32) -> impl Iterator<Item = (usize, u64)> {
        let places = (0..PLACES).map(move |step| (id as usize).wrapping_add(step) % PLACES);
        places.map(|at| (at, self.places[at].load(Relaxed)))
    }

    #[inline]
    fn find(&self, id: u32) -> Option<(usize, u64)> {
        let mut searched = self.search(id).take_while(|&(_, word)| word != 0);
        searched.find(|&(_, word)| (word >> 32) as u32 == id && id != 0)
    }

    /// Control: namespace `id` has blocks of `1 << shift` bytes, and a boundary every `blocks` blocks, or
    /// none if that is 0. It gets a place if it has none.
    pub(crate) fn set(&self, id: u32, shift: u8, blocks: u16) {
        let mut free = self.search(id).filter(|&(_, word)| word >> 32 == 0);
        if let Some((at, _)) = self.find(id).or_else(|| free.next()) {
            let word = u64::from(id) << 32 | u64::from(shift) << 16 | u64::from(blocks);
            self.places[at].store(word, Relaxed);
            self.see_boundaries();
        }
    }

    /// Control: nothing of namespace `id` is in flight any longer.
    pub(crate) fn remove(&self, id: u32) {
        if let Some((at, _)) = self.find(id) {
            self.places[at].store(VACANT, Relaxed);
            self.see_boundaries();
        }
    }

    fn see_boundaries(&self) {
        let has = |word: u64| word >> 32 != 0 && word as u16 != 0;
        let any = self.places.iter().any(|it| has(it.load(Relaxed)));
        self.any.store(any, Relaxed);
    }

    /// The place of namespace `id`; `None` if it is none that is served.
    pub(crate) fn place(&self, id: u32) -> Option<Place> {
        self.find(id).map(|(at, _)| Place(at as u8))
    }

    /// Queue: whether any namespace has boundaries.
    pub(crate) fn any_boundaries(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// Queue: blocks from one boundary of namespace `id` to the next, 0 if there are none.
    pub(crate) fn boundary(&self, id: u32) -> u32 {
        self.find(id).map_or(0, |(_, word)| (word as u16).into())
    }

    /// Queue: log2 of the block size of namespace `id` in bytes, or that of the largest blocks there are
    /// if it is not known.
    pub(crate) fn shift(&self, id: u32) -> u8 {
        let found = self.find(id);
        found.map_or(LARGEST_SHIFT, |(_, word)| (word >> 16) as u8 & 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn each_namespace_has_what_is_its_own() {
        let table = NamespaceTable::default();
        assert!(!table.any_boundaries());
        table.set(1, 9, 0);
        assert!(!table.any_boundaries());
        table.set(2, 9, 256);
        assert!(table.any_boundaries());
        assert_eq!((table.boundary(1), table.boundary(2)), (0, 256));
        let shifts = [1, 2, 3, 0].map(|id| table.shift(id));
        assert_eq!(shifts, [9, 9, 12, 12]);
        table.remove(2);
        assert!(!table.any_boundaries());
        assert_eq!((table.place(2), table.place(0)), (None, None));
    }

    #[test]
    fn namespaces_whose_places_would_be_the_same_are_kept_apart() {
        let table = NamespaceTable::default();
        let id = |n: u32| 5 + n * PLACES as u32 / 2;
        for n in 0..PLACES as u32 {
            table.set(id(n), 9 + n as u8 % 4, n as u16);
        }
        let mut places: Vec<_> = (0..PLACES as u32)
            .map(|n| table.place(id(n)).unwrap().0)
            .collect();
        places.sort_unstable();
        assert!((0..=u8::MAX).eq(places));
        for n in 0..PLACES as u32 {
            assert_eq!(table.boundary(id(n)), n, "{n}");
            assert_eq!(table.shift(id(n)), 9 + n as u8 % 4);
        }
        // One more has no place, and takes none from another.
        table.set(u32::MAX, 9, 8);
        assert_eq!((table.place(u32::MAX), table.boundary(u32::MAX)), (None, 0));
        let place = table.place(id(1));
        table.remove(id(0));
        assert_eq!((table.place(id(1)), table.boundary(id(1))), (place, 1));
        // It is found before what is free.
        table.set(id(1), 12, 7);
        assert_eq!((table.place(id(1)), table.boundary(id(1))), (place, 7));
        table.set(u32::MAX, 9, 8);
        assert_eq!(table.boundary(u32::MAX), 8);
        assert_eq!(table.boundary(id(2)), 2);
    }
}
