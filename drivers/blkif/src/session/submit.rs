//! From the line to the disk, in as many parts as it takes.

use core::slice;

use spindle_block::{Budget, Command, DiskQueue, IoError, Op, Part, SubmitError};
use spindle_hw::PAGE_SIZE;

use super::slot::{Path, State};
use super::{LATENCY_SHIFT, Session, tag};
use crate::abi::SECTORS_PER_PAGE;
use crate::pool::BufferPool;
use crate::ring_core::Shared;
use crate::scheduler::{DISCARD_COST, FLUSH_COST};

/// A request whose pages the disk would need more commands for than this, and than there would be
/// pages if its pieces lay together, is copied, so that they do.
pub(super) const MOST_COMMANDS: usize = 16;

impl Session {
    /// Submits what is ready, in line order, as far as the credit goes. Returns whether the disk
    /// took anything, and whether it is full.
    pub(crate) fn submit<Q: DiskQueue>(
        &mut self,
        ring: u16,
        queue: &mut Q,
        shared: &mut Shared,
    ) -> (bool, bool) {
        let mut any = false;
        loop {
            let mut refused = None;
            if !self.special {
                let pages;
                (pages, refused) = match self.late {
                    false => self.submit_pages::<Q, false>(ring, queue),
                    true => self.submit_pages::<Q, true>(ring, queue),
                };
                any |= pages > 0;
            }
            let Some(index) = self.line.get(0).filter(|_| self.ledger.credit() > 0) else {
                break;
            };
            let sent = if let Some(error) = refused {
                Err(error)
            } else if self.slots[usize::from(index)].state != State::Ready {
                break;
            } else if self.special && self.is_empty() {
                Err(SubmitError::Gone)
            } else if self.step_aside(ring, index, &mut shared.turns) {
                continue;
            } else {
                if self.late {
                    self.note_turn(index);
                }
                self.submit_part(ring, index, queue)
            };
            match sent {
                Ok(()) => any = true,
                Err(SubmitError::Full) => {
                    self.stats.out_of_room.add(1);
                    return (any, true);
                }
                Err(SubmitError::Scattered)
                    if self.slots[usize::from(index)].path == Path::Mapped =>
                {
                    self.copy_instead(index, shared);
                    break;
                }
                Err(error) => {
                    self.give_up(index, error, shared);
                    if self.has_aside() {
                        self.resume(ring, &mut shared.turns, &mut shared.pool);
                    }
                }
            }
        }
        (any, false)
    }

    /// A request is about to be given to the disk: notes how long it has waited for that if it has, and if
    /// the disk had nothing of it before. Once the disk has taken it that is no longer overwritten.
    #[cold]
    pub(super) fn note_turn(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        let began = slot.progress.is_begun();
        if slot.taken_ns != self.now_ns
            && !began
            && let Some(wait) = self.waits.get_mut(usize::from(index))
        {
            let units = self.now_ns.saturating_sub(slot.taken_ns) >> LATENCY_SHIFT;
            *wait = units.min(u32::MAX.into()) as u32;
            slot.waited = true;
        }
    }

    /// The disk cannot be given the pages of the request at the head of the line as they lie. It keeps
    /// its place and is copied at the next visit after the disk has answered what it has of it. Those
    /// behind it give their buffers back, or it might wait for them without end.
    pub(super) fn copy_instead(&mut self, index: u16, shared: &mut Shared) {
        if !self.take_back(index, &mut shared.pool) {
            return;
        }
        for at in 1..core::mem::take(&mut self.ready) {
            if let Some(index) = self.line.get(at)
                && self.slots[usize::from(index)].path == Path::Copied
            {
                self.take_back(index, &mut shared.pool);
            }
        }
    }

    /// Gives the disk those at the head of the line that have one page each, in a buffer, as far as
    /// the credit goes: says how many, and why not the next one if it is refused. They are neither
    /// barriers nor in parts, so that all of this is short. Only if they may be `LATE` it is looked for
    /// those that have waited.
    #[inline]
    fn submit_pages<Q: DiskQueue, const LATE: bool>(
        &mut self,
        ring: u16,
        queue: &mut Q,
    ) -> (u32, Option<SubmitError>) {
        let most = self.ledger.credit();
        let (mut sent, mut refused) = (0, None);
        while sent < most
            && let Some(index) = self.line.get(0)
        {
            let slot = &mut self.slots[usize::from(index)];
            if slot.state != State::Ready || slot.path != Path::Copied || !slot.is_one_page() {
                break;
            }
            if LATE {
                self.note_turn(index);
            }
            let slot = &mut self.slots[usize::from(index)];
            let command = Command {
                op: slot.op,
                unit: self.volume.unit,
                block_shift: self.volume.block_shift,
                block: slot.block,
                blocks: 0,
                segments: slice::from_ref(&slot.memory),
            };
            let result = match slot.failed {
                true => Err(SubmitError::Gone),
                false => queue.submit(&command, tag(ring, index)),
            };
            if let Err(error) = result {
                refused = Some(error);
                break;
            }
            slot.state = State::OneBuffer;
            if LATE && slot.waited {
                // It ends in the way in which that is counted.
                slot.state = State::InFlight;
                let progress = &mut slot.progress;
                progress.give(progress.blocks, 1);
            }
            self.line.pop();
            sent += 1;
        }
        self.ready = self.ready.saturating_sub(sent as usize);
        self.ledger.give(sent, sent);
        (sent, refused)
    }

