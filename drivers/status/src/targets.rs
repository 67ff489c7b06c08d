//! What there is to be served, a line each: the nodes [`crate::path::DISKS`] and
//! [`crate::path::TARGETS`].

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A disk or partition, as both nodes begin their lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetLine<'a> {
    /// Its name, without blanks.
    pub name: &'a str,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes in a block.
    pub block: u64,
    /// What can be done with it.
    pub mode: TargetMode,
    /// The rest: the model and serial number of a disk, or holders and other names.
    pub rest: &'a str,
}

/// What can be done with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetMode {
    /// It can be read.
    Read,
    /// It can be read and written.
    Write,
    /// Its controller is lost: attaches are refused.
    Lost,
}

impl TargetMode {
    /// As the line has it.
    #[must_use]
    pub const fn as_char(self) -> char {
        match self {
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Lost => '-',
        }
    }
}

impl<'a> TargetLine<'a> {
    /// Reads a line; `None` if it is none, as the one that says how many were left out. A mode that is
    /// not known counts as one that only lets read.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(5, ' ');
        let name = words.next().filter(|name| !name.is_empty())?;
        Some(Self {
            name,
            sectors: words.next()?.parse().ok()?,
            block: words.next()?.parse().ok()?,
            mode: match words.next()? {
                "w" => TargetMode::Write,
                "-" => TargetMode::Lost,
                _ => TargetMode::Read,
            },
            rest: words.next().unwrap_or_default(),
        })
    }

    /// The rest as holders and other names.
    #[must_use]
    pub fn holders(&self) -> (Vec<HolderWord>, &'a str) {
        let (holders, names) = self.rest.split_once(' ').unwrap_or((self.rest, ""));
        let holders = holders.split(',').filter_map(HolderWord::parse);
        (holders.collect(), names)
    }
}

impl fmt::Display for TargetLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            sectors,
            block,
            mode,
            rest,
        } = self;
        write!(f, "{name} {sectors} {block} {} {rest}", mode.as_char())
    }
}

/// A guest that has a target: `5/51712:w`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderWord {
    /// The guest's number.
    pub guest: u32,
    /// The number of the disk among its devices.
    pub device: u32,
    /// `r`, `w`, or `w!` for writing what others write, too.
    pub how: String,
}

impl HolderWord {
    /// In place of holders where there are none.
    pub const NONE: &str = "-";
    /// How one has it that only reads.
    pub const READ: &str = "r";
    /// How one has it that writes what no other writes.
    pub const WRITE: &str = "w";
    /// How one has it that writes what others write, too.
    pub const SHARED_WRITE: &str = "w!";

    /// Reads one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let (device, how) = word.split_once(':')?;
        let (guest, device) = device.split_once('/')?;
        Some(Self {
            guest: guest.parse().ok()?,
            device: device.parse().ok()?,
            how: how.into(),
        })
    }
}

impl fmt::Display for HolderWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.guest, self.device, self.how)
    }
}
