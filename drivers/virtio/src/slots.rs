//! Requests in flight, and which submitted command each belongs to.
//!
//! A submitted command takes one slot for each request it was cut into; the first is its leader
//! and keeps the count. A slot is only free again when its request is no longer awaited.

use alloc::boxed::Box;

use spindle_block::{IoError, IoResult, Tag};

/// What remains to be done for a command when its requests have succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    #[default]
    Done,
    /// Write the cache out.
    Flush,
    /// Go on giving blocks up: the first sector, how many are left, and whether securely.
    Erase {
        sector: u64,
        left: u64,
        secure: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: Tag,
    awaited: bool,
    /// When its request was offered, in nanoseconds, or [`UNDATED`].
    since_ns: u64,
    leader: u16,
    /// Requests not yet finished; in a leader.
    remaining: u16,
    /// The first error of any request; in a leader.
    error: Option<IoError>,
    /// In a leader.
    next: Next,
}

/// Offered since the last tick, which may be long ago: the time of the next one counts.
const UNDATED: u64 = u64::MAX;

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    /// A stack of free slot numbers, of which the lowest `available` places count.
    free: Box<[u16]>,
    available: usize,
    commands: usize,
    /// The time of the last tick.
    now_ns: u64,
    /// Some request is [`UNDATED`].
    undated: bool,
}

/// What an entry of the used ring finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// Nothing: nobody waits for it.
    Nothing,
    /// A part of a command whose other parts are still awaited.
    Part,
    /// All requests of the command with this leader, which stays taken until
    /// [`Slots::release`] or [`Slots::again`].
    Command(u16, IoResult, Next),
}

impl Slots {
    pub(crate) fn new(count: u16) -> Self {
        let slot = |index| Slot {
            tag: Tag(0),
            awaited: false,
            since_ns: 0,
            leader: index,
            remaining: 0,
            error: None,
            next: Next::Done,
        };
        Self {
            slots: (0..count).map(slot).collect(),
            free: (0..count).rev().collect(),
            available: count.into(),
            commands: 0,
            now_ns: 0,
            undated: false,
        }
    }

