//! Which pages of kept memory are journals: each ring's journal is a run of whole pages.

use alloc::vec::Vec;

use spindle_hw::SharedPages;

use crate::JournalPlace;
use crate::layout::journal_pages;

/// The pages for journals, and which of them are taken.
#[derive(Debug)]
pub struct JournalRooms {
    pages: u32,
    /// In order.
    taken: Vec<JournalPlace>,
}

impl JournalRooms {
    /// Those of `pages`, all of them free.
    #[must_use]
    pub fn new(pages: &SharedPages) -> Self {
        Self {
            pages: u32::try_from(journal_pages(pages)).unwrap_or(u32::MAX),
            taken: Vec::new(),
        }
    }

    /// Takes a run that is known from a former life; false if it is not there, or taken.
    #[must_use]
    pub fn claim(&mut self, place: JournalPlace) -> bool {
        let end = |place: &JournalPlace| place.first.saturating_add(place.pages);
        let apart = |other: &JournalPlace| end(other) <= place.first || end(&place) <= other.first;
        let free = place.pages > 0 && end(&place) <= self.pages && self.taken.iter().all(apart);
        if free {
            let at = self
                .taken
                .partition_point(|other| other.first < place.first);
            self.taken.insert(at, place);
        }
        free
    }

    /// Takes the first run of `pages` pages that is free.
    pub fn take(&mut self, pages: u32) -> Option<JournalPlace> {
        let mut first = 0;
        for other in &self.taken {
            if other.first - first >= pages {
                break;
            }
            first = other.first + other.pages;
        }
        let place = JournalPlace { first, pages };
        self.claim(place).then_some(place)
    }

    /// Gives a run back.
    pub fn free(&mut self, place: JournalPlace) {
        self.taken.retain(|other| *other != place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::FIXED_PAGES;

    #[test]
    fn runs_are_apart_and_what_is_given_back_is_used_again() {
        let mut rooms = JournalRooms::new(&SharedPages::host(FIXED_PAGES + 8, 0));
        let place = |first, pages| JournalPlace { first, pages };
        assert!(rooms.claim(place(3, 2)));
        for other in [
            place(3, 2),
            place(2, 2),
            place(4, 9),
            place(0, 0),
            place(8, 1),
        ] {
            assert!(!rooms.claim(other), "{other:?}");
        }
        assert_eq!(rooms.take(4), None);
        assert_eq!(rooms.take(3), Some(place(0, 3)));
        assert_eq!(rooms.take(1), Some(place(5, 1)));
        rooms.free(place(0, 3));
        assert_eq!(rooms.take(2), Some(place(0, 2)));
        assert_eq!(rooms.take(2), Some(place(6, 2)));
        assert_eq!(rooms.take(1), Some(place(2, 1)));
        assert_eq!(rooms.take(1), None);
        assert!(!rooms.claim(place(u32::MAX, u32::MAX)));
    }
}
