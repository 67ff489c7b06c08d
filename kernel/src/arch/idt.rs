//! The interrupt descriptor table: exceptions only, since nothing here uses interrupts.

// UNSAFETY: naked entry stubs, and loading the table.
#![expect(unsafe_code)]

use core::arch::naked_asm;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::registers::segmentation::Segment;
use x86_64::structures::DescriptorTablePointer;

use super::trap;

/// Vectors that the architecture reserves for exceptions.
const EXCEPTIONS: usize = 32;
/// Bytes between two stubs.
const STUB_SIZE: usize = 16;
/// Exception stacks that each core has: one each for the vectors below.
pub(super) const EXCEPTION_STACKS: usize = 3;
pub(super) const NMI: usize = 2;
const DOUBLE_FAULT: usize = 8;
const MACHINE_CHECK: usize = 18;

/// A 64-bit interrupt gate (AMD APM vol. 2 §4.8.4).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    attributes: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<Gate>() == 16);

impl Gate {
    fn new(vector: usize) -> Self {
        const PRESENT_INTERRUPT_GATE: u8 = 0x8e;
        let handler = (stubs as *const ()).addr() + vector * STUB_SIZE;
        Self {
            offset_low: handler as u16,
            selector: x86_64::instructions::segmentation::CS::get_reg().0,
            stack: match vector {
                NMI => 1,
                DOUBLE_FAULT => 2,
                MACHINE_CHECK => 3,
                _ => 0,
            },
            attributes: PRESENT_INTERRUPT_GATE,
            offset_middle: (handler >> 16) as u16,
            offset_high: (handler >> 32) as u32,
            reserved: 0,
        }
    }
}

static TABLE: Once<[Gate; EXCEPTIONS]> = Once::new();

/// Loads the table, which all cores share. The core's GDT must be loaded before.
pub(super) fn load() {
    let table = TABLE.call_once(|| core::array::from_fn(Gate::new));
    let pointer = DescriptorTablePointer {
        limit: (size_of_val(table) - 1) as u16,
        base: VirtAddr::from_ptr(table),
    };
    // SAFETY: the table is never dropped, and each gate leads to a stub that does not return, or
    // returns with all registers as they were.
    unsafe { lidt(&pointer) };
}

/// One stub per vector, `STUB_SIZE` bytes apart. Each leaves the stack as [`trap::Frame`] has it:
/// where the processor pushes no error code, the stub pushes 0.
#[unsafe(naked)]
extern "C" fn stubs() {
    naked_asm!(
        ".balign 16",
        ".irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        ".balign 16",
        ".if ((0x60227d00 >> \\vector) & 1) == 0",
        "push 0",
        ".endif",
        "push \\vector",
        "jmp {common}",
        ".endr",
        common = sym common,
    );
}

/// Saves the registers, hands the frame over, and goes on where the core was if that returns.
#[unsafe(naked)]
extern "C" fn common() {
    naked_asm!(
        "push r15", "push r14", "push r13", "push r12", "push r11", "push r10", "push r9",
        "push r8", "push rdi", "push rsi", "push rbp", "push rdx", "push rcx", "push rbx",
        "push rax",
        "cld",
        "mov rdi, rsp",
        "call {handle}",
        "pop rax", "pop rbx", "pop rcx", "pop rdx", "pop rbp", "pop rsi", "pop rdi", "pop r8",
        "pop r9", "pop r10", "pop r11", "pop r12", "pop r13", "pop r14", "pop r15",
        "add rsp, 16",
        "iretq",
        handle = sym trap::handle,
    );
}