    /// Gives the disk the next part of the request at the head of the line, which leaves the line
    /// with the last part of what it has memory for.
    fn submit_part<Q: DiskQueue>(
        &mut self,
        ring: u16,
        index: u16,
        queue: &mut Q,
    ) -> Result<(), SubmitError> {
        let slot = &self.slots[usize::from(index)];
        if slot.failed {
            return Err(SubmitError::Gone);
        }
        if self.special && self.is_fill_due(index) {
            return self.submit_fill(ring, index, queue);
        }
        let slot = &mut self.slots[usize::from(index)];
        let command = slot.command(&self.volume, &self.arena);
        let pieces = slot.pieces;
        if slot.progress.sent == 0 && slot.has_data() {
            // Most go whole, which is shorter. Each piece is a command or a page at most.
            let load = u32::from(pieces);
            let torn = slot.path == Path::Mapped && is_in_pieces(slot.sectors, pieces);
            if load <= self.ledger.credit() && !torn {
                match queue.submit(&command, tag(ring, index)) {
                    Ok(()) => {
                        slot.state = if slot.path == Path::Mapped && !self.special {
                            State::Pages
                        } else {
                            slot.progress.give(slot.progress.blocks, load);
                            State::InFlight
                        };
                        self.leave_line();
                        self.ledger.give(load, load);
                        return Ok(());
                    }
                    Err(SubmitError::Full | SubmitError::Scattered) if pieces > 1 => {}
                    Err(error) => return Err(error),
                }
            } else if torn {
                let pages = pages_of(slot.sectors).min(pieces.into());
                if queue.requests(&command)? > MOST_COMMANDS.max(pages) {
                    return Err(SubmitError::Scattered);
                }
            }
        }
        let budget = Budget {
            // One part of a discard at a time: it may keep a disk busy for long.
            commands: if slot.has_data() {
                self.ledger.credit() as usize
            } else {
                1
            },
            bytes: self.ledger.credit().saturating_mul(PAGE_SIZE as u32),
        };
        let Part { blocks, commands } =
            queue.submit_part(&command, slot.progress.sent, budget, tag(ring, index))?;
        let bytes = blocks << (self.volume.block_shift & 31);
        let (load, cost) = match slot.op {
            Op::Flush => (0, FLUSH_COST),
            Op::Discard | Op::SecureDiscard => (0, DISCARD_COST),
            _ => {
                let pages = bytes.div_ceil(PAGE_SIZE as u64) as u32;
                let load = pages.max(commands as u32);
                (load, load)
            }
        };
        slot.progress.give(blocks, load);
        let all = slot.progress.sent >= slot.progress.blocks;
        if all || !slot.has_data() {
            slot.state = State::InFlight;
            self.leave_line();
        }
        self.ledger.give(load, cost);
        Ok(())
    }

    /// The disk will not have the request at the head of the line, or the rest of it.
    pub(super) fn give_up(&mut self, index: u16, error: SubmitError, shared: &mut Shared) {
        self.leave_line();
        let mut why = match error {
            SubmitError::Unsupported => IoError::Unsupported,
            _ => IoError::Aborted,
        };
        let slot = &mut self.slots[usize::from(index)];
        if slot.progress.is_with_disk() {
            // Its memory is given back when the disk has answered what it was given.
            slot.state = State::InFlight;
            slot.progress.fail(why);
            return;
        }
        // If a part of it has failed before, that is why.
        why = slot.progress.outcome().err().unwrap_or(why);
        self.conclude(index, Err(why), shared);
    }

    pub(super) fn leave_line(&mut self) {
        self.line.pop();
        self.ready = self.ready.saturating_sub(1);
    }

    /// Makes a request in line wait again, for buffers; false if the disk still reads or writes
    /// the memory that it has, which it then keeps.
    pub(super) fn take_back(&mut self, index: u16, pool: &mut BufferPool) -> bool {
        if self.slots[usize::from(index)].progress.is_with_disk() {
            return false;
        }
        self.release(index, pool);
        if self.partial == Some(index) {
            self.partial = None;
        }
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Waiting;
        slot.must_copy = true;
        slot.failed = false;
        true
    }
}

/// Whether so many sectors in so many segments may take more than [`MOST_COMMANDS`] commands:
/// each segment that is not a whole page may end one command and begin another.
pub(super) fn is_in_pieces(sectors: u32, segments: u16) -> bool {
    let missing = u32::from(segments) * u32::from(SECTORS_PER_PAGE) - sectors;
    usize::from(segments) > MOST_COMMANDS && missing as usize * 2 + 1 > MOST_COMMANDS
}

pub(super) fn pages_of(sectors: u32) -> usize {
    sectors.div_ceil(SECTORS_PER_PAGE.into()) as usize
}
