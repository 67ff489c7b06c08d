//! virtio block devices: from a PCI function to a disk.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use log::info;
use spindle_hw::Mmio;
use spindle_pci::Function;
use spindle_virtio::{Disk, Layout, PciTransport, VirtioDisk, is_block_device};

use super::pci;
use super::probe::{AnyController, Probe};

/// Brings up all virtio block devices on the bus.
pub(super) fn probe(probe: &mut Probe<'_>) {
    for (number, function) in probe.pci.find(is_block_device).into_iter().enumerate() {
        let started = start(probe, number, &function);
        let started = probe.pci.check("virtio block device", &function, started);
        probe.note(spindle_virtio::name(number), started);
    }
}

fn start(
    probe: &mut Probe<'_>,
    number: usize,
    function: &Function,
) -> Result<AnyController, String> {
    let bars = probe.pci.enable(function, |_| true);
    let bars = bars.map_err(|error| error.to_string())?;
    let layout = Layout::find(&probe.pci.bus, function.address, &bars);
    let layout = layout.map_err(|error| error.to_string())?;
    let transport = PciTransport::new(layout, |bar| pci::registers(&bars, bar))?;
    let device = Disk::start(transport, probe.clock, probe.dma, probe.options);
    let device = device.map_err(|error| error.to_string())?;
    let (address, serial, queues) = (function.address, device.serial(), device.queues());
    info!("pci {address}: virtio block device, serial \"{serial}\", queues: {queues}");
    let notify = pci::registers(&bars, layout.notify.bar)?;
    let bus = probe.pci.master(function, &bars, is_block_device);
    Ok(Box::new(VirtioDisk::new(
        number,
        device,
        notify,
        Mmio::share,
        bus,
    )))
}
