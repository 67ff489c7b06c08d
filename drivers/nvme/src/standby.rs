//! A controller that changes hands while it is enabled: from one life of the kernel to the next, in an
//! update. For the control core.
//!
//! To disable and enable a controller takes what its firmware needs, on many of them most of a second. A life
//! that ends on purpose can do without: its queues are empty, it has the controller delete them
//! ([`Controller::stand_by`]), and what is left is the admin queue with a request for an event. The next
//! life finds the queue's memory as it was left and goes on with it ([`Controller::adopt`]).
//!
//! By the deletion no command of the former life can be under way any more, on any queue: the rule that no
//! command of a new life may go to a disk before that is kept by it as by a reset. Whatever does not
//! check in the new life leads to a reset.

use alloc::vec::Vec;
use core::time::Duration;

use spindle_block::DiskOptions;
use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE, Registers, SharedPages};

use crate::admin::{self, AdminPosition, AdminQueue};
use crate::change::Rescan;
use crate::command::admin as opcode;
use crate::events::Warning;
use crate::queues::Pair;
use crate::registers::{ControllerRegisters, check_doorbells, stands_by};
use crate::{Controller, Error, Identity, QueuePair};

/// How long an adopted controller may take for a command before it is reset instead: most take less
/// than a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of a serial number, with zeros behind.
const SERIAL: usize = 24;
/// Words of a [`Standby`].
const WORDS: usize = 2 + SERIAL / size_of::<u64>();

/// What the next driver must know of a controller that stands by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Where the admin queue's memory is.
    memory: u64,
    position: AdminPosition,
    /// I/O queues that it was asked for, and that it granted, which no one can ask for again without a
    /// reset (5.21.1.7).
    wanted: u16,
    granted: u16,
    serial: [u8; SERIAL],
}

impl Standby {
    /// Bus address and pages of the memory that the controller may write to. Nothing else may use it
    /// before the controller is disabled.
    #[must_use]
    pub const fn memory(&self) -> (u64, usize) {
        (self.memory, admin::PAGES)
    }

    /// In words, for [`Standby::read_all`].
    #[must_use]
    pub fn words(&self) -> Vec<u64> {
        let queues = u64::from(self.wanted) << 32 | u64::from(self.granted) << 48;
        let (serial, _) = self.serial.as_chunks();
        let front = [self.memory, self.position.word() | queues];
        let serial = serial.iter().copied().map(u64::from_le_bytes);
        front.into_iter().chain(serial).collect()
    }

    /// All that `words` have; none if they are not what [`Standby::words`] gives, one after the other.
    #[must_use]
    pub fn read_all(words: &[u64]) -> Vec<Self> {
        let (all, rest) = words.as_chunks::<WORDS>();
        let all: Option<Vec<_>> = all.iter().map(Self::read).collect();
        all.filter(|_| rest.is_empty()).unwrap_or_default()
    }

    fn read(&[memory, state, ref serial @ ..]: &[u64; WORDS]) -> Option<Self> {
        let mut read = Self {
            memory,
            position: AdminPosition::read(state as u32)?,
            wanted: (state >> 32) as u16,
            granted: (state >> 48) as u16,
            serial: [0; SERIAL],
        };
        let bytes = serial.iter().flat_map(|word| word.to_le_bytes());
        for (to, from) in read.serial.iter_mut().zip(bytes) {
            *to = from;
        }
        let usable = memory != 0 && memory.is_multiple_of(PAGE_SIZE as u64);
        (usable && (1..=read.wanted).contains(&read.granted)).then_some(read)
    }

    /// The queues that this controller has granted, if it is the one that was left.
    pub(crate) fn granted_by(&self, identity: &Identity) -> Result<u16, Error> {
        match bytes(&identity.serial) == self.serial {
            true => Ok(self.granted),
            false => Err(Error::Changed("identity")),
        }
    }

    /// Whether this is the controller behind `registers`, as it was left: enabled, ready, well, and with
    /// the same admin queue.
    #[must_use]
    pub fn is_left(&self, registers: &impl Registers) -> bool {
        let (submission, completion) = admin::addresses(self.memory);
        stands_by(registers, submission, completion, admin::ENTRIES.into())
    }
}

