//! The disks: who has which volume, a core's queues on them, and their end.

mod care;
mod inspect;
mod logical;
mod rescan;
mod tables;
#[cfg(test)]
mod tables_tests;
mod volumes;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use log::{error, info, warn};
use spindle_block::{BlockController, PhysicalVolumes, Retry, Table, Targets, Volume};
use spindle_status::targets::TargetLine;
use spindle_xen::xenbus::DeviceId;

use crate::cores::Given;
pub(crate) use care::Removed;
use inspect::Inspecting;
use rescan::Rescan;
pub use tables::PageSource;
use tables::Tables;
use volumes::VolumeEdit;

/// Bytes of the list of disks: xenstored's default quota for a node is 2048, names and
/// permissions included.
const MAX_LIST: usize = 1792;

/// All disks, by the number that [`spindle_block::Volume::disk`] gives. `Q` holds a queue of any disk
/// type, or by default none.
pub struct Disks<Q> {
    disks: Vec<Disk<Q>>,
    /// The queues for the first core, after partition tables were read through them.
    ready: Option<Vec<Q>>,
    /// What guests can be given, and who has it.
    pub(crate) targets: Targets<DeviceId>,
    /// What logical volumes are made of.
    physical: PhysicalVolumes,
    rescan: Rescan,
    tables: Tables,
    /// A change of a logical volume that is under way, and the answer to the last one.
    edit: Option<VolumeEdit>,
    edited: Option<String>,
    /// A page that a controller is asked for, and the answer to the last one who asked.
    inspecting: Option<Inspecting>,
    inspected: Option<String>,
    /// From here on no number has been given to a controller that took the place of another.
    numbers: usize,
}

/// A controller, and what is under way with it.
struct Disk<Q> {
    controller: Box<dyn BlockController<Q>>,
    /// It is being brought up once more.
    probing: bool,
    /// When it is probed again, once it is lost.
    retry: Retry,
    /// How often it was lost and could not be kept from memory, which costs what it was given.
    loose: u32,
    /// An administrator has asked for it to be probed since.
    asked: bool,
    /// The cores are to be given orders that follow from what it reported last.
    ordering: bool,
    /// What the cores must have done before it is asked to go on, if there is anything.
    given: Option<Ordered>,
}

/// What the cores were ordered, and must have done before a controller goes on.
#[derive(Debug)]
struct Ordered {
    given: Given,
    /// Since when any of it is waited for.
    since: u64,
    /// The log has it that a core is late.
    warned: bool,
}

impl<Q> Disk<Q> {
    fn new(controller: Box<dyn BlockController<Q>>) -> Self {
        Self {
            controller,
            probing: false,
            retry: Retry::default(),
            loose: 0,
            asked: false,
            ordering: false,
            given: None,
        }
    }
}

impl<Q> Disks<Q> {
    /// How many controllers there are, lost ones included.
    pub(crate) fn count(&self) -> usize {
        self.disks.len()
    }

    /// Why a disk is lost, if it is.
    pub(crate) fn lost(&self, disk: usize) -> Option<&str> {
        self.targets.lost(disk)
    }
}

