//! A ring core at work: its [`RingCore`], what control asks of it, and its rest.
//!
//! Control hands rings over and asks for them back through one-slot mailboxes; a ring belongs to
//! exactly one core in between. The same worker runs on a core of its own or, in a domain with
//! one vCPU, inside control's loop.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spindle_block::{DiskQueue, SubmitError, Unit};
use spindle_xen::event::{Deadline, Notify, Port};
use spindle_xen::grant::GrantOps;

use crate::block_access::BlockAccess;
use crate::mailbox::Mailbox;
use crate::pacer::{self, Pacer, PollTime};
use crate::ring::Halt;
use crate::ring_core::{Detached, RingCore, RingError, RingId, Work};
use crate::session::{RingGrowth, RingShare, Session};
use crate::stats::CoreStats;
use crate::sync::{AtomicU64, Ordering};

/// What control asks of a core.
#[derive(Debug)]
pub enum Order {
    /// Serve a ring, one that was adopted or another; answered by [`Report::Attached`] or [`Report::Refused`] with the same token.
    Attach {
        /// Control's name for the ring.
        token: u64,
        /// The ring.
        session: Box<Session>,
    },
    /// Stop serving a ring; answered by [`Report::Detached`] when nothing of it is in flight.
    Detach(RingId),
    /// A ring's volume has another size. No answer.
    Resize {
        /// Its place.
        ring: RingId,
        /// The new size, in 512-byte sectors.
        sectors: u64,
    },
    /// A ring's volume has grown and has another map, to which the ring goes on once it has answered what
    /// it has taken. No answer.
    Grow {
        /// Its place.
        ring: RingId,
        /// The volume.
        growth: Box<RingGrowth>,
    },
    /// A ring gets another share of its disk. No answer.
    Share {
        /// Its place.
        ring: RingId,
        /// The share.
        share: Box<RingShare>,
    },
    /// A part of a disk is no longer what it was: submit nothing more to it for any ring, those that
    /// are being given back included. No answer, but see [`Link::done`].
    Remove {
        /// The disk.
        disk: usize,
        /// Which part of it.
        unit: Unit,
    },
    /// A disk is lost: fail all that is in flight on it and all that comes. No answer, but see
    /// [`Link::done`].
    FailDisk(usize),
    /// The same for a disk that may still write to memory. No answer.
    CutOff(usize),
    /// A disk is back: its queue may hold more or fewer commands than before. No answer.
    Renew(usize),
    /// A disk of a core that holds may be used ([`RingCore::hold`]): every command of a
    /// former life of the kernel has ended, on all queues of the disk, or its controller was disabled
    /// since. No answer.
    Begin(usize),
    /// Poll for another time without finding work, from now on. No answer.
    Poll(PollTime),
    /// Read or write blocks of a disk for control; answered by [`Report::Access`]. A core has one at a time.
    Access(Box<BlockAccess>),
    /// Take no more requests from any ring, for good, and finish those that were taken; answered by
    /// [`Report::Drained`].
    Drain,
    /// Give up the disk queues and end; answered by [`Report::Stopped`].
    Stop,
}

/// What a core tells control.
#[derive(Debug)]
pub enum Report<Q> {
    /// A ring is being served.
    Attached {
        /// From the order.
        token: u64,
        /// Its place on the core.
        ring: RingId,
    },
    /// A ring could not be taken on.
    Refused {
        /// From the order.
        token: u64,
        /// Why.
        error: RingError,
        /// The ring.
        session: Box<Session>,
    },
    /// A ring has left the core.
    Detached {
        /// What was its place.
        ring: RingId,
        /// What is left of it.
        remains: Box<Detached>,
    },
    /// A ring was halted because its frontend broke the protocol. It is still attached.
    Halted {
        /// Its place.
        ring: RingId,
        /// Why.
        halt: Halt,
    },
    /// What [`Order::Access`] asked for, with its outcome.
    Access(Box<BlockAccess>),
    /// All that the core had taken is answered, and nothing is with any disk.
    Drained,
    /// The core has ended.
    Stopped(Vec<Q>),
}

