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

/// What is to be done with a logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeAction {
    /// Make it.
    Create {
        /// Its size in sectors of 512 bytes.
        sectors: u64,
        /// When that is, in seconds since 1970.
        time: u64,
    },
    /// Make it larger.
    Extend {
        /// Its size in sectors of 512 bytes, or how much is to be added.
        sectors: u64,
        /// Whether it is the latter.
        more: bool,
    },
    /// Take it out of its group.
    Remove,
    /// Give it another name.
    Rename {
        /// Which one, without the group's.
        to: String,
    },
}

/// The node [`crate::path::VOLUME`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeOrder {
    /// Stands before the answer.
    pub word: String,
    /// The volume, `<group>/<volume>`.
    pub name: String,
    /// What is to be done with it.
    pub action: VolumeAction,
}

impl VolumeOrder {
    /// Reads an order; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let (word, what, name) = (words.next()?, words.next()?, words.next()?);
        let action = match what {
            "create" => VolumeAction::Create {
                sectors: words.next()?.parse().ok()?,
                time: words.next()?.parse().ok()?,
            },
            "extend" => {
                let size = words.next()?;
                let added = size.strip_prefix('+');
                VolumeAction::Extend {
                    sectors: added.unwrap_or(size).parse().ok()?,
                    more: added.is_some(),
                }
            }
            "remove" => VolumeAction::Remove,
            "rename" => VolumeAction::Rename {
                to: words.next()?.into(),
            },
            _ => return None,
        };
        let order = Self {
            word: word.into(),
            name: name.into(),
            action,
        };
        words.next().is_none().then_some(order)
    }
}

impl fmt::Display for VolumeOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { word, name, .. } = self;
        match &self.action {
            VolumeAction::Create { sectors, time } => {
                write!(f, "{word} create {name} {sectors} {time}")
            }
            VolumeAction::Extend { sectors, more } => {
                let sign = if *more { "+" } else { "" };
                write!(f, "{word} extend {name} {sign}{sectors}")
            }
            VolumeAction::Remove => write!(f, "{word} remove {name}"),
            VolumeAction::Rename { to } => write!(f, "{word} rename {name} {to}"),
        }
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
