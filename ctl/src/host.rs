//! The machine that `spindlectl` works on, behind a trait: programs, files in sysfs and xenstore's
//! tools. `dom0` is the real one; tests put a machine of their own in its place.
//!
//! Every look-up tells "not there" from "could not look", and everything has a time limit.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use anyhow::Error;

use crate::fault::FaultKind;

/// What is done to and learnt from dom0.
pub(crate) trait Host {
    /// Runs a program with more environment variables than our own; gives its standard output.
    ///
    /// # Errors
    /// If it cannot be started, fails, or takes longer than the call may.
    fn run(&mut self, call: &Call) -> Result<String, Failed>;

    /// The content of a small file.
    fn read(&mut self, path: &str) -> io::Result<String>;

    /// The content of a file of any kind.
    fn bytes(&mut self, path: &str) -> io::Result<Vec<u8>>;

    /// Has a domain read these bytes until this program ends; gives the grant of each page.
    fn grant(&mut self, domain: u32, bytes: &[u8]) -> io::Result<Vec<u32>>;

    /// A number that no other program gets.
    fn stamp(&mut self) -> u64;

    /// How many bytes are in a file.
    fn size(&mut self, path: &str) -> io::Result<u64>;

    /// The end of a file from byte `from` on, `most` bytes at most. A file that has become shorter
    /// than `from` was begun anew, and counts from its start.
    fn tail(&mut self, path: &str, from: u64, most: u64) -> io::Result<String>;

    /// Whether there is a file.
    fn exists(&mut self, path: &str) -> io::Result<bool>;

    /// The names in a folder.
    fn list(&mut self, path: &str) -> io::Result<Vec<String>>;

    /// The last name of where a symbolic link points to; `None` if there is no such link.
    fn link(&mut self, path: &str) -> io::Result<Option<String>>;

    /// The path of a file with all symbolic links followed.
    fn real(&mut self, path: &str) -> io::Result<String>;

    /// Makes a file that only root can read, and its folder, or replaces it in one step.
    fn write(&mut self, path: &str, text: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&mut self, path: &str) -> io::Result<()>;

    /// Changes some bytes of a file.
    fn patch(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Whether something in the kernel has the block device at `path` to itself: a file system, swap
    /// space, RAID, a program that asked for that. A device that is not there is not taken.
    fn is_taken(&mut self, path: &str) -> io::Result<bool>;

    /// The other programs that have one of these devices open, each with the first of them.
    fn openers(&mut self, nodes: &[Node]) -> io::Result<Vec<Opener>>;

    /// The user we act as; 0 is root.
    fn user(&mut self) -> u32;

    /// Time since the start of this program.
    fn now(&mut self) -> Duration;

    /// Waits.
    fn sleep(&mut self, time: Duration);

    /// Whether the user has asked to stop (Ctrl-C, SIGTERM).
    fn interrupted(&mut self) -> bool;
}

/// A device by its number. Block and character devices are numbered apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Whether it is a block device.
    pub(crate) block: bool,
    /// Its driver's number.
    pub(crate) major: u32,
    /// Its number there.
    pub(crate) minor: u32,
}

/// A program that has a device open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opener {
    /// The device.
    pub(crate) node: Node,
    /// The program's name.
    pub(crate) program: String,
    /// Its process.
    pub(crate) id: u32,
}

/// A look-up in which "not there" is an answer, not a failure.
pub(crate) fn found<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The error with what it means and what to do, each on a line of its own: the cause comes first.
pub(crate) fn noted(error: &Error, note: impl fmt::Display) -> Error {
    FaultKind::of(error).error(format!("{error:#}\n{note}"))
}

/// How long a look-up may take.
const LOOK: Duration = Duration::from_secs(60);
/// How long a change may take: a controller that does not answer holds up its driver for minutes.
const CHANGE: Duration = Duration::from_secs(300);

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The program.
    pub(crate) program: String,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Environment variables set for it.
    pub(crate) environment: Vec<(String, String)>,
    /// When it is killed.
    pub(crate) limit: Duration,
}

impl Call {
    /// A program with these arguments that only looks something up.
    pub(crate) fn look<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            program: program.to_string(),
            arguments: arguments.into_iter().map(str::to_string).collect(),
            environment: Vec::new(),
            limit: LOOK,
        }
    }

    /// A program with these arguments that changes something.
    pub(crate) fn change<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            limit: CHANGE,
            ..Self::look(program, arguments)
        }
    }

    /// `xl` with these arguments, which changes something.
    pub(crate) fn xl<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self::change("xl", arguments)
    }

    /// The same with an environment variable.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

/// As a shell would take it.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={} ", quoted(value))?;
        }
        f.write_str(&self.program)?;
        for argument in &self.arguments {
            f.write_char(' ')?;
            f.write_str(&quoted(argument))?;
        }
        Ok(())
    }
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A program that did not do what it was run for. It may have had its effect, or part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The call, as a shell would take it.
    pub(crate) call: String,
    /// What happened, such as `failed (exit status: 1)`.
    pub(crate) how: String,
    /// What the program said.
    pub(crate) said: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.call, self.how)?;
        match self.said.trim() {
            "" => Ok(()),
            said => write!(f, ": {said}"),
        }
    }
}

impl std::error::Error for Failed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_shown_as_a_shell_takes_it() {
        let call = Call::look("xenstore-write", ["/a", "b c", "it's", ""]).with("X", "1;2");
        let expected = r"X='1;2' xenstore-write /a 'b c' 'it'\''s' ''";
        assert_eq!(call.to_string(), expected);
    }

    #[test]
    fn what_is_not_there_is_told_from_what_could_not_be_looked_at() {
        let error = |kind: io::ErrorKind| found::<()>(Err(kind.into()));
        assert!(matches!(error(io::ErrorKind::NotFound), Ok(None)));
        assert!(error(io::ErrorKind::PermissionDenied).is_err());
        assert!(matches!(found(Ok(1)), Ok(Some(1))));
    }
}
