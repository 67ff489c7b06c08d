//! One device's state machine: the next step, from what is in the store and what the kernel has
//! done so far.
//!
//! The toolstack decides whether the device is to be (`online`), the frontend whether it is
//! connected. Whatever states are missed between two looks, a decision rests only on what is
//! there now:
//!
//! | frontend | backend |
//! | --- | --- |
//! | Initialising | gives up a connection, then InitWait |
//! | Initialised, Connected | connects from InitWait, then Connected; from elsewhere InitWait first |
//! | Closing | Closing, with the connection as it is: the guest may use it on |
//! | Closed, or gone | gives up the connection, then Closed |
//!
//! If the toolstack wants the device gone, the frontend is asked to close by Closing; what is
//! connected stays connected until the frontend is closed or gone, however long that takes. Only
//! our own shutdown and faults cut a frontend off that is at work. A connection ends before the
//! next begins, and a device is forgotten only when neither its connection nor its disk is left.

use alloc::string::String;

use super::view::{BackendView, View};
use super::{Access, DiskFacts, Offer, Refusal, RingLayout, XenbusState};
use crate::Errno;
use XenbusState as S;

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
    told: bool,
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
            front: S::UNKNOWN,
            layout: None,
            rewritten: false,
            told: false,
            replacing: false,
            asked: false,
            stale: None,
            published: 0,
            first: false,
            ready_at: 0,
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

    /// Whether a decision needs the frontend's rings; `written` if the frontend has written its
    /// state since the last look.
    ///
    /// Those of one that is connected are looked at when it may have initialised them again: a
    /// guest that was suspended and goes on here has the same directory with other rings in it,
    /// and so has one whose boot loader or first kernel has handed over to another.
    pub(super) fn wants_rings(&self, frontend: XenbusState, written: bool) -> bool {
        let due = match self.link {
            Link::Down => true,
            Link::Up => written || frontend == S::INITIALISED,
            Link::Connecting | Link::Draining => false,
        };
        due && serving(frontend) && matches!(self.disk, Disk::Open(_))
    }

    /// Whether a decision may need the frontend's rings, whatever its state.
    pub(super) const fn may_want_rings(&self) -> bool {
        matches!(self.disk, Disk::Open(_)) && matches!(self.link, Link::Down | Link::Up)
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

    /// Whether a frontend in this state is being served: not to be given up for a fault in
    /// xenstore that it has no part in.
    pub(super) fn is_at_work(&self, frontend: XenbusState) -> bool {
        self.link == Link::Up && alive(frontend)
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
        self.refusal.get_or_insert(refusal);
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
                self.told = true;
                self.replacing = false;
                self.asked = false;
            }
            Announce::Closing | Announce::Closed => {}
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
            // Half taken apart by others: nothing to say there.
            return self.wind_down().unwrap_or_else(|| self.finish());
        }
        if back.state == S::INITIALISING && self.announced {
            if let Some(step) = self.wind_down() {
                return step;
            }
            *self = Self::new();
        }
        self.note(back, view);
        if at.shutting_down || self.refused().is_some() {
            return self.give_up(back, view.frontend, at);
        }
        self.close_by = None;
        if !back.online {
            return self.take_away(back, view, at);
        }
        self.remove_at = None;
        self.serve(back, view, at)
    }

    /// Remembers what a later decision needs of what there is now.
    fn note(&mut self, back: &BackendView, view: &View) {
        let front = view.frontend;
        self.rewritten |= view.written && front <= self.front;
        self.front = front;
        self.stale.take_if(|stale| !stale.is_still_there(view));
        if let Some(stale) = &mut self.stale {
            stale.state = front;
        } else if !self.announced && back.state > S::INIT_WAIT && serving(front) {
            // What an earlier life of ours has left.
            self.stale = Some(Stale {
                state: front,
                rings: None,
            });
        }
        self.announced |= back.state > S::INITIALISING;
        self.replacing &= serving(front);
        // A frontend that starts over may try again.
        let again = front == S::INITIALISING || serving(front) && self.stale.is_none();
        if again && self.link == Link::Down {
            self.failure = None;
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

    /// Whether the frontend has initialised its rings again since they were connected. They may
    /// have the same references and ports as before, and need a new session all the same.
    fn is_initialised_again(&self, view: &View) -> bool {
        match &view.rings {
            Some(Ok(layout)) => self.rewritten || Some(layout) != self.layout.as_ref(),
            // What cannot be used is no reason to give up what can.
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

    fn replace(&mut self) -> Step {
        self.replacing = true;
        self.disconnect()
    }

    fn close_disk(&mut self) -> Step {
        self.disk = Disk::None;
        Step::Close
    }

    /// The toolstack wants the device to be: follows the frontend.
    fn serve(&mut self, back: &BackendView, view: &View, at: &Circumstances) -> Step {
        let front = view.frontend;
        match self.link {
            Link::Connecting | Link::Draining => return Step::Wait,
            Link::Up if !alive(front) => return self.disconnect(),
            Link::Up => return self.keep(back, view),
            Link::Down => {}
        }
        let unopened = back.state == S::INIT_WAIT && self.disk == Disk::None;
        if back.state == S::INITIALISING || unopened || self.disk == Disk::Opening {
            return self.announce_init_wait(back, front, at);
        }
        if back.state == S::INIT_WAIT && at.now < self.ready_at && front != S::INITIALISING {
            return Step::WaitUntil(self.ready_at);
        }
        match front {
            S::INITIALISED | S::CONNECTED if self.stale.is_some() => match back.state {
                S::CLOSED => Step::Wait,
                S::CLOSING => Step::Write(Announce::Closed),
                _ => Step::Write(Announce::Closing),
            },
            S::INITIALISED | S::CONNECTED if back.state == S::INIT_WAIT || self.replacing => {
                self.connect(back, view, at)
            }
            S::INITIALISING if back.state == S::INIT_WAIT => Step::Wait,
            S::INITIALISING | S::INITIALISED | S::CONNECTED => {
                self.announce_init_wait(back, front, at)
            }
            S::CLOSING if back.state == S::CLOSING => Step::Wait,
            S::CLOSING => Step::Write(Announce::Closing),
            S::CLOSED if back.state == S::CLOSED => Step::Wait,
            S::CLOSED => Step::Write(Announce::Closed),
            // There is no frontend.
            _ if matches!(back.state, S::INIT_WAIT | S::CLOSED) => Step::Wait,
            _ => Step::Write(Announce::Closed),
        }
    }

    /// A frontend that may use its connection keeps it.
    fn keep(&mut self, back: &BackendView, view: &View) -> Step {
        if self.is_initialised_again(view) {
            return self.replace();
        }
        let Disk::Open(facts) = self.disk else {
            return Step::Wait;
        };
        if view.frontend == S::CLOSING {
            self.asked = true;
            return match back.state {
                S::CLOSING => Step::Wait,
                _ => Step::Write(Announce::Closing),
            };
        }
        match back.state {
            S::CONNECTED if self.told && facts.sectors != self.published => {
                Step::Write(Announce::Resized(facts))
            }
            S::CONNECTED if self.told => Step::Wait,
            // Others ask it to close.
            S::CLOSING if self.told && !self.asked => Step::Wait,
            _ => Step::Write(Announce::Connected(facts)),
        }
    }

    /// The toolstack wants the device gone.
    fn take_away(&mut self, back: &BackendView, view: &View, at: &Circumstances) -> Step {
        let front = view.frontend;
        match (self.link, &self.disk) {
            (Link::Connecting | Link::Draining, _) => return Step::Wait,
            // One that has never seen Connected has nothing to lose.
            (Link::Up, _) if !alive(front) || !self.told && !self.replacing => {
                return self.disconnect();
            }
            (Link::Up, _) if self.is_initialised_again(view) => return self.replace(),
            (Link::Up, Disk::Open(facts)) if !self.told && serving(front) => {
                return Step::Write(Announce::Connected(*facts));
            }
            (Link::Up, _) => {
                // It is asked, and may refuse; the toolstack then says so to its user.
                self.asked = true;
                return match back.state {
                    S::CLOSING => Step::Wait,
                    _ => Step::Write(Announce::Closing),
                };
            }
            (Link::Down, Disk::Open(_)) if self.replacing => return self.connect(back, view, at),
            (Link::Down, _) => {}
        }
        if back.state != S::CLOSED {
            return Step::Write(Announce::Closed);
        }
        self.remove(at)
    }

    /// Closed stands; the directory goes when the toolstack has seen that.
    fn remove(&mut self, at: &Circumstances) -> Step {
        if let Some(step) = self.wind_down() {
            return step;
        }
        let due = *self
            .remove_at
            .get_or_insert(at.now.saturating_add(SETTLE_NS));
        self.finished = at.shutting_down;
        if at.now < due {
            Step::WaitUntil(due)
        } else {
            Step::Remove
        }
    }

    /// Opens the disk if need be, then announces it.
    fn announce_init_wait(&mut self, back: &BackendView, front: S, at: &Circumstances) -> Step {
        match self.disk {
            Disk::Opening => Step::Wait,
            Disk::Open(facts) => {
                self.first = back.state == S::INITIALISING;
                Step::Write(Announce::InitWait(facts))
            }
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
                    self.give_up(back, front, at)
                }
            },
        }
    }

    /// The frontend is ready.
    fn connect(&mut self, back: &BackendView, view: &View, at: &Circumstances) -> Step {
        let (Disk::Open(facts), Some(rings)) = (self.disk, &view.rings) else {
            return Step::Again;
        };
        let refusal = match rings {
            Ok(layout) if layout.large_sectors && facts.sector_size != SECTOR => {
                let text = alloc::format!(
                    "frontend counts in blocks of {} bytes (feature-large-sector-size), not in \
                     sectors of {SECTOR}",
                    facts.sector_size
                );
                Refusal::new(Errno::EINVAL, text)
            }
            Ok(layout) => {
                self.link = Link::Connecting;
                self.layout = Some(layout.clone());
                self.rewritten = false;
                self.told = false;
                return Step::Connect(layout.clone());
            }
            Err(refusal) => refusal.clone(),
        };
        self.failure = Some(refusal);
        self.stale = Some(Stale {
            state: view.frontend,
            rings: view.rings.clone(),
        });
        self.give_up(back, view.frontend, at)
    }

    /// The connection is to end whatever the frontend does, and there shall be no other.
    fn give_up(&mut self, back: &BackendView, front: XenbusState, at: &Circumstances) -> Step {
        self.replacing = false;
        match self.link {
            Link::Connecting => return Step::Wait,
            Link::Up => {
                // A frontend at work is asked first: it may have writes to bring home.
                if alive(front) && self.refused().is_none() {
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
                return self.disconnect();
            }
            Link::Draining if back.state < S::CLOSING => return Step::Write(Announce::Closing),
            Link::Draining => return Step::Wait,
            Link::Down => {}
        }
        if back.state == S::INITIALISING && self.refusal.is_some() {
            // libxl waits for InitWait or for the node to vanish, and for nothing else: this way
            // `xl create` fails at once.
            return self.wind_down().unwrap_or(Step::Remove);
        }
        if back.state < S::CLOSING && alive(front) {
            return Step::Write(Announce::Closing);
        }
        if back.state != S::CLOSED {
            return Step::Write(Announce::Closed);
        }
        if !back.online {
            return self.remove(at);
        }
        self.remove_at = None;
        if !at.shutting_down && self.refusal.is_none() {
            return Step::Wait;
        }
        self.wind_down().unwrap_or_else(|| self.finish())
    }
}

/// The unit in which a frontend is to count, in bytes.
const SECTOR: u32 = 512;

/// Whether a frontend in this state uses, or is about to use, its rings.
fn serving(frontend: XenbusState) -> bool {
    matches!(frontend, S::INITIALISED | S::CONNECTED)
}

/// Whether a frontend in this state may use its rings: also one that is closing may.
fn alive(frontend: XenbusState) -> bool {
    serving(frontend) || frontend == S::CLOSING
}
