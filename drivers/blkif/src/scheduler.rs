//! How the guests of a core share a disk, and a guest's rings its share: by what their commands
//! cost it, not by their number.
//!
//! Cost is counted in pages: a command costs as many as it moves, and at least one. As long as one
//! ring alone has work it may fill the disk's queue. While several have work, no more than a window
//! of pages is with the disk (see `depth`), because what is there already is served before what
//! comes, whoever it belongs to. The window is shared twice, in the same way (see `level`): by
//! guests, however many rings or disks each has, and what a guest may have, by its rings. Both are
//! shared by weight: a guest's is the greatest of its rings'. Devices in a group, whoever has them,
//! share as if they were those of one guest, which has the group's weight.
//!
//! A queue of few places has no window: rings that find it full take turns (`turnstile`).
//!
//! A ring that may send nothing leaves its requests in the ring. Nothing here is allocated once the
//! core runs, and a ring without rivals pays one comparison for each visit.

mod level;

use alloc::boxed::Box;
use alloc::vec;

use level::Level;
pub(crate) use level::{Account, LINGER_NS};

use crate::depth::Depth;

/// What a discard and a flush are charged: they keep the disk busy for longer than a page does.
pub(crate) const DISCARD_COST: u32 = 16;
pub(crate) const FLUSH_COST: u32 = 16;

/// A queue with fewer places than this has no window.
const FEW: usize = 16;

/// What a guest has with one disk.
#[derive(Clone, Debug, Default)]
struct Guest {
    account: Account,
    /// Pages that its rings have with the disk.
    own: u32,
    /// Whether any of them has requests.
    active: bool,
    /// Pages that it may have with the disk in this visit, if its quantum is not considered.
    window: u32,
    /// The greatest weight that one of its rings gives it, of those counted so far.
    weight: u8,
    rings: Level,
}

impl Guest {
    /// Whether others than this one are at the `level` of guests.
    #[inline]
    fn has_rivals(&self, level: &Level) -> bool {
        level.rivals() > 1 || self.rings.rivals() == 0
    }
}

/// One ring, as the scheduler of its disk sees it.
#[derive(Debug)]
pub(crate) struct Party<'a> {
    /// The place of its guest, or group, on the core.
    pub(crate) guest: u16,
    pub(crate) account: &'a mut Account,
    /// Pages that it has with the disk.
    pub(crate) own: u32,
    /// The weight of its guest or group.
    pub(crate) weight: u8,
}

/// One disk's side of it.
#[derive(Debug)]
pub(crate) struct Scheduler {
    depth: Depth,
    /// Whether there is a window.
    limits: bool,
    /// Pages with the disk.
    load: u32,
    /// Rings that have work, or had some lately, as of the last count.
    rivals: u32,
    /// Whether there is a window and several of them.
    contended: bool,
    level: Level,
    guests: Box<[Guest]>,
    /// Guests from here on have no ring.
    used: usize,
    /// A ring with work had no room.
    crowded: bool,
}

impl Scheduler {
    /// For a queue with so many places, and at most so many guests.
    pub(crate) fn new(depth: usize, guests: usize) -> Self {
        Self {
            depth: Depth::new(depth),
            limits: depth >= FEW,
            load: 0,
            rivals: 0,
            contended: false,
            level: Level::default(),
            guests: vec![Guest::default(); guests].into(),
            used: 0,
            crowded: false,
        }
    }

    /// The queue has so many places now, and nothing is known of the disk's pace any longer.
    pub(crate) fn renew(&mut self, depth: usize) {
        (self.depth, self.limits) = (Depth::new(depth), depth >= FEW);
    }

    /// The guest at this place has a ring on the core.
    pub(crate) fn enter(&mut self, guest: u16) {
        let least = self.guests.len().min(usize::from(guest) + 1);
        self.used = self.used.max(least);
    }

    /// The guest at this place has none any more, nor has any from place `used` on.
    pub(crate) fn leave(&mut self, guest: u16, used: usize) {
        if let Some(guest) = self.guests.get_mut(usize::from(guest)) {
            *guest = Guest::default();
        }
        self.used = self.used.min(used);
    }

    /// Whether several rings have work.
    #[inline]
    pub(crate) fn is_contended(&self) -> bool {
        self.contended
    }

    /// Starts to count the rings.
    pub(crate) fn start(&mut self) {
        for guest in &mut self.guests[..self.used] {
            (guest.own, guest.active, guest.weight) = (0, false, 0);
            guest.rings.start();
        }
    }

    /// Counts a ring; `active` if it has requests.
    pub(crate) fn count(&mut self, ring: Party<'_>, active: bool, now_ns: u64) {
        let Some(guest) = self.guests.get_mut(usize::from(ring.guest)) else {
            return;
        };
        let (rings, window) = (&mut guest.rings, guest.window);
        if rings.count(ring.account, ring.own, active, window, now_ns) {
            guest.own = guest.own.saturating_add(ring.own);
            guest.active |= active;
            guest.weight = guest.weight.max(ring.weight);
        }
    }

