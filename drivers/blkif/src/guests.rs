//! The guests of a core, and its groups of devices. Where rings share something, those of one guest or
//! group count as one.

use alloc::boxed::Box;
use alloc::vec;

/// Which guests, or guests and groups, have rings on the core, each at a place of its own.
#[derive(Debug)]
pub(crate) struct Guests<K> {
    /// Whose the place is, and how many rings it has.
    places: Box<[Option<(K, u32)>]>,
}

impl<K: Copy + Eq> Guests<K> {
    /// For at most so many.
    pub(crate) fn new(places: usize) -> Self {
        Self {
            places: vec![None; places].into(),
        }
    }

    /// A ring of `who` has come: gives the guest's place, if there is one.
    pub(crate) fn enter(&mut self, who: K) -> Option<u16> {
        let known = |place: &Option<(K, u32)>| place.is_some_and(|(other, _)| other == who);
        let at = self.places.iter().position(known);
        let at = at.or_else(|| self.places.iter().position(Option::is_none))?;
        let (_, rings) = self.places.get_mut(at)?.get_or_insert((who, 0));
        *rings = rings.saturating_add(1);
        u16::try_from(at).ok()
    }

    /// A ring of the guest at this place has left: true if it was the last.
    pub(crate) fn leave(&mut self, at: u16) -> bool {
        let Some(place) = self.places.get_mut(usize::from(at)) else {
            return false;
        };
        if let Some((_, rings)) = place
            && *rings > 1
        {
            *rings -= 1;
            return false;
        }
        place.take().is_some()
    }

    /// Places from here on are empty.
    pub(crate) fn used(&self) -> usize {
        let last = self.places.iter().rposition(Option::is_some);
        last.map_or(0, |last| last + 1)
    }
}

#[cfg(test)]
mod tests {
    use spindle_xen::DomId;

    use super::*;

    #[test]
    fn a_guest_has_one_place_as_long_as_it_has_a_ring() {
        let mut guests = Guests::new(3);
        let (a, b, c) = (DomId(1), DomId(2), DomId(3));
        assert_eq!(guests.enter(a), Some(0));
        assert_eq!((guests.enter(b), guests.enter(a)), (Some(1), Some(0)));
        assert!(!guests.leave(0));
        assert_eq!((guests.enter(c), guests.used()), (Some(2), 3));
        assert!(guests.leave(0));
        assert_eq!(guests.enter(DomId(4)), Some(0));
        assert_eq!(guests.enter(DomId(5)), None);
        assert!(guests.leave(2) && guests.leave(1));
        assert_eq!(guests.used(), 1);
        assert!(guests.leave(0) && !guests.leave(0));
        assert_eq!(guests.used(), 0);
    }
}
