//! The backend as the kernel sees it: events and reports in, actions out.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use log::warn;

use super::device::{Device, PATIENCE_NS};
use super::jobs::{Job, Running};
use super::orders::Orders;
use super::turns::MAX_LOOKS;
use super::{Action, DeviceId, DiskFacts, FormerDevice, Generation, Offer, Refusal};
use crate::DomId;
use crate::store::{Client, Event, Ring};

/// Things handled in one [`Backend::pump`], so that a flood does not keep the caller.
const BUDGET: usize = 256;

/// A device and what is due for it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: DeviceId,
    pub(super) device: Device,
    pub(super) generation: Generation,
    /// Whether we watch the frontend's state.
    pub(super) watched: bool,
    /// Whether something may have changed since the last look.
    pub(super) dirty: bool,
    /// Whether the frontend has written its state since a look has read it. Exact, since xenstored
    /// sends the event of a write before the answer to any later read.
    pub(super) written: bool,
    /// The same for the look under way, which has read the state already but not gone on.
    pub(super) written_after: bool,
    /// Whether a look is under way.
    pub(super) looking: bool,
    /// When the last look began, in looks of all devices; 0 if there was none.
    pub(super) looked: u64,
    /// The looks begun so far are within the guest's share at this time.
    pub(super) paid_until: u64,
    /// No look before this, however dirty.
    pub(super) blocked_until: u64,
    /// A look at this time, whatever happens.
    pub(super) wake_at: Option<u64>,
    /// Transactions lost to a conflict, and refused, in a row.
    pub(super) conflicts: u32,
    pub(super) failures: u32,
    /// After so many refusals nothing is tried before there is news, but for a watch that is not
    /// set yet.
    pub(super) given_up: bool,
    /// The error node tells of what is wrong now.
    pub(super) told: bool,
    /// We removed the directory to refuse the device: the error stays.
    pub(super) vanished: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Shutdown {
    deadline: u64,
    patience_ns: u64,
    told: bool,
}

/// The block backend of a driver domain.
///
/// ```text
/// loop {
///     while let Some(action) = backend.pump(&mut ring, now) { carry it out }
///     if ring.take_notify() { notify xenstored }
///     sleep until xenstored's event, a report, or backend.next_deadline()
/// }
/// ```
///
/// Reports ([`Backend::opened`] and so on) may be given at any time between calls of `pump`; pump
/// afterwards.
#[derive(Debug)]
pub struct Backend {
    pub(super) client: Client,
    pub(super) offer: Offer,
    pub(super) entries: Vec<Entry>,
    pub(super) actions: VecDeque<Action>,
    pub(super) now: u64,
    pub(super) running: Vec<Running>,
    /// Looks begun.
    pub(super) looks: u64,
    pub(super) next_generation: u64,
    /// Paths and values to write, or to remove, when there is time; in this order.
    pub(super) outbox: VecDeque<(String, Option<Vec<u8>>)>,
    /// Devices with an error node, oldest first.
    pub(super) errors: VecDeque<DeviceId>,
    pub(super) unwatch: Vec<DeviceId>,
    /// Devices that a former life of the kernel has served; `None` in the first one.
    pub(super) former: Option<Vec<FormerDevice>>,
    /// Those of them that the kernel serves though nothing has been asked.
    pub(super) held: Vec<DeviceId>,
    /// All devices that are in the store have been seen.
    pub(super) listed: bool,
    pub(super) set_up: bool,
    /// No try to set up before this.
    pub(super) setup_at: u64,
    pub(super) scan_due: bool,
    /// Guests of which new devices are to be looked for.
    pub(super) scan_guests: Vec<DomId>,
    /// Devices that found no place, and wait for one.
    pub(super) turned_away: VecDeque<DeviceId>,
    /// More found no place than are remembered.
    pub(super) crowded: bool,
    /// The watch for such requests has been set, and has sent its first event, which is none.
    pub(super) rescan_watched: bool,
    pub(super) orders: Orders,
    pub(super) shutdown_due: bool,
    /// Acknowledgements lost to a conflict, in a row.
    pub(super) shutdown_conflicts: u32,
    pub(super) shutdown: Option<Shutdown>,
    /// The last pump ended by its budget.
    pub(super) unfinished: bool,
}