    /// Counts a ring alone, which had requests at `at_ns`.
    pub(crate) fn count_alone(&mut self, ring: Party<'_>, at_ns: u64) {
        self.start();
        self.count(ring, true, at_ns);
        self.count_guests(at_ns);
    }

    /// Once all rings are counted: counts their guests.
    fn count_guests(&mut self, now_ns: u64) {
        self.level.start();
        (self.load, self.rivals) = (0, 0);
        let window = self.depth.pages();
        for guest in &mut self.guests[..self.used] {
            let (account, own, active) = (&mut guest.account, guest.own, guest.active);
            if guest.weight > 0 {
                account.set_weight(guest.weight);
            }
            if self.level.count(account, own, active, window, now_ns) {
                self.load = self.load.saturating_add(own);
            }
            self.rivals += guest.rings.end();
        }
        self.level.end();
        self.contended = self.limits && self.rivals > 1;
    }

    /// Once it is known how much may be with the disk: what each guest may have of it.
    fn share_out(&mut self) {
        let window = self.depth.pages();
        for guest in &mut self.guests[..self.used] {
            let room = self.level.room(&guest.account, guest.own, window);
            guest.window = guest.own.saturating_add(room);
        }
    }

    /// Ends a count at the start of a visit, before what is left over is looked at. A new round
    /// begins if the disk has little to do: then rings are not to wait for each other.
    pub(crate) fn begin_visit(&mut self, now_ns: u64) {
        self.count_guests(now_ns);
        let crowded = core::mem::take(&mut self.crowded);
        let guests = self.level.rivals();
        self.depth.observe(self.load, guests, crowded, now_ns);
        self.share_out();
        self.level.see_dry(self.load, self.depth.pages());
        for guest in &mut self.guests[..self.used] {
            guest.rings.see_dry(guest.own, guest.window);
        }
    }

    /// The same at the end of a visit.
    pub(crate) fn end_visit(&mut self, now_ns: u64) {
        self.count_guests(now_ns);
        self.depth.note(self.load, now_ns);
        self.share_out();
        self.crowded = false;
    }

    /// Once all rings are counted: one of them has more to send.
    pub(crate) fn left_over(&mut self, ring: Party<'_>) {
        let Some(guest) = self.guests.get_mut(usize::from(ring.guest)) else {
            return;
        };
        let (account, rings) = (&mut guest.account, &mut guest.rings);
        let all = self.level.room(account, guest.own, self.depth.pages());
        let room = all.min(rings.room(ring.account, ring.own, guest.window)) > 0;
        self.crowded |= !room;
        self.level.left_over(account, room);
        rings.left_over(ring.account, room);
    }

    /// Once it is known what is left over: true if a new round begins, in which a ring can send
    /// at once.
    pub(crate) fn next_round(&mut self) -> bool {
        let mut any = self.level.next_round();
        for guest in &mut self.guests[..self.used] {
            any |= guest.rings.next_round();
        }
        any
    }

    /// The pages that a ring may send now.
    #[inline]
    pub(crate) fn grant(&mut self, ring: Party<'_>) -> u32 {
        if !self.is_contended() {
            return u32::MAX;
        }
        let window = self.depth.pages();
        let Some(guest) = self.guests.get_mut(usize::from(ring.guest)) else {
            return u32::MAX;
        };
        let mut credit = u32::MAX;
        if guest.has_rivals(&self.level) {
            credit = self.level.grant(&mut guest.account, guest.own, window);
        }
        if guest.rings.rivals() > 1 {
            let own = guest.rings.grant(ring.account, ring.own, guest.window);
            credit = credit.min(own);
        }
        credit
    }

    /// Charges a ring for what it sent: `load` pages that are with the disk now, at a `cost`,
    /// beside those that it had before.
    #[inline]
    pub(crate) fn charge(&mut self, ring: Party<'_>, load: u32, cost: u32) {
        if !self.is_contended() {
            return;
        }
        let window = self.depth.pages();
        let Some(guest) = self.guests.get_mut(usize::from(ring.guest)) else {
            return;
        };
        if guest.has_rivals(&self.level) {
            let (account, own) = (&mut guest.account, guest.own);
            self.level.charge(account, own, load, cost, window);
        }
        if guest.rings.rivals() > 1 {
            let (rings, window) = (&mut guest.rings, guest.window);
            rings.charge(ring.account, ring.own, load, cost, window);
        }
        guest.own = guest.own.saturating_add(load);
        self.load = self.load.saturating_add(load);
    }
}

#[cfg(test)]
mod tests;
