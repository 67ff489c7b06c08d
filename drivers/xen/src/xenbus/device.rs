//! One device's state machine: what is known of it besides what is in the store, and how the
//! kernel's reports change that. The next step is for `decide`.

mod decide;
mod resume;

use super::view::View;
use super::{DiskFacts, DiskRequest, FormerConnection, Offer, Refusal, RingLayout, XenbusState};
use XenbusState as S;
use resume::offered_before;

const MS: u64 = 1_000_000;
/// How long the first `InitWait` in a directory must stand: libxl looks for exactly that state
/// when a disk is plugged into a running guest, and that guest is quick. After that no toolstack
/// looks for it, and frontends wait for what follows, some with interrupts off.
const HOLD_NS: u64 = 500 * MS;
/// How long `Closed` must stand before the directory goes, so that libxl finds it.
const SETTLE_NS: u64 = 500 * MS;
/// How long a frontend may take to close when the whole driver domain is shut down.
pub(super) const PATIENCE_NS: u64 = 5_000 * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    None,
    Opening,
    Open(DiskFacts),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    Connecting,
    Up,
    Draining,
}

/// A state that we write, with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announce {
    InitWait(DiskFacts),
    Connected(DiskFacts),
    /// Connected as before; a frontend reads the size again when it sees the state written.
    Resized(DiskFacts),
    Closing,
    Closed,
}

impl Announce {
    pub(super) const fn state(&self) -> XenbusState {
        match self {
            Self::InitWait(_) => S::INIT_WAIT,
            Self::Connected(_) | Self::Resized(_) => S::CONNECTED,
            Self::Closing => S::CLOSING,
            Self::Closed => S::CLOSED,
        }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing until something changes.
    Wait,
    /// Nothing before this time.
    WaitUntil(u64),
    /// Not enough was read; look again.
    Again,
    Open(DiskRequest),
    Connect {
        layout: RingLayout,
        /// The connection is one that a former life had.
        former: bool,
    },
    Disconnect,
    Close,
    Write(Announce),
    /// Remove the backend's directory.
    Remove,
    /// Nothing is left of the device.
    Forget,
}

/// What a decision depends on besides the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    pub(super) now: u64,
    pub(super) shutting_down: bool,
    /// How long a frontend may take to close.
    pub(super) patience_ns: u64,
    /// The kernel still serves it as a former life did: nothing but that may follow.
    pub(super) held: bool,
}

/// A frontend whose connection was given up although it had not closed: its rings may hold
/// anything, and are connected again only if it has started over.
#[derive(Clone, Debug)]
struct Stale {
    state: XenbusState,
    /// `None` if they were not read.
    rings: Option<Result<RingLayout, Refusal>>,
}

impl Stale {
    /// Whether nothing has changed since, or no more than a state that follows the known one.
    fn is_still_there(&self, view: &View) -> bool {
        let same = self.rings.is_none() || view.rings.is_none() || self.rings == view.rings;
        let follows = !view.written || view.frontend > self.state;
        alive(view.frontend) && same && follows
    }
}

/// What we know of a device that is not in the store.
#[derive(Clone, Debug)]
pub(super) struct Device {
    disk: Disk,
    link: Link,
    /// The device cannot be served at all.
    refusal: Option<Refusal>,
    /// The store is why.
    by_store: bool,
    /// What a former life of the kernel had, as long as it is not decided what becomes of that.
    former: Option<Result<FormerConnection, Refusal>>,
    /// A former life may have closed it: until when that stands, once it is looked at.
    closed_before: Option<Option<u64>>,
    /// The last connection failed; the frontend may start over.
    failure: Option<Refusal>,
    /// The store has shown a state beyond Initialising, so that seeing that again means a new
    /// directory.
    announced: bool,
    /// The frontend's state at the last look.
    front: XenbusState,
    /// The rings that are connected.
    layout: Option<RingLayout>,
    /// Since they were read the frontend has written a state that does not follow the one before.
    rewritten: bool,
    /// Connected has been written for this connection.
    shown: bool,
    /// The connection ends because the frontend has initialised its rings again, and the next one
    /// follows without a word to it.
    replacing: bool,
    /// Closing has been seen with a reason that can be taken back.
    asked: bool,
    stale: Option<Stale>,
    /// `sectors` in the store.
    published: u64,
    /// The `InitWait` being written is the first one in its directory.
    first: bool,
    /// `InitWait` stands until then.
    ready_at: u64,
    close_by: Option<u64>,
    remove_at: Option<u64>,
    /// The toolstack wanted the device gone at the last look.
    leaving: bool,
    /// Nothing is left to be done for a shutdown.
    finished: bool,
}

