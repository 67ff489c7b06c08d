//! What dom0 asks for in xenstore, and the answers.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The node [`crate::path::RESCANNED`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rescanned {
    /// How many answers were given so far, this one included.
    pub number: u64,
    /// A line for each controller or disk, which begins with its name.
    pub lines: Vec<String>,
}

impl Rescanned {
    /// Reads an answer; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        Some(Self {
            number: lines.next()?.parse().ok()?,
            lines: lines.map(String::from).collect(),
        })
    }
}

impl fmt::Display for Rescanned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)?;
        self.lines.iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

/// The node [`crate::path::UPDATE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateOrder {
    /// Stands before the answer.
    pub number: u64,
    /// The grant of the page that says where the image is.
    pub grant: u32,
    /// Whether the image is only to be checked.
    pub check: bool,
}

impl UpdateOrder {
    /// Reads an order; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        Some(Self {
            number: words.next()?.parse().ok()?,
            grant: words.next()?.parse().ok()?,
            check: words.next() == Some("check"),
        })
    }
}

impl fmt::Display for UpdateOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.grant)?;
        f.write_str(if self.check { " check" } else { "" })
    }
}

/// What became of an order to update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateAnswer {
    /// The image could follow; nothing was done.
    Fits,
    /// It could not; nothing was done.
    Refused,
    /// It has followed.
    Done,
    /// It died, and the one before it runs again.
    Failed,
}

impl UpdateAnswer {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Fits, Self::Refused, Self::Done, Self::Failed];

    /// The word that stands for it in [`crate::path::UPDATED`], after the order's number.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fits => "fits:",
            Self::Refused => "refused:",
            Self::Done => "done:",
            Self::Failed => "failed:",
        }
    }

    /// The answer to order `number`, with what is said besides.
    #[must_use]
    pub fn line(self, number: u64, more: impl fmt::Display) -> String {
        format!("{number} {} {more}", self.word())
    }

    /// Reads the answer to order `number`, and what is said besides; `None` if it is that to another.
    #[must_use]
    pub fn parse(text: &str, number: u64) -> Option<(Self, &str)> {
        let (answered, rest) = text.split_once(' ')?;
        Self::parse_rest(rest).filter(|_| answered.parse() == Ok(number))
    }

    /// Reads an answer whose number has been taken off.
    #[must_use]
    pub fn parse_rest(rest: &str) -> Option<(Self, &str)> {
        let (word, more) = rest.split_once(' ').unwrap_or((rest, ""));
        let answer = Self::ALL.into_iter().find(|answer| answer.word() == word)?;
        Some((answer, more))
    }
}
