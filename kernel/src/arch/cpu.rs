//! Single instructions as functions.

// UNSAFETY: these instructions can only be had by inline assembly or intrinsics.
#![expect(unsafe_code)]

use core::arch::asm;
use core::arch::x86_64::{__cpuid, _rdtsc};

use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

/// The time stamp counter.
#[inline]
pub(crate) fn tsc() -> u64 {
    // SAFETY: RDTSC exists on every 64-bit processor and only reads a counter.
    unsafe { _rdtsc() }
}

/// Raises the exception of an instruction that there is not.
pub(crate) fn undefined_instruction() -> ! {
    // SAFETY: leads to the exception's handler, which does not return.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// Stops this core for good. Under Xen it goes down, and the domain ends with its last core.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off, the core just stays here.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// This core's number, 0 for the boot core; right wherever a core may die.
pub(crate) fn number() -> usize {
    GsBase::read().as_u64() as usize
}

/// Numbers this core. Nothing is addressed through GS, so that its base can hold the number
/// itself: 0 until it is set, as it is on the boot core.
pub(super) fn set_number(number: u32) {
    GsBase::write(VirtAddr::new(number.into()));
}

/// The faulting address of the last page fault.
pub(crate) fn fault_address() -> u64 {
    let value;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Physical address of the root page table.
pub(crate) fn root_table() -> u64 {
    let value: u64;
    // SAFETY: reading CR3 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value & !0xfff
}

/// The caller's frame pointer.
#[inline(always)]
pub(crate) fn frame_pointer() -> u64 {
    let value;
    // SAFETY: copying RBP has no effect.
    unsafe { asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The vendor, as CPUID leaf 0 spells it.
pub(crate) fn vendor() -> [u8; 12] {
    let leaf = __cpuid(0);
    let mut name = [0; 12];
    for (to, from) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    name
}

/// Bits of a physical address.
pub(crate) fn physical_bits() -> u32 {
    const LEAF: u32 = 0x8000_0008;
    if __cpuid(0x8000_0000).eax < LEAF {
        return 36;
    }
    (__cpuid(LEAF).eax & 0xff).clamp(36, 52)
}
