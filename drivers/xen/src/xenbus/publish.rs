//! What we tell in the store besides a device's own directory: why devices are refused, and
//! whatever the kernel publishes.

use alloc::string::String;
use alloc::vec::Vec;

use log::{error, warn};

use super::jobs::ROOT;
use super::{Backend, DeviceId, Refusal};
use crate::Errno;
use crate::store::{Priority, Reply, Request, UnitId};

/// Values waiting to be published, at most: as many nodes as xenstored's default quota lets us
/// have. There is one for each disk, of which each controller may have a hundred.
const MAX_PUBLISH: usize = 1000;
/// Error nodes kept in the store, at most: they count against our quota.
const MAX_ERRORS: usize = 32;
/// Values published in one unit of work.
const BATCH: usize = 16;

/// The paths of a batch under way.
#[derive(Debug)]
pub(super) struct PublishBatch {
    paths: Vec<String>,
}

impl PublishBatch {
    /// Says which values were not taken; there is no second try.
    pub(super) fn check(&self, replies: &[Reply]) {
        for (path, reply) in self.paths.iter().zip(replies) {
            if let Err(errno) = reply
                && *errno != Errno::ENOENT
            {
                warn!("cannot publish {path}: {errno}");
            }
        }
    }
}

impl Backend {
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

    pub(super) fn publish_error(&mut self, id: DeviceId, refusal: &Refusal) {
        error!("vbd {id}: refused: {refusal}");
        self.write_error(id, refusal);
    }

    /// Has the error node written, if there is room for it.
    pub(super) fn write_error(&mut self, id: DeviceId, refusal: &Refusal) {
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
        // A former life may have left one.
        if !self.errors.contains(&id) && self.former.is_none() {
            return;
        }
        self.errors.retain(|known| *known != id);
        let told = alloc::format!("{}/error", id.error());
        self.outbox.retain(|(path, _)| *path != told);
        let of_guest = |other: &DeviceId| other.frontend == id.frontend;
        let served = self.former.is_some() && self.entries.iter().any(|entry| of_guest(&entry.id));
        let path = if served || self.errors.iter().any(of_guest) {
            id.error()
        } else {
            alloc::format!("error/{ROOT}/{}", id.frontend.0)
        };
        self.enqueue(path, None);
    }

    pub(super) fn enqueue(&mut self, path: String, value: Option<Vec<u8>>) {
        if let Some((_, waiting)) = self.outbox.iter_mut().find(|(known, _)| *known == path) {
            *waiting = value;
        } else if self.outbox.len() < MAX_PUBLISH {
            self.outbox.push_back((path, value));
        } else {
            warn!("{path} is not published: too much is waiting");
        }
    }

    /// Starts to publish what has waited longest; it gives way to everything else.
    pub(super) fn start_publish(&mut self) -> (UnitId, PublishBatch) {
        let mut paths = Vec::new();
        let mut requests = Vec::new();
        while requests.len() < BATCH
            && let Some((path, value)) = self.outbox.pop_front()
        {
            paths.push(path.clone());
            requests.push(match value {
                Some(value) => Request::Write(path, value),
                None => Request::Remove(path),
            });
        }
        let unit = self.client.send(requests, Priority::Background);
        (unit, PublishBatch { paths })
    }
}
