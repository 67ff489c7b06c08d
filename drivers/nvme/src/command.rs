//! Submission queue entries (4.2): which doubleword holds what.

use core::sync::atomic::Ordering::Relaxed;

use spindle_hw::SharedPages;

/// log2 of the bytes in a submission queue entry.
pub(crate) const SUBMISSION_SHIFT: usize = 6;
/// 64-bit words in a submission queue entry.
const WORDS: usize = (1 << SUBMISSION_SHIFT) / size_of::<u64>();
/// log2 of the bytes in a completion queue entry.
pub(crate) const COMPLETION_SHIFT: usize = 4;

/// Opcodes of the NVM command set (6).
pub(crate) mod io {
    pub(crate) const FLUSH: u8 = 0x00;
    pub(crate) const WRITE: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
    pub(crate) const DATASET_MANAGEMENT: u8 = 0x09;
    /// Doubleword 12 of a write: on stable media before it is answered (6.15).
    pub(crate) const FORCE_UNIT_ACCESS: u32 = 1 << 30;
}

/// Opcodes of admin commands (5).
pub(crate) mod admin {
    pub(crate) const DELETE_SUBMISSION_QUEUE: u8 = 0x00;
    pub(crate) const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
    pub(crate) const GET_LOG_PAGE: u8 = 0x02;
    pub(crate) const DELETE_COMPLETION_QUEUE: u8 = 0x04;
    pub(crate) const CREATE_COMPLETION_QUEUE: u8 = 0x05;
    pub(crate) const IDENTIFY: u8 = 0x06;
    pub(crate) const ABORT: u8 = 0x08;
    pub(crate) const SET_FEATURES: u8 = 0x09;
    pub(crate) const ASYNC_EVENT_REQUEST: u8 = 0x0c;
}

/// The parts of a command that this driver uses; all others are 0 in every command, and stay so
/// in the zeroed memory of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) opcode: u8,
    pub(crate) cid: u16,
    pub(crate) namespace: u32,
    pub(crate) prp1: u64,
    pub(crate) prp2: u64,
    /// Command doublewords 10 (low half) and 11.
    pub(crate) cdw10: u64,
    pub(crate) cdw12: u32,
}

impl Entry {
    /// Writes the entry into slot `index` of a submission queue.
    #[inline(always)]
    pub(crate) fn store(&self, queue: &SharedPages, index: usize) {
        self.packed().store(queue, index);
    }

    /// The entry as it goes into memory.
    #[inline(always)]
    pub(crate) const fn packed(&self) -> Packed {
        let head = self.opcode as u64 | (self.cid as u64) << 16 | (self.namespace as u64) << 32;
        Packed([head, self.prp1, self.prp2, self.cdw10, self.cdw12 as u64])
    }
}

/// An entry's words that are not always 0: 0, 3, 4, 5 and 6 of the eight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packed([u64; 5]);

impl Packed {
    /// The same with another identifier.
    #[inline(always)]
    pub(crate) const fn with_cid(mut self, cid: u16) -> Self {
        self.0[0] = self.0[0] & !0xffff_0000 | (cid as u64) << 16;
        self
    }

    /// A discard of which only the first range counts.
    pub(crate) const fn with_one_range(mut self) -> Self {
        self.0[3] &= !0xff;
        self
    }

    /// What it asks for.
    pub(crate) const fn opcode(&self) -> u8 {
        self.0[0] as u8
    }

    /// Blocks that it reads or writes, if that is what it does.
    pub(crate) const fn blocks(&self) -> u64 {
        (self.0[4] & 0xffff) + 1
    }

    /// The namespace that it is for.
    pub(crate) const fn namespace(&self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    #[cfg(test)]
    pub(crate) const fn cid(&self) -> u16 {
        (self.0[0] >> 16) as u16
    }

    #[cfg(test)]
    pub(crate) const fn cdw10(&self) -> u64 {
        self.0[3]
    }

    /// Writes the entry into slot `index` of a submission queue.
    #[inline(always)]
    pub(crate) fn store(&self, queue: &SharedPages, index: usize) {
        let words = queue.group::<WORDS>(index);
        for (at, word) in [0, 3, 4, 5, 6].into_iter().zip(self.0) {
            words[at].store(word, Relaxed);
        }
    }
}

/// What a completion says (4.6), without the phase bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) cid: u16,
    pub(crate) status: u16,
}

/// Doubleword 3 of completion `index`, if its phase bit is `phase`.
///
/// The load acquires: what the controller wrote before it, data included, is visible after.
#[inline]
pub(crate) fn answer(queue: &SharedPages, index: usize, phase: u32) -> Option<Answer> {
    use core::sync::atomic::Ordering::Acquire;
    let word = queue.u32_at((index << COMPLETION_SHIFT) + 12).load(Acquire);
    (word >> 16 & 1 == phase).then_some(Answer {
        cid: word as u16,
        status: (word >> 17) as u16,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_lands_in_the_right_doublewords() {
        let queue = SharedPages::host(1, 0);
        let entry = Entry {
            opcode: 0x02,
            cid: 0x1234,
            namespace: 0xaabb_ccdd,
            prp1: 0x1111_0000,
            prp2: 0x2222_0000,
            cdw10: 0x0b0b_0b0b_0a0a_0a0a,
            cdw12: 0x0c0c_0c0c,
        };
        entry.store(&queue, 2);
        let word = |n: usize| queue.u32_at(128 + 4 * n).load(Relaxed);
        let words: alloc::vec::Vec<u32> = (0..16).map(word).collect();
        let expected = [
            0x1234_0002,
            0xaabb_ccdd,
            0,
            0,
            0,
            0,
            0x1111_0000,
            0,
            0x2222_0000,
            0,
            0x0a0a_0a0a,
            0x0b0b_0b0b,
            0x0c0c_0c0c,
            0,
            0,
            0,
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn an_answer_counts_only_in_its_own_phase() {
        let queue = SharedPages::host(1, 0);
        assert_eq!(answer(&queue, 1, 1), None);
        let word = 0x4281 << 17 | 1 << 16 | 0x00ff;
        queue.u32_at(28).store(word, Relaxed);
        let expected = Answer {
            cid: 0xff,
            status: 0x4281,
        };
        assert_eq!(answer(&queue, 1, 1), Some(expected));
        assert_eq!(answer(&queue, 1, 0), None);
    }
}
