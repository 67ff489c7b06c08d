//! Stops the cores of a life that has ended, and sends them into the next one.
//!
//! A core is stopped by a non-maskable interrupt, together with VCPUOP_up, since a core that halts
//! with interrupts off is down to Xen and takes none. It then waits in the kept code. What to do with
//! such an interrupt is decided here by whether one of ours sent it: it carries no cause. The boot
//! core is the one that enters the image, in the handler of such an interrupt, so that none can come
//! on the way.

// UNSAFETY: leaves the handler of a non-maskable interrupt.
#![expect(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release as Publish},
};

use spindle_kept::death::DeathCause;

use super::kept::{self, KeptCode};
use super::layout::{
    ABSENT, CORES, CR3, LOST, ON_THE_WAY, PARKED, PARKING, RDI, RELEASED, RIP, RSI, RSP, RUNNING,
    SENT, SLOT_SIZE, STARTING, STATE,
};
use super::{decision, watch};
use crate::arch::{Launch, backtrace, cpu};
use crate::xen::{self, sched, time, vcpus};

/// How long cores get to stop. Under contention it has taken a tenth of a second.
const STOP_NS: u64 = 1_000_000_000;
/// How long the boot core gets to begin stopping the others.
const BEGIN_NS: u64 = 3_000_000_000;
/// How long it waits for the interrupt that it sends itself.
const OWN_NS: u64 = 100_000_000;

/// Cores are to wait for the next life.
static ENDED: AtomicBool = AtomicBool::new(false);
/// The boot core is in the handler of an interrupt that an operator has asked for: no other comes.
static INSIDE: AtomicBool = AtomicBool::new(false);
/// The boot core has begun to stop the others.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl KeptCode {
    fn word(&self, core: usize, at: usize) -> &AtomicU32 {
        self.slots.u32_at(core * SLOT_SIZE + at)
    }

    fn field(&self, core: usize, at: usize) -> &AtomicU64 {
        self.slots.u64_at(core * SLOT_SIZE + at)
    }

    fn state_of(&self, core: usize) -> u32 {
        self.word(core, STATE).load(Acquire)
    }

    fn set(&self, core: usize, state: u32) {
        self.word(core, STATE).store(state, Publish);
    }

    /// Sends a core an interrupt, which finds that it was sent by us.
    fn interrupt(&self, core: usize) {
        self.word(core, SENT).store(1, Publish);
        vcpus::send_nmi(core);
        vcpus::up(core);
    }

    /// Has all other cores wait; those that do not come in time are taken down where they are.
    fn stop_others(&self) {
        let mut sent = [false; CORES];
        let deadline = time::uptime_ns().saturating_add(STOP_NS);
        loop {
            let mut missing = 0;
            for (core, sent) in sent.iter_mut().enumerate().skip(1) {
                match self.state_of(core) {
                    ABSENT | PARKED | LOST => continue,
                    // To one that has no descriptor tables yet, an interrupt would be the end.
                    RUNNING if !*sent => {
                        *sent = true;
                        self.interrupt(core);
                    }
                    _ => {}
                }
                missing += 1;
            }
            if missing == 0 {
                return;
            }
            if time::uptime_ns() >= deadline {
                break;
            }
            sched::yield_now();
        }
        for core in 1..CORES {
            if !matches!(self.state_of(core), ABSENT | PARKED | LOST) {
                vcpus::down(core);
                self.set(core, LOST);
            }
        }
    }

    /// On the boot core: the way into the next life.
    fn leave(&self) -> ! {
        TAKEN.store(true, Publish);
        self.stop_others();
        self.note_leaving();
        self.enter()
    }
}

/// How a core can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// By Xen: it never was.
    New,
    /// It waited and has been sent on its way.
    Done,
    /// Not at all any more.
    Lost,
}

/// Notes that `core` is about to be started by Xen.
pub(crate) fn starting(core: usize) {
    if let Some(kept) = kept::get().filter(|_| core < CORES) {
        kept.set(core, STARTING);
    }
}

/// Notes that `core`, which Xen refused to start, is not there.
pub(crate) fn absent(core: usize) {
    if let Some(kept) = kept::get().filter(|_| core < CORES) {
        kept.set(core, ABSENT);
    }
}

/// Notes that this core has its descriptor tables.
pub(crate) fn running(core: usize) {
    if let Some(kept) = kept::get().filter(|_| core < CORES) {
        kept.set(core, RUNNING);
    }
}

