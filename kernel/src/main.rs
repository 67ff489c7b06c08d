//! Spindle, the storage driver domain: its kernel's start.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod disks;
mod hypervisor;
mod log;
mod mm;
mod panic;
mod ring_cores;
mod settings;
mod xen;

use alloc::format;
use alloc::vec;

use ::log::info;
use spindle_control::{Control, Store};
use spindle_xen::store::Ring as StoreRing;
use spindle_xen::xenbus::ShutdownKind;
use xen_pvh_boot::{Boot, BootError};

use hypervisor::XenCpu;
use xen::sched::Reason;

xen_pvh_boot::entry!(main);

/// What is built in, for the first line of the log.
const FEATURES: &str = "nvme, virtio, ram, multi-queue, persistent grants, grant copy, flush";

/// The machine, set up.
#[derive(Debug)]
struct Machine {
    boot: Boot,
    memory: mm::Memory,
    /// `None` in a quick test without Xen.
    xen: Option<xen::Xen>,
}

fn main(boot: Result<Boot, BootError>) -> ! {
    log::init();
    let boot = boot.unwrap_or_else(|e| panic!("cannot use the boot information: {e}"));
    serve(start(boot))
}

/// Brings the machine up as far as the log and the clock.
fn start(boot: Boot) -> Machine {
    let memory = mm::init(&boot).unwrap_or_else(|e| panic!("{e}"));
    arch::set_up_core().unwrap_or_else(|e| panic!("{e}"));
    let mut xen = xen::init(memory.grants).unwrap_or_else(|e| panic!("{e}"));
    banner(&boot, &memory, xen.as_ref());
    let words = || xen_pvh_boot::words(&boot.info.command_line);
    match xen.as_mut().map(|x| (x.console.take(), x.events)) {
        Some((Some(console), events)) => log::attach_console(console, events),
        _ => log::use_debug_port(),
    }
    if words().any(|w| w.key == "debug_port") {
        log::use_debug_port();
    }
    Machine { boot, memory, xen }
}

fn banner(boot: &Boot, memory: &mm::Memory, xen: Option<&xen::Xen>) {
    let (version, git) = (env!("CARGO_PKG_VERSION"), env!("SPINDLE_GIT"));
    info!("Spindle {version} (git {git}) features: {FEATURES}");
    match xen.map(|x| x.hypervisor) {
        Some(h) => info!("Xen {}.{}, domain {}", h.version.0, h.version.1, h.domid.0),
        None => info!("no Xen: quick test without a hypervisor"),
    }
    for e in &boot.info.map {
        info!(
            "memory {:#012x}..{:#012x} {}",
            e.start,
            e.start.saturating_add(e.size),
            e.kind.name()
        );
    }
    let (heap, pages) = (memory.heap >> 10, memory.dma.free_bytes() >> 10);
    info!(
        "{heap} KiB heap, {pages} KiB for data; command line: \"{}\"",
        boot.info.command_line
    );
}

/// Finds the disks, starts the ring cores, and serves until the toolstack ends it.
fn serve(machine: Machine) -> ! {
    let Machine { boot, memory, xen } = machine;
    let clock = xen::time::clock().unwrap_or_else(|| panic!("the clock does not run"));
    let line = &boot.info.command_line;
    let Some((store, xen)) = xen.and_then(|mut xen| Some((xen.store.take()?, xen))) else {
        let config = settings::collect(None, clock, line);
        let mut disks = disks::probe(&config, &boot.info.map, &memory, clock, 1);
        info!("no xenstore: no guest can be served");
        let queues = disks.queues();
        disks.shutdown(vec![queues]);
        panic::stop(Reason::PowerOff)
    };
    let mut ring = StoreRing::new(store.page);
    let config = settings::collect(Some((&mut ring, store.port, xen.events)), clock, line);
    let mut disks = disks::probe(
        &config,
        &boot.info.map,
        &memory,
        clock,
        ring_cores::wanted(&config),
    );
    let hypervisor = XenCpu {
        grants: xen.grants.reading(memory.bus),
        events: xen.events,
        window: memory.grants,
        dma: memory.dma,
        clock,
    };
    let cores = ring_cores::start(&config, &memory, hypervisor, &mut disks);
    let cores = cores.unwrap_or_else(|error| panic!("cannot serve: {error}"));
    let store = Store {
        ring,
        port: store.port,
    };
    let version = format!("{} {}", env!("CARGO_PKG_VERSION"), env!("SPINDLE_GIT"));
    let control = Control::new(&config, version, hypervisor, store, disks, cores);
    info!(
        "ready, {} ms after boot",
        xen::time::uptime_ns() / 1_000_000
    );
    let kind = control.run();
    info!("closed; {kind:?}");
    panic::stop(match kind {
        ShutdownKind::PowerOff | ShutdownKind::Halt => Reason::PowerOff,
        ShutdownKind::Reboot => Reason::Reboot,
    })
}
