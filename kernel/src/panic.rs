//! Panics: message and backtrace go to both consoles, then the domain shuts down as crashed.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use spindle_hw::Ports;

use crate::arch::{backtrace, cpu};
use crate::log::LastWords;
use crate::xen::{self, sched};

/// No core's number.
const NO_VCPU: usize = usize::MAX;
/// The first core that dies.
static DYING: AtomicUsize = AtomicUsize::new(NO_VCPU);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let here = (panic as fn(&PanicInfo<'_>) -> !) as usize as u64;
    let core = cpu::number();
    die(
        format_args!("PANIC on core {core}: {info}\n"),
        here,
        cpu::frame_pointer(),
    )
}

/// Tells `message` with a backtrace from `rip` and the frame at `frame`, and ends the domain.
/// Dying while dying ends it at once; a second core that dies leaves the word to the first.
pub(crate) fn die(message: fmt::Arguments<'_>, rip: u64, frame: u64) -> ! {
    let this = cpu::number();
    let first = DYING.compare_exchange(NO_VCPU, this, Relaxed, Relaxed);
    if first.is_err_and(|first| first != this) {
        cpu::halt()
    }
    if first.is_ok() {
        let mut out = LastWords::begin();
        // These writers do not fail; if they did, there would be nowhere left to report it.
        let _ = write!(out, "\n{message}");
        let _ = backtrace::write(&mut out, rip, frame);
        out.end();
    }
    stop(sched::Reason::Crash)
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
