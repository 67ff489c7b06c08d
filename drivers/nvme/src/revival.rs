//! A controller that was lost and is brought up once more: the same one, after its power or its
//! firmware came back, or another one in its place. For the control core.
//!
//! It goes the way of a reset, with the queues that the cores have: nothing is in flight on these,
//! since all of it has failed, so that they begin anew with the limits that the controller has now. If
//! it is another one, all namespaces are removed first, and those that it has are offered only once it
//! has been reported: whoever names them after their controller must know by then that it is another.

use alloc::vec::Vec;

use spindle_hw::{Clock, DmaAlloc, Registers};

use crate::link::Terms;
use crate::recovery::{Back, Recovery, Stage, Subsystem};
use crate::registers::{Capabilities, check_doorbells};
use crate::{Change, Controller, Error, Identity, Removal};

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Begins to bring a controller up once more that was given up; what becomes of it is found by
    /// the next calls of [`Controller::attend`], as [`crate::Attention::back`] or
    /// [`crate::Attention::lost`].
    ///
    /// To be called when every core knows that the disk is lost: one that fails its
    /// commands later would take its queue out of use.
    ///
    /// # Errors
    /// Why there is no use in trying: [`Error::Gone`] if no controller answers, or what there is
    /// about the one that does.
    pub fn probe_again(&mut self) -> Result<(), Error> {
        if self.recovery.stage != Stage::Lost {
            return Err(Error::Pending);
        }
        let capabilities = self.registers.usable_capabilities()?;
        let stride = capabilities.doorbell_stride();
        check_doorbells(&self.registers.0, self.queues(), stride)?;
        // Nothing is in flight on the queues.
        self.capabilities = capabilities;
        self.depth = capabilities.queue_entries(self.most_depth);
        let lost = core::mem::replace(&mut self.recovery, Recovery::new());
        self.recovery.order = lost.order;
        self.recovery.before = lost.before;
        self.recovery.replaced = lost.replaced;
        self.recovery.reviving = true;
        // It is not known who is behind this subsystem now, and there would be one at each attempt.
        self.recovery.subsystem = Subsystem::Tried;
        self.registers.begin_disable();
        self.recovery.stage = Stage::Disabling(self.clock.now_ns());
        Ok(())
    }

    /// Takes what the registers say of a controller that is started once more.
    pub(crate) fn renew_capabilities(&mut self, new: Capabilities) -> Result<(), Error> {
        if new.doorbell_stride() != self.capabilities.doorbell_stride() {
            return Err(Error::Changed("distance of doorbells"));
        }
        self.capabilities = new;
        Ok(())
    }

    /// Has the queues know what the controller takes, from the order on by which they go on.
    pub(crate) fn tell_terms(&self) {
        let terms = Terms {
            limit: self.identity.max_transfer,
            depth: self.depth,
            discards: self.discards,
            delays: self.identity.retry_delays,
            stride: self.capabilities.doorbell_stride() as u32,
        };
        for pair in self.pairs.iter().flatten().filter(|pair| !pair.abandoned) {
            pair.link.tell_terms(terms);
        }
    }

    /// The controller is disabled: what is left in flight from before it was lost, if it was, may fail.
    pub(crate) fn let_end(&self) -> bool {
        let was_lost = self.recovery.reviving;
        if was_lost {
            let pairs = self.pairs.iter().flatten();
            pairs.for_each(|pair| pair.link.release(true));
        }
        was_lost
    }

    /// Takes what the controller says of itself for what holds from now on. If it is another one,
    /// nothing of what was known is there.
    pub(crate) fn take_anew(&mut self, changes: &mut Vec<Change>) -> Result<(), Error> {
        if self.recovery.before == Identity::default() {
            // It was never up, so that nothing of it is known.
            self.recovery.before = self.identity.clone();
        } else if !self.identity.is_of(&self.recovery.before) {
            self.recovery.replaced = true;
            // When this is done once more, it is a known one.
            self.recovery.before = self.identity.clone();
            let known: Vec<u32> = self.namespaces.iter().map(|n| n.id).collect();
            for id in known {
                self.remove(id, Removal::OtherDisk, changes);
            }
            self.refused.clear();
            self.unsure.clear();
        }
        if self.identity.write_cache && !self.recovery.before.write_cache {
            // Those who use it have no flush for what they wrote.
            return Err(Error::Changed("write cache"));
        }
        self.discards = self.discard_limits()?;
        Ok(())
    }

    /// The queues begin anew with the order that follows. Gives what is to be reported; what is there
    /// under new names is looked for only after that.
    pub(crate) fn come_back(&mut self) -> Back {
        let serial = &self.identity.serial;
        log::warn!("nvme {serial}: is back, works again");
        for pair in self.pairs.iter().flatten().filter(|pair| !pair.abandoned) {
            pair.link.release(false);
        }
        self.recovery.subsystem = Subsystem::Untried;
        if core::mem::take(&mut self.recovery.replaced) {
            self.unsure_since = None;
            return Back::Other;
        }
        Back::Same
    }
}
