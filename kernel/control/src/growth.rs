//! Volumes that grow while guests have them open: what stands in the way, and the orders to the rings.

use alloc::boxed::Box;
use alloc::vec::Vec;

use log::{info, warn};
use spindle_blkif::RingGrowth;
use spindle_block::{Targets, Volume, VolumeId};
use spindle_xen::xenbus::{Backend, DeviceId};

use crate::cores::Cores;
use crate::devices::{AttachedDevice, Devices};
use crate::hypervisor::Hypervisor;
use crate::worker::CoreWorker;

impl<H: Hypervisor> Devices<H> {
    /// Whether the rings of those who have a volume can go on with what it has grown to.
    ///
    /// # Errors
    /// The reason, for people.
    pub(crate) fn may_grow<W: CoreWorker>(
        &self,
        id: VolumeId,
        new: &Volume,
        cores: &Cores<H, W>,
    ) -> Result<(), &'static str> {
        let devices = self.list.iter().filter(|device| device.disk.has(id));
        let mut rings = devices.flat_map(|device| &device.rings);
        let reach = rings.all(|ring| cores.serves(ring.core(), new));
        reach
            .then_some(())
            .ok_or("a ring core that serves it has no queue on one of its disks")
    }

    /// A volume has grown: passes that on to the rings that serve it, and to its frontends.
    pub(crate) fn grow<W: CoreWorker>(
        &mut self,
        id: VolumeId,
        targets: &Targets<DeviceId>,
        backend: &mut Backend,
        cores: &mut Cores<H, W>,
    ) {
        let volume = targets.volume(id);
        info!(
            "volume {}: {} MiB from now on",
            volume.name,
            volume.sectors >> 11
        );
        // The record has where it begins.
        self.changed = true;
        if volume.map.is_none() {
            return self.resize(id, volume.sectors, backend, cores);
        }
        for device in self.list.iter_mut().filter(|device| device.disk.has(id)) {
            let device_id = device.id;
            let Some(growths) = growths(device, targets, cores.segments()) else {
                warn!("{device_id}: there is no memory for its disk to grow before it reconnects");
                continue;
            };
            for (ring, growth) in device.rings.iter_mut().zip(growths) {
                ring.grow(Box::new(growth), cores);
            }
            backend.resized(device_id, volume.sectors);
        }
    }
}

/// What each ring of a device needs; `None` if there is no memory for it.
fn growths(
    device: &AttachedDevice,
    targets: &Targets<DeviceId>,
    segments: u16,
) -> Option<Vec<RingGrowth>> {
    let Some(layout) = &device.layout else {
        return Some(Vec::new());
    };
    let volume = device.disk.served(targets).ok()?.volume;
    let map = volume.map.as_ref()?;
    let queues = layout.queues.iter().zip(&device.rings);
    let growth = queues.map(|(queue, _)| {
        let shape = (queue.refs.len(), layout.abi, segments);
        let growth = RingGrowth::new(map, volume.sectors, volume.discard, shape);
        growth.ok()
    });
    growth.collect()
}
