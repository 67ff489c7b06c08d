//! A map: where the blocks of a volume are that is more than one run of a disk's blocks.
//!
//! Such a volume is a row of stretches. A linear one is a run of one disk's blocks; a striped one
//! deals its blocks out in chunks to runs of several. A volume that comes to a single run has no map
//! and is served like a whole disk or a partition.

mod gather;
mod growth;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::{Discard, SECTOR_SIZE, Unit, Volume};
pub use growth::NotGrown;

/// Runs that a map has at most, stripes counted each. A map of so many takes 100 KiB.
pub const MAX_RUNS: usize = 2048;

/// Disks, or parts of disks, that a map leads to at most.
pub const MAX_MAPPED_DISKS: usize = 64;

/// A part of a volume, as a source of volumes describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its length in 512-byte sectors.
    pub sectors: u64,
    /// Sectors that go to one run before it is the next one's turn. Of no account with one run.
    pub chunk: u64,
    /// Where it is. Each of several runs has its equal share of it.
    pub runs: Vec<Run>,
}

/// Where a run of blocks begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which of the volumes that the new one is made of.
    pub volume: usize,
    /// The first sector there, in 512-byte sectors.
    pub sector: u64,
}

/// Why stretches do not make a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// There is nothing in it.
    #[error("it has no blocks")]
    Empty,
    /// More runs than a map may have.
    #[error("it is in more than {MAX_RUNS} pieces")]
    Pieces,
    /// More disks than a map may lead to.
    #[error("it is on more than {MAX_MAPPED_DISKS} disks")]
    Disks,
    /// A run is on a volume that was not given, or that is itself spread over several runs.
    #[error("a piece of it is on no disk or partition")]
    Nowhere,
    /// A run does not end inside the volume that it is on.
    #[error("a piece of it is beyond the end of its disk or partition")]
    Beyond,
    /// The disks have blocks of different sizes.
    #[error("its disks have blocks of different sizes")]
    BlockSizes,
    /// A border is inside a block, or the stripes of a stretch are not all equally long.
    #[error("its pieces are not whole blocks or not whole stripes")]
    Uneven,
    /// Two runs have a block in common.
    #[error("two pieces of it share blocks")]
    Overlap,
}

/// Where a block of a volume is, and how far it goes on there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which of [`Map::disks`].
    pub part: usize,
    /// Which part of that disk.
    pub unit: Unit,
    /// The block there, in the disk's blocks.
    pub block: u64,
    /// Blocks up to the next border, at least 1.
    pub blocks: u64,
}

/// A disk that a map leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedDisk {
    /// As [`Volume::disk`].
    pub disk: usize,
    /// Which part of the disk.
    pub unit: Unit,
    /// As [`Volume::write_cache`].
    pub write_cache: bool,
}

/// One run of a map, in blocks of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leg {
    part: u32,
    block: u64,
}

/// A row of blocks of the volume that one rule places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    /// The first block, and that after the last.
    first: u64,
    end: u64,
    /// Blocks in a chunk; all of them if there is one leg.
    chunk: u64,
    /// Which legs are its own.
    leg: u32,
    legs: u32,
}

/// Where the blocks of a volume are, by their numbers in the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    rows: Box<[Row]>,
    legs: Box<[Leg]>,
    disks: Box<[MappedDisk]>,
}

impl Map {
    /// The disks, or parts of disks, that it leads to: at least one.
    #[must_use]
    pub fn disks(&self) -> &[MappedDisk] {
        &self.disks
    }

    /// Where this block of the volume is; `None` if it is beyond the end.
    #[must_use]
    pub fn locate(&self, block: u64) -> Option<Place> {
        let at = self.rows.partition_point(|row| row.end <= block);
        let row = self.rows.get(at)?;
        let (own, left) = (block.checked_sub(row.first)?, row.end - block);
        let (chunk, within) = (own / row.chunk, own % row.chunk);
        let legs = u64::from(row.legs);
        let leg = self
            .legs
            .get((u64::from(row.leg) + chunk % legs) as usize)?;
        let disk = self.disks.get(leg.part as usize)?;
        Some(Place {
            part: leg.part as usize,
            unit: disk.unit,
            block: leg.block + chunk / legs * row.chunk + within,
            blocks: left.min(row.chunk - within),
        })
    }

