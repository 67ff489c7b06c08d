//! Devices of a former life of the kernel whose disks are not there yet: a controller may take a while
//! to come up, longer than the others. Their frontends have requests under way, and wait. So do other
//! devices on the same disks, which would keep these from theirs.

use alloc::vec::Vec;

use spindle_xen::xenbus::{DeviceId, DiskRequest};

/// How long a disk is waited for, from the start of the life on.
const PATIENCE_NS: u64 = 30_000_000_000;
/// When devices are given up that nothing has been heard of in xenstore.
const SILENCE_NS: u64 = 60_000_000_000;

/// These devices, and what each is to have.
#[derive(Debug, Default)]
pub(crate) struct LateDisks {
    waiting: Vec<(DeviceId, DiskRequest)>,
    started: u64,
}

impl LateDisks {
    /// The life has started now.
    pub(crate) const fn new(now: u64) -> Self {
        Self {
            waiting: Vec::new(),
            started: now,
        }
    }

    /// Whether a disk that is not there may still come.
    pub(crate) const fn may_come(&self, now: u64) -> bool {
        now < self.started.saturating_add(PATIENCE_NS)
    }

    /// Whether xenstore has shown by now all that is there.
    pub(crate) const fn are_all_seen(&self, now: u64) -> bool {
        now >= self.started.saturating_add(SILENCE_NS)
    }

    /// This one waits.
    pub(crate) fn add(&mut self, id: DeviceId, request: DiskRequest) {
        self.waiting.push((id, request));
    }

    /// All that wait; none does after this.
    pub(crate) fn take(&mut self) -> Vec<(DeviceId, DiskRequest)> {
        core::mem::take(&mut self.waiting)
    }
}
