//! Spindle, the storage driver domain: its kernel's start.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod log;
mod mm;
mod panic;
mod xen;

use ::log::info;
use spindle_hw::Clock;
use xen_pvh_boot::{Boot, BootError};

xen_pvh_boot::entry!(main);

/// What is built in, for the first line of the log.
const FEATURES: &str = "none";

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
    idle(start(boot))
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

/// Sleeps a second at a time.
fn idle(machine: Machine) -> ! {
    loop {
        let now = xen::time::clock().map_or(0, Clock::now_ns);
        if machine.xen.is_some() {
            let _ = xen::sched::poll(&[], now + 1_000_000_000);
        }
        info!("still here");
    }
}
