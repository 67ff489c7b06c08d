//! The disks: NVMe controllers found on PCI or placed by dom0, virtio disks found on PCI, RAM disks
//! asked for, and a core's queues on them.

mod care;
mod nvme;
mod partitions;
mod pci;
mod placed;
mod virtio;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use log::{error, info, warn};
use spindle_block::{DiskOptions, RamDisk, Targets, Volume};
use spindle_config::{Config, RamDiskSize};
use spindle_datapath::Queue;
use spindle_hw::IdentityMap;
use xen_pvh_boot::MapEntry;

use self::nvme::NvmeDisk;
use self::pci::Pci;
use self::virtio::VirtioDisk;
use crate::mm::Memory;
use crate::xen::time::CoreClock;

/// Commands that one core can have on a RAM disk at once.
const RAM_DEPTH: usize = 256;

/// Bytes of the list of disks: xenstored's default quota for a node is 2048, names and
/// permissions included.
const MAX_LIST: usize = 1792;

/// A disk.
#[derive(Debug)]
enum Disk {
    Nvme(NvmeDisk),
    Virtio(VirtioDisk),
    Ram(RamDisk),
}

/// All disks, by the number that [`spindle_block::Volume::disk`] gives.
#[derive(Debug)]
pub(crate) struct Disks {
    disks: Vec<Disk>,
    bus: IdentityMap,
    /// The queues for the first core, after partition tables were read through them.
    ready: Option<Vec<Queue>>,
    pci: Pci,
    /// Disks that have failed, by number.
    lost: Vec<usize>,
    /// What guests can be given, and who has it.
    pub(crate) targets: Targets,
}

impl Disks {
    /// Finds the disks on PCI, makes the RAM disks, and tells the log of both. A disk that
    /// does not work keeps its name, by which it is refused. `map` is the domain's memory map.
    pub(crate) fn probe(
        config: &Config,
        map: &[MapEntry],
        memory: &Memory,
        clock: &'static CoreClock,
        cores: usize,
    ) -> Self {
        let mut disks = Vec::new();
        let mut volumes = Vec::new();
        let mut pci = Pci::scan(map, memory);
        let options = DiskOptions {
            queues: u16::try_from(cores).unwrap_or(u16::MAX),
            timeout: Duration::from_secs(config.io_timeout.into()),
            ..DiskOptions::default()
        };
        let placed = &config.placed_controllers;
        let mut controllers = placed::controllers(placed, map, memory.dma, clock, options);
        // Those found on PCI take the numbers that the knobs leave.
        let taken: Vec<_> = placed.iter().map(|p| usize::from(p.number)).collect();
        let free = (0..).filter(|number| !taken.contains(number));
        controllers.extend(free.zip(NvmeDisk::probe(&mut pci, memory.dma, clock, options)));
        let mut failed = Vec::new();
        for (number, controller) in controllers {
            match controller {
                Ok(disk) => {
                    volumes.extend(disk.volumes(disks.len(), number));
                    failed.extend(disk.refused(number));
                    disks.push(Disk::Nvme(disk));
                }
                Err(reason) => failed.push((format!("nvme{number}"), reason)),
            }
        }
        let found = VirtioDisk::probe(&mut pci, memory.dma, clock, options);
        for (number, device) in found.into_iter().enumerate() {
            match device {
                Ok(disk) => {
                    volumes.push(disk.volume(disks.len(), number));
                    disks.push(Disk::Virtio(disk));
                }
                Err(reason) => failed.push((spindle_virtio::name(number), reason)),
            }
        }
        for &RamDiskSize { number, bytes } in &config.ram_disks {
            match RamDisk::new(bytes, &memory.dma) {
                Some(ram) => {
                    volumes.push(ram.volume(&format!("ram{number}"), disks.len()));
                    disks.push(Disk::Ram(ram));
                }
                None => error!("ram{number}: no memory for {} MiB", bytes >> 20),
            }
        }
        for volume in &volumes {
            let (name, what) = (&volume.name, &volume.description);
            let (mib, block) = (volume.sectors >> 11, 1 << volume.block_shift);
            info!("disk {name}: {mib} MiB, blocks of {block} bytes: {what}");
        }
        if volumes.is_empty() {
            warn!(
                "no disk found: nothing passed through by pci= or placed by nvmeN= is an NVMe \
                 controller or a virtio disk, and no ramN= asks for a RAM disk; every attach will \
                 be refused"
            );
        }
        let mut disks = Self {
            disks,
            bus: memory.bus,
            pci,
            lost: Vec::new(),
            ready: None,
            targets: Targets::default(),
        };
        let mut queues = config.partitions.then(|| disks.queues());
        let mut room = partitions::MOST;
        let family = |volume: Volume| {
            let queue = queues.as_mut().and_then(|all| all.get_mut(volume.disk));
            let read = |queue| partitions::read(&volume, queue, clock, memory.dma, room);
            let found = queue.map(read).unwrap_or_default();
            room -= found.len();
            (volume, found)
        };
        disks.targets = Targets::new(volumes.into_iter().map(family));
        for disk in disks.targets.disks() {
            if let Some(first) = disks.targets.same_as(disk) {
                let (name, first) = (&disk.name, &first.name);
                warn!("disk {name} is the same as {first}, behind another controller");
            }
        }
        for (name, reason) in failed {
            disks.targets.note_failed(name, reason);
        }
        disks.ready = queues;
        disks
    }

    /// A queue on every disk, for one core; [`Queue::None`] where a controller has none left.
    pub(crate) fn queues(&mut self) -> Vec<Queue> {
        if let Some(queues) = self.ready.take() {
            return queues;
        }
        let bus = self.bus;
        let queue = |disk: &mut Disk| match disk {
            Disk::Nvme(disk) => disk.queue(),
            Disk::Virtio(disk) => disk.queue(),
            Disk::Ram(ram) => Queue::Ram(ram.queue(RAM_DEPTH, bus)),
        };
        self.disks.iter_mut().map(queue).collect()
    }

    /// Whether a disk has failed for good.
    pub(crate) fn is_lost(&self, disk: usize) -> bool {
        self.lost.contains(&disk)
    }

    /// One line per disk, for people and tools in dom0: name, sectors of 512 bytes, block size,
    /// `r` or `w`, description. As many disks as a xenstore node holds.
    pub(crate) fn list(&self) -> String {
        let line = |volume: &Volume| {
            let mode = if volume.read_only { 'r' } else { 'w' };
            let (name, sectors, what) = (&volume.name, volume.sectors, &volume.description);
            format!("{name} {sectors} {} {mode} {what}", 1 << volume.block_shift)
        };
        let mut room = MAX_LIST;
        let fits = |line: &String| {
            let left = room.checked_sub(line.len() + 1);
            room = left.unwrap_or(0);
            left.is_some()
        };
        let lines: Vec<_> = self.targets.disks().map(line).take_while(fits).collect();
        lines.join("\n")
    }

    /// Ends it all: caches written out, controllers off. `queues` are what each core had.
    pub(crate) fn shutdown(self, queues: Vec<Vec<Queue>>) {
        let mut queues: Vec<_> = queues.into_iter().map(Vec::into_iter).collect();
        for disk in self.disks {
            let of_disk: Vec<Queue> = queues.iter_mut().filter_map(Iterator::next).collect();
            match disk {
                Disk::Nvme(disk) => disk.shutdown(of_disk.into_iter()),
                Disk::Virtio(disk) => disk.shutdown(of_disk.into_iter()),
                Disk::Ram(_) => {}
            }
        }
    }
}
