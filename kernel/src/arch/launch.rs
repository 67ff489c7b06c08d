//! The state in which a further core begins: 64-bit mode, on the page tables of all cores.

use core::arch::naked_asm;

use x86_64::registers::control::{Cr0, Cr4};
use x86_64::registers::model_specific::Efer;

use super::cpu;
use crate::mm::Stack;

/// Registers of a core about to begin; those not named here are 0, but for RFLAGS, where only the
/// bit that is always set is, and flat segments.
#[derive(Debug)]
pub(crate) struct Launch {
    /// First instruction.
    pub(crate) rip: u64,
    /// Stack pointer.
    pub(crate) rsp: u64,
    /// First argument.
    pub(crate) rdi: u64,
    /// Second argument.
    pub(crate) rsi: u64,
    /// The control registers, as on the core that runs this.
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    /// No-execute and long mode, as on the core that runs this.
    pub(crate) efer: u64,
}

impl Launch {
    /// A core that calls `begin` with `argument`, on `stack`.
    pub(crate) fn new(stack: Stack, begin: extern "C" fn(u64) -> !, argument: u64) -> Self {
        Self {
            rip: (enter as *const ()).addr() as u64,
            rsp: stack.leak_top(),
            rdi: argument,
            rsi: (begin as *const ()).addr() as u64,
            cr0: Cr0::read_raw(),
            cr3: cpu::root_table(),
            cr4: Cr4::read_raw(),
            efer: Efer::read_raw(),
        }
    }
}

/// Calls the function in RSI. The frame pointer of 0 ends every backtrace.
#[unsafe(naked)]
extern "C" fn enter() -> ! {
    naked_asm!("xor ebp, ebp", "call rsi", "ud2")
}
