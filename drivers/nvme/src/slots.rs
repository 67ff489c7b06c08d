//! Command identifiers: which are in flight, and which submitted command each belongs to.
//!
//! An identifier is a slot number with the number of its use above it, so that a completion that
//! comes twice or late is told from the one that is awaited. A submitted command takes one slot
//! for each NVMe command it was cut into; the first is its leader and keeps the count.

use alloc::boxed::Box;

use spindle_block::Tag;

use crate::Status;

#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: Tag,
    /// The submitter's epoch when the command was taken; in a leader.
    epoch: u32,
    /// The identifier of the current or last use.
    cid: u16,
    leader: u16,
    /// Parts not yet finished; in a leader.
    remaining: u16,
    /// The first error of any part; in a leader.
    status: Status,
    awaited: bool,
}

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    /// A stack of free slot numbers, of which the lowest `available` places count.
    free: Box<[u16]>,
    available: usize,
    commands: usize,
    mask: u16,
}

impl Slots {
    /// Slots for a queue of `depth` entries, a power of two from 2 to 32768: one less than that,
    /// as many commands as fit the queue. The number of all ones is thus never used, and no
    /// identifier is 0xFFFF, which a controller may take for "none" (5.14.1.1).
    pub(crate) fn new(depth: u16) -> Self {
        let slot = |index| Slot {
            tag: Tag(0),
            epoch: 0,
            cid: index,
            leader: index,
            remaining: 0,
            status: Status::SUCCESS,
            awaited: false,
        };
        Self {
            slots: (0..depth).map(slot).collect(),
            free: (0..depth - 1).rev().collect(),
            available: usize::from(depth) - 1,
            commands: 0,
            mask: depth - 1,
        }
    }

    /// The slot for part `part` of a command that is not yet begun, with the identifier for it;
    /// `None` if there are no more.
    #[inline]
    pub(crate) fn reserve(&mut self, part: usize) -> Option<(usize, u16)> {
        let at = self.available.checked_sub(part + 1)?;
        let index = *self.free.get(at)?;
        let slot = self.slots.get_mut(usize::from(index))?;
        Some((index.into(), slot.cid.wrapping_add(self.mask + 1)))
    }

    /// Takes the slots of the first `parts` reserved parts, 1 or more, for one command.
    #[inline]
    pub(crate) fn begin(&mut self, parts: usize, tag: Tag, epoch: u32) {
        let top = self.available - 1;
        let leader = self.free[top];
        for &index in &self.free[self.available - parts..self.available] {
            let slot = &mut self.slots[usize::from(index)];
            slot.cid = slot.cid.wrapping_add(self.mask + 1);
            slot.leader = leader;
            slot.awaited = true;
        }
        let first = &mut self.slots[usize::from(leader)];
        first.tag = tag;
        first.epoch = epoch;
        first.remaining = parts as u16;
        first.status = Status::SUCCESS;
        self.available -= parts;
        self.commands += 1;
    }

    /// Takes a slot for a command of one part, and returns the identifier for it: what `reserve`
    /// and `begin` do, in one go.
    #[inline]
    pub(crate) fn begin_one(&mut self, tag: Tag, epoch: u32) -> Option<u16> {
        let top = self.available.checked_sub(1)?;
        let index = *self.free.get(top)?;
        let slot = self.slots.get_mut(usize::from(index))?;
        let cid = slot.cid.wrapping_add(self.mask + 1);
        *slot = Slot {
            tag,
            epoch,
            cid,
            leader: index,
            remaining: 1,
            status: Status::SUCCESS,
            awaited: true,
        };
        self.available = top;
        self.commands += 1;
        Some(cid)
    }

    /// Notes that the NVMe command `cid` ended with `status`. `Ok` with the outcome if that was
    /// the last part of a command, `Err` if nobody waits for `cid`.
    #[inline]
    pub(crate) fn finish(
        &mut self,
        cid: u16,
        status: Status,
    ) -> Result<Option<(Tag, Status)>, NotAwaited> {
        let index = cid & self.mask;
        let slot = self.slots.get_mut(usize::from(index)).ok_or(NotAwaited)?;
        if !slot.awaited || slot.cid != cid {
            return Err(NotAwaited);
        }
        slot.awaited = false;
        let leader = slot.leader;
        if leader == index && slot.remaining == 1 {
            // The common case, a command of one part, touches one slot only.
            slot.remaining = 0;
            let first_error = match slot.status {
                Status::SUCCESS => status,
                earlier => earlier,
            };
            let done = (slot.tag, first_error);
            self.commands -= 1;
            self.release(index);
            return Ok(Some(done));
        }
        let Some(first) = self.slots.get_mut(usize::from(leader)) else {
            return Err(NotAwaited);
        };
        first.remaining = first.remaining.saturating_sub(1);
        if first.status == Status::SUCCESS {
            first.status = status;
        }
        let done = (first.remaining == 0).then_some((first.tag, first.status));
        if leader != index {
            self.release(index);
        }
        if done.is_some() {
            self.commands -= 1;
            self.release(leader);
        }
        Ok(done)
    }

