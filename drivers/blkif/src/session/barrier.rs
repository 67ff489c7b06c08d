//! `BLKIF_OP_WRITE_BARRIER`, once its ring and the others of its device are drained.
//!
//! What was answered before may still be in the disk's cache, so that a flush comes first. Then
//! the barrier's own data goes to stable media: written through the cache, or written and flushed
//! where the disk cannot do that. Without a cache there is just the write.

use spindle_block::{IoError, IoResult, Op};
use spindle_xen::event::Port;

use super::Session;
use super::progress::Progress;
use super::slot::State;
use crate::abi::RspStatus;
use crate::gate::Call;
use crate::pool::BufferPool;

/// A barrier that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Barrier {
    slot: u16,
    step: Step,
}

/// What of a barrier is with the disk, or in line for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing yet.
    Held,
    /// The flush of what came before.
    Before,
    /// Its data, after which nothing is left to do.
    Data,
    /// Its data, written into the cache because the disk cannot write through it.
    Cached,
    /// The flush of that.
    After,
}

impl Session {
    /// Whether a barrier asks for anything in this visit.
    #[inline]
    pub(crate) fn is_called(&self) -> bool {
        self.gate.is_called()
    }

    /// Does what barriers ask for, the ring's own or another's. Calls `wake` with the ports of
    /// all other cores if they are to look as well.
    #[cold]
    pub(crate) fn attend_barrier(&mut self, pool: &mut BufferPool, wake: impl FnMut(Port)) {
        let (active, redo) = (self.active(), self.redo.left());
        let ended = self.closing || self.halt.is_some();
        let (ring, mut halt) = (&mut self.ring, None);
        let Call { go, wake: all } = self.gate.attend(active, || {
            if ended {
                return redo;
            }
            let pending = ring.pending().unwrap_or_else(|error| {
                halt = Some(error);
                0
            });
            redo + pending
        });
        if let Some(halt) = halt {
            self.stop(halt);
        }
        if all {
            self.gate.others().for_each(wake);
        }
        if let Some(barrier) = self.barrier.filter(|_| go)
            && barrier.step == Step::Held
        {
            self.begin_barrier(barrier.slot, pool);
        }
    }

    /// Holds the request in slot `index` until all rings are drained.
    pub(super) fn hold_barrier(&mut self, index: u16) {
        self.barrier = Some(Barrier {
            slot: index,
            step: Step::Held,
        });
        self.special = true;
        self.gate.raise();
    }

    fn begin_barrier(&mut self, index: u16, pool: &mut BufferPool) {
        let data = self.slots[usize::from(index)].segments > 0;
        if self.is_empty() {
            self.finish(index, RspStatus::ERROR, pool);
        } else if self.volume.write_cache {
            self.barrier_step(index, Step::Before, Op::Flush);
        } else if data {
            self.barrier_step(index, Step::Data, Op::Write);
        } else {
            self.finish(index, RspStatus::OKAY, pool);
        }
    }

    /// Puts the barrier back in line, with `op` to be done.
    fn barrier_step(&mut self, index: u16, step: Step, op: Op) {
        self.barrier = Some(Barrier { slot: index, step });
        let slot = &mut self.slots[usize::from(index)];
        slot.progress = Progress::NONE;
        slot.op = op;
        slot.state = State::Waiting;
        slot.failed = false;
        self.line.push(index);
    }

    /// The disk has done a step of a barrier, if that is what slot `index` has; false if not, or
    /// if it was the last.
    #[cold]
    pub(super) fn next_step(
        &mut self,
        index: u16,
        result: IoResult,
        pool: &mut BufferPool,
    ) -> bool {
        let Some(barrier) = self.barrier.filter(|barrier| barrier.slot == index) else {
            return false;
        };
        let data = self.slots[usize::from(index)].segments > 0;
        match (barrier.step, result) {
            (Step::Before, Ok(())) if data => {
                self.barrier_step(index, Step::Data, Op::WriteThrough);
            }
            (Step::Data, Err(IoError::Unsupported)) if self.volume.write_cache => {
                self.release(index, pool);
                self.barrier_step(index, Step::Cached, Op::Write);
            }
            (Step::Cached, Ok(())) => {
                self.release(index, pool);
                self.barrier_step(index, Step::After, Op::Flush);
            }
            _ => return false,
        }
        true
    }

    /// Lets the device go on if it was its barrier that slot `index` had.
    #[cold]
    pub(super) fn end_barrier(&mut self, index: u16) {
        if self.barrier.is_some_and(|barrier| barrier.slot == index) {
            self.barrier = None;
            self.judge_special();
            self.gate.finish();
        }
    }
}
