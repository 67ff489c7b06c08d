//! What to ask of a disk when it is brought up.

use core::time::Duration;

/// What to ask of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// Queues wanted, at least 1; the disk may have or grant fewer.
    pub queues: u16,
    /// Entries in each queue; rounded down to a power of two, and to what driver and disk take.
    pub depth: u16,
    /// How long a command may take. What follows is the driver's to know: an NVMe command is
    /// aborted then, and after the same time again the controller is reset; virtio has no way to
    /// take a single command back, so that the device counts as failed.
    pub timeout: Duration,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            depth: 256,
            timeout: Duration::from_secs(30),
        }
    }
}
