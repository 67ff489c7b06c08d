//! Finding out who the controller is, and which namespaces it has. For the control core.

use alloc::boxed::Box;
use alloc::vec::Vec;

use spindle_hw::{Clock, DmaAlloc, Registers};
use zerocopy::{FromBytes, IntoBytes};

use crate::command::{COMPLETION_SHIFT, Entry, SUBMISSION_SHIFT, admin as opcode};
use crate::discard::DiscardLimits;
use crate::host_memory::Request;
use crate::identify::{
    IdentifyController, IdentifyNamespace, NamespaceDescriptors, NamespaceList, NvmLimits, blank,
    cns,
};
use crate::{Controller, Error, Identity, Namespace, NamespaceError, Status};

/// Namespaces looked at, at most: each takes two commands, and control waits for them.
pub(crate) const MAX_NAMESPACES: usize = 128;
/// How often a question is put again at the start if the controller cannot answer just then, and
/// after how long.
const ASK_AGAIN: u32 = 5;
const ASK_AGAIN_NS: u64 = 500_000_000;
/// Number of the NVM command set.
const NVM_COMMAND_SET: u8 = 0;
/// The version that brought the list of active namespaces: 1.1.
const VERSION_1_1: u32 = 0x0001_0100;
/// The version that brought the descriptors of a namespace: 1.3.
const VERSION_1_3: u32 = 0x0001_0300;
/// The first version of which controllers may tell limits of single commands (TP 4040).
const VERSION_1_4: u32 = 0x0001_0400;

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Sets who the controller is; gives the highest namespace identifier.
    #[inline(never)]
    pub(crate) fn identify_controller(&mut self) -> Result<u32, Error> {
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
        self.identity = Identity::new(&data, self.registers.version());
        self.host_memory.request = Request::new(&data);
        Ok(data.namespaces.get())
    }

    /// What the controller takes in one discard, if it knows discards at all; what is known of that
    /// already where it cannot say just then.
    #[inline(never)]
    pub(crate) fn discard_limits(&mut self) -> Result<Option<DiscardLimits>, Error> {
        if !self.identity.discards() {
            return Ok(None);
        }
        if self.registers.version() < VERSION_1_4 {
            return Ok(Some(DiscardLimits::default()));
        }
        match self.identify::<NvmLimits>(cns::NVM_LIMITS, 0) {
            Ok(limits) => Ok(Some(DiscardLimits::new(&limits))),
            Err(Error::Command { status, .. }) if status.may_pass() => Ok(self.discards),
            // Most controllers of 1.4 do not know the page; there are no limits then.
            Err(Error::Command { .. }) => Ok(Some(DiscardLimits::default())),
            Err(error) => Err(error),
        }
    }

    /// Looks at every namespace. `highest` is what [`Self::identify_controller`] gave.
    pub(crate) fn find_namespaces(&mut self, highest: u32) -> Result<(), Error> {
        for id in self.namespace_ids(highest)? {
            match self.look_at(id)? {
                Ok(found) => {
                    found.iter().for_each(Namespace::log_boundary);
                    self.namespaces.extend(found);
                }
                Err(reason) => {
                    log::warn!("nvme: namespace {id} is not offered: {reason}");
                    self.refused.push((id, reason));
                }
            }
        }
        Ok(())
    }

    /// What namespace `id` is, `None` if there is none, or why it cannot be served.
    #[inline(never)]
    pub(crate) fn look_at(
        &mut self,
        id: u32,
    ) -> Result<Result<Option<Namespace>, NamespaceError>, Error> {
        let data = match self.identify::<IdentifyNamespace>(cns::NAMESPACE, id) {
            Ok(data) => data,
            Err(Error::Command { status, .. }) if status.code() == Status::INVALID_NAMESPACE => {
                return Ok(Ok(None));
            }
            // One that the controller says nothing of is no reason to do without the others.
            Err(Error::Command { status, .. }) => {
                return Ok(Err(NamespaceError::Unidentified(status)));
            }
            Err(error) => return Err(error),
        };
        let found = Namespace::parse(id, &data, self.identity.atomic_blocks);
        let Ok(Some(mut namespace)) = found else {
            return Ok(found);
        };
        if self.registers.version() >= VERSION_1_3 {
            match self.identify::<NamespaceDescriptors>(cns::NAMESPACE_DESCRIPTORS, id) {
                Ok(descriptors) => {
                    let command_set = descriptors.command_set();
                    if command_set != NVM_COMMAND_SET {
                        return Ok(Err(NamespaceError::CommandSet(command_set)));
                    }
                    (namespace.uuid, namespace.described) = (descriptors.uuid(), true);
                }
                // It has other names as well.
                Err(Error::Command { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.table
            .set(id, namespace.block_shift, namespace.boundary());
        Ok(Ok(Some(namespace)))
    }

    /// Identifiers worth looking at: the active ones, or all of them on a controller too old to
    /// list those.
    fn namespace_ids(&mut self, highest: u32) -> Result<Vec<u32>, Error> {
        let known = self.active_namespaces()?;
        let mut ids = known.unwrap_or_else(|| (1..=highest).take(MAX_NAMESPACES + 1).collect());
        if ids.len() > MAX_NAMESPACES {
            log::warn!(
                "nvme: namespaces from {} on are not looked at: {MAX_NAMESPACES} are served at most",
                ids[MAX_NAMESPACES]
            );
            ids.truncate(MAX_NAMESPACES);
        }
        Ok(ids)
    }

    /// The active namespaces, in ascending order and as many as there is use for; `None` if the
    /// controller has no such list.
    #[inline(never)]
    pub(crate) fn active_namespaces(&mut self) -> Result<Option<Vec<u32>>, Error> {
        if self.registers.version() < VERSION_1_1 {
            return Ok(None);
        }
        let mut ids: Vec<u32> = Vec::new();
        while ids.len() <= MAX_NAMESPACES {
            let last = ids.last().copied().unwrap_or(0);
            let list = match self.identify::<NamespaceList>(cns::ACTIVE_NAMESPACES, last) {
                Ok(list) => list,
                Err(Error::Command { status, .. }) if status.code() == Status::INVALID_FIELD => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let before = ids.len();
            let more = list.ids.iter().map(|id| id.get());
            // Ascending, or the controller could have us go round for ever.
            for id in more.take_while(|&id| id != 0 && id != u32::MAX) {
                if ids.last().is_none_or(|&last| id > last) {
                    ids.push(id);
                }
            }
            if ids.len() - before < list.ids.len() {
                break;
            }
        }
        Ok(Some(ids))
    }

    fn identify<T: FromBytes + IntoBytes>(
        &mut self,
        cns: u32,
        namespace: u32,
    ) -> Result<Box<T>, Error> {
        let entry = Entry {
            opcode: opcode::IDENTIFY,
            namespace,
            prp1: self.admin.data(),
            cdw10: cns.into(),
            ..Entry::default()
        };
        let mut left = if self.is_starting() { ASK_AGAIN } else { 0 };
        while let Err(error) = self.execute(entry) {
            let may_pass = matches!(error, Error::Command { status, .. } if status.may_pass());
            if !may_pass || left == 0 {
                return Err(error);
            }
            left -= 1;
            let since = self.clock.now_ns();
            while self.clock.now_ns().saturating_sub(since) < ASK_AGAIN_NS {
                self.clock.relax();
            }
        }
        let mut data = blank::<T>().ok_or(Error::Memory)?;
        self.read_answer(data.as_mut_bytes());
        Ok(data)
    }
}