    /// The runs of blocks that are its own, on each disk: which of [`Map::disks`], the first block,
    /// and how many.
    pub fn runs(&self) -> impl Iterator<Item = (&MappedDisk, u64, u64)> {
        self.rows.iter().flat_map(move |row| {
            let legs = self.legs.iter().skip(row.leg as usize);
            let blocks = (row.end - row.first) / u64::from(row.legs);
            let own = legs.take(row.legs as usize);
            own.filter_map(move |leg| Some((self.disks.get(leg.part as usize)?, leg.block, blocks)))
        })
    }

    /// Puts stretches of `backing`'s blocks together.
    fn build(stretches: &[Stretch], backing: &[Volume]) -> Result<Self, MapError> {
        let count = |sum: usize, stretch: &Stretch| sum.saturating_add(stretch.runs.len());
        if stretches.iter().fold(0, count) > MAX_RUNS {
            return Err(MapError::Pieces);
        }
        let mut rows: Vec<Row> = Vec::new();
        let (mut legs, mut disks) = (Vec::<Leg>::new(), Vec::<MappedDisk>::new());
        let mut first = 0;
        for stretch in stretches {
            let lead = stretches[0].runs.first().ok_or(MapError::Empty)?;
            let lead = backing.get(lead.volume).ok_or(MapError::Nowhere)?;
            let (per_block, count) = (lead.sectors_per_block(), stretch.runs.len() as u64);
            if count == 0 {
                return Err(MapError::Empty);
            }
            let chunk = if count == 1 {
                stretch.sectors
            } else {
                stretch.chunk
            };
            let row_sectors = chunk.checked_mul(count).ok_or(MapError::Uneven)?;
            if stretch.sectors == 0 {
                return Err(MapError::Empty);
            }
            let share = stretch.sectors / count;
            if row_sectors == 0
                || stretch.sectors % row_sectors != 0
                || chunk % per_block != 0
                || stretch.sectors % per_block != 0
            {
                return Err(MapError::Uneven);
            }
            let leg = legs.len() as u32;
            for run in &stretch.runs {
                let volume = backing.get(run.volume).ok_or(MapError::Nowhere)?;
                if volume.map.is_some() {
                    return Err(MapError::Nowhere);
                }
                if volume.sectors_per_block() != per_block {
                    return Err(MapError::BlockSizes);
                }
                let end = run.sector.checked_add(share).ok_or(MapError::Beyond)?;
                if end > volume.sectors {
                    return Err(MapError::Beyond);
                }
                if run.sector % per_block != 0 {
                    return Err(MapError::Uneven);
                }
                let is_its = |it: &MappedDisk| (it.disk, it.unit) == (volume.disk, volume.unit);
                let part = disks.iter().position(is_its).unwrap_or_else(|| {
                    disks.push(MappedDisk {
                        disk: volume.disk,
                        unit: volume.unit,
                        write_cache: volume.write_cache,
                    });
                    disks.len() - 1
                });
                legs.push(Leg {
                    part: part as u32,
                    block: volume.start + run.sector / per_block,
                });
            }
            let end = first + stretch.sectors / per_block;
            let row = Row {
                first,
                end,
                chunk: chunk / per_block,
                leg,
                legs: stretch.runs.len() as u32,
            };
            first = end;
            if !join(&mut rows, &legs, &row) {
                rows.push(row);
            } else {
                legs.pop();
            }
        }
        if rows.is_empty() {
            return Err(MapError::Empty);
        }
        if disks.len() > MAX_MAPPED_DISKS {
            return Err(MapError::Disks);
        }
        let map = Self {
            rows: rows.into(),
            legs: legs.into(),
            disks: disks.into(),
        };
        map.check_overlap()?;
        Ok(map)
    }