/// The two mailboxes between control and one core.
#[derive(Debug)]
pub struct Link<Q> {
    /// From control.
    pub orders: Mailbox<Order>,
    /// To control.
    pub reports: Mailbox<Report<Q>>,
    /// Orders that the core has carried out.
    done: AtomicU64,
}

impl<Q> Link<Q> {
    /// How many orders the core has carried out so far. One that has left the mailbox may not be
    /// among them yet.
    pub fn done(&self) -> u64 {
        // Acquire: what the core did by then is over.
        self.done.load(Ordering::Acquire)
    }
}

impl<Q> Default for Link<Q> {
    fn default() -> Self {
        Self {
            orders: Mailbox::new(),
            reports: Mailbox::new(),
            done: AtomicU64::new(0),
        }
    }
}

/// What a core does after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Take the next turn.
    Turn,
    /// Rest until an event comes on one of [`Worker::ports`] or the core's own, if
    /// [`Worker::listen`] agrees, or until the time given.
    Rest(Deadline),
    /// Rest until the time given, or an event on the core's own port: what the rings have is
    /// looked for then. No frontend is asked for events.
    Nap(Deadline),
    /// It is over; take no further turn.
    Stop,
}

/// The longest rest of a core with rings: a request or an order whose event is lost waits no longer.
/// No frontend and no toolstack gives up after two seconds, and one trip to the hypervisor in two
/// seconds is half a thousandth of a CPU even where a trip takes a millisecond.
///
/// There is no such remedy for events *to* a frontend. To send one again has no effect: Xen delivers
/// none on a port that is already marked pending. A guest whose CPU was not run finds it at its next
/// timer.
pub const LOOK_NS: u64 = 2_000_000_000;
/// The same for a core without rings, where only control's events can be lost. A frontend's
/// connection, or the reset of an NVMe controller, then waits for that long: even twice in a row it
/// stays within the 10 s after which OpenBSD's frontend gives up, and after which a reset takes the
/// disk's queue from a core that does not follow.
pub const LOOK_WITHOUT_RINGS_NS: u64 = 4_000_000_000;

/// When to look, after work, for grants that are not used.
const TRIM_NS: u64 = 60_000_000_000;

/// A ring that its limits hold back for no longer is waited for without a rest.
const SOON_NS: u64 = 5_000;

/// How long after a look what waits for something that no event announces is tried again at the latest,
/// once polling for it was in vain.
const RETRY_NS: u64 = 200_000;

/// A rest that ends sooner, and for nothing, is one that a frontend ended by an event without a
/// request (CVE-2020-27673 shows what such events may cost). After so many in a row rests become
/// naps, of as long as that, in which the core hears no frontend.
const SHORT_NS: u64 = 1_000_000;
const FOR_NOTHING: u32 = 16;

/// A rest that a turn has ordered.
#[derive(Clone, Copy, Debug)]
struct Rested {
    /// When it began.
    since: u64,
    /// By when it is to end.
    until: u64,
    /// What it is.
    what: Rest,
}

/// What a rest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Waits for a disk.
    Wait,
    /// There is nothing to wait for.
    Sleep,
    /// Carries on one that a look has interrupted.
    Again,
}

/// A ring core and its link to control.
#[derive(Debug)]
pub struct Worker<Q, G, N> {
    core: Option<RingCore<Q, G, N>>,
    link: Arc<Link<Q>>,
    pacer: Pacer,
    /// A report that found the mailbox full.
    report: Option<Report<Q>>,
    /// Rings to be given back once they are drained.
    draining: Vec<RingId>,
    /// Rings that go on with other volumes once they have answered what they have taken.
    growing: Vec<(RingId, Box<RingGrowth>)>,
    /// It takes nothing more from any ring.
    leaving: bool,
    /// It has said that nothing is left.
    left: bool,
    /// Something that was ordered is not done yet: a ring is being drained or its volume grows, blocks are
    /// being read, or a disk is to be cut off.
    owing: bool,
    /// Orders that were carried out and do not count as such yet, since an earlier one has not been.
    early: u64,
    reported: bool,
    stats: Arc<CoreStats>,
    /// When the last turn was, and whether it found work.
    last_ns: u64,
    last_busy: bool,
    /// The rest since the last turn.
    rested: Option<Rested>,
    /// When grants that are not used are to be looked for.
    trim_at: u64,
    /// How many rests in a row were short, and for nothing.
    for_nothing: u32,
    /// Until then a turn need not visit anything unless something has come from outside.
    quiet_until: u64,
    /// Such turns since the last that was counted.
    quiet: u64,
    /// Until then a turn may do with the one ring that is awake.
    alone_until: u64,
    /// Such turns that found work since the last other turn that did, or had its time counted. But for the
    /// first they are counted together.
    in_a_row: u64,
}

