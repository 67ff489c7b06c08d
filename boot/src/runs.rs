//! Runs of pages handed out from a bitmap: the rule behind a frame allocator and behind windows
//! of unpopulated guest frames.

/// Hands out contiguous runs of pages within one span. Page numbers are absolute.
///
/// The search goes on where the last one ended and wraps around, so that freed pages rest for a
/// while before they are used again.
#[derive(Debug)]
pub struct RunAllocator<'a> {
    first: u64,
    pages: usize,
    /// One bit a page: set means taken.
    taken: &'a mut [u64],
    free: usize,
    next: usize,
    /// Where the search for a last run begins.
    last: usize,
}

impl<'a> RunAllocator<'a> {
    /// Words of bitmap that a span of `pages` pages needs.
    #[must_use]
    pub const fn words(pages: usize) -> usize {
        pages.div_ceil(64)
    }

    /// An allocator for `pages` pages from page number `first` on, of which none is free yet; as
    /// many fewer as `bitmap` is too short for.
    #[must_use]
    pub fn new(first: u64, pages: usize, bitmap: &'a mut [u64]) -> Self {
        bitmap.fill(u64::MAX);
        Self {
            first,
            pages: pages.min(bitmap.len().saturating_mul(64)),
            taken: bitmap,
            free: 0,
            next: 0,
            last: usize::MAX,
        }
    }

    /// Pages that are free now.
    #[must_use]
    pub const fn free_pages(&self) -> usize {
        self.free
    }

    /// Takes a run of `count` pages whose number is a multiple of `align` (a power of two).
    #[must_use]
    pub fn allocate(&mut self, count: usize, align: usize) -> Option<u64> {
        if count == 0 || count > self.free || !align.is_power_of_two() {
            return None;
        }
        let start = self
            .search(self.next, self.pages, count, align)
            .or_else(|| self.search(0, self.pages.min(self.next + count), count, align))?;
        self.set_taken(start, count);
        self.next = start + count;
        Some(self.first + start as u64)
    }

    /// Takes a run of `count` pages as near to the end of the span as there is one: away from what
    /// [`RunAllocator::allocate`] hands out first.
    #[must_use]
    pub fn allocate_last(&mut self, count: usize) -> Option<u64> {
        if count == 0 || count > self.free {
            return None;
        }
        let start = self
            .search_back(self.last.min(self.pages), count)
            .or_else(|| self.search_back(self.pages, count))?;
        self.set_taken(start, count);
        self.last = start;
        Some(self.first + start as u64)
    }

    /// Takes this run of pages. False, with nothing changed, if any page of it is not free.
    pub fn take(&mut self, first: u64, count: usize) -> bool {
        let Some(start) = self.place(first, count) else {
            return false;
        };
        if (start..start + count).any(|i| self.is_taken(i)) {
            return false;
        }
        self.set_taken(start, count);
        true
    }

    /// Gives a run back, or adds it for the first time. False, with nothing changed, if any page
    /// of it is free already or outside the span.
    #[must_use]
    pub fn release(&mut self, first: u64, count: usize) -> bool {
        let Some(start) = self.place(first, count) else {
            return false;
        };
        let end = start + count;
        if !(start..end).all(|i| self.is_taken(i)) {
            return false;
        }
        (start..end).for_each(|i| self.taken[i / 64] &= !(1 << (i % 64)));
        self.free += count;
        true
    }

    /// The index of a run's first page; `None` if not all of it is in the span.
    fn place(&self, first: u64, count: usize) -> Option<usize> {
        let start = usize::try_from(first.checked_sub(self.first)?).ok()?;
        let end = start.checked_add(count)?;
        (end <= self.pages).then_some(start)
    }

    fn set_taken(&mut self, start: usize, count: usize) {
        (start..start + count).for_each(|i| self.taken[i / 64] |= 1 << (i % 64));
        self.free -= count;
    }

    fn is_taken(&self, index: usize) -> bool {
        self.taken[index / 64] >> (index % 64) & 1 != 0
    }

    fn search(&self, from: usize, to: usize, count: usize, align: usize) -> Option<usize> {
        let mut start = self.align_up(from, align)?;
        while start.checked_add(count)? <= to {
            // The last taken page decides: no run can start at or before it.
            let Some(taken) = (start..start + count).rev().find(|i| self.is_taken(*i)) else {
                return Some(start);
            };
            let mut after = taken + 1;
            while after % 64 == 0 && self.taken.get(after / 64) == Some(&u64::MAX) {
                after += 64;
            }
            start = self.align_up(after, align)?;
        }
        None
    }

    /// The last free run that ends at `end` or before.
    fn search_back(&self, mut end: usize, count: usize) -> Option<usize> {
        loop {
            let start = end.checked_sub(count)?;
            // The first taken page decides: no run can end after it.
            match (start..end).find(|i| self.is_taken(*i)) {
                Some(taken) => end = taken,
                None => return Some(start),
            }
        }
    }

