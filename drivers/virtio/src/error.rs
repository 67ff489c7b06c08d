//! What can go wrong with a device as a whole; single commands have `IoError`.

use core::time::Duration;

use spindle_block::IoError;
use spindle_hw::Span;

/// Why a device could not be used, or not any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Registers read as all ones, or the device is not as it was left: it was removed or reset.
    #[error("device does not answer")]
    Gone,
    /// No driver has acknowledged the device since it was last reset, which a driver before this one did.
    #[error("device has been reset, or has lost its power in between")]
    Restarted,
    /// The device set DEVICE_NEEDS_RESET (2.1).
    #[error("device reports a fatal error")]
    NeedsReset,
    /// It failed before, and has not been brought up again.
    #[error("device is lost")]
    Lost,
    /// A core has not given back a queue from before the device was lost.
    #[error("a core still has a queue of the device")]
    Held,
    /// The device has come back with fewer virtqueues than cores have.
    #[error(
        "device has {have} queues, and cores have {needed}; after a restart of this domain only \
         {have} of them use it"
    )]
    FewerQueues {
        /// How many it has.
        have: usize,
        /// How many there must be.
        needed: usize,
    },
    /// A command was not answered in time.
    #[error("a command got no answer within {}", Span(*.0))]
    Late(Duration),
    /// Device status did not become 0 after a reset.
    #[error("device did not reset within {}", Span(*.0))]
    NoReset(Duration),
    /// VIRTIO_F_VERSION_1 is not offered.
    #[error("device knows the legacy interface only")]
    Legacy,
    /// VIRTIO_F_ACCESS_PLATFORM is not offered.
    #[error("device would bypass the IOMMU (VIRTIO_F_ACCESS_PLATFORM is not offered)")]
    BypassesIommu,
    /// The device did not accept the features chosen of those that it offered.
    #[error("device refuses features {0:#x}, all of which it offered")]
    FeaturesRefused(u64),
    /// The configuration space ends before a field that a feature announces.
    #[error("configuration space is too small")]
    Configuration,
    /// The configuration kept changing while it was read.
    #[error("configuration does not settle")]
    Unsettled,
    /// Blocks neither of 512 nor of 4096 bytes.
    #[error("block size {0} bytes is neither 512 nor 4096")]
    BlockSize(u32),
    /// Requests may not even have pieces of a page.
    #[error("pieces of memory may have at most {0} bytes; a page is needed")]
    PieceSize(u32),
    /// More bytes than can be counted.
    #[error("size of {0:#x} sectors is not plausible")]
    Size(u64),
    /// A virtqueue that is too small for any request, or none at all.
    #[error("virtqueue {queue} has {entries} entries")]
    QueueSize {
        /// Which one.
        queue: u16,
        /// Entries it may have at most.
        entries: u32,
    },
    /// The notification address of a virtqueue is outside the notification registers.
    #[error("virtqueue {0} has an impossible notification address")]
    Doorbell(u16),
    /// A request of bring-up or shutdown was not answered.
    #[error("request {kind} got no answer within {}", Span(*.limit))]
    Timeout {
        /// Type of the request (5.2.6).
        kind: u32,
        /// How long was waited.
        limit: Duration,
    },
    /// A device that has a serial number failed to give it.
    #[error("serial number cannot be read: {0}")]
    Serial(IoError),
    /// The cache could not be written out.
    #[error("the cache could not be written out")]
    Flush,
    /// No memory for queues.
    #[error("out of memory for queues")]
    Memory,
    /// All virtqueues are in use.
    #[error("all {have} queues of the device are in use")]
    NoQueue {
        /// How many there are.
        have: u16,
    },
}
