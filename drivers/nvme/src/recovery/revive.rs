//! Brings a controller that was reset up as it was, or as the next one in its place.

use alloc::vec::Vec;

use spindle_hw::{Clock, DmaAlloc, Registers};

use crate::queues::Pair;
use crate::{Change, Controller, Error};

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Brings up what [`Controller::start`] did, on the same memory.
    #[inline(never)]
    pub(super) fn revive(&mut self, changes: &mut Vec<Change>) -> Result<(), Error> {
        self.identify_controller()?;
        if self.recovery.reviving {
            self.take_anew(changes)?;
        } else {
            let before = &self.recovery.before;
            // Those who use it have no flush for what they wrote, if it has a cache only now.
            let caches = self.identity.write_cache && !before.write_cache;
            if !self.identity.is_of(before) || caches {
                return Err(Error::Changed("identity"));
            }
            self.discards = self.discard_limits()?;
        }
        self.ask_for_delays()?;
        // Each core keeps the one that it has; there may have been more.
        let held = |pair: &Option<Pair>| pair.as_ref().is_some_and(Pair::is_held);
        let needed = self.pairs.iter().rposition(held).map_or(0, |last| last + 1) as u16;
        let granted = self.ask_for_queues(self.pairs.len() as u16)?;
        if granted < needed {
            return Err(Error::FewerQueues { granted, needed });
        }
        self.refresh_all(changes)?;
        match self.lend_again() {
            Ok(_) => {}
            Err(error @ Error::Command { .. }) => {
                let serial = &self.identity.serial;
                log::warn!("nvme {serial}: {error}; it works without our memory from now on");
            }
            Err(error) => return Err(error),
        }
        let pairs = core::mem::take(&mut self.pairs);
        let held = pairs.iter().flatten().filter(|pair| pair.is_held());
        let made = self.make_again(held);
        self.pairs = pairs;
        made?;
        self.listen()
    }

    fn make_again<'a>(&mut self, pairs: impl Iterator<Item = &'a Pair>) -> Result<(), Error> {
        for pair in pairs {
            self.create(pair).map_err(|(error, _)| error)?;
        }
        Ok(())
    }
}
