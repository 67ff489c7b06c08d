//! Doing again what a former life of the kernel has taken and not answered.
//!
//! Such a request is validated as a new one, from the journal's copy, and goes the same way: in the
//! order in which requests were taken, so that a barrier among them has before it what it had. Its
//! pages are mapped or copied anew, and the list of an indirect one is read again. No other request of
//! the ring is taken before the last of them is under way.

use alloc::boxed::Box;

use spindle_hw::SharedPages;
use spindle_kept::journal::{BadJournal, Journal, Unanswered};

use super::Session;
use super::intake::{Taken, Tally};
use crate::abi::MAX_SEGMENTS;
use crate::ring::BackRing;
use crate::room::{NoRoom, filled};

/// The requests that are yet to be done again.
#[derive(Debug)]
pub(super) struct Redo {
    /// Their places, in order; those beyond the last that is left are none.
    places: Box<[u16]>,
    next: u32,
    /// How many are left.
    left: u32,
    /// The frontend is to be sent an event, since a former life may have owed it one.
    owes_event: bool,
}

impl Redo {
    /// Room for all requests of a ring.
    pub(super) fn room(requests: usize) -> Result<Self, NoRoom> {
        Ok(Self {
            places: filled(0, requests)?,
            next: 0,
            left: 0,
            owes_event: false,
        })
    }

    /// Finds them in a journal.
    pub(super) fn recover(
        &mut self,
        pages: SharedPages,
        slots: u32,
    ) -> Result<(Journal, Unanswered), (BadJournal, SharedPages)> {
        let (journal, found) = Journal::recover(pages, slots, &mut self.places)?;
        (self.left, self.owes_event) = (found.count(), true);
        Ok((journal, found))
    }

    /// How many they are.
    #[inline]
    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// The place of the next.
    fn first(&self) -> Option<u16> {
        let places = self.places.get(..(self.next + self.left) as usize)?;
        places.get(self.next as usize).copied()
    }

    /// The next is done again.
    fn pop(&mut self) {
        self.left -= 1;
        self.next += 1;
    }
}

impl Session {
    /// Whether there is something that a former life may have owed the frontend an event for; once.
    pub(crate) fn take_owed_event(&mut self) -> bool {
        core::mem::take(&mut self.redo.owes_event)
    }

    /// Whether requests are to be done again now.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.stopped && !self.held && self.redo.left() > 0
    }

    /// Takes up to `budget` of them.
    #[cold]
    pub(super) fn take_again(&mut self, budget: u32) -> u32 {
        if !self.is_due() {
            return 0;
        }
        let most = self.affordable(self.redo.left().min(budget));
        let most = self.gate.allows(most);
        if most == 0 {
            return 0;
        }
        if let Some(cache) = &mut self.cache {
            cache.next_turn();
        }
        let mut tally = Tally::default();
        let mut taken = 0;
        while taken < most
            && let Some(place) = self.redo.first()
        {
            let mut body = [0; MAX_SEGMENTS];
            let slot = &mut self.slots[usize::from(place)];
            slot.raw = self.ring.take_again(place, &mut body);
            slot.word = body[0];
            let rest =
                |_: &BackRing, words: &mut [u64]| words.copy_from_slice(&body[1..=words.len()]);
            if !self.find_room(place, rest) {
                break;
            }
            self.redo.pop();
            taken += 1;
            match self.accept(place, &mut tally) {
                // A barrier, after which nothing is taken until it is done.
                Taken::Nothing => break,
                Taken::Settled => {}
                Taken::Slot(index) => self.line.push(index),
            }
        }
        self.judge_stopped();
        self.note_intake(taken, &tally);
        taken
    }
}
