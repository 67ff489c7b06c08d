//! Sleeping and the end (`public/sched.h`).

// UNSAFETY: hypercalls.
#![expect(unsafe_code)]

use spindle_xen::Errno;
use spindle_xen::event::{Deadline, Port};

use super::hypercall::{self, SCHED_OP};
use crate::arch::cpu;

const YIELD: u64 = 0;
const SHUTDOWN: u64 = 2;
const POLL: u64 = 3;

/// Ports that one [`poll`] can wait for.
pub(crate) const POLL_MAX: usize = 128;

/// `SHUTDOWN_*`: why the domain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Reason {
    /// All is done.
    PowerOff = 0,
    /// Start again.
    Reboot = 1,
    /// Something is wrong with us.
    Crash = 3,
}

/// Sleeps until an event is pending on one of `ports`, or until `deadline` of system time, for which
/// Xen arms a timer on the CPU that the vCPU is on. Returns at once if one is pending already: take it first. May return early.
///
/// It does not matter which vCPU a port is bound to. A vCPU asleep on one port is woken by that
/// one alone; asleep on several, by every event of the domain.
///
/// # Errors
/// Xen's: EINVAL for more than [`POLL_MAX`] ports or a port that is not ours.
pub(crate) fn poll(ports: &[Port], deadline: Deadline) -> Result<(), Errno> {
    /// `struct sched_poll`.
    #[repr(C)]
    struct Poll {
        ports: *const Port,
        count: u32,
        pad: u32,
        timeout: u64,
    }
    const _: () = assert!(size_of::<Port>() == 4);
    let count = u32::try_from(ports.len()).map_err(|_| Errno::EINVAL)?;
    let poll = Poll {
        ports: ports.as_ptr(),
        count,
        pad: 0,
        timeout: deadline.ns(),
    };
    // SAFETY: Xen reads `poll` and the `count` ports, both of which outlive the call.
    unsafe { hypercall::call(SCHED_OP, [POLL, hypercall::address(&raw const poll), 0]) }.map(drop)
}

/// Lets other vCPUs run.
pub(crate) fn yield_now() {
    // SAFETY: takes no memory. It cannot fail.
    let _ = unsafe { hypercall::call(SCHED_OP, [YIELD, 0, 0]) };
}

/// Ends the domain.
pub(crate) fn shutdown(reason: Reason) -> ! {
    let reason = reason as u32;
    let args = [SHUTDOWN, hypercall::address(&raw const reason), 0];
    // SAFETY: Xen reads one word, which outlives the call.
    let _ = unsafe { hypercall::call(SCHED_OP, args) };
    cpu::halt()
}
