//! The data path: a submission and a completion queue that one core owns.

use core::sync::atomic::{Ordering, fence};

use spindle_block::{Command, DiskQueue, IoError, IoResult, Op, Segment, SubmitError, Tag, Unit};
use spindle_hw::{Registers, SharedPages};

use crate::Status;
use crate::command::{Entry, answer, io};
use crate::prp::{Runs, Second, one_page};
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
    head: usize,
    phase: u32,
    head_doorbell: usize,
    /// The most bytes one NVMe command moves.
    limit: u32,
    /// log2 of the bytes of each slot's PRP list.
    list_shift: u32,
    epoch: u32,
    spurious: u64,
    gone: bool,
}

/// The memory of a queue pair, which the controller reaches as long as the queues exist.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    pub(crate) submission: SharedPages,
    pub(crate) completion: SharedPages,
    /// One PRP list for each slot.
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
}

/// A read or write as [`QueuePair::transfer`] is asked for it. A struct of its own, made where it
/// is needed: a [`Command`] that a call gets to see has to be written to memory for every request.
struct Transfer<'a> {
    opcode: u8,
    unit: Unit,
    block_shift: u8,
    block: u64,
    segments: &'a [Segment],
}

impl<R: Registers> QueuePair<R> {
    pub(crate) fn new(registers: R, memory: QueueMemory, shape: Shape) -> Self {
        Self {
            registers,
            id: shape.id,
            memory,
            slots: Slots::new(shape.depth),
            mask: usize::from(shape.depth) - 1,
            tail: 0,
            told: 0,
            tail_doorbell: submission_doorbell(shape.id, shape.doorbell_stride),
            head: 0,
            phase: 1,
            head_doorbell: completion_doorbell(shape.id, shape.doorbell_stride),
            limit: shape.limit,
            list_shift: shape.list_shift,
            epoch: 0,
            spurious: 0,
            gone: false,
        }
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

    /// Sets what later commands count as the time of their submission, in any unit; a ring core
    /// does it once per turn, since no clock is read for a single command.
    pub fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// How long ago, in epochs, the oldest command in flight was submitted.
    #[must_use]
    pub fn oldest(&self) -> Option<u32> {
        self.slots.oldest(self.epoch)
    }

    /// A read or write of one piece of memory that needs nothing of what [`Self::transfer`] can do.
    #[inline(always)]
    fn transfer_page(
        &mut self,
        command: &Command<'_>,
        bus: u64,
        blocks: u32,
        opcode: u8,
        tag: Tag,
    ) -> Result<(), SubmitError> {
        let cid = self.slots.begin_one(tag, self.epoch);
        let entry = Entry {
            opcode,
            cid: cid.ok_or_else(|| self.full())?,
            namespace: command.unit.0,
            prp1: bus,
            prp2: 0,
            cdw10: command.block,
            // NLB is 0's based (6.9, 6.15).
            cdw12: blocks - 1,
        };
        entry.store(&self.memory.submission, self.tail);
        self.tail = (self.tail + 1) & self.mask;
        Ok(())
    }

    #[inline(never)]
    fn transfer(&mut self, transfer: &Transfer<'_>, tag: Tag) -> Result<(), SubmitError> {
        if self.gone {
            return Err(SubmitError::Gone);
        }
        let shift = transfer.block_shift & 31;
        let mut block = transfer.block;
        let mut runs = Runs::new(transfer.segments, self.limit, shift);
        // Entries and lists are written as parts come; none counts before `begin` and the new
        // tail, so that giving up half-way needs no undoing.
        let mut parts = 0;
        loop {
            let slot = self.slots.reserve(parts);
            let list = slot.map_or(0, |(index, _)| index << self.list_shift);
            let lists = &self.memory.lists;
            let run = runs.next(|index, page| {
                if slot.is_some() {
                    lists
                        .u64_at(list + index * size_of::<u64>())
                        .store(page, Ordering::Relaxed);
                }
            });
            let run = match run {
                None => break,
                Some(run) => run.map_err(|_| SubmitError::Scattered)?,
            };
            let Some((_, cid)) = slot else {
                return Err(self.no_room(parts + 1, runs));
            };
            let blocks = run.bytes >> shift;
            let entry = Entry {
                opcode: transfer.opcode,
                cid,
                namespace: transfer.unit.0,
                prp1: run.prp1,
                prp2: match run.second {
                    Second::None => 0,
                    Second::Page(page) => page,
                    Second::List => lists.bus() + list as u64,
                },
                cdw10: block,
                // NLB is 0's based and 16 bits wide (6.9, 6.15); MAX_TRANSFER keeps far below.
                cdw12: blocks.wrapping_sub(1) & 0xffff,
            };
            entry.store(&self.memory.submission, (self.tail + parts) & self.mask);
            block = block.wrapping_add(blocks.into());
            parts += 1;
        }
        if parts == 0 {
            return Err(SubmitError::Scattered);
        }
        self.slots.begin(parts, tag, self.epoch);
        self.tail = (self.tail + parts) & self.mask;
        Ok(())
    }

    /// What to say of a command whose first `parts` runs, before `rest`, are more than there are
    /// free slots: a later try helps only if an empty queue would do.
    #[cold]
    fn no_room(&self, mut parts: usize, mut rest: Runs<'_>) -> SubmitError {
        while let Some(run) = rest.next(|_, _| {}) {
            if run.is_err() {
                return SubmitError::Scattered;
            }
            parts += 1;
        }
        if parts > self.capacity() {
            return SubmitError::Scattered;
        }
        SubmitError::Full
    }

    /// Why there is no slot: nobody looks at `gone` before, since then there never is one.
    #[cold]
    fn full(&self) -> SubmitError {
        if self.gone {
            SubmitError::Gone
        } else {
            SubmitError::Full
        }
    }

    #[inline(never)]
    fn flush(&mut self, unit: Unit, tag: Tag) -> Result<(), SubmitError> {
        let cid = self.slots.begin_one(tag, self.epoch);
        let entry = Entry {
            opcode: io::FLUSH,
            cid: cid.ok_or_else(|| self.full())?,
            namespace: unit.0,
            ..Entry::default()
        };
        entry.store(&self.memory.submission, self.tail);
        self.tail = (self.tail + 1) & self.mask;
        Ok(())
    }
}

impl<R: Registers> DiskQueue for QueuePair<R> {
    #[inline(always)]
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        let opcode = match command.op {
            Op::Read => io::READ,
            Op::Write => io::WRITE,
            Op::Flush => return self.flush(command.unit, tag),
            Op::WriteThrough | Op::Discard | Op::SecureDiscard => {
                return Err(SubmitError::Unsupported);
            }
        };
        if let [segment] = *command.segments
            && let Some(blocks) = one_page(segment, command.block_shift)
        {
            return self.transfer_page(command, segment.bus, blocks, opcode, tag);
        }
        let transfer = Transfer {
            opcode,
            unit: command.unit,
            block_shift: command.block_shift,
            block: command.block,
            segments: command.segments,
        };
        self.transfer(&transfer, tag)
    }

