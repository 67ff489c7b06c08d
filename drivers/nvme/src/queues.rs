//! Making queue pairs and taking them back. For the control core.

use alloc::sync::Arc;

use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE, Registers};

use crate::command::{COMPLETION_SHIFT, Entry, SUBMISSION_SHIFT, admin as opcode};
use crate::discard::RANGE_SHIFT;
use crate::link::Link;
use crate::queue::{QueueMemory, Shape};
use crate::registers::check_doorbells;
use crate::{Controller, Error, QueuePair};

/// Create queue: physically contiguous; nothing else set, so that interrupts are off (5.3).
const CONTIGUOUS: u64 = 1;

/// The most bytes in a command of a controller that comes up only after its queues were made: there is
/// no room for longer lists, of which there may never be use.
const LIMIT_OF_ABSENT: u32 = 128 << 10;

/// What control keeps of a queue pair that a core has.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) shape: Shape,
    /// Bus addresses of the queues.
    submission: u64,
    completion: u64,
    pub(crate) link: Arc<Link>,
    /// Its owner did not take part in a reset, so that it is never made again.
    pub(crate) abandoned: bool,
}

impl Pair {
    /// Whether some core still has it and minds it. One that was dropped is never made again, and
    /// nobody follows its orders.
    pub(crate) fn is_held(&self) -> bool {
        !self.abandoned && Arc::strong_count(&self.link) > 1
    }
}

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Completions that named no command in flight, on the queues there are: counted and ignored.
    #[must_use]
    pub fn spurious(&self) -> u64 {
        let pairs = self.pairs.iter().flatten();
        self.admin.spurious() + pairs.map(|pair| pair.link.spurious()).sum::<u64>()
    }

    /// Makes a queue pair, with a handle of its own to the same registers.
    ///
    /// # Errors
    /// [`Error::NoQueue`] if all granted ones are in use, [`Error::Memory`], or what the
    /// controller said.
    pub fn create_queue<Q: Registers>(&mut self, registers: Q) -> Result<QueuePair<Q>, Error> {
        if !self.is_running() && !self.is_absent() {
            return Err(Error::NotRunning);
        }
        let granted = self.queues();
        let place = self.pairs.iter().position(Option::is_none);
        let place = place.ok_or(Error::NoQueue { granted })?;
        let limit = match self.is_absent() {
            true => LIMIT_OF_ABSENT,
            false => self.identity.max_transfer,
        };
        let list = limit / PAGE_SIZE as u32 * size_of::<u64>() as u32;
        let shape = Shape {
            id: place as u16 + 1,
            depth: self.depth,
            doorbell_stride: self.capabilities.doorbell_stride(),
            limit,
            // At least one range of a discard.
            list_shift: list.next_power_of_two().trailing_zeros().max(RANGE_SHIFT),
            discards: self.discards,
            delays: self.identity.retry_delays,
        };
        check_doorbells(&registers, shape.id, shape.doorbell_stride)?;
        let memory = self.allocate(shape).ok_or(Error::Memory)?;
        let pair = Pair {
            shape,
            submission: memory.submission.bus(),
            completion: memory.completion.bus(),
            link: Arc::default(),
            abandoned: false,
        };
        let created = match self.is_absent() {
            true => {
                pair.link.give(self.recovery.order);
                Ok(())
            }
            false => self.create(&pair),
        };
        match created {
            Ok(()) => {
                let link = Arc::clone(&pair.link);
                self.pairs[place] = Some(pair);
                let namespaces = Arc::clone(&self.table);
                let limit = self.timeout;
                Ok(QueuePair::new(
                    registers, memory, shape, limit, link, namespaces,
                ))
            }
            Err((error, reachable)) => {
                if !reachable {
                    self.free(memory);
                }
                Err(error)
            }
        }
    }

    fn allocate(&self, shape: Shape) -> Option<QueueMemory> {
        let depth = usize::from(shape.depth);
        let pages = |shift: usize| (depth << shift).div_ceil(PAGE_SIZE);
        let submission = self.memory.alloc(pages(SUBMISSION_SHIFT))?;
        let Some(completion) = self.memory.alloc(pages(COMPLETION_SHIFT)) else {
            self.memory.free(submission);
            return None;
        };
        let Some(lists) = self.memory.alloc(pages(shape.list_shift as usize)) else {
            self.memory.free(submission);
            self.memory.free(completion);
            return None;
        };
        Some(QueueMemory {
            submission,
            completion,
            lists,
        })
    }

    #[inline(never)]
    pub(crate) fn free(&self, memory: QueueMemory) {
        let QueueMemory {
            submission,
            completion,
            lists,
        } = memory;
        for pages in [submission, completion, lists] {
            self.memory.free(pages);
        }
    }

    /// Creates completion queue and submission queue (5.3, 5.4). An error comes with whether the
    /// controller may have kept the memory.
    #[inline(never)]
    pub(crate) fn create(&mut self, pair: &Pair) -> Result<(), (Error, bool)> {
        let id = u64::from(pair.shape.id);
        // One that has come back may take fewer entries than there is memory for.
        let depth = pair.shape.depth.min(self.depth);
        let cdw10 = id | u64::from(depth - 1) << 16 | CONTIGUOUS << 32;
        let completion = Entry {
            opcode: opcode::CREATE_COMPLETION_QUEUE,
            prp1: pair.completion,
            cdw10,
            ..Entry::default()
        };
        self.execute(completion)
            .map_err(|error| (error, kept_after(error)))?;
        let submission = Entry {
            opcode: opcode::CREATE_SUBMISSION_QUEUE,
            prp1: pair.submission,
            cdw10: cdw10 | id << 48,
            ..Entry::default()
        };
        match self.execute(submission) {
            Ok(_) => Ok(()),
            Err(Error::Pending) => Err((Error::Pending, true)),
            Err(error) => {
                let undone = self.delete(opcode::DELETE_COMPLETION_QUEUE, pair.shape.id);
                Err((error, kept_after(error) || undone.is_err()))
            }
        }
    }

    pub(crate) fn delete(&mut self, opcode: u8, id: u16) -> Result<(), Error> {
        let cdw10 = id.into();
        let entry = Entry {
            opcode,
            cdw10,
            ..Entry::default()
        };
        self.execute(entry).map(|_| ())
    }

    /// Deletes a queue pair (5.5, 5.6). Commands still in flight end with it, unanswered.
    ///
    /// # Errors
    /// What the controller said; the memory then stays allocated, since it may be in use.
    pub fn delete_queue<Q: Registers>(&mut self, queue: QueuePair<Q>) -> Result<(), Error> {
        if !self.is_running() {
            return Err(Error::NotRunning);
        }
        self.delete(opcode::DELETE_SUBMISSION_QUEUE, queue.id())?;
        self.delete(opcode::DELETE_COMPLETION_QUEUE, queue.id())?;
        if let Some(pair) = self.pairs.get_mut(usize::from(queue.id()) - 1) {
            *pair = None;
        }
        self.free(queue.memory);
        Ok(())
    }
}

/// Whether a create command that ended in `error` may have left the queue in place: not if the
/// controller said no.
fn kept_after(error: Error) -> bool {
    !matches!(error, Error::Command { .. })
}
