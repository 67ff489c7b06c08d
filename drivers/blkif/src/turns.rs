//! Whose turn it is to have a flush or a discard with a disk: a guest has one of each at a time on
//! a core, however many rings or devices it has, since they keep a disk from others for longer than
//! what is counted for them. The others wait in their rings, out of line (`session/aside`).
//!
//! A flush makes durable what was answered before it began. Flushes that waited when one was given
//! to the disk are therefore answered with it, those of the guest's other rings as well.
//!
//! Nothing of this is on the way of a read or write.

use alloc::vec::Vec;

use spindle_block::{IoResult, Unit};

/// What there is one of at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Flush,
    Discard,
}

/// Those that take turns with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    /// The disk's number on the core, or another number of a volume that is spread over several runs.
    pub(crate) disk: usize,
    /// The guest's place on the core.
    pub(crate) guest: u16,
    pub(crate) kind: Kind,
}

/// What a ring finds that has requests of a kind waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// So many of them, the oldest, are answered.
    pub(crate) answered: u16,
    /// How.
    pub(crate) result: IoResult,
    /// The next one has the turn.
    pub(crate) called: bool,
}

/// A ring that has the turn of a lane, or requests waiting for it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    ring: u16,
    lane: Lane,
    /// Where its flushes go.
    unit: Unit,
    turn: Turn,
    /// Requests that wait.
    waiting: u16,
    /// How many of them were waiting when the flush began that the disk has.
    covered: u16,
    /// Requests that waited and are to be answered, and how.
    answered: u16,
    result: IoResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    None,
    /// The ring has not been informed yet.
    Called,
    Taken,
}

impl Entry {
    fn is_over(&self) -> bool {
        self.turn == Turn::None && self.waiting == 0 && self.answered == 0
    }
}

/// The turns of a core.
#[derive(Debug)]
pub(crate) struct Turns {
    /// In the order in which they came. Has room for all rings from the start.
    entries: Vec<Entry>,
}

impl Turns {
    /// For at most `rings` rings.
    pub(crate) fn new(rings: usize) -> Self {
        Self {
            entries: Vec::with_capacity(2 * rings),
        }
    }

    /// Gives `ring` the turn if no ring has it.
    pub(crate) fn take(&mut self, ring: u16, lane: Lane, unit: Unit) -> bool {
        if self.holder(lane).is_some() {
            return false;
        }
        self.entry(ring, lane, unit).turn = Turn::Taken;
        true
    }

    /// One more request of `ring` waits.
    pub(crate) fn wait(&mut self, ring: u16, lane: Lane, unit: Unit) {
        self.entry(ring, lane, unit).waiting += 1;
    }

    /// The request whose turn it is is about to be given to the disk.
    pub(crate) fn start(&mut self, lane: Lane) {
        let Some(unit) = self.holder(lane).map(|holder| holder.unit) else {
            return;
        };
        let flushes = lane.kind == Kind::Flush;
        for entry in self.entries.iter_mut().filter(|entry| entry.lane == lane) {
            if flushes && entry.unit == unit {
                entry.covered = entry.waiting;
            }
        }
    }

    /// It is over: those that it covers are, too, and the ring that has been waiting for longest
    /// has the turn.
    pub(crate) fn end(&mut self, lane: Lane, result: IoResult) {
        let taken = |entry: &Entry| entry.lane == lane && entry.turn != Turn::None;
        let Some(at) = self.entries.iter().position(taken) else {
            return;
        };
        for entry in self.entries.iter_mut().filter(|entry| entry.lane == lane) {
            let covered = core::mem::take(&mut entry.covered);
            if covered > 0 {
                entry.waiting -= covered;
                entry.answered += covered;
                entry.result = result;
            }
        }
        // It waits behind the others if it has more.
        let mut entry = self.entries.remove(at);
        entry.turn = Turn::None;
        if !entry.is_over() {
            self.entries.push(entry);
        }
        self.call(lane);
    }

    /// What has become of the requests of `ring` that wait.
    pub(crate) fn collect(&mut self, ring: u16, kind: Kind) -> Option<Notice> {
        let own = |entry: &Entry| entry.ring == ring && entry.lane.kind == kind;
        let at = self.entries.iter().position(own)?;
        let entry = self.entries.get_mut(at)?;
        let called = entry.turn == Turn::Called;
        if called {
            entry.turn = Turn::Taken;
            entry.waiting -= 1;
        }
        let notice = Notice {
            answered: core::mem::take(&mut entry.answered),
            result: entry.result,
            called,
        };
        if entry.is_over() {
            self.entries.remove(at);
        }
        Some(notice)
    }

    /// Whether a ring has yet to collect what became of its requests.
    pub(crate) fn is_due(&self) -> bool {
        let due = |entry: &Entry| entry.turn == Turn::Called || entry.answered > 0;
        self.entries.iter().any(due)
    }

