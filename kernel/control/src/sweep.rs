//! What a former life of the kernel has left in Xen's hands: event channels are closed and grants
//! unmapped, before anything is bound or mapped anew. A port that is bound keeps its frontend's end
//! from being bound again, and a grant that is mapped over a mapping would end the domain.

use alloc::vec::Vec;

use log::{error, info};
use spindle_kept::Mappings;
use spindle_kept::layout::HANDLES;
use spindle_xen::grant::{GrantOps as _, Status, UnmapOp};

use crate::hypervisor::Hypervisor;

/// Operations in one call: few enough that the hypervisor is not kept for long.
const CALL: usize = 256;

/// What there is.
#[derive(Debug)]
pub(crate) struct Leftovers {
    mappings: Mappings,
    /// What is mapped: handle and address.
    known: Vec<(u32, u64)>,
    /// What may be, by handles that are not known.
    under_way: Vec<u64>,
}

impl Leftovers {
    /// Closes the event channels, and looks what is mapped. Nothing has been mapped by this life.
    pub(crate) fn find(hypervisor: impl Hypervisor, mappings: Mappings) -> Self {
        hypervisor.close_former();
        let under_way = mappings.under_way();
        if under_way.is_empty() {
            // All that calls have mapped is noted. Later this would meet the calls of this life.
            mappings.clear_calls();
        }
        Self {
            mappings,
            known: mappings.mapped().collect(),
            under_way,
        }
    }

    /// Whether this life may map before all of it is undone: nothing of that lies where it would map, is
    /// unknown, or takes too much of the room in which mappings are noted.
    pub(crate) fn may_wait(&self, hypervisor: impl Hypervisor) -> bool {
        let may_reuse = |&(_, at): &(_, u64)| hypervisor.may_map_at(at);
        self.known.len() <= HANDLES / 4
            && self.under_way.is_empty()
            && !self.known.iter().any(may_reuse)
    }

    /// Undoes all of it, with a `pause` after each call. What cannot be unmapped costs its frame.
    pub(crate) fn sweep(self, hypervisor: impl Hypervisor, mut pause: impl FnMut()) {
        let Self {
            mappings,
            known,
            under_way,
        } = self;
        // Handles of this domain follow each other: as long as all of the others are noted.
        let handles = if under_way.is_empty() {
            Vec::new()
        } else {
            mappings.unknown()
        };
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
            part.iter()
                .for_each(|&(handle, at)| mappings.forget(handle, at));
            pause();
        }
        if !under_way.is_empty() {
            for &at in &under_way {
                let found = handles
                    .chunks(CALL)
                    .any(|part| try_all(hypervisor, part, at));
                if found {
                    info!("a grant at {at:#x} was being mapped when the last life ended");
                }
            }
            mappings.clear_calls();
        }
        info!("{} grants of the last life unmapped", known.len());
    }
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
