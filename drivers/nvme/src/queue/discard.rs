//! Submission of a discard: the ranges lie where the PRP list of the same slot would.

use core::sync::atomic::Ordering::Relaxed;

use spindle_block::{Command, SubmitError, Tag};
use spindle_hw::Registers;

use super::QueuePair;
use crate::command::{Entry, io};
use crate::discard::{MAX_COMMANDS, RANGE_SHIFT};

/// Doubleword 11 of Dataset Management: deallocate (6.7).
const DEALLOCATE: u64 = 1 << 2;

impl<R: Registers> QueuePair<R> {
    #[inline(never)]
    pub(super) fn discard(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        let Some(limits) = self.discards else {
            return Err(SubmitError::Unsupported);
        };
        let most = MAX_COMMANDS.min(self.capacity() as u64);
        let parts = command.blocks.div_ceil(limits.command_blocks()).min(most) as usize;
        if parts == 0 {
            return Err(SubmitError::Scattered);
        }
        if self.slots.reserve(parts - 1).is_none() {
            return Err(self.full());
        }
        let (mut block, mut left) = (command.block, command.blocks);
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
        Ok(())
    }
}
