//! Further vCPUs (`public/vcpu.h`): counts them and starts them, straight in 64-bit mode. It works
//! in either container and needs neither firmware nor interrupts.

// UNSAFETY: hypercalls that make another vCPU run, and the memory it begins with.
#![expect(unsafe_code)]

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::mem;
use core::ptr;
use core::sync::atomic::{
    AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};

use spin::Once;
use spindle_hw::Clock;
use spindle_xen::Errno;

use super::hypercall::{self, VCPU_OP};
use super::sched;
use super::shared::{self, SharedInfo};
use super::time::{self, CoreClock, Source};
use crate::arch::{self, CoreTables, Launch, cpu};
use crate::mm::{Stack, StackError};
use crate::restart;

const INITIALISE: u64 = 0;
const UP: u64 = 1;
const DOWN: u64 = 2;
const IS_UP: u64 = 3;
const SEND_NMI: u64 = 11;

/// Pages of a core's stack.
const STACK_PAGES: usize = 16;
/// How long a new core may take to begin.
const PATIENCE_NS: u64 = 1_000_000_000;

/// States of a core that is being started.
const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const GIVEN_UP: u8 = 2;

/// What a core does, with its own clock. When it returns, the core goes down for good.
pub(crate) type Main = Box<dyn FnOnce(&'static CoreClock) + Send>;

/// Why a vCPU is not used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StartError {
    /// Xen has a clock for the first 32 only, and none of them without Xen.
    NoClock,
    /// No stack for it.
    Stack(StackError),
    /// Xen refused this operation.
    Refused(&'static str, Errno),
    /// It was started but did not begin within a second.
    Silent,
    /// It did not stop when an earlier life ended, and is out of use until the domain ends.
    Lost,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClock => write!(f, "only {} vCPUs have a clock", shared::VCPUS),
            Self::Stack(error) => error.fmt(f),
            Self::Refused(operation, error) => write!(f, "Xen refused {operation}: {error}"),
            Self::Silent => f.write_str("it did not begin within a second"),
            Self::Lost => f.write_str("it did not stop when the kernel died"),
        }
    }
}

/// All that a core begins with.
struct Seed {
    number: u32,
    tables: Box<CoreTables>,
    clock: &'static CoreClock,
    state: Arc<AtomicU8>,
    main: Main,
}

static SHARED: Once<&'static SharedInfo> = Once::new();

/// Makes it possible to start vCPUs.
pub(super) fn init(shared: &'static SharedInfo) {
    SHARED.call_once(|| shared);
}

/// How many vCPUs the domain has: `maxvcpus` of its configuration, or `vcpus` without. 1 without
/// Xen.
pub(crate) fn count() -> usize {
    if SHARED.get().is_none() {
        return 1;
    }
    // Xen's own limit for a domain is far below.
    let exists = |vcpu: &u64| vcpu_op(IS_UP, *vcpu).is_ok();
    (0..u64::from(u16::MAX)).take_while(exists).count()
}

/// Starts a vCPU, with a guarded stack, descriptor tables and a clock of its own, and waits for up
/// to a second until it is about to enter `main`. Called on the boot core.
///
/// # Errors
/// If it cannot be used; it will never enter `main` then, which is dropped, or forgotten after
/// [`StartError::Silent`].
pub(crate) fn start(vcpu: usize, main: Main) -> Result<(), StartError> {
    let (Some(&shared), 0..shared::VCPUS) = (SHARED.get(), vcpu) else {
        return Err(StartError::NoClock);
    };
    let state = Arc::new(AtomicU8::new(WAITING));
    let stack = Stack::new(STACK_PAGES).map_err(StartError::Stack)?;
    let seed = Box::into_raw(Box::new(Seed {
        number: vcpu as u32,
        tables: Box::new(CoreTables::new().map_err(StartError::Stack)?),
        clock: Box::leak(Box::new(CoreClock::new(Source::Xen { shared, vcpu }))),
        state: state.clone(),
        main,
    }));
    let launch = Launch::new(stack, begin, seed.expose_provenance() as u64);
    if let Err(error) = launch_at(vcpu as u64, &launch) {
        // SAFETY: the box came from `into_raw` above, and the core that would take it never came
        // up.
        drop(unsafe { Box::from_raw(seed) });
        return Err(error);
    }
    if begins(&state) {
        return Ok(());
    }
    // Should it come to life yet, it stops by itself: stopped from here it might hold a lock.
    Err(StartError::Silent)
}

