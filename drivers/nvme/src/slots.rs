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
    /// Which submission of the queue it was, counted in steps of [`TURN`]; below that, how often it
    /// was tried again ([`RETRY`]) and how often it may have been what the controller failed over
    /// ([`BLAME`]). One word, so that all of it is as new with every command, at no cost.
    turn: u32,
    /// The slot itself, but for the further parts of a command.
    leader: u16,
    /// Parts not yet finished; in a leader of several.
    remaining: u16,
    /// The first error of any part; in a leader. Success as long as the slot is free.
    status: Status,
    /// When it is submitted again, in [`DUE_SHIFT`] units; of what is [`HELD`].
    due: u16,
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

    /// Whether the controller has it.
    fn is_out(&self) -> bool {
        self.cid & (AWAITED | HELD) == AWAITED
    }

    fn blame(&self) -> u32 {
        self.turn / BLAME % BLAME_RANGE
    }

    /// Notes that the controller may have failed over it.
    fn suspect(&mut self) {
        if self.blame() < BLAME_LIMIT {
            self.turn += BLAME;
        }
    }
}

/// Above an identifier: its completion has not come yet.
const AWAITED: u32 = 1 << 16;
/// Above an identifier that is awaited: the command has no other part, and nothing is kept of how
/// parts ended.
const ALONE: u32 = 1 << 17;

/// Above an identifier that is awaited: the controller does not have it; it is submitted again later.
const HELD: u32 = 1 << 18;
/// Above an identifier that is held: it is not submitted again, but fails at the next poll.
const DOOMED: u32 = 1 << 19;

/// In a turn: tried again once more.
const RETRY: u32 = 1;
const RETRY_RANGE: u32 = 8;
/// In a turn: once more what the controller may have failed over.
const BLAME: u32 = RETRY * RETRY_RANGE;
const BLAME_RANGE: u32 = 4;
/// From one turn to the next: 27 bits count them, which is more than a queue takes in the time
/// that a command has.
const TURN: u32 = BLAME * BLAME_RANGE;

/// How often a command is tried again that ended for a reason that may pass.
pub(crate) const RETRIES: u32 = 5;
/// A command fails when so many aborts or resets were for its sake, or may have been.
pub(crate) const BLAME_LIMIT: u32 = 3;
/// From so many on it is submitted with no other that is suspected.
const SUSPECT: u32 = 2;
/// log2 of the epochs in a unit of [`Slot::due`].
const DUE_SHIFT: u32 = 4;

/// Which commands a reset is laid to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Those that have not been answered for longer than so many epochs.
    Late(u32),
    /// Those that the controller has; if some are suspected already, those only.
    All,
    /// None of this queue.
    None,
}

/// What of that which is held may be submitted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Whatever is due.
    All,
    /// Only what is suspected.
    Suspects,
    /// Only what is not.
    Others,
}

