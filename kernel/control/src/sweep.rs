//! What a former life of the kernel has left in Xen's hands: event channels are closed and grants
//! unmapped, before anything is bound or mapped anew. A port that is bound keeps its frontend's end
//! from being bound again, and a grant that is mapped over a mapping would end the domain.

use alloc::vec::Vec;

use log::{error, info};
use spindle_kept::Mappings;
use spindle_xen::grant::{GrantOps as _, Status, UnmapOp};

use crate::hypervisor::Hypervisor;

/// Operations in one call: few enough that the hypervisor is not kept for long.
const CALL: usize = 256;

/// Undoes all of it. What cannot be unmapped costs its frame.
pub(crate) fn sweep(hypervisor: impl Hypervisor, mappings: Mappings) {
    hypervisor.close_former();
    let known: Vec<_> = mappings.mapped().collect();
    let under_way = mappings.under_way();
    for part in known.chunks(CALL) {
        let mut ops: Vec<_> = part
            .iter()
            .map(|&(handle, at)| UnmapOp::new(handle, at))
            .collect();
        let call = hypervisor.grants().unmap(&mut ops);
        for op in ops.iter().filter(|op| !is_free(op.status)) {
            let (at, status) = (op.host_addr, op.status.0);
            error!("the grant at {at:#x} cannot be unmapped: status {status}, {call:?}");
            hypervisor.give_up_frame(at);
        }
    }
    if !under_way.is_empty() {
        let handles = mappings.unknown();
        for &at in &under_way {
            let found = handles
                .chunks(CALL)
                .any(|part| try_all(hypervisor, part, at));
            if found {
                info!("a grant at {at:#x} was being mapped when the last life ended");
            }
        }
    }
    info!("{} grants of the last life unmapped", known.len());
    mappings.clear();
}

/// Whether nothing is mapped where that was asked for: it was unmapped, or before already. The handle
/// may be that of another mapping by then.
fn is_free(status: Status) -> bool {
    let before = [
        Status::BAD_HANDLE,
        Status::BAD_VIRT_ADDR,
        Status::GENERAL_ERROR,
    ];
    status.is_ok() || before.contains(&status)
}

/// Unmaps what is mapped at `at` if one of these handles is that of it; true if one was.
fn try_all(hypervisor: impl Hypervisor, handles: &[u32], at: u64) -> bool {
    let mut ops: Vec<_> = handles
        .iter()
        .map(|&handle| UnmapOp::new(handle, at))
        .collect();
    // What the call did not reach reads as failed.
    let _ = hypervisor.grants().unmap(&mut ops);
    ops.iter().any(|op| op.status.is_ok())
}
