//! The units of xenstore work, one at a time: setting up, finding devices, publishing,
//! acknowledging a shutdown, looking at devices in turn. And where watch events lead.

use alloc::string::String;
use alloc::vec::Vec;

use log::{error, warn};

use super::backend::{Entry, state_of, token_of};
use super::device::Device;
use super::look::Look;
use super::publish::PublishBatch;
use super::{Action, Backend, DeviceId, Generation, Refusal, ShutdownKind};
use crate::Errno;
use crate::store::{Reply, Request, TransactionError, wire};

/// Devices served at once, at most; the frontends' watches count against xenstored's 128.
const MAX_DEVICES: usize = 64;
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

/// The unit of work under way.
#[derive(Debug)]
pub(super) enum Job {
    None,
    Setup,
    Scan { frontends: Option<Vec<Vec<u8>>> },
    Acknowledge { kind: Option<ShutdownKind> },
    Publish(PublishBatch),
    Unwatch,
    Look(Look),
}

impl Backend {
    /// A watch event only marks what it is about.
    pub(super) fn route(&mut self, path: &[u8], token: &[u8]) {
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

    pub(super) fn start_next(&mut self) {
        if core::mem::take(&mut self.shutdown_due) {
            self.job = Job::Acknowledge { kind: None };
            self.client
                .begin(Vec::from([Request::Read(SHUTDOWN.into())]));
        } else if !self.set_up {
            // Until then nothing is published: who is not told of devices does not serve.
            if self.now < self.setup_at {
                return;
            }
            self.job = Job::Setup;
            self.client.send(Vec::from([
                Request::Watch(ROOT.into(), ROOT_TOKEN.into()),
                Request::Watch(SHUTDOWN.into(), SHUTDOWN_TOKEN.into()),
                Request::Write("control/feature-poweroff".into(), b"1".into()),
                Request::Write("control/feature-reboot".into(), b"1".into()),
            ]));
        } else if !self.unwatch.is_empty() {
            self.job = Job::Unwatch;
            let gone = self.unwatch.drain(..);
            let gone = gone.map(|id| Request::Unwatch(state_of(id), token_of(id)));
            self.client.send(gone.collect());
        } else if !self.outbox.is_empty() {
            let batch = self.start_publish();
            self.job = Job::Publish(batch);
        } else if core::mem::take(&mut self.scan_due) {
            self.job = Job::Scan { frontends: None };
            self.client
                .send(Vec::from([Request::Directory(ROOT.into())]));
        } else if let Some(look) = self.next_look() {
            self.job = Job::Look(look);
        }
    }

    pub(super) fn replied(&mut self, replies: &[Reply]) {
        self.job = match core::mem::replace(&mut self.job, Job::None) {
            Job::None | Job::Unwatch => Job::None,
            Job::Setup => {
                // The watches; a second try finds those that the first one set.
                let failed = replies.iter().take(2).find_map(|reply| match reply {
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
                Job::None
            }
            Job::Publish(batch) => {
                batch.check(replies);
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

    pub(super) fn ended(&mut self, result: Result<(), TransactionError>) {
        match core::mem::replace(&mut self.job, Job::None) {
            Job::Acknowledge { .. }
                if result == Err(TransactionError::Conflict)
                    && self.shutdown_conflicts < SHUTDOWN_CONFLICTS =>
            {
                self.shutdown_conflicts += 1;
                self.shutdown_due = true;
            }
            Job::Acknowledge { kind: Some(kind) } => {
                self.shutdown_conflicts = 0;
                self.actions.push_back(Action::ShutdownRequested(kind));
            }
            Job::Look(look) => self.look_ended(look, result),
            _ => {}
        }
    }
}
