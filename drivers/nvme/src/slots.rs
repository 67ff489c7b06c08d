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
    /// The identifier of the current or last use, with [`AWAITED`] until its completion.
    cid: u32,
    leader: u16,
    /// Parts not yet finished; in a leader.
    remaining: u16,
    /// The first error of any part; in a leader. Success as long as the slot is free.
    status: Status,
}

/// Above an identifier: its completion has not come yet.
const AWAITED: u32 = 1 << 16;

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
        let slot = |index: u16| Slot {
            tag: Tag(0),
            epoch: 0,
            cid: index.into(),
            leader: index,
            remaining: 0,
            status: Status::SUCCESS,
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
        Some((index.into(), next_use(slot.cid, self.mask)))
    }

    /// Takes the slots of the first `parts` reserved parts, 1 or more, for one command.
    #[inline]
    pub(crate) fn begin(&mut self, parts: usize, tag: Tag, epoch: u32) {
        let top = self.available - 1;
        let leader = self.free[top];
        for &index in &self.free[self.available - parts..self.available] {
            let slot = &mut self.slots[usize::from(index)];
            slot.cid = u32::from(next_use(slot.cid, self.mask)) | AWAITED;
            slot.leader = leader;
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
    #[inline(always)]
    pub(crate) fn begin_one(&mut self, tag: Tag, epoch: u32) -> Option<u16> {
        // None available wraps around, where there is no place.
        let top = self.available.wrapping_sub(1);
        let index = *self.free.get(top)?;
        let slot = self.slots.get_mut(usize::from(index))?;
        let cid = next_use(slot.cid, self.mask);
        slot.tag = tag;
        slot.epoch = epoch;
        slot.cid = u32::from(cid) | AWAITED;
        slot.leader = index;
        slot.remaining = 1;
        self.available = top;
        self.commands += 1;
        Some(cid)
    }

    /// Notes that the NVMe command `cid` ended with `status`.
    #[inline(always)]
    pub(crate) fn finish(&mut self, cid: u16, status: Status) -> Finished {
        let index = cid & self.mask;
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return Finished::Nothing;
        };
        if slot.cid != u32::from(cid) | AWAITED {
            return Finished::Nothing;
        }
        slot.cid = cid.into();
        let leader = slot.leader;
        if leader == index && slot.remaining == 1 {
            // The common case, a command of one part, touches one slot only.
            slot.remaining = 0;
            let earlier = core::mem::replace(&mut slot.status, Status::SUCCESS);
            let outcome = if earlier == Status::SUCCESS {
                status
            } else {
                earlier
            };
            let tag = slot.tag;
            self.commands -= 1;
            self.release(index);
            return Finished::Command(outcome, tag);
        }
        self.finish_part(index, leader, status)
    }

    /// Notes that a part of a command of several ended.
    #[inline(never)]
    fn finish_part(&mut self, index: u16, leader: u16, status: Status) -> Finished {
        let Some(first) = self.slots.get_mut(usize::from(leader)) else {
            return Finished::Nothing;
        };
        first.remaining = first.remaining.saturating_sub(1);
        if first.status == Status::SUCCESS {
            first.status = status;
        }
        let finished = match first.remaining {
            0 => {
                let outcome = core::mem::replace(&mut first.status, Status::SUCCESS);
                Finished::Command(outcome, first.tag)
            }
            _ => Finished::Part,
        };
        if leader != index {
            self.release(index);
        }
        if matches!(finished, Finished::Command(..)) {
            self.commands -= 1;
            self.release(leader);
        }
        finished
    }

    #[inline]
    fn release(&mut self, index: u16) {
        if let Some(place) = self.free.get_mut(self.available) {
            *place = index;
            self.available += 1;
        }
    }

    /// Gives up everything in flight, and all that may come: no slot is free from now on. Calls
    /// `done` with the tag of each command.
    pub(crate) fn abandon(&mut self, mut done: impl FnMut(Tag)) {
        for slot in &mut self.slots {
            if slot.remaining > 0 {
                slot.remaining = 0;
                done(slot.tag);
            }
            slot.cid &= !AWAITED;
            slot.status = Status::SUCCESS;
        }
        self.commands = 0;
        self.available = 0;
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

/// The identifier that follows `cid` in the same slot.
#[inline]
fn next_use(cid: u32, mask: u16) -> u16 {
    (cid as u16).wrapping_add(mask + 1)
}

/// What a completion finished. Small enough to be returned in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// Nothing: nobody waits for it.
    Nothing,
    /// A part of a command whose other parts are still awaited.
    Part,
    /// A command, all parts considered.
    Command(Status, Tag),
}
const _: () = assert!(size_of::<Finished>() == size_of::<u64>());

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
            assert_eq!(slots.finish(cids[2], OK), Finished::Part);
            assert_eq!(slots.finish(cids[0], OK), Finished::Part);
            assert_eq!(slots.finish(cids[1], OK), Finished::Command(OK, Tag(round)));
        }
    }

    #[test]
    fn a_completion_that_comes_twice_or_for_nothing_is_refused() {
        let mut slots = Slots::new(8);
        let first = take(&mut slots, 1, 1).unwrap()[0];
        assert_eq!(slots.finish(first ^ 0x100, OK), Finished::Nothing);
        assert_eq!(slots.finish(7, OK), Finished::Nothing);
        assert_eq!(slots.finish(first, OK), Finished::Command(OK, Tag(1)));
        assert_eq!(slots.finish(first, OK), Finished::Nothing);
        let again = take(&mut slots, 1, 2).unwrap()[0];
        assert_eq!(again & 7, first & 7, "the same slot");
        assert_eq!(
            slots.finish(first, OK),
            Finished::Nothing,
            "but another use"
        );
    }

    #[test]
    fn a_leader_is_not_reused_before_its_followers_are_done() {
        let mut slots = Slots::new(4);
        let split = take(&mut slots, 2, 1).unwrap();
        assert_eq!(slots.finish(split[0], Status(0x281)), Finished::Part);
        let other = take(&mut slots, 1, 2).unwrap()[0];
        assert_ne!(other & 3, split[0] & 3);
        assert_eq!(slots.reserve(0), None);
        let done = slots.finish(split[1], Status(0x80));
        assert_eq!(
            done,
            Finished::Command(Status(0x281), Tag(1)),
            "the first error"
        );
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
        assert_eq!(slots.finish(cid, OK), Finished::Nothing);
    }
}
