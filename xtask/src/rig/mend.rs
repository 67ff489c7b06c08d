//! Two instructions of QEMU 7.2 that cost guests their lives are taken out of the rig's copy of it.
//!
//! Both are small faults of the emulated processor that only a hypervisor with busy guests meets.
//! `xtask/README.md` has what was seen with them and without.

/// An instruction that is to go, and the code around it by which it is found.
struct Fault {
    /// What the code does, for a message.
    name: &'static str,
    /// The code: a byte, or any byte where the structures have their members.
    code: &'static [Option<u8>],
    /// Where the instruction is in that code.
    at: usize,
    /// An instruction of the same length that does nothing.
    instead: &'static [u8],
}

const FAULTS: [Fault; 2] = [INJECTED_TWICE, FLAGS_OF_ANOTHER];

/// When a hypervisor enters its guest with an interrupt to inject (`helper_vmrun`), QEMU delivers
/// the interrupt, but also leaves its number where the main loop looks for an exception to deliver.
/// Should another thread of QEMU kick the processor meanwhile without an interrupt of its own, as
/// its RCU thread does, the loop delivers the number again: at the first instruction of the guest's
/// handler, which has not yet switched to the kernel's GS base. Linux then ends in a double fault,
/// other guests in a triple one.
///
/// In C, `cs->exception_index = vector` stands between what belongs to it: the vector taken from
/// the event, `env->error_code = event_inj_err` before it, `env->exception_is_int = 0` and
/// `env->exception_next_eip = -1` after it.
#[rustfmt::skip]
const INJECTED_TWICE: Fault = Fault {
    name: "an interrupt delivered twice",
    code: &[
        // movzbl %r12b, %esi
        b(0x41), b(0x0f), b(0xb6), b(0xf4),
        // mov %r13d, error_code(%rbx)
        b(0x44), b(0x89), b(0xab), None, None, b(0), b(0),
        // mov %esi, exception_index(%rbx)
        b(0x89), b(0xb3), None, None, b(0xff), b(0xff),
        // movl $0, exception_is_int(%rbx)
        b(0xc7), b(0x83), None, None, b(0), b(0), b(0), b(0), b(0), b(0),
        // movq $-1, exception_next_eip(%rbx)
        b(0x48), b(0xc7), b(0x83), None, None, b(0), b(0), b(0xff), b(0xff), b(0xff), b(0xff),
    ],
    at: 11,
    instead: &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
};

/// Each processor that loads a floating-point state clears a flag of the **first** processor
/// (`cpu_clear_ignne`: an error line of the PC/AT that no hypervisor uses), in the word that also
/// says whether that one takes interrupts and whether nested page tables are on (`hflags2`),
/// without a lock. A change that the first processor makes meanwhile is undone: nested paging stays
/// off in a guest, or on in the hypervisor, or interrupts stay off.
///
/// In C, `env->hflags2 &= ~HF2_IGNNE_MASK`, and the function's end. The flag stays set once
/// somebody has written to port F0h, which is for machines of that time.
#[rustfmt::skip]
const FLAGS_OF_ANOTHER: Fault = Fault {
    name: "flags of the first processor changed by others",
    code: &[
        // andl $~0x80, hflags2(%rax)
        b(0x81), b(0xa0), None, None, b(0), b(0), b(0x7f), b(0xff), b(0xff), b(0xff),
        // add $8, %rsp; ret
        b(0x48), b(0x83), b(0xc4), b(0x08), b(0xc3),
    ],
    at: 0,
    instead: &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
};

const fn b(byte: u8) -> Option<u8> {
    Some(byte)
}

/// Takes the instructions out of a program, and returns what was not found there exactly once.
pub(super) fn mend(program: &mut [u8]) -> Vec<&'static str> {
    let left = FAULTS.iter().filter(|fault| !fault.mend(program));
    left.map(|fault| fault.name).collect()
}

impl Fault {
    /// Takes the instruction out, if its code is there once; returns whether it was.
    fn mend(&self, program: &mut [u8]) -> bool {
        let is_code = |bytes: &[u8]| {
            let mut pairs = bytes.iter().zip(self.code);
            pairs.all(|(byte, wanted)| wanted.is_none_or(|wanted| wanted == *byte))
        };
        let first = self.code[0];
        let mut found = (0..program.len().saturating_sub(self.code.len() - 1)).filter(|&at| {
            first == Some(program[at]) && is_code(&program[at..at + self.code.len()])
        });
        let (Some(at), None) = (found.next(), found.next()) else {
            return false;
        };
        let at = at + self.at;
        program[at..at + self.instead.len()].copy_from_slice(self.instead);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes as Debian 12's QEMU has them.
    const DEBIAN: [&[u8]; 2] = [
        b"\x41\x0f\xb6\xf4\x44\x89\xab\x80\x33\0\0\x89\xb3\x54\xef\xff\xff\
        \xc7\x83\x84\x33\0\0\0\0\0\0\x48\xc7\x83\x88\x33\0\0\xff\xff\xff\xff",
        b"\x81\xa0\x64\x14\0\0\x7f\xff\xff\xff\x48\x83\xc4\x08\xc3",
    ];

    #[test]
    fn the_instructions_and_nothing_else_are_taken_out() {
        let mut program = [
            b"before".as_slice(),
            DEBIAN[0],
            b"between",
            DEBIAN[1],
            b"after",
        ]
        .concat();
        let mut wanted = program.clone();
        let second = 6 + DEBIAN[0].len() + 7;
        wanted[6 + 11..][..6].copy_from_slice(&[0x66, 0x0f, 0x1f, 0x44, 0, 0]);
        wanted[second..][..10].copy_from_slice(&[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]);
        assert_eq!(mend(&mut program), [""; 0]);
        assert_eq!(program, wanted);
        // There is none left.
        assert_eq!(mend(&mut program), FAULTS.map(|fault| fault.name));
        assert_eq!(program, wanted);
    }

    #[test]
    fn a_program_that_differs_or_has_it_twice_stays_as_it_is() {
        for (fault, code) in FAULTS.iter().zip(DEBIAN) {
            let mut other = code.to_vec();
            other[fault.at + 1] ^= 1;
            let short = code[..code.len() - 1].to_vec();
            for program in [other, [code, code].concat(), short, Vec::new()] {
                let mut same = program.clone();
                assert!(!fault.mend(&mut same), "{}", fault.name);
                assert_eq!(same, program);
            }
        }
    }
}