impl Backend {
    /// A backend that offers `offer` to every frontend. It looks for devices as soon as it is
    /// pumped.
    #[must_use]
    pub fn new(offer: Offer) -> Self {
        Self {
            client: Client::new(),
            offer,
            entries: Vec::new(),
            actions: VecDeque::new(),
            now: 0,
            running: Vec::new(),
            looks: 0,
            next_generation: 1,
            outbox: VecDeque::new(),
            errors: VecDeque::new(),
            unwatch: Vec::new(),
            former: None,
            held: Vec::new(),
            listed: false,
            set_up: false,
            setup_at: 0,
            scan_due: false,
            scan_guests: Vec::new(),
            turned_away: VecDeque::new(),
            crowded: false,
            rescan_watched: false,
            orders: Orders::default(),
            shutdown_due: false,
            shutdown_conflicts: 0,
            shutdown: None,
            unfinished: false,
        }
    }

    /// A backend in a life of the kernel that is not the first in its domain. Connections of `former`
    /// are taken up where both sides in xenstore are as they were left, without a word there; those
    /// that cannot be are ended with the reason. The watches and transactions of that life are over
    /// ([`Resume`](crate::store::Resume)).
    #[must_use]
    pub fn resume(offer: Offer, former: Vec<FormerDevice>) -> Self {
        let known: Vec<_> = former.iter().map(|(id, _)| *id).collect();
        let mut backend = Self {
            former: Some(former),
            ..Self::new(offer)
        };
        // Their frontends wait: they are looked at before it is known what else there is.
        known.into_iter().for_each(|id| backend.mark(id));
        backend
    }

    /// Whether a device that a former life of the kernel has served may yet be taken up: it is in the
    /// store, or may be, and nothing else has been decided. Its disk may be open by then.
    #[must_use]
    pub fn may_take_up(&self, device: DeviceId) -> bool {
        match self.entries.iter().find(|entry| entry.id == device) {
            Some(entry) => entry.device.was_connected(),
            None => {
                let mut former = self.former.iter().flatten();
                !self.listed && former.any(|(id, _)| *id == device)
            }
        }
    }

    /// Whether it is known by now that a device which a former life has served is not to be taken up as it
    /// was, or has gone, and every [`Action`] that follows from that so far was given.
    #[must_use]
    pub fn has_decided(&self, device: DeviceId) -> bool {
        !self.unfinished && self.actions.is_empty() && !self.may_take_up(device)
    }

    /// The kernel serves a device as a former life did: that is taken up, or nothing follows before
    /// [`Backend::release`].
    pub fn hold(&mut self, device: DeviceId) {
        self.held.push(device);
    }

    /// The kernel serves a device only as it was asked to from now on.
    pub fn release(&mut self, device: DeviceId) {
        self.held.retain(|held| *held != device);
        self.mark(device);
    }

    /// Handles what has come, starts what is due, and gives the next thing for the kernel to do;
    /// call until `None`, then notify xenstored if [`Ring::take_notify`] says so.
    pub fn pump(&mut self, ring: &mut Ring, now_ns: u64) -> Option<Action> {
        self.now = now_ns;
        self.unfinished = false;
        for _ in 0..BUDGET {
            self.check_shutdown();
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            self.continue_opened();
            self.start_due();
            match self.client.poll(ring) {
                Some(Event::Watch { path, token }) => self.route(&path, &token),
                Some(Event::Replies(unit, replies)) => self.replied(unit, &replies),
                Some(Event::Ended(unit, result)) => self.ended(unit, result),
                Some(Event::Broken) => return Some(Action::StoreLost),
                // A transaction is not kept open for a disk that is not opened at once.
                None if self.actions.is_empty() && !self.abandon_opening() => return None,
                None => {}
            }
        }
        self.unfinished = true;
        None
    }