impl<Q: DiskQueue, G: GrantOps, N: Notify> Worker<Q, G, N> {
    /// A worker for `core` that counts in `stats`, to be read by any core.
    #[must_use]
    pub fn new(
        core: RingCore<Q, G, N>,
        link: Arc<Link<Q>>,
        poll: PollTime,
        stats: Arc<CoreStats>,
    ) -> Self {
        Self {
            draining: Vec::with_capacity(core.places()),
            growing: Vec::new(),
            core: Some(core),
            link,
            pacer: Pacer::new(poll),
            report: None,
            leaving: false,
            left: false,
            owing: false,
            early: 0,
            reported: false,
            stats,
            // The first counts none.
            last_ns: u64::MAX,
            last_busy: false,
            rested: None,
            trim_at: 0,
            for_nothing: 0,
            quiet_until: 0,
            quiet: 0,
            alone_until: 0,
            in_a_row: 0,
        }
    }

    /// One turn: orders, a visit to all rings and disks, reports.
    #[inline]
    pub fn turn(&mut self, now_ns: u64) -> Next {
        if now_ns < self.quiet_until
            && !self.link.orders.is_full()
            && let Some(core) = &mut self.core
            && core.is_quiet(now_ns)
        {
            self.quiet += 1;
            return Next::Turn;
        }
        if now_ns < self.alone_until && !self.link.orders.is_full() {
            return self.turn_alone(now_ns);
        }
        self.turn_fully(now_ns, Work::default())
    }

    /// The same where the core has one ring that is awake, and neither orders nor anything to report. Not
    /// part of the turns that find nothing, which are short.
    #[inline(never)]
    fn turn_alone(&mut self, now_ns: u64) -> Next {
        let mut work = Work::default();
        if let Some(core) = &mut self.core
            && core.visit_alone(now_ns, &mut work)
        {
            if self.in_a_row > 0 {
                // Nothing of what the first of them has noted is other now but the time.
                self.pacer.works_on(now_ns);
            } else {
                self.quiet_until = 0;
                self.for_nothing = 0;
                self.account(now_ns, true);
                self.pacer.worked(now_ns);
            }
            self.in_a_row += 1;
            return Next::Turn;
        }
        self.turn_fully(now_ns, work)
    }

    /// The same whatever has come, beside the `work` done already in this turn.
    #[inline(never)]
    fn turn_fully(&mut self, now_ns: u64, work: Work) -> Next {
        self.quiet_until = 0;
        let Some(core) = &mut self.core else {
            return Next::Stop;
        };
        let slept_ns = self.pacer.wake(now_ns);
        let work = core.visit_after(now_ns, slept_ns, work);
        let busy = work.taken > 0 || work.completed > 0 || work.more;
        let working = !busy && core.is_working();
        if core.was_told(now_ns) {
            self.alone_until = core.alone_until().min(self.trim_at);
        }
        let mut ordered = false;
        if self.link.orders.is_full() || work.fault || self.owing || self.report.is_some() {
            self.alone_until = 0;
            ordered = self.attend();
            self.send();
            if self.core.is_none() {
                return if self.report.is_none() {
                    Next::Stop
                } else {
                    Next::Turn
                };
            }
        }
        let again = self.rested.is_some() && self.judge_rest(now_ns, busy || working);
        if !again {
            self.account(now_ns, busy || working);
        }
        // Also where a core never rests, and grants of one ring would stay while another is busy.
        if now_ns >= self.trim_at {
            self.trim(now_ns);
        }
        if busy {
            self.for_nothing = 0;
            self.pacer.worked(now_ns);
            // Grants may have been mapped.
            self.trim_at = self.trim_at.min(now_ns.saturating_add(TRIM_NS));
            return Next::Turn;
        }
        // An order may have ended requests, whose answers go out in the next turn.
        if working {
            self.for_nothing = 0;
            return Next::Turn;
        }
        if ordered {
            return Next::Turn;
        }
        if self.pacer.goes_on(now_ns) {
            self.be_quiet();
            return Next::Turn;
        }
        self.idle(now_ns, work, again)
    }