/// Has a core that waits begin with `launch`.
pub(crate) fn release(core: usize, launch: &Launch) -> Release {
    let Some(kept) = kept::get().filter(|_| core < CORES) else {
        return Release::New;
    };
    match kept.state_of(core) {
        ABSENT => return Release::New,
        PARKED => {}
        _ => return Release::Lost,
    }
    let fields = [
        (CR3, launch.cr3),
        (RIP, launch.rip),
        (RSP, launch.rsp),
        (RDI, launch.rdi),
        (RSI, launch.rsi),
    ];
    for (at, value) in fields {
        kept.field(core, at).store(value, Relaxed);
    }
    kept.word(core, SENT).store(0, Relaxed);
    kept.set(core, RELEASED);
    let deadline = time::uptime_ns().saturating_add(STOP_NS);
    while kept.state_of(core) == RELEASED && time::uptime_ns() < deadline {
        // More than once: it may have looked before, and gone down after.
        vcpus::up(core);
        sched::yield_now();
    }
    Release::Done
}

/// On the boot core: lets non-maskable interrupts in again, as only IRET does, since the way into this
/// life may have led through the handler of one. One that was sent to end the last life and has been
/// held back until now is taken here, and ignored.
pub(crate) fn unblock_interrupts() {
    // SAFETY: returns to the next instruction, with the stack, flags and segments as they are.
    unsafe {
        asm!(
            "mov {was}, rsp",
            "mov {part:e}, ss",
            "push {part}",
            "push {was}",
            "pushfq",
            "mov {part:e}, cs",
            "push {part}",
            "lea {part}, [rip + 2f]",
            "push {part}",
            "iretq",
            "2:",
            was = out(reg) _,
            part = out(reg) _,
        );
    }
    if let Some(kept) = kept::get() {
        kept.word(0, SENT).store(0, Relaxed);
        kept.state.u32_at(ON_THE_WAY).store(0, Relaxed);
    }
}

/// In the handler of a non-maskable interrupt: returns whether it is one that an operator has asked
/// for. If it was sent to stop this core, it does not return; if it is left from before, false. The
/// core was at `rip`, with the frame at `frame`.
pub(crate) fn is_asked_for(rip: u64, frame: u64) -> bool {
    let core = cpu::number();
    let Some(kept) = kept::get().filter(|_| core < CORES) else {
        return true;
    };
    let ours = kept.word(core, SENT).swap(0, AcqRel) != 0;
    let ended = ENDED.load(Acquire);
    if ended && watch::hangs(core) {
        let message = format_args!("HANG of core {core}: it was here when it was stopped");
        decision::note(DeathCause::HANG, message, &backtrace::trace(rip, frame));
    }
    match (ours, ended) {
        (_, true) if core == 0 => kept.leave(),
        (_, true) => kept.park(core),
        (true, false) => false,
        (false, false) => {
            INSIDE.fetch_or(core == 0, Relaxed);
            true
        }
    }
}

/// Whether the boot core has begun to stop the others: nothing may wait for it then.
fn is_boot_core_inside() -> bool {
    TAKEN.load(Acquire)
}

/// Ends this life on the core that dies: the next one begins. Returns if it cannot.
pub(crate) fn start_again() {
    let core = cpu::number();
    let Some(kept) = kept::get().filter(|_| core < CORES) else {
        return;
    };
    if core != 0 {
        kept.set(core, PARKING);
    }
    ENDED.store(true, Publish);
    if core == 0 {
        // A life that is given up at its beginning may not have got so far.
        if !INSIDE.load(Relaxed) && xen::is_present() {
            kept.interrupt(0);
            wait(OWN_NS, || false);
        }
        kept.leave()
    }
    kept.interrupt(0);
    if wait(BEGIN_NS, is_boot_core_inside) {
        kept.park(core)
    }
}

/// What a core does that dies while another one does, too, or waits for an end that has begun.
pub(crate) fn stand_aside() -> ! {
    let core = cpu::number();
    let Some(kept) = kept::get().filter(|_| core < CORES) else {
        cpu::halt()
    };
    if core != 0 {
        kept.set(core, PARKING);
        kept.park(core)
    }
    // The boot core is wanted yet. If it is in the handler of an interrupt, none comes.
    while !ENDED.load(Acquire) {
        sched::yield_now();
    }
    wait(OWN_NS, || false);
    kept.leave()
}

/// Waits until `done`, at most for so long; whether it is.
fn wait(patience_ns: u64, done: impl Fn() -> bool) -> bool {
    let deadline = time::uptime_ns().saturating_add(patience_ns);
    while !done() {
        if time::uptime_ns() >= deadline {
            return false;
        }
        sched::yield_now();
    }
    true
}
