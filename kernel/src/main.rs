//! Spindle, the storage driver domain: its kernel's start.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod disks;
mod hypervisor;
mod kept;
mod log;
mod mm;
mod panic;
mod restart;
mod ring_cores;
mod settings;
mod xen;

use alloc::string::{String, ToString};
use alloc::vec;

use ::log::{error, info, warn};
use spindle_control::{Control, Keep, LifeEnd, RamDisks, Store, Suspect};
use spindle_hw::Clock;
use spindle_kept::Kept;
use spindle_kept::death::{Death, DeathCause};
use spindle_status::lives::{DeathLine, StartLine};
use spindle_status::path;
use spindle_xen::event::Port;
use spindle_xen::xenbus::ShutdownKind;
use xen_pvh_boot::{Boot, BootError};

use hypervisor::XenCpu;
use log::FormerLog;
use restart::Mark;
use xen::sched::Reason;

xen_pvh_boot::entry!(main, kept: restart::pages);

/// What is built in, for the first line of the log.
const FEATURES: &str = "nvme, virtio, ram, multi-queue, persistent grants, grant copy, flush";

/// The machine, set up.
#[derive(Debug)]
struct Machine {
    boot: Boot,
    memory: mm::Memory,
    /// `None` in a quick test without Xen.
    xen: Option<xen::Xen>,
    /// 1 for the first start in this domain.
    life: u64,
    /// How the last life ended.
    last: Option<Death>,
    /// The last lines of its log.
    former: FormerLog,
}

fn main(boot: Result<Boot, BootError>) -> ! {
    log::init();
    let boot = boot.unwrap_or_else(|e| panic!("cannot use the boot information: {e}"));
    serve(start(boot))
}

/// Brings the machine up as far as the log and the clock.
fn start(boot: Boot) -> Machine {
    let kept = restart::open(&boot);
    let life = kept.as_ref().map_or(1, Kept::life);
    let last = kept.and_then(|kept| kept.lives().last());
    let memory = mm::init(&boot, life, restart::heap_end(&boot)).unwrap_or_else(|e| panic!("{e}"));
    let mut former = FormerLog::default();
    match kept.map(|kept| restart::init(&boot, kept, memory.heap_end)) {
        Some(Ok(())) => former = keep_log(),
        Some(Err(reason)) => warn!("a death ends the domain: {reason}"),
        None => warn!("a death ends the domain: no room for kept memory"),
    }
    arch::set_up_core().unwrap_or_else(|e| panic!("{e}"));
    let mut xen = xen::init(memory.grants).unwrap_or_else(|e| panic!("{e}"));
    restart::clock_runs(boot.entered);
    if life > 1 {
        introduce(life, last.as_ref());
    }
    banner(&boot, &memory, xen.as_ref());
    let words = || xen_pvh_boot::words(&boot.info.command_line);
    match xen.as_mut().map(|x| (x.console.take(), x.events)) {
        Some((Some(console), events)) => log::attach_console(console, events),
        _ => log::use_debug_port(),
    }
    if words().any(|w| w.key == "debug_port") {
        log::use_debug_port();
    }
    Machine {
        boot,
        memory,
        xen,
        life,
        last,
        former,
    }
}

/// Has the next life find the last lines of the log; gives those that this one has found.
fn keep_log() -> FormerLog {
    let Some((tail, text)) = restart::log_tail() else {
        return FormerLog::default();
    };
    log::keep(tail);
    FormerLog::new(text)
}

/// Begins the log of a life that is not the first with how the last one ended.
fn introduce(life: u64, last: Option<&Death>) {
    let Some(death) = last else {
        error!("life {life}: how the last one ended is not known");
        return;
    };
    let uptime = death.uptime_ns / 1_000_000_000;
    let (cause, core) = (death.cause, death.core);
    let now = xen::time::clock().map_or(0, Clock::now_ns);
    let ago = now.saturating_sub(death.at_ns) / 1000;
    if cause == DeathCause::UPDATE {
        return restart::introduce(life, ago);
    }
    error!(
        "life {life}: the last one ended after {uptime} s on core {core} by {cause}, {ago} us ago"
    );
    for line in death.message.lines().filter(|line| !line.is_empty()) {
        error!("{line}");
    }
    let mut line = String::new();
    // A string takes everything.
    let _ = arch::backtrace::write(&mut line, &death.trace);
    error!("{}", line.trim_end());
}

