//! Grant table operations (`public/grant_table.h`), each one hypercall over a batch.

// UNSAFETY: hypercalls that map memory and copy into it.
#![expect(unsafe_code)]

use spindle_hw::IdentityMap;
use spindle_xen::Errno;
use spindle_xen::grant::{CopyOp, GrantOps, MapOp, UnmapOp};

use super::hypercall::{self, GRANT_TABLE_OP};

const MAP_GRANT_REF: u64 = 0;
const UNMAP_GRANT_REF: u64 = 1;
const COPY: u64 = 5;

/// Grant operations by hypercall.
///
/// The operations name memory of ours by number. That this is sound rests on where the numbers
/// come from: [`crate::mm::GrantWindow`] for maps, [`crate::mm::Dma`] for copies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grants {
    /// Where grants are mapped, for reading there.
    memory: Option<IdentityMap>,
}

impl Grants {
    pub(super) const fn new() -> Self {
        Self { memory: None }
    }

    /// The same, with access to what is mapped.
    pub(crate) const fn reading(self, memory: IdentityMap) -> Self {
        let memory = Some(memory);
        Self { memory }
    }
}

fn batch<T>(number: u64, ops: &mut [T]) -> Result<(), Errno> {
    if ops.is_empty() {
        return Ok(());
    }
    let address = hypercall::address(ops.as_mut_ptr());
    let args = [number, address, ops.len() as u64];
    // SAFETY: Xen reads and writes the `len` operations, which outlive the call; what they make
    // it change is memory that only `SharedPages` cover (see `Grants`).
    unsafe { hypercall::call(GRANT_TABLE_OP, args) }.map(drop)
}

impl GrantOps for Grants {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        batch(MAP_GRANT_REF, ops)
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        batch(UNMAP_GRANT_REF, ops)
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        batch(COPY, ops)
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        self.memory
            .is_some_and(|memory| memory.read_words(at, words))
    }
}
