//! One instruction of QEMU 7.2 that costs guests their lives is taken out of the rig's copy of it.
//!
//! When a hypervisor enters its guest with an interrupt to inject (`helper_vmrun`), QEMU delivers
//! the interrupt, but also leaves its number where the main loop looks for an exception to deliver.
//! Should another thread of QEMU kick the processor meanwhile without an interrupt of its own, as
//! its RCU thread does, the loop delivers the number again: at the first instruction of the guest's
//! handler, which has not yet switched to the kernel's GS base. Linux then ends in a double fault,
//! other guests in a triple one. `xtask/README.md` has what was seen.

/// The code that is looked for: a byte, or any byte. In C, `cs->exception_index = vector` stands
/// between what belongs to it: the vector taken from the event, `env->error_code = event_inj_err`
/// before it, `env->exception_is_int = 0` and `env->exception_next_eip = -1` after it. What may
/// be any byte is where the structures have these members.
#[rustfmt::skip]
const CODE: [Option<u8>; 38] = {
    const fn b(byte: u8) -> Option<u8> { Some(byte) }
    [
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
    ]
};

/// Where the instruction is in that code.
const STORE: usize = 11;
/// An instruction of its length that does nothing.
const NOP: [u8; 6] = [0x66, 0x0f, 0x1f, 0x44, 0, 0];

/// Takes the instruction out of a program, and says whether it was there, once.
pub(super) fn mend(program: &mut [u8]) -> bool {
    let is_code = |bytes: &[u8]| {
        let mut pairs = bytes.iter().zip(&CODE);
        pairs.all(|(byte, wanted)| wanted.is_none_or(|wanted| wanted == *byte))
    };
    let mut found = (0..program.len().saturating_sub(CODE.len() - 1))
        .filter(|&at| program[at] == 0x41 && is_code(&program[at..at + CODE.len()]));
    let (Some(at), None) = (found.next(), found.next()) else {
        return false;
    };
    program[at + STORE..at + STORE + NOP.len()].copy_from_slice(&NOP);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code as Debian 12's QEMU has it.
    const DEBIAN: &[u8; 38] = b"\x41\x0f\xb6\xf4\x44\x89\xab\x80\x33\0\0\x89\xb3\x54\xef\xff\xff\
        \xc7\x83\x84\x33\0\0\0\0\0\0\x48\xc7\x83\x88\x33\0\0\xff\xff\xff\xff";

    #[test]
    fn the_store_and_nothing_else_is_taken_out() {
        let mut program = [b"before", DEBIAN.as_slice(), b"after"].concat();
        let old = program.clone();
        assert!(mend(&mut program));
        let at = 6 + STORE;
        assert_eq!(program[at..at + 6], NOP);
        assert_eq!(program[..at], old[..at]);
        assert_eq!(program[at + 6..], old[at + 6..]);
        // There is none left.
        assert!(!mend(&mut program));
    }

    #[test]
    fn a_program_that_differs_or_has_it_twice_stays_as_it_is() {
        let mut other = *DEBIAN;
        other[STORE + 1] = 0xb2;
        for program in [other.to_vec(), [*DEBIAN, *DEBIAN].concat(), Vec::new()] {
            let mut same = program.clone();
            assert!(!mend(&mut same));
            assert_eq!(same, program);
        }
        // Cut off at its end.
        assert!(!mend(&mut { *DEBIAN }[..37]));
    }
}
