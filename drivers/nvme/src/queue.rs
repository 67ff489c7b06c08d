//! The data path: a submission and a completion queue that one core owns.

mod discard;
mod recover;
mod transfer;

use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use spindle_block::{Budget, Command, DiskQueue, IoError, IoResult, Op, Part, SubmitError, Tag};
use spindle_hw::{Registers, SharedPages};

use self::transfer::{Kind, Transfer};
use crate::Status;
use crate::command::{Answer, answer};
use crate::discard::DiscardLimits;
use crate::link::{Link, Order, Step};
use crate::namespace_table::NamespaceTable;
use crate::prp::{UNALIGNED, one_page};
use crate::registers::{completion_doorbell, submission_doorbell};
use crate::slots::{Finished, Slots};

/// An NVMe I/O queue pair; made by [`crate::Controller::create_queue`] and given back to
/// [`crate::Controller::delete_queue`] or [`crate::Controller::shutdown`].
///
/// Dropping one instead leaks its memory, which the controller may still write to.
#[derive(Debug)]
pub struct QueuePair<R> {
    registers: R,
    id: u16,
    pub(crate) memory: QueueMemory,
    slots: Slots,
    /// Entries in each queue less one; the number of entries is a power of two.
    mask: usize,
    tail: usize,
    /// The tail as the controller knows it.
    told: usize,
    tail_doorbell: usize,
    /// The next completion, counted over two rounds: the bit above the mask tells the phase.
    head: usize,
    /// That as the controller knows it.
    shown: usize,
    head_doorbell: usize,
    /// The most bytes one NVMe command moves.
    limit: u32,
    namespaces: Arc<NamespaceTable>,
    /// Bits of a bus address that a command of one page must not have, or it may take more than
    /// that: all of them as long as some namespace has boundaries. One word for both questions,
    /// so that the second costs nothing.
    special: u64,
    /// log2 of the bytes of each slot's PRP list.
    list_shift: u32,
    discards: Option<DiscardLimits>,
    /// The time of the last tick.
    epoch: u32,
    /// Epochs that a command may take.
    age_limit: u32,
    /// When the ages were looked at last.
    looked: u32,
    /// Epochs from one look to the next.
    look_every: u32,
    /// Control was told of a late command.
    told_late: bool,
    /// CRDT1 to CRDT3, in units of 100 ms.
    delays: [u16; 3],
    link: Arc<Link>,
    /// The last order followed.
    order: Order,
    spurious: u64,
    /// Completions are not looked for: the queue is parked or gone, or something is to fail.
    stopped: bool,
    /// Neither doorbells nor queue memory are touched: control resets the controller.
    parked: bool,
    /// Only what the controller may have failed over is submitted, and nothing new is taken.
    trying: bool,
    gone: bool,
}

/// The memory of a queue pair, which the controller reaches as long as the queues exist.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    pub(crate) submission: SharedPages,
    pub(crate) completion: SharedPages,
    /// One PRP list for each slot, or the ranges of a discard.
    pub(crate) lists: SharedPages,
}

/// What [`crate::Controller`] settles about a queue pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) id: u16,
    /// Entries in each queue: a power of two.
    pub(crate) depth: u16,
    pub(crate) doorbell_stride: usize,
    pub(crate) limit: u32,
    pub(crate) list_shift: u32,
    pub(crate) discards: Option<DiscardLimits>,
    /// CRDT1 to CRDT3, in units of 100 ms.
    pub(crate) delays: [u16; 3],
}

impl<R: Registers> QueuePair<R> {
    pub(crate) fn new(
        registers: R,
        memory: QueueMemory,
        shape: Shape,
        limit: Duration,
        link: Arc<Link>,
        namespaces: Arc<NamespaceTable>,
    ) -> Self {
        let age_limit = limit.as_nanos() >> recover::EPOCH_SHIFT;
        let mut queue = Self {
            registers,
            id: shape.id,
            memory,
            slots: Slots::new(shape.depth),
            mask: usize::from(shape.depth) - 1,
            tail: 0,
            told: 0,
            tail_doorbell: submission_doorbell(shape.id, shape.doorbell_stride),
            head: 0,
            shown: 0,
            head_doorbell: completion_doorbell(shape.id, shape.doorbell_stride),
            limit: shape.limit,
            namespaces,
            special: UNALIGNED,
            list_shift: shape.list_shift,
            discards: shape.discards.map(|it| it.within(1 << shape.list_shift)),
            epoch: 0,
            age_limit: u32::try_from(age_limit).unwrap_or(u32::MAX),
            looked: 0,
            look_every: recover::LOOK,
            told_late: false,
            delays: shape.delays,
            order: link.order(),
            link,
            spurious: 0,
            stopped: false,
            parked: false,
            trying: false,
            gone: false,
        };
        queue.see_boundaries();
        if queue.order.step() == Step::Lose {
            // Its controller has not come up yet.
            queue.stop();
            queue.gone = true;
            queue.link.followed(queue.order);
        }
        queue
    }

    /// Looks whether any namespace has boundaries now.
    fn see_boundaries(&mut self) {
        self.special = match self.namespaces.any_boundaries() {
            true => u64::MAX,
            false => UNALIGNED,
        };
    }

