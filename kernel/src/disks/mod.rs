//! Finds the disks, and reads their partition tables.

mod nvme;
mod partitions;
mod pci;
mod placed;
mod probe;
mod virtio;

use spindle_block::Volume;
use spindle_config::Config;
use spindle_control::Disks;
use spindle_datapath::Queue;
use xen_pvh_boot::MapEntry;

use self::probe::Probe;
use crate::mm::Memory;
use crate::xen::time::CoreClock;

/// Finds and makes the disks, and reports them in the log. A disk that does not work keeps its
/// name, by which it is refused. `map` is the domain's memory map.
pub(crate) fn probe(
    config: &Config,
    map: &[MapEntry],
    memory: &Memory,
    clock: &'static CoreClock,
    cores: usize,
) -> Disks<Queue> {
    let Probe {
        controllers,
        failed,
        ..
    } = Probe::all(config, map, memory, clock, cores);
    let mut room = partitions::MOST;
    let partitions = config
        .partitions
        .then_some(|volume: &Volume, queue: &mut Queue| {
            let found = partitions::read(volume, queue, clock, memory.dma, room);
            room -= found.len();
            found
        });
    Disks::new(controllers, failed, partitions)
}
