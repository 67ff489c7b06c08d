//! The lives of the kernel: when the last one began, and how the one before it ended.

use alloc::string::String;
use core::fmt;

use crate::words::value;

/// The node [`crate::path::START`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartLine {
    /// When the kernel started, in seconds since 1970 by dom0's clock; 0 if it does not know.
    pub at: u64,
    /// Microseconds from the end of the last life until this one served; 0 for the first.
    pub down_us: u64,
    /// How many lives ended by a death.
    pub deaths: u64,
    /// `at` as nanoseconds of the system's time, which goes on over a death; 0 if it does not say.
    pub system_ns: u64,
}

impl StartLine {
    /// Reads the node; what is missing is 0.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let number = |name| value(line, name).unwrap_or(0);
        Self {
            at: number("at"),
            down_us: number("down_us"),
            deaths: number("deaths"),
            system_ns: number("system_ns"),
        }
    }
}

impl fmt::Display for StartLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            down_us,
            deaths,
            system_ns,
        } = self;
        write!(
            f,
            "at={at} down_us={down_us} deaths={deaths} system_ns={system_ns}"
        )
    }
}

/// The node [`crate::path::DEATH`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeathLine {
    /// What ended the life: `panic`, `exception`, `hang`, `NMI`.
    pub cause: String,
    /// The core that died; `None` if it is not known.
    pub core: Option<u32>,
    /// What the kernel said, on one line.
    pub message: String,
}

impl DeathLine {
    /// What is published where nothing is known.
    pub const UNKNOWN: &str = "unknown cause";

    /// Reads the node, whatever is in it.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let (cause, rest) = line.split_once(" core=").unwrap_or((line, ""));
        let (core, message) = rest.split_once(' ').unwrap_or((rest, ""));
        let cause = if line.is_empty() {
            Self::UNKNOWN
        } else {
            cause
        };
        Self {
            cause: cause.into(),
            core: core.parse().ok(),
            message: message.trim().into(),
        }
    }
}

impl fmt::Display for DeathLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        let Some(core) = self.core else { return Ok(()) };
        write!(f, " core={core} ")?;
        let message = self.message.trim();
        message
            .split('\n')
            .enumerate()
            .try_for_each(|(number, line)| {
                f.write_str(if number > 0 { " " } else { "" })?;
                f.write_str(line)
            })
    }
}
