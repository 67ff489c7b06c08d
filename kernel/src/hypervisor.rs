//! The hypervisor as control is given it.

use spindle_control::{Hypervisor, UpdateStep};
use spindle_hw::{Clock, SharedPages};
use spindle_xen::event::{Deadline, Notify, Port};
use spindle_xen::{DomId, Errno};

use crate::mm::{self, GrantWindow};
use crate::restart;
use crate::xen::{Events, Grants, sched, time::CoreClock};

/// Xen, for one vCPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XenCpu {
    pub(crate) grants: Grants,
    pub(crate) events: Events,
    /// Where grants are mapped.
    pub(crate) window: GrantWindow,
    /// The vCPU's own.
    pub(crate) clock: &'static CoreClock,
}

impl Hypervisor for XenCpu {
    type Grants = Grants;

    fn grants(&self) -> &Grants {
        &self.grants
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno> {
        self.events.bind_interdomain(remote, port)
    }

    fn close(&self, port: Port) -> Result<(), Errno> {
        self.events.close(port)
    }

    fn notify(&self, port: Port) {
        self.events.notify(port);
    }

    fn take_pending(&self, port: Port) -> bool {
        self.events.take_pending(port)
    }

    fn sleep(&self, ports: impl Iterator<Item = Port>, until: Deadline) -> Result<(), Errno> {
        self.events.sleep(ports, until, self.clock)
    }

    fn yield_now(&self) {
        sched::yield_now();
    }

    fn alloc_frames(&self, pages: usize) -> Option<SharedPages> {
        self.window.alloc(pages)
    }

    fn free_frames(&self, pages: &SharedPages) {
        self.window.free(pages);
    }

    // They are closed before the ring cores bind theirs.
    fn close_former(&self) {}

    fn may_map_at(&self, bus: u64) -> bool {
        self.window.has(bus)
    }

    fn give_up_frame(&self, bus: u64) {
        self.window.give_up(bus);
    }

    fn drill(&self, order: &[u8]) {
        restart::order(order);
    }

    fn update(&self, order: &[u8]) -> UpdateStep {
        restart::update(order, &self.grants)
    }

    fn heap_free(&self) -> usize {
        mm::heap_free()
    }
}
