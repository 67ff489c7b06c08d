//! The disks: NVMe controllers found on PCI and RAM disks asked for, and a core's queues on them.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::{error, info, warn};
use spindle_block::{Command, DiskQueue, IoResult, RamDisk, RamQueue, SubmitError, Tag, Targets};
use spindle_config::{Config, RamDiskSize};
use spindle_hw::{IdentityMap, Mmio};
use spindle_nvme::{Controller, Options, QueuePair};
use spindle_pci::{Bus, Class, Function, Placement, Window};

use crate::mm::{self, Dma, Memory};
use crate::xen::{self, time::CoreClock};

/// Commands that one core can have on a RAM disk at once.
const RAM_DEPTH: usize = 256;

type Nvme = Controller<Mmio, &'static CoreClock, Dma>;

/// A disk.
#[derive(Debug)]
enum Disk {
    Nvme {
        controller: Box<Nvme>,
        registers: Mmio,
    },
    Ram(RamDisk),
}

/// One core's queue on a disk.
#[derive(Debug)]
pub(crate) enum Queue {
    Nvme(QueuePair<Mmio>),
    Ram(RamQueue<IdentityMap>),
    /// The disk had no queue left for this core: no ring on that disk is placed here.
    None,
}

/// All disks, by the number that [`spindle_block::Volume::disk`] gives.
#[derive(Debug)]
pub(crate) struct Disks {
    disks: Vec<Disk>,
    bus: IdentityMap,
    /// What guests can be given, and who has it.
    pub(crate) targets: Targets,
}

impl Disks {
    /// Finds the NVMe controllers, makes the RAM disks, and tells the log of both. A disk that
    /// does not work is left out.
    pub(crate) fn probe(
        config: &Config,
        memory: &Memory,
        clock: &'static CoreClock,
        cores: usize,
    ) -> Self {
        let mut disks = Vec::new();
        let mut volumes = Vec::new();
        for (number, (controller, registers)) in controllers(memory, clock, cores).enumerate() {
            volumes.extend(controller.volumes(disks.len(), number));
            disks.push(Disk::Nvme {
                controller,
                registers,
            });
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
                "no disk found: nothing passed through by pci= has an NVMe controller, and no \
                 ramN= asks for a RAM disk; every attach will be refused"
            );
        }
        Self {
            disks,
            bus: memory.bus,
            targets: Targets::new(volumes),
        }
    }

    /// A queue on every disk, for one core; [`Queue::None`] where a controller has none left.
    pub(crate) fn queues(&mut self) -> Vec<Queue> {
        let bus = self.bus;
        let queue = |disk: &mut Disk| match disk {
            Disk::Nvme {
                controller,
                registers,
            } => {
                let queue = controller.create_queue(registers.share());
                queue.map(Queue::Nvme).unwrap_or_else(|error| {
                    let serial = &controller.identity().serial;
                    warn!("nvme {serial}: {error}; cores without a queue serve other disks only");
                    Queue::None
                })
            }
            Disk::Ram(ram) => Queue::Ram(ram.queue(RAM_DEPTH, bus)),
        };
        self.disks.iter_mut().map(queue).collect()
    }

    /// The first disk, other than those in `known`, that has failed, with the reason.
    pub(crate) fn failed(&self, known: &[usize]) -> Option<(usize, spindle_nvme::Error)> {
        let health = |disk: &Disk| match disk {
            Disk::Nvme { controller, .. } => controller.health().err(),
            Disk::Ram(_) => None,
        };
        let disks = self
            .disks
            .iter()
            .enumerate()
            .filter(|(i, _)| !known.contains(i));
        disks
            .into_iter()
            .find_map(|(i, disk)| Some((i, health(disk)?)))
    }

    /// One line per target, for people and tools in dom0: name, sectors of 512 bytes, block size,
    /// `r` or `w`, description.
    pub(crate) fn list(&self) -> String {
        let line = |volume: &spindle_block::Volume| {
            let mode = if volume.read_only { 'r' } else { 'w' };
            let (name, sectors, what) = (&volume.name, volume.sectors, &volume.description);
            format!("{name} {sectors} {} {mode} {what}", 1 << volume.block_shift)
        };
        self.targets
            .volumes()
            .iter()
            .map(line)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Ends it all: caches written out, controllers off. `queues` are what each core had.
    pub(crate) fn shutdown(self, queues: Vec<Vec<Queue>>) {
        let mut queues: Vec<_> = queues.into_iter().map(Vec::into_iter).collect();
        for disk in self.disks {
            let of_disk: Vec<Queue> = queues.iter_mut().filter_map(Iterator::next).collect();
            let Disk::Nvme { controller, .. } = disk else {
                continue;
            };
            let pairs = of_disk.into_iter().filter_map(|queue| match queue {
                Queue::Nvme(pair) => Some(pair),
                Queue::Ram(_) | Queue::None => None,
            });
            let serial = controller.identity().serial.clone();
            match controller.shutdown(pairs) {
                Ok(()) => info!("nvme {serial}: shut down, cache written out"),
                Err(error) => error!("nvme {serial}: shutdown failed: {error}"),
            }
        }
    }
}

