//! The words that the kernel and the backend share.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use spindle_block::{Access, Discard};
use spindle_limits::IoLimits;

use super::RingLayout;
use crate::store::parse_decimal;
use crate::{DomId, Errno};

/// `enum xenbus_state` (`public/io/xenbus.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct XenbusState(pub u32);

impl XenbusState {
    /// Absent or unreadable.
    pub const UNKNOWN: Self = Self(0);
    /// Just made by the toolstack, or a frontend starting over.
    pub const INITIALISING: Self = Self(1);
    /// The backend waits for the frontend.
    pub const INIT_WAIT: Self = Self(2);
    /// The frontend has published its rings.
    pub const INITIALISED: Self = Self(3);
    /// In use.
    pub const CONNECTED: Self = Self(4);
    /// Being given up.
    pub const CLOSING: Self = Self(5);
    /// Given up.
    pub const CLOSED: Self = Self(6);

    pub(super) fn parse(value: &[u8]) -> Self {
        parse_decimal(value).map_or(Self::UNKNOWN, Self)
    }
}

impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::INITIALISING => f.write_str("Initialising"),
            Self::INIT_WAIT => f.write_str("InitWait"),
            Self::INITIALISED => f.write_str("Initialised"),
            Self::CONNECTED => f.write_str("Connected"),
            Self::CLOSING => f.write_str("Closing"),
            Self::CLOSED => f.write_str("Closed"),
            Self(other) => write!(f, "state {other}"),
        }
    }
}

/// A block device: whose frontend it is for and its number there (51712 = xvda).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// The guest.
    pub frontend: DomId,
    /// The device number.
    pub device: u32,
}

impl DeviceId {
    /// From the names of its two directories, which must be plain decimals.
    pub(super) fn parse(frontend: &[u8], device: &[u8]) -> Option<Self> {
        Some(Self {
            frontend: parse_guest(frontend)?,
            device: plain(device)?,
        })
    }

    /// `backend/vbd/<fe>/<dev>`, below our home.
    pub(super) fn back(&self) -> String {
        format!("backend/vbd/{}/{}", self.frontend.0, self.device)
    }

    /// `/local/domain/<fe>/device/vbd/<dev>`.
    pub(super) fn front(&self) -> String {
        format!(
            "/local/domain/{}/device/vbd/{}",
            self.frontend.0, self.device
        )
    }

    /// The directory of the error text, where Linux puts it too.
    pub(super) fn error(&self) -> String {
        format!("error/{}", self.back())
    }
}

/// A guest's number from the name of its directory.
pub(super) fn parse_guest(name: &[u8]) -> Option<DomId> {
    let number = u16::try_from(plain(name)?).ok()?;
    (number < DomId::SELF.0).then_some(DomId(number))
}

/// A number as a name: there is only one way to write each.
fn plain(text: &[u8]) -> Option<u32> {
    let number = parse_decimal(text)?;
    (!text.ends_with(b"\0") && (text == b"0" || !text.starts_with(b"0"))).then_some(number)
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.frontend.0, self.device)
    }
}

/// Why a device or a connection is refused: for the error node and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of fault.
    pub errno: Errno,
    /// What a person needs to know.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// A refusal.
    pub fn new(errno: Errno, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            errno,
            text: text.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.errno.0, self.text)
    }
}

/// What we offer to every frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `multi-queue-max-queues`, at least 1; of disks that serve fewer, so many.
    pub max_queues: u32,
    /// `max-ring-page-order`: log2 of a ring's pages, at most 4.
    pub max_ring_page_order: u32,
    /// `feature-max-indirect-segments`; 0 for none.
    pub max_indirect_segments: u32,
    /// `feature-persistent`.
    pub persistent: bool,
}

impl Offer {
    /// What is offered of a disk.
    pub(super) fn of(&self, disk: &DiskFacts) -> Self {
        Self {
            max_queues: self.max_queues.min(disk.queues.max(1)),
            ..*self
        }
    }
}

/// Which disk the toolstack gives a device, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRequest {
    /// `target=` as the user wrote it, without what precedes the name.
    pub target: String,
    /// What the guest may do.
    pub access: Access,
    /// Whether the toolstack lets the guest discard (`discard-enable`); without, the disk's facts
    /// must name no [`Discard`].
    pub discard: bool,
    /// Whether to show it with sectors of 512 bytes, whatever its blocks (`target=512e:...`).
    pub sectors: bool,
    /// Its limits and weight (`target=iops=500:weight=2:...`).
    pub limits: Box<IoLimits>,
}