fn banner(boot: &Boot, memory: &mm::Memory, xen: Option<&xen::Xen>) {
    info!("Spindle {} features: {FEATURES}", restart::version());
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

/// Shows which life this is, when it began, and how the last one ended. The life's number comes last:
/// whoever waits for it finds the rest.
fn publish_life(life: u64, last: Option<&Death>, mut publish: impl FnMut(&str, String)) {
    let deaths = restart::memory().map_or(0, |kept| kept.lives().deaths());
    let now = xen::time::clock().map_or(0, Clock::now_ns);
    let down = last.map_or(0, |death| now.saturating_sub(death.at_ns) / 1000);
    let began = xen::time::unix_s();
    let start = StartLine {
        at: began,
        down_us: down,
        deaths,
        system_ns: now,
    };
    publish(path::START, start.to_string());
    // An update is no death.
    if life > 1 && last.is_none_or(|death| death.cause != DeathCause::UPDATE) {
        let text = last.map(|death| {
            let line = DeathLine {
                cause: death.cause.to_string(),
                core: Some(death.core),
                message: death.message.as_str().into(),
            };
            line.to_string()
        });
        publish(
            path::DEATH,
            text.unwrap_or_else(|| DeathLine::UNKNOWN.into()),
        );
    }
    publish(path::LIFE, life.to_string());
}

/// Finds the disks, starts the ring cores, and serves until the toolstack ends it.
fn serve(machine: Machine) -> ! {
    let Machine {
        boot,
        memory,
        xen,
        life,
        last,
        mut former,
    } = machine;
    let clock = xen::time::clock().unwrap_or_else(|| panic!("the clock does not run"));
    let line = &boot.info.command_line;
    // Before anything else is given a page.
    let ram = mm::RamPages(memory.dma);
    let ram = RamDisks::take_up(restart::ram_records(), ram, life);
    let Some((store, xen)) = xen.and_then(|mut xen| Some((xen.store.take()?, xen))) else {
        let config = settings::collect(None, clock, line, false);
        let mut disks = disks::probe(&config, &boot.info.map, &memory, clock, 1, ram);
        info!("no xenstore: no guest can be served");
        let queues = disks.queues();
        disks.shutdown(vec![queues]);
        panic::stop(Reason::PowerOff)
    };
    let port = store.port;
    if restart::is_again() {
        let kept = |other: Port| other == port || Some(other) == xen.console_port;
        let closed = xen.events.close_all_but(kept);
        info!("closed {closed} event channels of the last life");
    }
    restart::pass(Mark::Console);
    let (mut ring, port) = restart::ring(store, xen.events, clock);
    let again = restart::is_again();
    let config = settings::collect(Some((&mut ring, port, xen.events)), clock, line, again);
    if config.drill {
        warn!("drill=on: an operator may have the kernel die");
    }
    restart::pass(Mark::Options);
    let mut disks = disks::probe(
        &config,
        &boot.info.map,
        &memory,
        clock,
        ring_cores::wanted(&config),
        ram,
    );
    restart::pass(Mark::Disks);
    let hypervisor = XenCpu {
        grants: xen.grants.reading(memory.bus),
        events: xen.events,
        window: memory.grants,
        clock,
    };
    let kept = kept::open(&memory).unwrap_or_else(|| panic!("no memory for records and journals"));
    let cores = ring_cores::start(&config, &memory, hypervisor, &kept, &mut disks);
    let cores = cores.unwrap_or_else(|error| panic!("cannot serve: {error}"));
    restart::pass(Mark::Cores);
    let store = Store { ring, port };
    let version = restart::version();
    let blame = last.as_ref().and_then(|death| {
        let journal = u32::try_from(death.ring.checked_sub(1)?).ok()?;
        let at_ns = death.at_ns;
        Some(Suspect { journal, at_ns })
    });
    let stood_still = last
        .as_ref()
        .is_some_and(|death| [DeathCause::HANG, DeathCause::NMI].contains(&death.cause));
    let keep = Keep {
        kept,
        blame,
        stood_still,
    };
    let mut control = Control::new(&config, version, hypervisor, store, disks, cores, keep);
    restart::pass(Mark::Records);
    restart::serves();
    let served = control.serves_former();
    control.undo_former();
    restart::pass(Mark::Grants);
    info!(
        "ready, {} ms after boot",
        xen::time::uptime_ns() / 1_000_000
    );
    restart::note_failed_trial();
    let mut settling = restart::is_again();
    if let Some(outcome) = restart::outcome() {
        control.publish(path::UPDATED, outcome);
    }
    publish_life(life, last.as_ref(), |path, value| {
        control.publish(path, value)
    });
    let mut watcher = restart::Watcher::new(0);
    let kind = loop {
        match control.turn() {
            None => {}
            Some(LifeEnd::Shutdown(kind)) => break kind,
            Some(LifeEnd::Update(left)) => restart::follow(&left),
        }
        if settling && control.is_settled() {
            settling = false;
            if restart::settled(served) {
                control.publish(path::UPDATED, restart::outcome().unwrap_or_default());
            }
        }
        restart::obey(0);
        let now = clock.now_ns();
        watcher.turn(now);
        former.turn(now);
    };
    drop(watcher);
    control.stop();
    info!("closed; {kind:?}");
    panic::stop(match kind {
        ShutdownKind::PowerOff | ShutdownKind::Halt => Reason::PowerOff,
        ShutdownKind::Reboot => Reason::Reboot,
    })
}
