//! Finds the disks, and reads their partition tables.

mod nvme;
mod partitions;
mod pci;
mod placed;
mod probe;
mod quiet;
mod ram;
mod virtio;

use alloc::boxed::Box;

use spindle_block::Volume;
use spindle_config::Config;
use spindle_control::{Disks, RamDisks};
use spindle_datapath::Queue;
use spindle_hw::DmaAlloc as _;
use xen_pvh_boot::MapEntry;

use self::probe::Probe;
use crate::mm::{Memory, RamPages};
use crate::restart::{self, Mark};
use crate::xen::time::CoreClock;

/// Finds and makes the disks, and reports them in the log. A disk that does not work keeps its
/// name, by which it is refused. `map` is the domain's memory map, `ram` has the RAM disks of the last
/// life.
pub(crate) fn probe(
    config: &Config,
    map: &[MapEntry],
    memory: &Memory,
    clock: &'static CoreClock,
    cores: usize,
    ram: RamDisks<RamPages>,
) -> Disks<Queue> {
    let Probe {
        controllers,
        failed,
        ..
    } = Probe::all(config, map, memory, clock, cores, ram);
    restart::pass(Mark::Controllers);
    let dma = memory.dma;
    let partitions = config
        .partitions
        .then_some(|volume: &Volume, queue: &mut Queue| {
            partitions::read(volume, queue, clock, dma)
        });
    let mut disks = Disks::new(controllers, failed, partitions);
    if config.partitions {
        disks.read_tables(Box::new(move || dma.alloc(1)));
    }
    disks
}
