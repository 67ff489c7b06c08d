//! A bounded set of address ranges: which memory is RAM, and which of it is still free.

use core::ops::Range;

use heapless::Vec;

/// How many disjoint ranges a [`Regions`] can hold.
pub const REGIONS_MAX: usize = 64;

/// A set of addresses, kept as sorted, disjoint, non-adjacent, non-empty ranges.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    list: Vec<Range<u64>, REGIONS_MAX>,
}

impl Regions {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// The ranges, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.list.iter().cloned()
    }

    /// Sum of the ranges' sizes in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|r| r.end - r.start).sum()
    }

    /// The end of the highest range; 0 if there is none.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.list.last().map_or(0, |r| r.end)
    }

    /// The largest range.
    #[must_use]
    pub fn largest(&self) -> Option<Range<u64>> {
        self.iter().max_by_key(|r| r.end - r.start)
    }

    /// Whether all of `range` is in the set. The empty range is not.
    #[must_use]
    pub fn contains(&self, range: &Range<u64>) -> bool {
        !range.is_empty()
            && self
                .iter()
                .any(|r| r.start <= range.start && range.end <= r.end)
    }

    /// Adds a range. When there is no room for one more, the smallest range is left out: memory
    /// that is not used does no harm.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut merged = range;
        self.list.retain(|r| {
            let touches = r.start <= merged.end && merged.start <= r.end;
            if touches {
                merged = r.start.min(merged.start)..r.end.max(merged.end);
            }
            !touches
        });
        if self.list.is_full() {
            let smallest = self
                .list
                .iter()
                .enumerate()
                .min_by_key(|(_, r)| r.end - r.start);
            let Some((index, size)) = smallest.map(|(i, r)| (i, r.end - r.start)) else {
                return;
            };
            if size >= merged.end - merged.start {
                return;
            }
            self.list.remove(index);
        }
        let at = self.list.partition_point(|r| r.start < merged.start);
        // There is room: made above if there was none.
        let _ = self.list.insert(at, merged);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut split = None;
        for r in &mut self.list {
            if range.start <= r.start && r.end <= range.end {
                r.end = r.start;
            } else if r.start < range.start && range.end < r.end {
                split = Some(range.end..r.end);
                r.end = range.start;
            } else if r.start < range.start && range.start < r.end {
                r.end = range.start;
            } else if range.end > r.start && range.end < r.end {
                r.start = range.end;
            }
        }
        self.list.retain(|r| !r.is_empty());
        if let Some(upper) = split {
            self.insert(upper);
        }
    }

    /// The same set with every range shrunk to multiples of `align` (a power of two).
    #[must_use]
    pub fn aligned(&self, align: u64) -> Self {
        let mut out = Self::new();
        for r in self.iter() {
            let Some(start) = r.start.checked_next_multiple_of(align) else {
                continue;
            };
            let end = r.end & !(align - 1);
            if start < end {
                out.insert(start..end);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn regions(list: &[Range<u64>]) -> Regions {
        let mut r = Regions::new();
        list.iter().cloned().for_each(|x| r.insert(x));
        r
    }

    #[test]
    fn a_full_set_keeps_the_largest_ranges() {
        let mut r = Regions::new();
        for i in 0..REGIONS_MAX as u64 {
            r.insert(i * 100..i * 100 + 10);
        }
        r.insert(100_000..100_005);
        assert!(!r.contains(&(100_000..100_001)));
        r.insert(100_000..100_020);
        assert!(r.contains(&(100_000..100_020)));
        assert_eq!(r.iter().count(), REGIONS_MAX);
    }

    #[test]
    fn aligning_shrinks_and_never_overflows() {
        let r = regions(&[1..4096, 5000..20_000, u64::MAX - 4000..u64::MAX]).aligned(4096);
        assert_eq!(r.iter().next(), Some(8192..16_384));
        assert_eq!(r.iter().count(), 1);
        let mut all = Regions::new();
        all.insert(0..u64::MAX);
        assert_eq!(all.aligned(4096).total(), u64::MAX - 4095);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_numbers(
            steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..64), 0..40),
        ) {
            let mut r = Regions::new();
            let mut model = [false; 128];
            for (add, start, len) in steps {
                let range = start..start + len;
                if add { r.insert(range.clone()) } else { r.remove(&range) }
                for i in range { model[i as usize] = add; }
            }
            for i in 0..128u64 {
                prop_assert_eq!(r.contains(&(i..i + 1)), model[i as usize]);
            }
            let list: std::vec::Vec<_> = r.iter().collect();
            prop_assert!(list.windows(2).all(|w| w[0].end < w[1].start));
            prop_assert_eq!(r.total(), model.iter().filter(|x| **x).count() as u64);
        }

        #[test]
        fn any_ranges_are_taken_without_a_panic(
            steps in prop::collection::vec((any::<bool>(), any::<u64>(), any::<u64>()), 0..200),
        ) {
            let mut r = Regions::new();
            for (add, start, end) in steps {
                if add { r.insert(start..end) } else { r.remove(&(start..end)) }
            }
            let _ = (r.total(), r.aligned(4096).total());
        }
    }
}