    /// Tells the time, which counts for requests from now on. It is 0 before.
    #[inline]
    pub(crate) fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        if core::mem::take(&mut self.undated) {
            self.date();
        }
    }

    #[cold]
    fn date(&mut self) {
        let undated = self.slots.iter_mut().filter(|s| s.since_ns == UNDATED);
        undated.for_each(|slot| slot.since_ns = self.now_ns);
    }

    /// How long the oldest request in flight has been there, in nanoseconds.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let awaited = self.slots.iter().filter(|slot| slot.awaited);
        let ages = awaited.map(|slot| self.now_ns.saturating_sub(slot.since_ns));
        ages.max()
    }

    /// How many there are.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The slot for part `part` of a command that is not yet begun; `None` if there are no more.
    #[inline]
    pub(crate) fn reserve(&self, part: usize) -> Option<u16> {
        let at = self.available.checked_sub(part + 1)?;
        self.free.get(at).copied()
    }

    /// Takes the slots of the first `parts` reserved parts, 1 or more, for one command, and hands
    /// each to `taken`, in order.
    #[inline]
    pub(crate) fn begin(&mut self, parts: usize, tag: Tag, next: Next, mut taken: impl FnMut(u16)) {
        let Some(leader) = self.reserve(0) else {
            return;
        };
        for part in 0..parts {
            let Some(index) = self.reserve(part) else {
                return;
            };
            let slot = &mut self.slots[usize::from(index)];
            slot.awaited = true;
            slot.since_ns = self.now_ns;
            slot.leader = leader;
            taken(index);
        }
        let first = &mut self.slots[usize::from(leader)];
        first.tag = tag;
        first.remaining = parts as u16;
        first.error = None;
        first.next = next;
        self.available -= parts;
        self.commands += 1;
    }

    /// Whether a request in this slot is awaited.
    #[inline]
    pub(crate) fn awaited(&self, index: u16) -> bool {
        let slot = self.slots.get(usize::from(index));
        slot.is_some_and(|slot| slot.awaited)
    }

    /// Notes that the request in slot `index` ended with `result`.
    #[inline]
    pub(crate) fn finish(&mut self, index: u16, result: IoResult) -> Finished {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return Finished::Nothing;
        };
        if !core::mem::replace(&mut slot.awaited, false) {
            return Finished::Nothing;
        }
        let leader = slot.leader;
        if leader != index {
            self.give_back(index);
        }
        let Some(first) = self.slots.get_mut(usize::from(leader)) else {
            return Finished::Nothing;
        };
        first.error = first.error.or(result.err());
        first.remaining = first.remaining.saturating_sub(1);
        if first.remaining > 0 {
            return Finished::Part;
        }
        let result = first.error.map_or(Ok(()), Err);
        Finished::Command(leader, result, first.next)
    }

    /// Takes the slot of a finished command for another request of it. Commands are finished before
    /// the tick, by a core that may have stood still since.
    pub(crate) fn again(&mut self, leader: u16, next: Next) {
        if let Some(slot) = self.slots.get_mut(usize::from(leader)) {
            slot.awaited = true;
            slot.since_ns = UNDATED;
            self.undated = true;
            slot.remaining = 1;
            slot.next = next;
        }
    }

    /// Ends a finished command and returns its tag.
    #[inline]
    pub(crate) fn release(&mut self, leader: u16) -> Tag {
        self.commands -= 1;
        self.give_back(leader);
        self.slots[usize::from(leader)].tag
    }

    #[inline]
    fn give_back(&mut self, index: u16) {
        if let Some(place) = self.free.get_mut(self.available) {
            *place = index;
            self.available += 1;
        }
    }

    /// Gives up everything in flight, and all that may come: no slot is free from now on. Calls
    /// `done` with the tag of each command.
    pub(crate) fn abandon(&mut self, mut done: impl FnMut(Tag)) {
        for slot in &mut self.slots {
            slot.awaited = false;
            if core::mem::take(&mut slot.remaining) > 0 {
                done(slot.tag);
            }
        }
        self.commands = 0;
        self.available = 0;
    }

    /// Commands in flight.
    pub(crate) fn commands(&self) -> usize {
        self.commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn take(slots: &mut Slots, parts: usize, tag: u32) -> Vec<u16> {
        let mut taken = Vec::new();
        slots.begin(parts, Tag(tag), Next::Done, |index| taken.push(index));
        taken
    }

    #[test]
    fn a_leader_is_not_reused_before_its_parts_are_done_and_the_first_error_counts() {
        let mut slots = Slots::new(3);
        let split = take(&mut slots, 2, 1);
        let range = Err(IoError::Range);
        assert_eq!(slots.finish(split[0], range), Finished::Part);
        assert_eq!(slots.finish(split[0], Ok(())), Finished::Nothing, "twice");
        let other = take(&mut slots, 1, 2);
        assert!(!split.contains(&other[0]));
        assert_eq!(slots.reserve(0), None);
        let done = slots.finish(split[1], Err(IoError::Medium));
        assert_eq!(done, Finished::Command(split[0], range, Next::Done));
        assert_eq!(slots.release(split[0]), Tag(1));
        assert_eq!((slots.commands(), slots.reserve(1).is_some()), (1, true));
    }

    #[test]
    fn what_nobody_awaits_finishes_nothing() {
        let mut slots = Slots::new(2);
        assert_eq!(slots.finish(0, Ok(())), Finished::Nothing);
        assert_eq!(slots.finish(2, Ok(())), Finished::Nothing);
        assert_eq!(slots.finish(u16::MAX, Ok(())), Finished::Nothing);
    }

    #[test]
    fn abandoned_commands_come_back_once_each() {
        let mut slots = Slots::new(8);
        let first = take(&mut slots, 3, 5);
        take(&mut slots, 1, 6);
        let mut tags = Vec::new();
        slots.abandon(|tag| tags.push(tag.0));
        tags.sort_unstable();
        assert_eq!(tags, [5, 6]);
        assert_eq!((slots.commands(), slots.reserve(0)), (0, None));
        assert_eq!(slots.finish(first[0], Ok(())), Finished::Nothing);
    }
}
