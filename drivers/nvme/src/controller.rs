//! A controller: bring-up, what it is, its queues, and its end. For the control core.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use spindle_block::Volume;
use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE, Registers};
use zerocopy::{FromBytes, IntoBytes};

use crate::admin::{self, AdminQueue};
use crate::command::{COMPLETION_SHIFT, Entry, SUBMISSION_SHIFT, admin as opcode};
use crate::identify::{IdentifyController, IdentifyNamespace, NamespaceList, blank, cns, text};
use crate::queue::{QueueMemory, Shape};
use crate::registers::{Capabilities, ControllerRegisters, check_doorbells};
use crate::{Error, MAX_TRANSFER, Namespace, NamespaceError, QueuePair, Status};

/// What to ask of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// I/O queue pairs wanted, at least 1; the controller may grant fewer.
    pub queues: u16,
    /// Entries in each I/O queue, rounded down to a power of two from 2 to 4096; the controller
    /// may take fewer.
    pub depth: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            depth: 256,
        }
    }
}

/// Who the controller is and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Model, printable.
    pub model: String,
    /// Serial number, printable.
    pub serial: String,
    /// Firmware revision, printable.
    pub firmware: String,
    /// Version of the specification: major and minor.
    pub version: (u16, u8),
    /// The most bytes one NVMe command moves, by what the controller and this driver can.
    pub max_transfer: u32,
    /// Whether there is a volatile write cache.
    pub write_cache: bool,
    /// ONCS, the optional commands it knows (5.15.2.2).
    pub optional_commands: u16,
    /// RTD3E: how long it says a shutdown may take; zero if it does not say.
    pub shutdown_time: Duration,
}

/// Namespaces looked at, at most: as many as one list holds.
const MAX_NAMESPACES: u32 = 1024;
/// Number of Queues (5.21.1.7).
const FEATURE_QUEUES: u64 = 0x07;
/// The version that brought the list of active namespaces: 1.1.
const VERSION_1_1: u32 = 0x0001_0100;
/// Create queue: physically contiguous; nothing else set, so that interrupts are off (5.3).
const CONTIGUOUS: u64 = 1;

