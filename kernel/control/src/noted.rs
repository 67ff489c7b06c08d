//! Grant operations that note in kept memory what is mapped, so that the next life of the kernel can
//! unmap it.

use spindle_kept::{MOST_IN_CALL, Mappings};
use spindle_xen::Errno;
use spindle_xen::grant::{CopyOp, GrantOps, MapOp, Status, UnmapOp};

/// The grant operations of one vCPU, noted.
#[derive(Clone, Copy, Debug)]
pub struct NotedGrants<G> {
    grants: G,
    mappings: Mappings,
    caller: usize,
}

impl<G> NotedGrants<G> {
    /// Notes in `mappings` what vCPU number `caller` maps by `grants`.
    pub const fn new(grants: G, mappings: Mappings, caller: usize) -> Self {
        Self {
            grants,
            mappings,
            caller,
        }
    }
}

impl<G: GrantOps> GrantOps for NotedGrants<G> {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        for part in ops.chunks_mut(MOST_IN_CALL) {
            let addresses = part.iter().map(|op| op.host_addr);
            if !self.mappings.begin(self.caller, addresses) {
                return Err(Errno::ENOSPC);
            }
            let result = self.grants.map(part);
            for op in part.iter_mut().filter(|op| op.status.is_ok()) {
                if !self.mappings.note(op.handle, op.host_addr) {
                    // More are mapped than can be noted: rather none than one that is never unmapped.
                    let mut undo = [UnmapOp::new(op.handle, op.host_addr)];
                    let _ = self.grants.unmap(&mut undo);
                    op.status = Status::GENERAL_ERROR;
                }
            }
            self.mappings.end(self.caller);
            result?;
        }
        Ok(())
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        let result = self.grants.unmap(ops);
        for op in ops.iter().filter(|op| op.status.is_ok()) {
            self.mappings.forget(op.handle, op.host_addr);
        }
        result
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        self.grants.copy(ops)
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        self.grants.read(at, words)
    }
}

/// Grant operations that belong to someone else.
#[derive(Debug)]
pub(crate) struct Borrowed<'a, G>(pub(crate) &'a G);

impl<G: GrantOps> GrantOps for Borrowed<'_, G> {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        self.0.map(ops)
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        self.0.unmap(ops)
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        self.0.copy(ops)
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        self.0.read(at, words)
    }
}