/// The NVMe controllers that could be brought up.
fn controllers(
    memory: &Memory,
    clock: &'static CoreClock,
    cores: usize,
) -> impl Iterator<Item = (Box<Nvme>, Mmio)> {
    let bus = Bus::new(crate::log::ports());
    // Nothing ran before us in a domain: what the registers hold there is the host's.
    let mut window = Window::HVM;
    let dma = memory.dma;
    let functions = bus.scan().into_iter().filter(|f| f.class == Class::NVME);
    functions.filter_map(move |function| {
        let placement = if xen::is_present() {
            Placement::Assign(&mut window)
        } else {
            Placement::Keep
        };
        let started = start(&bus, function, placement, dma, clock, cores);
        if let Err(reason) = &started {
            bus.disable(function.address);
            error!(
                "pci {}: NVMe controller not usable: {reason}",
                function.address
            );
        }
        started.ok()
    })
}

fn start(
    bus: &Bus<spindle_hw::X86Ports>,
    function: Function,
    placement: Placement<'_>,
    dma: Dma,
    clock: &'static CoreClock,
    cores: usize,
) -> Result<(Box<Nvme>, Mmio), String> {
    let bars = bus
        .enable(function.address, placement)
        .map_err(|error| error.to_string())?;
    // The registers are in BAR 0 and 1 (NVMe 1.4, 2.1.10).
    let bar = bars
        .iter()
        .find(|bar| bar.index == 0)
        .ok_or("it has no memory BAR 0")?;
    let len = usize::try_from(bar.size).map_err(|error| error.to_string())?;
    let registers = mm::registers(bar.address, len).map_err(|error| error.to_string())?;
    let queues = u16::try_from(cores).unwrap_or(u16::MAX);
    let options = Options {
        queues,
        ..Options::default()
    };
    let controller = Controller::start(registers.share(), clock, dma, options)
        .map_err(|error| error.to_string())?;
    let id = controller.identity();
    info!(
        "pci {}: NVMe {}.{} controller {}, serial {}, firmware {}, up to {} KiB per command",
        function.address,
        id.version.0,
        id.version.1,
        id.model,
        id.serial,
        id.firmware,
        id.max_transfer >> 10
    );
    Ok((Box::new(controller), registers))
}

impl DiskQueue for Queue {
    #[inline]
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        match self {
            Self::Nvme(queue) => queue.submit(command, tag),
            Self::Ram(queue) => queue.submit(command, tag),
            Self::None => Err(SubmitError::Gone),
        }
    }

    #[inline]
    fn commit(&mut self) {
        match self {
            Self::Nvme(queue) => queue.commit(),
            Self::Ram(queue) => queue.commit(),
            Self::None => {}
        }
    }

    #[inline]
    fn poll(&mut self, done: impl FnMut(Tag, IoResult)) -> usize {
        match self {
            Self::Nvme(queue) => queue.poll(done),
            Self::Ram(queue) => queue.poll(done),
            Self::None => 0,
        }
    }

    #[inline]
    fn in_flight(&self) -> usize {
        match self {
            Self::Nvme(queue) => queue.in_flight(),
            Self::Ram(queue) => queue.in_flight(),
            Self::None => 0,
        }
    }

    fn fail_all(&mut self, done: impl FnMut(Tag, IoResult)) {
        match self {
            Self::Nvme(queue) => queue.fail_all(done),
            Self::Ram(queue) => queue.fail_all(done),
            Self::None => {}
        }
    }
}
