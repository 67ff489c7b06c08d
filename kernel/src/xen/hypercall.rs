//! Hypercalls: a number and up to three arguments, by the processor's own instruction.

// UNSAFETY: the hypervisor reads and writes memory through the pointers it is given.
#![expect(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use spindle_xen::Errno;

use crate::arch::cpu;

/// `__HYPERVISOR_*` (`public/xen.h`).
pub(super) const MEMORY_OP: u64 = 12;
pub(super) const GRANT_TABLE_OP: u64 = 20;
pub(super) const VCPU_OP: u64 = 24;
pub(super) const SCHED_OP: u64 = 29;
pub(super) const EVENT_CHANNEL_OP: u64 = 32;
pub(super) const HVM_OP: u64 = 34;

/// Whether the processor has VMMCALL (AMD's) rather than VMCALL.
static VMMCALL: AtomicBool = AtomicBool::new(false);

/// Finds out which instruction it is. Called before the first hypercall.
pub(super) fn init() {
    VMMCALL.store(is_vmmcall(), Relaxed);
}

/// Whether hypercalls are made by VMMCALL, as this processor's vendor has it.
pub(crate) fn is_vmmcall() -> bool {
    matches!(&cpu::vendor(), b"AuthenticAMD" | b"HygonGenuine")
}

/// The argument by which Xen reaches what is at `place`, which is exposed: a raw pointer to it, a
/// `mut` one where Xen writes.
pub(super) fn address<T>(place: *const T) -> u64 {
    place.expose_provenance() as u64
}

/// A hypercall.
///
/// # Errors
/// What Xen returned, if negative.
///
/// # Safety
/// What the call makes Xen read or write must be valid for that, and its address one by
/// [`address`]; and nothing it changes may break what Rust relies on.
#[inline]
pub(super) unsafe fn call(number: u64, args: [u64; 3]) -> Result<i64, Errno> {
    let [a, b, c] = args;
    let value: i64;
    // SAFETY: the caller vouches for the call's effects, which to Rust are those of the assembly: it
    // may reach memory that was exposed. Xen keeps all registers but RAX, and may overwrite those of
    // the arguments.
    unsafe {
        if VMMCALL.load(Relaxed) {
            asm!("vmmcall", inlateout("rax") number => value, inlateout("rdi") a => _,
                inlateout("rsi") b => _, inlateout("rdx") c => _, options(nostack));
        } else {
            asm!("vmcall", inlateout("rax") number => value, inlateout("rdi") a => _,
                inlateout("rsi") b => _, inlateout("rdx") c => _, options(nostack));
        }
    }
    Errno::check(value)
}
