//! Return addresses, by following the frame pointers that the build keeps.

// UNSAFETY: reads stacks through raw pointers after checking that they are mapped.
#![expect(unsafe_code)]

use core::fmt::{self, Write};
use core::ptr;

use spindle_kept::death::TRACE_MAX;
use xen_pvh_boot::{IdentityTables, PageTables};

use super::cpu;

/// Addresses, innermost first.
pub(crate) type Trace = heapless::Vec<u64, TRACE_MAX>;

/// Writes a trace as one line, for `addr2line` over the image with symbols.
pub(crate) fn write(out: &mut impl Write, trace: &Trace) -> fmt::Result {
    write!(out, "backtrace:")?;
    trace.iter().try_for_each(|at| write!(out, " {at:#x}"))?;
    writeln!(out)
}

/// `rip` and the return addresses above the frame at `frame`.
pub(crate) fn trace(rip: u64, mut frame: u64) -> Trace {
    // SAFETY: nothing is mapped or unmapped here; the root is the one in use, and all tables are
    // in identity-mapped memory.
    let tables = unsafe { PageTables::from_root(cpu::root_table(), IdentityTables::new(|| None)) };
    let mut trace = Trace::new();
    // There is room: the loop ends before there is none.
    let _ = trace.push(rip);
    while !trace.is_full() {
        let readable = |at: u64| at.is_multiple_of(8) && tables.is_mapped(at);
        let Some(above) = frame.checked_add(8) else {
            break;
        };
        if frame == 0 || !readable(frame) || !readable(above) {
            break;
        }
        // SAFETY: both words are aligned and mapped.
        let (next, back) = unsafe {
            (
                ptr::with_exposed_provenance::<u64>(frame as usize).read_volatile(),
                ptr::with_exposed_provenance::<u64>(above as usize).read_volatile(),
            )
        };
        if back == 0 {
            break;
        }
        let _ = trace.push(back);
        // Stacks grow down: a frame further up is at a higher address.
        if next <= frame {
            break;
        }
        frame = next;
    }
    trace
}
