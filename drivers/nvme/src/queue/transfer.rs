//! Submission: from a command to entries in the submission queue.

use spindle_block::{AllPages, Budget, Command, Op, Part, Segment, SubmitError, Tag, Unit};
use spindle_hw::{PAGE_SIZE, Registers};

use super::QueuePair;
use crate::command::{Entry, io};
use crate::prp::{Runs, Second, UNALIGNED};

/// Which way data goes: opcode, and what is set in doubleword 12 beside the number of blocks.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    opcode: u8,
    flags: u32,
}

impl Kind {
    /// What a command that moves data is; `None` for all others.
    #[inline(always)]
    pub(super) const fn of(op: Op) -> Option<Self> {
        match op {
            Op::Read => Some(Self::READ),
            Op::Write => Some(Self::WRITE),
            Op::WriteThrough => Some(Self::WRITE_THROUGH),
            Op::Flush | Op::Discard | Op::SecureDiscard => None,
        }
    }

    const READ: Self = Self {
        opcode: io::READ,
        flags: 0,
    };
    const WRITE: Self = Self {
        opcode: io::WRITE,
        flags: 0,
    };
    const WRITE_THROUGH: Self = Self {
        opcode: io::WRITE,
        flags: io::FORCE_UNIT_ACCESS,
    };
}

const PAGE_MASK: u32 = PAGE_SIZE as u32 - 1;

/// All that there is room for.
const WHOLE: Budget = Budget {
    commands: usize::MAX,
    bytes: u32::MAX,
};

/// A read or write as [`QueuePair::transfer`] is asked for it. A struct of its own, made where it
/// is needed: a [`Command`] that a call gets to see has to be written to memory for every request.
pub(super) struct Transfer<'a> {
    kind: Kind,
    unit: Unit,
    block_shift: u8,
    block: u64,
    segments: &'a [Segment],
}

impl<'a> Transfer<'a> {
    #[inline(always)]
    pub(super) fn new(kind: Kind, command: &Command<'a>) -> Self {
        Self {
            kind,
            unit: command.unit,
            block_shift: command.block_shift,
            block: command.block,
            segments: command.segments,
        }
    }
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

    /// Takes a command whole, or nothing of it.
    #[inline(never)]
    pub(super) fn transfer(
        &mut self,
        transfer: &Transfer<'_>,
        tag: Tag,
    ) -> Result<(), SubmitError> {
        if self.may_be_pages(transfer)
            && let Some(result) = self.transfer_pages(transfer, tag)
        {
            return result;
        }
        if self.special != UNALIGNED {
            let cut = self.runs(transfer, 0, self.limit);
            // On a queue as short as that, a boundary is crossed instead.
            if cut.clone().count() <= self.capacity() {
                return self.transfer_runs(transfer, cut, tag);
            }
        }
        let runs = Runs::new(transfer.segments, self.limit, transfer.block_shift);
        self.transfer_runs(transfer, runs, tag)
    }

    /// Whether a read or write is one command, if it is of whole pages, more than one, which needs nothing
    /// of what [`Runs`] can do.
    #[inline]
    fn may_be_pages(&self, transfer: &Transfer<'_>) -> bool {
        let count = transfer.segments.len();
        let fits = count > 1 && count <= self.limit as usize / PAGE_SIZE;
        fits && self.special == UNALIGNED && 1 << (transfer.block_shift & 31) <= PAGE_SIZE
    }

    /// Takes such a command; `None` if it is not of whole pages, which is known once its list is written,
    /// or there is no place.
    #[inline]
    fn transfer_pages(
        &mut self,
        transfer: &Transfer<'_>,
        tag: Tag,
    ) -> Option<Result<(), SubmitError>> {
        let [first, rest @ ..] = transfer.segments else {
            return None;
        };
        let mut pages = AllPages::default();
        pages.add(*first);
        let mut address = |page: Segment| {
            pages.add(page);
            page.bus()
        };
        let prp2 = if let [second] = *rest {
            address(second)
        } else {
            let list = self.slots.next()? << self.list_shift;
            let lists = &self.memory.lists;
            lists.store_words(list, rest, address);
            lists.bus() + list as u64
        };
        if !pages.hold() {
            return None;
        }
        let bytes = transfer.segments.len() * PAGE_SIZE;
        let blocks = (bytes >> (transfer.block_shift & 31)) as u32;
        let entry = Entry {
            opcode: transfer.kind.opcode,
            cid: 0,
            namespace: transfer.unit.0,
            prp1: first.bus(),
            prp2,
            cdw10: transfer.block,
            // As in `build`.
            cdw12: blocks.wrapping_sub(1) & 0xffff | transfer.kind.flags,
        };
        let entry = self.slots.begin_one(tag, self.epoch, entry)?;
        entry.store(&self.memory.submission, self.tail);
        self.tail = (self.tail + 1) & self.mask;
        Some(Ok(()))
    }

