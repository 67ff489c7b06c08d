//! What is measured.

use std::fmt;
use std::str::FromStr;

/// How a frontend's memory is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Grants that stay mapped.
    Persistent,
    /// Grant copies through buffers.
    Copy,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) path: Path,
    pub(crate) write: bool,
    /// Requests under way at once on each ring.
    pub(crate) batch: u32,
    /// Rings, each on a core of its own.
    pub(crate) rings: usize,
}

impl Case {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let paths = [Path::Persistent, Path::Copy].into_iter();
        paths.flat_map(|path| {
            [false, true].into_iter().flat_map(move |write| {
                [1, 32].into_iter().flat_map(move |batch| {
                    [1, 2, 4].into_iter().map(move |rings| Self {
                        path,
                        write,
                        batch,
                        rings,
                    })
                })
            })
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path {
            Path::Persistent => "persistent",
            Path::Copy => "copy",
        };
        let op = if self.write { "write" } else { "read" };
        write!(f, "{path}-{op}-b{}-r{}", self.batch, self.rings)
    }
}

impl FromStr for Case {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::all().find(|case| case.to_string() == name).ok_or(())
    }
}
