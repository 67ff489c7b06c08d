//! What an NVMe controller says of itself, as dom0 asks for it: pages that are only read, and nothing else.
//!
//! The order names a page and a byte; the answer is as much of the page from there on as a node holds. The
//! kernel hands over bytes, and `spindlectl` knows what they mean.

use alloc::string::String;
use core::fmt::{self, Write as _};

/// Bytes of a page in one answer, which takes two characters for each.
pub const PIECE: usize = 800;

/// Bytes that a page has at most.
pub const PAGE: usize = 4096;

/// Entries of the error log that a page holds.
pub const MOST_ERRORS: u32 = 64;

/// A page, and where to begin in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Which page.
    pub page: InspectedPage,
    /// The first byte that is asked for.
    pub from: u16,
}

/// A page of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InspectedPage {
    /// The SMART / Health Information log: Get Log Page, 02h.
    Health,
    /// So many entries of the error log: Get Log Page, 01h.
    Errors(u32),
    /// Identify Controller.
    Controller,
    /// Identify Namespace, of this one.
    Namespace(u32),
}

impl InspectedPage {
    /// Its word in an order, and the number that goes with it.
    #[must_use]
    pub const fn words(self) -> (&'static str, u32) {
        match self {
            Self::Health => ("smart", 0),
            Self::Errors(entries) => ("error-log", entries),
            Self::Controller => ("id-ctrl", 0),
            Self::Namespace(id) => ("id-ns", id),
        }
    }

    fn from_words(word: &str, number: u32) -> Option<Self> {
        Some(match word {
            "smart" => Self::Health,
            "error-log" if (1..=MOST_ERRORS).contains(&number) => Self::Errors(number),
            "id-ctrl" => Self::Controller,
            "id-ns" => Self::Namespace(number),
            _ => return None,
        })
    }
}

/// The node [`crate::path::INSPECT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectOrder<'a> {
    /// Stands before the answer.
    pub word: &'a str,
    /// The controller, such as `nvme0`.
    pub disk: &'a str,
    /// What is asked for.
    pub wanted: Inspection,
}

impl<'a> InspectOrder<'a> {
    /// Reads an order; `None` if it is none.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut words = text.split(' ');
        let (word, page, disk) = (words.next()?, words.next()?, words.next()?);
        // As one type, since the image has the code for that already.
        let mut number = || words.next()?.parse::<u64>().ok();
        let (number, from) = (u32::try_from(number()?).ok()?, number()?);
        let page = InspectedPage::from_words(page, number)?;
        (from < PAGE as u64).then_some(Self {
            word,
            disk,
            wanted: Inspection {
                page,
                from: from as u16,
            },
        })
    }
}

impl fmt::Display for InspectOrder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { word, disk, .. }, from) = (self, self.wanted.from);
        let (page, number) = self.wanted.page.words();
        write!(f, "{word} {page} {disk} {number} {from}")
    }
}

/// Bytes as an answer has them: two digits in hexadecimal for each.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes of such digits; `None` if they are none.
#[must_use]
pub fn bytes(text: &str) -> Option<alloc::vec::Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    rest.is_empty()
        .then(|| pairs.iter().map(byte).collect::<Option<_>>())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_order_is_read_as_it_was_written_and_nothing_else_is_one() {
        for page in [
            InspectedPage::Health,
            InspectedPage::Errors(MOST_ERRORS),
            InspectedPage::Controller,
            InspectedPage::Namespace(u32::MAX),
        ] {
            let order = InspectOrder {
                word: "18446744073709551615",
                disk: "nvme1234",
                wanted: Inspection { page, from: 4095 },
            };
            let text = order.to_string();
            assert_eq!(InspectOrder::parse(&text), Some(order));
            // What is read of an order's node.
            assert!(text.len() <= 64, "{text}");
        }
        for text in [
            "",
            "1 smart nvme0",
            "1 smart nvme0 0",
            "1 smart nvme0 0 4096",
            "1 format nvme0 1 0",
            "1 error-log nvme0 0 0",
            "1 error-log nvme0 65 0",
            "1 id-ns nvme0 -1 0",
        ] {
            assert_eq!(InspectOrder::parse(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_come_back_from_their_digits() {
        let all: alloc::vec::Vec<u8> = (0..=255).collect();
        let text = hexadecimal(&all);
        assert!(text.starts_with("000102") && text.ends_with("feff"));
        assert_eq!(bytes(&text), Some(all));
        for bad in ["0", "0x", "g0"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        // A piece fits a node, with the word and `done` before it.
        assert!(20 + " done, ".len() + 2 * PIECE <= 1792);
    }
}
