//! The backend as the kernel sees it: events and reports in, actions out, one xenstore unit of
//! work at a time.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use log::{error, info, warn};

use super::device::{Device, PATIENCE_NS};
use super::look::Look;
use super::{Action, DeviceId, DiskFacts, Generation, Offer, Refusal, ShutdownKind};
use crate::Errno;
use crate::store::{Client, Event, Reply, Request, Ring, TransactionError, wire};

/// Devices served at once, at most; the frontends' watches count against xenstored's 128.
const MAX_DEVICES: usize = 64;
/// Values waiting to be published, at most.
const MAX_PUBLISH: usize = 256;
/// Error nodes kept in the store, at most: they count against our quota.
const MAX_ERRORS: usize = 32;
/// Things handled in one [`Backend::pump`], so that a flood does not keep the caller.
const BUDGET: usize = 256;
/// Guests looked at in one scan of `backend/vbd`.
const MAX_SCAN: usize = 256;

const ROOT: &str = "backend/vbd";
const SHUTDOWN: &str = "control/shutdown";
const ROOT_TOKEN: &str = "backend";
const SHUTDOWN_TOKEN: &str = "shutdown";

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
    /// No look before this, however dirty.
    pub(super) blocked_until: u64,
    /// A look at this time, whatever happens.
    pub(super) wake_at: Option<u64>,
    /// Transactions lost to a conflict, and refused, in a row.
    pub(super) conflicts: u32,
    pub(super) failures: u32,
    /// The error node tells of what is wrong now.
    pub(super) told: bool,
    /// We removed the directory to refuse the device: the error stays.
    pub(super) vanished: bool,
}

/// The unit of work under way.
#[derive(Debug)]
enum Job {
    None,
    Setup,
    Scan { frontends: Option<Vec<Vec<u8>>> },
    Acknowledge { kind: Option<ShutdownKind> },
    Publish { paths: Vec<String> },
    Unwatch,
    Look(Look),
}

