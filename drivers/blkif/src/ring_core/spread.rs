//! Rings whose volume is on several disks: what a visit does with one disk of another ring, with each of
//! theirs. Such a ring's volume has a number that no disk has, so that others are asked nothing for it.
//!
//! They are also why a disk that may still write to memory is not always cut off at once. A page that it
//! may write to can be one that another disk writes to at this moment, for a command that is to succeed
//! and from a controller that a fault would stop. So what the other disks have is waited for, while such
//! rings give nothing to any disk, and nothing is answered that the lost disk has a part in.

use alloc::vec::Vec;

use spindle_block::{Command, DiskQueue, IoResult, SubmitError, Tag};
use spindle_xen::event::Notify;
use spindle_xen::grant::GrantOps;

use super::{Disk, RingCore, Shared};
use crate::session::{Session, Sink};

/// Has a ring take requests, none of which goes straight to a disk.
#[cold]
#[inline(never)]
pub(super) fn intake<Q, G: GrantOps>(
    disks: &mut [Disk<Q>],
    session: &mut Session,
    ring: u16,
    budget: u32,
    grants: &G,
) -> u32 {
    allow(disks, session);
    // Of a type of its own, since what is called from one place only becomes a part of that.
    session.intake(ring, budget, None::<Sink<'_, Nowhere>>, grants)
}

/// Submits what it has ready.
#[cold]
#[inline(never)]
pub(super) fn submit<Q: DiskQueue>(
    disks: &mut [Disk<Q>],
    session: &mut Session,
    ring: u16,
    shared: &mut Shared,
    busy: &mut Vec<u16>,
) {
    allow(disks, session);
    session.submit_spread(ring, disks, shared);
    charge(disks, session, busy);
}

/// Lets a ring send to each of its disks what it may now. It takes requests as long as it may send
/// something to all of them.
fn allow<Q>(disks: &mut [Disk<Q>], session: &mut Session) {
    let mut least = u32::MAX;
    for at in 0..session.shares() {
        let Some((number, party)) = session.share_party(at) else {
            continue;
        };
        let credit = match disks.get_mut(number) {
            Some(disk) if disk.scheduler.is_contended() => disk.scheduler.grant(party),
            _ => u32::MAX,
        };
        session.allow_share(at, credit);
        least = least.min(credit);
    }
    session.allow(least);
}

/// Charges a ring for what it sent to each.
fn charge<Q>(disks: &mut [Disk<Q>], session: &mut Session, busy: &mut Vec<u16>) {
    for at in 0..session.shares() {
        let (load, cost) = session.take_sent_to(at);
        if cost > 0
            && let Some((number, mut party)) = session.share_party(at)
            && let Some(disk) = disks.get_mut(number)
        {
            disk.dirty = true;
            disk.make_busy(number, busy);
            if disk.scheduler.is_contended() {
                party.own -= load;
                disk.scheduler.charge(party, load, cost);
            }
        }
    }
}

/// Counts what a ring has with each.
#[cold]
pub(super) fn count<Q>(disks: &mut [Disk<Q>], session: &mut Session, now_ns: u64) {
    for at in 0..session.shares() {
        let active = session.is_active_on(at);
        if let Some((number, party)) = session.share_party(at)
            && let Some(disk) = disks.get_mut(number)
        {
            disk.scheduler.count(party, active, now_ns);
        }
    }
}

/// The same for one that was awake alone.
#[cold]
pub(super) fn count_alone<Q>(disks: &mut [Disk<Q>], session: &mut Session, at_ns: u64) {
    for at in 0..session.shares() {
        if let Some((number, party)) = session.share_party(at)
            && let Some(disk) = disks.get_mut(number)
        {
            disk.scheduler.count_alone(party, at_ns);
        }
    }
}

/// It has more to send to those disks where it may send nothing.
#[cold]
pub(super) fn leave_over<Q>(disks: &mut [Disk<Q>], session: &mut Session) {
    for at in 0..session.shares() {
        if session.is_broke_on(at)
            && let Some((number, party)) = session.share_party(at)
            && let Some(disk) = disks.get_mut(number)
            && disk.scheduler.is_contended()
        {
            disk.scheduler.left_over(party);
        }
    }
}

/// The queue of no disk.
enum Nowhere {}

impl DiskQueue for Nowhere {
    fn submit(&mut self, _: &Command<'_>, _: Tag) -> Result<(), SubmitError> {
        match *self {}
    }

    fn commit(&mut self) {
        match *self {}
    }

    fn poll(&mut self, _: impl FnMut(Tag, IoResult)) -> usize {
        match *self {}
    }

    fn in_flight(&self) -> usize {
        match *self {}
    }

    fn fail_all(&mut self, _: impl FnMut(Tag, IoResult)) {
        match *self {}
    }
}

impl<Q: DiskQueue, G: GrantOps, N: Notify> RingCore<Q, G, N> {
    /// As [`RingCore::fail_disk`], for a disk that may not have stopped. What it
    /// may still write to is put out of its reach first: guests' pages are unmapped, buffers and
    /// frames are never used again. False if that has to wait for commands of other disks: then
    /// [`RingCore::attend_cut_off`] does it, and nothing that the disk has is answered before.
    pub fn cut_off(&mut self, disk: usize) -> bool {
        if !self.cutting.contains(&disk) {
            self.cutting.push(disk);
        }
        self.attend_cut_off()
    }

    /// Whether a disk is yet to be cut off.
    #[must_use]
    pub fn is_cutting(&self) -> bool {
        !self.cutting.is_empty()
    }

    /// Cuts off what [`RingCore::cut_off`] could not, if that can be done now; true if nothing is left
    /// to be. To be called at each poll iteration until then.
    pub fn attend_cut_off(&mut self) -> bool {
        let mut waits = false;
        for session in self.rings[..self.used].iter_mut().flatten() {
            session.pause(&self.cutting);
            waits |= session.is_with_others(&self.cutting);
        }
        if waits {
            return false;
        }
        while let Some(disk) = self.cutting.pop() {
            for session in self.rings[..self.used].iter_mut().flatten() {
                if session.volume().is_on(disk) {
                    session.cut_off(disk, &self.grants, &mut self.shared.pool);
                }
            }
            self.shared.reading.cut_off(disk);
            self.fail_disk(disk);
        }
        for session in self.rings[..self.used].iter_mut().flatten() {
            session.pause(&[]);
        }
        true
    }
}
