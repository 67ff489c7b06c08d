//! Command identifiers: which are in flight, and which submitted command each belongs to.
//!
//! An identifier is a slot number with the number of its use above it, so that a completion that
//! comes twice or late is told from the one that is awaited. A submitted command takes one slot
//! for each NVMe command it was cut into; the first is its leader and keeps the count.

use alloc::boxed::Box;

use spindle_block::Tag;

use crate::Status;
use crate::command::{Answer, Entry, Packed};

/// A cache line: a command touches one.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Slot {
    /// What was submitted, for the case that it has to be submitted again.
    entry: Packed,
    tag: Tag,
    /// The submitter's epoch when the command was taken; in a leader.
    epoch: u32,
    /// The identifier of the current or last use, with [`AWAITED`] until its completion, and
    /// with [`ALONE`] as well if it is all of its command.
    cid: u32,
    /// Which submission of the queue it was, counted in steps of 2; odd if it was submitted again
    /// since it was aborted.
    turn: u32,
    /// The slot itself, but for the further parts of a command.
    leader: u16,
    /// Parts not yet finished; in a leader of several.
    remaining: u16,
    /// The first error of any part; in a leader. Success as long as the slot is free.
    status: Status,
}
const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    /// Whether it leads a command in flight.
    fn leads(&self) -> bool {
        self.remaining > 0 || self.cid & ALONE != 0
    }

    /// Gives what is awaited a new identifier, to be submitted again.
    fn renew(&mut self, mask: u16) {
        let cid = next_use(self.cid, mask);
        self.entry = self.entry.with_cid(cid);
        self.cid = u32::from(cid) | self.cid & (AWAITED | ALONE);
    }
}

/// Above an identifier: its completion has not come yet.
const AWAITED: u32 = 1 << 16;
/// Above an identifier that is awaited: the command has no other part, and nothing is kept of how
/// parts ended.
const ALONE: u32 = 1 << 17;

/// In a turn: submitted again.
const RETRIED: u32 = 1;
/// From one turn to the next.
const TURN: u32 = 2;

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    /// A stack of free slot numbers, of which the lowest `available` places count.
    free: Box<[u16]>,
    available: usize,
    /// `available` as it will be after a stop.
    parked: usize,
    commands: usize,
    turn: u32,
    mask: u16,
}

impl Slots {
    /// Slots for a queue of `depth` entries, a power of two from 2 to 32768: one less than that,
    /// as many commands as fit the queue. The number of all ones is thus never used, and no
    /// identifier is 0xFFFF, which a controller may take for "none" (5.14.1.1).
    pub(crate) fn new(depth: u16) -> Self {
        let slot = |index: u16| Slot {
            entry: Packed::default(),
            tag: Tag(0),
            epoch: 0,
            cid: index.into(),
            turn: 0,
            leader: index,
            remaining: 0,
            status: Status::SUCCESS,
        };
        Self {
            slots: (0..depth).map(slot).collect(),
            free: (0..depth - 1).rev().collect(),
            available: usize::from(depth) - 1,
            parked: 0,
            commands: 0,
            turn: 0,
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

    /// Keeps the entry of a reserved part.
    #[inline]
    pub(crate) fn keep(&mut self, index: usize, entry: &Entry) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.entry = entry.packed();
        }
    }

    /// Takes the slots of the first `parts` reserved parts, 1 or more, for one command.
    #[inline]
    pub(crate) fn begin(&mut self, parts: usize, tag: Tag, epoch: u32) {
        let top = self.available - 1;
        let leader = self.free[top];
        let (flags, remaining) = match parts {
            1 => (AWAITED | ALONE, 0),
            _ => (AWAITED, parts as u16),
        };
        for &index in &self.free[self.available - parts..self.available] {
            let slot = &mut self.slots[usize::from(index)];
            slot.cid = u32::from(next_use(slot.cid, self.mask)) | flags;
            slot.leader = leader;
            slot.turn = self.turn;
        }
        self.turn = self.turn.wrapping_add(TURN);
        let first = &mut self.slots[usize::from(leader)];
        first.tag = tag;
        first.epoch = epoch;
        first.remaining = remaining;
        first.status = Status::SUCCESS;
        self.available -= parts;
        self.commands += 1;
    }

