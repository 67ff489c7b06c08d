//! Partition tables, read before any guest uses the disks. What a guest does to the table of a
//! disk that it has counts from Spindle's next start on.

use alloc::vec::Vec;

use log::{error, info, warn};
use spindle_block::{BlockReader, DiskQueue, PATIENCE_NS, ReadError, Volume, partitions};
use spindle_datapath::Queue;

use crate::mm::Dma;
use crate::xen::time::CoreClock;

/// Partitions of all disks together, at most: each takes about a KiB.
pub(super) const MOST: usize = 512;

/// The partitions of a disk, read through an idle queue on it, and no more than `room`; none if
/// that fails.
pub(super) fn read(
    disk: &Volume,
    queue: &mut Queue,
    clock: &CoreClock,
    memory: Dma,
    room: usize,
) -> Vec<Volume> {
    let name = &disk.name;
    let reader = BlockReader::new(queue, disk, clock, memory, PATIENCE_NS);
    let mut table = match reader.and_then(|mut reader| partitions(disk, &mut reader)) {
        Ok(table) => table,
        Err(error) => {
            error!("disk {name}: its partition table cannot be read: {error}");
            if error == ReadError::TimedOut {
                // A late answer would be taken for one to another command.
                queue.fail_all(|_, _| ());
                *queue = Queue::None;
            }
            return Vec::new();
        }
    };
    table.limit(room);
    for note in &table.notes {
        warn!("disk {name}: {note}");
    }
    for partition in &table.partitions {
        let (name, mib) = (&partition.name, partition.sectors >> 11);
        info!("partition {name}: {mib} MiB from block {}", partition.start);
    }
    table.partitions
}
