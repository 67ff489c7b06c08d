//! Counters with one writer, a core, and readers on other cores that never disturb it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer, so that no read-modify-write is needed.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Adds `n`; only for the one writer.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away, below zero if need be; only for the one writer.
    #[inline]
    pub fn take(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    /// Raises the value to at least `n`; only for the one writer.
    #[inline]
    pub fn raise(&self, n: u64) {
        if n > self.0.load(Relaxed) {
            self.0.store(n, Relaxed);
        }
    }
}

impl From<u64> for Counter {
    fn from(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
}

/// Counts of values by powers of two: place 0 counts zeroes, place `i` the values from
/// `2^(i - 1)` up to `2^i`, the last place everything beyond.
#[derive(Debug)]
pub struct Histogram<const N: usize>([Counter; N]);

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self(core::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> From<Counts<N>> for Histogram<N> {
    fn from(counts: Counts<N>) -> Self {
        Self(counts.0.map(Counter::from))
    }
}

impl<const N: usize> Histogram<N> {
    /// Reads all places, one after the other.
    #[must_use]
    pub fn get(&self) -> Counts<N> {
        Counts(self.0.each_ref().map(Counter::get))
    }

    /// Counts one value; only for the one writer.
    #[inline]
    pub fn count(&self, value: u64) {
        self.count_many(value, 1);
    }

    /// Counts a value so many times; only for the one writer.
    #[inline]
    pub fn count_many(&self, value: u64, times: u64) {
        if let Some(counter) = self.place(value) {
            counter.add(times);
        }
    }

    /// Counts a value that was counted as `from` as `to` instead; only for the one writer. Of values that
    /// were counted elsewhere, this is by how much the one histogram differs from the other.
    pub fn shift(&self, from: u64, to: u64) {
        if let (Some(from), Some(to)) = (self.place(from), self.place(to)) {
            from.take(1);
            to.add(1);
        }
    }

    #[inline]
    fn place(&self, value: u64) -> Option<&Counter> {
        // As many bits as the value has, reckoned without a special case for 0.
        let value = value.min(1 << (N - 2)) as u32;
        let place = (value << 1 | 1).ilog2() as usize;
        self.0.get(place)
    }
}

/// What a [`Histogram`] held at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts<const N: usize>(pub [u64; N]);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Counts<N> {
    /// Adds what another histogram held, or by how much it differed from this one.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.0.iter_mut().zip(other.0) {
            *to = to.wrapping_add(from);
        }
    }

    /// [`bound`] of these places.
    #[must_use]
    pub fn bound(&self, share: f64) -> Option<u64> {
        bound(&self.0, share)
    }
}

/// A value that this share of all values of a histogram is below, from 0 to 1; `None` without any,
/// `u64::MAX` where the last place is needed, which has no upper bound.
#[must_use]
pub fn bound(places: &[u64], share: f64) -> Option<u64> {
    let total = total(places);
    // The least whole number that is not below it, without the library's `ceil`.
    let exact = total as f64 * share;
    let wanted = exact as u64;
    let wanted = wanted.saturating_add(u64::from((wanted as f64) < exact));
    let mut seen = 0u64;
    let place = places.iter().position(|count| {
        seen = seen.saturating_add(*count);
        seen >= wanted
    });
    let place = place.filter(|_| total > 0);
    place.map(|place| end(place, places.len()))
}

/// How many values a histogram has counted.
#[must_use]
pub fn total(places: &[u64]) -> u64 {
    places.iter().fold(0, |sum, n| sum.saturating_add(*n))
}

/// The value that all values of a place of so many are below; `u64::MAX` for the last.
#[must_use]
pub const fn end(place: usize, places: usize) -> u64 {
    if place + 1 < places {
        1 << place
    } else {
        u64::MAX
    }
}

/// One counter or all places of a histogram, as numbers.
pub trait Places {
    /// How many there are.
    const COUNT: usize;
    /// The numbers.
    fn places(&self) -> &[u64];
    /// The numbers, to be changed.
    fn places_mut(&mut self) -> &mut [u64];
}

impl Places for u64 {
    const COUNT: usize = 1;
    fn places(&self) -> &[u64] {
        core::slice::from_ref(self)
    }
    fn places_mut(&mut self) -> &mut [u64] {
        core::slice::from_mut(self)
    }
}

impl<const N: usize> Places for Counts<N> {
    const COUNT: usize = N;
    fn places(&self) -> &[u64] {
        &self.0
    }
    fn places_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }
}

/// What a core counts in: a counter or a histogram.
pub trait Tally: From<Self::Value> {
    /// What it held at one moment.
    type Value: Copy + Default + Places;
    /// Reads it.
    fn read(&self) -> Self::Value;
}

impl Tally for Counter {
    type Value = u64;
    fn read(&self) -> u64 {
        self.get()
    }
}

impl<const N: usize> Tally for Histogram<N> {
    type Value = Counts<N>;
    fn read(&self) -> Counts<N> {
        self.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn values_are_counted_by_powers_of_two_and_none_is_lost() {
        let histogram = Histogram::<5>::default();
        for value in [0, 1, 2, 3, 4, 7, 8, 1000, u64::MAX] {
            histogram.count(value);
        }
        assert_eq!(histogram.get(), Counts([1, 1, 2, 2, 3]));
        assert_eq!(histogram.get().to_string(), "0:1,1:1,2:2,4:2,8:3");
        assert_eq!(Counts::<5>::default().to_string(), "-");
        assert_eq!(total(&histogram.get().0), 9);
        let ends: [u64; 5] = core::array::from_fn(|place| end(place, 5));
        assert_eq!(ends, [1, 2, 4, 8, u64::MAX]);
    }

    #[test]
    fn a_histogram_may_differ_from_another_by_values_that_were_shifted() {
        let (all, other) = (Histogram::<5>::default(), Histogram::<5>::default());
        all.count_many(5, 3);
        other.shift(5, 1);
        other.shift(5, 0);
        let mut sum = all.get();
        sum.add(&other.get());
        assert_eq!(sum, Counts([1, 1, 0, 1, 0]));
    }

    #[test]
    fn a_share_of_the_values_is_below_the_end_of_its_place() {
        let counts = Counts([50, 0, 49, 1, 0]);
        let bounds = [0.0, 0.5, 0.501, 0.99, 1.0].map(|share| counts.bound(share));
        assert_eq!(bounds, [1, 1, 4, 4, 8].map(Some));
        assert_eq!(Counts::<5>::default().bound(0.5), None);
        assert_eq!(Counts([0, 1]).bound(0.5), Some(u64::MAX));
    }

    #[test]
    fn a_peak_never_falls() {
        let peak = Counter::default();
        peak.raise(7);
        peak.raise(3);
        assert_eq!(peak.get(), 7);
    }
}
