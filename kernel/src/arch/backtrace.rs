//! Return addresses, by following the frame pointers that the build keeps.

// UNSAFETY: reads stacks through raw pointers after checking that they are mapped.
#![expect(unsafe_code)]

use core::fmt::{self, Write};
use core::ptr;

use xen_pvh_boot::{IdentityTables, PageTables};

use super::cpu;

/// Frames that are shown.
const DEPTH: usize = 24;

/// Writes `rip` and the return addresses above the frame at `frame` as one line, for
/// `addr2line` over the image with symbols.
pub(crate) fn write(out: &mut impl Write, rip: u64, mut frame: u64) -> fmt::Result {
    // SAFETY: nothing is mapped or unmapped here; the root is the one in use, and all tables are
    // in identity-mapped memory.
    let tables = unsafe { PageTables::from_root(cpu::root_table(), IdentityTables::new(|| None)) };
    write!(out, "backtrace: {rip:#x}")?;
    for _ in 0..DEPTH {
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
        write!(out, " {back:#x}")?;
        // Stacks grow down: a frame further up is at a higher address.
        if next <= frame {
            break;
        }
        frame = next;
    }
    writeln!(out)
}
