//! The GUID partition table (UEFI 2.10, 5.3): headers, entries, and what must hold of them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use gpt_disk_types::{
    BlockSize, GptHeader, GptPartitionEntry, GptPartitionEntryArray, GptPartitionName,
};

use super::entry::{Entry, usable};
use crate::read::read;
use crate::{Blocks, ReadError};

/// Entries and bytes of them, at most; tables have 128 entries in 16 KiB.
const MAX_ENTRIES: u32 = 1024;
const MAX_BYTES: usize = 128 << 10;
/// A header that holds, and its entries.
struct Table {
    header: GptHeader,
    entries: Vec<GptPartitionEntry>,
}

/// Why a header does not hold; `Err` of the outer result is the disk's.
type Checked = Result<Result<Table, &'static str>, ReadError>;

/// Reads both tables, and gives the partitions of the primary one, or else of the backup.
pub(super) fn read_table(
    blocks: &mut dyn Blocks,
    notes: &mut Vec<String>,
) -> Result<Vec<Entry>, ReadError> {
    let primary = look(blocks, 1)?;
    // On a disk that has grown, the backup is where the primary says and not yet at the end.
    let end = blocks.count() - 1;
    let backup_at = match &primary {
        Ok(table) => table.header.alternate_lba.to_u64(),
        Err(_) => end,
    };
    let backup = look(blocks, backup_at)?;
    let table = match (primary, backup) {
        (Ok(primary), Ok(backup)) => {
            if !same(&primary, &backup) {
                notes.push("the GPT and its backup differ; the first is used".to_string());
            }
            primary
        }
        (Ok(primary), Err(why)) => {
            notes.push(format!(
                "the backup GPT in block {backup_at} is damaged: {why}"
            ));
            primary
        }
        (Err(why), Ok(backup)) => {
            notes.push(format!("the GPT is damaged: {why}; its backup is used"));
            backup
        }
        (Err(first), Err(second)) => {
            notes.push(format!(
                "the GPT is damaged: {first}; and so is its backup: {second}; no partitions"
            ));
            return Ok(Vec::new());
        }
    };
    Ok(entries(&table, end, notes))
}

/// As [`check`]; a table on blocks that the disk fails to read is a damaged one, for which there
/// is the other.
fn look(blocks: &mut dyn Blocks, at: u64) -> Checked {
    match check(blocks, at) {
        Err(ReadError::Failed(_)) => Ok(Err("the disk cannot read it")),
        checked => checked,
    }
}

/// Reads and checks one header and its entries.
fn check(blocks: &mut dyn Blocks, at: u64) -> Checked {
    let count = blocks.count();
    if at == 0 || at >= count {
        return Ok(Err("it would lie outside of the disk"));
    }
    let block = read(blocks, at, 1)?;
    let header: GptHeader = bytemuck::pod_read_unaligned(&block[..size_of::<GptHeader>()]);
    if !header.is_signature_valid() {
        return Ok(Err("no signature"));
    }
    if header.header_size.to_u32() as usize != size_of::<GptHeader>() {
        return Ok(Err("a header of unknown size"));
    }
    if header.calculate_header_crc32() != header.header_crc32 {
        return Ok(Err("wrong checksum of the header"));
    }
    if header.my_lba.to_u64() != at {
        return Ok(Err("the header belongs elsewhere"));
    }
    let Ok(layout) = header.get_partition_entry_array_layout() else {
        return Ok(Err("entries of a bad size"));
    };
    let size = BlockSize::new(1 << blocks.block_shift());
    let bytes = size.and_then(|size| Some((size, layout.num_blocks_as_usize(size)?)));
    let Some((size, length)) = bytes.filter(|&(_, length)| {
        layout.num_entries <= MAX_ENTRIES && length << blocks.block_shift() <= MAX_BYTES
    }) else {
        return Ok(Err("too many entries"));
    };
    let start = layout.start_lba.to_u64();
    let fits = start
        .checked_add(length as u64)
        .is_some_and(|end| end <= count);
    if start < 2 || !fits {
        return Ok(Err("the entries would lie outside of the disk"));
    }
    let mut storage = read(blocks, start, length)?;
    let Ok(array) = GptPartitionEntryArray::new(layout, size, &mut storage) else {
        return Ok(Err("entries of a bad size"));
    };
    if array.calculate_crc32() != header.partition_entry_array_crc32 {
        return Ok(Err("wrong checksum of the entries"));
    }
    let entries = (0..layout.num_entries).filter_map(|index| array.get_partition_entry(index));
    Ok(Ok(Table {
        header,
        entries: entries.copied().collect(),
    }))
}

/// Whether both tables say the same.
fn same(one: &Table, other: &Table) -> bool {
    let facts = |header: &GptHeader| {
        (
            { header.disk_guid },
            header.first_usable_lba.to_u64(),
            header.last_usable_lba.to_u64(),
        )
    };
    facts(&one.header) == facts(&other.header) && one.entries == other.entries
}

/// The entries that are in use and in their place.
fn entries(table: &Table, end: u64, notes: &mut Vec<String>) -> Vec<Entry> {
    let floor = table.header.first_usable_lba.to_u64().max(2);
    let ceiling = table.header.last_usable_lba.to_u64().min(end);
    let used = (1..).zip(&table.entries).filter(|(_, it)| it.is_used());
    let used = used.map(|(number, entry)| Entry {
        number,
        first: entry.starting_lba.to_u64(),
        last: entry.ending_lba.to_u64(),
        uuid: Some({ entry.unique_partition_guid }.to_string()),
        label: label(&{ entry.name }),
    });
    usable(used.collect(), (floor, ceiling), notes)
}

/// The name as Linux reads it: UTF-16 up to the first NUL.
fn label(name: &GptPartitionName) -> Option<String> {
    let units = name.0.chunks_exact(2);
    let units = units.map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .collect::<Result<_, _>>()
        .ok()
}