/// A running controller.
///
/// Its queues' memory, and its own, goes back to `memory` only when the controller cannot reach
/// it any longer. A controller that is dropped rather than shut down keeps its memory for ever.
#[derive(Debug)]
pub struct Controller<R, C, M> {
    registers: ControllerRegisters<R>,
    clock: C,
    memory: M,
    capabilities: Capabilities,
    admin: AdminQueue,
    identity: Identity,
    namespaces: Vec<Namespace>,
    refused: Vec<(u32, NamespaceError)>,
    depth: u16,
    /// Which queue identifiers, from 1 on, are in use: one place for each that was granted.
    in_use: Vec<bool>,
}

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Resets the controller behind `registers` and brings it up.
    ///
    /// # Errors
    /// See [`Error`]. The controller is then disabled if it can be, and the memory given back
    /// if it could be.
    pub fn start(registers: R, clock: C, memory: M, options: Options) -> Result<Self, Error> {
        let registers = ControllerRegisters(registers);
        let capabilities = registers.capabilities()?;
        check_doorbells(&registers.0, 0, capabilities.doorbell_stride())?;
        if !capabilities.nvm_commands() {
            return Err(Error::CommandSet);
        }
        let shift = capabilities.min_page_shift();
        if shift > PAGE_SIZE.trailing_zeros() {
            return Err(Error::PageSize { shift });
        }
        registers.disable(&clock, capabilities)?;
        let admin = AdminQueue::new(memory.alloc(admin::PAGES).ok_or(Error::Memory)?);
        let depth = u32::from(options.depth).clamp(2, 4096);
        let depth = depth.min(capabilities.max_queue_entries()).max(2);
        let mut controller = Self {
            registers,
            clock,
            memory,
            capabilities,
            admin,
            identity: Identity {
                model: String::new(),
                serial: String::new(),
                firmware: String::new(),
                version: (0, 0),
                max_transfer: PAGE_SIZE as u32,
                write_cache: true,
                optional_commands: 0,
                shutdown_time: Duration::ZERO,
            },
            namespaces: Vec::new(),
            refused: Vec::new(),
            depth: 1 << depth.ilog2(),
            in_use: Vec::new(),
        };
        match controller.bring_up(options) {
            Ok(()) => Ok(controller),
            Err(error) => {
                // The first error is the one that tells what happened.
                let _ = controller.disable_and_free(Vec::<QueuePair<R>>::new());
                Err(error)
            }
        }
    }

    fn bring_up(&mut self, options: Options) -> Result<(), Error> {
        let (submission, completion) = self.admin.addresses();
        self.registers
            .set_admin_queues(submission, completion, admin::ENTRIES.into());
        self.registers.enable(&self.clock, self.capabilities)?;
        let namespaces = self.identify_controller()?;
        self.find_namespaces(namespaces)?;
        let wanted = u64::from(options.queues.max(1)) - 1;
        let granted = self.execute(Entry {
            opcode: opcode::SET_FEATURES,
            cdw10: FEATURE_QUEUES | (wanted << 16 | wanted) << 32,
            ..Entry::default()
        })?;
        // Both halves are 0's based (5.21.1.7); a controller may say more than was asked.
        let granted = (granted & 0xffff).min(granted >> 16) + 1;
        self.in_use = vec![false; granted.min(options.queues.max(1).into()) as usize];
        Ok(())
    }

    fn identify_controller(&mut self) -> Result<u32, Error> {
        let data = self.identify::<IdentifyController>(cns::CONTROLLER, 0)?;
        let fits = |sizes: u8, shift: usize| {
            usize::from(sizes & 0xf) <= shift && shift <= usize::from(sizes >> 4)
        };
        if !fits(data.sqes, SUBMISSION_SHIFT) || !fits(data.cqes, COMPLETION_SHIFT) {
            return Err(Error::EntrySize {
                sqes: data.sqes,
                cqes: data.cqes,
            });
        }
        let version = self.registers.version();
        // In units of the smallest page, which is 4 KiB here.
        let max_transfer = match data.mdts {
            0 => MAX_TRANSFER,
            mdts => MAX_TRANSFER.min((PAGE_SIZE as u32) << mdts.min(16)),
        };
        self.identity = Identity {
            model: text(&data.model),
            serial: text(&data.serial),
            firmware: text(&data.firmware),
            version: ((version >> 16) as u16, (version >> 8) as u8),
            max_transfer,
            write_cache: data.vwc & 1 != 0,
            optional_commands: data.oncs.get(),
            shutdown_time: Duration::from_micros(data.shutdown_us.get().into()),
        };
        Ok(data.namespaces.get())
    }

    fn find_namespaces(&mut self, highest: u32) -> Result<(), Error> {
        for id in self.namespace_ids(highest)? {
            let data = self.identify::<IdentifyNamespace>(cns::NAMESPACE, id)?;
            match Namespace::parse(id, &data) {
                Ok(found) => self.namespaces.extend(found),
                Err(reason) => {
                    log::warn!("nvme: namespace {id} is not offered: {reason}");
                    self.refused.push((id, reason));
                }
            }
        }
        Ok(())
    }

    /// Identifiers worth looking at: the active ones, or all of them on a controller too old to
    /// list those.
    fn namespace_ids(&mut self, highest: u32) -> Result<Vec<u32>, Error> {
        if self.registers.version() >= VERSION_1_1 {
            match self.identify::<NamespaceList>(cns::ACTIVE_NAMESPACES, 0) {
                Ok(list) => {
                    let mut ids: Vec<u32> = list.ids.iter().map(|id| id.get()).collect();
                    ids.retain(|&id| id != 0 && id != u32::MAX);
                    ids.sort_unstable();
                    ids.dedup();
                    return Ok(ids);
                }
                Err(Error::Command { status, .. }) if status.code() == Status::INVALID_FIELD => {}
                Err(error) => return Err(error),
            }
        }
        Ok((1..=highest.min(MAX_NAMESPACES)).collect())
    }

    fn identify<T: FromBytes + IntoBytes>(
        &mut self,
        cns: u32,
        namespace: u32,
    ) -> Result<alloc::boxed::Box<T>, Error> {
        self.execute(Entry {
            opcode: opcode::IDENTIFY,
            namespace,
            prp1: self.admin.data(),
            cdw10: cns.into(),
            ..Entry::default()
        })?;
        let mut data = blank::<T>().ok_or(Error::Memory)?;
        self.admin.read_data(data.as_mut_bytes());
        Ok(data)
    }

    fn execute(&mut self, entry: Entry) -> Result<u32, Error> {
        let stride = self.capabilities.doorbell_stride();
        self.admin
            .execute(&self.registers, stride, &self.clock, entry)
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
        let volume = |n: &Namespace| n.volume(&self.identity, disk, controller);
        self.namespaces.iter().map(volume).collect()
    }

    /// I/O queue pairs that the controller granted.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.in_use.len() as u16
    }

    /// Looks whether the controller is still there and well.
    ///
    /// # Errors
    /// [`Error::Gone`] or [`Error::Fatal`]: each core should then call
    /// [`spindle_block::DiskQueue::fail_all`] and give its queues back.
    pub fn health(&self) -> Result<(), Error> {
        if self.registers.status()?.fatal() {
            return Err(Error::Fatal);
        }
        Ok(())
    }

    /// Makes a queue pair, with a handle of its own to the same registers.
    ///
    /// # Errors
    /// [`Error::NoQueue`] if all granted ones are in use, [`Error::Memory`], or what the
    /// controller said.
    pub fn create_queue<Q: Registers>(&mut self, registers: Q) -> Result<QueuePair<Q>, Error> {
        let granted = self.queues();
        let place = self.in_use.iter().position(|used| !used);
        let place = place.ok_or(Error::NoQueue { granted })?;
        let limit = self.identity.max_transfer;
        let list = limit / PAGE_SIZE as u32 * size_of::<u64>() as u32;
        let shape = Shape {
            id: place as u16 + 1,
            depth: self.depth,
            doorbell_stride: self.capabilities.doorbell_stride(),
            limit,
            list_shift: list.next_power_of_two().trailing_zeros(),
        };
        check_doorbells(&registers, shape.id, shape.doorbell_stride)?;
        let memory = self.allocate(shape).ok_or(Error::Memory)?;
        match self.create(shape, &memory) {
            Ok(()) => {
                self.in_use[place] = true;
                Ok(QueuePair::new(registers, memory, shape))
            }
            Err((error, reachable)) => {
                if !reachable {
                    self.free(memory);
                }
                Err(error)
            }
        }
    }

    fn allocate(&self, shape: Shape) -> Option<QueueMemory> {
        let depth = usize::from(shape.depth);
        let pages = |shift: usize| (depth << shift).div_ceil(PAGE_SIZE);
        let submission = self.memory.alloc(pages(SUBMISSION_SHIFT))?;
        let Some(completion) = self.memory.alloc(pages(COMPLETION_SHIFT)) else {
            self.memory.free(submission);
            return None;
        };
        let Some(lists) = self.memory.alloc(pages(shape.list_shift as usize)) else {
            self.memory.free(submission);
            self.memory.free(completion);
            return None;
        };
        Some(QueueMemory {
            submission,
            completion,
            lists,
        })
    }

    fn free(&self, memory: QueueMemory) {
        let QueueMemory {
            submission,
            completion,
            lists,
        } = memory;
        for pages in [submission, completion, lists] {
            self.memory.free(pages);
        }
    }

    /// Creates completion queue and submission queue (5.3, 5.4). An error comes with whether the
    /// controller may have kept the memory.
    fn create(&mut self, shape: Shape, memory: &QueueMemory) -> Result<(), (Error, bool)> {
        let id = u64::from(shape.id);
        let cdw10 = id | u64::from(shape.depth - 1) << 16 | CONTIGUOUS << 32;
        let completion = Entry {
            opcode: opcode::CREATE_COMPLETION_QUEUE,
            prp1: memory.completion.bus(),
            cdw10,
            ..Entry::default()
        };
        self.execute(completion)
            .map_err(|error| (error, kept_after(error)))?;
        let submission = Entry {
            opcode: opcode::CREATE_SUBMISSION_QUEUE,
            prp1: memory.submission.bus(),
            cdw10: cdw10 | id << 48,
            ..Entry::default()
        };
        match self.execute(submission) {
            Ok(_) => Ok(()),
            Err(error) => {
                let undone = self.delete(opcode::DELETE_COMPLETION_QUEUE, shape.id);
                Err((error, kept_after(error) || undone.is_err()))
            }
        }
    }

    fn delete(&mut self, opcode: u8, id: u16) -> Result<(), Error> {
        let cdw10 = id.into();
        let entry = Entry {
            opcode,
            cdw10,
            ..Entry::default()
        };
        self.execute(entry).map(|_| ())
    }

    /// Deletes a queue pair (5.5, 5.6). Commands still in flight end with it, unanswered.
    ///
    /// # Errors
    /// What the controller said; the memory then stays allocated, since it may be in use.
    pub fn delete_queue<Q: Registers>(&mut self, queue: QueuePair<Q>) -> Result<(), Error> {
        self.delete(opcode::DELETE_SUBMISSION_QUEUE, queue.id())?;
        self.delete(opcode::DELETE_COMPLETION_QUEUE, queue.id())?;
        if let Some(used) = self.in_use.get_mut(usize::from(queue.id()) - 1) {
            *used = false;
        }
        self.free(queue.memory);
        Ok(())
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
            if first.is_ok() {
                first = self
                    .delete(opcode::DELETE_SUBMISSION_QUEUE, id)
                    .and_then(|()| self.delete(opcode::DELETE_COMPLETION_QUEUE, id));
            }
        }
        let written_out = self
            .registers
            .shut_down(&self.clock, self.identity.shutdown_time);
        let disabled = self.disable_and_free(kept);
        first.and(written_out).and(disabled)
    }

    fn disable_and_free<Q>(self, queues: Vec<QueuePair<Q>>) -> Result<(), Error> {
        self.registers.disable(&self.clock, self.capabilities)?;
        for queue in queues {
            self.free(queue.memory);
        }
        self.memory.free(self.admin.into_memory());
        Ok(())
    }
}

/// Whether a create command that ended in `error` may have left the queue in place: not if the
/// controller said no.
fn kept_after(error: Error) -> bool {
    !matches!(error, Error::Command { .. })
}
