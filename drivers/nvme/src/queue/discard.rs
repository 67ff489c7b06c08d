//! Submission of a discard: the ranges lie where the PRP list of the same slot would.

use core::sync::atomic::Ordering::Relaxed;

use spindle_block::{Budget, Command, Part, SubmitError, Tag};
use spindle_hw::Registers;

use super::QueuePair;
use crate::command::{Entry, io};
use crate::discard::{MAX_COMMANDS, RANGE_SHIFT};

/// Doubleword 11 of Dataset Management: deallocate (6.7).
const DEALLOCATE: u64 = 1 << 2;

impl<R: Registers> QueuePair<R> {
    /// Takes a discard whole, or nothing of it.
    pub(super) fn discard(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        let limits = self.discards.ok_or(SubmitError::Unsupported)?;
        let most = MAX_COMMANDS.min(self.capacity() as u64);
        let parts = command.blocks.div_ceil(limits.command_blocks()).min(most) as usize;
        if parts > 0 && self.slots.reserve(parts - 1).is_none() {
            return Err(self.full());
        }
        let budget = Budget {
            commands: parts.max(1),
            bytes: u32::MAX,
        };
        self.discard_part(command, 0, budget, tag).map(|_| ())
    }

    /// Takes a discard from `from` blocks on, as far as places and budget go. It has at most
    /// [`MAX_COMMANDS`] commands in all; one more if the limits have shrunk since its first part, so that
    /// it is beyond their reach already.
    #[inline(never)]
    pub(super) fn discard_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        let limits = self.discards.ok_or(SubmitError::Unsupported)?;
        let each = limits.command_blocks();
        let reach = each.saturating_mul(MAX_COMMANDS);
        let total = command.blocks.min(reach.max(from.saturating_add(each)));
        let all = total.saturating_sub(from).div_ceil(each);
        if all == 0 {
            return Err(SubmitError::Scattered);
        }
        let wanted = all.min(budget.commands as u64) as usize;
        let Some(parts) = (1..=wanted)
            .rev()
            .find(|parts| self.slots.reserve(parts - 1).is_some())
        else {
            return Err(self.full());
        };
        let mut block = command.block.wrapping_add(from);
        let mut left = total - from;
        for part in 0..parts {
            let Some((slot, cid)) = self.slots.reserve(part) else {
                return Err(self.full());
            };
            let list = slot << self.list_shift;
            let mut ranges = 0;
            let blocks = left.min(limits.command_blocks());
            for len in limits.ranges(blocks) {
                let at = list + (ranges << RANGE_SHIFT);
                let words = self.memory.lists.u64s_at::<2>(at);
                // Context attributes, all 0, and length; then the first block.
                words[0].store(u64::from(len) << 32, Relaxed);
                words[1].store(block, Relaxed);
                block = block.wrapping_add(len.into());
                ranges += 1;
            }
            left -= blocks;
            let entry = Entry {
                opcode: io::DATASET_MANAGEMENT,
                cid,
                namespace: command.unit.0,
                // A list is a power of two and at most a page, so that it is in one.
                prp1: self.memory.lists.bus() + list as u64,
                prp2: 0,
                // NR is 0's based.
                cdw10: (ranges as u64).wrapping_sub(1) & 0xff | DEALLOCATE << 32,
                cdw12: 0,
            };
            self.slots.keep(slot, &entry);
            entry.store(&self.memory.submission, (self.tail + part) & self.mask);
        }
        self.slots.begin(parts, tag, self.epoch);
        self.tail = (self.tail + parts) & self.mask;
        let blocks = match left {
            // What is beyond the last command is left alone.
            0 => command.blocks - from,
            left => total - from - left,
        };
        Ok(Part {
            blocks,
            commands: parts,
        })
    }
}