    /// Has the next turns do without a visit until something comes, if nothing is left to be done.
    #[inline]
    fn be_quiet(&mut self) {
        if let Some(core) = &self.core
            && !self.owing
            && self.report.is_none()
        {
            let until = core.quiet_until();
            self.quiet_until = until.min(self.pacer.polls_until()).min(self.trim_at);
        }
    }

    /// What to do after a turn that found nothing, when the core has polled for long enough.
    #[inline(never)]
    fn idle(&mut self, now_ns: u64, work: Work, again: bool) -> Next {
        // What has rested may have much to look at.
        self.alone_until = 0;
        // What has been submitted for control since the poll iteration counts, too.
        let in_flight = self.core.as_ref().map_or(0, RingCore::in_flight);
        let held = self.core.as_ref().and_then(RingCore::held_until);
        let (due, all_held) = held.unwrap_or((u64::MAX, false));
        if due <= now_ns.saturating_add(SOON_NS) {
            return Next::Turn;
        }
        // Where no other ring is awake no request is to be expected, and the time is known.
        if all_held && in_flight == 0 {
            return self.sleep(now_ns, due, again);
        }
        let waits = self.core.iter().flat_map(RingCore::waits);
        let crowded = self.core.as_ref().is_some_and(RingCore::is_crowded);
        match self.pacer.idle(now_ns, in_flight, crowded, waits) {
            pacer::Rest::Poll => Next::Turn,
            pacer::Rest::Nap {
                until,
                listen: true,
            } => self.rest(now_ns, until.min(due), Rest::Wait),
            pacer::Rest::Nap { until, .. } => self.nap(now_ns, until.min(due)),
            // A halt may still have to be reported.
            pacer::Rest::Sleep if work.fault => Next::Turn,
            // What waits for memory or room, though nothing is in flight, has to be tried again, and
            // so has a barrier, before which a ring of another core may wait for tokens.
            pacer::Rest::Sleep if work.busy && self.has_work() => {
                // As long as it has waited, so that no wait is much longer than it had to be.
                let waited = now_ns.saturating_sub(self.pacer.worked_at());
                let nap = waited.clamp(SOON_NS, RETRY_NS);
                self.nap(now_ns, now_ns.saturating_add(nap).min(due))
            }
            pacer::Rest::Sleep => self.sleep(now_ns, due, again),
        }
    }

    /// See [`RingCore::has_work`].
    fn has_work(&self) -> bool {
        self.core.as_ref().is_some_and(RingCore::has_work)
    }

    /// Rests until the next look, or until unused grants are due to be unmapped, or a ring may go on that
    /// its limits hold back.
    fn sleep(&mut self, now_ns: u64, due: u64, again: bool) -> Next {
        let rings = self.core.as_ref().and_then(|core| core.sessions().next());
        let look = match rings {
            Some(_) => LOOK_NS,
            None => LOOK_WITHOUT_RINGS_NS,
        };
        let until = now_ns.saturating_add(look).min(self.trim_at).min(due);
        self.rest(now_ns, until, if again { Rest::Again } else { Rest::Sleep })
    }

    #[cold]
    fn trim(&mut self, now_ns: u64) {
        let due = self.core.as_mut().and_then(|core| core.trim(now_ns));
        self.trim_at = due.unwrap_or(u64::MAX);
    }