    fn check_overlap(&self) -> Result<(), MapError> {
        let run = |(disk, first, blocks): (&MappedDisk, u64, u64)| {
            (disk.disk, disk.unit, first, first + blocks)
        };
        let runs: Vec<_> = self.runs().map(run).collect();
        // Each with all before it: the library's sort would be a hundredth of the kernel.
        let meet = runs.iter().enumerate().any(|(index, one)| {
            let mut before = runs[..index].iter();
            before.any(|it| (it.0, it.1) == (one.0, one.1) && it.2 < one.3 && one.2 < it.3)
        });
        if meet { Err(MapError::Overlap) } else { Ok(()) }
    }

    /// The one run that it is, if it is one: on which disk, and its first block.
    fn single(&self) -> Option<(MappedDisk, u64)> {
        match (&*self.rows, &*self.legs, &*self.disks) {
            ([_], [leg], [disk]) => Some((*disk, leg.block)),
            _ => None,
        }
    }
}

/// Adds a linear row, whose leg is the last, to one before it that it goes on; false if there is none.
fn join(rows: &mut [Row], legs: &[Leg], row: &Row) -> bool {
    let (Some(last), [.., before, leg]) = (rows.last_mut(), legs) else {
        return false;
    };
    let goes_on = last.legs == 1
        && row.legs == 1
        && before.part == leg.part
        && before.block + (last.end - last.first) == leg.block;
    if goes_on {
        last.end = row.end;
        last.chunk = last.end - last.first;
    }
    goes_on
}

impl Volume {
    /// A volume that is put together from `stretches` of `backing` volumes, which are disks or
    /// partitions. It can do what all of its disks can, and is what any of them is that stands in the
    /// way of something; it has no aliases and no description yet.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn assembled(
        name: String,
        stretches: &[Stretch],
        backing: &[Self],
    ) -> Result<Self, MapError> {
        let map = Map::build(stretches, backing)?;
        let lead = stretches.first().and_then(|stretch| stretch.runs.first());
        let lead = lead.and_then(|run| backing.get(run.volume));
        let mut volume = lead.ok_or(MapError::Empty)?.clone();
        let used = |volume: &&Self| {
            let is_its = |it: &MappedDisk| (it.disk, it.unit) == (volume.disk, volume.unit);
            map.disks.iter().any(is_its)
        };
        for other in backing.iter().filter(used) {
            volume.read_only |= other.read_only;
            volume.write_cache |= other.write_cache;
            volume.physical_block_shift =
                volume.physical_block_shift.max(other.physical_block_shift);
            volume.discard = volume
                .discard
                .zip(other.discard)
                .map(|(one, other)| Discard {
                    granularity: one.granularity.max(other.granularity),
                    // What of a piece is in another run is not known to the guest.
                    alignment: 0,
                    secure: one.secure && other.secure,
                });
        }
        let blocks = map.rows.last().map_or(0, |row| row.end);
        volume.sectors = blocks << (volume.block_shift & 31) >> SECTOR_SIZE.trailing_zeros();
        volume.name = name;
        (volume.aliases, volume.description) = (Vec::new(), String::new());
        match map.single() {
            Some((disk, block)) => {
                (volume.disk, volume.unit, volume.start) = (disk.disk, disk.unit, block);
            }
            None => volume.map = Some(map.into()),
        }
        Ok(volume)
    }

    /// The parts of disks that its blocks are on.
    pub fn units(&self) -> impl Iterator<Item = (usize, Unit)> {
        let single = self.map.is_none().then_some((self.disk, self.unit));
        let mapped = self.map.iter().flat_map(|map| map.disks.iter());
        mapped.map(|it| (it.disk, it.unit)).chain(single)
    }

    /// The disks that its blocks are on; one of which it has several parts is there as often.
    pub fn disks(&self) -> impl Iterator<Item = usize> {
        self.units().map(|(disk, _)| disk)
    }

    /// Whether any of its blocks is on this disk.
    #[must_use]
    pub fn is_on(&self, disk: usize) -> bool {
        self.disks().any(|it| it == disk)
    }

    /// Whether any of its blocks is on this part of a disk.
    #[must_use]
    pub fn is_on_unit(&self, disk: usize, unit: Unit) -> bool {
        self.units().any(|it| it == (disk, unit))
    }
}

#[cfg(test)]
mod tests;
