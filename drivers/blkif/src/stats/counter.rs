//! Counters with one writer, a core, and readers on other cores that never disturb it.

use core::fmt;
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
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Raises the value to at least `n`; only for the one writer.
    #[inline]
    pub(crate) fn raise(&self, n: u64) {
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
    pub(crate) fn count(&self, value: u64) {
        // As many bits as the value has, reckoned without a special case for 0.
        let value = value.min(1 << (N - 2)) as u32;
        let place = (value << 1 | 1).ilog2() as usize;
        if let Some(counter) = self.0.get(place) {
            counter.add(1);
        }
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
    /// Adds what another histogram of the same kind held.
    pub fn add(&mut self, other: &Self) {
        for (sum, n) in self.0.iter_mut().zip(other.0) {
            *sum = sum.wrapping_add(n);
        }
    }
}

/// `lowest value of the place:count`, with commas, without the empty places; `-` if all are.
impl<const N: usize> fmt::Display for Counts<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (place, &count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let lowest = (1u64 << place) >> 1;
            write!(f, "{before}{lowest}:{count}")?;
            before = ",";
        }
        f.write_str(if before.is_empty() { "-" } else { "" })
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
    }

    #[test]
    fn a_peak_never_falls() {
        let peak = Counter::default();
        peak.raise(7);
        peak.raise(3);
        assert_eq!(peak.get(), 7);
    }
}
