//! The admin queue: one command at a time that is waited for, and four that are answered when it
//! suits the controller: an event request, an abort, a look at the health log, and one of a series.

use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use spindle_hw::{Clock, PAGE_SIZE, Registers, SharedPages};

use crate::command::{COMPLETION_SHIFT, Entry, SUBMISSION_SHIFT, admin as opcode, answer};
use crate::registers::{ControllerRegisters, completion_doorbell, submission_doorbell};
use crate::{Error, Status};

/// Entries in each of the two queues. A controller keeps this number as long as it has power, by which
/// the next life of the kernel knows that ([`Controller::start_again`](crate::Controller::start_again)):
/// one of a version with another number takes every controller for one that was without.
pub(crate) const ENTRIES: u16 = 16;
/// Pages of memory: submission queue, completion queue, data, the health log.
pub(crate) const PAGES: usize = 4;
const COMPLETIONS: usize = PAGE_SIZE;
const DATA: usize = 2 * PAGE_SIZE;
const LOG: usize = 3 * PAGE_SIZE;
/// How long a command may take: as long as Linux waits. Most take milliseconds; but firmware that
/// starts, cleans up or works on many namespaces may take many seconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Host Behavior Support (5.21.1.22).
pub(crate) const FEATURE_HOST_BEHAVIOR: u64 = 0x16;
/// How often a waiting loop looks at the controller's status, which costs far more than a look
/// at memory.
const STATUS_NS: u64 = 1_000_000;

/// Commands that nobody waits for; each at most once in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// Asynchronous Event Request (5.2).
    Event,
    /// Abort (5.1).
    Abort,
    /// Get Log Page (5.14) for the health log, into a page of its own, or another command that only reads
    /// what the controller says of itself.
    Health,
    /// One of a [`crate::series::Series`].
    Series,
}

impl Posted {
    const ALL: [Self; 4] = [Self::Event, Self::Abort, Self::Health, Self::Series];

    /// Its identifier, which no command that is waited for has.
    fn cid(self) -> u16 {
        0x8000 | self as u16
    }
}

/// What has become of a command that was posted.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    in_flight: bool,
    /// When it was submitted, in nanoseconds.
    since: u64,
    /// It has been in flight for too long.
    late: bool,
    answer: Option<(Status, u32)>,
}

/// Where the queues stand between two drivers, of which the second goes on with what the first has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdminPosition {
    tail: u8,
    head: u8,
    phase: bool,
    /// A request for an event is outstanding.
    event: bool,
}

impl AdminPosition {
    /// In the low half of a word.
    pub(crate) fn word(self) -> u64 {
        let [tail, head, phase, event] =
            [self.tail, self.head, self.phase.into(), self.event.into()];
        u32::from_le_bytes([tail, head, phase, event]).into()
    }

    /// As [`AdminPosition::word`] gives it.
    pub(crate) fn read(word: u32) -> Option<Self> {
        let [tail, head, phase, event] = word.to_le_bytes();
        let entries = ENTRIES as u8;
        (tail < entries && head < entries && phase | event <= 1).then_some(Self {
            tail,
            head,
            phase: phase == 1,
            event: event == 1,
        })
    }
}

/// Where the queues are in memory at `bus`: submission, completion.
pub(crate) fn addresses(bus: u64) -> (u64, u64) {
    (bus, bus + COMPLETIONS as u64)
}

