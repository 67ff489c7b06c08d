//! The flight recorder: what happened last to the rings of a core, kept over a death of the kernel.
//!
//! Only what is rare is recorded, so that nothing of it costs a request anything. Each core has its own
//! events, in the node [`crate::path::trace`]: numbers in hexadecimal with dots between, the newest last.

use alloc::format;
use alloc::string::String;
use core::fmt;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// When, in nanoseconds of the system's time, which goes on over a death.
    pub at_ns: u64,
    /// What, as [`kind`] numbers it; others are of a later version.
    pub kind: u8,
    /// The operation of a request, as the ring numbers them (`public/io/blkif.h`); else 0.
    pub operation: u8,
    /// Whose disk: the guest's number.
    pub guest: u16,
    /// The number of the disk among its devices.
    pub device: u32,
    /// What depends on the kind.
    pub values: [u64; 2],
}

/// The kinds of events, by their numbers, which stay. Of each it is said what its values are.
pub mod kind {
    /// A core has a ring: requests that are done again after a death.
    pub const ATTACHED: u8 = 1;
    /// It has given it back: requests that it had answered.
    pub const DETACHED: u8 = 2;
    /// A request was refused: its first sector, and how many others were refused or failed, but not
    /// recorded, since the last that was.
    pub const REFUSED: u8 = 3;
    /// A request that was with the disk was answered with an error: its first sector, and as above.
    pub const FAILED: u8 = 4;
    /// The frontend broke the protocol, and the ring is not served any longer: requests taken.
    pub const HALTED: u8 = 5;
    /// The limits begin to hold the ring back, after a second or more in which they did not.
    pub const HELD_BACK: u8 = 6;
    /// The disk is lost.
    pub const DISK_LOST: u8 = 7;
    /// It is back, and may be used.
    pub const DISK_BACK: u8 = 8;
    /// The disk has another size: its sectors of 512 bytes.
    pub const RESIZED: u8 = 9;
    /// What was served is gone for good.
    pub const REMOVED: u8 = 10;
    /// The ring's limits or its weight are others.
    pub const SHARED: u8 = 11;
}

impl TraceEvent {
    /// Bits of `kind`, `operation`, `guest` and `device`, in this order from the lowest.
    #[must_use]
    pub const fn words(&self) -> [u64; 4] {
        let what = self.kind as u64
            | (self.operation as u64) << 8
            | (self.guest as u64) << 16
            | (self.device as u64) << 32;
        let [first, second] = self.values;
        [self.at_ns, what, first, second]
    }

    /// The same from such words.
    #[must_use]
    pub const fn from_words([at_ns, what, first, second]: [u64; 4]) -> Self {
        Self {
            at_ns,
            kind: what as u8,
            operation: (what >> 8) as u8,
            guest: (what >> 16) as u16,
            device: (what >> 32) as u32,
            values: [first, second],
        }
    }

    /// Reads one of the words of a node; `None` if it is none.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let mut words = [0; 4];
        let mut numbers = word.split('.');
        for word in &mut words {
            *word = u64::from_str_radix(numbers.next()?, 16).ok()?;
        }
        Some(Self::from_words(words))
    }

    /// What happened, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let [first, second] = self.values;
        let operation = match self.operation {
            0 => "read",
            1 => "write",
            2 => "barrier",
            3 => "flush",
            5 => "discard",
            6 => "large request",
            _ => "request",
        };
        let more = match second {
            0 => String::new(),
            more => format!("; {more} more like it were not recorded before"),
        };
        match self.kind {
            kind::ATTACHED if first > 0 => {
                format!("a core has the ring; {first} requests are done again after a death")
            }
            kind::ATTACHED => "a core has the ring".into(),
            kind::DETACHED => format!("the ring was given back; {first} requests were answered"),
            kind::REFUSED => format!("a {operation} at sector {first} was refused{more}"),
            kind::FAILED => format!("a {operation} at sector {first} failed{more}"),
            kind::HALTED => {
                format!("the guest broke the ring's protocol after {first} requests: it is stopped")
            }
            kind::HELD_BACK => "its limits begin to hold it back".into(),
            kind::DISK_LOST => "the disk is lost: requests fail".into(),
            kind::DISK_BACK => "the disk is back".into(),
            kind::RESIZED => format!("the disk has {first} sectors of 512 bytes from now on"),
            kind::REMOVED => "what was served is gone for good: requests fail".into(),
            kind::SHARED => "its limits or its weight were set".into(),
            other => format!("event {other} of a later version ({first}, {second})"),
        }
    }
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [at, what, first, second] = self.words();
        write!(f, "{at:x}.{what:x}.{first:x}.{second:x}")
    }
}
