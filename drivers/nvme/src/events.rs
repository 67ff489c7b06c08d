//! Asynchronous events (5.2): the controller tells of changed namespaces and failing health, by
//! answering a request that it was sent for the purpose.

use alloc::vec;
use alloc::vec::Vec;

use spindle_block::{INSPECTED_PIECE, InspectedPage, Inspection};
use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE, Registers};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::admin::Posted;
use crate::change::Rescan;
use crate::command::{Entry, admin as opcode};
use crate::discovery::MAX_NAMESPACES;
use crate::health::{HealthLog, HealthPage};
use crate::identify::{NamespaceList, blank, cns};
use crate::namespace_table::PLACES;
use crate::{Attention, Change, Controller, Error, NamespaceError, Removal, Status};

/// Asynchronous Event Configuration (5.21.1.11).
const FEATURE_EVENTS: u64 = 0x0b;
/// All critical warnings of the SMART log.
const EVENTS_HEALTH: u64 = 0x1f;
/// Namespace attribute notices; also in OAES, where they are announced.
const EVENTS_NAMESPACES: u64 = 1 << 8;

/// Log page identifiers (5.14.1), and bytes of the health log and of an entry of the error log.
const LOG_ERRORS: u8 = 0x01;
const LOG_HEALTH: u8 = 0x02;
const LOG_CHANGED_NAMESPACES: u8 = 0x04;
const HEALTH: usize = size_of::<HealthPage>();
const ERROR: usize = 64;

/// How long until the next look at a namespace that was not described.
const LOOK_AGAIN_NS: u64 = 5_000_000_000;

/// Types of events, and the information that comes with a notice.
const EVENT_HEALTH: u32 = 1;
const EVENT_NOTICE: u32 = 2;
const NOTICE_NAMESPACES: u32 = 0;

/// How far an event of failing health is dealt with. Not before the log has been read does the next
/// one come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Warning {
    /// There is none.
    #[default]
    None,
    /// The log is still to be asked for.
    Unread,
    /// The log has been asked for since.
    Asked,
}