#[derive(Clone, Copy, Debug)]
struct Shutdown {
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
    job: Job,
    cursor: usize,
    next_generation: u64,
    publish: BTreeMap<String, Option<Vec<u8>>>,
    /// Devices with an error node, oldest first.
    errors: VecDeque<DeviceId>,
    unwatch: Vec<DeviceId>,
    set_up: bool,
    scan_due: bool,
    /// Some device found no room.
    crowded: bool,
    shutdown_due: bool,
    shutdown: Option<Shutdown>,
    /// The last pump ended by its budget.
    unfinished: bool,
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
            job: Job::None,
            cursor: 0,
            next_generation: 1,
            publish: BTreeMap::new(),
            errors: VecDeque::new(),
            unwatch: Vec::new(),
            set_up: false,
            scan_due: false,
            crowded: false,
            shutdown_due: false,
            shutdown: None,
            unfinished: false,
        }
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
            if self.client.is_idle() && matches!(self.job, Job::None) {
                self.start_next();
            }
            match self.client.poll(ring) {
                Some(Event::Watch { path, token }) => self.route(&path, &token),
                Some(Event::Replies(replies)) => self.replied(&replies),
                Some(Event::Ended(result)) => self.ended(result),
                Some(Event::Broken) => return Some(Action::StoreLost),
                // A look may have ended without asking for anything more.
                None if self.client.is_idle() && self.anything_due() => {}
                None => return self.actions.pop_front(),
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
        let due = self.entries.iter().flat_map(|entry| {
            let blocked = entry.dirty.then_some(entry.blocked_until);
            [entry.wake_at, blocked.filter(|until| *until > self.now)]
        });
        let shutdown = self.shutdown.filter(|s| !s.told).map(|s| s.deadline);
        due.flatten().chain(shutdown).min()
    }

    /// Reports the outcome of [`Action::Open`].
    pub fn opened(&mut self, device: DeviceId, result: Result<DiskFacts, Refusal>) {
        self.report(device, |entry| entry.device.opened(result));
    }

    /// Reports the outcome of [`Action::Connect`]. After an `Err` nothing may be left mapped.
    pub fn connected(&mut self, device: DeviceId, of: Generation, result: Result<(), Refusal>) {
        self.report(device, |entry| {
            entry.generation == of && entry.device.connected(result)
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
            self.entries.iter_mut().for_each(|entry| entry.dirty = true);
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

    /// A watch event only marks what it is about.
    fn route(&mut self, path: &[u8], token: &[u8]) {
        if token == SHUTDOWN_TOKEN.as_bytes() {
            self.shutdown_due = true;
            return;
        }
        if token == ROOT_TOKEN.as_bytes() {
            let Some(rest) = path.strip_prefix(ROOT.as_bytes()) else {
                return;
            };
            let mut parts = rest.split(|&byte| byte == b'/').skip(1);
            match (parts.next(), parts.next()) {
                (Some(frontend), Some(device)) => {
                    if let Some(id) = DeviceId::parse(frontend, device) {
                        self.mark(id);
                    }
                }
                _ => self.scan_due = true,
            }
            return;
        }
        let mut parts = token.split(|&byte| byte == b'/').skip(1);
        if let (Some(frontend), Some(device)) = (parts.next(), parts.next())
            && let Some(id) = DeviceId::parse(frontend, device)
            && let Some(entry) = self.entry(id)
        {
            entry.dirty = true;
        }
    }

    /// Marks a device, which may be new.
    fn mark(&mut self, id: DeviceId) {
        if let Some(entry) = self.entry(id) {
            entry.dirty = true;
        } else if self.entries.len() < MAX_DEVICES {
            self.entries.push(Entry {
                id,
                device: Device::new(),
                generation: Generation(0),
                watched: false,
                dirty: true,
                blocked_until: 0,
                wake_at: None,
                conflicts: 0,
                failures: 0,
                told: false,
                vanished: false,
            });
        } else {
            self.crowded = true;
            if !self.errors.contains(&id) {
                let text = "too many devices: 64 are served already";
                self.publish_error(id, &Refusal::new(Errno::ENOSPC, text));
            }
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
        self.scan_due |= core::mem::take(&mut self.crowded);
    }

    /// Makes a refusal known, once.
    pub(super) fn tell_refusal(&mut self, id: DeviceId) {
        let Some(entry) = self.entry(id) else {
            return;
        };
        let refusal = entry.device.refused().cloned();
        let told = core::mem::replace(&mut entry.told, refusal.is_some());
        if let Some(refusal) = refusal.filter(|_| !told) {
            self.publish_error(id, &refusal);
        }
    }

    fn publish_error(&mut self, id: DeviceId, refusal: &Refusal) {
        error!("vbd {id}: refused: {refusal}");
        self.errors.retain(|known| *known != id);
        if self.errors.len() >= MAX_ERRORS
            && let Some(oldest) = self.errors.front().copied()
        {
            self.clear_error(oldest);
        }
        self.errors.push_back(id);
        let text = alloc::format!("{refusal}");
        self.enqueue(alloc::format!("{}/error", id.error()), Some(text.into()));
    }

    /// Takes the error node away, and its guest's directory with the last one.
    pub(super) fn clear_error(&mut self, id: DeviceId) {
        if !self.errors.contains(&id) {
            return;
        }
        self.errors.retain(|known| *known != id);
        self.publish.remove(&alloc::format!("{}/error", id.error()));
        let path = if self
            .errors
            .iter()
            .any(|other| other.frontend == id.frontend)
        {
            id.error()
        } else {
            alloc::format!("error/{ROOT}/{}", id.frontend.0)
        };
        self.enqueue(path, None);
    }

    fn enqueue(&mut self, path: String, value: Option<Vec<u8>>) {
        if self.publish.len() >= MAX_PUBLISH && !self.publish.contains_key(&path) {
            warn!("{path} is not published: too much is waiting");
            return;
        }
        self.publish.insert(path, value);
    }

    fn anything_due(&self) -> bool {
        matches!(self.job, Job::None)
            && (!self.set_up
                || self.shutdown_due
                || self.scan_due
                || !self.unwatch.is_empty()
                || !self.publish.is_empty()
                || self
                    .entries
                    .iter()
                    .any(|e| e.dirty && e.blocked_until <= self.now)
                || !self.actions.is_empty())
    }

    fn start_next(&mut self) {
        if !self.set_up {
            self.job = Job::Setup;
            self.client.send(Vec::from([
                Request::Watch(ROOT.into(), ROOT_TOKEN.into()),
                Request::Watch(SHUTDOWN.into(), SHUTDOWN_TOKEN.into()),
                Request::Write("control/feature-poweroff".into(), b"1".into()),
                Request::Write("control/feature-reboot".into(), b"1".into()),
            ]));
        } else if core::mem::take(&mut self.shutdown_due) {
            self.job = Job::Acknowledge { kind: None };
            self.client
                .begin(Vec::from([Request::Read(SHUTDOWN.into())]));
        } else if !self.unwatch.is_empty() {
            self.job = Job::Unwatch;
            let gone = self.unwatch.drain(..);
            let gone = gone.map(|id| Request::Unwatch(state_of(id), token_of(id)));
            self.client.send(gone.collect());
        } else if !self.publish.is_empty() {
            self.start_publish();
        } else if core::mem::take(&mut self.scan_due) {
            self.job = Job::Scan { frontends: None };
            self.client
                .send(Vec::from([Request::Directory(ROOT.into())]));
        } else if let Some(look) = self.next_look() {
            self.job = Job::Look(look);
        }
    }

    fn start_publish(&mut self) {
        let mut paths = Vec::new();
        let mut requests = Vec::new();
        while requests.len() < 16
            && let Some((path, value)) = self.publish.pop_first()
        {
            paths.push(path.clone());
            requests.push(match value {
                Some(value) => Request::Write(path, value),
                None => Request::Remove(path),
            });
        }
        self.job = Job::Publish { paths };
        self.client.send(requests);
    }

    /// The next device in turn that something is due for.
    fn next_look(&mut self) -> Option<Look> {
        let now = self.now;
        let count = self.entries.len();
        for step in 0..count {
            let at = (self.cursor + step) % count;
            let entry = self.entries.get_mut(at)?;
            if entry.wake_at.is_some_and(|time| time <= now) {
                entry.wake_at = None;
                entry.dirty = true;
            }
            if entry.dirty && entry.blocked_until <= now {
                entry.dirty = false;
                self.cursor = (at + 1) % count;
                let id = entry.id;
                return Some(self.start_look(id));
            }
        }
        None
    }

    fn replied(&mut self, replies: &[Reply]) {
        self.job = match core::mem::replace(&mut self.job, Job::None) {
            Job::None | Job::Unwatch => Job::None,
            Job::Setup => {
                self.set_up = true;
                if let Some(Err(errno)) = replies.first() {
                    error!("cannot watch {ROOT}: {errno}; no device will be found");
                }
                Job::None
            }
            Job::Publish { paths } => {
                for (path, reply) in paths.iter().zip(replies) {
                    if let Err(errno) = reply
                        && *errno != Errno::ENOENT
                    {
                        warn!("cannot publish {path}: {errno}");
                    }
                }
                Job::None
            }
            Job::Scan { frontends } => self.scanned(frontends, replies),
            Job::Acknowledge { .. } => self.acknowledge(replies.first()),
            Job::Look(look) => self.look_on(look, replies).map_or(Job::None, Job::Look),
        };
    }

    fn scanned(&mut self, frontends: Option<Vec<Vec<u8>>>, replies: &[Reply]) -> Job {
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
            let names: Vec<Vec<u8>> = wire::strings(names)
                .take(MAX_SCAN)
                .map(<[u8]>::to_vec)
                .collect();
            let paths = names.iter().map(|name| {
                Request::Directory(alloc::format!("{ROOT}/{}", String::from_utf8_lossy(name)))
            });
            self.client.send(paths.collect());
            return Job::Scan {
                frontends: Some(names),
            };
        };
        for (frontend, reply) in frontends.iter().zip(replies) {
            for device in wire::strings(reply.as_deref().unwrap_or_default()) {
                if let Some(id) = DeviceId::parse(frontend, device) {
                    self.mark(id);
                }
            }
        }
        self.entries.iter_mut().for_each(|entry| entry.dirty = true);
        Job::None
    }

    fn acknowledge(&mut self, reply: Option<&Reply>) -> Job {
        let value = reply
            .and_then(|reply| reply.as_deref().ok())
            .unwrap_or_default();
        let kind = ShutdownKind::parse(value);
        let changes = if value.is_empty() {
            Vec::new()
        } else {
            Vec::from([Request::Write(SHUTDOWN.into(), Vec::new())])
        };
        if kind.is_none() && !value.is_empty() {
            warn!(
                "{SHUTDOWN} asks for {:?}, which is not supported",
                value.escape_ascii()
            );
        }
        self.client.commit(changes);
        Job::Acknowledge { kind }
    }

    fn ended(&mut self, result: Result<(), TransactionError>) {
        match core::mem::replace(&mut self.job, Job::None) {
            Job::Acknowledge { .. } if result == Err(TransactionError::Conflict) => {
                self.shutdown_due = true;
            }
            Job::Acknowledge { kind: Some(kind) } => {
                info!("shutdown requested: {kind:?}");
                self.actions.push_back(Action::ShutdownRequested(kind));
            }
            Job::Look(look) => self.look_ended(look, result),
            _ => {}
        }
    }
}

/// The node we watch of a frontend: its state is the last thing it writes.
pub(super) fn state_of(id: DeviceId) -> String {
    alloc::format!("{}/state", id.front())
}

pub(super) fn token_of(id: DeviceId) -> String {
    alloc::format!("frontend/{id}")
}
