//! Submission: from a command to entries in the submission queue.

use core::sync::atomic::Ordering;

use spindle_block::{Command, Segment, SubmitError, Tag, Unit};
use spindle_hw::Registers;

use super::QueuePair;
use crate::command::{Entry, io};
use crate::prp::{Runs, Second};

/// Which way data goes: opcode, and what is set in doubleword 12 beside the number of blocks.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    opcode: u8,
    flags: u32,
}

impl Kind {
    pub(super) const READ: Self = Self {
        opcode: io::READ,
        flags: 0,
    };
    pub(super) const WRITE: Self = Self {
        opcode: io::WRITE,
        flags: 0,
    };
    pub(super) const WRITE_THROUGH: Self = Self {
        opcode: io::WRITE,
        flags: io::FORCE_UNIT_ACCESS,
    };
}

/// A read or write as [`QueuePair::transfer`] is asked for it. A struct of its own, made where it
/// is needed: a [`Command`] that a call gets to see has to be written to memory for every request.
pub(super) struct Transfer<'a> {
    pub(super) kind: Kind,
    pub(super) unit: Unit,
    pub(super) block_shift: u8,
    pub(super) block: u64,
    pub(super) segments: &'a [Segment],
}

impl<R: Registers> QueuePair<R> {
    /// A read or write of one piece of memory that needs nothing of what [`Self::transfer`] can do.
    #[inline(always)]
    pub(super) fn transfer_page(
        &mut self,
        command: &Command<'_>,
        bus: u64,
        length: u32,
        kind: Kind,
        tag: Tag,
    ) -> Result<(), SubmitError> {
        let entry = Entry {
            opcode: kind.opcode,
            cid: 0,
            namespace: command.unit.0,
            prp1: bus,
            prp2: 0,
            cdw10: command.block,
            // NLB is 0's based (6.9, 6.15), and so is `length`.
            cdw12: length | kind.flags,
        };
        let entry = self.slots.begin_one(tag, self.epoch, entry);
        let entry = entry.ok_or_else(|| self.full())?;
        entry.store(&self.memory.submission, self.tail);
        self.tail = (self.tail + 1) & self.mask;
        Ok(())
    }

    #[inline(never)]
    pub(super) fn transfer(
        &mut self,
        transfer: &Transfer<'_>,
        tag: Tag,
    ) -> Result<(), SubmitError> {
        if self.gone {
            return Err(SubmitError::Gone);
        }
        let shift = transfer.block_shift & 31;
        let mut block = transfer.block;
        let mut runs = Runs::new(transfer.segments, self.limit, shift);
        // Entries and lists are written as parts come; none counts before `begin` and the new
        // tail, so that giving up half-way needs no undoing.
        let mut parts = 0;
        loop {
            let slot = self.slots.reserve(parts);
            let list = slot.map_or(0, |(index, _)| index << self.list_shift);
            let lists = &self.memory.lists;
            let run = runs.next(|index, page| {
                if slot.is_some() {
                    lists
                        .u64_at(list + index * size_of::<u64>())
                        .store(page, Ordering::Relaxed);
                }
            });
            let run = match run {
                None => break,
                Some(run) => run.map_err(|_| SubmitError::Scattered)?,
            };
            let Some((index, cid)) = slot else {
                return Err(self.no_room(parts + 1, runs));
            };
            let blocks = run.bytes >> shift;
            let entry = Entry {
                opcode: transfer.kind.opcode,
                cid,
                namespace: transfer.unit.0,
                prp1: run.prp1,
                prp2: match run.second {
                    Second::None => 0,
                    Second::Page(page) => page,
                    Second::List => lists.bus() + list as u64,
                },
                cdw10: block,
                // NLB is 0's based and 16 bits wide (6.9, 6.15); MAX_TRANSFER keeps far below.
                cdw12: blocks.wrapping_sub(1) & 0xffff | transfer.kind.flags,
            };
            self.slots.keep(index, &entry);
            entry.store(&self.memory.submission, (self.tail + parts) & self.mask);
            block = block.wrapping_add(blocks.into());
            parts += 1;
        }
        if parts == 0 {
            return Err(SubmitError::Scattered);
        }
        self.slots.begin(parts, tag, self.epoch);
        self.tail = (self.tail + parts) & self.mask;
        Ok(())
    }

    /// What to say of a command whose first `parts` runs, before `rest`, are more than there are
    /// free slots: a later try helps only if an empty queue would do.
    #[cold]
    fn no_room(&self, mut parts: usize, mut rest: Runs<'_>) -> SubmitError {
        while let Some(run) = rest.next(|_, _| {}) {
            if run.is_err() {
                return SubmitError::Scattered;
            }
            parts += 1;
        }
        if parts > self.capacity() {
            return SubmitError::Scattered;
        }
        SubmitError::Full
    }

    /// Why there is no slot: nobody looks at `gone` before, since then there never is one.
    #[cold]
    pub(super) fn full(&self) -> SubmitError {
        if self.gone {
            SubmitError::Gone
        } else {
            SubmitError::Full
        }
    }

    #[inline(never)]
    pub(super) fn flush(&mut self, unit: Unit, tag: Tag) -> Result<(), SubmitError> {
        let entry = Entry {
            opcode: io::FLUSH,
            namespace: unit.0,
            ..Entry::default()
        };
        let entry = self.slots.begin_one(tag, self.epoch, entry);
        let entry = entry.ok_or_else(|| self.full())?;
        entry.store(&self.memory.submission, self.tail);
        self.tail = (self.tail + 1) & self.mask;
        Ok(())
    }
}
