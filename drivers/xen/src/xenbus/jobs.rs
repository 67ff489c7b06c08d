//! The units of xenstore work: setting up, finding devices, publishing, acknowledging a shutdown,
//! looking at devices. One of each kind at a time, but several looks, each at another device. And
//! where watch events lead.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::{error, warn};

use super::backend::{Entry, state_of, token_of};
use super::device::Device;
use super::look::Look;
use super::orders::OrderNode;
use super::publish::PublishBatch;
use super::types::parse_guest;
use super::view::BACK_KEYS;
use super::{Action, Backend, DeviceId, Generation, Refusal, ShutdownKind};
use crate::store::{Priority, Reply, Request, TransactionError, UnitId, wire};
use crate::{DomId, Errno};

/// Devices served at once, at most; the frontends' watches count against xenstored's 128.
const MAX_DEVICES: usize = 64;
/// Devices that wait for a place, at most, before all are looked for again once one is free.
const MAX_TURNED_AWAY: usize = 1024;
/// Of one guest, so that there is room for others.
const MAX_PER_GUEST: usize = 32;
/// Guests to be scanned at once, at most, before all are.
const MAX_GUESTS: usize = 16;
/// When to try again to watch for devices.
const SETUP_NS: u64 = 1_000_000_000;
/// Conflicts in a row before a shutdown is obeyed without its acknowledgement.
const SHUTDOWN_CONFLICTS: u32 = 32;
/// Guests looked at in one scan of `backend/vbd`.
const MAX_SCAN: usize = 256;

pub(super) const ROOT: &str = "backend/vbd";
const SHUTDOWN: &str = "control/shutdown";
const ROOT_TOKEN: &str = "backend";
const SHUTDOWN_TOKEN: &str = "shutdown";
const RESCAN: &str = spindle_status::path::RESCAN;
const RESCAN_TOKEN: &str = "rescan";

/// A unit of work under way.
#[derive(Debug)]
pub(super) struct Running {
    unit: UnitId,
    job: Job,
}

/// What it is for.
#[derive(Debug)]
pub(super) enum Job {
    Setup,
    /// `None` while the guests are listed.
    Scan {
        /// Of all guests.
        all: bool,
        frontends: Option<Vec<Vec<u8>>>,
    },
    Acknowledge {
        kind: Option<ShutdownKind>,
    },
    /// The text is empty until it is read.
    Order {
        node: OrderNode,
        text: Vec<u8>,
    },
    Publish(PublishBatch),
    Look(Look),
}

impl Backend {
    /// A watch event only marks what it is about.
    pub(super) fn route(&mut self, path: &[u8], token: &[u8]) {
        if token == SHUTDOWN_TOKEN.as_bytes() {
            self.shutdown_due = true;
            return;
        }
        if self.route_order(token) {
            return;
        }
        if token == RESCAN_TOKEN.as_bytes() {
            if core::mem::replace(&mut self.rescan_watched, true) {
                // However often it was written meanwhile.
                self.actions.retain(|action| *action != Action::Rescan);
                self.actions.push_back(Action::Rescan);
            }
            return;
        }
        if token == ROOT_TOKEN.as_bytes() {
            let Some(rest) = path.strip_prefix(ROOT.as_bytes()) else {
                return;
            };
            let mut parts = rest.split(|&byte| byte == b'/').skip(1);
            match (parts.next(), parts.next(), parts.next()) {
                // What we publish there ourselves is not looked at.
                (_, _, Some(key)) if !BACK_KEYS.iter().any(|known| known.as_bytes() == key) => {}
                (Some(frontend), Some(device), _) => {
                    if let Some(id) = DeviceId::parse(frontend, device) {
                        self.mark(id);
                    }
                }
                (Some(frontend), None, _) => {
                    if let Some(guest) = parse_guest(frontend) {
                        self.scan_guest(guest);
                    }
                }
                _ => self.scan_due = true,
            }
            return;
        }
        let mut parts = token.split(|&byte| byte == b'/').skip(1);
        if let (Some(frontend), Some(device)) = (parts.next(), parts.next())
            && let Some(id) = DeviceId::parse(frontend, device)
        {
            let after = self.has_read_state(id);
            if let Some(entry) = self.entry(id) {
                entry.dirty = true;
                entry.written |= !after;
                entry.written_after |= after;
            }
        }
    }

    /// Whether a look at this device has the frontend's state, and waits for what it reads with it.
    fn has_read_state(&self, id: DeviceId) -> bool {
        self.running.iter().any(|running| match &running.job {
            Job::Look(look) => look
                .state_reply(id)
                .is_some_and(|index| self.client.has_reply(running.unit, index)),
            _ => false,
        })
    }

