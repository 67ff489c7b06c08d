//! A controller: bring-up, what it is, its queues, and its end. For the control core.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use spindle_block::{DiskOptions, Volume};
use spindle_hw::{Clock, DmaAlloc, Registers};

use crate::admin::{self, AdminQueue, Posted};
use crate::change::{Leaving, Rescan};
use crate::command::{Entry, admin as opcode};
use crate::discard::DiscardLimits;
use crate::events::Warning;
use crate::host_memory::HostMemory;
use crate::lifecycle::LOST_MAX;
use crate::link::Step;
use crate::namespace_table::NamespaceTable;
use crate::queues::Pair;
use crate::recovery::{Recovery, Stage};
use crate::registers::{Capabilities, ControllerRegisters, check_doorbells};
use crate::series::Series;
use crate::standby::Standby;
use crate::{Error, Identity, Namespace, NamespaceError, QueuePair};

/// Number of Queues (5.21.1.7).
const FEATURE_QUEUES: u64 = 0x07;

/// A running controller.
///
/// Its queues' memory, and its own, goes back to `memory` only when the controller cannot reach
/// it any longer. A controller that is dropped rather than shut down keeps its memory for ever.
#[derive(Debug)]
pub struct Controller<R, C, M> {
    pub(crate) registers: ControllerRegisters<R>,
    pub(crate) clock: C,
    pub(crate) memory: M,
    pub(crate) capabilities: Capabilities,
    pub(crate) admin: AdminQueue,
    pub(crate) identity: Identity,
    /// What it takes in one discard, if it knows them and could say.
    pub(crate) discards: Option<DiscardLimits>,
    pub(crate) namespaces: Vec<Namespace>,
    /// What the queues know of the namespaces.
    pub(crate) table: Arc<NamespaceTable>,
    pub(crate) refused: Vec<(u32, NamespaceError)>,
    /// Those that were removed, as long as something of them may be under way.
    pub(crate) leaving: Vec<Leaving>,
    /// Entries in a queue: a power of two.
    pub(crate) depth: u16,
    /// The most that there may be, if the controller agrees.
    pub(crate) most_depth: u16,
    pub(crate) timeout: Duration,
    /// How long an admin command may take that is waited for.
    pub(crate) patience: Duration,
    /// I/O queues that were wanted at the start, and that the controller has granted last.
    pub(crate) wanted: u16,
    pub(crate) granted: u16,
    /// The queue pairs there are, by identifier from 1 on: one place for each that was granted.
    pub(crate) pairs: Vec<Option<Pair>>,
    pub(crate) recovery: Recovery,
    pub(crate) warning: Warning,
    /// The page in place of the health log is for an administrator, from this byte on.
    pub(crate) inspecting: Option<u16>,
    pub(crate) host_memory: HostMemory,
    /// Namespaces that are to be looked at again, since the controller could not say what they are.
    pub(crate) unsure: Vec<u32>,
    /// When that was tried last; `None` if it is to be tried now.
    pub(crate) unsure_since: Option<u64>,
    /// Those of them that are being looked at.
    pub(crate) looking: Vec<u32>,
    /// Whether all namespaces are to be looked at again.
    pub(crate) rescan: Rescan,
    starting: bool,
    pub(crate) series: Series,
    /// An event that is being dealt with.
    pub(crate) event: Option<u32>,
}

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Resets the controller behind `registers` and brings it up. Its queues get 2 to 4096
    /// entries.
    ///
    /// # Errors
    /// See [`Error`]. The controller is then disabled if it can be, and the memory given back
    /// if it could be.
    pub fn start(registers: R, clock: C, memory: M, options: DiskOptions) -> Result<Self, Error> {
        Self::start_if(registers, clock, memory, options, |_| true)
    }

    /// As [`Controller::start`], for a driver that comes after one of the same version, whose users
    /// went on. A controller that has been without power since then may have lost what it had answered
    /// them, and is left as it is: it is to begin as [`Controller::absent`], so that they hear of that
    /// before it serves, and so that the next driver finds it like that if this one ends before.
    ///
    /// # Errors
    /// As [`Controller::start`]; [`Error::Restarted`] if it was without power, or was never set up.
    pub fn start_again(
        registers: R,
        clock: C,
        memory: M,
        options: DiskOptions,
    ) -> Result<Self, Error> {
        let has_kept = |registers: &ControllerRegisters<R>| {
            registers.keeps_admin_queues(admin::ENTRIES.into())
        };
        Self::start_if(registers, clock, memory, options, has_kept)
    }

    /// The same on a condition, on which the controller is looked at once it is disabled.
    fn start_if(
        registers: R,
        clock: C,
        memory: M,
        options: DiskOptions,
        may_start: impl FnOnce(&ControllerRegisters<R>) -> bool,
    ) -> Result<Self, Error> {
        let registers = ControllerRegisters(registers);
        let capabilities = registers.usable_capabilities()?;
        check_doorbells(&registers.0, 0, capabilities.doorbell_stride())?;
        registers.disable(&clock, capabilities.timeout())?;
        if !may_start(&registers) {
            return Err(Error::Restarted);
        }
        let mut controller = Self::new(registers, capabilities, clock, memory, options)?;
        match controller.bring_up() {
            Ok(()) => Ok(controller),
            Err(error) => {
                // The first error is the one that tells what happened.
                let _ = controller.disable_and_free(Vec::<QueuePair<R>>::new());
                Err(error)
            }
        }
    }

    /// A controller that could not be started for the given `reason`, and may be later: the queues of
    /// all cores can be made, and it counts as lost until [`Controller::probe_again`] brings it up.
    /// Its registers are neither read nor written before: they may not even be decoded.
    ///
    /// # Errors
    /// Why it never can be: what it is, or that there is no memory.
    pub fn absent(
        registers: R,
        clock: C,
        memory: M,
        options: DiskOptions,
        reason: Error,
    ) -> Result<Self, Error> {
        if let Error::CommandSet
        | Error::PageSize { .. }
        | Error::EntrySize { .. }
        | Error::RegistersTooSmall { .. }
        | Error::Memory = reason
        {
            return Err(reason);
        }
        let (registers, capabilities) = (ControllerRegisters(registers), Capabilities::UNKNOWN);
        let mut controller = Self::new(registers, capabilities, clock, memory, options)?;
        controller.depth = 1 << controller.most_depth.ilog2();
        let queues = options.queues.max(1);
        controller.pairs.resize_with(queues.into(), || None);
        controller.recovery.order = controller.recovery.order.then(Step::Lose);
        controller.recovery.stage = Stage::Lost;
        controller.recovery.unreported = Some(reason);
        controller.starting = false;
        Ok(controller)
    }

    /// Whether it has never been up.
    pub(crate) fn is_absent(&self) -> bool {
        self.is_lost() && self.recovery.before == Identity::default()
    }

    #[inline(never)]
    fn new(
        registers: ControllerRegisters<R>,
        capabilities: Capabilities,
        clock: C,
        memory: M,
        options: DiskOptions,
    ) -> Result<Self, Error> {
        let admin = AdminQueue::new(memory.alloc(admin::PAGES).ok_or(Error::Memory)?);
        Ok(Self::with(
            registers,
            capabilities,
            clock,
            memory,
            options,
            admin,
        ))
    }

    #[inline(never)]
    pub(crate) fn with(
        registers: ControllerRegisters<R>,
        capabilities: Capabilities,
        clock: C,
        memory: M,
        options: DiskOptions,
        admin: AdminQueue,
    ) -> Self {
        let most_depth = options.depth.clamp(2, 4096);
        let depth = capabilities.queue_entries(most_depth);
        Self {
            registers,
            clock,
            memory,
            capabilities,
            admin,
            identity: Identity::default(),
            discards: None,
            namespaces: Vec::new(),
            table: Arc::default(),
            refused: Vec::new(),
            leaving: Vec::new(),
            depth,
            most_depth,
            timeout: options.timeout,
            patience: admin::LIMIT,
            wanted: options.queues.max(1),
            granted: 0,
            pairs: Vec::new(),
            recovery: Recovery::new(),
            warning: Warning::default(),
            inspecting: None,
            host_memory: HostMemory::default(),
            unsure: Vec::new(),
            unsure_since: None,
            looking: Vec::new(),
            rescan: Rescan::No,
            starting: true,
            series: Series::default(),
            event: None,
        }
    }

    fn bring_up(&mut self) -> Result<(), Error> {
        let (submission, completion) = self.admin.addresses();
        self.registers
            .set_admin_queues(submission, completion, admin::ENTRIES.into());
        self.registers.enable(&self.clock, self.capabilities)?;
        self.find_out(None)
    }

    /// Whether it is being brought up for the first time, when nothing else waits for control.
    pub(crate) fn is_starting(&self) -> bool {
        self.starting
    }

    /// Finds out all about a controller that is enabled, be it that another driver has had it before.
    #[inline(never)]
    pub(crate) fn find_out(&mut self, former: Option<&Standby>) -> Result<(), Error> {
        let namespaces = self.identify_controller()?;
        if let Some(former) = former {
            self.granted = former.granted_by(&self.identity)?;
        }
        self.discards = self.discard_limits()?;
        self.ask_for_delays()?;
        self.find_namespaces(namespaces)?;
        if former.is_none() {
            self.ask_for_queues(self.wanted)?;
        }
        self.pairs.resize_with(self.granted.into(), || None);
        self.listen()?;
        self.starting = false;
        Ok(())
    }

    /// Has the controller say with a status when to try again, if it has something to say.
    #[inline(never)]
    pub(crate) fn ask_for_delays(&mut self) -> Result<(), Error> {
        if self.identity.retry_delays == [0; 3] {
            return Ok(());
        }
        let asked = self.execute(Entry {
            opcode: opcode::SET_FEATURES,
            prp1: self.admin.data(),
            cdw10: admin::FEATURE_HOST_BEHAVIOR,
            ..Entry::default()
        });
        match asked {
            // It serves without as well.
            Ok(_) | Err(Error::Command { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks for `wanted` I/O queue pairs, 1 or more; gives how many of them were granted.
    #[inline(never)]
    pub(crate) fn ask_for_queues(&mut self, wanted: u16) -> Result<u16, Error> {
        let most = u64::from(wanted) - 1;
        let granted = self.execute(Entry {
            opcode: opcode::SET_FEATURES,
            cdw10: FEATURE_QUEUES | (most << 16 | most) << 32,
            ..Entry::default()
        })?;
        // Both halves are 0's based (5.21.1.7); a controller may say more than was asked.
        let granted = (granted & 0xffff).min(granted >> 16) + 1;
        self.granted = granted.min(wanted.into()) as u16;
        Ok(self.granted)
    }

    #[inline(never)]
    pub(crate) fn execute(&mut self, entry: Entry) -> Result<u32, Error> {
        // One that was put in again since it was last looked at has no queue for it.
        self.health()?;
        if self.series.is_active() {
            return self.step(entry);
        }
        let stride = self.capabilities.doorbell_stride();
        self.admin
            .execute(&self.registers, stride, &self.clock, self.patience, entry)
    }

    /// Submits an admin command whose answer is found later; false if that is not possible now.
    #[inline(never)]
    pub(crate) fn post(&mut self, kind: Posted, entry: Entry) -> bool {
        if self.health().is_err() {
            return false;
        }
        let stride = self.capabilities.doorbell_stride();
        let now = self.clock.now_ns();
        self.admin.post(&self.registers, stride, kind, entry, now)
    }

    /// Who the controller is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The namespaces that can be served.
    #[must_use]
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// The namespaces that cannot be served, and why.
    #[must_use]
    pub fn refused(&self) -> &[(u32, NamespaceError)] {
        &self.refused
    }

    /// The namespaces as volumes of the kernel's disk `disk`, named after controller number
    /// `controller`: `nvme0n1`.
    #[must_use]
    pub fn volumes(&self, disk: usize, controller: usize) -> Vec<Volume> {
        let volume = |n: &Namespace| {
            let mut volume = n.volume(&self.identity, disk, controller);
            volume.discard = volume.discard.filter(|_| self.discards.is_some());
            volume
        };
        self.namespaces.iter().map(volume).collect()
    }

    /// I/O queue pairs that the controller granted.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.pairs.len() as u16
    }

    /// Looks whether the controller is still there and well.
    pub(crate) fn health(&self) -> Result<(), Error> {
        match self.registers.status()? {
            status if status.fatal() => Err(Error::Fatal),
            status if !status.ready() => Err(Error::Restarted),
            _ => Ok(()),
        }
    }

    /// Ends it: deletes `queues`, which are all that were made, has the controller write out its
    /// cache, disables it, and gives the memory back.
    ///
    /// # Errors
    /// The first thing that went wrong; all the rest was done nevertheless, except that memory
    /// is kept if the controller could not be disabled.
    pub fn shutdown<Q: Registers>(
        mut self,
        queues: impl IntoIterator<Item = QueuePair<Q>>,
    ) -> Result<(), Error> {
        let mut first = Ok(());
        let mut kept = Vec::new();
        for queue in queues {
            let id = queue.id();
            kept.push(queue);
            let pair = self.pairs.get(usize::from(id) - 1);
            let made = pair.and_then(Option::as_ref).is_some_and(|p| !p.abandoned);
            if first.is_ok() && self.is_running() && made {
                first = self
                    .delete(opcode::DELETE_SUBMISSION_QUEUE, id)
                    .and_then(|()| self.delete(opcode::DELETE_COMPLETION_QUEUE, id));
            }
        }
        let written_out = if self.is_running() {
            first = first.and(self.take_back());
            self.health().and_then(|()| {
                let announced = self.identity.shutdown_time;
                self.registers.shut_down(&self.clock, announced)
            })
        } else {
            self.health().and(Err(Error::NotRunning))
        };
        let disabled = self.disable_and_free(kept);
        first.and(written_out).and(disabled)
    }

    #[inline(never)]
    pub(crate) fn disable_and_free<Q>(self, queues: Vec<QueuePair<Q>>) -> Result<(), Error> {
        if !self.is_running() && self.registers.configuration() == u32::MAX {
            // It is no longer there, or cut off; nothing was changed that it may take time for.
            return Err(Error::Gone);
        }
        let limit = self.capabilities.timeout();
        let was_lost = self.is_lost() || self.recovery.reviving;
        self.registers.disable(
            &self.clock,
            if was_lost { limit.min(LOST_MAX) } else { limit },
        )?;
        for queue in queues {
            self.free(queue.memory);
        }
        self.memory.free(self.admin.into_memory());
        self.host_memory.free(&self.memory);
        Ok(())
    }
}
