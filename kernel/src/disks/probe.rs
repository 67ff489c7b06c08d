//! Finding and making the disks, type by type.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use log::error;
use spindle_block::{BlockController, DiskOptions};
use spindle_config::{Config, DiskSize};
use spindle_control::RamDisks;
use spindle_datapath::{Queue, disk_types};
use spindle_hw::{IdentityMap, Mmio, Retake, SharedPages};
use spindle_nvme::Standby;
use spindle_virtio::{Layout, is_block_device};
use xen_pvh_boot::MapEntry;

use super::pci::Pci;
use super::{nvme, ram, virtio};
use crate::mm::{Dma, Memory, RamPages};
use crate::restart::{self, Mark, NextLife};
use crate::xen::time::CoreClock;

/// A controller of any disk type.
pub(super) type AnyController = Box<dyn BlockController<Queue>>;

/// What the disk types find their disks with, and what they have found.
pub(super) struct Probe<'a> {
    pub(super) config: &'a Config,
    /// The domain's memory map.
    pub(super) map: &'a [MapEntry],
    pub(super) dma: Dma,
    pub(super) bus: IdentityMap,
    pub(super) clock: &'static CoreClock,
    pub(super) options: DiskOptions,
    pub(super) ram: RamDisks<RamPages>,
    pub(super) pci: Pci,
    /// Controllers that the last life has left enabled, with the memory that they may write to.
    pub(super) standing: Vec<(Standby, SharedPages)>,
    /// Where the registers of virtio devices are, by address.
    pub(super) layouts: Vec<(u64, Layout)>,
    /// Controllers that serve.
    pub(super) controllers: Vec<AnyController>,
    /// Disks, or controllers with all their disks, that do not: name and reason.
    pub(super) failed: Vec<(String, String)>,
}

/// What the last life has said of controllers that it has left enabled; no other life hears of it.
fn take_standing(dma: Dma) -> Vec<(Standby, SharedPages)> {
    let words = NextLife::Standby.read().unwrap_or_default();
    let all = Standby::read_all(&words).into_iter();
    let all = all.filter_map(|standing| {
        let (bus, pages) = standing.memory();
        Some((standing, RamPages(dma).retake(bus, pages)?))
    });
    all.collect()
}

impl<'a> Probe<'a> {
    /// Whether the controller behind `registers` is one that the last life has left enabled: which.
    pub(super) fn standing(&self, registers: &Mmio) -> Option<usize> {
        let mut standing = self.standing.iter();
        standing.position(|(standing, _)| standing.is_left(registers))
    }

    /// Finds and makes the disks of all types, with queues for `cores` cores.
    pub(super) fn all(
        config: &'a Config,
        map: &'a [MapEntry],
        memory: &Memory,
        clock: &'static CoreClock,
        cores: usize,
        ram: RamDisks<RamPages>,
    ) -> Self {
        // Before anything else is given a page.
        let standing = take_standing(memory.dma);
        let pci = Pci::scan(map, memory);
        // Where the functions are what they were, so are their registers.
        let layouts = match pci.is_as_left() {
            true => virtio::noted(),
            false => Vec::new(),
        };
        let mut probe = Self {
            config,
            map,
            dma: memory.dma,
            bus: memory.bus,
            clock,
            options: DiskOptions {
                queues: u16::try_from(cores).unwrap_or(u16::MAX),
                timeout: config.command_timeout(),
                ..DiskOptions::default()
            },
            ram,
            pci,
            standing,
            layouts,
            controllers: Vec::new(),
            failed: Vec::new(),
        };
        if restart::is_again() {
            super::quiet::stop_all(&mut probe);
        }
        restart::pass(Mark::Quiet);
        macro_rules! probe_each {
            ($($(#[$doc:meta])* $kind:ident($queue:ty), $probe:expr;)*) => {
                $({
                    let probe_type: fn(&mut Probe<'a>) = $probe;
                    probe_type(&mut probe);
                })*
            };
        }
        disk_types!(probe_each);
        probe.pci.note_for_next_life(|function| {
            nvme::is_controller(function) || is_block_device(function)
        });
        virtio::note(&probe.layouts);
        probe
    }

    /// Notes a controller, or why the one with this name does not serve.
    pub(super) fn note(&mut self, name: String, started: Result<AnyController, String>) {
        match started {
            Ok(controller) => self.controllers.push(controller),
            Err(reason) => self.failed.push((name, reason)),
        }
    }

    /// Makes the disks that an option such as `null0=64M` asks for, by its number and size.
    pub(super) fn make<C: BlockController<Queue> + 'static>(
        &mut self,
        option: &str,
        disks: &[DiskSize],
        make: impl Fn(String, u64, &Dma, IdentityMap) -> Result<C, String>,
    ) {
        for &DiskSize { number, bytes } in disks {
            let name = format!("{option}{number}");
            let made = make(name.clone(), bytes, &self.dma, self.bus);
            self.note_made(name, made);
        }
    }

    /// Notes a disk that was made, or why that failed, which goes to the log, too.
    pub(super) fn note_made<C: BlockController<Queue> + 'static>(
        &mut self,
        name: String,
        made: Result<C, String>,
    ) {
        if let Err(reason) = &made {
            error!("{name}: {reason}");
        }
        self.note(name, made.map(|disk| Box::new(disk) as AnyController));
    }
}
