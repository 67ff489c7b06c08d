//! From the line to the disk.

use spindle_block::{DiskQueue, IoError, SubmitError};

use super::slot::{Path, State};
use super::{Session, tag};
use crate::abi::RspStatus;
use crate::pool::BufferPool;

impl Session {
    /// Submits what is ready, in line order. Returns how many the disk took in this visit, with
    /// those that went to it directly, and whether it is full.
    pub(crate) fn submit<Q: DiskQueue>(
        &mut self,
        ring: u16,
        queue: &mut Q,
        pool: &mut BufferPool,
    ) -> (u32, bool) {
        let mut taken = self.sent;
        while let Some(index) = self.line.get(0) {
            let slot = &mut self.slots[usize::from(index)];
            if slot.state != State::Ready {
                break;
            }
            let submitted = if slot.failed {
                Err(SubmitError::Gone)
            } else {
                queue.submit(&slot.command(&self.volume, &self.arena), tag(ring, index))
            };
            match submitted {
                Ok(()) => {
                    slot.state = State::InFlight;
                    self.leave_line();
                    taken += 1;
                }
                Err(SubmitError::Full) => {
                    self.stats.out_of_room.add(1);
                    return (taken, true);
                }
                Err(SubmitError::Scattered) if slot.path == Path::Mapped => {
                    // It keeps its place and is copied at the next visit. Those behind it give
                    // their buffers back, or it might wait for them for ever.
                    self.take_back(index, pool);
                    for at in 1..core::mem::take(&mut self.ready) {
                        if let Some(index) = self.line.get(at)
                            && self.slots[usize::from(index)].path == Path::Copied
                        {
                            self.take_back(index, pool);
                        }
                    }
                    break;
                }
                Err(SubmitError::Unsupported) => {
                    self.leave_line();
                    if self.next_step(index, Err(IoError::Unsupported), pool) {
                        break;
                    }
                    self.finish(index, RspStatus::EOPNOTSUPP, pool);
                }
                Err(SubmitError::Scattered | SubmitError::Gone) => {
                    self.leave_line();
                    self.finish(index, RspStatus::ERROR, pool);
                }
            }
        }
        (taken, false)
    }

    fn leave_line(&mut self) {
        self.line.pop();
        self.ready = self.ready.saturating_sub(1);
    }

    /// Makes a request in line wait again, for buffers.
    pub(super) fn take_back(&mut self, index: u16, pool: &mut BufferPool) {
        self.release(index, pool);
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Waiting;
        slot.must_copy = true;
        slot.failed = false;
    }
}