impl Device {
    pub(super) const fn new() -> Self {
        Self {
            disk: Disk::None,
            link: Link::Down,
            refusal: None,
            by_store: false,
            former: None,
            closed_before: None,
            failure: None,
            announced: false,
            front: S::UNKNOWN,
            layout: None,
            rewritten: false,
            shown: false,
            replacing: false,
            asked: false,
            stale: None,
            published: 0,
            first: false,
            ready_at: 0,
            close_by: None,
            remove_at: None,
            leaving: false,
            finished: false,
        }
    }

    /// Why the device or its last connection was refused.
    pub(super) const fn refused(&self) -> Option<&Refusal> {
        match &self.refusal {
            Some(refusal) => Some(refusal),
            None => self.failure.as_ref(),
        }
    }

    pub(super) const fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether a decision needs the frontend's rings; `written` if the frontend has written its
    /// state since the last look.
    ///
    /// Those of one that is connected are looked at when it may have initialised them again: a
    /// guest that was suspended and goes on here has the same directory with other rings in it,
    /// and so has one whose boot loader or first kernel has handed over to another.
    pub(super) fn wants_rings(&self, frontend: XenbusState, written: bool) -> bool {
        let due = match self.link {
            Link::Down => true,
            Link::Up => written || self.rewritten || frontend == S::INITIALISED,
            Link::Connecting | Link::Draining => false,
        };
        let in_use = serving(frontend) || self.former.is_some() && alive(frontend);
        // One that initialises its rings anew is offered what its disk can do: that is opened first.
        let known = self.was_connected() && frontend != S::INITIALISED;
        due && in_use && (known || matches!(self.disk, Disk::Open(_)))
    }

    /// Whether a decision may need the frontend's rings, whatever its state.
    pub(super) const fn may_want_rings(&self) -> bool {
        let known = self.was_connected() || matches!(self.disk, Disk::Open(_));
        known && matches!(self.link, Link::Down | Link::Up)
    }

    /// Whether nothing is known of the device yet, or it has not got beyond Initialising: a
    /// toolstack waits for it.
    pub(super) const fn is_new(&self) -> bool {
        !self.announced
    }

    /// Whether the kernel is asked for the disk.
    pub(super) const fn is_opening(&self) -> bool {
        matches!(self.disk, Disk::Opening)
    }

    /// Whether the store has the disk's size.
    pub(super) const fn shows(&self, facts: &DiskFacts) -> bool {
        self.published == facts.sectors
    }

    /// Whether the frontend was being served at the last look that got as far as to see it: not
    /// to be given up for a fault in xenstore that it has no part in.
    pub(super) fn is_at_work(&self) -> bool {
        self.link == Link::Up && alive(self.front)
    }

    /// What is offered to the frontend, of `offer`.
    pub(super) fn offer(&self, offer: &Offer) -> Offer {
        let offer = match &self.disk {
            Disk::Open(facts) => offer.of(facts),
            Disk::None | Disk::Opening => *offer,
        };
        match &self.former {
            Some(Ok(former)) => offered_before(offer, former),
            _ => offer,
        }
    }

    /// Whether a former life of the kernel has connected it, and that may be taken up.
    pub(super) const fn was_connected(&self) -> bool {
        matches!(self.former, Some(Ok(_)))
    }

