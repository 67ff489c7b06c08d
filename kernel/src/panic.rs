//! Panics: message and backtrace go to both consoles, then the kernel starts again in place, or the
//! domain shuts down as crashed.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use spindle_hw::Ports;
use spindle_kept::death::DeathCause;

use crate::arch::{backtrace, cpu};
use crate::log::LastWords;
use crate::restart;
use crate::xen::{self, sched};

/// No core's number.
const NO_VCPU: usize = usize::MAX;
/// The first core that dies.
static DYING: AtomicUsize = AtomicUsize::new(NO_VCPU);

/// How far the dying core has come: it may die again on the way.
static STAGE: AtomicUsize = AtomicUsize::new(0);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let here = (panic as fn(&PanicInfo<'_>) -> !) as usize as u64;
    let core = cpu::number();
    die(
        DeathCause::PANIC,
        format_args!("PANIC on core {core}: {info}\n"),
        here,
        cpu::frame_pointer(),
    )
}

/// Reports `message` with a backtrace from `rip` and the frame at `frame`, and ends this life of the
/// kernel; the next one begins, or the domain ends. Dying while dying skips the report, and ends the
/// domain the next time; a second core that dies leaves all of it to the first.
pub(crate) fn die(cause: DeathCause, message: fmt::Arguments<'_>, rip: u64, frame: u64) -> ! {
    let this = cpu::number();
    let first = DYING.compare_exchange(NO_VCPU, this, Relaxed, Relaxed);
    if first.is_err_and(|first| first != this) {
        restart::stand_aside()
    }
    let stage = STAGE.fetch_add(1, Relaxed);
    if stage == 0 {
        report(cause, message, rip, frame);
    }
    if stage <= 1 && restart::may_follow().is_ok() {
        restart::start_again();
        // No other life will say it.
        let mut out = LastWords::begin(false);
        let _ = write!(out, "\n{message}cannot start again\n");
        out.end();
    }
    restart::give_up_early();
    stop(sched::Reason::Crash)
}

/// Notes how this life ends, and says so on both consoles.
fn report(cause: DeathCause, message: fmt::Arguments<'_>, rip: u64, frame: u64) {
    let trace = backtrace::trace(rip, frame);
    restart::note(cause, message, &trace);
    let follows = restart::may_follow();
    let mut out = LastWords::begin(follows.is_ok());
    // These writers do not fail; if they did, there would be nowhere left to report it.
    let _ = write!(out, "\n{message}");
    let _ = backtrace::write(&mut out, &trace);
    match follows {
        Ok(()) => {
            let _ = writeln!(out, "starting again in place");
        }
        Err(reason) => {
            let _ = writeln!(out, "the domain ends: {reason}");
            out.end();
        }
    }
}

/// Ends the domain; without Xen, ends QEMU through its debug exit if it has one.
pub(crate) fn stop(reason: sched::Reason) -> ! {
    const DEBUG_EXIT: u16 = 0xf4;
    if xen::is_present() {
        sched::shutdown(reason)
    }
    crate::log::ports().out32(DEBUG_EXIT, reason as u32);
    cpu::halt()
}
