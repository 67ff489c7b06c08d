//! How a ring core's worker runs and sleeps, on a core of its own or in control's loop.

use core::fmt::Debug;
use core::iter;

use spindle_blkif::worker::{Next, Worker};
use spindle_block::DiskQueue;
use spindle_xen::event::{Deadline, Notify, Port};
use spindle_xen::grant::GrantOps;

use crate::hypervisor::Hypervisor;

/// A ring core's worker: see [`Worker`] for each of these.
pub trait CoreWorker {
    /// A disk's queue, or by default none.
    type Queue: Debug + Default;

    /// See [`Worker::turn`].
    fn turn(&mut self, now_ns: u64) -> Next;

    /// See [`Worker::ports`].
    fn ports(&self) -> impl Iterator<Item = Port>;

    /// See [`Worker::listen`].
    fn listen(&mut self) -> bool;

    /// See [`Worker::has_orders`].
    fn has_orders(&self) -> bool;
}

impl<Q: DiskQueue + Debug + Default, G: GrantOps, N: Notify> CoreWorker for Worker<Q, G, N> {
    type Queue = Q;

    fn turn(&mut self, now_ns: u64) -> Next {
        self.turn(now_ns)
    }

    fn ports(&self) -> impl Iterator<Item = Port> {
        self.ports()
    }

    fn listen(&mut self) -> bool {
        self.listen()
    }

    fn has_orders(&self) -> bool {
        self.has_orders()
    }
}

/// One poll iteration of a ring core that an event on `wake` wakes, and the sleep after it. False
/// once control has stopped the core.
pub fn run_core(worker: &mut impl CoreWorker, hypervisor: impl Hypervisor, wake: Port) -> bool {
    match worker.turn(hypervisor.now_ns()) {
        Next::Turn => {}
        Next::Rest(until) => {
            // The order that an event was for is found when the worker listens.
            hypervisor.take_pending(wake);
            rest(worker, hypervisor, wake, until);
        }
        Next::Nap(until) => {
            hypervisor.take_pending(wake);
            if !worker.has_orders() {
                nap(hypervisor, wake, until);
            }
        }
        Next::Stop => return false,
    }
    true
}

/// Sleeps until an event comes on `own`, or until the time given.
pub(crate) fn nap(hypervisor: impl Hypervisor, own: Port, until: Deadline) {
    // An error cannot be: the port is this domain's.
    let _ = hypervisor.sleep(iter::once(own), until);
}

/// Sleeps until an event comes for one of the worker's rings or on `own`, or until the time
/// given, unless there is something to do already. What has come on `own` is left for the caller
/// to take.
pub(crate) fn rest(
    worker: &mut impl CoreWorker,
    hypervisor: impl Hypervisor,
    own: Port,
    until: Deadline,
) {
    for port in worker.ports() {
        hypervisor.take_pending(port);
    }
    if worker.listen() {
        let ports = iter::once(own).chain(worker.ports());
        // An error means that a port just went away: look again.
        let _ = hypervisor.sleep(ports, until);
    }
}
