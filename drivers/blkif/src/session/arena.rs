//! Where the segments of large requests are kept (`BLKIF_OP_INDIRECT`), so that the slots can stay
//! small: room for a fixed number of segments, set up with the ring.

use alloc::boxed::Box;

use spindle_block::Segment;

use crate::room::{NoRoom, filled};

/// Segments in a unit, of which a request gets as many as it needs, in one run.
const UNIT: usize = 32;

/// Units of a ring: as many as a word has bits. That is 64 of the requests that Linux makes unless
/// told otherwise, or 8 of the largest.
const UNITS: usize = u64::BITS as usize;

/// A run of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    first: u8,
    units: u8,
}

impl Run {
    fn mask(self) -> u64 {
        (u64::MAX >> (UNITS - usize::from(self.units))) << self.first
    }
}

/// Segments of large requests: what the frontend said of them, and the memory they came to.
#[derive(Debug)]
pub(super) struct Arena {
    words: Box<[u64]>,
    memory: Box<[Segment]>,
    /// A bit for each unit.
    free: u64,
}

impl Arena {
    /// Room for large requests, or none at all.
    pub(super) fn new(any: bool) -> Result<Self, NoRoom> {
        let segments = if any { UNITS * UNIT } else { 0 };
        Ok(Self {
            words: filled(0, segments)?,
            memory: filled(Segment::default(), segments)?,
            free: if any { u64::MAX } else { 0 },
        })
    }

    /// Bytes of that room.
    pub(super) const fn footprint(any: bool) -> usize {
        let segments = if any { UNITS * UNIT } else { 0 };
        segments * (size_of::<u64>() + size_of::<Segment>())
    }

    /// Room for `segments` segments, at least 1.
    pub(super) fn take(&mut self, segments: usize) -> Option<Run> {
        let units = segments.div_ceil(UNIT);
        // Bits of which those above are set as well, as many as are needed.
        let mut fits = self.free;
        for _ in 1..units {
            fits &= fits >> 1;
        }
        if fits == 0 || units == 0 || units > UNITS {
            return None;
        }
        let first = fits.trailing_zeros() as u8;
        let units = units as u8;
        let run = Run { first, units };
        self.free &= !run.mask();
        Some(run)
    }

    /// Takes a run back.
    pub(super) fn give(&mut self, run: Run) {
        debug_assert_eq!(self.free & run.mask(), 0, "given back twice");
        self.free |= run.mask();
    }

    /// What is in a run, both kinds.
    pub(super) fn parts(&self, run: Run) -> (&[u64], &[Segment]) {
        let first = usize::from(run.first) * UNIT;
        let range = first..first + usize::from(run.units) * UNIT;
        (&self.words[range.clone()], &self.memory[range])
    }

    /// As [`Arena::parts`].
    pub(super) fn parts_mut(&mut self, run: Run) -> (&mut [u64], &mut [Segment]) {
        let first = usize::from(run.first) * UNIT;
        let range = first..first + usize::from(run.units) * UNIT;
        (&mut self.words[range.clone()], &mut self.memory[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn there_is_room_for_eight_of_the_largest_and_for_64_small_ones() {
        for (segments, count) in [(256, 8), (32, 64), (33, 32), (1, 64)] {
            let mut arena = Arena::new(true).unwrap();
            let runs: Vec<_> = core::iter::from_fn(|| arena.take(segments)).collect();
            assert_eq!(runs.len(), count);
            runs.into_iter().for_each(|run| arena.give(run));
            assert_eq!(arena.free, u64::MAX);
        }
        assert_eq!(Arena::new(false).unwrap().take(1), None);
        assert_eq!(Arena::new(true).unwrap().take(UNITS * UNIT + 1), None);
    }

    proptest! {
        /// Runs in use never overlap, and have the room that was asked for.
        #[test]
        fn runs_are_apart(steps in prop::collection::vec((1usize..=256, any::<bool>()), 1..100)) {
            let mut arena = Arena::new(true).unwrap();
            let mut held: Vec<(Run, u64)> = Vec::new();
            for (number, (segments, give)) in steps.into_iter().enumerate() {
                let number = number as u64;
                if give && !held.is_empty() {
                    let (run, number) = held.swap_remove(segments % held.len());
                    prop_assert!(arena.parts(run).0.iter().all(|&word| word == number));
                    arena.give(run);
                } else if let Some(run) = arena.take(segments) {
                    let (words, memory) = arena.parts_mut(run);
                    prop_assert!(words.len() >= segments && memory.len() == words.len());
                    words.fill(number);
                    held.push((run, number));
                }
            }
            for (run, number) in held {
                prop_assert!(arena.parts(run).0.iter().all(|&word| word == number));
            }
        }
    }
}