    /// Takes a slot for a command of one part, and returns its entry with the identifier put in:
    /// what `reserve`, `keep` and `begin` do, in one go.
    #[inline(always)]
    pub(crate) fn begin_one(&mut self, tag: Tag, epoch: u32, entry: Entry) -> Option<Packed> {
        // None available wraps around, where there is no place.
        let top = self.available.wrapping_sub(1);
        let index = *self.free.get(top)?;
        let slot = self.slots.get_mut(usize::from(index))?;
        let cid = next_use(slot.cid, self.mask);
        let entry = Entry { cid, ..entry }.packed();
        slot.entry = entry;
        slot.tag = tag;
        slot.epoch = epoch;
        slot.cid = u32::from(cid) | AWAITED | ALONE;
        slot.turn = self.turn;
        self.turn = self.turn.wrapping_add(TURN);
        self.available = top;
        self.commands += 1;
        Some(entry)
    }

    /// The tag of the command that `answer` ends, if it is one that has no other part, and has
    /// succeeded. If not, nothing has changed.
    #[inline(always)]
    pub(crate) fn finish_alone(&mut self, answer: Answer) -> Option<Tag> {
        let index = answer.cid & self.mask;
        let slot = self.slots.get_mut(usize::from(index))?;
        let awaited = slot.cid == u32::from(answer.cid) | AWAITED | ALONE;
        if !awaited || Status(answer.status) != Status::SUCCESS {
            return None;
        }
        slot.cid = answer.cid.into();
        let tag = slot.tag;
        self.commands -= 1;
        self.release(index);
        Some(tag)
    }