/// Takes this vCPU down for good, which ends the domain if it is the last.
pub(crate) fn park() -> ! {
    cpu::halt()
}

/// Sends a vCPU a non-maskable interrupt. One that has never run and that there is not are errors,
/// which change nothing.
pub(crate) fn send_nmi(vcpu: usize) {
    let _ = vcpu_op(SEND_NMI, vcpu as u64);
}

/// Has a vCPU go on that is down.
pub(crate) fn up(vcpu: usize) {
    let _ = vcpu_op(UP, vcpu as u64);
}

/// Stops a vCPU wherever it is.
pub(crate) fn down(vcpu: usize) {
    let _ = vcpu_op(DOWN, vcpu as u64);
}

/// An operation on a vCPU without an argument.
fn vcpu_op(operation: u64, vcpu: u64) -> Result<i64, Errno> {
    // SAFETY: takes no memory; what a vCPU begins with was made by `start`.
    unsafe { hypercall::call(VCPU_OP, [operation, vcpu, 0]) }
}

/// Makes the vCPU run, be it one that waits since an earlier life.
fn launch_at(vcpu: u64, launch: &Launch) -> Result<(), StartError> {
    /// `struct vcpu_hvm_context` (`public/hvm/hvm_vcpu.h`) with the 64-bit registers.
    #[repr(C)]
    struct Context {
        mode: u32,
        pad: u32,
        rax_rcx_rdx_rbx: [u64; 4],
        rsp: u64,
        rbp: u64,
        rsi: u64,
        rdi: u64,
        rip: u64,
        rflags: u64,
        cr0: u64,
        cr3: u64,
        cr4: u64,
        efer: u64,
        /// The 32-bit registers take more room.
        rest: u64,
    }
    const _: () = assert!(size_of::<Context>() == 128);
    const MODE_64: u32 = 1;
    const RFLAGS_ALWAYS: u64 = 1 << 1;

    match restart::release(vcpu as usize, launch) {
        restart::Release::New => restart::starting(vcpu as usize),
        restart::Release::Done => return Ok(()),
        restart::Release::Lost => return Err(StartError::Lost),
    }
    let context = Context {
        mode: MODE_64,
        pad: 0,
        rax_rcx_rdx_rbx: [0; 4],
        rsp: launch.rsp,
        rbp: 0,
        rsi: launch.rsi,
        rdi: launch.rdi,
        rip: launch.rip,
        rflags: RFLAGS_ALWAYS,
        cr0: launch.cr0,
        cr3: launch.cr3,
        cr4: launch.cr4,
        efer: launch.efer,
        rest: 0,
    };
    let address = hypercall::address(&raw const context);
    // SAFETY: Xen reads the context, which outlives the call; by it the vCPU calls `begin`, on a
    // stack and with an argument that are its alone.
    unsafe { hypercall::call(VCPU_OP, [INITIALISE, vcpu, address]) }.map_err(|error| {
        restart::absent(vcpu as usize);
        StartError::Refused("VCPUOP_initialise", error)
    })?;
    vcpu_op(UP, vcpu).map_err(|error| StartError::Refused("VCPUOP_up", error))?;
    Ok(())
}

/// Whether the core begins in time.
fn begins(state: &AtomicU8) -> bool {
    let now = || time::clock().map_or(u64::MAX, Clock::now_ns);
    let deadline = now().saturating_add(PATIENCE_NS);
    while now() < deadline {
        if state.load(Acquire) == RUNNING {
            return true;
        }
        sched::yield_now();
    }
    let given_up = state.compare_exchange(WAITING, GIVEN_UP, Relaxed, Acquire);
    given_up.is_err()
}

/// Where a core begins. `seed` is the address of its [`Seed`].
extern "C" fn begin(seed: u64) -> ! {
    xen_pvh_boot::enable_write_back();
    // SAFETY: `start` made the box for this core alone and does not keep it.
    let seed = unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<Seed>(seed as usize)) };
    let Seed {
        number,
        tables,
        clock,
        state,
        main,
    } = *seed;
    arch::enter_core(number, tables);
    let begun = state.compare_exchange(WAITING, RUNNING, Release, Relaxed);
    if begun.is_ok() {
        main(clock);
    } else {
        // Too late to do anything, even to give back what it owns: others rely on its silence.
        mem::forget(main);
    }
    park()
}
