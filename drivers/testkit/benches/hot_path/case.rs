//! What is measured.

use std::fmt;
use std::str::FromStr;

use spindle_blkif::abi::MAX_SEGMENTS;

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

/// What limits may cost a request, of many that come together.
const LIMITS: f64 = 15.0;

/// What they may cost one that comes alone to a ring that is awake alone.
const LIMITS_ALONE: f64 = 220.0;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) path: Path,
    pub(crate) write: bool,
    /// Requests under way at once on each ring that has any; 0 = turns that find nothing.
    pub(crate) batch: u32,
    /// Cores, each with one ring that has requests.
    pub(crate) cores: usize,
    /// Rings of each core that have none, each of a guest of its own.
    pub(crate) idle: usize,
    /// Disks that each core has queues of; the ring with requests uses one.
    pub(crate) disks: usize,
    /// Pages of each request.
    pub(crate) pages: u16,
    /// Pages that are used in turn.
    pub(crate) in_turn: u64,
    /// Whether the ring has limits, which do not hold it back.
    pub(crate) limited: bool,
}

impl Case {
    /// A core with one ring and one disk, and requests of one page.
    const ALONE: Self = Self {
        path: Path::Persistent,
        write: false,
        batch: 1,
        cores: 1,
        idle: 0,
        disks: 1,
        pages: 1,
        in_turn: PAGES,
        limited: false,
    };

    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let all = Self::small().chain(Self::beside_idle());
        let mut seen = Vec::new();
        let all = all.chain(Self::large()).chain(Self::around());
        for case in all.chain(Self::limited()) {
            if !seen.contains(&case) {
                seen.push(case);
            }
        }
        seen.into_iter()
    }

    /// Whether it is for what a ring keeps mapped, so that it has as many frames as the kernel's.
    pub(crate) fn is_large(self) -> bool {
        self.in_turn != PAGES
    }

    /// Whether its requests have more pages than a ring has room for, so that they point to lists.
    pub(crate) fn is_indirect(self) -> bool {
        usize::from(self.pages) > MAX_SEGMENTS
    }

    /// The most instructions that may be counted for a request, or for a turn that finds nothing: a
    /// little more than there are, with 256 rings on the core as with one.
    pub(crate) fn bound(self) -> f64 {
        let large = |bounds: [f64; SIZES.len()]| {
            let size = SIZES.iter().position(|&pages| pages == self.pages);
            size.map_or(0.0, |size| bounds[size])
        };
        let limits = match (self.limited, self.batch) {
            (false, _) => 0.0,
            (true, 1) => LIMITS_ALONE,
            (true, 8) => 4.0 * LIMITS,
            (true, _) => LIMITS,
        };
        limits
            + match (self.path, self.batch) {
                (_, 0) => 99.0,
                (Path::Persistent, 1) => 950.0,
                // Half of the pages are not mapped.
                (Path::Persistent, 32) if self.in_turn == AROUND_THE_CACHE[2] => 775.0,
                (Path::Persistent, 32) => 320.0,
                (Path::Persistent, _) => large([925.0, 1330.0, 1955.0, 8750.0]),
                (Path::Copy, 1) => 2350.0,
                (Path::Copy, 32) => 855.0,
                (Path::Copy, _) => large([2045.0, 2910.0, 4980.0, 24_100.0]),
                (Path::Map, _) => large([1680.0, 3420.0, 7540.0, 49_400.0]),
            }
    }

    /// What a turn's cost is divided by: its requests, or 1 where there are none.
    pub(crate) fn requests(&self) -> u32 {
        self.batch.max(1)
    }

    /// Requests of one page, on one core and several.
    fn small() -> impl Iterator<Item = Self> {
        let paths = [Path::Persistent, Path::Copy].into_iter();
        paths.flat_map(|path| {
            [false, true].into_iter().flat_map(move |write| {
                pairs([1, 32], [1, 2, 4]).map(move |(batch, cores)| Self {
                    path,
                    write,
                    batch,
                    cores,
                    ..Self::ALONE
                })
            })
        })
    }

    /// The same, and turns that find nothing, beside rings and disks that have nothing to do.
    fn beside_idle() -> impl Iterator<Item = Self> {
        let rings = pairs([1, 32, 0], [0, 7, 31, 255]).map(|(batch, idle)| Self {
            batch,
            idle,
            ..Self::ALONE
        });
        rings.chain(pairs([1, 32, 0], [4, 16]).map(|(batch, disks)| Self {
            batch,
            disks,
            ..Self::ALONE
        }))
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
                    pages,
                    in_turn: MANY_PAGES,
                    ..Self::ALONE
                })
            })
        })
    }

    /// With limits: a page and 128 KiB.
    fn limited() -> impl Iterator<Item = Self> {
        let sizes = [(1, 1), (32, 1), (8, 32)].into_iter();
        sizes.map(|(batch, pages)| Self {
            batch,
            pages,
            in_turn: if pages > 1 { MANY_PAGES } else { PAGES },
            limited: true,
            ..Self::ALONE
        })
    }

    /// Requests of one page, of as many pages in turn as the cache holds, and of more.
    fn around() -> impl Iterator<Item = Self> {
        AROUND_THE_CACHE.into_iter().map(|in_turn| Self {
            batch: 32,
            in_turn,
            ..Self::ALONE
        })
    }
}

/// Each of the first with each of the second.
fn pairs<const M: usize, const N: usize>(
    batches: [u32; M],
    others: [usize; N],
) -> impl Iterator<Item = (u32, usize)> {
    let with = move |batch| others.into_iter().map(move |other| (batch, other));
    batches.into_iter().flat_map(with)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path {
            Path::Persistent => "persistent",
            Path::Copy => "copy",
            Path::Map => "map",
        };
        let op = if self.write { "write" } else { "read" };
        match self.batch {
            0 => write!(f, "empty")?,
            batch => write!(f, "{path}-{op}-b{batch}")?,
        }
        write!(f, "-r{}", self.cores)?;
        if self.idle > 0 {
            write!(f, "-idle{}", self.idle)?;
        }
        if self.disks > 1 {
            write!(f, "-disks{}", self.disks)?;
        }
        if self.limited {
            write!(f, "-limited")?;
        }
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
