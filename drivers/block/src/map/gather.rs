//! Where a run of a volume's blocks is, with what is together on a disk put together: for commands that
//! have no data, and to which the order of blocks is nothing.
//!
//! A striped stretch deals its blocks out in chunks, but what each of its runs gets of them is one run
//! again. A discard of a GiB in stripes of 4 KiB thus is a command for each stripe, and not 262,144.

use super::{Map, Place};

impl Map {
    /// Where the run of `blocks` blocks from block `first` of the volume goes on after `done` of them,
    /// if of each stretch those come first that are on its first run, then those on its second, and so
    /// on; [`Place::blocks`] says for how long. `None` if that were all, or if it is beyond the end.
    #[must_use]
    pub fn gather(&self, first: u64, blocks: u64, done: u64) -> Option<Place> {
        let (end, mut skip) = (first.checked_add(blocks)?, done);
        let at = self.rows.partition_point(|row| row.end <= first);
        for row in self.rows.iter().skip(at) {
            let (from, to) = (first.max(row.first), end.min(row.end));
            if from >= to {
                return None;
            }
            let (from, to) = (from - row.first, to - row.first);
            if skip >= to - from {
                skip -= to - from;
                continue;
            }
            let legs = self.legs.iter().skip(row.leg as usize);
            for (number, leg) in (0..row.legs).zip(legs) {
                let on_leg = |before: u64| {
                    let all = row.chunk * u64::from(row.legs);
                    let rest = before % all;
                    let own = rest.saturating_sub(u64::from(number) * row.chunk);
                    before / all * row.chunk + own.min(row.chunk)
                };
                let (from, to) = (on_leg(from), on_leg(to));
                if skip >= to - from {
                    skip -= to - from;
                    continue;
                }
                let disk = self.disks.get(leg.part as usize)?;
                return Some(Place {
                    part: leg.part as usize,
                    unit: disk.unit,
                    block: leg.block + from + skip,
                    blocks: to - from - skip,
                });
            }
        }
        None
    }
}
