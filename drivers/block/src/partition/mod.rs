//! Partitions: from the table on a disk to [`Volume`]s with names of their own.
//!
//! A guest that has a disk to itself writes its table, so a table is never more than a claim:
//! everything in it is checked against the disk, and the worst it can do is to name parts of
//! that very disk.

mod entry;
mod gpt;
mod mbr;
mod steps;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::logical::{bound, physical_volume};
use crate::read::read;
use crate::{Blocks, Discard, LocatedPv, ReadError, SECTOR_SIZE, Volume};
use entry::Entry;
pub(crate) use steps::KnownBlocks;
pub use steps::{TableReader, TableStep};

/// Partition type of the record that keeps old tools off a GPT (UEFI 2.10, 5.2.3).
const PROTECTIVE: u8 = 0xee;

/// Partitions of one disk that are taken, at most. Tables have 128 entries unless they are made
/// larger, and a guest may fill what it was given as it likes.
const MAX_PARTITIONS: usize = 128;

/// What was found on a disk.
#[derive(Debug, Default)]
pub struct Table {
    /// Its partitions, in the order of their numbers.
    pub partitions: Vec<Volume>,
    /// The physical volumes of LVM2 on the disk or its partitions; none by [`partitions`].
    pub physical: Vec<LocatedPv>,
    /// What a person should know about the table.
    pub notes: Vec<String>,
    /// It has a table, though that may not hold.
    pub divided: bool,
}

impl Table {
    /// Looks at the volume with this number for a physical volume; false if there is none so high.
    fn look(
        &mut self,
        number: usize,
        disk: &Volume,
        blocks: &mut dyn Blocks,
    ) -> Result<bool, ReadError> {
        let volume = match number {
            0 if !self.divided => disk,
            _ => match self.partitions.get(number) {
                Some(partition) => partition,
                None => return Ok(false),
            },
        };
        let found = physical_volume(volume, disk, blocks, &mut self.notes)?;
        if let Some(mut pv) = found {
            bound(self.physical.iter().map(|it| &it.found), &mut pv.found);
            self.physical.push(pv);
        }
        Ok(true)
    }

    /// Leaves out what is more than `most` partitions, and notes that.
    pub fn limit(&mut self, most: usize) {
        truncate(&mut self.partitions, most, &mut self.notes);
    }
}

fn truncate<T>(partitions: &mut Vec<T>, most: usize, notes: &mut Vec<String>) {
    if partitions.len() > most {
        let count = partitions.len();
        notes.push(format!(
            "only the first {most} of {count} partitions are taken"
        ));
        partitions.truncate(most);
    }
}

/// Reads the partition table of `disk` from `blocks`. A disk without a table has no partitions,
/// and so has one with a table that does not hold.
///
/// # Errors
/// If the disk does not answer, or cannot read its first block. Of the two tables of a GPT one will
/// do.
pub fn partitions(disk: &Volume, blocks: &mut dyn Blocks) -> Result<Table, ReadError> {
    let mut table = Table::default();
    // Two headers and two blocks of entries are the least.
    if blocks.count() < 6 {
        return Ok(table);
    }
    let first = read(blocks, 0, 1)?;
    let Some(record) = mbr::record(&first) else {
        return Ok(table);
    };
    let kinds = record.partitions.map(|partition| partition.os_indicator);
    table.divided = kinds.iter().any(|kind| *kind != 0);
    let mut found = if kinds.contains(&PROTECTIVE) {
        // Whatever else the record names, as that of a hybrid does, is what the GPT has as well.
        gpt::read_table(blocks, &mut table.notes)?
    } else if table.divided {
        mbr::read_table(blocks, &record, &mut table.notes)?
    } else {
        return Ok(table);
    };
    truncate(&mut found, MAX_PARTITIONS, &mut table.notes);
    table.partitions = found.iter().map(|entry| volume(disk, entry)).collect();
    Ok(table)
}

/// As [`partitions`], with the physical volumes of LVM2: on the disk itself, if it has no table, or on its
/// partitions.
///
/// # Errors
/// If the disk does not answer. What it cannot read is taken for what is no physical volume.
pub fn table(disk: &Volume, blocks: &mut dyn Blocks) -> Result<Table, ReadError> {
    let mut table = partitions(disk, blocks)?;
    let mut number = 0;
    while table.look(number, disk, blocks)? {
        number += 1;
    }
    Ok(table)
}

/// The volume that an entry of `disk`'s table makes.
fn volume(disk: &Volume, entry: &Entry) -> Volume {
    let number = entry.number;
    // As Linux names them: `nvme0n1p1`, but `vda1`.
    let between = if disk.name.ends_with(|last: char| last.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    let mut aliases: Vec<String> = disk
        .aliases
        .iter()
        .map(|alias| format!("{alias}-part{number}"))
        .collect();
    if let Some(uuid) = &entry.uuid {
        aliases.push(format!("PARTUUID={uuid}"));
    }
    if let Some(label) = entry.label.as_ref().filter(|label| !label.is_empty()) {
        aliases.push(format!("PARTLABEL={label}"));
    }
    let offset = entry.first << disk.block_shift;
    let discard = disk.discard.map(|discard| {
        let granularity = u64::from(discard.granularity).max(SECTOR_SIZE);
        // Where the first whole piece begins, seen from the partition's start.
        let first = u64::from(discard.alignment) % granularity;
        let alignment = (first + granularity - offset % granularity) % granularity;
        Discard {
            alignment: u32::try_from(alignment).unwrap_or(0),
            ..discard
        }
    });
    Volume {
        name: format!("{}{between}{number}", disk.name),
        aliases,
        start: disk.start + entry.first,
        sectors: (entry.last - entry.first + 1) * disk.sectors_per_block(),
        discard,
        description: format!("partition {number} of {}", disk.name),
        ..disk.clone()
    }
}
