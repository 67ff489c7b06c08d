//! Orders to the owners of the queues, and what becomes of the queue of one that does not follow.

use spindle_hw::{Clock, DmaAlloc, Registers};

use super::Attention;
use crate::Controller;
use crate::link::Step;

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    #[inline(never)]
    pub(crate) fn order(&mut self, step: Step, attention: &mut Attention) {
        self.recovery.order = self.recovery.order.then(step);
        for pair in self.pairs.iter().flatten().filter(|pair| !pair.abandoned) {
            pair.link.give(self.recovery.order);
        }
        attention.wake = true;
    }

    /// Gives up the queues whose owners do not follow.
    #[inline(never)]
    pub(super) fn abandon_queues(&mut self) {
        let order = self.recovery.order.then(Step::Lose);
        for pair in self.pairs.iter_mut().flatten() {
            if pair.is_held() && !pair.link.is_followed() {
                let (serial, id) = (&self.identity.serial, pair.shape.id);
                log::error!("nvme {serial}: the core with queue {id} does nothing; given up");
                pair.abandoned = true;
                pair.link.give(order);
            }
        }
    }

    /// The controller is disabled: what is in flight on queues that were given up may fail.
    pub(super) fn release_queues(&self) {
        let pairs = self.pairs.iter().flatten();
        pairs
            .filter(|pair| pair.abandoned)
            .for_each(|pair| pair.link.release(true));
    }

    pub(super) fn all_follow(&self) -> bool {
        let mut held = self.pairs.iter().flatten().filter(|pair| pair.is_held());
        held.all(|pair| pair.link.is_followed())
    }
}
