//! Exceptions: none is expected, so each ends this life of the kernel, after a full report. So does
//! a non-maskable interrupt that an operator sends.

use core::fmt;

use spindle_kept::death::DeathCause;

use super::{cpu, idt};
use crate::restart;

/// The stack as the entry stubs leave it.
#[repr(C)]
pub(super) struct Frame {
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rbp: u64,
    rsi: u64,
    rdi: u64,
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}
const _: () = assert!(size_of::<Frame>() == 22 * 8);

const NAMES: [&str; 32] = [
    "divide error",
    "debug",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "no coprocessor",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "reserved",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualization",
    "control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "hypervisor injection",
    "VMM communication",
    "security",
    "reserved",
];

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.get(self.vector as usize).unwrap_or(&"unknown");
        writeln!(
            f,
            "EXCEPTION on core {}: {name} (vector {}, error {:#x}) at rip {:#x}, cr2 {:#x}",
            cpu::number(),
            self.vector,
            self.error,
            self.rip,
            cpu::fault_address()
        )?;
        let rows = [
            [
                ("rax", self.rax),
                ("rbx", self.rbx),
                ("rcx", self.rcx),
                ("rdx", self.rdx),
            ],
            [
                ("rsi", self.rsi),
                ("rdi", self.rdi),
                ("rbp", self.rbp),
                ("rsp", self.rsp),
            ],
            [
                ("r8 ", self.r8),
                ("r9 ", self.r9),
                ("r10", self.r10),
                ("r11", self.r11),
            ],
            [
                ("r12", self.r12),
                ("r13", self.r13),
                ("r14", self.r14),
                ("r15", self.r15),
            ],
            [
                ("cs ", self.cs),
                ("ss ", self.ss),
                ("flg", self.rflags),
                ("cr3", cpu::root_table()),
            ],
        ];
        for row in rows {
            for (name, value) in row {
                write!(f, "  {name} {value:016x}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Called by the stubs; the stack pointer they pass is a frame. Returns from an interrupt that came too
/// late.
pub(super) extern "C" fn handle(frame: &Frame) {
    let cause = if frame.vector == idt::NMI as u64 {
        if !restart::is_asked_for(frame.rip, frame.rbp) {
            return;
        }
        DeathCause::NMI
    } else {
        DeathCause::EXCEPTION
    };
    crate::panic::die(cause, format_args!("{frame}"), frame.rip, frame.rbp)
}