    /// What a former life of the kernel had, if that has not been decided on and may be taken up.
    pub(super) fn into_former(self) -> Option<FormerConnection> {
        self.former?.ok()
    }

    /// The kernel has opened the disk, or not; false if it was not asked to.
    pub(super) fn opened(&mut self, result: Result<DiskFacts, Refusal>) -> bool {
        if self.disk != Disk::Opening {
            return false;
        }
        self.disk = match result {
            Ok(facts) => Disk::Open(facts),
            Err(refusal) => {
                self.refusal = Some(refusal);
                Disk::None
            }
        };
        true
    }

    /// The kernel has connected, or not; false if it was not asked to.
    pub(super) fn connected(&mut self, result: Result<(), Refusal>) -> bool {
        if self.link != Link::Connecting {
            return false;
        }
        self.link = match result {
            Ok(()) => Link::Up,
            Err(refusal) => {
                self.fail(refusal);
                Link::Down
            }
        };
        true
    }

    /// A connection cannot go on, even if it is still being made; false if there is none.
    pub(super) fn failed(&mut self, why: Refusal) -> bool {
        let expected = matches!(self.link, Link::Up | Link::Connecting);
        if expected {
            self.fail(why);
        }
        expected
    }

    fn fail(&mut self, why: Refusal) {
        self.failure = Some(why);
        self.stale = Some(Stale {
            state: self.front,
            rings: self.layout.clone().map(Ok),
        });
    }

    /// The kernel has given up the connection; false if it was not asked to.
    pub(super) fn disconnected(&mut self) -> bool {
        let expected = self.link == Link::Draining;
        if expected {
            self.link = Link::Down;
        }
        expected
    }

    /// The disk has another size now; false if it is not open.
    pub(super) fn resized(&mut self, sectors: u64) -> bool {
        match &mut self.disk {
            Disk::Open(facts) => {
                facts.sectors = sectors;
                true
            }
            Disk::None | Disk::Opening => false,
        }
    }

    /// The device cannot be served.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        if self.refusal.is_none() {
            self.refusal = Some(refusal);
            self.by_store = true;
        }
    }

    /// What xenstored refused before is to be tried again.
    pub(super) fn retry(&mut self) {
        if core::mem::take(&mut self.by_store) {
            self.refusal = None;
        }
    }

    /// `announce` is in the store now.
    pub(super) fn wrote(&mut self, announce: &Announce, now: u64) {
        match announce {
            Announce::InitWait(facts) => {
                self.published = facts.sectors;
                if self.first {
                    self.ready_at = now.saturating_add(HOLD_NS);
                }
            }
            Announce::Connected(facts) | Announce::Resized(facts) => {
                self.published = facts.sectors;
                self.shown = true;
                self.replacing = false;
                self.asked = false;
            }
            // The directory may go that much later, without a look in between.
            Announce::Closed if self.leaving => {
                self.remove_at.get_or_insert(now.saturating_add(SETTLE_NS));
            }
            Announce::Closing | Announce::Closed => {}
        }
    }

    /// Whether the kernel is to close the disk now that Closed is in the store: nothing but the
    /// directory's removal is left to do.
    pub(super) fn take_disk(&mut self) -> bool {
        let due = self.leaving && self.link == Link::Down && matches!(self.disk, Disk::Open(_));
        if due {
            self.disk = Disk::None;
        }
        due
    }

    /// The directory is removed: what comes there next is another device.
    pub(super) fn removed(&mut self) {
        if self.wind_down().is_none() {
            *self = Self::new();
        }
    }
}

/// Whether a frontend in this state uses, or is about to use, its rings.
fn serving(frontend: XenbusState) -> bool {
    matches!(frontend, S::INITIALISED | S::CONNECTED)
}

/// Whether a frontend in this state may use its rings: also one that is closing may.
fn alive(frontend: XenbusState) -> bool {
    serving(frontend) || frontend == S::CLOSING
}