impl<Q: Default> Disks<Q> {
    /// Takes `controllers` over, and reports their volumes in the log. `failed` names the disks that
    /// do not work, each with the reason by which it is refused. `partitions`, if there is any, reads
    /// the partition table of a whole disk, and LVM2's metadata, through an idle queue.
    pub fn new(
        controllers: Vec<Box<dyn BlockController<Q>>>,
        mut failed: Vec<(String, String)>,
        partitions: Option<impl FnMut(&Volume, &mut Q) -> Table>,
    ) -> Self {
        let mut volumes = Vec::new();
        for (disk, controller) in controllers.iter().enumerate() {
            volumes.extend(controller.volumes(disk));
            failed.extend(controller.refused());
        }
        for volume in &volumes {
            let (name, what) = (&volume.name, &volume.description);
            let (mib, block) = (volume.sectors >> 11, 1 << volume.block_shift);
            info!("disk {name}: {mib} MiB, blocks of {block} bytes: {what}");
        }
        if volumes.is_empty() {
            warn!(
                "no disk found: nothing passed through by pci= or placed by nvmeN= is an NVMe \
                 controller or a virtio disk, and no option such as ramN= makes one; every attach \
                 will be refused"
            );
        }
        let mut disks = Self {
            disks: controllers.into_iter().map(Disk::new).collect(),
            ready: None,
            targets: Targets::default(),
            physical: PhysicalVolumes::default(),
            rescan: Rescan::default(),
            tables: Tables::default(),
            edit: None,
            edited: None,
            inspecting: None,
            inspected: None,
            numbers: 0,
        };
        let mut reader = partitions.map(|read| (read, disks.queues()));
        let (mut count, mut physical) = (0, PhysicalVolumes::default());
        let family = |volume: Volume| {
            let table = reader.as_mut().and_then(|(read, queues)| {
                let queue = queues.get_mut(volume.disk)?;
                Some(read(&volume, queue))
            });
            let mut table = table.unwrap_or_default();
            let on_it = core::mem::take(&mut table.physical);
            physical.set(volume.disk, volume.unit, on_it);
            let found = tables::take(&volume, table, count);
            count += found.len();
            (volume, found)
        };
        disks.targets = Targets::new(volumes.into_iter().map(family));
        let places = disks.disks.iter().map(|disk| disk.controller.place());
        disks.targets.set_places(places.collect());
        for disk in disks.targets.disks() {
            if let Some(first) = disks.targets.same_as(disk) {
                let (name, first) = (&disk.name, &first.name);
                warn!("disk {name} is the same as {first}, behind another controller");
            }
        }
        for (name, reason) in failed {
            disks.targets.note_failed(name, reason);
        }
        disks.physical = physical;
        disks.look_for_logical(&|_, _| Ok(()));
        disks.ready = reader.map(|(_, queues)| queues);
        disks
    }

    /// A queue on every disk, for one core; the default where a controller has none left.
    pub fn queues(&mut self) -> Vec<Q> {
        if let Some(queues) = self.ready.take() {
            return queues;
        }
        let queue = |disk: &mut Disk<Q>| {
            let controller = &mut disk.controller;
            controller.create_queue().unwrap_or_else(|error| {
                let name = controller.name();
                warn!("disk {name}: {error}; cores without a queue serve other disks only");
                Q::default()
            })
        };
        self.disks.iter_mut().map(queue).collect()
    }

    /// One line per disk, for people and tools in dom0: name, sectors of 512 bytes, block size,
    /// `r`, `w` or `-` ([`Targets::mode`]), description. As many disks as a xenstore node holds.
    pub(crate) fn list(&self) -> String {
        let line = |volume: &Volume| {
            let line = TargetLine {
                name: &volume.name,
                sectors: volume.sectors,
                block: 1 << volume.block_shift,
                mode: self.targets.mode(volume),
                rest: &volume.description,
            };
            line.to_string()
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

    /// Has the controllers that can end their work and stay enabled for the next life, each `within` a
    /// time, or says without one which would. Gives what that life must know, and the same for people.
    pub(crate) fn stand_by(&mut self, within: impl Fn() -> Option<Duration>) -> (Vec<u64>, String) {
        let (mut words, mut text) = (Vec::new(), String::new());
        for Disk { controller, .. } in &mut self.disks {
            let (stands, why) = match controller.stand_by(within()) {
                None => continue,
                Some(Ok(more)) => {
                    words.extend(more);
                    ("stays enabled", "")
                }
                Some(Err(why)) => ("is to be reset: ", why),
            };
            for part in ["; ", controller.name(), " ", stands, why] {
                text.push_str(part);
            }
        }
        (words, text)
    }

    /// Ends it all: caches written out, controllers off. `queues` are what each core had.
    pub fn shutdown(self, queues: Vec<Vec<Q>>) {
        let mut queues: Vec<_> = queues.into_iter().map(Vec::into_iter).collect();
        for Disk { controller, .. } in self.disks {
            let of_disk = queues.iter_mut().filter_map(Iterator::next).collect();
            let name = String::from(controller.name());
            match controller.shutdown(of_disk) {
                Ok(()) => info!("disk {name}: shut down"),
                Err(error) => error!("disk {name}: shutdown failed: {error}"),
            }
        }
    }
}
