//! The end of a core's work before the kernel is updated: nothing more is taken from any ring, and what was
//! taken is carried out and answered, so that the next life has nothing to do again. Requests that come
//! meanwhile stay in their rings.
//!
//! A ring that is drained is one that is held, which every turn knows already: it costs requests nothing.

use spindle_block::DiskQueue;
use spindle_xen::event::Notify;
use spindle_xen::grant::GrantOps;

use super::RingCore;

impl<Q: DiskQueue, G: GrantOps, N: Notify> RingCore<Q, G, N> {
    /// Takes nothing more from the rings that there are; true once nothing is under way, be it with a
    /// disk or between ring and response. To be called again after each visit until then, and after
    /// each order of control's, which may let rings go on.
    pub fn drain(&mut self) -> bool {
        let mut drained = !self.is_reading() && self.in_flight() == 0;
        for session in self.rings[..self.used].iter_mut().flatten() {
            session.hold();
            drained &= session.is_through();
        }
        drained
    }
}
