//! virtio block devices: from a PCI function to a disk.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::{error, info};
use spindle_block::{BusMaster, Unreachable};
use spindle_hw::Mmio;
use spindle_pci::{Address, Function, MemoryBar};
use spindle_virtio::{Disk, LAYOUT_WORDS, Layout, PciTransport, VirtioDisk, is_block_device};

use super::pci::{self, PciMaster};
use super::probe::{AnyController, Probe};
use crate::restart::{self, NextLife};

/// Words of the note of one device.
const NOTED_WORDS: usize = 1 + LAYOUT_WORDS;

/// Brings up all virtio block devices on the bus.
pub(super) fn probe(probe: &mut Probe<'_>) {
    for (number, function) in probe.pci.find(is_block_device).into_iter().enumerate() {
        let started = start(probe, number, &function);
        let started = probe.pci.check("virtio block device", &function, started);
        probe.note(spindle_virtio::name(number), started);
    }
}

/// Switches one on; gives where its registers are.
pub(super) fn find(
    probe: &mut Probe<'_>,
    function: &Function,
) -> Result<(Vec<MemoryBar>, Layout), String> {
    let bars = probe.pci.enable(function, |_| true)?;
    let address = function.address;
    let key = key(address);
    let mut known = probe.layouts.iter();
    if let Some((_, layout)) = known.find(|(at, _)| *at == key) {
        return Ok((bars, *layout));
    }
    let layout = Layout::find(&probe.pci.bus, address, &bars);
    let layout = layout.map_err(|error| error.to_string())?;
    probe.layouts.push((key, layout));
    Ok((bars, layout))
}

/// An address as a word.
fn key(at: Address) -> u64 {
    u32::from_le_bytes([at.bus(), at.device(), at.function(), 0]).into()
}

/// Where the registers of devices are, as the last life has noted that.
pub(super) fn noted() -> Vec<(u64, Layout)> {
    let words = NextLife::Layouts.read().unwrap_or_default();
    let mut layouts = Vec::new();
    for [at, words @ ..] in words.as_chunks::<NOTED_WORDS>().0 {
        layouts.push((*at, Layout::of_words(words)));
    }
    layouts
}

/// Notes it for the next life.
pub(super) fn note(layouts: &[(u64, Layout)]) {
    let mut words = Vec::new();
    for (at, layout) in layouts {
        words.push(*at);
        words.extend_from_slice(&layout.words());
    }
    NextLife::Layouts.write(&words);
}

/// Brings one up. A device that fails at that is tried again later, and is refused meanwhile.
fn start(
    probe: &mut Probe<'_>,
    number: usize,
    function: &Function,
) -> Result<AnyController, String> {
    let (bars, layout) = find(probe, function)?;
    let transport = PciTransport::new(layout, |bar| pci::registers(&bars, bar))?;
    let notify = pci::registers(&bars, layout.notify.bar)?;
    let mut bus = Master {
        function: probe.pci.master(function, &bars, is_block_device),
        layout,
    };
    let mut device = Disk::new(transport, probe.clock, probe.dma, probe.options);
    let started = match restart::is_again() {
        true => device.bring_up_again(),
        false => device.bring_up(),
    };
    let (address, serial, queues) = (function.address, device.serial(), device.queues());
    match started {
        Ok(()) => {
            info!("pci {address}: virtio block device, serial \"{serial}\", queues: {queues}");
        }
        Err(reason) => {
            bus.disable();
            error!("pci {address}: virtio block device not usable: {reason}; it is tried again");
        }
    }
    let mut disk = VirtioDisk::new(number, device, notify, Mmio::share, bus);
    if let Err(reason) = started {
        disk = disk.not_started(reason);
    }
    Ok(Box::new(disk))
}

/// The bus mastering of a device, and where its registers are in its BARs.
#[derive(Debug)]
struct Master {
    function: PciMaster,
    layout: Layout,
}

impl BusMaster for Master {
    fn place(&self) -> u32 {
        self.function.place()
    }

    fn disable(&mut self) -> bool {
        self.function.disable()
    }

    fn restore(&mut self) -> Result<(), Unreachable> {
        self.function.restore()?;
        let PciMaster {
            bus, address, bars, ..
        } = &self.function;
        match Layout::find(bus, *address, bars) {
            Ok(layout) if layout == self.layout => return Ok(()),
            _ => self.function.disable(),
        };
        Err(Unreachable {
            reason: "its registers are not where they were".into(),
            absent: false,
        })
    }

    fn enable(&mut self) {
        self.function.enable();
    }
}