    /// Notes what the rest before this turn was good for. True if it was a sleep that went by, and
    /// there is nothing: the turn was a look, and the sleep goes on. Such a turn is not counted, or
    /// the counters of a core that does nothing would change, and be published, again and again.
    #[inline(never)]
    fn judge_rest(&mut self, now_ns: u64, busy: bool) -> bool {
        let rested = self.rested.take();
        if !busy && let Some(Rested { since, until, what }) = rested {
            let short = now_ns < until.min(since.saturating_add(SHORT_NS));
            if !short {
                self.for_nothing = 0;
                return what != Rest::Wait;
            }
            self.for_nothing = self.for_nothing.saturating_add(1);
        }
        false
    }

    fn rest(&mut self, now_ns: u64, until: u64, what: Rest) -> Next {
        if self.for_nothing >= FOR_NOTHING {
            return self.nap(now_ns, until.min(now_ns.saturating_add(SHORT_NS)));
        }
        self.rested = Some(Rested {
            since: now_ns,
            until,
            what,
        });
        Next::Rest(Deadline::new(now_ns, until))
    }

    fn nap(&mut self, now_ns: u64, until: u64) -> Next {
        self.stats.sleeps.add(1);
        Next::Nap(Deadline::new(now_ns, until))
    }

    /// The ports of the rings that are attached.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        let sessions = self.core.iter().flat_map(RingCore::sessions);
        sessions.map(|(_, session)| session.port())
    }

    /// Asks every frontend to send an event for its next request, then looks once more: true if
    /// the core may rest. Events that came before must have been forgotten by then, so that one
    /// for a request that this look misses ends the rest at once.
    pub fn listen(&mut self) -> bool {
        let quiet = self.core.as_mut().is_some_and(RingCore::listen);
        let rests =
            quiet && !self.link.orders.is_full() && self.report.is_none() && !self.is_ring_due();
        if !rests {
            self.rested = None;
        } else if self.rested.is_none_or(|rested| rested.what != Rest::Again) {
            self.stats.sleeps.add(1);
        }
        rests
    }

    /// Whether a ring can be given back, or go on with another volume.
    fn is_ring_due(&self) -> bool {
        self.core.as_ref().is_some_and(|core| {
            let mut growing = self.growing.iter();
            growing.any(|(ring, _)| core.can_grow(*ring))
                || self.draining.iter().any(|ring| core.is_drained(*ring))
        })
    }

    /// Whether control has put in an order. To be asked before a nap, after events that came on
    /// the core's own port were forgotten.
    #[must_use]
    pub fn has_orders(&self) -> bool {
        self.link.orders.is_full()
    }

    /// Counts a turn, with the quiet ones before it, and the time since the last one by what that one
    /// found.
    #[inline(always)]
    fn account(&mut self, now_ns: u64, busy: bool) {
        let idle = core::mem::take(&mut self.quiet);
        let in_a_row = core::mem::take(&mut self.in_a_row);
        if in_a_row > 1 {
            // The first was counted.
            self.stats.polls_busy.add(in_a_row - 1);
        }
        if busy {
            self.stats.polls_busy.add(1);
            if idle > 0 {
                self.stats.polls_idle.add(idle);
            }
        } else {
            self.stats.polls_idle.add(idle + 1);
        }
        let time = now_ns.saturating_sub(core::mem::replace(&mut self.last_ns, now_ns));
        let counter = match core::mem::replace(&mut self.last_busy, busy) {
            true => &self.stats.busy_ns,
            false => &self.stats.idle_ns,
        };
        counter.add(time);
    }

    /// Whether control has been sent a report since this was last asked, and must be woken.
    pub fn take_reported(&mut self) -> bool {
        core::mem::take(&mut self.reported)
    }

    /// Deals with the next order and whatever there is to report, one report at a time. True if an
    /// order was carried out.
    fn attend(&mut self) -> bool {
        let Some(core) = &mut self.core else {
            return false;
        };
        if core.is_cutting() && core.attend_cut_off() {
            self.note_done();
            return true;
        }
        if self.report.is_some() {
            return false;
        }
        let drained = |ring: &RingId| core.is_drained(*ring);
        if let Some(at) = self.draining.iter().position(drained) {
            let ring = self.draining.swap_remove(at);
            self.growing.retain(|(growing, _)| *growing != ring);
            if let Ok(remains) = core.detach(ring) {
                let remains = Box::new(remains);
                self.report = Some(Report::Detached { ring, remains });
            }
            return false;
        }
        if let Some((ring, halt)) = core.next_fault() {
            self.report = Some(Report::Halted { ring, halt });
            return false;
        }
        if let Some(read) = core.attend_access() {
            self.report = Some(Report::Access(read));
            return false;
        }
        if self.leaving && core.drain() && !self.left {
            self.left = true;
            self.report = Some(Report::Drained);
            return false;
        }
        let mut growing = self.growing.iter();
        if let Some(at) = growing.position(|(ring, _)| core.can_grow(*ring)) {
            let (ring, growth) = self.growing.swap_remove(at);
            core.grow(ring, *growth);
        }
        let rings = !self.draining.is_empty() || !self.growing.is_empty();
        self.owing = core.is_reading() || rings || core.is_cutting() || self.leaving;
        let Some(order) = self.link.orders.take() else {
            return false;
        };
        match order {
            Order::Attach { token, session } => {
                self.report = Some(match core.attach(*session) {
                    Ok(ring) => Report::Attached { token, ring },
                    Err((error, session)) => Report::Refused {
                        token,
                        error,
                        session,
                    },
                });
            }
            Order::Detach(ring) => {
                core.begin_detach(ring);
                if !self.draining.contains(&ring) {
                    self.draining.push(ring);
                }
                self.owing = true;
            }
            Order::Resize { ring, sectors } => core.resize(ring, sectors),
            Order::Grow { ring, growth } => {
                self.growing.retain(|(growing, _)| *growing != ring);
                if core.begin_growth(ring) {
                    self.growing.push((ring, growth));
                    self.owing = true;
                }
            }
            Order::Share { ring, share } => core.share(ring, *share),
            Order::Remove { disk, unit } => {
                core.remove(disk, unit);
                for (ring, growth) in &self.growing {
                    if growth.is_on_unit(disk, unit) {
                        core.remove_ring(*ring);
                    }
                }
            }
            Order::FailDisk(disk) => core.fail_disk(disk),
            Order::CutOff(disk) => self.owing |= !core.cut_off(disk),
            Order::Renew(disk) => core.renew(disk),
            Order::Begin(disk) => core.begin(disk),
            Order::Poll(poll) => self.pacer = Pacer::new(poll),
            Order::Access(read) => match core.begin_access(read) {
                Ok(()) => {
                    self.owing = true;
                    self.report = core.attend_access().map(Report::Access);
                }
                Err(mut read) => {
                    read.outcome = Err(SubmitError::Full.into());
                    self.report = Some(Report::Access(read));
                }
            },
            Order::Drain => {
                (self.leaving, self.owing) = (true, true);
            }
            Order::Stop => {
                let queues = self.core.take().map(RingCore::into_queues);
                self.report = Some(Report::Stopped(queues.unwrap_or_default()));
            }
        }
        if self.leaving
            && let Some(core) = &mut self.core
        {
            // A ring that was just taken on, too.
            core.drain();
        }
        self.early += 1;
        if !self.core.as_ref().is_some_and(RingCore::is_cutting) {
            self.note_done();
        }
        true
    }

    /// Counts what was carried out.
    fn note_done(&mut self) {
        // Only this core writes it. Release: see [`Link::done`].
        let done = self.link.done.load(Ordering::Relaxed) + core::mem::take(&mut self.early);
        self.link.done.store(done, Ordering::Release);
    }

    fn send(&mut self) {
        if let Some(report) = self.report.take() {
            match self.link.reports.put(report) {
                Ok(()) => self.reported = true,
                Err(report) => self.report = Some(report),
            }
        }
    }
}
