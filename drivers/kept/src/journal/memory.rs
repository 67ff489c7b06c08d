//! The memory of a journal: real pages, or those of a model.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use spindle_hw::SharedPages;

use super::layout::ENTRY;

/// What a journal is written into. Offsets are in bytes and multiples of the size of what is stored;
/// all are inside.
pub trait JournalMemory {
    /// Size in bytes.
    fn size(&self) -> usize;
    /// Reads a word.
    fn word(&self, offset: usize) -> u64;
    /// Writes a word.
    fn set_word(&self, offset: usize, value: u64);
    /// Reads an index, and with it all that was stored before.
    fn index(&self, offset: usize) -> u32;
    /// Writes an index: whoever reads it finds all that was stored before.
    fn set_index(&self, offset: usize, value: u32);
    /// Reads a place.
    fn place(&self, offset: usize) -> u16;
    /// Writes a place.
    fn set_place(&self, offset: usize, place: u16);

    /// Reads group number `group` of the groups of four words that the memory consists of.
    #[inline]
    fn entry(&self, group: usize) -> [u64; ENTRY] {
        core::array::from_fn(|at| self.word((group * ENTRY + at) * size_of::<u64>()))
    }

    /// Writes such a group, word by word.
    #[inline]
    fn set_entry(&self, group: usize, words: [u64; ENTRY]) {
        for (at, word) in words.into_iter().enumerate() {
            self.set_word((group * ENTRY + at) * size_of::<u64>(), word);
        }
    }
}

impl JournalMemory for SharedPages {
    fn size(&self) -> usize {
        self.len()
    }

    #[inline]
    fn word(&self, offset: usize) -> u64 {
        self.u64_at(offset).load(Relaxed)
    }

    #[inline]
    fn set_word(&self, offset: usize, value: u64) {
        self.u64_at(offset).store(value, Relaxed);
    }

    #[inline]
    fn index(&self, offset: usize) -> u32 {
        self.u32_at(offset).load(Acquire)
    }

    #[inline(always)]
    fn set_index(&self, offset: usize, value: u32) {
        self.u32_at(offset).store(value, Release);
    }

    #[inline(always)]
    fn place(&self, offset: usize) -> u16 {
        self.u16_at(offset).load(Relaxed)
    }

    #[inline(always)]
    fn set_place(&self, offset: usize, place: u16) {
        self.u16_at(offset).store(place, Relaxed);
    }

    #[inline]
    fn entry(&self, group: usize) -> [u64; ENTRY] {
        self.group::<ENTRY>(group)
            .each_ref()
            .map(|word| word.load(Relaxed))
    }

    #[inline(always)]
    fn set_entry(&self, group: usize, words: [u64; ENTRY]) {
        for (word, value) in self.group::<ENTRY>(group).iter().zip(words) {
            word.store(value, Relaxed);
        }
    }
}