    /// A guest's directory has come or gone.
    fn scan_guest(&mut self, guest: DomId) {
        let of_guest = self
            .entries
            .iter_mut()
            .filter(|entry| entry.id.frontend == guest);
        of_guest.for_each(|entry| entry.dirty = true);
        if self.scan_guests.len() >= MAX_GUESTS {
            self.scan_due = true;
        } else if !self.scan_guests.contains(&guest) {
            self.scan_guests.push(guest);
        }
    }

    /// Marks a device, which may be new.
    pub(super) fn mark(&mut self, id: DeviceId) {
        if let Some(entry) = self.entry(id) {
            entry.dirty = true;
            return;
        }
        let full = if self.entries.len() >= MAX_DEVICES {
            Some("too many devices: 64 are served already")
        } else if self.count_of(id.frontend) >= MAX_PER_GUEST {
            Some("too many devices of this guest: 32 are served already")
        } else {
            None
        };
        if let Some(text) = full {
            if self.turned_away.contains(&id) {
                return;
            }
            if self.turned_away.len() < MAX_TURNED_AWAY {
                self.turned_away.push_back(id);
            } else {
                self.crowded = true;
            }
            self.publish_error(id, &Refusal::new(Errno::ENOSPC, text));
            return;
        }
        let device = match &mut self.former {
            None => Device::new(),
            Some(former) => {
                let known = former.iter().position(|(known, _)| *known == id);
                Device::resumed(known.map(|at| former.swap_remove(at).1))
            }
        };
        self.entries.push(Entry {
            id,
            device,
            generation: Generation(0),
            watched: false,
            dirty: true,
            written: false,
            written_after: false,
            looking: false,
            looked: 0,
            paid_until: 0,
            blocked_until: 0,
            wake_at: None,
            conflicts: 0,
            given_up: false,
            failures: 0,
            told: false,
            vanished: false,
        });
    }

    /// A place is free: the device that has waited for one longest gets it, of those whose guest may
    /// have another. Whether it is still in the store, its first look finds out.
    pub(super) fn fill_place(&mut self) {
        let may_have = |id: &DeviceId| self.count_of(id.frontend) < MAX_PER_GUEST;
        if let Some(at) = self.turned_away.iter().position(may_have)
            && let Some(id) = self.turned_away.remove(at)
        {
            self.mark(id);
        }
        self.scan_due |= self.turned_away.is_empty() && core::mem::take(&mut self.crowded);
    }

