//! Where the segments of requests are kept that have more than one, so that the slots can stay small: room
//! for a fixed number of segments, set up with the ring.

use alloc::boxed::Box;
use core::num::NonZeroU16;

use spindle_block::Segment;

use crate::abi::{MAX_INDIRECT_SEGMENTS, MAX_SEGMENTS};
use crate::room::{NoRoom, filled};

/// Segments in a unit, of which a request gets as many as it needs, in one run.
const UNIT: usize = 4;

/// Units in a group, in which the whole run of a request is: as many as a word has bits.
const GROUP: usize = u64::BITS as usize;
const _: () = assert!(GROUP * UNIT >= MAX_INDIRECT_SEGMENTS);

/// Most groups of a ring.
const GROUPS: usize = 8;

/// Segments of large requests as Linux makes them by default.
const USUAL: usize = 32;

/// Segments that there is room for: for as many requests as the ring has of the usual size, or of the
/// largest without lists, up to 64 usual ones, which is 8 MiB under way.
const fn capacity(requests: usize, indirect: bool) -> usize {
    let each = if indirect { USUAL } else { MAX_SEGMENTS }.div_ceil(UNIT);
    let in_group = GROUP / each;
    let units = requests / in_group * GROUP + requests % in_group * each;
    let most = GROUPS * GROUP;
    UNIT * if units < GROUP {
        GROUP
    } else if units > most {
        most
    } else {
        units
    }
}

/// A run of units: the number of the first, and how many there are but one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run(NonZeroU16);

impl Run {
    const SHIFT: u32 = GROUP.ilog2();
    /// Set in all, so that none is zero.
    const MARK: u16 = 1 << 15;

    fn new(first: usize, units: usize) -> Self {
        let packed = (first as u16) << Self::SHIFT | (units - 1) as u16 | Self::MARK;
        Self(NonZeroU16::new(packed).unwrap_or(NonZeroU16::MIN))
    }

    #[inline]
    fn first(self) -> usize {
        usize::from((self.0.get() & !Self::MARK) >> Self::SHIFT)
    }

    #[inline]
    fn units(self) -> usize {
        usize::from(self.0.get()) % GROUP + 1
    }

    /// The group that it is in, and its units there.
    fn mask(self) -> (usize, u64) {
        let first = self.first();
        let units = u64::MAX >> (GROUP - self.units());
        (first / GROUP, units << (first % GROUP))
    }

    /// Its segments, of all.
    #[inline]
    fn range(self) -> core::ops::Range<usize> {
        let first = self.first() * UNIT;
        first..first + self.units() * UNIT
    }
}
const _: () = assert!((GROUPS * GROUP) << Run::SHIFT <= Run::MARK as usize);

/// Segments of large requests: what the frontend said of them, and the memory they came to.
#[derive(Debug)]
pub(super) struct Arena {
    words: Box<[u64]>,
    memory: Box<[Segment]>,
    /// A bit for each unit.
    free: [u64; GROUPS],
}

impl Arena {
    /// Room for the large requests of a ring of so many, which may be indirect or not.
    pub(super) fn new(requests: usize, indirect: bool) -> Result<Self, NoRoom> {
        let segments = capacity(requests, indirect);
        let units = segments / UNIT;
        Ok(Self {
            words: filled(0, segments)?,
            memory: filled(Segment::default(), segments)?,
            free: core::array::from_fn(|group| {
                let units = units.saturating_sub(group * GROUP).min(GROUP);
                u64::MAX.checked_shr((GROUP - units) as u32).unwrap_or(0)
            }),
        })
    }

    /// Bytes of that room.
    pub(super) const fn footprint(requests: usize, indirect: bool) -> usize {
        capacity(requests, indirect) * (size_of::<u64>() + size_of::<Segment>())
    }

    /// Room for `segments` segments, at least 1.
    pub(super) fn take(&mut self, segments: usize) -> Option<Run> {
        let units = segments.div_ceil(UNIT);
        if units == 0 || units > GROUP {
            return None;
        }
        for (group, free) in self.free.iter_mut().enumerate() {
            // Bits of which those above are set as well, as many as are needed.
            let (mut fits, mut known) = (*free, 1);
            while known < units && fits != 0 {
                let more = known.min(units - known);
                fits &= fits >> more;
                known += more;
            }
            if fits != 0 {
                let first = group * GROUP + fits.trailing_zeros() as usize;
                let run = Run::new(first, units);
                *free &= !run.mask().1;
                return Some(run);
            }
        }
        None
    }

    /// Takes a run back.
    pub(super) fn give(&mut self, run: Run) {
        let (group, units) = run.mask();
        if let Some(free) = self.free.get_mut(group) {
            debug_assert_eq!(*free & units, 0, "given back twice");
            *free |= units;
        }
    }

    /// What is in a run, both kinds.
    pub(super) fn parts(&self, run: Run) -> (&[u64], &[Segment]) {
        (&self.words[run.range()], &self.memory[run.range()])
    }

    /// As [`Arena::parts`].
    pub(super) fn parts_mut(&mut self, run: Run) -> (&mut [u64], &mut [Segment]) {
        (&mut self.words[run.range()], &mut self.memory[run.range()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn there_is_room_for_as_many_requests_as_the_ring_has_or_64_usual_ones() {
        for (requests, indirect, segments, count) in [
            (32, false, 11, 32),
            (32, false, 2, 97),
            (32, true, 32, 32),
            (32, true, 256, 4),
            (64, true, 32, 64),
            (512, true, 32, 64),
            (512, true, 256, 8),
            (512, true, 33, 56),
            (512, true, 4, 512),
            (512, false, 11, 168),
            (8, false, 11, 21),
        ] {
            let mut arena = Arena::new(requests, indirect).unwrap();
            let whole = arena.free;
            let runs: Vec<_> = core::iter::from_fn(|| arena.take(segments)).collect();
            assert_eq!(runs.len(), count, "{requests} {indirect} {segments}");
            runs.into_iter().for_each(|run| arena.give(run));
            assert_eq!(arena.free, whole);
        }
        assert_eq!(Arena::new(32, true).unwrap().take(GROUP * UNIT + 1), None);
        assert_eq!(Arena::new(32, true).unwrap().take(0), None);
    }

    proptest! {
        /// Runs in use never overlap, and have the room that was asked for.
        #[test]
        fn runs_are_apart(steps in prop::collection::vec((1usize..=256, any::<bool>()), 1..100)) {
            let mut arena = Arena::new(64, true).unwrap();
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
