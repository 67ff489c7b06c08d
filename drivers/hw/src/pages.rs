//! Memory that others may read or write at any moment: a device, or another domain.
//!
//! No Rust reference to plain data ever covers such memory. Words are atomics; bulk data goes in
//! and out by copying.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use crate::PAGE_SIZE;

/// Words that are checked to be in range together where many are loaded or stored.
const WORDS: usize = 8;

/// A run of whole pages shared with a device or another domain, contiguous for the CPU and on the
/// bus.
///
/// The value owns its pages in the sense that whoever holds it decides when they go back to
/// where they came from ([`crate::DmaAlloc::free`], a grant unmap); dropping it gives nothing back.
///
/// A given location should always be accessed at one width: the x86 memory model allows mixing,
/// Rust's does not.
#[derive(Debug)]
pub struct SharedPages {
    base: NonNull<u8>,
    bytes: usize,
    bus: u64,
}

// SAFETY: the pages have no thread affinity and are only reached by atomics and raw copies.
unsafe impl Send for SharedPages {}
// SAFETY: as above: `&self` gives atomics and copies, never a reference to plain data.
unsafe impl Sync for SharedPages {}

impl SharedPages {
    /// Takes over `count` pages mapped at `base`, which devices reach at bus address `bus`.
    ///
    /// # Safety
    /// The pages must be page-aligned, mapped and writable (readable, if granted read-only and
    /// only read) for as long as the value lives, and covered by no Rust reference.
    #[must_use]
    pub const unsafe fn from_raw(base: NonNull<u8>, count: usize, bus: u64) -> Self {
        Self {
            base,
            bytes: count * PAGE_SIZE,
            bus,
        }
    }

    /// `count` zeroed pages from the host's heap that pretend to have bus address `bus`.
    ///
    /// They are never freed, so that [`SharedPages::alias`] is sound.
    #[cfg(any(test, feature = "host"))]
    #[must_use]
    pub fn host(count: usize, bus: u64) -> Self {
        #[repr(C, align(4096))]
        struct HostPage([u8; PAGE_SIZE]);
        let pages: Vec<HostPage> = (0..count.max(1))
            .map(|_| HostPage([0; PAGE_SIZE]))
            .collect();
        let base = NonNull::from(pages.leak()).cast();
        Self {
            base,
            bytes: count * PAGE_SIZE,
            bus,
        }
    }

    /// The view that the device or the other domain has of the same pages.
    #[cfg(any(test, feature = "host"))]
    #[must_use]
    pub fn alias(&self) -> Self {
        Self {
            base: self.base,
            bytes: self.bytes,
            bus: self.bus,
        }
    }

    /// The same pages, which pretend to have another bus address.
    #[cfg(any(test, feature = "host"))]
    #[must_use]
    pub fn alias_at(&self, bus: u64) -> Self {
        Self {
            bus,
            ..self.alias()
        }
    }

    /// A view of `count` of these pages from number `first` on; `None` if there are not so many.
    ///
    /// Only of pages that are never given back: the view lives as long as it likes.
    #[must_use]
    pub fn view(&'static self, first: usize, count: usize) -> Option<Self> {
        let from = first.checked_mul(PAGE_SIZE)?;
        let bytes = count.checked_mul(PAGE_SIZE)?;
        if from.checked_add(bytes)? > self.bytes {
            return None;
        }
        Some(Self {
            // SAFETY: inside the pages by the check.
            base: unsafe { self.base.add(from) },
            bytes,
            bus: self.bus.wrapping_add(from as u64),
        })
    }

    /// Size in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is no page at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bus address of the first byte.
    #[must_use]
    pub const fn bus(&self) -> u64 {
        self.bus
    }

