//! Turns in which nothing has come from outside since a visit that found nothing: such a turn costs a
//! few loads, and no visit.
//!
//! After a visit that served no ring and left nothing to be carried on, only this can give the next one
//! anything to do: a request, a barrier of another ring, a completion, an order of control, or the
//! time. The first three are looked for here and orders by the worker. What depends on the time alone
//! is at least as coarse as [`super::visit::TELL_NS`], after which there is a visit in any case.

use spindle_block::DiskQueue;
use spindle_xen::event::Notify;
use spindle_xen::grant::GrantOps;

use super::RingCore;
use super::visit::TELL_NS;

impl<Q: DiskQueue, G: GrantOps, N: Notify> RingCore<Q, G, N> {
    /// Until when [`RingCore::is_quiet`] says all, after a visit that found nothing to do: a time in
    /// the past if it does not.
    #[inline]
    pub(crate) fn quiet_until(&self) -> u64 {
        // A ring that was served though nothing came of it waits for the time, or for memory.
        match self.told_ns {
            Some(told_ns) if self.served.is_empty() && !self.shared.reading.is_some() => {
                told_ns.saturating_add(TELL_NS)
            }
            _ => 0,
        }
    }

    /// Whether nothing has come from outside since the last visit.
    #[inline(always)]
    pub(crate) fn is_quiet(&mut self, now_ns: u64) -> bool {
        // One that wakes is among those that are looked at next.
        self.find_awake(now_ns);
        for &disk in &self.busy {
            if let Some(disk) = self.disks.get(usize::from(disk))
                && disk.queue.is_stirred()
            {
                return false;
            }
        }
        for &ring in self.awake.places() {
            let session = self.rings.get(usize::from(ring));
            if let Some(Some(session)) = session
                && session.is_stirred(now_ns)
            {
                return false;
            }
        }
        true
    }
}
