//! NVMe controllers: from registers, behind a PCI function or placed by dom0, to a disk and its
//! queues.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::{error, info, warn};
use spindle_block::{DiskOptions, Volume};
use spindle_datapath::Queue;
use spindle_hw::Mmio;
use spindle_nvme::{Attention, Controller, QueuePair, register_bytes};
use spindle_pci::{Class, Function};
use xen_pvh_boot::PAGE;

use super::pci::{self, Pci};
use crate::mm::{self, Dma};
use crate::xen::time::CoreClock;

/// A controller that asks for memory to work with gets no more than this part of what is free.
const LENT: u64 = 16;

/// A controller that serves.
#[derive(Debug)]
pub(super) struct NvmeDisk {
    // Boxed: it is large, and the other disks are not.
    controller: Box<Controller<Mmio, &'static CoreClock, Dma>>,
    registers: Mmio,
    /// Where it is on PCI; `None` if dom0 placed its registers.
    function: Option<Function>,
}

impl NvmeDisk {
    /// Brings up all controllers on the bus; gives why not in the place of one that does not work.
    pub(super) fn probe(
        pci: &mut Pci,
        dma: Dma,
        clock: &'static CoreClock,
        options: DiskOptions,
    ) -> Vec<Result<Self, String>> {
        let start = |pci: &mut Pci, function: &Function| {
            let at = format!("pci {}", function.address);
            let registers = Self::find(pci, function, options.queues)?;
            let disk = Self::start(&at, registers, dma, clock, options)?;
            let function = Some(*function);
            Ok(Self { function, ..disk })
        };
        pci.start_all("NVMe controller", |f| f.class == Class::NVME, start)
    }

    /// Switches a PCI function on and maps its registers, which are in BAR 0 and 1 (NVMe 1.4,
    /// 2.1.10). The other BARs, of a memory buffer or persistent memory, are not used.
    fn find(pci: &mut Pci, function: &Function, queues: u16) -> Result<Mmio, String> {
        let bars = pci.enable(function, |bar| bar == 0);
        let bars = bars.map_err(|error| error.to_string())?;
        let bar = pci::find(&bars, 0)?;
        Self::map(bar.address, bar.size, queues)
    }

    /// Maps what `queues` queue pairs need of the registers in the `size` bytes at `at`, be there
    /// GiB of something else behind them.
    pub(super) fn map(at: u64, size: u64, queues: u16) -> Result<Mmio, String> {
        let size = usize::try_from(size).map_err(|error| error.to_string())?;
        let map = |len| mm::registers(at, len).map_err(|error| error.to_string());
        let front = map(size.min(PAGE as usize))?;
        map(register_bytes(&front, queues).min(size))
    }

    /// Brings up the controller behind `registers`; `at` says where that is.
    pub(super) fn start(
        at: &str,
        registers: Mmio,
        dma: Dma,
        clock: &'static CoreClock,
        options: DiskOptions,
    ) -> Result<Self, String> {
        let mut controller = Controller::start(registers.share(), clock, dma, options)
            .map_err(|error| error.to_string())?;
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
        Ok(Self {
            controller: Box::new(controller),
            registers,
            function: None,
        })
    }

    /// Its namespaces, as the volumes of disk `disk`, named after controller number `number`.
    pub(super) fn volumes(&self, disk: usize, number: usize) -> Vec<Volume> {
        self.controller.volumes(disk, number)
    }

    /// Namespaces that are not served, with the reason, as names of controller number `number`.
    pub(super) fn refused(&self, number: usize) -> impl Iterator<Item = (String, String)> {
        let refused = self.controller.refused().iter();
        refused.map(move |(id, reason)| (format!("nvme{number}n{id}"), reason.to_string()))
    }

    /// A queue for one core; [`Queue::None`] if the controller has none left.
    pub(super) fn queue(&mut self) -> Queue {
        let queue = self.controller.create_queue(self.registers.share());
        queue.map(Queue::Nvme).unwrap_or_else(|error| {
            let serial = &self.controller.identity().serial;
            warn!("nvme {serial}: {error}; cores without a queue serve other disks only");
            Queue::None
        })
    }

    /// Looks after the controller. One that is lost is cut off from memory here, if that can be
    /// done.
    pub(super) fn attend(&mut self, pci: &Pci) -> Attention {
        let mut attention = self.controller.attend();
        if let Some(lost) = &mut attention.lost
            && let Some(function) = &self.function
        {
            pci.disable(function);
            lost.disabled = true;
        }
        attention
    }

    /// Asks how it is, by its own account; [`Self::attend`] has the answer when it comes.
    pub(super) fn ask_health(&mut self) {
        self.controller.ask_health();
    }

    /// Writes out the cache and switches the controller off. `queues` are all that were made.
    pub(super) fn shutdown(self, queues: impl Iterator<Item = Queue>) {
        let pairs = queues.filter_map(|queue| match queue {
            Queue::Nvme(pair) => Some(pair),
            Queue::Virtio(_) | Queue::Ram(_) | Queue::None => None,
        });
        let serial = self.controller.identity().serial.clone();
        match self.controller.shutdown(pairs) {
            Ok(()) => info!("nvme {serial}: shut down, cache written out"),
            Err(error) => error!("nvme {serial}: shutdown failed: {error}"),
        }
    }
}
