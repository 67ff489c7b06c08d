//! The partition table in a disk's first block as PCs have had it since 1983: four primary partitions, one of
//! which may be an extended one, whose logical partitions are a chain of such blocks (EBR). Numbers are as
//! Linux gives them: logical partitions from 5 on, in the order of the chain.
//!
//! A chain is as long as who writes it likes, and may lead anywhere. So no more blocks of it are read than
//! there is room for, each once, and inside the extended partition only. No partition is served that covers
//! a block of the chain, or one that the chain leads to and that is none: who has it could otherwise say what
//! the others are. A block of another form than partitioning tools write, which others may number differently,
//! ends the chain.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use gpt_disk_types::{MasterBootRecord, MbrPartitionRecord};

use super::entry::{Entry, LINK, usable};
use crate::read::read;
use crate::{Blocks, ReadError};

/// Types of an extended partition: of DOS, of Windows, of Linux.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The number of the first logical partition.
const LOGICAL: u32 = 5;
/// Blocks of a chain that are read, in bytes: 112 blocks of 512 bytes, 14 of 4,096.
const CHAIN_BYTES: usize = 56 << 10;

/// The record in a block, if it is one.
pub(super) fn record(block: &[u8]) -> Option<MasterBootRecord> {
    let bytes = block.get(..size_of::<MasterBootRecord>())?;
    let record: MasterBootRecord = bytemuck::pod_read_unaligned(bytes);
    (record.signature == [0x55, 0xaa]).then_some(record)
}

/// The blocks that a record names, counted from block `base`: the first and the last, if it names any.
fn place(record: &MbrPartitionRecord, base: u64) -> Option<(u64, u64)> {
    let count = u64::from(record.size_in_lba.to_u32());
    let first = base + u64::from(record.starting_lba.to_u32());
    (record.os_indicator != 0 && count > 0).then(|| (first, first + count - 1))
}

/// Reads the partitions of a disk with this first record.
///
/// # Errors
/// If the disk does not answer.
pub(super) fn read_table(
    blocks: &mut dyn Blocks,
    record: &MasterBootRecord,
    notes: &mut Vec<String>,
) -> Result<Vec<Entry>, ReadError> {
    // The first block of a file system may look like a table as well.
    if record
        .partitions
        .iter()
        .any(|it| it.boot_indicator & 0x7f != 0)
    {
        notes.push("what may be an MBR partition table does not hold; no partitions".to_string());
        return Ok(Vec::new());
    }
    let mut extended = None;
    let mut found = Vec::new();
    for (number, partition) in (1..).zip(&record.partitions) {
        let Some(place) = place(partition, 0) else {
            continue;
        };
        if EXTENDED.contains(&partition.os_indicator) {
            if extended.is_some() {
                notes.push("only the first extended partition is looked at".to_string());
                continue;
            }
            extended = Some(number);
        }
        found.push(Entry::new(number, place));
    }
    let end = blocks.count() - 1;
    let mut found = usable(found, (1, end), notes);
    if let Some(at) = found.iter().position(|it| Some(it.number) == extended) {
        let whole = found.remove(at);
        let chain = chain(blocks, &whole, notes)?;
        let logical = usable(chain, (whole.first, whole.last), notes);
        found.extend(logical.into_iter().filter(|it| it.number != LINK));
    }
    let signature = u32::from_le_bytes(record.unique_mbr_disk_signature);
    for entry in found.iter_mut().filter(|_| signature != 0) {
        entry.uuid = Some(format!("{signature:08x}-{:02x}", entry.number));
    }
    Ok(found)
}

/// Whether a block of a chain has a partition, then the next block, then nothing, of which each may be left
/// out.
fn is_usual(record: &MasterBootRecord) -> bool {
    let is_empty = |it: &MbrPartitionRecord| it.size_in_lba.to_u32() == 0;
    let is_extended = |it: &MbrPartitionRecord| EXTENDED.contains(&it.os_indicator);
    let [data, next, rest @ ..] = &record.partitions;
    (is_empty(data) || data.os_indicator != 0 && !is_extended(data))
        && (is_empty(next) || is_extended(next))
        && rest.iter().all(is_empty)
}

/// What a chain has: its partitions, and its own blocks, which nothing may cover.
fn chain(
    blocks: &mut dyn Blocks,
    whole: &Entry,
    notes: &mut Vec<String>,
) -> Result<Vec<Entry>, ReadError> {
    let most = CHAIN_BYTES >> blocks.block_shift();
    let (mut found, mut at, mut number) = (Vec::new(), whole.first, LOGICAL);
    for _ in 0..most {
        let known = |it: &Entry| it.number == LINK && it.first == at;
        let record = if at > whole.last || found.iter().any(known) {
            None
        } else {
            // Also if it is none yet.
            found.push(Entry::new(LINK, (at, at)));
            match read(blocks, at, 1) {
                Err(ReadError::Failed(_)) => None,
                read => record(&read?).filter(is_usual),
            }
        };
        let Some(record) = record else {
            notes.push(format!(
                "the chain of logical partitions is broken in block {at}"
            ));
            return Ok(found);
        };
        let [data, next, ..] = &record.partitions;
        if let Some(place) = place(data, at) {
            found.push(Entry::new(number, place));
            number += 1;
        }
        match place(next, whole.first) {
            Some((first, _)) => at = first,
            None => return Ok(found),
        }
    }
    notes.push(format!(
        "only the first {most} logical partitions are looked at"
    ));
    Ok(found)
}