    /// `ring` is gone.
    pub(crate) fn leave(&mut self, ring: u16) {
        while let Some(at) = self.entries.iter().position(|entry| entry.ring == ring) {
            let entry = self.entries.remove(at);
            if entry.turn != Turn::None {
                self.call(entry.lane);
            }
        }
    }

    /// Gives the turn to the first that waits.
    fn call(&mut self, lane: Lane) {
        let waits = |entry: &&mut Entry| entry.lane == lane && entry.waiting > 0;
        if let Some(next) = self.entries.iter_mut().find(waits) {
            next.turn = Turn::Called;
        }
    }

    fn holder(&self, lane: Lane) -> Option<&Entry> {
        let holds = |entry: &&Entry| entry.lane == lane && entry.turn != Turn::None;
        self.entries.iter().find(holds)
    }

    /// The entry of `ring`, which is made if there is none.
    fn entry(&mut self, ring: u16, lane: Lane, unit: Unit) -> &mut Entry {
        let own = |entry: &Entry| entry.ring == ring && entry.lane == lane;
        let at = self.entries.iter().position(own).unwrap_or_else(|| {
            self.entries.push(Entry {
                ring,
                lane,
                unit,
                turn: Turn::None,
                waiting: 0,
                covered: 0,
                answered: 0,
                result: Ok(()),
            });
            self.entries.len() - 1
        });
        &mut self.entries[at]
    }
}

#[cfg(test)]
mod tests {
    use spindle_block::IoError;

    use super::*;

    const FLUSH: Lane = Lane {
        disk: 0,
        guest: 3,
        kind: Kind::Flush,
    };
    const DISCARD: Lane = Lane {
        kind: Kind::Discard,
        ..FLUSH
    };
    const UNIT: Unit = Unit(1);
    const FAILED: IoResult = Err(IoError::Aborted);

    fn notice(answered: u16, called: bool) -> Option<Notice> {
        Some(Notice {
            answered,
            result: Ok(()),
            called,
        })
    }

    #[test]
    fn one_ring_of_a_guest_has_the_turn_of_a_kind_on_a_disk() {
        let mut turns = Turns::new(4);
        assert!(turns.take(0, DISCARD, UNIT));
        assert!(!turns.take(1, DISCARD, UNIT));
        let others = [
            Lane { disk: 1, ..DISCARD },
            Lane {
                guest: 4,
                ..DISCARD
            },
            FLUSH,
        ];
        for (ring, lane) in (1..).zip(others) {
            assert!(turns.take(ring, lane, UNIT), "{lane:?}");
        }
    }

    #[test]
    fn rings_get_the_turn_in_the_order_they_came_and_one_with_more_is_last_again() {
        let mut turns = Turns::new(4);
        assert!(turns.take(0, DISCARD, UNIT));
        turns.start(DISCARD);
        for ring in [2, 0, 1, 2] {
            turns.wait(ring, DISCARD, UNIT);
        }
        // A discard answers no other.
        for ring in [2, 1, 0, 2] {
            turns.end(DISCARD, Ok(()));
            assert!(turns.is_due() && !turns.take(3, DISCARD, UNIT));
            for other in (0..3).filter(|&other| other != ring) {
                let got = turns.collect(other, Kind::Discard);
                assert!(got.is_none_or(|got| !got.called && got.answered == 0));
            }
            assert_eq!(turns.collect(ring, Kind::Discard), notice(0, true));
            assert!(!turns.is_due());
            turns.start(DISCARD);
        }
        turns.end(DISCARD, Ok(()));
        assert!(turns.entries.is_empty());
    }

    #[test]
    fn a_flush_answers_those_that_waited_when_it_began_on_its_unit() {
        let mut turns = Turns::new(4);
        assert!(turns.take(0, FLUSH, UNIT));
        turns.wait(1, FLUSH, UNIT);
        turns.wait(2, FLUSH, Unit(2));
        turns.start(FLUSH);
        turns.wait(1, FLUSH, UNIT);
        turns.wait(0, FLUSH, UNIT);
        turns.end(FLUSH, FAILED);
        let first = turns.collect(1, Kind::Flush).unwrap();
        assert_eq!((first.answered, first.result), (1, FAILED));
        assert!(first.called, "it has another");
        assert_eq!(turns.collect(2, Kind::Flush), notice(0, false));
        turns.start(FLUSH);
        turns.end(FLUSH, Ok(()));
        assert_eq!(turns.collect(0, Kind::Flush), notice(1, false));
        assert_eq!(turns.collect(2, Kind::Flush), notice(0, true));
        turns.start(FLUSH);
        turns.end(FLUSH, Ok(()));
        assert!(turns.entries.is_empty());
    }

    #[test]
    fn a_ring_that_leaves_passes_the_turn_on() {
        let mut turns = Turns::new(4);
        assert!(turns.take(0, DISCARD, UNIT) && turns.take(0, FLUSH, UNIT));
        turns.wait(1, DISCARD, UNIT);
        turns.leave(0);
        assert_eq!(turns.collect(1, Kind::Discard), notice(0, true));
        assert!(turns.take(2, FLUSH, UNIT));
    }
}
