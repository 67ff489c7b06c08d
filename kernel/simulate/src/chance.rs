//! All choices of a run, drawn from its seed.

use std::ops::Range;

/// The source of choices.
#[derive(Clone, Debug)]
pub struct Chance(fastrand::Rng);

impl Chance {
    /// The choices that this seed makes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A source of its own, so that what one part draws does not change what another does.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self::new(self.0.u64(..))
    }

    /// A number in `range`, which is not empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        self.0.u64(range)
    }

    /// An index below `count`, which is not 0.
    pub fn index(&mut self, count: usize) -> usize {
        self.0.usize(..count)
    }

    /// True once in `count` times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.0.u64(..count) == 0
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }

    /// A number from `range` such that each power of two in it is as likely as any other.
    pub fn scale(&mut self, range: Range<u64>) -> u64 {
        let (low, high) = (range.start.max(1).ilog2(), range.end.max(2).ilog2());
        let power = self.0.u32(low..=high);
        let number = 1 << power | self.0.u64(..1 << power);
        number.clamp(range.start, range.end - 1)
    }
}
