//! Signs of trouble in a controller that works: its status, its admin queue, and commands that are
//! late, which are aborted before the controller is reset for them.

use core::time::Duration;

use spindle_hw::{Clock, DmaAlloc, Registers, Span};

use super::Abort;
use crate::admin::Posted;
use crate::command::{Entry, admin as opcode};
use crate::{Controller, Error};

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Looks for signs of trouble.
    #[inline(never)]
    pub(super) fn watch(&mut self, now: u64) -> Result<(), Error> {
        self.health()?;
        self.admin
            .poll(&self.registers, self.capabilities.doorbell_stride());
        if self.admin.is_out_of_order() {
            return Err(Error::OutOfOrder);
        }
        if self.admin.is_late(Posted::Health, now) {
            self.do_without_health();
        }
        if let Some((_, 1)) = self.admin.answer_to(Posted::Abort) {
            log::warn!("nvme {}: the command was not aborted", self.identity.serial);
        }
        if let Some(abort) = self.recovery.abort {
            let pair = self.pairs.get(usize::from(abort.queue) - 1);
            let late = pair
                .and_then(Option::as_ref)
                .and_then(|pair| pair.link.late());
            if late == Some(abort.cid) {
                return self.judge(abort, now);
            }
            self.recovery.abort = None;
        }
        // What a queue without an owner has last reported is never taken back.
        let mut pairs = self.pairs.iter().flatten().filter(|pair| pair.is_held());
        let late = pairs.find_map(|pair| Some((pair.shape.id, pair.link.late()?)));
        match late {
            Some((queue, cid)) => self.abort(Abort {
                queue,
                cid,
                at: now,
            }),
            None => Ok(()),
        }
    }

    /// A late command is still there after its abort.
    fn judge(&self, abort: Abort, now: u64) -> Result<(), Error> {
        let waited = Duration::from_nanos(now.saturating_sub(abort.at));
        if waited > self.timeout {
            return Err(Error::Hung {
                queue: abort.queue,
                waited: self.timeout + waited,
            });
        }
        Ok(())
    }

    /// Asks for the end of a late command (5.1).
    fn abort(&mut self, abort: Abort) -> Result<(), Error> {
        let Abort { queue, cid, .. } = abort;
        log::warn!(
            "nvme {}: no answer to command {cid:#x} of queue {queue} within {}; aborting it",
            self.identity.serial,
            Span(self.timeout)
        );
        let entry = Entry {
            opcode: opcode::ABORT,
            cdw10: u64::from(queue) | u64::from(cid) << 16,
            ..Entry::default()
        };
        if !self.post(Posted::Abort, entry) {
            return Err(Error::Hung {
                queue,
                waited: self.timeout,
            });
        }
        self.recovery.repairs.aborts += 1;
        self.recovery.abort = Some(abort);
        Ok(())
    }
}
