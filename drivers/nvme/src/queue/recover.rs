//! What a queue does besides its commands: it watches their age, tries again what may pass, and
//! takes part when the controller is reset.

use core::sync::atomic::Ordering;

use spindle_block::{IoError, IoResult, Tag};
use spindle_hw::{PAGE_SIZE, Registers};

use super::QueuePair;
use crate::Status;
use crate::command::{Packed, io};
use crate::link::{Cause, Link, Order, Step, Terms};
use crate::namespace_table::NamespaceTable;
use crate::registers::{completion_doorbell, submission_doorbell};
use crate::slots::{Blame, Finished, Retry, Which};

/// Nanoseconds in an epoch, the unit of a command's age: 2 to this power, about a millisecond.
pub(super) const EPOCH_SHIFT: u32 = 20;
/// Epochs between two looks at the ages.
pub(super) const LOOK: u32 = 128;
/// The same as long as something waits to be submitted again.
const LOOK_HELD: u32 = 8;
/// Epochs until the first, second... further try of a command, where the controller does not say:
/// what ends of itself does so at once or takes a while.
const DELAYS: [u32; 5] = [0, 100, 500, 2_000, 10_000];
/// The most epochs between two tries, whatever the controller says.
const MAX_DELAY: u32 = 30_000;
/// CRDT is in units of 100 ms (5.15.2.2), which are so many epochs.
const DELAY_UNIT: u32 = 96;

/// Limits that a controller no longer allows after a reset, though commands were made within them.
#[derive(Clone, Copy)]
struct Outgrown {
    /// The most bytes in a command, if those in flight may have more.
    limit: Option<u32>,
}

impl Outgrown {
    /// Whether what was submitted as `entry` must not be submitted once more: the controller might take
    /// memory for it that is not the command's, or a namespace that is not the one it was for.
    fn has(self, entry: &Packed, link: &Link, namespaces: &NamespaceTable) -> bool {
        let namespace = entry.namespace();
        let too_large = match entry.opcode() {
            io::READ | io::WRITE => self
                .limit
                .is_some_and(|limit| entry.blocks() << namespaces.shift(namespace) > limit.into()),
            _ => false,
        };
        too_large || is_gone(link, namespaces, namespace)
    }
}

/// Whether nothing may be submitted again for namespace `id`, since it is gone. One that is not known
/// any longer is.
fn is_gone(link: &Link, namespaces: &NamespaceTable, id: u32) -> bool {
    let place = namespaces.place(id);
    place.is_none_or(|place| link.is_gone(place))
}

impl<R: Registers> QueuePair<R> {
    /// Tells control of the oldest command, now and then, if it is older than allowed. That it is
    /// there no longer is told at once: this may be the last tick before the core sleeps.
    #[inline]
    pub(super) fn watch(&mut self) {
        if self.told_late || self.epoch.wrapping_sub(self.looked) >= self.look_every {
            self.look();
        }
    }

    #[cold]
    fn look(&mut self) {
        self.looked = self.epoch;
        self.see_boundaries();
        let namespaces = &*self.namespaces;
        self.link.see_closed(|closed| {
            let is_closed = |id| namespaces.place(id).is_some_and(closed);
            self.slots.forsake(is_closed);
        });
        if self.parked {
            // The controller has none of it.
            return;
        }
        self.submit_held();
        let oldest = self.slots.oldest(self.epoch);
        let late = oldest.filter(|(age, _)| *age > self.age_limit);
        self.told_late = late.is_some();
        self.link.tell_late(late.map(|(_, cid)| cid));
        self.link.tell_progress(self.slots.progress());
        self.link.tell_suspects(self.slots.suspects());
    }

    /// Submits what is due, unless its namespace is gone.
    fn submit_held(&mut self) {
        if !self.stopped {
            // The next poll answers it.
            let (link, namespaces) = (&self.link, &*self.namespaces);
            let gone = |id| is_gone(link, namespaces, id);
            self.stopped = self.slots.doom_held(gone);
            self.stopped |= self.slots.has_doomed();
        }
        if !self.stopped {
            let which = match (self.trying, self.link.withholds()) {
                (true, _) => Which::Suspects,
                (false, true) => Which::Others,
                (false, false) => Which::All,
            };
            while let Some(entry) = self.slots.release_held(self.epoch, which) {
                // There is room: its old entry has been read.
                entry.store(&self.memory.submission, self.tail);
                self.tail = (self.tail + 1) & self.mask;
            }
            self.ring_tail();
        }
        let soon = self.trying || self.slots.holds();
        self.look_every = if soon { LOOK_HELD } else { LOOK };
    }

