//! A disk's bytes behind a cache that forgets: what was written and not flushed is lost with the power.

use std::mem::take;
use std::ops::Range;

/// Writes that are remembered one by one; with more, all of the medium counts as written.
const MOST: usize = 4096;

/// The bytes of a disk.
#[derive(Debug, Default)]
pub(crate) struct Medium {
    cached: Vec<u8>,
    /// What is on the medium.
    stable: Vec<u8>,
    /// Where these may differ.
    dirty: Vec<Range<usize>>,
}

impl Medium {
    /// So many zeroes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            cached: vec![0; bytes],
            stable: vec![0; bytes],
            dirty: Vec::new(),
        }
    }

    /// What is there, cache included.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.cached
    }

    /// Bytes to be overwritten in the cache.
    pub(crate) fn write(&mut self, range: Range<usize>) -> &mut [u8] {
        if self.dirty.len() == MOST {
            self.dirty.clear();
            self.dirty.push(0..self.cached.len());
        }
        self.dirty.push(range.clone());
        &mut self.cached[range]
    }

    /// Puts a range on the medium.
    pub(crate) fn put_through(&mut self, range: Range<usize>) {
        self.stable[range.clone()].copy_from_slice(&self.cached[range]);
    }

    /// Puts all on the medium.
    pub(crate) fn flush(&mut self) {
        for range in take(&mut self.dirty) {
            self.put_through(range);
        }
    }

    /// What is not on the medium is lost.
    pub(crate) fn power_cut(&mut self) {
        for range in take(&mut self.dirty) {
            self.cached[range.clone()].copy_from_slice(&self.stable[range]);
        }
    }

    /// Puts `bytes` on the medium, from the first on.
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        for place in [&mut self.cached, &mut self.stable] {
            place[..bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Cuts it off, or adds zeroes.
    pub(crate) fn resize(&mut self, bytes: usize) {
        self.cached.resize(bytes, 0);
        self.stable.resize(bytes, 0);
        for range in &mut self.dirty {
            *range = range.start.min(bytes)..range.end.min(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_flushed_is_lost_and_nothing_else() {
        let mut medium = Medium::new(100);
        medium.write(10..20).fill(1);
        medium.flush();
        medium.write(15..25).fill(2);
        medium.write(40..45).fill(3);
        medium.put_through(40..45);
        medium.write(42..43).fill(4);
        medium.power_cut();
        let mut expected = [0; 100];
        expected[10..20].fill(1);
        expected[40..45].fill(3);
        assert_eq!(medium.bytes(), expected);
        // More than are remembered.
        for at in 0..2 * MOST {
            medium.write(at % 100..at % 100 + 1).fill(7);
        }
        medium.resize(90);
        medium.power_cut();
        assert_eq!(medium.bytes(), &expected[..90]);
        medium.write(0..90).fill(8);
        medium.flush();
        medium.power_cut();
        assert_eq!(medium.bytes(), [8; 90]);
    }
}
