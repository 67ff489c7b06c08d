//! What is submitted first after a reset: each queue's commands that the controller may have failed
//! over, one queue at a time, so that no other guest's command is taken for the reason of the next
//! failure.

use spindle_hw::{Clock, DmaAlloc, Registers};

use super::{Attention, TRY_NS, Trial};
use crate::Controller;
use crate::link::Step;

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Has the queues submit again what they had in flight. What the controller may have failed over
    /// more than once comes first, alone, and queue by queue: should it fail once more, no command of
    /// another guest is taken for the reason.
    pub(super) fn resume(&mut self, now: u64, attention: &mut Attention) {
        attention.wake = true;
        for pair in self.pairs.iter().flatten() {
            pair.link.withhold(pair.link.has_suspects());
        }
        if !self.try_next(0, now, true) {
            self.order(Step::Run, attention);
        }
    }

    /// Has the next queue after `last` try what the controller may have failed over; false if no other
    /// has anything of the kind.
    fn try_next(&mut self, last: u16, now: u64, alone: bool) -> bool {
        let mut pairs = self.pairs.iter().flatten().filter(|pair| pair.is_held());
        let next = pairs.find(|pair| pair.shape.id > last && pair.link.has_suspects());
        let Some(pair) = next else {
            return false;
        };
        pair.link.withhold(false);
        if alone {
            self.recovery.order = self.recovery.order.then(Step::Try);
            pair.link.give(self.recovery.order);
        }
        self.recovery.trial = Some(Trial {
            queue: pair.shape.id,
            since: now,
            alone,
        });
        true
    }

    /// Has the next queue follow once the one before is through. If that takes too long, all that is
    /// not suspected is submitted meanwhile; the rest waits until it is known which command it is.
    pub(super) fn look_at_trial(&mut self, now: u64, attention: &mut Attention) {
        let Some(trial) = self.recovery.trial else {
            return;
        };
        attention.wake = true;
        let pair = self.pairs.get(usize::from(trial.queue) - 1);
        let pair = pair.and_then(Option::as_ref).filter(|pair| pair.is_held());
        if pair.is_some_and(|pair| pair.link.has_suspects()) {
            if trial.alone && now.saturating_sub(trial.since) >= TRY_NS {
                self.recovery.trial = Some(Trial {
                    alone: false,
                    ..trial
                });
                self.order(Step::Run, attention);
            }
        } else if !self.try_next(trial.queue, now, trial.alone) {
            self.recovery.trial = None;
            if trial.alone {
                self.order(Step::Run, attention);
            }
        }
    }
}