/// What becomes of a command that ended for a reason that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It is to be submitted now.
    Now(Packed),
    /// It is submitted later, by [`Slots::release_held`].
    Later,
    /// It was tried often enough, or is not awaited.
    No,
}

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    /// A stack of free slot numbers, of which the lowest `available` places count. As long as nothing
    /// can begin it is empty, and `suspended` is that stack: nothing is found here then, at no cost.
    free: Box<[u16]>,
    suspended: Box<[u16]>,
    available: usize,
    commands: usize,
    turn: u32,
    mask: u16,
    /// What is held.
    held: usize,
    /// Commands that ended without an answer, wrapping.
    failed: u32,
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
            due: 0,
        };
        Self {
            slots: (0..depth).map(slot).collect(),
            free: (0..depth - 1).rev().collect(),
            available: usize::from(depth) - 1,
            commands: 0,
            turn: 0,
            mask: depth - 1,
            suspended: Box::default(),
            held: 0,
            failed: 0,
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

    /// The slot that [`Self::begin_one`] would take.
    #[inline]
    pub(crate) fn next(&self) -> Option<usize> {
        let top = self.available.wrapping_sub(1);
        self.free.get(top).copied().map(usize::from)
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
        self.give_back(index);
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
            self.give_back(index);
            return Finished::Command(status, tag);
        }
        let leader = slot.leader;
        let Some(first) = self.slots.get_mut(usize::from(leader)) else {
            return Finished::Nothing;
        };
        first.remaining = first.remaining.saturating_sub(1);
        if first.status.code() == Status::SUCCESS {
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
            self.give_back(index);
        }
        if matches!(finished, Finished::Command(..)) {
            self.commands -= 1;
            self.give_back(leader);
        }
        finished
    }

    /// The slot `index` is free again, from now on or from [`Self::resume`] on. Nothing else makes one
    /// free.
    #[inline(always)]
    fn give_back(&mut self, index: u16) {
        match self.free.get_mut(self.available) {
            Some(place) => {
                *place = index;
                self.available += 1;
            }
            None => self.give_back_suspended(index),
        }
    }

    #[cold]
    #[inline(never)]
    fn give_back_suspended(&mut self, index: u16) {
        if let Some(place) = self.suspended.get_mut(self.available) {
            *place = index;
            self.available += 1;
        }
    }

    /// Gives up everything in flight, and all that may come: no slot is free from now on. Calls
    /// `done` with the tag of each command.
    pub(crate) fn abandon(&mut self, mut done: impl FnMut(Tag)) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.leads() {
                slot.remaining = 0;
                done(slot.tag);
            }
            // What follows another one would go by its age later, too.
            slot.leader = index as u16;
            slot.cid &= !(AWAITED | ALONE | HELD | DOOMED);
            slot.status = Status::SUCCESS;
        }
        self.held = 0;
        self.commands = 0;
        self.available = 0;
    }

    /// The same for one command; `None` when all is done.
    pub(crate) fn abandon_one(&mut self) -> Option<Tag> {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.leads()) else {
            self.abandon(|_| {});
            return None;
        };
        (slot.remaining, slot.cid) = (0, slot.cid & !(AWAITED | ALONE | HELD | DOOMED));
        self.commands -= 1;
        Some(slot.tag)
    }

    /// All as new, after [`Self::abandon`], for a queue of `depth` entries or as many as there are
    /// slots; identifiers go on where they were. Gives the entries.
    pub(crate) fn begin_anew(&mut self, depth: u16) -> u16 {
        self.resume();
        let most = depth.max(2).min(self.mask.saturating_add(1)) - 1;
        for (place, index) in self.free.iter_mut().zip((0..most).rev()) {
            *place = index;
        }
        self.available = most.into();
        most + 1
    }

    /// Lets nothing begin until [`Self::resume`].
    pub(crate) fn suspend(&mut self) {
        if self.suspended.is_empty() {
            self.suspended = core::mem::take(&mut self.free);
        }
    }

    /// Ends what [`Self::suspend`] began. What has finished in between is free from now on.
    pub(crate) fn resume(&mut self) {
        if self.free.is_empty() {
            self.free = core::mem::take(&mut self.suspended);
        }
    }

    /// Between the two: lays the reset to what it may be for, and tells whether anything is
    /// suspected from now on.
    pub(crate) fn lay(&mut self, blame: Blame, epoch: u32) -> bool {
        let suspected = |slot: &Slot| slot.is_out() && slot.blame() >= SUSPECT;
        let known = self.slots.iter().any(suspected);
        for at in 0..self.slots.len() {
            let slot = &self.slots[at];
            let age = epoch.wrapping_sub(self.slots[usize::from(slot.leader)].epoch);
            let is_one = match blame {
                Blame::Late(limit) => age > limit,
                Blame::All => !known || suspected(slot),
                Blame::None => false,
            };
            if slot.is_out() && is_one {
                self.slots[at].suspect();
            }
        }
        let awaited = |slot: &Slot| slot.cid & AWAITED != 0 && slot.blame() >= SUSPECT;
        self.slots.iter().any(awaited)
    }

    /// Between the two: gives every part whose completion is awaited a new identifier and hands
    /// it to `again`, counted from 0, in the order of submission. Commands count as taken at
    /// `epoch` from now on. What is suspected is held; what is too often, or is `unfit`, is doomed.
    /// Returns how many parts there were for `again`.
    pub(crate) fn replay(
        &mut self,
        epoch: u32,
        unfit: impl Fn(&Packed) -> bool,
        mut again: impl FnMut(usize, &Packed),
    ) -> usize {
        self.hold(epoch, unfit, SUSPECT);
        // Places of the stack above those that count are as many as slots in use, or more.
        let Some(order) = self.suspended.get_mut(self.available..) else {
            return 0;
        };
        let slots = &mut self.slots;
        let found = (0..).zip(slots.iter()).filter(|(_, slot)| slot.is_out());
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
        count
    }

    /// Between the two: holds whatever was blamed as often as `blame`, dooms what was too often or is
    /// `unfit` to be submitted again, and counts all commands as taken at `epoch`.
    pub(crate) fn hold(&mut self, epoch: u32, unfit: impl Fn(&Packed) -> bool, blame: u32) {
        self.held = 0;
        for slot in &mut self.slots {
            if slot.leads() {
                slot.epoch = epoch;
            }
            if slot.cid & AWAITED == 0 {
                continue;
            }
            slot.cid &= !(HELD | DOOMED);
            let doomed = slot.blame() >= BLAME_LIMIT || unfit(&slot.entry);
            if doomed || slot.blame() >= blame {
                slot.cid |= HELD;
                slot.due = due(epoch, 0);
                self.held += 1;
            }
            if doomed {
                slot.cid |= DOOMED;
            }
        }
    }

    /// Whatever is in flight for a namespace that is `gone` is never submitted again from now on.
    pub(crate) fn forsake(&mut self, gone: impl Fn(u32) -> bool) {
        for slot in self.slots.iter_mut().filter(|s| s.cid & AWAITED != 0) {
            if gone(slot.entry.namespace()) {
                slot.turn = slot.turn / TURN * TURN + BLAME * BLAME_LIMIT + RETRY_RANGE - 1;
                if slot.cid & HELD != 0 {
                    slot.cid |= DOOMED;
                }
            }
        }
    }

    /// Dooms what is held for a namespace that is `gone`; true if there is anything.
    pub(crate) fn doom_held(&mut self, gone: impl Fn(u32) -> bool) -> bool {
        if self.held == 0 {
            return false;
        }
        let mut any = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.cid & HELD != 0) {
            if gone(slot.entry.namespace()) {
                slot.cid |= DOOMED;
                any = true;
            }
        }
        any
    }

    /// The namespace that the part `cid` is for.
    pub(crate) fn namespace(&self, cid: u16) -> u32 {
        let slot = self.slots.get(usize::from(cid & self.mask));
        slot.map_or(0, |slot| slot.entry.namespace())
    }

    /// Calls `change` with the slot of each part that is awaited, and what is submitted for it if it is
    /// submitted again.
    pub(crate) fn change_awaited(&mut self, mut change: impl FnMut(usize, &mut Packed)) {
        let slots = self.slots.iter_mut().enumerate();
        for (index, slot) in slots.filter(|(_, slot)| slot.cid & AWAITED != 0) {
            change(index, &mut slot.entry);
        }
    }

    /// The identifier of a part that is doomed, to be finished now.
    pub(crate) fn take_doomed(&mut self) -> Option<u16> {
        let doomed = |slot: &&mut Slot| slot.cid & DOOMED != 0;
        let slot = self.slots.iter_mut().find(doomed)?;
        slot.cid &= !(HELD | DOOMED);
        self.held -= 1;
        Some(slot.cid as u16)
    }

    /// Counts a command that has failed since a part of it was doomed.
    pub(crate) fn note_failed(&mut self) {
        self.failed = self.failed.wrapping_add(1);
    }

    /// What becomes of the part `cid` that ended though it should not have. It is tried again after
    /// `delay` epochs; as one that hung if it was `aborted`, which counts apart.
    pub(crate) fn retry(&mut self, cid: u16, epoch: u32, aborted: bool, delay: u32) -> Retry {
        let Some(slot) = self.slots.get_mut(usize::from(cid & self.mask)) else {
            return Retry::No;
        };
        if slot.cid & !ALONE != u32::from(cid) | AWAITED {
            return Retry::No;
        }
        if aborted {
            slot.suspect();
            if slot.blame() >= BLAME_LIMIT {
                return Retry::No;
            }
        } else if slot.turn % RETRY_RANGE >= RETRIES {
            return Retry::No;
        } else {
            slot.turn += RETRY;
        }
        if delay > 0 {
            slot.cid |= HELD;
            slot.due = due(epoch, delay);
            self.held += 1;
            return Retry::Later;
        }
        slot.renew(self.mask);
        let (entry, leader) = (slot.entry, usize::from(slot.leader));
        self.touch(leader, epoch);
        Retry::Now(entry)
    }

    /// How often the part `cid` was tried again.
    pub(crate) fn retries(&self, cid: u16) -> u32 {
        let slot = self.slots.get(usize::from(cid & self.mask));
        slot.map_or(0, |slot| slot.turn % RETRY_RANGE)
    }

    /// A part that is held and due, with a new identifier, to be submitted now. What is suspected
    /// waits until nothing else that is suspected is with the controller.
    #[cold]
    pub(crate) fn release_held(&mut self, epoch: u32, which: Which) -> Option<Packed> {
        if self.held == 0 {
            return None;
        }
        let suspected = |slot: &Slot| slot.is_out() && slot.blame() >= SUSPECT;
        let busy = self.slots.iter().any(suspected);
        let now = due(epoch, 0);
        let is_due = |slot: &Slot| {
            let held = slot.cid & (HELD | DOOMED) == HELD;
            let suspected = slot.blame() >= SUSPECT;
            let wanted = match which {
                Which::All => !(suspected && busy),
                Which::Suspects => suspected && !busy,
                Which::Others => !suspected,
            };
            held && wanted && now.wrapping_sub(slot.due) as i16 >= 0
        };
        let age = |slot: &Slot| self.turn.wrapping_sub(slot.turn);
        let all = self.slots.iter().enumerate();
        let waiting = all.filter(|(_, slot)| is_due(slot));
        let (index, _) = waiting.max_by_key(|(_, slot)| age(slot))?;
        self.held -= 1;
        let slot = self.slots.get_mut(index)?;
        slot.renew(self.mask);
        let (entry, leader) = (slot.entry, usize::from(slot.leader));
        self.touch(leader, epoch);
        Some(entry)
    }

    /// A command of which `leader` is the first part counts as taken at `epoch`.
    fn touch(&mut self, leader: usize, epoch: u32) {
        if let Some(leader) = self.slots.get_mut(leader) {
            leader.epoch = epoch;
        }
    }

    /// Whether something is to fail.
    pub(crate) fn has_doomed(&self) -> bool {
        self.slots.iter().any(|slot| slot.cid & DOOMED != 0)
    }

    /// Whether something is held.
    pub(crate) fn holds(&self) -> bool {
        self.held > 0
    }

    /// Whether something is suspected.
    pub(crate) fn suspects(&self) -> bool {
        let suspected = |slot: &Slot| slot.cid & AWAITED != 0 && slot.blame() >= SUSPECT;
        self.slots.iter().any(suspected)
    }

    /// How many commands have been answered, and how many have failed without an answer; both
    /// wrapping.
    pub(crate) fn progress(&self) -> (u32, u32) {
        let begun = self.turn / TURN;
        let ended = begun.wrapping_sub(self.commands as u32);
        (ended.wrapping_sub(self.failed), self.failed)
    }

    /// Completions that may be on their way, at most.
    #[inline]
    pub(crate) fn out(&self) -> usize {
        usize::from(self.mask).saturating_sub(self.available)
    }

    /// Commands in flight.
    pub(crate) fn commands(&self) -> usize {
        self.commands
    }

    /// How many epochs before `now` the oldest command in flight was taken, and the identifier of
    /// a part of it that is awaited.
    pub(crate) fn oldest(&self, now: u32) -> Option<(u32, u16)> {
        let awaited = self.slots.iter().filter(|slot| slot.is_out());
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

/// The epoch that is `delay` after `epoch`, in units of [`Slot::due`], rounded up.
fn due(epoch: u32, delay: u32) -> u16 {
    let unit = 1 << DUE_SHIFT;
    match delay {
        0 => (epoch >> DUE_SHIFT) as u16,
        delay => ((epoch.wrapping_add(delay)) >> DUE_SHIFT)
            .wrapping_add(u32::from(delay % unit != 0)) as u16,
    }
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

    /// Units of 16 epochs: what is due within one is due at its end, and not before.
    #[test]
    fn what_waits_is_due_no_earlier_than_its_delay_and_no_later_than_a_unit() {
        for (epoch, delay, unit) in [
            (0, 0, 0),
            (47, 0, 2),
            (0, 1, 1),
            (0, 16, 1),
            (0, 17, 2),
            (16, 32, 3),
            (160, 33, 13),
        ] {
            assert_eq!(due(epoch, delay), unit, "{epoch} {delay}");
        }
    }

    #[test]
    fn what_begins_after_all_was_given_up_has_an_age_of_its_own() {
        let mut slots = Slots::new(4);
        take(&mut slots, 3, 1).unwrap();
        slots.abandon(|_| {});
        slots.begin_anew(4);
        let begin = |slots: &mut Slots, epoch| {
            let entry = slots.begin_one(Tag(9), epoch, Entry::default()).unwrap();
            let packed = |cid| {
                Entry {
                    cid,
                    ..Entry::default()
                }
                .packed()
            };
            (0..u16::MAX).find(|&cid| packed(cid) == entry).unwrap()
        };
        let cid = begin(&mut slots, 100);
        begin(&mut slots, 100);
        assert_eq!(slots.finish_alone(Answer { cid, status: 0 }), Some(Tag(9)));
        begin(&mut slots, 50_000);
        assert_eq!(slots.oldest(50_001).map(|(age, _)| age), Some(49_901));
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
    fn a_success_with_hints_hides_no_error() {
        let mut slots = Slots::new(4);
        let split = take(&mut slots, 2, 1).unwrap();
        // More, and a retry delay.
        assert_eq!(slots.finish(split[0], Status(0x2800)), Finished::Part);
        let failed = Finished::Command(Status(0x281), Tag(1));
        assert_eq!(slots.finish(split[1], Status(0x281)), failed);
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
        let count = slots.replay(
            99,
            |_| false,
            |at, entry| {
                assert_eq!(at, again.len());
                again.push((entry.cdw10(), entry.cid()));
            },
        );
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

    /// The entry that is to be submitted again at once.
    fn now(retry: Retry) -> Packed {
        match retry {
            Retry::Now(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_is_retried_five_times_and_aborted_twice() {
        let mut slots = Slots::new(8);
        let cids = take(&mut slots, 2, 1).unwrap();
        let mut cid = cids[1];
        for _ in 0..RETRIES {
            let again = now(slots.retry(cid, 5, false, 0));
            assert_eq!(again.cdw10(), 1);
            assert_eq!(slots.retry(cid, 5, false, 0), Retry::No, "that one is over");
            cid = again.cid();
        }
        assert_eq!(slots.retry(cid, 5, false, 0), Retry::No, "often enough");
        for _ in 1..BLAME_LIMIT {
            cid = now(slots.retry(cid, 5, true, 0)).cid();
        }
        assert_eq!(slots.retry(cid, 5, true, 0), Retry::No, "often enough");
        assert_eq!(slots.finish(cids[1], OK), Finished::Nothing);
        assert_eq!(slots.finish(cids[0], OK), Finished::Part);
        assert_eq!(slots.finish(cid, OK), Finished::Command(OK, Tag(1)));
        assert_eq!(slots.progress(), (1, 0));
        // The next one in the same slots begins anew.
        for cid in take(&mut slots, 7, 2).unwrap() {
            assert!(matches!(slots.retry(cid, 5, false, 0), Retry::Now(_)));
        }
    }

    #[test]
    fn what_waits_for_its_time_is_neither_late_nor_answered_before() {
        let mut slots = Slots::new(8);
        let cid = take(&mut slots, 1, 1).unwrap()[0];
        assert_eq!(slots.retry(cid, 1000, false, 100), Retry::Later);
        assert_eq!(slots.finish(cid, OK), Finished::Nothing);
        assert_eq!(slots.oldest(100_000), None);
        assert_eq!(slots.release_held(1099, Which::All), None);
        let again = slots.release_held(1120, Which::All).unwrap();
        assert!(!slots.holds());
        assert_eq!(slots.oldest(1130).map(|(age, _)| age), Some(10));
        assert_eq!(slots.finish(again.cid(), OK), Finished::Command(OK, Tag(1)));
        // A reset does not wait for it.
        let cid = take(&mut slots, 1, 2).unwrap()[0];
        assert_eq!(slots.retry(cid, 1000, false, 100), Retry::Later);
        assert_eq!(replay(&mut slots).len(), 1);
        assert!(!slots.holds());
    }

    #[test]
    fn what_resets_are_laid_to_is_tried_alone_and_fails_alone() {
        let mut slots = Slots::new(8);
        take(&mut slots, 1, 1).unwrap();
        take(&mut slots, 1, 2).unwrap();
        for suspected in [false, true] {
            slots.suspend();
            assert_eq!(slots.lay(Blame::All, 10), suspected);
            slots.resume();
        }
        // Both were there twice. They come again one by one, and a new one is not in their way.
        assert_eq!(replay(&mut slots), []);
        let first = slots.release_held(99, Which::All).unwrap();
        assert_eq!(
            (first.cdw10(), slots.release_held(99, Which::All)),
            (1, None)
        );
        let new = take(&mut slots, 1, 3).unwrap()[0];
        slots.suspend();
        assert!(slots.lay(Blame::All, 10));
        slots.resume();
        assert_eq!(replay(&mut slots).len(), 1, "the new one");
        assert_eq!(slots.finish(new, OK), Finished::Nothing);
        let doomed = slots.take_doomed().unwrap();
        let failed = slots.finish(doomed, Status::ABORT_REQUESTED);
        assert_eq!(failed, Finished::Command(Status::ABORT_REQUESTED, Tag(1)));
        slots.note_failed();
        assert!(slots.take_doomed().is_none());
        assert_eq!(slots.progress(), (0, 1));
        let second = slots.release_held(99, Which::All).unwrap();
        assert_eq!(
            slots.finish(second.cid(), OK),
            Finished::Command(OK, Tag(2))
        );
        assert_eq!((slots.progress(), slots.suspects()), ((1, 1), false));
    }

    #[test]
    fn what_is_tried_alone_and_once_more_gives_its_place_back_once() {
        let mut slots = Slots::new(8);
        take(&mut slots, 1, 1).unwrap();
        for _ in 0..SUSPECT {
            slots.suspend();
            slots.lay(Blame::All, 10);
            slots.resume();
        }
        slots.suspend();
        slots.hold(99, |_| false, 0);
        let tried = slots.release_held(99, Which::Suspects).unwrap();
        let Retry::Now(again) = slots.retry(tried.cid(), 99, false, 0) else {
            panic!("it may be tried again");
        };
        let cid = again.cid();
        assert_eq!(slots.finish_alone(Answer { cid, status: 0 }), Some(Tag(1)));
        assert_eq!(slots.reserve(0), None, "nothing begins meanwhile");
        assert_eq!(slots.finish_alone(Answer { cid, status: 0 }), None);
        slots.resume();
        let mut places: Vec<u16> = (0..7)
            .map(|tag| take(&mut slots, 1, tag).unwrap()[0] & 7)
            .collect();
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_late_command_is_what_a_reset_is_laid_to_if_one_is_known() {
        let mut slots = Slots::new(8);
        take(&mut slots, 1, 1).unwrap();
        take(&mut slots, 1, 90).unwrap();
        for _ in 0..BLAME_LIMIT {
            slots.lay(Blame::Late(50), 100);
        }
        slots.suspend();
        let mut again = Vec::new();
        slots.replay(100, |_| false, |_, entry| again.push(entry.cdw10()));
        slots.resume();
        assert_eq!(again, [90]);
        assert!(slots.take_doomed().is_some());
    }
}