    /// The queue identifier, from 1.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The most NVMe commands that can be in flight at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.mask
    }

    /// Completions that named no command in flight: counted and ignored.
    #[must_use]
    pub fn spurious(&self) -> u64 {
        self.spurious
    }

    /// The completion that comes as `head`, if it has come.
    #[inline(always)]
    fn answer(&self, head: usize) -> Option<Answer> {
        let phase = u32::from(head & (self.mask + 1) == 0);
        answer(&self.memory.completion, head & self.mask, phase)
    }

    /// Takes a completion that is not just the success of a command of one part. What has ended by it
    /// is for `done`, apart from the others, so that for those that is short.
    #[inline(never)]
    fn conclude(&mut self, answer: Answer, done: &mut impl FnMut(Tag, IoResult)) {
        let status = Status(answer.status);
        if self.retry(answer.cid, status) {
            return;
        }
        match self.slots.finish(answer.cid, status) {
            Finished::Command(status, tag) => done(tag, status.result()),
            Finished::Part => {}
            Finished::Nothing => {
                self.spurious += 1;
                self.link.report_spurious(self.spurious);
            }
        }
    }

    /// A command that moves no data.
    #[inline(never)]
    fn submit_other(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        match command.op {
            Op::Flush => self.flush(command.unit, tag),
            Op::Discard => self.discard(command, tag),
            // Deallocated blocks may still be on the medium.
            _ => Err(SubmitError::Unsupported),
        }
    }

    /// Takes what has come, whatever it is.
    #[inline]
    fn poll_others(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        if self.stopped {
            return self.poll_stopped(done);
        }
        let mut head = self.head;
        let before = self.slots.commands();
        // One turn of the queue at most: a controller that keeps writing must not keep this core. If some
        // were taken just now, what can be there of the others.
        let end = match head == self.shown {
            true => head + self.mask + 1,
            false => head + self.slots.out(),
        };
        while head != end
            && let Some(answer) = self.answer(head)
        {
            head += 1;
            match self.slots.finish_alone(answer) {
                Some(tag) => done(tag, Ok(())),
                None => self.conclude(answer, &mut done),
            }
        }
        if head != self.shown {
            self.show(head);
            // What is tried again.
            self.ring_tail();
        }
        before - self.slots.commands()
    }

    /// All completions before `head` are taken.
    #[inline(always)]
    fn show(&mut self, head: usize) {
        self.head = head & (2 * self.mask + 1);
        self.shown = self.head;
        let index = head & self.mask;
        self.registers.write32(self.head_doorbell, index as u32);
    }

    #[inline(always)]
    fn ring_tail(&mut self) {
        if self.told == self.tail {
            return;
        }
        self.told = self.tail;
        // Entries and lists before the doorbell that makes the controller read them.
        fence(Ordering::Release);
        self.registers.write32(self.tail_doorbell, self.tail as u32);
    }
}

impl<R: Registers> DiskQueue for QueuePair<R> {
    #[inline(always)]
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        let Some(kind) = Kind::of(command.op) else {
            return self.submit_other(command, tag);
        };
        if let [segment] = *command.segments
            && let Some(length) = one_page(segment, command.block_shift, self.special)
        {
            return self.transfer_page(command, segment.bus(), length, kind, tag);
        }
        self.transfer(&Transfer::new(kind, command), tag)
    }

    fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        match Kind::of(command.op) {
            Some(kind) => self.transfer_part(&Transfer::new(kind, command), from, budget, tag),
            None if command.op == Op::Discard => self.discard_part(command, from, budget, tag),
            None => self.submit_other(command, tag).map(|()| Part {
                blocks: 0,
                commands: 1,
            }),
        }
    }

    fn requests(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
        match Kind::of(command.op) {
            Some(_) => self.count(command),
            None => Ok(1),
        }
    }

    fn depth(&self) -> usize {
        self.capacity()
    }

    #[inline(always)]
    fn commit(&mut self) {
        self.ring_tail();
    }

    #[inline(always)]
    fn poll_successes(&mut self, mut done: impl FnMut(Tag)) -> usize {
        if self.stopped {
            return 0;
        }
        let mut head = self.head;
        let before = self.slots.commands();
        for _ in 0..before {
            let answer = self.answer(head);
            // Most commands have one part and succeed.
            let Some(tag) = answer.and_then(|answer| self.slots.finish_alone(answer)) else {
                break;
            };
            head += 1;
            done(tag);
        }
        self.head = head & (2 * self.mask + 1);
        before - self.slots.commands()
    }

    #[inline]
    fn poll(&mut self, done: impl FnMut(Tag, IoResult)) -> usize {
        if self.head != self.shown && self.slots.out() == 0 && !self.stopped {
            // All were taken just now, as where there is one at a time.
            self.show(self.head);
            return 0;
        }
        self.poll_others(done)
    }

    #[inline]
    fn in_flight(&self) -> usize {
        self.slots.commands()
    }

    #[inline]
    fn is_stirred(&self) -> bool {
        self.stopped || self.answer(self.head).is_some()
    }

    #[inline]
    fn tick(&mut self, now_ns: u64) {
        self.epoch = (now_ns >> recover::EPOCH_SHIFT) as u32;
        let order = self.link.order();
        if order != self.order {
            self.follow(order);
        }
        self.watch();
    }

    fn fail_all(&mut self, mut done: impl FnMut(Tag, IoResult)) {
        (self.gone, self.stopped) = (true, true);
        self.slots.abandon(|tag| done(tag, Err(IoError::Aborted)));
    }
}
