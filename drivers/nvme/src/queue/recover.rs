//! What a queue does besides its commands: it watches their age, and takes part when the
//! controller is reset.

use spindle_block::{IoError, IoResult, Tag};
use spindle_hw::Registers;

use super::QueuePair;
use crate::Status;
use crate::link::{Order, Step};

/// Nanoseconds in an epoch, the unit of a command's age: 2 to this power, about a millisecond.
pub(super) const EPOCH_SHIFT: u32 = 20;
/// Epochs between two looks at the ages.
const LOOK: u32 = 128;

impl<R: Registers> QueuePair<R> {
    /// Tells control of the oldest command, now and then, if it is older than allowed. That it is
    /// there no longer is told at once: this may be the last tick before the core sleeps.
    #[inline]
    pub(super) fn watch(&mut self) {
        if self.told_late || self.epoch.wrapping_sub(self.looked) >= LOOK {
            self.look();
        }
    }

    #[cold]
    fn look(&mut self) {
        self.looked = self.epoch;
        let oldest = self.slots.oldest(self.epoch);
        let late = oldest.filter(|(age, _)| *age > self.age_limit);
        self.told_late = late.is_some();
        self.link.tell_late(late.map(|(_, cid)| cid));
    }

    /// Does as control says.
    #[cold]
    pub(super) fn follow(&mut self, order: Order) {
        match order.step() {
            Step::Pause => self.stop(),
            Step::Clear => {
                self.memory.completion.zero(0, self.memory.completion.len());
                (self.tail, self.told, self.head) = (0, 0, 0);
                self.link.tell_late(None);
            }
            Step::Run => self.replay(),
            Step::Lose => {
                self.stop();
                self.gone = true;
            }
        }
        self.order = order;
        self.link.followed(order);
    }

    /// Answers what is in flight on a queue that was given up, once that may be.
    #[cold]
    pub(super) fn poll_stopped(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        let mut count = 0;
        if self.gone && self.link.is_released() {
            self.slots.abandon(|tag| {
                count += 1;
                done(tag, Err(IoError::Aborted));
            });
        }
        count
    }

    fn stop(&mut self) {
        self.stopped = true;
        // What has not been committed is submitted again with all the rest.
        self.told = self.tail;
        self.slots.suspend();
    }

    /// Submits everything in flight once more, in the order of the first time. Reads, writes,
    /// flushes and discards can be done twice; nobody has been told of their end.
    fn replay(&mut self) {
        if self.gone {
            return;
        }
        let submission = &self.memory.submission;
        self.tail = self.slots.replay(self.epoch, |index, entry| {
            entry.store(submission, index);
        });
        self.stopped = false;
        self.slots.resume();
        self.ring_tail();
    }

    /// Submits the command with identifier `cid` once more if it ended because control asked for
    /// that, or the controller could not just then, as far as it was the first time. True if so.
    #[cold]
    pub(super) fn retry(&mut self, cid: u16, status: Status) -> bool {
        if !status.may_pass() {
            return false;
        }
        let Some(entry) = self.slots.retry(cid, self.epoch) else {
            return false;
        };
        // There is room: this command's old entry has been read.
        entry.store(&self.memory.submission, self.tail);
        self.tail = (self.tail + 1) & self.mask;
        true
    }
}