    pub(super) fn count_of(&self, guest: DomId) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.id.frontend == guest)
            .count()
    }

    pub(super) fn is_running(&self, which: impl Fn(&Job) -> bool) -> bool {
        self.running.iter().any(|running| which(&running.job))
    }

    pub(super) fn count(&self, which: impl Fn(&Job) -> bool) -> usize {
        self.running
            .iter()
            .filter(|running| which(&running.job))
            .count()
    }

    pub(super) fn run(&mut self, unit: UnitId, job: Job) {
        self.running.push(Running { unit, job });
    }

    /// Starts all that is due and may start now.
    pub(super) fn start_due(&mut self) {
        if self.client.is_broken() {
            return;
        }
        if self.shutdown_due && !self.is_running(|job| matches!(job, Job::Acknowledge { .. })) {
            self.shutdown_due = false;
            let unit = self.client.begin(Vec::new(), Priority::Urgent);
            self.run(unit, Job::Acknowledge { kind: None });
        }
        if !self.set_up {
            self.start_first_looks();
            // Until then nothing is published: who is not told of devices does not serve.
            if self.now >= self.setup_at && self.may_set_up() {
                let requests = Vec::from([
                    Request::Watch(ROOT.into(), ROOT_TOKEN.into()),
                    Request::Watch(SHUTDOWN.into(), SHUTDOWN_TOKEN.into()),
                    Request::Watch(RESCAN.into(), RESCAN_TOKEN.into()),
                    Request::Write("control/feature-poweroff".into(), b"1".into()),
                    Request::Write("control/feature-reboot".into(), b"1".into()),
                ]);
                let unit = self.client.send(requests, Priority::Urgent);
                self.run(unit, Job::Setup);
            }
            return;
        }
        self.start_orders();
        // Before any look, which may watch the same device anew.
        let gone = self.unwatch.drain(..);
        let gone = gone.map(|id| Request::Unwatch(state_of(id), token_of(id)));
        self.client.post(gone.collect());
        if !self.outbox.is_empty() && !self.is_running(|job| matches!(job, Job::Publish(_))) {
            let (unit, batch) = self.start_publish();
            self.run(unit, Job::Publish(batch));
        }
        if !self.is_running(|job| matches!(job, Job::Scan { .. })) {
            self.start_scan();
        }
        while let Some((unit, look)) = self.next_look() {
            self.run(unit, Job::Look(look));
        }
    }

    /// Looks at the devices of a former life, the only ones that are known before the watches are set:
    /// once each. Their frontends wait. What changes meanwhile is seen by the look at every device that
    /// follows the watches.
    fn start_first_looks(&mut self) {
        while self.entries.iter().any(|entry| entry.looked == 0)
            && let Some((unit, look)) = self.next_look()
        {
            self.run(unit, Job::Look(look));
        }
    }

    /// Whether the watches are neither being set nor have to wait for first looks.
    pub(super) fn may_set_up(&self) -> bool {
        let busy = |job: &Job| matches!(job, Job::Setup | Job::Look(_));
        !self.is_running(busy) && self.entries.iter().all(|entry| entry.looked > 0)
    }

    fn start_scan(&mut self) {
        if core::mem::take(&mut self.scan_due) {
            self.scan_guests.clear();
            let requests = Vec::from([Request::Directory(ROOT.into())]);
            let unit = self.client.send(requests, Priority::Urgent);
            let all = true;
            self.run(
                unit,
                Job::Scan {
                    all,
                    frontends: None,
                },
            );
        } else if !self.scan_guests.is_empty() {
            let guests = self.scan_guests.drain(..);
            let names = guests
                .map(|guest| guest.0.to_string().into_bytes())
                .collect();
            self.list_devices(names, false);
        }
    }

    /// Goes on with looks whose disk has been opened, or not, in the transaction in which that was
    /// decided.
    pub(super) fn continue_opened(&mut self) {
        while let Some(Running {
            unit,
            job: Job::Look(look),
        }) = self.take_opening(false)
        {
            if let Some(look) = self.look_opened(unit, look) {
                self.run(unit, Job::Look(look));
            }
        }
    }

    /// Gives up the transactions of looks whose disk is still being opened; true if there were
    /// any. The report will bring another look.
    pub(super) fn abandon_opening(&mut self) -> bool {
        let mut any = false;
        while let Some(Running {
            unit,
            job: Job::Look(look),
        }) = self.take_opening(true)
        {
            any = true;
            self.client.abandon(unit);
            self.look_over(&look);
        }
        any
    }

    /// A look that waits for a disk, which is `still` being opened or not.
    fn take_opening(&mut self, still: bool) -> Option<Running> {
        let at = self.running.iter().position(|running| match &running.job {
            Job::Look(look) => look.opening().is_some_and(|id| {
                self.entries
                    .iter()
                    .any(|e| e.id == id && e.device.is_opening())
                    == still
            }),
            _ => false,
        })?;
        Some(self.running.swap_remove(at))
    }

    fn take_running(&mut self, unit: UnitId) -> Option<Job> {
        let at = self
            .running
            .iter()
            .position(|running| running.unit == unit)?;
        Some(self.running.swap_remove(at).job)
    }

    pub(super) fn replied(&mut self, unit: UnitId, replies: &[Reply]) {
        let next = match self.take_running(unit) {
            None => None,
            Some(Job::Setup) => {
                // The watches; a second try finds those that the first one set.
                let failed = replies.iter().take(3).find_map(|reply| match reply {
                    Ok(_) | Err(Errno::EEXIST) => None,
                    Err(errno) => Some(errno),
                });
                if let Some(errno) = failed {
                    if self.setup_at == 0 {
                        error!("cannot watch xenstore: {errno}; trying again every second");
                    }
                    self.setup_at = self.now.saturating_add(SETUP_NS);
                }
                self.set_up = failed.is_none();
                None
            }
            Some(Job::Publish(batch)) => {
                batch.check(replies);
                None
            }
            Some(Job::Scan { all, frontends }) => {
                self.scanned(all, frontends, replies);
                None
            }
            Some(Job::Acknowledge { .. }) => self.acknowledge(unit, replies),
            Some(Job::Order { node, .. }) => self.read_order(unit, node, replies),
            Some(Job::Look(look)) => self.look_on(unit, look, replies).map(Job::Look),
        };
        if let Some(job) = next {
            self.run(unit, job);
        }
    }

    fn scanned(&mut self, all: bool, frontends: Option<Vec<Vec<u8>>>, replies: &[Reply]) {
        let is_told = |reply: &Reply| matches!(reply, Ok(_) | Err(Errno::ENOENT));
        let all = all && replies.iter().all(is_told);
        let Some(frontends) = frontends else {
            let names = match replies.first() {
                Some(Ok(names)) => names.as_slice(),
                // There is none as long as there is no device.
                Some(Err(Errno::ENOENT)) | None => &[],
                Some(Err(errno)) => {
                    warn!("cannot list {ROOT}: {errno}");
                    &[]
                }
            };
            self.entries.iter_mut().for_each(|entry| entry.dirty = true);
            let names = wire::strings(names).take(MAX_SCAN).map(<[u8]>::to_vec);
            return self.list_devices(names.collect(), all);
        };
        for (frontend, reply) in frontends.iter().zip(replies) {
            for device in wire::strings(reply.as_deref().unwrap_or_default()) {
                if let Some(id) = DeviceId::parse(frontend, device)
                    && self.entry(id).is_none()
                {
                    self.mark(id);
                }
            }
        }
        self.listed |= all;
    }

    fn list_devices(&mut self, names: Vec<Vec<u8>>, all: bool) {
        let paths = names.iter().map(|name| {
            Request::Directory(alloc::format!("{ROOT}/{}", String::from_utf8_lossy(name)))
        });
        let unit = self.client.send(paths.collect(), Priority::Urgent);
        self.run(
            unit,
            Job::Scan {
                all,
                frontends: Some(names),
            },
        );
    }

    fn acknowledge(&mut self, unit: UnitId, replies: &[Reply]) -> Option<Job> {
        let Some(reply) = replies.first() else {
            // The transaction has started.
            let read = Vec::from([Request::Read(SHUTDOWN.into())]);
            self.client.within(unit, Vec::new(), read);
            return Some(Job::Acknowledge { kind: None });
        };
        let value = reply.as_deref().unwrap_or_default();
        if value.is_empty() {
            self.client.abandon(unit);
            return None;
        }
        let kind = ShutdownKind::parse(value);
        if kind.is_none() {
            warn!(
                "{SHUTDOWN} asks for {:?}, which is not supported",
                value.escape_ascii()
            );
        }
        let changes = Vec::from([Request::Write(SHUTDOWN.into(), Vec::new())]);
        self.client.commit(unit, changes);
        Some(Job::Acknowledge { kind })
    }

    pub(super) fn ended(&mut self, unit: UnitId, result: Result<(), TransactionError>) {
        match self.take_running(unit) {
            Some(Job::Acknowledge { .. })
                if result == Err(TransactionError::Conflict)
                    && self.shutdown_conflicts < SHUTDOWN_CONFLICTS =>
            {
                self.shutdown_conflicts += 1;
                self.shutdown_due = true;
            }
            Some(Job::Acknowledge { kind: Some(kind) }) => {
                self.shutdown_conflicts = 0;
                self.actions.push_back(Action::ShutdownRequested(kind));
            }
            Some(Job::Order { node, text }) => self.order_ended(node, text, result),
            Some(Job::Look(look)) => self.look_ended(look, result),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::xenbus::{Abi, FormerConnection, Offer, RingLayout};

    const DEVICE: DeviceId = DeviceId {
        frontend: DomId(9),
        device: 51712,
    };

    #[test]
    fn a_former_device_may_come_until_all_are_listed_without_it() {
        let layout = RingLayout {
            queues: Vec::new(),
            abi: Abi::Native,
            persistent: false,
            large_sectors: false,
        };
        let sectors = 8;
        let connection = FormerConnection { layout, sectors };
        let mut backend = Backend::resume(
            Offer {
                max_queues: 1,
                max_ring_page_order: 0,
                max_indirect_segments: 0,
                persistent: false,
            },
            vec![(DEVICE, Ok(connection))],
        );
        assert!(backend.may_take_up(DEVICE));
        // The look at it has found nothing.
        backend.forget(DEVICE);
        assert_eq!(backend.device_count(), 0);
        let other = DeviceId {
            device: 51728,
            ..DEVICE
        };
        let guests = || Some(vec![b"5".to_vec()]);
        for (all, reply) in [(false, Ok(Vec::new())), (true, Err(Errno::EIO))] {
            backend.scanned(all, guests(), &[reply]);
            assert!(backend.may_take_up(DEVICE));
            assert!(!backend.may_take_up(other));
        }
        backend.scanned(true, guests(), &[Err(Errno::ENOENT)]);
        assert!(!backend.may_take_up(DEVICE));
    }
}
