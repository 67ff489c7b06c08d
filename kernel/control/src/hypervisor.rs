//! What control needs of the hypervisor, of memory and of the clock.

use alloc::format;
use alloc::string::String;

use spindle_hw::SharedPages;
use spindle_xen::event::{Deadline, Port};
use spindle_xen::grant::GrantOps;
use spindle_xen::{DomId, Errno};

/// Bytes of heap that rings and their cores leave to control: for xenstore, which may send it a few
/// hundred KiB at once, and for its records of devices.
pub const CONTROLS_SHARE: usize = 1 << 20;

/// How far an order to update has come.
#[derive(Debug)]
pub enum UpdateStep {
    /// It is over: the answer.
    Answered(String),
    /// The image could follow, and nothing else was asked: the answer, to which is added what would be
    /// kept.
    Fits(String),
    /// The image is to follow.
    Planned,
}

/// A virtual CPU's access to the hypervisor, to memory and to its own clock.
pub trait Hypervisor: Copy {
    /// Its grant operations.
    type Grants: GrantOps;

    /// Grant operations.
    fn grants(&self) -> &Self::Grants;

    /// Nanoseconds on the clock that [`Hypervisor::sleep`] is timed by.
    fn now_ns(&self) -> u64;

    /// Binds a new local port to `port` of the domain `remote`.
    ///
    /// # Errors
    /// Xen's: EINVAL if there is no such port that this domain may bind to.
    fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno>;

    /// Closes a local port and discards its pending event.
    ///
    /// # Errors
    /// Xen's: EINVAL if the port is not this domain's.
    fn close(&self, port: Port) -> Result<(), Errno>;

    /// Notifies the other end of `port`.
    fn notify(&self, port: Port);

    /// Whether an event is pending on `port`, which is cleared.
    fn take_pending(&self, port: Port) -> bool;

    /// Sleeps until an event is pending on one of `ports`, or until the time given. It may return
    /// early, for no reason.
    ///
    /// # Errors
    /// Xen's: EINVAL for a port that is not this domain's.
    fn sleep(&self, ports: impl Iterator<Item = Port>, until: Deadline) -> Result<(), Errno>;

    /// Lets other virtual CPUs run.
    fn yield_now(&self);

    /// A run of `pages` guest frames without memory, at which grants can be mapped; `None` if there
    /// is no such run.
    fn alloc_frames(&self, pages: usize) -> Option<SharedPages>;

    /// Takes frames back, at which nothing may be mapped any more.
    fn free_frames(&self, pages: &SharedPages);

    /// Carries out a drill, as an operator has written it, or says that it is none.
    fn drill(&self, order: &[u8]) {
        log::warn!("no such drill: {:?}", order.escape_ascii());
    }

    /// Takes another image of the kernel in and checks it, as an operator has ordered. Nothing follows
    /// from that before [`crate::LifeEnd::Update`].
    fn update(&self, order: &[u8]) -> UpdateStep {
        UpdateStep::Answered(format!("cannot be updated: {}", order.escape_ascii()))
    }

    /// Closes every event channel that a former life of the kernel has bound to a frontend.
    fn close_former(&self);

    /// Whether [`Hypervisor::alloc_frames`] may give the frame with this bus address.
    fn may_map_at(&self, bus: u64) -> bool;

    /// Something may still be mapped at the frame with this bus address, and cannot be unmapped:
    /// [`Hypervisor::alloc_frames`] is not to give it.
    fn give_up_frame(&self, bus: u64);

    /// Bytes of heap that are free, not necessarily in one block.
    fn heap_free(&self) -> usize;
}