    /// When [`Backend::pump`] must be called again even if nothing happens, in nanoseconds on the
    /// clock that `pump` is given.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.unfinished {
            return Some(self.now);
        }
        let shutdown = self.shutdown.filter(|s| !s.told).map(|s| s.deadline);
        if self.client.is_broken() {
            return shutdown;
        }
        if !self.set_up {
            let again = self.may_set_up().then_some(self.setup_at);
            return shutdown.into_iter().chain(again).min();
        }
        if self.count(|job| matches!(job, Job::Look(_))) >= MAX_LOOKS {
            // No look is begun before another one has ended.
            return shutdown;
        }
        let idle = self.entries.iter().filter(|entry| !entry.looking);
        let due =
            idle.flat_map(|entry| [entry.wake_at, entry.dirty.then_some(entry.blocked_until)]);
        // What is due already waits for others, whose end it will see.
        let due = due.flatten().filter(|time| *time > self.now);
        due.chain(shutdown).min()
    }

    /// Reports the outcome of [`Action::Open`].
    pub fn opened(&mut self, device: DeviceId, result: Result<DiskFacts, Refusal>) {
        self.report(device, |entry| entry.device.opened(result));
    }

    /// Tells of a disk's new size, in 512-byte units. A frontend that is connected sees the new
    /// `sectors` and the state written again, in one transaction, which is when it looks.
    pub fn resized(&mut self, device: DeviceId, sectors: u64) {
        self.report(device, |entry| entry.device.resized(sectors));
    }

    /// Reports that a device's disk is no longer what it was. The device has no sectors from now on, and
    /// its error node tells `why`; it stays connected, so that its frontend gets errors.
    pub fn emptied(&mut self, device: DeviceId, why: &Refusal) {
        self.write_error(device, why);
        self.resized(device, 0);
    }

    /// Reports the outcome of [`Action::Connect`]. After an `Err` nothing may be left mapped.
    pub fn connected(&mut self, device: DeviceId, of: Generation, result: Result<(), Refusal>) {
        self.report(device, |entry| {
            entry.generation == of && entry.device.connected(result)
        });
    }

    /// Reports that a connection cannot go on: the frontend broke the protocol. It is told, and
    /// [`Action::Disconnect`] follows.
    pub fn failed(&mut self, device: DeviceId, of: Generation, why: Refusal) {
        self.report(device, |entry| {
            entry.generation == of && entry.device.failed(why)
        });
    }

    /// Reports the end of [`Action::Disconnect`]: nothing is in flight or mapped any more.
    pub fn disconnected(&mut self, device: DeviceId, of: Generation) {
        self.report(device, |entry| {
            entry.generation == of && entry.device.disconnected()
        });
    }

    /// Writes `value` to `path`, relative to our home, when there is time for it; a later value
    /// for the same path replaces one not yet written.
    pub fn publish(&mut self, path: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.enqueue(path.into(), Some(value.into()));
    }

    /// Removes what was published at `path`, when there is time for it.
    pub fn unpublish(&mut self, path: impl Into<String>) {
        self.enqueue(path.into(), None);
    }

    /// Closes every device: frontends are asked first, those that do not answer are cut off.
    /// [`Action::ShutDown`] comes when all are closed, or at `deadline_ns`.
    pub fn shutdown(&mut self, now_ns: u64, deadline_ns: u64) {
        if self.shutdown.is_none() {
            let patience_ns = (deadline_ns.saturating_sub(now_ns) / 2).min(PATIENCE_NS);
            self.shutdown = Some(Shutdown {
                deadline: deadline_ns,
                patience_ns,
                told: false,
            });
            for entry in &mut self.entries {
                entry.dirty = true;
                entry.blocked_until = now_ns;
            }
        }
    }

    /// Devices known, closed ones included.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.entries.len()
    }

    fn report(&mut self, device: DeviceId, tell: impl FnOnce(&mut Entry) -> bool) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == device) else {
            warn!("vbd {device}: a report for a device that is not there");
            return;
        };
        if !tell(entry) {
            warn!("vbd {device}: a report that nobody awaits");
            return;
        }
        entry.dirty = true;
        self.tell_refusal(device);
    }

    pub(super) fn entry(&mut self, id: DeviceId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    pub(super) const fn patience(&self) -> Option<u64> {
        match self.shutdown {
            Some(shutdown) => Some(shutdown.patience_ns),
            None => None,
        }
    }

    pub(super) fn new_generation(&mut self) -> Generation {
        let generation = Generation(self.next_generation);
        self.next_generation += 1;
        generation
    }

    fn check_shutdown(&mut self) {
        let closed = self.set_up && self.entries.iter().all(|entry| entry.device.is_finished());
        let now = self.now;
        if let Some(shutdown) = self.shutdown.as_mut().filter(|s| !s.told)
            && (closed || now >= shutdown.deadline)
        {
            shutdown.told = true;
            self.actions.push_back(Action::ShutDown { clean: closed });
        }
    }

    /// Drops a device of which nothing is left.
    pub(super) fn forget(&mut self, id: DeviceId) {
        let Some(at) = self.entries.iter().position(|entry| entry.id == id) else {
            return;
        };
        let entry = self.entries.swap_remove(at);
        if entry.watched {
            self.unwatch.push(id);
        }
        if !entry.vanished {
            self.clear_error(id);
        }
        // It has not been seen: that takes a list of all devices, which may show it yet.
        if let (Some(connection), Some(former)) = (entry.device.into_former(), &mut self.former) {
            former.push((id, Ok(connection)));
        }
        self.fill_place();
    }
}

/// The node we watch of a frontend: its state is the last thing it writes.
pub(super) fn state_of(id: DeviceId) -> String {
    alloc::format!("{}/state", id.front())
}

pub(super) fn token_of(id: DeviceId) -> String {
    alloc::format!("frontend/{id}")
}