/// The admin queues and one page for data.
#[derive(Debug)]
pub(crate) struct AdminQueue {
    memory: SharedPages,
    tail: usize,
    head: usize,
    phase: u32,
    next_cid: u16,
    /// Doublewords 13 to 15 of commands, of which only one uses them.
    more: [u32; 3],
    /// A command got no answer: its page may be written to at any time.
    out_of_order: bool,
    posted: [Fate; Posted::ALL.len()],
    /// Completions that named no command in flight.
    spurious: u64,
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
            more: [0; 3],
            out_of_order: false,
            posted: [Fate::default(); Posted::ALL.len()],
            spurious: 0,
        }
    }

    /// Queues in `memory` as another driver has left them.
    pub(crate) fn resume(memory: SharedPages, at: AdminPosition) -> Self {
        // Nothing that was carried out is there for a controller that begins to read from its start.
        memory.zero(0, usize::from(ENTRIES) << SUBMISSION_SHIFT);
        let mut queue = Self::new(memory);
        (queue.tail, queue.head) = (at.tail.into(), at.head.into());
        queue.phase = at.phase.into();
        queue.posted[Posted::Event as usize].in_flight = at.event;
        queue
    }

    /// Where they stand, if nothing is under way and no answer waits, but for a request for an event.
    pub(crate) fn position(&self) -> Option<AdminPosition> {
        let event = self.posted[Posted::Event as usize].in_flight;
        let under_way = |fate: &&Fate| fate.in_flight || fate.answer.is_some();
        let count = self.posted.iter().filter(under_way).count();
        (!self.out_of_order && count == usize::from(event)).then_some(AdminPosition {
            tail: self.tail as u8,
            head: self.head as u8,
            phase: self.phase == 1,
            event,
        })
    }

    /// Submits nothing more: only a reset helps.
    pub(crate) fn give_up(&mut self) {
        self.out_of_order = true;
    }

    /// Makes the queues as new. The controller must be disabled.
    pub(crate) fn restart(&mut self) {
        self.memory.zero(0, self.memory.len());
        (self.tail, self.head, self.phase) = (0, 0, 1);
        self.out_of_order = false;
        self.posted = [Fate::default(); Posted::ALL.len()];
    }

    /// Whether a command got no answer, so that nothing but a reset helps.
    pub(crate) fn is_out_of_order(&self) -> bool {
        self.out_of_order
    }

    /// Completions that named no command in flight.
    pub(crate) fn spurious(&self) -> u64 {
        self.spurious
    }

    /// Where the queues are: submission, completion.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        addresses(self.memory.bus())
    }

    /// The pages, once the controller is disabled.
    pub(crate) fn into_memory(self) -> SharedPages {
        self.memory
    }

    /// The data page's address, for a command's PRP1.
    pub(crate) fn data(&self) -> u64 {
        self.memory.bus() + DATA as u64
    }

    /// Makes sure that data of an earlier command is not taken for that of `entry`, and puts there
    /// what goes with it.
    pub(crate) fn prepare_data(&mut self, entry: &Entry) {
        self.memory.zero(DATA, PAGE_SIZE);
        if (entry.opcode, entry.cdw10) == (opcode::SET_FEATURES, FEATURE_HOST_BEHAVIOR) {
            // ACRE (5.21.1.22): the host waits as long as a status asks for.
            self.memory.write_bytes(DATA, &[1]);
        }
    }

    /// Copies the data page's beginning out.
    pub(crate) fn read_data(&self, out: &mut [u8]) {
        self.memory.read_bytes(DATA, out);
    }

    /// The health log's address, for PRP1.
    pub(crate) fn log(&self) -> u64 {
        self.memory.bus() + LOG as u64
    }

    /// Copies a part of the health log's page out, from a byte of it on.
    pub(crate) fn read_log(&self, from: usize, out: &mut [u8]) {
        self.memory.read_bytes(LOG + from, out);
    }

    /// Sets doublewords 13 to 15 of the commands to come.
    pub(crate) fn with_more(&mut self, more: [u32; 3]) {
        self.more = more;
    }

    /// Carries out `entry` within `limit`, and returns doubleword 0 of its completion.
    pub(crate) fn execute<R: Registers>(
        &mut self,
        registers: &ControllerRegisters<R>,
        stride: usize,
        clock: &impl Clock,
        limit: Duration,
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
        if !self.posted[Posted::Series as usize].in_flight {
            self.prepare_data(&entry);
        }
        self.submit(registers, stride, &entry);
        let result = self.wait(registers, stride, clock, limit, &entry);
        self.out_of_order = matches!(result, Err(Error::Timeout { .. }));
        result
    }

    fn submit<R: Registers>(
        &mut self,
        registers: &ControllerRegisters<R>,
        stride: usize,
        entry: &Entry,
    ) {
        entry.store(&self.memory, self.tail);
        for (dword, value) in (13..).zip(self.more) {
            let at = (self.tail << SUBMISSION_SHIFT) + dword * size_of::<u32>();
            self.memory.u32_at(at).store(value, Ordering::Relaxed);
        }
        self.tail = (self.tail + 1) % usize::from(ENTRIES);
        fence(Ordering::Release);
        registers
            .0
            .write32(submission_doorbell(0, stride), self.tail as u32);
    }

    /// Submits `entry` without waiting, at the time `now`; false if the last one of its kind has not
    /// been answered, or nothing is answered any longer.
    pub(crate) fn post<R: Registers>(
        &mut self,
        registers: &ControllerRegisters<R>,
        stride: usize,
        kind: Posted,
        entry: Entry,
        now: u64,
    ) -> bool {
        if self.out_of_order || self.posted[kind as usize].in_flight {
            return false;
        }
        if kind == Posted::Health {
            // Nothing that another command has left there is taken for its data.
            self.memory.zero(LOG, PAGE_SIZE);
        }
        let cid = kind.cid();
        self.posted[kind as usize] = Fate {
            in_flight: true,
            since: now,
            late: false,
            answer: None,
        };
        self.submit(registers, stride, &Entry { cid, ..entry });
        true
    }

    /// The answer to a posted command, once: status and doubleword 0.
    pub(crate) fn answer_to(&mut self, kind: Posted) -> Option<(Status, u32)> {
        self.posted[kind as usize].answer.take()
    }

    /// Whether a posted command has been in flight for longer than any may be; said once. Its answer
    /// may still come, and no other of its kind is posted before.
    pub(crate) fn is_late(&mut self, kind: Posted, now: u64) -> bool {
        let fate = &mut self.posted[kind as usize];
        let late = u128::from(now.saturating_sub(fate.since)) > LIMIT.as_nanos();
        let first = fate.in_flight && late && !fate.late;
        fate.late |= first;
        first
    }

    /// Looks for answers to posted commands.
    pub(crate) fn poll<R: Registers>(&mut self, registers: &ControllerRegisters<R>, stride: usize) {
        // One turn of the queue at most: a controller may post without end.
        for _ in 0..ENTRIES {
            let Some((cid, status, value)) = self.take() else {
                break;
            };
            registers
                .0
                .write32(completion_doorbell(0, stride), self.head as u32);
            self.note(cid, status, value);
        }
    }

    /// Keeps the answer to a posted command; false if it is none.
    fn note(&mut self, cid: u16, status: Status, value: u32) -> bool {
        let kind = Posted::ALL.into_iter().find(|kind| kind.cid() == cid);
        let fate = kind.and_then(|kind| self.posted.get_mut(kind as usize));
        match fate {
            Some(fate) if fate.in_flight => {
                fate.in_flight = false;
                fate.answer = Some((status, value));
                true
            }
            _ => {
                self.spurious += 1;
                false
            }
        }
    }

    fn wait<R: Registers>(
        &mut self,
        registers: &ControllerRegisters<R>,
        stride: usize,
        clock: &impl Clock,
        limit: Duration,
        entry: &Entry,
    ) -> Result<u32, Error> {
        let start = clock.now_ns();
        let opcode = entry.opcode;
        let mut warned = false;
        let mut look_at = STATUS_NS;
        loop {
            // One a turn: a controller that posts without end must not outlast the limit.
            if let Some((cid, status, value)) = self.take() {
                registers
                    .0
                    .write32(completion_doorbell(0, stride), self.head as u32);
                if cid != entry.cid {
                    if self.note(cid, status, value) {
                        continue;
                    }
                    if !core::mem::replace(&mut warned, true) {
                        log::warn!("nvme: ignored a completion of unknown admin command {cid:#x}");
                    }
                } else if status.code() == Status::SUCCESS {
                    return Ok(value);
                } else {
                    return Err(Error::Command { opcode, status });
                }
            }
            let waited = clock.now_ns().saturating_sub(start);
            if waited >= look_at {
                look_at = waited.saturating_add(STATUS_NS);
                if registers.status()?.fatal() {
                    return Err(Error::Fatal);
                }
            }
            if u128::from(waited) > limit.as_nanos() {
                return Err(Error::Timeout { opcode, limit });
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

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    const BUS: u64 = 0x10_0000;
    const STRIDE: usize = 4;

    /// A controller that says of every command that it went well, and moves no data.
    struct Idle {
        memory: SharedPages,
        completed: Cell<usize>,
    }

    impl Registers for Idle {
        fn len(&self) -> usize {
            0x2000
        }

        fn read32(&self, _offset: usize) -> u32 {
            0
        }

        fn write32(&self, offset: usize, tail: u32) {
            if offset != submission_doorbell(0, STRIDE) {
                return;
            }
            let last = (tail as usize + usize::from(ENTRIES) - 1) % usize::from(ENTRIES);
            let cid = self.memory.u32_at(last * 64).load(Ordering::Relaxed) >> 16;
            let number = self.completed.replace(self.completed.get() + 1);
            let phase = 1 - (number as u32 / u32::from(ENTRIES)) % 2;
            let at = COMPLETIONS + number % usize::from(ENTRIES) * 16;
            let word = cid | phase << 16;
            self.memory.u32_at(at + 12).store(word, Ordering::Release);
        }
    }

    /// No time passes.
    struct Stopped;

    impl Clock for Stopped {
        fn now_ns(&self) -> u64 {
            0
        }

        fn relax(&self) {
            panic!("the answer is there");
        }
    }

    fn rig() -> (AdminQueue, ControllerRegisters<Idle>) {
        let memory = SharedPages::host(PAGES, BUS);
        let idle = Idle {
            memory: memory.alias(),
            completed: Cell::new(0),
        };
        (AdminQueue::new(memory), ControllerRegisters(idle))
    }

    fn identify(queue: &mut AdminQueue, registers: &ControllerRegisters<Idle>) {
        let entry = Entry {
            opcode: opcode::IDENTIFY,
            prp1: queue.data(),
            ..Entry::default()
        };
        assert_eq!(
            queue.execute(registers, STRIDE, &Stopped, LIMIT, entry),
            Ok(0)
        );
    }

    #[test]
    fn what_an_earlier_command_left_is_not_taken_for_the_data_of_the_next() {
        let (mut queue, registers) = rig();
        // More than once round the queue.
        for _ in 0..40 {
            let earlier = [0x5a; PAGE_SIZE];
            registers.0.memory.write_bytes(DATA, &earlier);
            identify(&mut queue, &registers);
            let mut data = [1; PAGE_SIZE];
            queue.read_data(&mut data);
            assert!(data == [0; PAGE_SIZE], "the controller has written nothing");
        }
    }

    #[test]
    fn a_completion_for_no_command_is_counted() {
        let (mut queue, registers) = rig();
        identify(&mut queue, &registers);
        assert_eq!(queue.spurious(), 0);
        let last = registers.0.memory.u32_at(COMPLETIONS + 16 + 12);
        last.store(0x1234 | 1 << 16, Ordering::Release);
        queue.poll(&registers, STRIDE);
        assert_eq!((queue.head, queue.spurious()), (2, 1));
    }

    #[test]
    fn a_driver_that_goes_on_leaves_no_command_of_the_one_before_in_the_queue() {
        let (mut queue, registers) = rig();
        identify(&mut queue, &registers);
        let at = queue.position().unwrap();
        assert_eq!(AdminPosition::read(at.word() as u32), Some(at));
        let mut queue = AdminQueue::resume(queue.into_memory(), at);
        let mut bytes = [1; COMPLETIONS];
        registers.0.memory.read_bytes(0, &mut bytes);
        assert!(bytes == [0; COMPLETIONS]);
        identify(&mut queue, &registers);
        assert_eq!((queue.tail, queue.head, queue.spurious()), (2, 2, 0));
    }

    #[test]
    fn nothing_is_left_in_queues_that_start_again() {
        let (mut queue, registers) = rig();
        identify(&mut queue, &registers);
        registers.0.memory.write_bytes(LOG, &[0x5a; 64]);
        queue.restart();
        let mut bytes = [1; PAGES * PAGE_SIZE];
        registers.0.memory.read_bytes(0, &mut bytes);
        assert!(bytes.iter().all(|&byte| byte == 0));
        // The answer from before would be one again.
        queue.poll(&registers, STRIDE);
        assert_eq!(queue.head, 0);
        registers.0.completed.set(0);
        identify(&mut queue, &registers);
    }
}
