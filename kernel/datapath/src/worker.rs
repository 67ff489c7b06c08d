//! A ring core's worker.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Next, Worker};
use spindle_blkif::{Counted, RingCore};
use spindle_control::CoreWorker;
use spindle_xen::event::{Notify, Port};
use spindle_xen::grant::GrantOps;

use crate::Queue;

/// The hypervisor's grant operations: one call for a batch, beside which an indirect one is nothing.
pub type Grants = Box<dyn GrantOps + Send>;

/// The hypervisor's events, one for each ring and visit at most.
pub type Events = Box<dyn Notify + Send>;

/// A ring core.
pub type Core = RingCore<Queue, Counted<Grants>, Events>;

/// A ring core and its link to control.
pub struct RingWorker(Worker<Queue, Counted<Grants>, Events>);

impl fmt::Debug for RingWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingWorker").finish_non_exhaustive()
    }
}

impl RingWorker {
    /// See [`Worker::new`].
    #[must_use]
    pub fn new(core: Core, link: Arc<Link<Queue>>, poll: PollTime, stats: Arc<CoreStats>) -> Self {
        Self(Worker::new(core, link, poll, stats))
    }
}

impl CoreWorker for RingWorker {
    type Queue = Queue;

    #[inline(never)]
    fn turn(&mut self, now_ns: u64) -> Next {
        self.0.turn(now_ns)
    }

    fn ports(&self) -> impl Iterator<Item = Port> {
        self.0.ports()
    }

    #[inline(never)]
    fn listen(&mut self) -> bool {
        self.0.listen()
    }

    fn has_orders(&self) -> bool {
        self.0.has_orders()
    }
}