    /// Does as control says.
    #[cold]
    pub(super) fn follow(&mut self, order: Order) {
        match order.step() {
            Step::Pause => self.stop(),
            // What is left of before is answered first; the next tick looks again.
            Step::Clear if self.gone && self.slots.commands() > 0 => return,
            Step::Clear => {
                self.memory.completion.zero(0, self.memory.completion.len());
                (self.tail, self.told) = (0, 0);
                (self.head, self.shown) = (0, 0);
                self.link.tell_late(None);
                if self.gone {
                    self.link.tell_suspects(false);
                }
            }
            // The controller has come back, or another one in its place.
            Step::Run if self.gone && self.order.step() == Step::Clear => self.begin_anew(),
            Step::Run if self.trying => self.end_trial(),
            Step::Run => self.replay(),
            Step::Try => self.try_suspects(),
            Step::Lose => {
                self.stop();
                self.gone = true;
            }
        }
        self.order = order;
        self.link.followed(order);
    }

    /// Answers what ends without the controller. `done` is called in one place only, always with the
    /// same error: whether the compiler puts it in line for every command depends on that.
    #[cold]
    pub(super) fn poll_stopped(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        let before = self.slots.commands();
        while let Some(tag) = self.next_ended() {
            done(tag, Err(IoError::Aborted));
        }
        before - self.slots.commands()
    }

    /// The next command in flight on a queue that was given up, once that may be answered; or that
    /// is not submitted again after a reset.
    #[inline(never)]
    fn next_ended(&mut self) -> Option<Tag> {
        if self.gone {
            return match self.link.is_released() {
                true => self.slots.abandon_one(),
                false => None,
            };
        }
        // While the queue is parked nothing may end.
        while !self.parked
            && let Some(cid) = self.slots.take_doomed()
        {
            let finished = self.slots.finish(cid, Status::ABORT_REQUESTED);
            if let Finished::Command(_, tag) = finished {
                self.slots.note_failed();
                return Some(tag);
            }
        }
        self.stopped = self.parked;
        self.submit_held();
        None
    }

    /// Leaves of the discards in flight what the controller takes in any case: what else they were for
    /// is left out, which a discard allows. One that knows none any longer refuses them itself.
    fn shrink_discards(&mut self) {
        let Some(limits) = self.discards else {
            return;
        };
        let (lists, shift) = (&self.memory.lists, self.list_shift);
        self.slots.change_awaited(|slot, entry| {
            if entry.opcode() == io::DATASET_MANAGEMENT {
                *entry = entry.with_one_range();
                let [range] = lists.u64s_at::<1>(slot << shift);
                let blocks = range.load(Ordering::Relaxed) >> 32;
                let blocks = limits.ranges(blocks).next().unwrap_or(1);
                range.store(u64::from(blocks) << 32, Ordering::Relaxed);
            }
        });
    }

    pub(super) fn stop(&mut self) {
        if self.parked {
            return;
        }
        (self.stopped, self.parked, self.trying) = (true, true, false);
        // What has not been committed is submitted again with all the rest.
        self.told = self.tail;
        self.slots.suspend();
        let blame = match self.link.cause() {
            Cause::Failure => Blame::All,
            Cause::Late => Blame::Late(self.age_limit),
            Cause::Spared => Blame::None,
        };
        self.link.tell_suspects(self.slots.lay(blame, self.epoch));
        self.link.tell_progress(self.slots.progress());
    }

    /// The queue as it was made, with nothing in flight.
    fn begin_anew(&mut self) {
        // Whether or not it was ever called to fail all that was in flight.
        self.slots.abandon(|_| {});
        let Terms { depth, stride, .. } = self.link.terms();
        let depth = self.slots.begin_anew(depth);
        self.mask = usize::from(depth) - 1;
        self.tail_doorbell = submission_doorbell(self.id, stride as usize);
        self.head_doorbell = completion_doorbell(self.id, stride as usize);
        self.take_terms();
        (self.gone, self.parked, self.stopped) = (false, false, false);
        self.told_late = false;
        self.link.tell_suspects(false);
    }

