//! One device's state machine: the next step, from what is in the store and what the kernel has
//! done so far.
//!
//! The frontend drives a connection (Initialised = connect, Closing, Closed or gone = end), the
//! toolstack the device (`online` = 0 = remove). A connection ends before the next begins, and
//! a device is forgotten only when neither its connection nor its disk is left.

use alloc::string::String;

use super::view::{BackendView, View};
use super::{Access, DiskFacts, Offer, Refusal, RingLayout, XenbusState};
use XenbusState as S;

const MS: u64 = 1_000_000;
/// How long `InitWait` must stand: libxl looks for exactly that state when a disk is plugged into
/// a running guest, and that guest is quick. Also the time between two connections, each of which
/// costs hypercalls and memory, and between two `InitWait`s, each of which costs lines in the log
/// and a transaction.
const HOLD_NS: u64 = 500 * MS;
/// How long `Closed` must stand before the directory goes, so that libxl finds it.
const SETTLE_NS: u64 = 500 * MS;
/// How long a frontend may take to close when the toolstack wants the device gone. libxl itself
/// waits 10 s.
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
    Open {
        params: String,
        access: Access,
        discard: bool,
    },
    Connect(RingLayout),
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
}

/// What we know of a device that is not in the store.
#[derive(Clone, Debug)]
pub(super) struct Device {
    disk: Disk,
    link: Link,
    /// The device cannot be served at all.
    refusal: Option<Refusal>,
    /// The last connection failed; the frontend may start over.
    failure: Option<Refusal>,
    /// The store has shown a state beyond Initialising, so that seeing that again means a new
    /// directory.
    announced: bool,
    /// The rings of the connection, if there is one.
    layout: Option<RingLayout>,
    /// The connection ends because the frontend has other rings now, and the next one follows
    /// without a word to it.
    replacing: bool,
    /// `sectors` in the store.
    published: u64,
    ready_at: u64,
    /// No `InitWait` before this for a frontend that starts over.
    again_at: u64,
    close_by: Option<u64>,
    remove_at: Option<u64>,
    /// Nothing is left to be done for a shutdown.
    finished: bool,
}

impl Device {
    pub(super) const fn new() -> Self {
        Self {
            disk: Disk::None,
            link: Link::Down,
            refusal: None,
            failure: None,
            announced: false,
            layout: None,
            replacing: false,
            published: 0,
            ready_at: 0,
            again_at: 0,
            close_by: None,
            remove_at: None,
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

    /// Whether a decision needs the frontend's rings.
    ///
    /// Those of one that is connected are looked at as long as it is about to connect: a guest
    /// that was suspended and goes on here has the same directory with other rings in it, and
    /// comes from Connected to Initialised for that.
    pub(super) fn wants_rings(&self, frontend: XenbusState) -> bool {
        let due = match self.link {
            Link::Down => serving(frontend),
            Link::Up => frontend == S::INITIALISED,
            Link::Connecting | Link::Draining => false,
        };
        due && matches!(self.disk, Disk::Open(_))
    }

    /// Whether a decision may need the frontend's rings, whatever its state.
    pub(super) const fn may_want_rings(&self) -> bool {
        matches!(self.disk, Disk::Open(_)) && matches!(self.link, Link::Down | Link::Up)
    }

    /// Whether the kernel is asked for the disk.
    pub(super) const fn is_opening(&self) -> bool {
        matches!(self.disk, Disk::Opening)
    }

    /// Whether the store has the disk's size.
    pub(super) const fn shows(&self, facts: &DiskFacts) -> bool {
        self.published == facts.sectors
    }

    /// Whether a frontend in this state is being served: not to be given up for a fault in
    /// xenstore that it has no part in.
    pub(super) fn is_at_work(&self, frontend: XenbusState) -> bool {
        self.link == Link::Up && serving(frontend)
    }

    /// What is offered to the frontend, of `offer`.
    pub(super) fn offer(&self, offer: &Offer) -> Offer {
        match &self.disk {
            Disk::Open(facts) => offer.of(facts),
            Disk::None | Disk::Opening => *offer,
        }
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
                self.failure = Some(refusal);
                Link::Down
            }
        };
        true
    }

