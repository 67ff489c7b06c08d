//! The last few KiB of the log: a ring of bytes that each line is appended to, and that the next life
//! reads before it writes its own.
//!
//! | bytes | what is there |
//! | --- | --- |
//! | 0 | magic, with the version |
//! | 8 | bytes appended since the first life, those of a line that is being appended included |
//! | 16 | the same without them |
//! | 24 | how many of them are on a console as those of a former life |
//! | 32 | the ring |
//!
//! A death may come in the middle of a line: by the two counts the reader knows which of the oldest
//! bytes are overwritten by then. It shows whole lines of printable ASCII, whatever lies there.

use alloc::string::String;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use spindle_hw::{PAGE_SIZE, SharedPages};

use crate::layout::LOG_PAGES;

const MAGIC: u64 = u64::from_le_bytes(*b"LOGTAIL\x01");
const MAGIC_AT: usize = 0;
const BEGUN_AT: usize = 8;
const DONE_AT: usize = 16;
const SEEN_AT: usize = 24;
const RING_AT: usize = 32;
const RING: usize = LOG_PAGES * PAGE_SIZE - RING_AT;

/// The tail of the log. Lines are appended by one caller at a time.
#[derive(Debug)]
pub struct LogTail {
    pages: SharedPages,
    /// Bytes that former lives have appended.
    former: u64,
}

impl LogTail {
    /// Takes up its pages at the start of a life, and gives what former lives have left there that was not
    /// [seen](Self::seen): nothing if this is the first, or if what is there is no such tail.
    #[must_use]
    pub fn begin(pages: SharedPages, again: bool) -> (Self, String) {
        let mut tail = Self { pages, former: 0 };
        let former = if again { tail.read() } else { None };
        if former.is_some() {
            tail.close();
        } else {
            tail.pages.zero(0, RING_AT);
            tail.word(MAGIC_AT).store(MAGIC, Release);
        }
        tail.former = tail.word(DONE_AT).load(Relaxed);
        (tail, former.unwrap_or_default())
    }

    /// What former lives have left was shown: the next life need not do so again.
    pub fn seen(&self) {
        self.word(SEEN_AT).store(self.former, Release);
    }

    /// Ends a line in whose middle a life has ended.
    fn close(&self) {
        let (begun, done) = (self.word(BEGUN_AT), self.word(DONE_AT));
        let end = begun.load(Relaxed);
        for at in done.load(Relaxed)..end {
            self.pages.write_bytes(RING_AT + place(at), b"\n");
        }
        done.store(end, Release);
    }

    /// Appends a line with its line feed; of one that is longer than all there is room for, its end.
    pub fn append(&self, line: &[u8]) {
        let line = &line[line.len().saturating_sub(RING)..];
        let done = self.word(DONE_AT).load(Relaxed);
        let end = done.wrapping_add(line.len() as u64);
        self.word(BEGUN_AT).store(end, Release);
        let at = place(done);
        let (first, second) = line.split_at(line.len().min(RING - at));
        self.pages.write_bytes(RING_AT + at, first);
        self.pages.write_bytes(RING_AT, second);
        self.word(DONE_AT).store(end, Release);
    }

    /// The whole lines that are there; `None` if that is no tail.
    fn read(&self) -> Option<String> {
        let (begun, done) = (self.word(BEGUN_AT), self.word(DONE_AT));
        let (begun, done) = (begun.load(Acquire), done.load(Acquire));
        let torn = begun.checked_sub(done)?;
        if self.word(MAGIC_AT).load(Acquire) != MAGIC || torn > RING as u64 {
            return None;
        }
        let seen = self.word(SEEN_AT).load(Acquire);
        let seen = if seen <= done { seen } else { 0 };
        let from = begun.saturating_sub(RING as u64).max(seen);
        let mut text = String::with_capacity(done.saturating_sub(from) as usize);
        // The first line has lost its beginning, unless it is the first of all that were not seen.
        let mut whole = from == seen;
        for at in from..done {
            let mut byte = [0];
            self.pages.read_bytes(RING_AT + place(at), &mut byte);
            match byte {
                _ if !whole => whole = byte == [b'\n'],
                // What is left of a line that was torn.
                [b'\n'] if text.is_empty() || text.ends_with('\n') => {}
                [byte @ (b'\n' | b' '..=b'~')] => text.push(byte.into()),
                _ => text.push('?'),
            }
        }
        Some(text)
    }

    fn word(&self, at: usize) -> &core::sync::atomic::AtomicU64 {
        self.pages.u64_at(at)
    }
}

