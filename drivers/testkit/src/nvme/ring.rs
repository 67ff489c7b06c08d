//! A submission and a completion queue as the controller sees them.

use std::sync::atomic::Ordering::{Relaxed, Release};

use spindle_hw::SharedPages;

use crate::mem::FakeBus;

/// A submission queue entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry(pub(super) [u64; 8]);

impl Entry {
    pub(super) fn opcode(self) -> u8 {
        self.0[0] as u8
    }

    pub(super) fn cid(self) -> u16 {
        (self.0[0] >> 16) as u16
    }

    pub(super) fn namespace(self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// Command doubleword `n`.
    pub(super) fn dword(self, n: usize) -> u32 {
        (self.0[n / 2] >> (n % 2 * 32)) as u32
    }

    pub(super) fn prp1(self) -> u64 {
        self.0[3]
    }

    pub(super) fn prp2(self) -> u64 {
        self.0[4]
    }
}

/// Memory that a queue is in.
#[derive(Debug)]
pub(super) struct Area {
    pages: SharedPages,
    offset: usize,
    bus: u64,
    len: usize,
}

impl Area {
    pub(super) fn new(bus: &FakeBus, address: u64, len: usize) -> Option<Self> {
        let (pages, offset) = bus.at(address, len, |pages, offset| (pages.alias(), offset))?;
        Some(Self {
            pages,
            offset,
            bus: address,
            len,
        })
    }

    /// Whether no phase bit of a completion queue is set.
    pub(super) fn is_clear(&self) -> bool {
        let word = |at: usize| self.pages.u32_at(self.offset + at + 12).load(Relaxed);
        (0..self.len).step_by(16).all(|at| word(at) >> 16 & 1 == 0)
    }

    /// Whether the driver has left the memory allocated.
    pub(super) fn is_there(&self, bus: &FakeBus) -> bool {
        bus.at(self.bus, self.len, |_, _| ()).is_some()
    }
}

/// A pair of queues.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) submission: Area,
    pub(super) completion: Area,
    submissions: u32,
    completions: u32,
    head: u32,
    tail: u32,
    completion_head: u32,
    completion_tail: u32,
    phase: u32,
}

impl Ring {
    pub(super) fn new(submission: Area, completion: Area) -> Self {
        Self {
            submissions: (submission.len / 64) as u32,
            completions: (completion.len / 16) as u32,
            submission,
            completion,
            head: 0,
            tail: 0,
            completion_head: 0,
            completion_tail: 0,
            phase: 1,
        }
    }

    /// A write to the submission tail doorbell; false if the value is not an index.
    #[must_use]
    pub(super) fn set_tail(&mut self, value: u32) -> bool {
        let valid = value < self.submissions;
        if valid {
            self.tail = value;
        }
        valid
    }

    /// A write to the completion head doorbell; false if the value is not an index.
    #[must_use]
    pub(super) fn set_completion_head(&mut self, value: u32) -> bool {
        let valid = value < self.completions;
        if valid {
            self.completion_head = value;
        }
        valid
    }

    /// How many completions there is room for.
    pub(super) fn room(&self) -> u32 {
        (self.completion_head + self.completions - self.completion_tail - 1) % self.completions
    }

    /// Commands that have not been taken.
    pub(super) fn waiting(&self) -> u32 {
        (self.tail + self.submissions - self.head) % self.submissions
    }

    /// The next command.
    pub(super) fn fetch(&mut self) -> Option<Entry> {
        if self.head == self.tail {
            return None;
        }
        let at = self.submission.offset + self.head as usize * 64;
        let word = |n: usize| self.submission.pages.u64_at(at + 8 * n).load(Relaxed);
        let entry = Entry(std::array::from_fn(word));
        self.head = (self.head + 1) % self.submissions;
        Some(entry)
    }

    /// Posts a completion.
    pub(super) fn post(&mut self, cid: u16, status: u16, value: u32) {
        let at = self.completion.offset + self.completion_tail as usize * 16;
        let pages = &self.completion.pages;
        pages.u32_at(at).store(value, Relaxed);
        pages.u32_at(at + 8).store(self.head, Relaxed);
        let last = u32::from(cid) | self.phase << 16 | u32::from(status) << 17;
        pages.u32_at(at + 12).store(last, Release);
        self.completion_tail += 1;
        if self.completion_tail == self.completions {
            self.completion_tail = 0;
            self.phase ^= 1;
        }
    }
}

/// An I/O queue pair in the making, or made.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// A completion queue without a submission queue.
    pub(super) completion: Option<Area>,
    pub(super) ring: Option<Ring>,
}