    #[inline]
    fn release(&mut self, index: u16) {
        if let Some(place) = self.free.get_mut(self.available) {
            *place = index;
            self.available += 1;
        }
    }

    /// Gives up everything in flight, calling `done` with the tag of each command.
    pub(crate) fn abandon(&mut self, mut done: impl FnMut(Tag)) {
        for slot in &mut self.slots {
            if slot.remaining > 0 {
                slot.remaining = 0;
                done(slot.tag);
            }
            slot.awaited = false;
        }
        self.commands = 0;
    }

    /// Commands in flight.
    pub(crate) fn commands(&self) -> usize {
        self.commands
    }

    /// How many epochs before `now` the oldest command in flight was taken.
    pub(crate) fn oldest(&self, now: u32) -> Option<u32> {
        let waiting = self.slots.iter().filter(|slot| slot.remaining > 0);
        waiting.map(|slot| now.wrapping_sub(slot.epoch)).max()
    }
}

/// A completion for a command that is not in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAwaited;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const OK: Status = Status::SUCCESS;

    fn take(slots: &mut Slots, parts: usize, tag: u32) -> Option<Vec<u16>> {
        let cids = (0..parts).map(|part| slots.reserve(part).map(|(_, cid)| cid));
        let cids = cids.collect::<Option<Vec<_>>>()?;
        slots.begin(parts, Tag(tag), tag);
        Some(cids)
    }

    #[test]
    fn one_less_than_the_depth_fits_and_no_identifier_is_all_ones() {
        let mut slots = Slots::new(4);
        // Every use of an identifier that there is, unless that takes too long.
        let rounds = if cfg!(miri) { 100 } else { 70_000 };
        for round in 0..rounds {
            let cids = take(&mut slots, 3, round).unwrap();
            assert!(!cids.contains(&u16::MAX));
            assert_eq!(slots.reserve(0), None);
            assert_eq!(slots.finish(cids[2], OK), Ok(None));
            assert_eq!(slots.finish(cids[0], OK), Ok(None));
            assert_eq!(slots.finish(cids[1], OK), Ok(Some((Tag(round), OK))));
        }
    }

    #[test]
    fn a_completion_that_comes_twice_or_for_nothing_is_refused() {
        let mut slots = Slots::new(8);
        let first = take(&mut slots, 1, 1).unwrap()[0];
        assert_eq!(slots.finish(first ^ 0x100, OK), Err(NotAwaited));
        assert_eq!(slots.finish(7, OK), Err(NotAwaited));
        assert!(slots.finish(first, OK).is_ok());
        assert_eq!(slots.finish(first, OK), Err(NotAwaited));
        let again = take(&mut slots, 1, 2).unwrap()[0];
        assert_eq!(again & 7, first & 7, "the same slot");
        assert_eq!(slots.finish(first, OK), Err(NotAwaited), "but another use");
    }

    #[test]
    fn a_leader_is_not_reused_before_its_followers_are_done() {
        let mut slots = Slots::new(4);
        let split = take(&mut slots, 2, 1).unwrap();
        assert_eq!(slots.finish(split[0], Status(0x281)), Ok(None));
        let other = take(&mut slots, 1, 2).unwrap()[0];
        assert_ne!(other & 3, split[0] & 3);
        assert_eq!(slots.reserve(0), None);
        let done = slots.finish(split[1], Status(0x80));
        assert_eq!(done, Ok(Some((Tag(1), Status(0x281)))), "the first error");
        assert_eq!(slots.commands(), 1);
    }

    #[test]
    fn abandoned_commands_come_back_once_each_and_age_is_known() {
        let mut slots = Slots::new(8);
        take(&mut slots, 3, 5).unwrap();
        let cid = take(&mut slots, 1, 6).unwrap()[0];
        assert_eq!(slots.oldest(10), Some(5));
        let mut tags = Vec::new();
        slots.abandon(|tag| tags.push(tag.0));
        tags.sort_unstable();
        assert_eq!(tags, [5, 6]);
        assert_eq!((slots.commands(), slots.oldest(10)), (0, None));
        assert_eq!(slots.finish(cid, OK), Err(NotAwaited));
    }
}