    /// Notes that the NVMe command `cid` ended with `status`.
    pub(crate) fn finish(&mut self, cid: u16, status: Status) -> Finished {
        let index = cid & self.mask;
        let awaited = |slot: &&mut Slot| slot.cid & !ALONE == u32::from(cid) | AWAITED;
        let slot = self.slots.get_mut(usize::from(index)).filter(awaited);
        let Some(slot) = slot else {
            return Finished::Nothing;
        };
        let alone = slot.cid & ALONE != 0;
        slot.cid = cid.into();
        if alone {
            let tag = slot.tag;
            self.commands -= 1;
            self.release(index);
            return Finished::Command(status, tag);
        }
        let leader = slot.leader;
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
            if let Some(slot) = self.slots.get_mut(usize::from(index)) {
                slot.leader = index;
            }
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
            if slot.leads() {
                slot.remaining = 0;
                done(slot.tag);
            }
            slot.cid &= !(AWAITED | ALONE);
            slot.status = Status::SUCCESS;
        }
        self.commands = 0;
        self.available = 0;
        self.parked = 0;
    }

    /// Lets nothing begin until [`Self::resume`].
    pub(crate) fn suspend(&mut self) {
        self.parked += core::mem::take(&mut self.available);
    }

    /// Ends what [`Self::suspend`] began. Nothing may have finished in between.
    pub(crate) fn resume(&mut self) {
        self.available += core::mem::take(&mut self.parked);
    }

    /// Between the two: gives every part whose completion is awaited a new identifier and hands
    /// it to `again`, counted from 0, in the order of submission. Commands count as taken at
    /// `epoch` from now on. Returns how many parts there were.
    pub(crate) fn replay(&mut self, epoch: u32, mut again: impl FnMut(usize, &Packed)) -> usize {
        // Places of the stack above those that count are as many as slots in use, or more.
        let Some(order) = self.free.get_mut(self.parked..) else {
            return 0;
        };
        let slots = &mut self.slots;
        let awaited = |slot: &Slot| slot.cid & AWAITED != 0;
        let found = (0..).zip(slots.iter()).filter(|(_, slot)| awaited(slot));
        let mut count = 0;
        for (place, (index, _)) in order.iter_mut().zip(found) {
            *place = index;
            count += 1;
        }
        let order = &mut order[..count];
        let age = |index: u16| self.turn.wrapping_sub(slots[usize::from(index)].turn);
        // By hand: the library's sort would be a fiftieth of the kernel.
        for end in 1..order.len() {
            let mut at = end;
            while at > 0 && age(order[at - 1]) < age(order[at]) {
                order.swap(at - 1, at);
                at -= 1;
            }
        }
        for (at, &index) in order.iter().enumerate() {
            let slot = &mut slots[usize::from(index)];
            slot.renew(self.mask);
            again(at, &slot.entry);
        }
        for slot in slots.iter_mut().filter(|slot| slot.leads()) {
            slot.epoch = epoch;
        }
        count
    }

    /// The entry, with a new identifier, of the part `cid` that ended though it should not have;
    /// `None` if it is not awaited, or not for the first time.
    pub(crate) fn retry(&mut self, cid: u16, epoch: u32) -> Option<Packed> {
        let slot = self.slots.get_mut(usize::from(cid & self.mask))?;
        if slot.cid & !ALONE != u32::from(cid) | AWAITED || slot.turn & RETRIED != 0 {
            return None;
        }
        slot.turn |= RETRIED;
        slot.renew(self.mask);
        let (entry, leader) = (slot.entry, usize::from(slot.leader));
        if let Some(leader) = self.slots.get_mut(leader) {
            leader.epoch = epoch;
        }
        Some(entry)
    }

    /// Commands in flight.
    pub(crate) fn commands(&self) -> usize {
        self.commands
    }

    /// How many epochs before `now` the oldest command in flight was taken, and the identifier of
    /// a part of it that is awaited.
    pub(crate) fn oldest(&self, now: u32) -> Option<(u32, u16)> {
        let awaited = self.slots.iter().filter(|slot| slot.cid & AWAITED != 0);
        let age = |slot: &Slot| {
            let leader = &self.slots[usize::from(slot.leader)];
            (now.wrapping_sub(leader.epoch), slot.cid as u16)
        };
        awaited.map(age).max()
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
        for &cid in &cids {
            let cdw10 = tag.into();
            let entry = Entry {
                cid,
                cdw10,
                ..Entry::default()
            };
            slots.keep(usize::from(cid & slots.mask), &entry);
        }
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
        assert_eq!(slots.oldest(10).map(|(age, _)| age), Some(5));
        let mut tags = Vec::new();
        slots.abandon(|tag| tags.push(tag.0));
        tags.sort_unstable();
        assert_eq!(tags, [5, 6]);
        assert_eq!((slots.commands(), slots.oldest(10)), (0, None));
        assert_eq!(slots.finish(cid, OK), Finished::Nothing);
    }

    /// Command and part of everything that comes again.
    fn replay(slots: &mut Slots) -> Vec<(u64, u16)> {
        let mut again = Vec::new();
        slots.suspend();
        assert_eq!(slots.reserve(0), None, "nothing begins meanwhile");
        let count = slots.replay(99, |at, entry| {
            assert_eq!(at, again.len());
            again.push((entry.cdw10(), entry.cid()));
        });
        assert_eq!(count, again.len());
        slots.resume();
        again
    }

    #[test]
    fn what_is_in_flight_comes_again_in_order_under_new_identifiers() {
        let mut slots = Slots::new(8);
        let first = take(&mut slots, 2, 1).unwrap();
        let second = take(&mut slots, 1, 2).unwrap();
        let third = take(&mut slots, 2, 3).unwrap();
        assert_eq!(slots.finish(third[0], OK), Finished::Part);
        assert_eq!(slots.finish(second[0], OK), Finished::Command(OK, Tag(2)));
        let fourth = take(&mut slots, 1, 4).unwrap();
        let again = replay(&mut slots);
        let commands: Vec<_> = again.iter().map(|(command, _)| *command).collect();
        assert_eq!(commands, [1, 1, 3, 4]);
        for old in [first[0], first[1], third[1], fourth[0]] {
            assert_eq!(slots.finish(old, OK), Finished::Nothing, "too late");
        }
        assert_eq!(slots.oldest(100).map(|(age, _)| age), Some(1));
        let mut done = Vec::new();
        for (_, cid) in again {
            if let Finished::Command(_, tag) = slots.finish(cid, OK) {
                done.push(tag.0);
            }
        }
        assert_eq!(done, [1, 3, 4]);
        assert_eq!(slots.commands(), 0);
        assert!(take(&mut slots, 7, 5).is_some(), "no slot is lost");
        assert!(slots.reserve(0).is_none());
    }

    #[test]
    fn a_full_queue_and_an_empty_one_can_be_replayed() {
        let mut slots = Slots::new(8);
        assert_eq!(replay(&mut slots), []);
        for tag in 0..7 {
            take(&mut slots, 1, tag).unwrap();
        }
        for _ in 0..3 {
            let commands = replay(&mut slots).into_iter().map(|(command, _)| command);
            assert_eq!(commands.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
        }
        slots.suspend();
        slots.abandon(|_| {});
        slots.resume();
        assert_eq!(slots.reserve(0), None, "given up for good");
    }

    #[test]
    fn a_command_is_retried_once() {
        let mut slots = Slots::new(8);
        let cids = take(&mut slots, 2, 1).unwrap();
        let again = slots.retry(cids[1], 5).unwrap();
        assert_eq!(again.cdw10(), 1);
        assert_eq!(slots.retry(cids[1], 5), None, "that one is over");
        assert_eq!(slots.retry(again.cid(), 5), None, "and this is the second");
        assert_eq!(slots.finish(cids[1], OK), Finished::Nothing);
        assert_eq!(slots.finish(cids[0], OK), Finished::Part);
        assert_eq!(slots.finish(again.cid(), OK), Finished::Command(OK, Tag(1)));
    }
}
