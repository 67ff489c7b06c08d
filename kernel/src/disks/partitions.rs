//! Partition tables and LVM2's metadata, read before any guest uses the disks.

use log::error;
use spindle_block::{BlockReader, DiskQueue, PATIENCE_NS, ReadError, Table, Volume, table};
use spindle_datapath::Queue;

use crate::mm::Dma;
use crate::xen::time::CoreClock;

/// The partition table of a disk and what there is of LVM2, read through an idle queue on it; an empty one if that fails.
pub(super) fn read(disk: &Volume, queue: &mut Queue, clock: &CoreClock, memory: Dma) -> Table {
    let name = &disk.name;
    let reader = BlockReader::new(queue, disk, clock, memory, PATIENCE_NS);
    match reader.and_then(|mut reader| table(disk, &mut reader)) {
        Ok(found) => found,
        Err(error) => {
            error!("disk {name}: its partition table cannot be read: {error}");
            if error == ReadError::TimedOut {
                // A late answer would be taken for one to another command.
                queue.fail_all(|_, _| ());
                *queue = Queue::None;
            }
            Table::default()
        }
    }
}