/// What the kernel knows about an opened disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// Size in 512-byte units, whatever the sector size.
    pub sectors: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Physical sector size in bytes.
    pub physical_sector_size: u32,
    /// Whether writes are refused, by the disk or by `mode`.
    pub read_only: bool,
    /// FLUSH is answered.
    pub flush: bool,
    /// WRITE_BARRIER is answered.
    pub barrier: bool,
    /// DISCARD is answered.
    pub discard: Option<Discard>,
    /// Rings that can be served at the same time; more are of no use, and not offered.
    pub queues: u32,
}

/// Tells connections apart: no two ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// A connection that the kernel is to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The device, and with it the frontend's domain.
    pub device: DeviceId,
    /// This connection.
    pub generation: Generation,
    /// The frontend's rings.
    pub layout: RingLayout,
    /// It is one that a former life of the kernel had, with requests under way: to be taken up as it
    /// stands.
    pub former: bool,
}

/// A connection of a former life of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerConnection {
    /// The frontend's rings.
    pub layout: RingLayout,
    /// The size that the frontend was shown last, in 512-byte units.
    pub sectors: u64,
}

/// A device that a former life of the kernel has served: its connection, or why that cannot be taken
/// up.
pub type FormerDevice = (DeviceId, Result<FormerConnection, Refusal>);

/// What the toolstack wants of the whole domain (`control/shutdown`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownKind {
    /// `poweroff`
    PowerOff,
    /// `halt`
    Halt,
    /// `reboot`
    Reboot,
}

impl ShutdownKind {
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        match value {
            b"poweroff" => Some(Self::PowerOff),
            b"halt" => Some(Self::Halt),
            b"reboot" => Some(Self::Reboot),
            _ => None,
        }
    }
}

/// What the kernel is to do. Each is done once; the answers, where there are any, may come at any
/// time later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Find the disk; answer by [`Backend::opened`](super::Backend::opened).
    Open {
        /// For which device.
        device: DeviceId,
        /// Which disk, and how.
        disk: DiskRequest,
        /// The frontend is connected, by a former life of the kernel: it must be the disk that it has.
        former: bool,
    },
    /// Map the rings and serve them; answer by [`Backend::connected`](super::Backend::connected).
    Connect(ConnectRequest),
    /// Stop serving, wait for what is in flight, unmap everything; answer by
    /// [`Backend::disconnected`](super::Backend::disconnected).
    Disconnect {
        /// Which device.
        device: DeviceId,
        /// Its connection.
        generation: Generation,
    },
    /// The disk is not needed any more. No answer.
    Close {
        /// Which device.
        device: DeviceId,
    },
    /// An administrator asks for the disks to be looked at again (`data/spindle/rescan` was written).
    /// No answer.
    Rescan,
    /// An operator asks for a drill, once [`Backend::take_drills`](super::Backend::take_drills) was
    /// called: what was written to `control/sysrq` by `xl sysrq`, or to `data/spindle/crash`. At most 64
    /// bytes of it. No answer.
    Drill(Vec<u8>),
    /// An operator asks for an update of the kernel (`data/spindle/update` was written): what is there.
    Update(Vec<u8>),
    /// An administrator asks for other limits (`data/spindle/limit` was written): what is there.
    Limit(Vec<u8>),
    /// An administrator asks for a logical volume to be changed (`data/spindle/volume` was written): what is
    /// there.
    Volume(Vec<u8>),
    /// An administrator sets an option (`data/spindle/setting` was written): what is there.
    Setting(Vec<u8>),
    /// An administrator asks for what a controller says of itself (`data/spindle/inspect` was written): at
    /// most 64 bytes of what is there.
    Inspect(Vec<u8>),
    /// The toolstack asks for a shutdown: call [`Backend::shutdown`](super::Backend::shutdown).
    ShutdownRequested(ShutdownKind),
    /// [`Backend::shutdown`](super::Backend::shutdown) has come to its end.
    ShutDown {
        /// Whether every device is closed; otherwise the deadline has passed.
        clean: bool,
    },
    /// xenstore is lost: nothing more will happen here.
    StoreLost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_directories_are_strict_decimals() {
        let id = DeviceId::parse(b"5", b"51712").unwrap();
        assert_eq!(
            id,
            DeviceId {
                frontend: DomId(5),
                device: 51712
            }
        );
        assert_eq!(id.back(), "backend/vbd/5/51712");
        for (frontend, device) in [
            ("05", "1"),
            ("5", "+1"),
            ("5", "01"),
            ("32752", "1"),
            ("65536", "1"),
            ("", "1"),
            ("5", ""),
        ] {
            assert_eq!(
                DeviceId::parse(frontend.as_bytes(), device.as_bytes()),
                None
            );
        }
    }
}
