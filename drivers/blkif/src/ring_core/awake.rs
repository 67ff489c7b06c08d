//! Which rings of a core are awake: those that a visit walks over. The others cost it nothing.
//!
//! A ring is awake from its attachment on, and falls asleep when it has had nothing to do for
//! [`ASLEEP_NS`]. An event that its frontend sends is not looked for while the core polls. Instead the
//! rings that are asleep are looked at in rotation, so many in a visit that each is looked at
//! within [`FOUND_NS`] or, if visits are further apart, in every one. That finds it whether the
//! frontend sends an event or not. Before a core rests it looks at all of them
//! ([`super::RingCore::listen`]), and in the first visit after that, since an event may have come
//! for any.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::scheduler::LINGER_NS;

/// After so long a time a ring that is still falls asleep: as soon as it counts as no rival of the
/// others any longer, so that the scheduler has nothing to count of those that are asleep.
pub(super) const ASLEEP_NS: u64 = LINGER_NS;

/// log2 of [`FOUND_NS`].
const FOUND_SHIFT: u32 = 17;

/// What comes for a ring that is asleep is found within this time and a visit. It is short beside what
/// its guest has been silent for, and long enough that looking at 256 rings takes less than a
/// twentieth of a core.
pub(super) const FOUND_NS: u64 = 1 << FOUND_SHIFT;

/// The rings of a core by their places, and the walk over those that are awake.
#[derive(Debug)]
pub(super) struct Awake {
    /// In the order of their turns.
    list: Vec<u16>,
    /// Whether the ring in each place is in the list.
    is: Box<[bool]>,
    /// The place that was looked at last.
    hand: usize,
    /// When that was.
    looked_ns: u64,
    /// How many rings there are.
    rings: usize,
    /// The next look is at all of them.
    all: bool,
}

impl Awake {
    /// For so many places.
    pub(super) fn new(places: usize) -> Self {
        Self {
            list: Vec::with_capacity(places),
            is: vec![false; places].into(),
            hand: 0,
            looked_ns: 0,
            rings: 0,
            all: false,
        }
    }

    /// A ring has come to a place.
    pub(super) fn enter(&mut self, place: u16) {
        self.rings += 1;
        self.wake(place);
    }

    /// It has left it.
    pub(super) fn leave(&mut self, place: u16) {
        self.rings -= 1;
        self.fall_asleep(place);
    }

    /// It is to be walked over.
    pub(super) fn wake(&mut self, place: u16) {
        if let Some(is @ false) = self.is.get_mut(usize::from(place)) {
            *is = true;
            self.list.push(place);
        }
    }

    /// It falls asleep.
    pub(super) fn fall_asleep(&mut self, place: u16) {
        self.list.retain(|&other| other != place);
        if let Some(is) = self.is.get_mut(usize::from(place)) {
            *is = false;
        }
    }

    /// Those that are awake, in the order of their turns.
    #[inline]
    pub(super) fn places(&self) -> &[u16] {
        &self.list
    }

    /// How many are awake.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Has the next walk begin with another ring.
    #[inline]
    pub(super) fn turn(&mut self) {
        if self.list.len() > 1 {
            self.list.rotate_left(1);
        }
    }

    /// The next look is at all that are asleep.
    pub(super) fn look_at_all(&mut self) {
        self.all = true;
    }

    /// How many places below `used` to look at now.
    #[inline]
    pub(super) fn looks(&mut self, now_ns: u64, used: usize) -> usize {
        if self.list.len() == self.rings {
            return 0;
        }
        let elapsed_ns = now_ns.saturating_sub(self.looked_ns).min(FOUND_NS);
        let looks = ((elapsed_ns * used as u64) >> FOUND_SHIFT) as usize;
        if looks == 0 && !self.all {
            return 0;
        }
        self.looked_ns = now_ns;
        if core::mem::take(&mut self.all) {
            return used;
        }
        // One more, for what is rounded down: the sum over visits is no less than it should be.
        used.min(looks + 1)
    }

    /// The next place below `used` to look at; none if the ring there is awake.
    #[inline]
    pub(super) fn next(&mut self, used: usize) -> Option<usize> {
        let next = self.hand + 1;
        self.hand = if next < used { next } else { 0 };
        (!self.is[self.hand]).then_some(self.hand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many rings, all asleep but those named.
    fn asleep(rings: u16, awake: &[u16]) -> Awake {
        let mut all = Awake::new(rings.into());
        (0..rings).for_each(|place| all.enter(place));
        (0..rings).for_each(|place| all.fall_asleep(place));
        awake.iter().for_each(|&place| all.wake(place));
        all
    }

    #[test]
    fn every_ring_that_is_asleep_is_looked_at_within_the_time_whatever_the_visits_take() {
        for (rings, step) in [
            (1, 50),
            (8, 100),
            (256, 100),
            (256, 3000),
            (255, 77),
            (32, FOUND_NS),
        ] {
            let mut awake = asleep(rings, &[0]);
            let used = usize::from(rings);
            let mut seen = vec![None; used];
            let mut now = 0;
            for _ in 0..10 * FOUND_NS / step {
                now += step;
                for _ in 0..awake.looks(now, used) {
                    if let Some(place) = awake.next(used) {
                        let last = seen[place].replace(now).unwrap_or(0);
                        let most = FOUND_NS + FOUND_NS / u64::from(rings) + 2 * step;
                        assert!(now - last <= most, "{rings} {step} {place}");
                    }
                }
            }
            assert_eq!(seen[0], None, "it is awake");
            assert!(seen[1..].iter().all(Option::is_some));
        }
    }

    #[test]
    fn few_are_looked_at_in_a_short_visit_and_none_where_all_are_awake() {
        let mut awake = asleep(256, &[]);
        assert_eq!(
            [150, 300, 600, 700].map(|now| awake.looks(now, 256)),
            [0, 0, 2, 0]
        );
        assert_eq!(awake.looks(u64::MAX / 2, 256), 256);
        awake.look_at_all();
        let now = u64::MAX / 2 + 1;
        assert_eq!((awake.looks(now, 256), awake.looks(now, 256)), (256, 0));
        assert_eq!(asleep(2, &[1, 0]).looks(FOUND_NS, 2), 0);
    }

    #[test]
    fn each_walk_begins_with_another_ring_and_none_is_left_out() {
        let mut awake = asleep(5, &[4, 1, 3]);
        for walk in [[4, 1, 3], [1, 3, 4], [3, 4, 1], [4, 1, 3]] {
            assert_eq!(awake.places(), walk);
            awake.turn();
        }
        awake.leave(1);
        awake.wake(4);
        assert_eq!(awake.places(), [3, 4]);
        awake.fall_asleep(4);
        assert_eq!((awake.places(), awake.len()), (&[3][..], 1));
    }
}