    /// The next index from `index` on whose page number is aligned.
    fn align_up(&self, index: usize, align: usize) -> Option<usize> {
        let page = self.first.checked_add(index as u64)?;
        let aligned = page.checked_next_multiple_of(align as u64)?;
        usize::try_from(aligned - self.first).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_are_contiguous_aligned_and_inside() {
        let mut bitmap = [0; 4];
        let mut a = RunAllocator::new(5, 200, &mut bitmap);
        assert_eq!(a.allocate(1, 1), None);
        assert!(a.release(5, 200));
        assert_eq!(a.allocate(64, 64), Some(64));
        assert_eq!(a.allocate(100, 1), None);
        assert_eq!(a.allocate(77, 1), Some(128));
        assert_eq!(a.allocate(59, 1), Some(5));
        assert_eq!(a.free_pages(), 0);
    }

    #[test]
    fn what_was_not_handed_out_cannot_be_given_back() {
        let mut bitmap = [0; 1];
        let mut a = RunAllocator::new(0, 10, &mut bitmap);
        assert!(a.release(0, 5));
        assert!(!a.release(4, 2));
        assert!(!a.release(5, 6));
        assert!(!a.release(u64::MAX, 2));
        assert_eq!(a.free_pages(), 5);
    }

    #[test]
    fn a_page_that_was_taken_is_not_handed_out() {
        let mut bitmap = [0; 1];
        let mut a = RunAllocator::new(3, 10, &mut bitmap);
        assert!(a.release(3, 4));
        assert!(a.take(4, 1));
        for page in [2, 4, 7, 13, u64::MAX] {
            assert!(!a.take(page, 1), "page {page}");
        }
        assert!(!a.take(3, 2) && !a.take(5, 3) && !a.take(5, usize::MAX));
        assert_eq!(a.free_pages(), 3);
        assert_eq!(a.allocate(2, 1), Some(5));
        assert_eq!(a.allocate(2, 1), None);
        assert!(a.release(4, 1));
    }

    #[test]
    fn freed_pages_rest_while_others_are_left() {
        let mut bitmap = [0; 1];
        let mut a = RunAllocator::new(0, 8, &mut bitmap);
        assert!(a.release(0, 8));
        assert_eq!(a.allocate(2, 1), Some(0));
        assert!(a.release(0, 2));
        assert_eq!(a.allocate(2, 1), Some(2));
    }

    #[test]
    fn runs_from_the_end_leave_the_beginning_alone() {
        let mut bitmap = [0; 1];
        let mut a = RunAllocator::new(10, 20, &mut bitmap);
        assert_eq!(a.allocate_last(1), None);
        assert!(a.release(10, 20));
        assert!(a.take(25, 2));
        assert_eq!(a.allocate_last(3), Some(27));
        assert_eq!(a.allocate_last(3), Some(22));
        assert_eq!(a.allocate(4, 1), Some(10));
        assert!(a.release(27, 3));
        assert_eq!(a.allocate_last(8), Some(14));
        assert_eq!(a.allocate_last(4), None);
        assert_eq!(a.allocate_last(3), Some(27));
        assert_eq!(a.free_pages(), 0);
    }

    proptest! {
        #[test]
        fn no_page_is_handed_out_twice_and_none_is_lost(
            first in 0u64..100,
            steps in prop::collection::vec((1usize..40, 0u32..5, any::<bool>()), 0..200),
        ) {
            const PAGES: usize = 300;
            let mut bitmap = [0; 5];
            let mut a = RunAllocator::new(first, PAGES, &mut bitmap);
            prop_assert!(a.release(first, PAGES));
            let mut held: Vec<(u64, usize)> = vec![];
            for (count, shift, give_back) in steps {
                // One in five from the end.
                let (shift, last) = (shift % 4, shift == 4);
                let found = |a: &mut RunAllocator<'_>| match last {
                    true => a.allocate_last(count),
                    false => a.allocate(count, 1 << shift),
                };
                if give_back && !held.is_empty() {
                    let (start, count) = held.swap_remove(count % held.len());
                    prop_assert!(a.release(start, count));
                } else if let Some(start) = found(&mut a) {
                    prop_assert!(start % (1 << shift) == 0);
                    prop_assert!(start >= first && start + count as u64 <= first + PAGES as u64);
                    for (s, c) in &held {
                        prop_assert!(start + count as u64 <= *s || *s + *c as u64 <= start);
                    }
                    held.push((start, count));
                } else {
                    // A refusal is right only if there really is no such run.
                    let free = |p: u64| held.iter().all(|(s, c)| p < *s || p >= s + *c as u64);
                    let fits = (first..=first + (PAGES - count) as u64)
                        .filter(|s| s % (1 << shift) == 0)
                        .any(|s| (s..s + count as u64).all(free));
                    prop_assert!(!fits);
                }
                let used: usize = held.iter().map(|(_, c)| c).sum();
                prop_assert_eq!(a.free_pages(), PAGES - used);
            }
        }
    }
}
