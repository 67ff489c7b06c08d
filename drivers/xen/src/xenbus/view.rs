//! What one look has read: the backend's directory and the frontend's.

use alloc::boxed::Box;
use alloc::string::String;

use spindle_limits::IoLimits;

use super::rings::quoted;
use super::{Access, DeviceId, DiskRequest, Refusal, RingLayout, XenbusState};
use crate::Errno;
use crate::store::{Reply, parse_decimal};

/// What is read of the backend's directory, in the order that [`BackendView::new`] expects.
pub(super) const BACK_KEYS: [&str; 9] = [
    "state",
    "online",
    "frontend",
    "frontend-id",
    "params",
    "mode",
    "discard-enable",
    "removable",
    "device-type",
];

/// Before a target: for writing it although others do, too. xl has no other word for that; the
/// `w!` of older toolstacks it refuses.
const SHARED: &str = "shared:";

/// Before a target: show it with 512-byte sectors, whatever its blocks.
pub(super) const SECTORS: &str = "512e:";

/// The backend's directory.
#[derive(Clone, Debug)]
pub(super) struct BackendView {
    pub(super) state: XenbusState,
    /// Whether the toolstack wants the device to be.
    pub(super) online: bool,
    /// What to open, or what is wrong with the directory.
    pub(super) disk: Result<DiskRequest, Refusal>,
    /// As [`DiskRequest::discard`], for what is shown of a disk that is open.
    pub(super) discard: bool,
    pub(super) removable: bool,
    pub(super) cdrom: bool,
}

impl BackendView {
    /// From the replies to reading [`BACK_KEYS`]; `None` if the directory is gone.
    pub(super) fn new(id: DeviceId, replies: &[Reply]) -> Option<Self> {
        let value = |key: &str| {
            let index = BACK_KEYS.iter().position(|known| *known == key)?;
            replies.get(index)?.as_deref().ok()
        };
        if value("state").is_none() && value("frontend").is_none() {
            return None;
        }
        let flag = |key: &str| value(key).and_then(parse_decimal).map(|number| number != 0);
        let discard = flag("discard-enable").unwrap_or(true);
        let disk = || {
            let text = |key: &'static str| {
                let value =
                    value(key).ok_or_else(|| Refusal::new(Errno::EINVAL, key_missing(key)))?;
                core::str::from_utf8(value).map_err(|_| not_usable(key, value))
            };
            if text("frontend")? != id.front() {
                return Err(not_usable("frontend", text("frontend")?.as_bytes()));
            }
            if parse_decimal(text("frontend-id")?.as_bytes()) != Some(id.frontend.0.into()) {
                return Err(not_usable("frontend-id", text("frontend-id")?.as_bytes()));
            }
            let (mut target, mut shared, mut sectors) = (text("params")?, false, false);
            let mut limits = IoLimits::default();
            loop {
                if let Some(rest) = target.strip_prefix(SHARED) {
                    (target, shared) = (rest, true);
                } else if let Some(rest) = target.strip_prefix(SECTORS) {
                    (target, sectors) = (rest, true);
                } else if let Some((word, rest)) = IoLimits::prefix(target) {
                    let set = limits.set_all(word);
                    set.map_err(|bad| Refusal::new(Errno::EINVAL, alloc::format!("{bad}")))?;
                    target = rest;
                } else {
                    break;
                }
            }
            let access = match (text("mode")?, shared) {
                ("r", false) => Access::Read,
                ("w", false) => Access::Write,
                ("w", true) | ("w!", _) => Access::SharedWrite,
                ("r", true) => {
                    let text = "target=shared: is for writers; readers share without it";
                    return Err(Refusal::new(Errno::EINVAL, text));
                }
                (other, _) => return Err(not_usable("mode", other.as_bytes())),
            };
            Ok(DiskRequest {
                target: String::from(target),
                access,
                discard,
                sectors,
                limits: Box::new(limits),
            })
        };
        Some(Self {
            state: value("state").map_or(XenbusState::UNKNOWN, XenbusState::parse),
            online: flag("online").unwrap_or(false),
            disk: disk(),
            discard,
            removable: flag("removable").unwrap_or(false),
            cdrom: value("device-type") == Some(b"cdrom"),
        })
    }
}

fn key_missing(key: &str) -> String {
    alloc::format!("backend's {key} is missing")
}

fn not_usable(key: &str, value: &[u8]) -> Refusal {
    Refusal::new(
        Errno::EINVAL,
        alloc::format!("backend's {key} is {}", quoted(value)),
    )
}

/// Everything a decision rests on.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// `None` if the directory is gone.
    pub(super) backend: Option<BackendView>,
    pub(super) frontend: XenbusState,
    /// The frontend has written its state since the look before this one.
    pub(super) written: bool,
    /// Read only when a connection may be due.
    pub(super) rings: Option<Result<RingLayout, Refusal>>,
}
