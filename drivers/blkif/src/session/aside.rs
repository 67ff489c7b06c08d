//! Flushes and discards of a ring: one with the disk at a time, the others aside, where they hold
//! up nothing of their ring.
//!
//! A flush makes durable what was answered before it began. Those that came while one was with the
//! disk are therefore answered together by the next.

use super::Session;
use super::slot::State;
use crate::abi::{Operation, RspStatus};
use crate::fifo::Fifo;
use crate::pool::BufferPool;
use crate::room::NoRoom;

/// Requests of a kind of which a ring has one with the disk at a time.
#[derive(Debug)]
pub(super) struct Aside {
    /// The one that the disk has.
    with_disk: Option<u16>,
    /// How many of those that wait it answers as well.
    covered: usize,
    waiting: Fifo,
}

impl Aside {
    /// Room for all requests of a ring.
    pub(super) fn new(requests: usize) -> Result<Self, NoRoom> {
        Ok(Self {
            with_disk: None,
            covered: 0,
            waiting: Fifo::new(requests)?,
        })
    }

    /// Whether another request than that in slot `index` is with the disk.
    fn is_taken(&self, index: u16) -> bool {
        self.with_disk.is_some_and(|other| other != index)
    }
}

impl Session {
    /// The kind of the request in slot `index`, if it is one of those. A barrier's own flush is
    /// not: nothing else of the ring is under way then.
    fn aside(&mut self, index: u16) -> Option<&mut Aside> {
        match self.slots[usize::from(index)].raw.operation() {
            Operation::FLUSH => Some(&mut self.flushes),
            Operation::DISCARD => Some(&mut self.discards),
            _ => None,
        }
    }

    /// Puts the request at the head of the line aside if it has to wait for another.
    pub(super) fn step_aside(&mut self, index: u16) -> bool {
        let Some(aside) = self.aside(index).filter(|aside| aside.is_taken(index)) else {
            return false;
        };
        aside.waiting.push(index);
        self.slots[usize::from(index)].state = State::Aside;
        self.leave_line();
        true
    }

    /// The disk was given the request in slot `index`, which may be one of those, or refused it.
    pub(super) fn mark_aside(&mut self, index: u16) {
        let flush = self.slots[usize::from(index)].raw.operation() == Operation::FLUSH;
        if let Some(aside) = self.aside(index)
            && aside.with_disk.replace(index).is_none()
            && flush
        {
            aside.covered = aside.waiting.len();
        }
    }

    /// The request in slot `index` is over: answers those that it covers, and lets the next go.
    #[cold]
    pub(super) fn end_aside(&mut self, index: u16, status: RspStatus, pool: &mut BufferPool) {
        let Some(aside) = self.aside(index).filter(|a| a.with_disk == Some(index)) else {
            return;
        };
        aside.with_disk = None;
        let covered = core::mem::take(&mut aside.covered);
        for _ in 0..covered {
            if let Some(other) = self.aside(index).and_then(|aside| aside.waiting.pop()) {
                self.finish(other, status, pool);
            }
        }
        if let Some(next) = self.aside(index).and_then(|aside| aside.waiting.pop()) {
            self.slots[usize::from(next)].state = State::Ready;
            self.line.push(next);
        }
    }
}
