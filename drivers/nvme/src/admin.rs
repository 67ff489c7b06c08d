//! The admin queue: one command at a time, waited for.

use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use spindle_hw::{Clock, PAGE_SIZE, Registers, SharedPages};

use crate::command::{COMPLETION_SHIFT, Entry, answer};
use crate::registers::{ControllerRegisters, completion_doorbell, submission_doorbell};
use crate::{Error, Status};

/// Entries in each of the two queues.
pub(crate) const ENTRIES: u16 = 16;
/// Pages of memory: submission queue, completion queue, data.
pub(crate) const PAGES: usize = 3;
const COMPLETIONS: usize = PAGE_SIZE;
const DATA: usize = 2 * PAGE_SIZE;
/// How long a command may take. Identify and queue commands take milliseconds; a controller
/// under load may be slower, but not by much.
const LIMIT: Duration = Duration::from_secs(10);

/// The admin queues and one page for data.
#[derive(Debug)]
pub(crate) struct AdminQueue {
    memory: SharedPages,
    tail: usize,
    head: usize,
    phase: u32,
    next_cid: u16,
    /// A command got no answer: its page may be written to at any time.
    out_of_order: bool,
}

impl AdminQueue {
    /// Queues in `memory`, which is [`PAGES`] zeroed pages.
    pub(crate) fn new(memory: SharedPages) -> Self {
        Self {
            memory,
            tail: 0,
            head: 0,
            phase: 1,
            next_cid: 0,
            out_of_order: false,
        }
    }

    /// Where the queues are: submission, completion.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        (self.memory.bus(), self.memory.bus() + COMPLETIONS as u64)
    }

    /// The pages, once the controller is disabled.
    pub(crate) fn into_memory(self) -> SharedPages {
        self.memory
    }

    /// The data page's address, for a command's PRP1.
    pub(crate) fn data(&self) -> u64 {
        self.memory.bus() + DATA as u64
    }

    /// Copies the data page's beginning out.
    pub(crate) fn read_data(&self, out: &mut [u8]) {
        self.memory.read_bytes(DATA, out);
    }

    /// Carries out `entry` and returns doubleword 0 of its completion.
    pub(crate) fn execute<R: Registers>(
        &mut self,
        registers: &ControllerRegisters<R>,
        stride: usize,
        clock: &impl Clock,
        entry: Entry,
    ) -> Result<u32, Error> {
        if self.out_of_order {
            return Err(Error::OutOfOrder);
        }
        // 15 bits: never 0xFFFF.
        self.next_cid = (self.next_cid + 1) & 0x7fff;
        let entry = Entry {
            cid: self.next_cid,
            ..entry
        };
        // Data of an earlier command must not be taken for this one's.
        self.memory.zero(DATA, PAGE_SIZE);
        entry.store(&self.memory, self.tail);
        self.tail = (self.tail + 1) % usize::from(ENTRIES);
        fence(Ordering::Release);
        registers
            .0
            .write32(submission_doorbell(0, stride), self.tail as u32);
        let result = self.wait(registers, stride, clock, &entry);
        self.out_of_order = matches!(result, Err(Error::Timeout { .. }));
        result
    }

    fn wait<R: Registers>(
        &mut self,
        registers: &ControllerRegisters<R>,
        stride: usize,
        clock: &impl Clock,
        entry: &Entry,
    ) -> Result<u32, Error> {
        let start = clock.now_ns();
        let opcode = entry.opcode;
        let mut warned = false;
        loop {
            // One a turn: a controller that posts without end must not outlast the limit.
            if let Some((cid, status, value)) = self.take() {
                registers
                    .0
                    .write32(completion_doorbell(0, stride), self.head as u32);
                if cid != entry.cid {
                    if !core::mem::replace(&mut warned, true) {
                        log::warn!("nvme: ignored a completion of unknown admin command {cid:#x}");
                    }
                } else if status.code() == Status::SUCCESS {
                    return Ok(value);
                } else {
                    return Err(Error::Command { opcode, status });
                }
            }
            if registers.status()?.fatal() {
                return Err(Error::Fatal);
            }
            if u128::from(clock.now_ns().saturating_sub(start)) > LIMIT.as_nanos() {
                return Err(Error::Timeout {
                    opcode,
                    limit: LIMIT,
                });
            }
            clock.relax();
        }
    }

    /// The next completion: identifier, status, doubleword 0.
    fn take(&mut self) -> Option<(u16, Status, u32)> {
        let completions = COMPLETIONS >> COMPLETION_SHIFT;
        let answer = answer(&self.memory, completions + self.head, self.phase)?;
        let at = COMPLETIONS + (self.head << COMPLETION_SHIFT);
        let value = self.memory.u32_at(at).load(Ordering::Relaxed);
        self.head = (self.head + 1) % usize::from(ENTRIES);
        self.phase ^= u32::from(self.head == 0);
        Some((answer.cid, Status(answer.status), value))
    }
}
