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
    /// Grants that are mapped for one request.
    Map,
}

/// Pages that a frontend uses in turn, one for each request.
const PAGES: u64 = 256;

/// The same for requests of several pages, which is less than a ring keeps mapped.
const MANY_PAGES: u64 = 1000;

/// Pages of large requests: 8, 44, 128 and 1,024 KiB. From 12 on they are indirect.
const SIZES: [u16; 4] = [2, 11, 32, 256];

/// Pages used in turn: as many as a ring keeps mapped, one more, and twice as many.
const AROUND_THE_CACHE: [u64; 3] = [1056, 1057, 2112];

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) path: Path,
    pub(crate) write: bool,
    /// Requests under way at once on each ring.
    pub(crate) batch: u32,
    /// Rings, each on a core of its own.
    pub(crate) rings: usize,
    /// Pages of each request.
    pub(crate) pages: u16,
    /// Pages that are used in turn.
    pub(crate) in_turn: u64,
}

impl Case {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::small().chain(Self::large()).chain(Self::around())
    }

    /// Whether it is for what a ring keeps mapped, so that it has as many frames as the kernel's.
    pub(crate) fn is_large(self) -> bool {
        self.in_turn != PAGES
    }

    /// Requests of one page, on one ring and several.
    fn small() -> impl Iterator<Item = Self> {
        let paths = [Path::Persistent, Path::Copy].into_iter();
        paths.flat_map(|path| {
            [false, true].into_iter().flat_map(move |write| {
                [1, 32].into_iter().flat_map(move |batch| {
                    [1, 2, 4].into_iter().map(move |rings| Self {
                        path,
                        write,
                        batch,
                        rings,
                        pages: 1,
                        in_turn: PAGES,
                    })
                })
            })
        })
    }

    /// Requests of several pages, eight at once.
    fn large() -> impl Iterator<Item = Self> {
        let paths = [Path::Persistent, Path::Copy, Path::Map].into_iter();
        paths.flat_map(|path| {
            [false, true].into_iter().flat_map(move |write| {
                SIZES.into_iter().map(move |pages| Self {
                    path,
                    write,
                    batch: 8,
                    rings: 1,
                    pages,
                    in_turn: MANY_PAGES,
                })
            })
        })
    }

    /// Requests of one page, of as many pages in turn as the cache holds, and of more.
    fn around() -> impl Iterator<Item = Self> {
        AROUND_THE_CACHE.into_iter().map(|in_turn| Self {
            path: Path::Persistent,
            write: false,
            batch: 32,
            rings: 1,
            pages: 1,
            in_turn,
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path {
            Path::Persistent => "persistent",
            Path::Copy => "copy",
            Path::Map => "map",
        };
        let op = if self.write { "write" } else { "read" };
        write!(f, "{path}-{op}-b{}-r{}", self.batch, self.rings)?;
        if self.pages > 1 {
            write!(f, "-{}k", self.pages * 4)?;
        } else if self.in_turn != PAGES {
            write!(f, "-{}in-turn", self.in_turn)?;
        }
        Ok(())
    }
}

impl FromStr for Case {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::all().find(|case| case.to_string() == name).ok_or(())
    }
}