    #[inline]
    fn commit(&mut self) {
        if self.told == self.tail {
            return;
        }
        self.told = self.tail;
        // Entries and lists before the doorbell that makes the controller read them.
        fence(Ordering::Release);
        self.registers.write32(self.tail_doorbell, self.tail as u32);
    }

    #[inline]
    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        if self.gone {
            return 0;
        }
        let (mut head, mut phase) = (self.head, self.phase);
        let mut count = 0;
        // One turn of the queue at most: a controller that keeps writing must not keep this core.
        for _ in 0..self.capacity() + 1 {
            let Some(answer) = answer(&self.memory.completion, head, phase) else {
                break;
            };
            head = (head + 1) & self.mask;
            phase ^= u32::from(head == 0);
            match self.slots.finish(answer.cid, Status(answer.status)) {
                Finished::Command(status, tag) => {
                    count += 1;
                    done(tag, status.result());
                }
                Finished::Part => {}
                Finished::Nothing => self.spurious += 1,
            }
        }
        if (head, phase) != (self.head, self.phase) {
            (self.head, self.phase) = (head, phase);
            self.registers.write32(self.head_doorbell, head as u32);
        }
        count
    }

    #[inline]
    fn in_flight(&self) -> usize {
        self.slots.commands()
    }

    fn fail_all(&mut self, mut done: impl FnMut(Tag, IoResult)) {
        self.gone = true;
        self.slots.abandon(|tag| done(tag, Err(IoError::Aborted)));
    }
}
