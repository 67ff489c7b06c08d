//! A core's flight recorder: the last rare events, kept so that they can be read after a death as well.
//!
//! It has the last KiB of the page in which the core's vCPU notes the grants that it is mapping
//! ([`Mappings`](crate::Mappings)): a word that counts events, and places for four words each, of which the
//! second is never 0. A place whose second word is 0 is being written, or has never been.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use spindle_hw::{PAGE_SIZE, SharedPages};

use crate::layout::{CALLERS, CALLS, EVENT_BYTES};

/// Words of a recorder.
const WORDS: usize = EVENT_BYTES / size_of::<u64>();
/// Words of an event.
const EVENT: usize = 4;
/// Events that are kept: no more than a node of xenstore holds as text.
pub const KEPT_EVENTS: usize = 28;
const _: () = assert!(KEPT_EVENTS * EVENT < WORDS);

/// Where a core records events. It has one writer, and readers on any core.
#[derive(Clone, Copy, Debug)]
pub struct Recorder {
    words: Option<&'static [AtomicU64; WORDS]>,
}

impl Recorder {
    /// That of vCPU number `caller`, in these pages, whose life has begun
    /// ([`begin`](crate::layout::begin)).
    #[must_use]
    pub fn at(pages: &'static SharedPages, caller: usize) -> Self {
        let place = CALLS + caller * PAGE_SIZE + (PAGE_SIZE - EVENT_BYTES);
        let known = caller < CALLERS && place < pages.len();
        Self {
            words: known.then(|| pages.group(place / EVENT_BYTES)),
        }
    }

    /// One that forgets all.
    #[must_use]
    pub const fn nowhere() -> Self {
        Self { words: None }
    }

    /// Records an event, of which the second word is not 0.
    #[cold]
    pub fn note(&self, event: [u64; EVENT]) {
        let Some([count, places @ ..]) = self.words else {
            return;
        };
        let number = count.load(Relaxed);
        let (places, _) = places.as_chunks::<EVENT>();
        if let Some(place) = places.get((number % KEPT_EVENTS as u64) as usize) {
            let [at, what, first, second] = place;
            what.store(0, Release);
            for (word, value) in [(at, event[0]), (first, event[2]), (second, event[3])] {
                // Release: not before the place is empty.
                word.store(value, Release);
            }
            what.store(event[1], Release);
            count.store(number.wrapping_add(1), Release);
        }
    }

    /// How many events were recorded so far, also by former lives; they are others once this has changed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.map_or(0, |[count, ..]| count.load(Acquire))
    }

    /// The last events, the oldest first.
    pub fn events(&self) -> impl Iterator<Item = [u64; EVENT]> {
        let count = self.count();
        let places = self.words.map_or(&[][..], |[_, places @ ..]| places);
        let (places, _) = places.as_chunks::<EVENT>();
        (0..KEPT_EVENTS as u64).filter_map(move |n| {
            let place = places.get((count.wrapping_add(n) % KEPT_EVENTS as u64) as usize)?;
            let [at, what, first, second] = place;
            let kind = what.load(Acquire);
            let event = [
                at.load(Acquire),
                kind,
                first.load(Acquire),
                second.load(Acquire),
            ];
            (kind != 0 && what.load(Acquire) == kind).then_some(event)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;
    use crate::layout::{FIXED_PAGES, begin};
    use crate::{MOST_IN_CALL, Mappings};

    #[test]
    fn the_last_events_of_each_vcpu_outlive_a_death_and_the_mappings_beside_them() {
        let pages: &SharedPages = Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0)));
        assert_eq!(begin(pages, false), Ok(1));
        let event = |n: u64| [n, n << 32 | 1, !n, u64::MAX];
        let (one, last) = (Recorder::at(pages, 1), Recorder::at(pages, CALLERS - 1));
        assert_eq!((one.count(), one.events().count()), (0, 0));
        (0..50).for_each(|n| one.note(event(n)));
        last.note(event(99));
        let mappings = Mappings::new(pages);
        for caller in 0..CALLERS {
            assert!(mappings.begin(caller, (0..).take(MOST_IN_CALL)));
        }
        mappings.clear_calls();
        assert_eq!(begin(pages, true), Ok(2));
        let expected: Vec<_> = (50 - KEPT_EVENTS as u64..50).map(event).collect();
        assert_eq!(
            Recorder::at(pages, 1).events().collect::<Vec<_>>(),
            expected
        );
        assert_eq!(Recorder::at(pages, 1).count(), 50);
        assert!(last.events().eq([event(99)]));
        // One without a place forgets.
        for none in [Recorder::at(pages, CALLERS), Recorder::nowhere()] {
            none.note(event(1));
            assert_eq!((none.count(), none.events().count()), (0, 0));
        }
    }

    #[test]
    fn an_event_that_is_being_written_is_left_out() {
        let pages: &SharedPages = Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0)));
        let recorder = Recorder::at(pages, 0);
        recorder.note([1, 1, 0, 0]);
        recorder.note([2, 1, 0, 0]);
        let words = recorder.words.expect("a place");
        words[1 + 1].store(0, Relaxed);
        assert!(recorder.events().eq([[2, 1, 0, 0]]));
        // Whatever lies there.
        words.iter().for_each(|word| word.store(u64::MAX, Relaxed));
        assert_eq!(recorder.events().count(), KEPT_EVENTS);
        recorder.note([3, 1, 0, 0]);
    }
}