    /// The CPU's address of the first byte, for whoever gives the pages back.
    #[must_use]
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The byte at `offset`.
    ///
    /// # Panics
    /// If `offset` is out of range. Offsets are the caller's own, never a peer's.
    #[inline]
    #[must_use]
    pub fn u8_at(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.bytes);
        // SAFETY: in range by the check. `from_raw` promises the mapping outlives `self`.
        unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(offset)) }
    }

    /// The 16-bit word at byte `offset`.
    ///
    /// # Panics
    /// If `offset` is misaligned or out of range. Offsets are the caller's own, never a peer's.
    #[inline]
    #[must_use]
    pub fn u16_at(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2) && offset < self.bytes);
        // SAFETY: as in `u32_at`.
        unsafe { AtomicU16::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// The 32-bit word at byte `offset`.
    ///
    /// # Panics
    /// If `offset` is misaligned or out of range. Offsets are the caller's own, never a peer's.
    #[inline]
    #[must_use]
    pub fn u32_at(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < self.bytes);
        // SAFETY: in range and aligned by the check; pages are 4 KiB aligned, so the whole word
        // is inside. `from_raw` promises the mapping outlives `self`.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// The 64-bit word at byte `offset`.
    ///
    /// # Panics
    /// If `offset` is misaligned or out of range. Offsets are the caller's own, never a peer's.
    #[inline]
    #[must_use]
    pub fn u64_at(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.bytes);
        // SAFETY: as in `u32_at`.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// The `N` 64-bit words from byte `offset` on, for one check instead of `N`.
    ///
    /// # Panics
    /// If `offset` is misaligned or the words are not all in range. Offsets are the caller's own,
    /// never a peer's.
    #[inline(always)]
    #[must_use]
    pub fn u64s_at<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        assert!(offset.is_multiple_of(8));
        self.check(offset, N * size_of::<u64>());
        // SAFETY: in range and aligned by the checks, and an array of atomics is laid out as its
        // words are. `from_raw` promises the mapping outlives `self` and that no reference to
        // plain data covers it.
        unsafe { &*self.base.as_ptr().add(offset).cast() }
    }

    /// Group number `index` of `N` 64-bit words each, of which a page holds a whole number: that it
    /// begins inside is all that there is to check.
    ///
    /// # Panics
    /// If the group is out of range. Indices are the caller's own, never a peer's.
    #[inline(always)]
    #[must_use]
    pub fn group<const N: usize>(&self, index: usize) -> &[AtomicU64; N] {
        const { assert!(N > 0 && PAGE_SIZE.is_multiple_of(N * size_of::<u64>())) };
        let offset = index.wrapping_mul(N * size_of::<u64>());
        assert!(offset < self.bytes);
        // SAFETY: a multiple of the group's size is in range, so the whole group is, since pages
        // are whole and begin at such a multiple. As in `u64s_at` for the rest.
        unsafe { &*self.base.as_ptr().add(offset).cast() }
    }

    /// Loads words from byte `offset` on, each once.
    ///
    /// # Panics
    /// As [`SharedPages::u64s_at`].
    #[inline]
    pub fn load_words(&self, offset: usize, words: &mut [u64]) {
        let (groups, rest) = words.as_chunks_mut::<WORDS>();
        let mut at = offset;
        for group in groups {
            let from = self.u64s_at::<WORDS>(at);
            for (word, from) in group.iter_mut().zip(from) {
                *word = from.load(Relaxed);
            }
            at += WORDS * size_of::<u64>();
        }
        for word in rest {
            *word = self.u64_at(at).load(Relaxed);
            at += size_of::<u64>();
        }
    }

    /// Stores from byte `offset` on what `word` makes of each item, each once.
    ///
    /// # Panics
    /// As [`SharedPages::u64s_at`].
    #[inline]
    pub fn store_words<T: Copy>(&self, offset: usize, items: &[T], mut word: impl FnMut(T) -> u64) {
        let (groups, rest) = items.as_chunks::<WORDS>();
        let mut at = offset;
        for group in groups {
            for (to, &item) in self.u64s_at::<WORDS>(at).iter().zip(group) {
                to.store(word(item), Relaxed);
            }
            at += WORDS * size_of::<u64>();
        }
        for &item in rest {
            self.u64_at(at).store(word(item), Relaxed);
            at += size_of::<u64>();
        }
    }

    /// Copies bytes out, starting at `offset`. What a racing writer leaves is unspecified.
    ///
    /// # Panics
    /// If the range is not inside the pages.
    pub fn read_bytes(&self, offset: usize, out: &mut [u8]) {
        self.check(offset, out.len());
        // SAFETY: both ranges are valid and cannot overlap, since no reference covers the pages.
        unsafe {
            self.base
                .as_ptr()
                .add(offset)
                .copy_to_nonoverlapping(out.as_mut_ptr(), out.len());
        }
    }

    /// Copies bytes in, starting at `offset`.
    ///
    /// # Panics
    /// If the range is not inside the pages.
    pub fn write_bytes(&self, offset: usize, data: &[u8]) {
        self.check(offset, data.len());
        // SAFETY: as in `read_bytes`.
        unsafe {
            self.base
                .as_ptr()
                .add(offset)
                .copy_from_nonoverlapping(data.as_ptr(), data.len());
        }
    }

    /// Sets `len` bytes from `offset` on to zero.
    ///
    /// # Panics
    /// If the range is not inside the pages.
    pub fn zero(&self, offset: usize, len: usize) {
        self.check(offset, len);
        // SAFETY: the range is valid by the check.
        unsafe { self.base.as_ptr().add(offset).write_bytes(0, len) }
    }

    /// Copies `len` bytes from `source` (from `source_offset` on) to `offset`.
    ///
    /// # Panics
    /// If either range is not inside its pages.
    pub fn copy_from(&self, offset: usize, source: &Self, source_offset: usize, len: usize) {
        self.check(offset, len);
        source.check(source_offset, len);
        // SAFETY: both ranges are valid by the checks; `copy` allows overlap.
        unsafe {
            self.base
                .as_ptr()
                .add(offset)
                .copy_from(source.base.as_ptr().add(source_offset), len);
        }
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_views_see_the_same_words_and_bytes() {
        let ours = SharedPages::host(2, 0x1000);
        let theirs = ours.alias();
        ours.u32_at(4).store(0x0403_0201, Relaxed);
        let mut bytes = [0; 4];
        theirs.read_bytes(4, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4]);
        theirs.write_bytes(4096, &[0xff; 8]);
        assert_eq!(ours.u64_at(4096).load(Relaxed), u64::MAX);
        assert_eq!(ours.u64s_at::<512>(4096)[0].load(Relaxed), u64::MAX);
        assert_eq!(ours.group::<8>(64)[0].load(Relaxed), u64::MAX);
        assert_eq!(ours.u16_at(6).load(Relaxed), 0x0403);
        assert_eq!(theirs.u8_at(7).load(Relaxed), 4);
        ours.zero(4096, 4);
        assert_eq!(theirs.u64_at(4096).load(Relaxed), 0xffff_ffff_0000_0000);
        ours.copy_from(8, &theirs, 4, 4);
        assert_eq!(ours.u32_at(8).load(Relaxed), 0x0403_0201);
    }

    #[test]
    fn words_go_in_and_out_at_any_offset_and_length() {
        for (offset, count) in [(0, 0), (8, 7), (16, 8), (24, 9), (4096, 512), (8184, 1)] {
            let pages = SharedPages::host(2, 0);
            let words: Vec<u64> = (1..=count).collect();
            pages.store_words(offset, &words, |word| word);
            let mut read = vec![0; words.len()];
            pages.load_words(offset, &mut read);
            assert_eq!(read, words);
            let all = (0..1024).map(|at| pages.u64_at(8 * at).load(Relaxed));
            assert_eq!(all.sum::<u64>(), words.iter().sum());
        }
    }

    #[test]
    fn a_view_is_of_some_of_the_same_pages() {
        let pages: &'static SharedPages = Box::leak(Box::new(SharedPages::host(4, 0x8000)));
        let view = pages.view(1, 2).unwrap();
        assert_eq!((view.len(), view.bus()), (2 * PAGE_SIZE, 0x9000));
        view.u32_at(PAGE_SIZE).store(7, Relaxed);
        assert_eq!(pages.u32_at(2 * PAGE_SIZE).load(Relaxed), 7);
        assert!(pages.view(4, 0).is_some());
        for (first, count) in [(4, 1), (0, 5), (usize::MAX, 1), (1, usize::MAX)] {
            assert!(pages.view(first, count).is_none(), "{first} {count}");
        }
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn words_that_reach_beyond_the_end_are_refused() {
        let _ = SharedPages::host(1, 0).u64s_at::<2>(4088);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn a_group_beyond_the_end_is_refused() {
        let _ = SharedPages::host(1, 0).group::<8>(64);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn an_offset_beyond_the_end_is_refused() {
        let _ = SharedPages::host(1, 0).u32_at(4096);
    }
}