/// Where in the ring byte number `count` is.
const fn place(count: u64) -> usize {
    (count % RING as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn pages() -> SharedPages {
        SharedPages::host(LOG_PAGES, 0)
    }

    #[test]
    fn the_next_life_finds_the_lines_and_goes_on_behind_them() {
        let pages = pages();
        let (tail, former) = LogTail::begin(pages.alias(), false);
        assert_eq!(former, "");
        tail.append(b"one\n");
        tail.append("tw\u{f6}\x07\n".as_bytes());
        let (tail, former) = LogTail::begin(pages.alias(), true);
        assert_eq!(former, "one\ntw???\n");
        tail.append(b"three\n");
        assert_eq!(LogTail::begin(pages.alias(), true).1, "one\ntw???\nthree\n");
        // What was shown is not given again, nor hidden if the life that shows it has not ended that.
        let (tail, former) = LogTail::begin(pages.alias(), true);
        assert_eq!(former, "one\ntw???\nthree\n");
        tail.append(b"four\n");
        tail.seen();
        assert_eq!(LogTail::begin(pages.alias(), true).1, "four\n");
        // A first life believes nothing.
        assert_eq!(LogTail::begin(pages.alias(), false).1, "");
        assert_eq!(LogTail::begin(pages, true).1, "");
    }

    #[test]
    fn only_the_newest_whole_lines_stay() {
        let pages = pages();
        let (tail, _) = LogTail::begin(pages.alias(), false);
        let line = |n: usize| format!("line {n:05}\n");
        for n in 0..10_000 {
            tail.append(line(n).as_bytes());
        }
        let kept = RING / line(0).len();
        let expected: String = (10_000 - kept..10_000).map(line).collect();
        assert_eq!(LogTail::begin(pages.alias(), true).1, expected);
        tail.append(&[b'x'; 2 * RING]);
        assert_eq!(LogTail::begin(pages, true).1, "");
    }

    #[test]
    fn what_was_begun_is_at_most_as_much_as_there_is_room_for() {
        for (torn, is_tail) in [(RING as u64, true), (RING as u64 + 1, false)] {
            let (tail, _) = LogTail::begin(pages(), false);
            tail.append(b"one\n");
            tail.word(BEGUN_AT).store(4 + torn, Relaxed);
            assert_eq!(tail.read().is_some(), is_tail, "{torn} bytes");
        }
        let (tail, _) = LogTail::begin(pages(), false);
        tail.word(MAGIC_AT).store(MAGIC + 1, Relaxed);
        assert_eq!(tail.read(), None);
    }

    proptest! {
        /// A death in the middle of a line loses that line and what it has overwritten.
        #[test]
        fn a_line_that_is_torn_hides_itself_and_no_half_of_another(
            lens in proptest::collection::vec(1_usize..400, 1..60),
            last in 1_usize..400,
            written in 0_usize..400,
        ) {
            let pages = pages();
            let (tail, _) = LogTail::begin(pages.alias(), false);
            let line = |n: usize, len: usize| format!("{n}{}\n", "a".repeat(len));
            let lines: std::vec::Vec<String> = lens.iter().enumerate().map(|(n, len)| line(n, *len)).collect();
            for line in &lines {
                tail.append(line.as_bytes());
            }
            let done = tail.word(DONE_AT).load(Relaxed);
            let torn = line(99, last);
            tail.append(torn.as_bytes());
            // As if it had not come further than this: what follows is still the old.
            tail.word(DONE_AT).store(done, Relaxed);
            let end = done + torn.len() as u64;
            for at in (done..end).skip(written) {
                tail.pages.write_bytes(RING_AT + place(at), b"#");
            }
            let (tail, former) = LogTail::begin(pages.alias(), true);
            prop_assert!(lines.concat().ends_with(&former));
            tail.append(b"next\n");
            let next = LogTail::begin(pages, true).1;
            prop_assert!((lines.concat() + "next\n").ends_with(&next), "{next}");
            // As many as there is room for: one that begins with the oldest byte is not known to be whole.
            let sums = lines.iter().rev().scan(0, |sum, line| {
                *sum += line.len();
                Some(*sum)
            });
            let fits = sums.filter(|sum| end <= RING as u64 || sum + torn.len() < RING).max();
            prop_assert_eq!(former.len(), fits.unwrap_or(0));
        }

        #[test]
        fn any_page_can_be_read_and_appended_to(
            bytes in proptest::collection::vec(any::<u8>(), PAGE_SIZE),
            torn in 0_u64..2 * RING as u64,
            magic in any::<bool>(),
        ) {
            let pages = pages();
            pages.write_bytes(0, &bytes);
            if magic {
                pages.u64_at(MAGIC_AT).store(MAGIC, Relaxed);
                let begun = pages.u64_at(BEGUN_AT).load(Relaxed);
                pages.u64_at(DONE_AT).store(begun.wrapping_sub(torn), Relaxed);
            }
            let (tail, former) = LogTail::begin(pages.alias(), true);
            prop_assert!(former.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)));
            prop_assert!(former.len() <= RING);
            tail.append(b"next\n");
            let again = LogTail::begin(pages, true).1;
            prop_assert!(again.is_empty() || again.ends_with("next\n"), "{}", again.to_string());
        }
    }
}
