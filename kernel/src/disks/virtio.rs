//! virtio block devices: from a PCI function to a disk and its queues.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::{error, info, warn};
use spindle_block::{DiskOptions, Volume};
use spindle_datapath::Queue;
use spindle_hw::Mmio;
use spindle_pci::{Address, Function};
use spindle_virtio::{Disk, Error, Layout, PciTransport, is_block_device};

use super::pci::{self, Pci};
use crate::mm::Dma;
use crate::xen::time::CoreClock;

/// A device that serves.
#[derive(Debug)]
pub(super) struct VirtioDisk {
    // Boxed: it is large, and other disks are not.
    disk: Box<Disk<Mmio, &'static CoreClock, Dma>>,
    /// The BAR with the notification registers.
    notify: Mmio,
    address: Address,
    /// What it last said of its size made no sense, and the log has been told so.
    doubted: bool,
}

impl VirtioDisk {
    /// Brings up all virtio block devices on the bus; gives why not in the place of one that does
    /// not work.
    pub(super) fn probe(
        pci: &mut Pci,
        dma: Dma,
        clock: &'static CoreClock,
        options: DiskOptions,
    ) -> Vec<Result<Self, String>> {
        let start =
            |pci: &mut Pci, function: &Function| Self::start(pci, function, dma, clock, options);
        pci.start_all("virtio block device", is_block_device, start)
    }

    fn start(
        pci: &mut Pci,
        function: &Function,
        dma: Dma,
        clock: &'static CoreClock,
        options: DiskOptions,
    ) -> Result<Self, String> {
        let bars = pci.enable(function, |_| true);
        let bars = bars.map_err(|error| error.to_string())?;
        let layout = Layout::find(&pci.bus, function.address, &bars);
        let layout = layout.map_err(|error| error.to_string())?;
        let transport = PciTransport::new(layout, |bar| pci::registers(&bars, bar))?;
        let disk = Disk::start(transport, clock, dma, options);
        let disk = disk.map_err(|error| error.to_string())?;
        let (address, serial, queues) = (function.address, disk.serial(), disk.queues());
        info!("pci {address}: virtio block device, serial \"{serial}\", queues: {queues}");
        Ok(Self {
            disk: Box::new(disk),
            notify: pci::registers(&bars, layout.notify.bar)?,
            address,
            doubted: false,
        })
    }

    /// The whole of it, as the volume of disk `disk`; `number` counts virtio disks.
    pub(super) fn volume(&self, disk: usize, number: usize) -> Volume {
        self.disk.volume(disk, number)
    }

    /// A queue for one core; [`Queue::None`] if the device has none left.
    pub(super) fn queue(&mut self) -> Queue {
        let queue = self.disk.create_queue(self.notify.share());
        queue.map(Queue::Virtio).unwrap_or_else(|error| {
            let at = self.address;
            warn!("pci {at}: {error}; cores without a queue serve other disks only");
            Queue::None
        })
    }

    /// Why it has failed, if it has. It is then cut off from memory, which goes back to guests
    /// with their failed requests.
    pub(super) fn failure(&self, pci: &Pci) -> Option<Error> {
        let error = self.disk.health().err()?;
        pci.bus.disable(self.address);
        Some(error)
    }

    /// Its size in sectors of 512 bytes, if that has changed. One that makes no sense is told
    /// once; the old one counts on.
    pub(super) fn resized(&mut self) -> Option<u64> {
        let looked = self.disk.resized();
        let doubted = core::mem::replace(&mut self.doubted, looked.is_err());
        if let (Err(error), false) = (looked, doubted) {
            warn!("pci {}: its new size is not taken: {error}", self.address);
        }
        looked.ok().flatten()
    }

    /// Writes out the cache and resets the device. `queues` are all that were made.
    pub(super) fn shutdown(self, queues: impl Iterator<Item = Queue>) {
        let queues = queues.filter_map(|queue| match queue {
            Queue::Virtio(queue) => Some(queue),
            Queue::Nvme(_) | Queue::Ram(_) | Queue::None => None,
        });
        let at = self.address;
        match self.disk.shutdown(queues) {
            Ok(()) => info!("pci {at}: shut down, cache written out"),
            Err(error) => error!("pci {at}: shutdown failed: {error}"),
        }
    }
}
