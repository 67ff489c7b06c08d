//! Records in a bank: each begins on a line of its own, so that the next one is found wherever one is
//! damaged.
//!
//! A line has 64 bytes, of which the first four say whether a record begins there or goes on. So no
//! contents, some of which guests choose, look like a beginning. The checksum covers the number of
//! the writing as well: what an earlier one has left in a bank is never taken for a record.

use alloc::vec::Vec;

use spindle_hw::SharedPages;

use crate::layout::BANK_BYTES;

const LINE: usize = 64;
const TAG: usize = size_of::<u32>();
const IN_LINE: usize = LINE - TAG;
const LINES: usize = BANK_BYTES / LINE;
/// A record begins here.
const BEGINS: u32 = 0x3143_4552;
/// It goes on here.
const GOES_ON: u32 = 0x3143_2e2e;
/// Kind, version, length of the body, checksum.
const HEAD: usize = 2 + 2 + 4 + 8;

/// One of the two places for records, of one writing.
#[derive(Debug)]
pub(super) struct Bank<'a> {
    pages: &'a SharedPages,
    at: usize,
    writing: u64,
    /// The next line.
    line: usize,
}

/// What is found in a bank.
#[derive(Debug)]
pub(super) enum Found {
    Sound {
        kind: u16,
        version: u16,
        body: Vec<u8>,
    },
    Damaged,
}

impl<'a> Bank<'a> {
    pub(super) const fn new(pages: &'a SharedPages, at: usize, writing: u64) -> Self {
        Self {
            pages,
            at,
            writing,
            line: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.pages.zero(self.at, BANK_BYTES);
        self.line = 0;
    }

    /// Adds a record; false if there is no room for it.
    pub(super) fn add(&mut self, kind: u16, version: u16, body: &[u8]) -> bool {
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(version.to_le_bytes());
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(self.sum(kind, version, body).to_le_bytes());
        bytes.extend(body);
        let count = bytes.len().div_ceil(IN_LINE);
        if count > LINES - self.line {
            return false;
        }
        for (number, part) in bytes.chunks(IN_LINE).enumerate() {
            let tag = if number == 0 { BEGINS } else { GOES_ON };
            let at = self.at + (self.line + number) * LINE;
            self.pages.write_bytes(at, &tag.to_le_bytes());
            self.pages.write_bytes(at + TAG, part);
        }
        self.line += count;
        true
    }

    /// All that is there, in order.
    pub(super) fn records(mut self) -> impl Iterator<Item = Found> {
        core::iter::from_fn(move || {
            while self.line < LINES {
                if self.tag(self.line) == BEGINS {
                    return Some(self.take());
                }
                self.line += 1;
            }
            None
        })
    }

    fn tag(&self, line: usize) -> u32 {
        let mut tag = [0; TAG];
        self.pages.read_bytes(self.at + line * LINE, &mut tag);
        u32::from_le_bytes(tag)
    }

    /// The record that begins on the next line.
    fn take(&mut self) -> Found {
        let first = self.line;
        self.line += 1;
        let mut bytes = self.line_body(first);
        let Some((head, _)) = bytes.split_first_chunk::<HEAD>() else {
            return Found::Damaged;
        };
        let [k0, k1, v0, v1, l0, l1, l2, l3, sum @ ..] = *head;
        let (kind, version) = (u16::from_le_bytes([k0, k1]), u16::from_le_bytes([v0, v1]));
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let count = len.saturating_add(HEAD).div_ceil(IN_LINE);
        if count > LINES - first {
            return Found::Damaged;
        }
        for line in first + 1..first + count {
            if self.tag(line) != GOES_ON {
                return Found::Damaged;
            }
            bytes.extend(self.line_body(line));
        }
        bytes.truncate(HEAD + len);
        let body = bytes.split_off(HEAD);
        if self.sum(kind, version, &body) != u64::from_le_bytes(sum) {
            return Found::Damaged;
        }
        self.line = first + count;
        Found::Sound {
            kind,
            version,
            body,
        }
    }

    fn line_body(&self, line: usize) -> Vec<u8> {
        let mut body = alloc::vec![0; IN_LINE];
        let at = self.at + line * LINE + TAG;
        self.pages.read_bytes(at, &mut body);
        body
    }

    /// FNV-1a over all that makes the record. A byte that differs always gives another sum, since each
    /// step takes different states to different ones.
    fn sum(&self, kind: u16, version: u16, body: &[u8]) -> u64 {
        let writing = self.writing.to_le_bytes();
        let kind = kind.to_le_bytes().into_iter().chain(version.to_le_bytes());
        let len = (body.len() as u32).to_le_bytes();
        let head = writing.into_iter().chain(kind).chain(len);
        crate::fnv(head.chain(body.iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bank that ends where the memory does, so that nothing behind it can be read.
    fn last_bank(pages: &SharedPages, writing: u64) -> Bank<'_> {
        Bank::new(pages, pages.len() - BANK_BYTES, writing)
    }

    /// Whatever length a stray write has left, and even if all of the bank looks like the rest of it.
    #[test]
    fn a_record_that_claims_to_go_on_behind_the_bank_is_damaged() {
        let pages = SharedPages::host(BANK_BYTES / spindle_hw::PAGE_SIZE, 0);
        for len in [
            (IN_LINE * (LINES - 1) - HEAD + 1) as u32,
            BANK_BYTES as u32,
            u32::MAX,
        ] {
            for line in 0..LINES {
                pages.write_bytes(line * LINE, &GOES_ON.to_le_bytes());
            }
            pages.write_bytes(LINE, &BEGINS.to_le_bytes());
            pages.write_bytes(LINE + TAG + 4, &len.to_le_bytes());
            let found: Vec<_> = last_bank(&pages, 1).records().collect();
            assert!(matches!(found[..], [Found::Damaged]), "{len}: {found:?}");
        }
    }

    #[test]
    fn a_record_may_take_all_of_a_bank_and_no_byte_more() {
        let pages = SharedPages::host(BANK_BYTES / spindle_hw::PAGE_SIZE, 0);
        let most = IN_LINE * LINES - HEAD;
        let body: Vec<u8> = (0..=most).map(|at| at as u8).collect();
        let mut bank = last_bank(&pages, 7);
        assert!(!bank.add(1, 1, &body));
        assert!(bank.add(1, 1, &body[..most]));
        assert!(!bank.add(1, 1, &[]));
        let found: Vec<_> = last_bank(&pages, 7).records().collect();
        let [Found::Sound { body: read, .. }] = &found[..] else {
            panic!("{found:?}");
        };
        assert!(*read == body[..most]);
    }
}