    /// Takes the limits that the controller has now. Gives what is needed to tell which commands that
    /// were made within the old ones must not be submitted to it.
    #[inline(never)]
    fn take_terms(&mut self) -> Outgrown {
        let Terms {
            limit,
            discards,
            delays,
            ..
        } = self.link.terms();
        // No list is longer than there is memory for it.
        let most = (PAGE_SIZE / size_of::<u64>()) << self.list_shift;
        let limit = limit.min(u32::try_from(most).unwrap_or(u32::MAX));
        let discards = discards.map(|it| it.within(1 << self.list_shift));
        let old = self.discards;
        let fit = old.is_none_or(|old| discards.is_some_and(|new| old.are_within(new)));
        let outgrown = Outgrown {
            limit: (limit < self.limit).then_some(limit),
        };
        (self.limit, self.discards, self.delays) = (limit, discards, delays);
        if !fit {
            self.shrink_discards();
        }
        outgrown
    }

    /// Submits what the controller may have failed over more than once, one after the other and nothing
    /// else: neither what else there is, nor anything new. A command of which the controller fails
    /// while it has no other is known for what it is.
    fn try_suspects(&mut self) {
        if self.gone || !self.parked {
            return;
        }
        let outgrown = self.take_terms();
        let (link, namespaces) = (&self.link, &*self.namespaces);
        let unfit = |entry: &Packed| outgrown.has(entry, link, namespaces);
        self.slots.hold(self.epoch, unfit, 0);
        (self.parked, self.trying) = (false, true);
        // The next poll answers what is not submitted again.
        self.stopped = self.slots.has_doomed();
        self.submit_held();
    }

    /// Submits all the rest.
    fn end_trial(&mut self) {
        self.trying = false;
        self.slots.resume();
        self.submit_held();
    }

    /// Submits everything in flight once more, in the order of the first time. Reads, writes,
    /// flushes and discards can be done twice; no answer for them has been given. What is beyond
    /// the limits that the controller came back with fails, but for discards, and nothing else. What it
    /// may have failed over again and again comes one by one, and fails in the end.
    fn replay(&mut self) {
        if self.gone || !self.parked {
            return;
        }
        let outgrown = self.take_terms();
        let submission = &self.memory.submission;
        let (link, namespaces) = (&self.link, &*self.namespaces);
        let unfit = |entry: &Packed| outgrown.has(entry, link, namespaces);
        self.tail = self.slots.replay(self.epoch, unfit, |index, entry| {
            entry.store(submission, index);
        });
        self.parked = false;
        self.slots.resume();
        // The next poll answers what is not submitted again.
        self.stopped = self.slots.has_doomed();
        self.submit_held();
        self.ring_tail();
    }

    /// Submits the command with identifier `cid` once more if it ended because control asked for
    /// that, or for a reason that may pass, as far as that was not too often. True if so.
    #[cold]
    pub(super) fn retry(&mut self, cid: u16, status: Status) -> bool {
        let namespace = self.slots.namespace(cid);
        if !status.may_pass() || is_gone(&self.link, &self.namespaces, namespace) {
            return false;
        }
        let aborted = status.code() == Status::ABORT_REQUESTED;
        let index = status.delay().checked_sub(1);
        let asked_for = index.and_then(|index| self.delays.get(index));
        let delay = match asked_for {
            _ if aborted => 0,
            Some(&units) => (u32::from(units) * DELAY_UNIT).min(MAX_DELAY),
            // What is on the medium does not change by waiting.
            None if status.is_medium() => 0,
            None => {
                let tried = self.slots.retries(cid) as usize;
                DELAYS.get(tried).copied().unwrap_or(MAX_DELAY)
            }
        };
        match self.slots.retry(cid, self.epoch, aborted, delay) {
            Retry::Now(entry) => {
                // There is room: this command's old entry has been read.
                entry.store(&self.memory.submission, self.tail);
                self.tail = (self.tail + 1) & self.mask;
                true
            }
            Retry::Later => {
                self.look_every = LOOK_HELD;
                true
            }
            Retry::No => false,
        }
    }
}
