//! Flushes and discards of a ring that wait for their turn: aside, where they hold up nothing of
//! their ring. Its guest has one of each with a disk at a time (`turns`).

use alloc::sync::Arc;

use spindle_block::{IoError, IoResult, Op};

use super::Session;
use super::slot::State;
use crate::fifo::Fifo;
use crate::pool::BufferPool;
use crate::room::NoRoom;
use crate::turns::{Kind, Lane, Turns};

/// Requests of a kind.
#[derive(Debug)]
pub(super) struct Aside {
    /// The one that has the turn: in line, or with the disk.
    turn: Option<u16>,
    waiting: Fifo,
}

impl Aside {
    /// Room for all requests of a ring.
    pub(super) fn new(requests: usize) -> Result<Self, NoRoom> {
        Ok(Self {
            turn: None,
            waiting: Fifo::new(requests)?,
        })
    }
}

impl Session {
    /// Rings of a volume that is spread over several runs have lanes to themselves: no disk's own can
    /// tell them from others.
    fn lane(&self, kind: Kind) -> Lane {
        let disk = match &self.volume.map {
            None => self.volume.disk,
            // No disk has the number of an address, and no two maps that are in use have one.
            Some(map) => Arc::as_ptr(map).addr(),
        };
        Lane {
            disk,
            guest: self.guest,
            kind,
        }
    }

    /// The kind of the request in slot `index`, if it is one of those: also of a barrier's flush.
    fn kind(&self, index: u16) -> Option<Kind> {
        match self.slots[usize::from(index)].op {
            Op::Flush => Some(Kind::Flush),
            Op::Discard | Op::SecureDiscard => Some(Kind::Discard),
            _ => None,
        }
    }

    fn aside(&mut self, kind: Kind) -> &mut Aside {
        match kind {
            Kind::Flush => &mut self.flushes,
            Kind::Discard => &mut self.discards,
        }
    }

    /// Whether any request waits aside.
    #[inline]
    pub(crate) fn has_aside(&self) -> bool {
        self.asides > 0
    }

    /// Puts the request at the head of the line aside if it has to wait for its turn; false if it
    /// is to be given to the disk now.
    pub(super) fn step_aside(&mut self, ring: u16, index: u16, turns: &mut Turns) -> bool {
        let Some(kind) = self.kind(index) else {
            return false;
        };
        let (lane, unit) = (self.lane(kind), self.volume.unit);
        let aside = self.aside(kind);
        if aside.turn.is_none() && turns.take(ring, lane, unit) {
            aside.turn = Some(index);
        }
        if aside.turn == Some(index) {
            turns.start(lane);
            return false;
        }
        aside.waiting.push(index);
        turns.wait(ring, lane, unit);
        self.asides += 1;
        self.slots[usize::from(index)].state = State::Aside;
        self.leave_line();
        true
    }

    /// What the disk was asked for in slot `index` has ended so: passes the turn on.
    #[cold]
    pub(super) fn end_turn(&mut self, index: u16, result: IoResult, turns: &mut Turns) {
        if let Some(kind) = self.kind(index)
            && self.aside(kind).turn.take_if(|own| *own == index).is_some()
        {
            turns.end(self.lane(kind), result);
        }
    }

    /// Answers those that waited and were covered, and puts the next in line if it has the turn.
    #[cold]
    pub(crate) fn resume(&mut self, ring: u16, turns: &mut Turns, pool: &mut BufferPool) {
        for kind in [Kind::Flush, Kind::Discard] {
            let Some(notice) = turns.collect(ring, kind) else {
                continue;
            };
            for _ in 0..notice.answered {
                if let Some(index) = self.aside(kind).waiting.pop() {
                    self.asides -= 1;
                    // What covered it went to what may be in the place of its volume.
                    let result = match self.is_empty() {
                        true => notice.result.and(Err(IoError::Aborted)),
                        false => notice.result,
                    };
                    self.end_aside(index, result, pool);
                }
            }
            if notice.called
                && let Some(index) = self.aside(kind).waiting.pop()
            {
                self.asides -= 1;
                self.aside(kind).turn = Some(index);
                self.slots[usize::from(index)].state = State::Ready;
                self.line.push(index);
            }
        }
    }

    /// Answers a request without data, for which the disk was asked so, itself or with another. A
    /// flush of a guest that has yet to learn of a loss fails, however it was carried out.
    #[cold]
    pub(super) fn end_aside(&mut self, index: u16, result: IoResult, pool: &mut BufferPool) {
        let flushed = result.is_ok() && self.kind(index) == Some(Kind::Flush);
        let result = match flushed && self.losses.report(self.slots[usize::from(index)].known) {
            true => Err(IoError::Aborted),
            false => result,
        };
        self.end(index, result, pool);
    }
}