impl<R: Registers, C: Clock, M: DmaAlloc> Controller<R, C, M> {
    /// Asks for events.
    #[inline(never)]
    pub(crate) fn listen(&mut self) -> Result<(), Error> {
        self.warning = Warning::None;
        let announced = u64::from(self.identity.events) & EVENTS_NAMESPACES;
        let configured = self.execute(Entry {
            opcode: opcode::SET_FEATURES,
            cdw10: FEATURE_EVENTS | (EVENTS_HEALTH | announced) << 32,
            ..Entry::default()
        });
        match configured {
            Ok(_) => self.request_event(),
            // A disk without events is a disk nevertheless.
            Err(Error::Command { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn request_event(&mut self) {
        let entry = Entry {
            opcode: opcode::ASYNC_EVENT_REQUEST,
            ..Entry::default()
        };
        self.post(Posted::Event, entry);
    }

    /// Deals with an event, if one has come; with one at a time, however many the controller has.
    pub(crate) fn take_event(&mut self, attention: &mut Attention) -> Result<(), Error> {
        if !self.looking.is_empty() || self.rescan == Rescan::Begun {
            return Ok(());
        }
        let serial = self.identity.serial.clone();
        let before = self.event.take();
        let event = match before {
            Some(event) => event,
            None => match self.admin.answer_to(Posted::Event) {
                None => return Ok(()),
                Some((status, event)) if status.code() == Status::SUCCESS => event,
                Some((status, _)) => {
                    log::warn!("nvme {serial}: tells of no events: {status}");
                    return Ok(());
                }
            },
        };
        let (kind, info, page) = (event & 7, event >> 8 & 0xff, (event >> 16) as u8);
        let dealt = match (kind, info) {
            (EVENT_NOTICE, NOTICE_NAMESPACES) => self.see_changes(&mut attention.changes),
            (EVENT_HEALTH, _) => {
                self.warning = Warning::Unread;
                self.read_warning();
                return Ok(());
            }
            _ => {
                if before.is_none() {
                    log::warn!("nvme {serial}: event of type {kind}, information {info:#x}");
                }
                // Reading the page is what allows the next event of the kind.
                self.in_series(|this| this.log_page::<HealthPage>(page).map(|_| ()))
            }
        };
        match dealt {
            Err(Error::Command { .. }) | Ok(()) => self.request_event(),
            Err(Error::Pending) => self.event = Some(event),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Looks again, now and then, at namespaces of which the controller could not say what they are.
    pub(crate) fn look_again(&mut self, now: u64, attention: &mut Attention) -> Result<(), Error> {
        if self.rescan == Rescan::Begun {
            return Ok(());
        }
        if self.looking.is_empty() {
            let since = self.unsure_since;
            let early = since.is_some_and(|since| now.saturating_sub(since) < LOOK_AGAIN_NS);
            if self.event.is_some() || early {
                return Ok(());
            }
            self.looking.clone_from(&self.unsure);
        }
        let ids = core::mem::take(&mut self.looking);
        match self.in_series(|this| this.refresh(&ids, &mut attention.changes)) {
            Err(Error::Pending) => self.looking = ids,
            result => return result,
        }
        Ok(())
    }

    /// Looks again at the namespaces that the controller names.
    fn see_changes(&mut self, changes: &mut Vec<Change>) -> Result<(), Error> {
        self.in_series(|this| this.look_for_changes(changes))
    }

    fn look_for_changes(&mut self, changes: &mut Vec<Change>) -> Result<(), Error> {
        let list = self.log_page::<NamespaceList>(LOG_CHANGED_NAMESPACES)?;
        let named: Vec<u32> = list
            .ids
            .iter()
            .map(|id| id.get())
            .take_while(|&id| id != 0)
            .collect();
        // All ones: too many to be named (5.14.1.4).
        if named.first() == Some(&u32::MAX) {
            return self.refresh_all(changes);
        }
        self.refresh(&named, changes)
    }

    /// Looks at all namespaces that are known or active, and notes what has changed.
    pub(crate) fn refresh_all(&mut self, changes: &mut Vec<Change>) -> Result<(), Error> {
        let mut all: Vec<u32> = self.namespaces.iter().map(|n| n.id).collect();
        match self.active_namespaces() {
            Ok(active) => {
                let new = active.into_iter().flatten().filter(|id| !all.contains(id));
                let new: Vec<u32> = new.collect();
                all.extend(new);
            }
            // Those that are served do not depend on the list.
            Err(Error::Command { .. }) => {}
            Err(error) => return Err(error),
        }
        self.refresh(&all, changes)
    }

    /// Looks at the namespaces `ids` and notes what has changed.
    ///
    /// One that the controller does not describe just then, or not by its UUID, stays as it is known, and
    /// is looked at again later. One that is being formatted is removed: what comes of it has nothing of the old
    /// one, perhaps not even the size of its blocks. One that was removed is not looked at before
    /// nothing of it is under way; one that is new, not before it has been reported that the controller
    /// is another one, if it is.
    #[inline(never)]
    pub(crate) fn refresh(&mut self, ids: &[u32], changes: &mut Vec<Change>) -> Result<(), Error> {
        let known = self.namespaces.len();
        // Those that were removed keep their places as long as something of them is in flight.
        let places = PLACES.saturating_sub(known + self.leaving.len());
        let mut room = MAX_NAMESPACES.saturating_sub(known).min(places);
        for &id in ids {
            if self.is_leaving(id) {
                continue;
            }
            let place = self.namespaces.iter().position(|n| n.id == id);
            if place.is_none() && self.recovery.replaced {
                // It would be taken for one of the controller that was here before.
                if !self.unsure.contains(&id) && self.unsure.len() < MAX_NAMESPACES {
                    self.unsure.push(id);
                }
                continue;
            }
            if place.is_none() {
                match room.checked_sub(1) {
                    Some(left) => room = left,
                    None => continue,
                }
            }
            let looked = self.look_at(id)?;
            // Not before there is an answer: what has none yet is asked for again.
            let known_unsure = self.unsure.contains(&id);
            self.unsure.retain(|&other| other != id);
            let mut unfit = None;
            let found = match looked {
                Ok(found) => found,
                Err(NamespaceError::Unidentified(status))
                    if status.code() != Status::FORMAT_IN_PROGRESS =>
                {
                    if !known_unsure {
                        log::warn!("nvme: namespace {id} is not described now; asked again later");
                    }
                    // Those that are served are no more than that either.
                    if place.is_some() || self.unsure.len() < MAX_NAMESPACES {
                        self.unsure.push(id);
                    }
                    self.unsure_since = Some(self.clock.now_ns());
                    continue;
                }
                Err(reason) => {
                    self.refuse(id, reason);
                    unfit = Some(reason);
                    None
                }
            };
            if unfit.is_none() {
                self.refused.retain(|(other, _)| *other != id);
            }
            match (place, found) {
                (Some(place), Some(mut found)) => {
                    let known = &mut self.namespaces[place];
                    let is_same = known.is_same(&found);
                    if known.uuid.is_some() && !found.described {
                        // It is still known, and may be another's by now.
                        (found.uuid, found.described) = (known.uuid, true);
                        self.unsure.push(id);
                        self.unsure_since = Some(self.clock.now_ns());
                    }
                    let known = core::mem::replace(known, found);
                    if known.block_shift != found.block_shift {
                        self.remove(id, Removal::Formatted(found.block_shift), changes);
                    } else if !is_same {
                        self.remove(id, Removal::Replaced, changes);
                    } else if known.blocks != found.blocks {
                        let sectors = found.sectors();
                        changes.push(Change::Resized { id, sectors });
                    }
                }
                (Some(_), None) => {
                    let reason = unfit.map_or(Removal::Gone, Removal::Unfit);
                    self.remove(id, reason, changes);
                }
                (None, Some(found)) => {
                    found.log_boundary();
                    self.namespaces.push(found);
                    changes.push(Change::Added(id));
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Notes that a namespace cannot be served, which is said once for each reason.
    fn refuse(&mut self, id: u32, reason: NamespaceError) {
        if self.refused.contains(&(id, reason)) {
            return;
        }
        self.refused.retain(|(other, _)| *other != id);
        if self.refused.len() < MAX_NAMESPACES {
            log::warn!("nvme: namespace {id} cannot be served: {reason}");
            self.refused.push((id, reason));
        }
    }

    /// Asks how the disk is, by its own account, unless an answer is awaited or there is a reset under
    /// way: false then. The answer comes with one of the next [`Controller::attend`].
    #[inline(never)]
    pub fn ask_health(&mut self) -> bool {
        self.look(None, log_entry(LOG_HEALTH, HEALTH, self.admin.log()))
    }

    /// Asks for a page in which the controller says what it is or how it is; false as with
    /// [`Controller::ask_health`], in whose place this is done. The answer is [`Attention::inspected`].
    pub fn inspect(&mut self, wanted: Inspection) -> bool {
        let log = self.admin.log();
        let identify = |cns: u32, namespace| Entry {
            opcode: opcode::IDENTIFY,
            namespace,
            prp1: log,
            cdw10: cns.into(),
            ..Entry::default()
        };
        let entry = match wanted.page {
            InspectedPage::Health => log_entry(LOG_HEALTH, HEALTH, log),
            InspectedPage::Errors(entries) => {
                // There is one page for it, and no address of a second one in the command.
                let entries = (entries as usize).clamp(1, PAGE_SIZE / ERROR);
                log_entry(LOG_ERRORS, entries * ERROR, log)
            }
            InspectedPage::Controller => identify(cns::CONTROLLER, 0),
            InspectedPage::Namespace(id) => identify(cns::NAMESPACE, id),
        };
        self.look(Some(wanted.from), entry)
    }

    fn look(&mut self, inspecting: Option<u16>, entry: Entry) -> bool {
        let posted = self.is_running() && self.post(Posted::Health, entry);
        if posted {
            self.inspecting = inspecting;
        }
        posted
    }

    /// The health log has not come. That is no reason to stop a disk that works.
    pub(crate) fn do_without_health(&mut self) {
        log::warn!(
            "nvme {}: its health log does not come",
            self.identity.serial
        );
        if self.warning == Warning::Asked {
            self.warning = Warning::None;
            self.request_event();
        }
    }

    fn read_warning(&mut self) {
        if self.warning == Warning::Unread && self.ask_health() {
            self.warning = Warning::Asked;
        }
    }

    /// Takes the health log, if it has come. Before [`Controller::take_event`]: one that was asked
    /// for earlier may not have what an event tells of.
    pub(crate) fn take_health(&mut self, attention: &mut Attention) {
        let Some((status, _)) = self.admin.answer_to(Posted::Health) else {
            return;
        };
        let is_there = status.code() == Status::SUCCESS;
        if let Some(from) = self.inspecting.take() {
            let from = usize::from(from).min(PAGE_SIZE);
            let mut piece = vec![0; INSPECTED_PIECE.min(PAGE_SIZE - from)];
            self.admin.read_log(from, &mut piece);
            attention.inspected = Some(is_there.then_some(piece).ok_or(status));
        } else if is_there {
            let mut page = HealthPage::new_zeroed();
            self.admin.read_log(0, page.as_mut_bytes());
            let health = HealthLog::new(&page);
            if self.warning == Warning::Asked {
                log::warn!("nvme {}: {health}", self.identity.serial);
            }
            attention.health = Some(health);
        }
        if self.warning == Warning::Asked {
            self.warning = Warning::None;
            self.request_event();
        }
        self.read_warning();
    }

    /// Reads a log page (5.14), by which events of its kind may come again.
    fn log_page<T: FromBytes + IntoBytes>(
        &mut self,
        page: u8,
    ) -> Result<alloc::boxed::Box<T>, Error> {
        self.execute(log_entry(page, size_of::<T>(), self.admin.data()))?;
        let mut data = blank::<T>().ok_or(Error::Memory)?;
        self.read_answer(data.as_mut_bytes());
        Ok(data)
    }
}

/// The command that reads the log page `page`, of so many bytes, to `address`.
fn log_entry(page: u8, bytes: usize, address: u64) -> Entry {
    // NUMD is 0's based.
    let words = (bytes / 4 - 1) as u64;
    Entry {
        opcode: opcode::GET_LOG_PAGE,
        namespace: u32::MAX,
        prp1: address,
        cdw10: u64::from(page) | words << 16,
        ..Entry::default()
    }
}