    #[inline(always)]
    fn transfer_runs(
        &mut self,
        transfer: &Transfer<'_>,
        mut runs: Runs<'_>,
        tag: Tag,
    ) -> Result<(), SubmitError> {
        let part = self.build(transfer, 0, &mut runs, WHOLE)?;
        let mut parts = part.commands;
        // A later try helps only if an empty queue would do.
        while let Some(run) = runs.next(&mut |_, _| {}) {
            run.map_err(|_| SubmitError::Scattered)?;
            parts += 1;
        }
        if parts == 0 || parts > self.capacity() {
            return Err(SubmitError::Scattered);
        }
        if parts > part.commands {
            return Err(SubmitError::Full);
        }
        self.begin(parts, tag);
        Ok(())
    }

    /// The runs of what comes `from` blocks after the beginning of a command. They end at the
    /// boundaries of its namespace.
    #[inline]
    fn runs<'a>(&self, transfer: &Transfer<'a>, from: u64, limit: u32) -> Runs<'a> {
        let shift = transfer.block_shift;
        let runs = Runs::new(transfer.segments, limit, shift).skip(from << (shift & 31));
        if self.special == UNALIGNED {
            return runs;
        }
        let blocks = self.namespaces.boundary(transfer.unit.0);
        runs.within(blocks, transfer.block.wrapping_add(from))
    }

    /// Takes as much as there is room for, from `from` blocks on.
    #[inline(never)]
    pub(super) fn transfer_part(
        &mut self,
        transfer: &Transfer<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        // No command is larger than the budget, as far as pages go.
        let limit = self
            .limit
            .min((budget.bytes & !PAGE_MASK).max(PAGE_SIZE as u32));
        let mut runs = self.runs(transfer, from, limit);
        if runs.is_empty() {
            return Err(SubmitError::Scattered);
        }
        let part = self.build(transfer, from, &mut runs, budget)?;
        if part.commands == 0 {
            return Err(self.full());
        }
        self.begin(part.commands, tag);
        Ok(part)
    }

    /// Writes entries and lists for `runs`, which begin `from` blocks after the command does, as
    /// far as places and budget go. None of them counts before [`Self::begin`], so that giving up
    /// needs no undoing.
    #[inline]
    fn build(
        &mut self,
        transfer: &Transfer<'_>,
        from: u64,
        runs: &mut Runs<'_>,
        budget: Budget,
    ) -> Result<Part, SubmitError> {
        if self.gone {
            return Err(SubmitError::Gone);
        }
        let shift = transfer.block_shift & 31;
        let mut part = Part {
            blocks: 0,
            commands: 0,
        };
        let mut bytes = 0;
        while part.commands < budget.commands && bytes < budget.bytes {
            let Some((index, cid)) = self.slots.reserve(part.commands) else {
                break;
            };
            let list = index << self.list_shift;
            let lists = &self.memory.lists;
            let run = runs.next(&mut |index, pages| {
                let at = list + index * size_of::<u64>();
                lists.store_words(at, pages, Segment::bus);
            });
            let run = match run {
                None => break,
                Some(run) => run.map_err(|_| SubmitError::Scattered)?,
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
                cdw10: transfer.block.wrapping_add(from + part.blocks),
                // NLB is 0's based and 16 bits wide (6.9, 6.15); MAX_TRANSFER keeps far below.
                cdw12: blocks.wrapping_sub(1) & 0xffff | transfer.kind.flags,
            };
            self.slots.keep(index, &entry);
            let at = (self.tail + part.commands) & self.mask;
            entry.store(&self.memory.submission, at);
            part.blocks += u64::from(blocks);
            part.commands += 1;
            bytes += run.bytes;
        }
        Ok(part)
    }

    /// Takes the first `parts` entries that were written, for one command.
    #[inline]
    fn begin(&mut self, parts: usize, tag: Tag) {
        self.slots.begin(parts, tag, self.epoch);
        self.tail = (self.tail + parts) & self.mask;
    }

    /// How many NVMe commands `command` takes by how its memory lies; boundaries of the namespace
    /// do not count, since they are the same however it lies.
    #[inline(never)]
    pub(super) fn count(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
        let mut runs = Runs::new(command.segments, self.limit, command.block_shift);
        let mut count = 0;
        while let Some(run) = runs.next(&mut |_, _| {}) {
            run.map_err(|_| SubmitError::Scattered)?;
            count += 1;
        }
        Ok(count)
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