/// The first bytes of a serial number.
fn bytes(serial: &str) -> [u8; SERIAL] {
    let mut bytes = [0; SERIAL];
    for (to, from) in bytes.iter_mut().zip(serial.bytes()) {
        *to = from;
    }
    bytes
}

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Whether it could stand by once its queues are empty.
    ///
    /// # Errors
    /// Why not just now.
    pub fn may_stand_by(&self) -> Result<(), &'static str> {
        if !self.is_running() {
            return Err("it is being reset or is lost");
        }
        self.health().map_err(|_| "it has just failed")?;
        if self.host_memory.is_in_use() {
            return Err("it works with memory of this domain");
        }
        let mut pairs = self.pairs.iter().flatten();
        if !pairs.all(Pair::is_held) {
            return Err("a queue of it has no core any more");
        }
        let changing = self.event.is_some()
            || self.warning != Warning::None
            || self.rescan != Rescan::No
            || !self.looking.is_empty()
            || !self.leaving.is_empty();
        if changing || self.is_trying() || self.admin.position().is_none() {
            return Err("it has something else to do just now");
        }
        Ok(())
    }

    /// Has the controller delete its I/O queues, which must be empty and are not used again, within so
    /// long a time; gives what the next driver has to know. If this one goes on nevertheless, it has
    /// the controller reset at its next [`Controller::attend`].
    ///
    /// # Errors
    /// Why the next driver must reset it.
    pub fn stand_by(&mut self, within: Duration) -> Result<Standby, &'static str> {
        let deadline = self.clock.now_ns().saturating_add(within.as_nanos() as u64);
        let position = self
            .may_stand_by()
            .and_then(|()| {
                self.delete_all(deadline)
                    .map_err(|_| "it does not let its queues go in time")
            })
            .and_then(|()| self.admin.position().ok_or("it has just said something"));
        self.admin.give_up();
        let position = position?;
        self.health().map_err(|_| "it has just failed")?;
        Ok(Standby {
            memory: self.admin.addresses().0,
            position,
            wanted: self.wanted,
            granted: self.granted,
            serial: bytes(&self.identity.serial),
        })
    }

    fn delete_all(&mut self, deadline: u64) -> Result<(), Error> {
        for id in 1..=self.queues() {
            if self.pairs[usize::from(id) - 1].is_none() {
                continue;
            }
            for opcode in [
                opcode::DELETE_SUBMISSION_QUEUE,
                opcode::DELETE_COMPLETION_QUEUE,
            ] {
                let left = deadline.saturating_sub(self.clock.now_ns());
                self.patience = Duration::from_nanos(left);
                self.delete(opcode, id)?;
            }
        }
        Ok(())
    }

    /// Goes on with the controller behind `registers`, which a former driver has left to stand by.
    /// `memory_left` is what [`Standby::memory`] has said, as it was left. Another number of queues
    /// than that one wanted can be had by a reset only.
    ///
    /// # Errors
    /// Why it must be reset: it is disabled then, and the memory given back, if it can be.
    pub fn adopt(
        registers: R,
        clock: C,
        memory: M,
        options: DiskOptions,
        standing: &Standby,
        memory_left: SharedPages,
    ) -> Result<Self, Error> {
        let registers = ControllerRegisters(registers);
        let capabilities = registers.usable_capabilities()?;
        check_doorbells(&registers.0, 0, capabilities.doorbell_stride())?;
        let admin = AdminQueue::resume(memory_left, standing.position);
        let mut controller = Self::with(registers, capabilities, clock, memory, options, admin);
        controller.patience = PATIENCE;
        match controller.take_over(standing) {
            Ok(()) => {
                controller.patience = admin::LIMIT;
                Ok(controller)
            }
            Err(error) => {
                // The first error is the one that says what happened.
                let _ = controller.disable_and_free(Vec::<QueuePair<R>>::new());
                Err(error)
            }
        }
    }

    fn take_over(&mut self, standing: &Standby) -> Result<(), Error> {
        if standing.wanted != self.wanted {
            return Err(Error::Changed("number of queues"));
        }
        if !standing.is_left(&self.registers.0) {
            return Err(Error::Restarted);
        }
        self.find_out(Some(standing))
    }
}
