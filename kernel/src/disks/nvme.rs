//! NVMe controllers: from registers, behind a PCI function or placed by dom0, to a disk.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};

use log::{error, info, warn};
use spindle_block::BusMaster as _;
use spindle_hw::Mmio;
use spindle_nvme::{Controller, NvmeDisk, QueuePair, register_bytes};
use spindle_pci::{Class, Function, MemoryBar};
use xen_pvh_boot::PAGE;

use super::pci::{self, PciMaster};
use super::placed;
use super::probe::{AnyController, Probe};
use crate::mm::{self, Dma};
use crate::restart;
use crate::xen::time::CoreClock;

/// A controller that asks for memory to work with gets no more than this part of what is free.
const LENT: u64 = 16;

/// Brings up the controllers that dom0 placed, by the numbers of their options, and all those on
/// the bus, which take the numbers that are left.
pub(super) fn probe(probe: &mut Probe<'_>) {
    placed::probe(probe);
    let placed = &probe.config.placed_controllers;
    let is_free = |number: &usize| !placed.iter().any(|p| usize::from(p.number) == *number);
    let found = probe.pci.find(is_controller);
    for (number, function) in (0..).filter(is_free).zip(found) {
        let at = format!("pci {}", function.address);
        let started = find(probe, &function).and_then(|(registers, bar)| {
            let bus = probe.pci.master(&function, &[bar], is_controller);
            start(probe, number, &at, registers, Some(bus))
        });
        let started = probe.pci.check("NVMe controller", &function, started);
        probe.note(name(number), started);
    }
}

pub(super) fn is_controller(function: &Function) -> bool {
    function.class == Class::NVME
}

/// The name of controller `number`.
pub(super) fn name(number: usize) -> String {
    format!("nvme{number}")
}

/// Switches a PCI function on and maps its registers, which are in BAR 0 and 1 (NVMe 1.4,
/// 2.1.10). The other BARs, of a memory buffer or persistent memory, are not used.
pub(super) fn find(
    probe: &mut Probe<'_>,
    function: &Function,
) -> Result<(Mmio, MemoryBar), String> {
    let bars = probe.pci.enable(function, |bar| bar == 0)?;
    let bar = *pci::find(&bars, 0)?;
    let registers = map(bar.address, bar.size, probe.options.queues)?;
    Ok((registers, bar))
}

/// Maps what `queues` queue pairs need of the registers in the `size` bytes at `at`, be there
/// GiB of something else behind them.
pub(super) fn map(at: u64, size: u64, queues: u16) -> Result<Mmio, String> {
    let size = usize::try_from(size).map_err(|error| error.to_string())?;
    let map = |len| mm::registers(at, len).map_err(|error| error.to_string());
    let front = map(size.min(PAGE as usize))?;
    map(register_bytes(&front, queues).min(size))
}

/// Brings up the controller behind `registers`; `at` says where that is, and `bus` is `None` if its
/// bus mastering is not in this domain's hands.
pub(super) fn start(
    probe: &mut Probe<'_>,
    number: usize,
    at: &str,
    registers: Mmio,
    mut bus: Option<PciMaster>,
) -> Result<AnyController, String> {
    let (dma, clock) = (probe.dma, probe.clock);
    let adopted = probe.standing(&registers).and_then(|place| {
        let (left, memory) = probe.standing.swap_remove(place);
        let share = registers.share();
        let adopted = Controller::adopt(share, clock, dma, probe.options, &left, memory);
        match &adopted {
            Ok(_) => info!("{at}: has stayed enabled"),
            Err(reason) => warn!("{at}: has stayed enabled, and is reset: {reason}"),
        }
        adopted.ok()
    });
    let start = match restart::is_again() {
        true => Controller::start_again,
        false => Controller::start,
    };
    let started = adopted.map_or_else(|| start(registers.share(), clock, dma, probe.options), Ok);
    let mut controller = match started {
        Ok(controller) => controller,
        Err(reason) => {
            bus.disable();
            let share = registers.share();
            let controller = Controller::absent(share, clock, dma, probe.options, reason)
                .map_err(|error| error.to_string())?;
            error!("{at}: NVMe controller not usable: {reason}; it is tried again");
            return Ok(disk(number, controller, registers, bus));
        }
    };
    let id = controller.identity();
    info!(
        "{at}: NVMe {}.{} controller {}, serial {}, firmware {}, up to {} KiB per command",
        id.version.0,
        id.version.1,
        id.model,
        id.serial,
        id.firmware,
        id.max_transfer >> 10
    );
    if let Err(error) = controller.lend(dma.free_bytes() / LENT) {
        warn!("{at}: it takes no memory of ours, though it asks for some: {error}");
        if let Err(reason) = controller.recover() {
            // Why it was given up is what counts.
            let _ = controller.shutdown([] as [QueuePair<Mmio>; 0]);
            return Err(reason.to_string());
        }
    }
    Ok(disk(number, controller, registers, bus))
}

fn disk(
    number: usize,
    controller: Controller<Mmio, &'static CoreClock, Dma>,
    registers: Mmio,
    bus: Option<PciMaster>,
) -> AnyController {
    let share = Mmio::share;
    Box::new(NvmeDisk::new(number, controller, registers, share, bus))
}
