//! The next step for a device, from what is in the store and what the kernel has done so far.
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

use super::{Announce, Circumstances, Device, Disk, Link, SETTLE_NS, Stale, Step, alive, serving};
use crate::Errno;
use crate::xenbus::view::{BackendView, SECTORS, View};
use crate::xenbus::{Refusal, XenbusState};
use XenbusState as S;

/// The unit in which a frontend is to count, in bytes.
const SECTOR: u32 = 512;

impl Device {
    /// The next step. The caller carries it out and comes back with what is there then.
    pub(in crate::xenbus) fn decide(&mut self, view: &View, at: &Circumstances) -> Step {
        self.finished = false;
        let there = view.backend.as_ref();
        if at.held && there.is_none_or(|back| back.state <= S::INITIALISING) {
            return self.wait_for_the_kernel();
        }
        let Some(back) = there else {
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
        if let Some(step) = self.take_up(back, view) {
            return step;
        }
        if at.held {
            return self.wait_for_the_kernel();
        }
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
        self.leaving = !back.online;
        self.rewritten |= view.written && front <= self.front;
        self.front = front;
        self.stale.take_if(|stale| !stale.is_still_there(view));
        if let Some(stale) = &mut self.stale {
            stale.state = front;
        } else if !self.announced
            && self.former.is_none()
            && back.state > S::INIT_WAIT
            && serving(front)
        {
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

    /// It is not what a former life had, and nothing is said of that before the kernel has given back what
    /// it still serves.
    fn wait_for_the_kernel(&mut self) -> Step {
        self.former = None;
        Step::Wait
    }

    /// Everything of ours goes, without a word in the store; `None` once it has gone.
    pub(super) fn wind_down(&mut self) -> Option<Step> {
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
            S::CLOSING if back.state == S::CLOSED && at.now < self.closed_until(at) => {
                Step::WaitUntil(self.closed_until(at))
            }
            S::CLOSING => Step::Write(Announce::Closing),
            S::CLOSED if back.state == S::CLOSED => Step::Wait,
            S::CLOSED => Step::Write(Announce::Closed),
            // There is no frontend.
            _ if matches!(back.state, S::INIT_WAIT | S::CLOSED) => Step::Wait,
            _ => Step::Write(Announce::Closed),
        }
    }

    /// Until when Closed stands of a device that a former life has closed: its frontend may wait for answers
    /// of the connection that was lost, and is to see that there are none.
    fn closed_until(&mut self, at: &Circumstances) -> u64 {
        match &mut self.closed_before {
            Some(until) => *until.get_or_insert(at.now.saturating_add(SETTLE_NS)),
            None => 0,
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
            S::CONNECTED if self.shown && facts.sectors != self.published => {
                Step::Write(Announce::Resized(facts))
            }
            S::CONNECTED if self.shown => Step::Wait,
            // Others ask it to close.
            S::CLOSING if self.shown && !self.asked => Step::Wait,
            _ => Step::Write(Announce::Connected(facts)),
        }
    }

    /// The toolstack wants the device gone.
    fn take_away(&mut self, back: &BackendView, view: &View, at: &Circumstances) -> Step {
        let front = view.frontend;
        match (self.link, &self.disk) {
            (Link::Connecting | Link::Draining, _) => return Step::Wait,
            // One that has never seen Connected has nothing to lose.
            (Link::Up, _) if !alive(front) || !self.shown && !self.replacing => {
                return self.disconnect();
            }
            (Link::Up, _) if self.is_initialised_again(view) => return self.replace(),
            (Link::Up, Disk::Open(facts)) if !self.shown && serving(front) => {
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
            Disk::None => match &back.disk {
                Ok(request) => {
                    self.disk = Disk::Opening;
                    Step::Open(request.clone())
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
                     sectors of {SECTOR}; target={SECTORS}... shows it the disk in those",
                    facts.sector_size
                );
                Refusal::new(Errno::EINVAL, text)
            }
            Ok(layout) => {
                self.link = Link::Connecting;
                self.layout = Some(layout.clone());
                self.rewritten = false;
                self.shown = false;
                return Step::Connect {
                    layout: layout.clone(),
                    former: false,
                };
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
