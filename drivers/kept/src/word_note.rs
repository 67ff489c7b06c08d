//! A note of a few words in a part of kept memory: what the kernel tells its next life, and can do
//! without.
//!
//! The checksum goes first and comes last, so that a death in between leaves none. Memory that holds
//! something else, be it of another version, is no note.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use spindle_hw::SharedPages;

const WORD: usize = size_of::<u64>();
/// Words before those of the note: the checksum, and how many there are.
const FRONT: usize = 2;

/// Where a note is.
#[derive(Debug)]
pub struct WordNote<'a> {
    pages: &'a SharedPages,
    place: Range<usize>,
    magic: u64,
}

impl<'a> WordNote<'a> {
    /// At these bytes of `pages`, which begin and end with a word. `magic` says what it is about, with
    /// the version.
    #[must_use]
    pub const fn new(pages: &'a SharedPages, place: Range<usize>, magic: u64) -> Self {
        Self {
            pages,
            place,
            magic,
        }
    }

    /// Words that there is room for.
    const fn room(&self) -> usize {
        (self.place.end - self.place.start) / WORD - FRONT
    }

    fn word(&self, index: usize) -> usize {
        self.place.start + index * WORD
    }

    fn sum(&self, words: &[u64]) -> u64 {
        let all = [self.magic, words.len() as u64].into_iter();
        let all = all.chain(words.iter().copied());
        crate::fnv(all.flat_map(u64::to_le_bytes))
    }

    /// The note; `None` if there is none.
    #[must_use]
    pub fn read(&self) -> Option<Vec<u64>> {
        let load = |index| self.pages.u64_at(self.word(index)).load(Relaxed);
        let sum = self.pages.u64_at(self.word(0)).load(Acquire);
        let count = usize::try_from(load(1)).ok()?;
        let count = Some(count).filter(|&count| count <= self.room())?;
        let words: Vec<_> = (0..count).map(|index| load(FRONT + index)).collect();
        (sum == self.sum(&words)).then_some(words)
    }

    /// Writes the note, in place of any before. False, with none there, if it has no room.
    pub fn write(&self, words: &[u64]) -> bool {
        self.clear();
        if words.len() > self.room() {
            return false;
        }
        let store = |index, value| self.pages.u64_at(self.word(index)).store(value, Relaxed);
        store(1, words.len() as u64);
        for (index, &value) in words.iter().enumerate() {
            store(FRONT + index, value);
        }
        let sum = self.pages.u64_at(self.word(0));
        sum.store(self.sum(words), Release);
        true
    }

    /// Takes the note back.
    pub fn clear(&self) {
        // Wrong for what is there.
        let sum = self.pages.u64_at(self.word(0));
        if let Some(words) = self.read() {
            sum.store(!self.sum(&words), Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Range<usize> = 64..64 + 8 * WORD;

    #[test]
    fn a_note_is_read_again_until_it_is_taken_back() {
        let pages = SharedPages::host(1, 0);
        let note = WordNote::new(&pages, PLACE, 7);
        assert_eq!(note.read(), None);
        for words in [&[1, 2, 3, 4, 5, u64::MAX][..], &[9], &[]] {
            assert!(note.write(words));
            let again = WordNote::new(&pages, PLACE, 7);
            assert_eq!(again.read().as_deref(), Some(words));
            let other = WordNote::new(&pages, PLACE, 8);
            assert_eq!(other.read(), None, "it is about something else");
        }
        note.clear();
        assert_eq!(note.read(), None);
        assert!(note.write(&[1]));
        assert!(!note.write(&[0; 7]), "one more than there is room for");
        assert_eq!(note.read(), None);
        // Nothing is written beside its place.
        let beside = (0..4096).filter(|at| !PLACE.contains(at));
        assert!(
            beside
                .into_iter()
                .all(|at| pages.u8_at(at).load(Relaxed) == 0)
        );
    }

    #[test]
    fn any_bit_that_differs_makes_it_none() {
        let pages = SharedPages::host(1, 0);
        let note = WordNote::new(&pages, PLACE, 7);
        assert!(note.write(&[1, 2, 3]));
        for at in PLACE.start..PLACE.start + 5 * WORD {
            for bit in 0..8 {
                pages.u8_at(at).fetch_xor(1 << bit, Relaxed);
                assert_eq!(note.read(), None, "byte {at}");
                pages.u8_at(at).fetch_xor(1 << bit, Relaxed);
            }
        }
        assert_eq!(note.read(), Some([1, 2, 3].into()));
    }

    #[test]
    fn a_death_between_two_stores_leaves_none() {
        let pages = SharedPages::host(1, 0);
        let note = WordNote::new(&pages, PLACE, 7);
        assert!(note.write(&[1, 2]));
        let old: Vec<_> = (0..8)
            .map(|i| pages.u64_at(PLACE.start + i * WORD).load(Relaxed))
            .collect();
        assert!(note.write(&[3, 4, 5]));
        let new: Vec<_> = (0..8)
            .map(|i| pages.u64_at(PLACE.start + i * WORD).load(Relaxed))
            .collect();
        note.clear();
        let cleared = pages.u64_at(PLACE.start).load(Relaxed);
        assert_ne!(cleared, new[0]);
        // The first note taken back, and so many words of the second one written.
        for written in 0..4 {
            for (index, &value) in old.iter().enumerate() {
                pages
                    .u64_at(PLACE.start + index * WORD)
                    .store(value, Relaxed);
            }
            note.clear();
            for (index, &value) in new.iter().enumerate().skip(1).take(written) {
                pages
                    .u64_at(PLACE.start + index * WORD)
                    .store(value, Relaxed);
            }
            assert_eq!(note.read(), None, "{written}");
        }
    }
}