    /// A connection cannot go on, even if it is still being made; false if there is none.
    pub(super) fn failed(&mut self, why: Refusal) -> bool {
        let expected = matches!(self.link, Link::Up | Link::Connecting);
        if expected {
            self.failure = Some(why);
        }
        expected
    }

    /// The kernel has let go of the connection; false if it was not asked to.
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
        self.refusal.get_or_insert(refusal);
    }

    /// `announce` is in the store now.
    pub(super) fn wrote(&mut self, announce: &Announce, now: u64) {
        if let Announce::InitWait(_) = announce {
            self.ready_at = now.saturating_add(HOLD_NS);
            self.again_at = self.ready_at;
        }
        if let Announce::InitWait(facts) | Announce::Connected(facts) | Announce::Resized(facts) =
            announce
        {
            self.published = facts.sectors;
            self.replacing = false;
        }
    }

    /// The directory is removed: what comes there next is another device.
    pub(super) fn removed(&mut self) {
        if self.wind_down().is_none() {
            *self = Self::new();
        }
    }

    /// The next step. The caller carries it out and comes back with what is there then.
    pub(super) fn decide(&mut self, view: &View, at: &Circumstances) -> Step {
        self.finished = false;
        let Some(back) = &view.backend else {
            return self.wind_down().unwrap_or(Step::Forget);
        };
        if back.state == S::UNKNOWN {
            // Half taken apart by somebody else: nothing to say there.
            return self.wind_down().unwrap_or_else(|| self.finish());
        }
        if back.state == S::INITIALISING && self.announced {
            if let Some(step) = self.wind_down() {
                return step;
            }
            *self = Self::new();
        }
        self.announced |= back.state > S::INITIALISING;
        let closing = matches!(back.state, S::CLOSING | S::CLOSED);
        if !back.online || at.shutting_down || closing || self.refused().is_some() {
            return self.close(back, view.frontend, at);
        }
        self.close_by = None;
        self.remove_at = None;
        self.replacing &= serving(view.frontend) && back.state == S::CONNECTED;
        match back.state {
            S::INITIALISING => self.announce_init_wait(back, view.frontend, at),
            S::INIT_WAIT => self.connect(back, view, at),
            S::CONNECTED if self.replacing && self.link == Link::Draining => Step::Wait,
            S::CONNECTED if self.replacing => self.connect(back, view, at),
            state if self.link == Link::Up && serving(view.frontend) => match self.disk {
                Disk::Open(_) if state == S::CONNECTED && self.has_other_rings(view) => {
                    self.replacing = true;
                    self.disconnect()
                }
                Disk::Open(facts) if state == S::CONNECTED && facts.sectors != self.published => {
                    Step::Write(Announce::Resized(facts))
                }
                _ => Step::Wait,
            },
            _ => self.close(back, view.frontend, at),
        }
    }

    /// Everything of ours goes, without a word in the store; `None` once it has gone.
    fn wind_down(&mut self) -> Option<Step> {
        match (self.link, &self.disk) {
            (Link::Up, _) => Some(self.disconnect()),
            (Link::Connecting | Link::Draining, _) | (_, Disk::Opening) => Some(Step::Wait),
            (Link::Down, Disk::Open(_)) => Some(self.close_disk()),
            (Link::Down, Disk::None) => None,
        }
    }

    fn has_other_rings(&self, view: &View) -> bool {
        match &view.rings {
            Some(Ok(layout)) => Some(layout) != self.layout.as_ref(),
            // What cannot be used is no reason to let go of what can.
            Some(Err(_)) | None => false,
        }
    }

    fn finish(&mut self) -> Step {
        self.finished = true;
        Step::Wait
    }

    fn disconnect(&mut self) -> Step {
        self.link = Link::Draining;
        Step::Disconnect
    }

    fn close_disk(&mut self) -> Step {
        self.disk = Disk::None;
        Step::Close
    }

    /// Opens the disk if need be, then announces it.
    fn announce_init_wait(&mut self, back: &BackendView, front: S, at: &Circumstances) -> Step {
        match self.disk {
            Disk::Opening => Step::Wait,
            Disk::Open(facts) => Step::Write(Announce::InitWait(facts)),
            Disk::None => match &back.target {
                Ok((params, access)) => {
                    self.disk = Disk::Opening;
                    Step::Open {
                        params: params.clone(),
                        access: *access,
                        discard: back.discard,
                    }
                }
                Err(refusal) => {
                    self.refuse(refusal.clone());
                    self.close(back, front, at)
                }
            },
        }
    }

    /// InitWait stands: connects when the frontend is ready.
    fn connect(&mut self, back: &BackendView, view: &View, at: &Circumstances) -> Step {
        let Disk::Open(facts) = self.disk else {
            return self.announce_init_wait(back, view.frontend, at);
        };
        match (self.link, serving(view.frontend)) {
            (Link::Connecting, _) => Step::Wait,
            (Link::Up, true) => Step::Write(Announce::Connected(facts)),
            (Link::Up, false) | (Link::Draining, _) => self.close(back, view.frontend, at),
            (Link::Down, true) if at.now < self.ready_at => Step::WaitUntil(self.ready_at),
            (Link::Down, true) => match &view.rings {
                Some(Ok(layout)) => {
                    self.link = Link::Connecting;
                    self.layout = Some(layout.clone());
                    // A frontend may change its rings as often as it likes.
                    self.ready_at = at.now.saturating_add(HOLD_NS);
                    Step::Connect(layout.clone())
                }
                Some(Err(refusal)) => {
                    self.failure = Some(refusal.clone());
                    self.close(back, view.frontend, at)
                }
                None => Step::Again,
            },
            (Link::Down, false) => match view.frontend {
                S::CLOSING | S::CLOSED => self.close(back, view.frontend, at),
                _ => Step::Wait,
            },
        }
    }

    /// The connection is to end, and what can be said of that is said.
    fn close(&mut self, back: &BackendView, front: XenbusState, at: &Circumstances) -> Step {
        self.replacing = false;
        match self.link {
            Link::Connecting => Step::Wait,
            Link::Up => {
                // A frontend at work is asked first: it may have writes to bring home.
                if serving(front) && self.refused().is_none() {
                    if back.state < S::CLOSING {
                        return Step::Write(Announce::Closing);
                    }
                    let by = *self
                        .close_by
                        .get_or_insert(at.now.saturating_add(at.patience_ns));
                    if at.now < by {
                        return Step::WaitUntil(by);
                    }
                }
                self.disconnect()
            }
            Link::Draining if back.state < S::CLOSING => Step::Write(Announce::Closing),
            Link::Draining => Step::Wait,
            Link::Down => self.closed(back, front, at),
        }
    }

    /// There is no connection and there shall be none, unless the frontend starts over.
    fn closed(&mut self, back: &BackendView, front: XenbusState, at: &Circumstances) -> Step {
        if back.state == S::INITIALISING && self.refusal.is_some() {
            // libxl waits for InitWait or for the node to vanish, and for nothing else: this way
            // `xl create` fails at once.
            return self.wind_down().unwrap_or(Step::Remove);
        }
        if back.state < S::CLOSING {
            return Step::Write(Announce::Closing);
        }
        if back.state != S::CLOSED {
            return Step::Write(Announce::Closed);
        }
        if (!back.online || at.shutting_down || self.refusal.is_some())
            && let Some(step) = self.wind_down()
        {
            return step;
        }
        if !back.online {
            let due = *self
                .remove_at
                .get_or_insert(at.now.saturating_add(SETTLE_NS));
            self.finished = at.shutting_down;
            return if at.now < due {
                Step::WaitUntil(due)
            } else {
                Step::Remove
            };
        }
        self.remove_at = None;
        if at.shutting_down || self.refusal.is_some() {
            return self.finish();
        }
        if front == S::INITIALISING {
            // It may do so as often as it likes.
            if at.now < self.again_at {
                return Step::WaitUntil(self.again_at);
            }
            self.failure = None;
            self.close_by = None;
            return self.announce_init_wait(back, front, at);
        }
        Step::Wait
    }
}

/// Whether a frontend in this state uses, or is about to use, its rings.
fn serving(frontend: XenbusState) -> bool {
    matches!(frontend, S::INITIALISED | S::CONNECTED)
}
