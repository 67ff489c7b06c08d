//! All that one ring core does, without the hardware: turns over its rings and disk queues.
//!
//! One visit: completions in, requests in, grants resolved, one copy hypercall, commands out, one
//! doorbell per disk, responses published, at most one notification per ring. It neither
//! allocates nor logs, and locks nothing but the gate of a device with a barrier.

mod alone;
mod awake;
mod drain;
mod quiet;
mod spread;
mod visit;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use spindle_block::{DiskQueue, Tag, Unit, Volume};
use spindle_hw::SharedPages;
use spindle_kept::{AtWork, JournalPages, Recorder};
use spindle_status::trace::kind;
use spindle_xen::DomId;
use spindle_xen::event::{Notify, Port};
use spindle_xen::grant::GrantOps;

use crate::abi::MAX_SEGMENTS;
use crate::batch::{CopyBatch, MapBatch, UnmapBatch};
use crate::block_access::{BlockAccess, Reading};
use crate::guests::Guests;
use crate::pool::{BadPoolSize, BufferPool};
use crate::ring::Halt;
use crate::scheduler::Scheduler;
use crate::session::{RingGrowth, RingShare, Session, Tenant};
use crate::stats::RingStats;
use crate::turns::Turns;
use crate::turnstile::Turnstile;
use crate::wait::Wait;
use crate::window::Window;

use awake::Awake;

/// Sizes that are fixed when a core starts.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Rings that can be attached at once, at most 65,535.
    pub rings: usize,
    /// Requests taken from one ring in one visit; at least 1.
    pub budget: u32,
    /// Segments of the largest request; at least [`MAX_SEGMENTS`]. There must be as many buffer
    /// pages, so that such a request goes through them at once where no other ring needs any.
    pub segments: usize,
    /// Grant maps in one hypercall; at least `segments`.
    pub map_batch: usize,
    /// Grant copies in one hypercall; at least twice `segments`.
    pub copy_batch: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rings: 64,
            budget: 32,
            segments: MAX_SEGMENTS,
            map_batch: 32 * MAX_SEGMENTS,
            copy_batch: 64 * MAX_SEGMENTS,
        }
    }
}

/// A ring's place on its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId(pub u16);

/// What a visit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Requests taken from rings.
    pub taken: u32,
    /// Commands that disks finished.
    pub completed: u32,
    /// Whether requests are still between ring and response; also of a disk that is held.
    pub busy: bool,
    /// Whether the next visit may have something to do, whatever happens until then: something was
    /// answered, or can be sent to a disk.
    pub more: bool,
    /// Whether a ring was halted that [`RingCore::next_fault`] has not told of.
    pub fault: bool,
}

impl Work {
    /// Whether the visit found nothing and left nothing to wait for.
    #[must_use]
    pub fn is_idle(self) -> bool {
        self.taken == 0 && self.completed == 0 && !self.busy && !self.more
    }
}

/// What is left of a ring when it leaves its core; all grants of its cache are unmapped.
#[derive(Debug)]
pub struct Detached {
    /// The ring's pages, still mapped.
    pub ring: SharedPages,
    /// Its journal's pages.
    pub journal: JournalPages,
    /// Our end of the event channel, still bound.
    pub port: Port,
    /// The window, without the frames that must never be used again.
    pub window: Option<Window>,
    /// The counters.
    pub stats: Arc<RingStats>,
    /// Requests consumed (and answered) over the ring's life.
    pub consumed: u32,
}

/// Why a ring cannot be attached or detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// All places are taken.
    #[error("no place for another ring on this core")]
    Crowded,
    /// Its largest requests are too large for this core's buffers.
    #[error("requests of so many segments are too large for this core")]
    Segments,
    /// This core has no queue for the volume's disk.
    #[error("no queue for this disk on this core")]
    NoDisk,
    /// Requests are still in flight.
    #[error("requests are still in flight")]
    Busy,
    /// There is no such ring.
    #[error("no such ring")]
    Unknown,
}

/// One core's rings, disk queues and buffers. `Q` is indexed by [`spindle_block::Volume::disk`].
#[derive(Debug)]
pub struct RingCore<Q, G, N> {
    rings: Box<[Option<Session>]>,
    /// Places from here on are empty.
    used: usize,
    guests: Guests<DomId>,
    /// Who shares the disks.
    tenants: Guests<Tenant>,
    disks: Box<[Disk<Q>]>,
    grants: G,
    notify: N,
    shared: Shared,
    /// Of the largest request.
    segments: usize,
    maps: MapBatch,
    unmaps: UnmapBatch,
    copies: CopyBatch,
    budget: u32,
    awake: Awake,
    /// The ring that is served alone and the disk that it has, for [`RingCore::visit_alone`].
    alone: (u16, u16),
    /// How many requests it may take at once by that without a look at its limits: none if it has any.
    alone_budget: u32,
    /// Rings that the last visit has done something for, in the order of their turns.
    served: Vec<u16>,
    /// Responses that their frontends were yet to be told of after it.
    held_back: usize,
    /// Disks that have something of this core.
    busy: Vec<u16>,
    /// When the disks were told the time last; nothing if they are to be told in the next visit.
    told_ns: Option<u64>,
    /// Whether rings compete for any of the disks.
    contended: bool,
    /// When the last visit began.
    now_ns: u64,
    /// Where the ring that is served is noted, for the kernel's next life.
    at_work: AtWork,
    /// Where what is rare is recorded.
    recorder: Recorder,
    /// Disks that are to be cut off.
    cutting: Vec<usize>,
}

/// What the rings of a core share, besides its disks.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pool: BufferPool,
    pub(crate) turns: Turns,
    /// What control has asked for.
    pub(crate) reading: Reading,
}

#[derive(Debug)]
pub(crate) struct Disk<Q> {
    pub(crate) queue: Q,
    /// It gets no commands before [`RingCore::begin`].
    held: bool,
    /// Submitted to since the last commit.
    dirty: bool,
    /// It is in [`RingCore::busy`].
    busy: bool,
    /// Some ring found the queue full at its last turn. Nobody submits out of turn then, or those
    /// that wait in line would get less than those with nobody in line.
    full: bool,
    /// Rings of which the full queue took nothing at their last turn.
    pub(crate) waiting: Turnstile,
    /// How the rings share it.
    scheduler: Scheduler,
}

impl<Q: DiskQueue, G: GrantOps, N: Notify> RingCore<Q, G, N> {
    /// A core without rings, with a queue for each disk and `buffers` for grant copy.
    ///
    /// # Errors
    /// If the buffers could not hold the largest request.
    pub fn new(
        config: Config,
        queues: Vec<Q>,
        grants: G,
        notify: N,
        buffers: SharedPages,
    ) -> Result<Self, BadPoolSize> {
        let places = config.rings.min((1 << 16) - 1);
        let segments = config.segments.max(MAX_SEGMENTS);
        let busy = Vec::with_capacity(queues.len());
        let cutting = Vec::with_capacity(queues.len());
        let disk = |queue: Q| Disk {
            busy: false,
            scheduler: Scheduler::new(queue.depth(), places),
            queue,
            held: false,
            dirty: false,
            full: false,
            waiting: Turnstile::new(places),
        };
        let mut rings = vec![];
        rings.resize_with(places, || None);
        Ok(Self {
            rings: rings.into(),
            used: 0,
            guests: Guests::new(places),
            tenants: Guests::new(places),
            disks: queues.into_iter().map(disk).collect(),
            grants,
            notify,
            shared: Shared {
                pool: BufferPool::new(buffers, places, segments)?,
                turns: Turns::new(places),
                reading: Reading::default(),
            },
            segments,
            maps: MapBatch::new(config.map_batch.max(segments)),
            unmaps: UnmapBatch::new(config.map_batch.max(segments)),
            copies: CopyBatch::new(config.copy_batch.max(2 * segments)),
            budget: config.budget.max(1),
            awake: Awake::new(places),
            alone: (0, 0),
            alone_budget: 0,
            served: Vec::with_capacity(places),
            held_back: 0,
            busy,
            told_ns: None,
            contended: false,
            now_ns: 0,
            at_work: AtWork::nowhere(),
            recorder: Recorder::nowhere(),
            cutting,
        })
    }

    /// Notes from now on which ring is served.
    pub fn note_work(&mut self, at_work: AtWork) {
        self.at_work = at_work;
    }

    /// Has the rings that are attached from now on record there what is rare.
    pub fn record_in(&mut self, recorder: Recorder) {
        self.recorder = recorder;
    }

    /// Gives no command to any disk before [`RingCore::begin`] says so for that disk, since commands of
    /// a former life of the kernel may still be under way there, from any core's queue. One of those
    /// that wrote late would write over what a command of this life has written and reported (found by
    /// [OpenVMM](https://github.com/microsoft/openvmm/pull/2833)). Rings can be attached meanwhile;
    /// nothing is taken from them.
    pub fn hold(&mut self) {
        self.disks.iter_mut().for_each(|disk| disk.held = true);
    }

    /// Every command of a former life to this disk has ended, on all of its queues, or its controller was
    /// disabled since: the disk may be used.
    pub fn begin(&mut self, disk: usize) {
        let Some(Disk { held, .. }) = self.disks.get_mut(disk) else {
            return;
        };
        *held = false;
        for session in self.rings[..self.used].iter_mut().flatten() {
            if session.volume().is_on(disk) && !is_held(&self.disks, session.volume()) {
                session.begin();
            }
        }
    }

    /// Takes on a ring. One that was adopted gets an event, which a former life may have owed it.
    ///
    /// # Errors
    /// [`RingError::Crowded`], [`RingError::Segments`] or [`RingError::NoDisk`], with the session.
    pub fn attach(&mut self, mut session: Session) -> Result<RingId, (RingError, Box<Session>)> {
        if session
            .volume()
            .disks()
            .any(|disk| disk >= self.disks.len())
        {
            return Err((RingError::NoDisk, session.into()));
        }
        if session.most_segments() > self.segments {
            return Err((RingError::Segments, session.into()));
        }
        let Some(place) = self.rings.iter().position(Option::is_none) else {
            return Err((RingError::Crowded, session.into()));
        };
        // There are as many places for guests as for rings.
        let Some(guest) = self.guests.enter(session.domain()) else {
            return Err((RingError::Crowded, session.into()));
        };
        session.enter(guest);
        if let Some(tenant) = self.tenants.enter(session.tenant()) {
            session.enter_tenant(tenant);
            for disk in &mut self.disks {
                disk.scheduler.enter(tenant);
            }
        }
        if is_held(&self.disks, session.volume()) {
            session.hold();
        }
        session.pause(&self.cutting);
        session.record_in(self.recorder);
        session.note_event(self.now_ns, kind::ATTACHED, session.redo() as u64);
        if session.take_owed_event() {
            self.notify.notify(session.port());
        }
        self.rings[place] = Some(session);
        self.count_alone();
        self.awake.enter(place as u16);
        self.shared.pool.join(guest);
        self.used = self.used.max(place + 1);
        Ok(RingId(place as u16))
    }

    /// Gives a ring's volume another size, in 512-byte sectors, from its next request on.
    pub fn resize(&mut self, ring: RingId, sectors: u64) {
        if let Some(session) = self.session_mut(ring) {
            session.resize(sectors);
        }
    }

    /// A ring's volume is to grow to one with another map: takes nothing new from it before that. False if
    /// there is no such ring.
    pub fn begin_growth(&mut self, ring: RingId) -> bool {
        let session = self.session_mut(ring);
        session.map(Session::begin_growth).is_some()
    }

    /// Whether [`RingCore::begin_growth`] was called and every request taken has been answered.
    #[must_use]
    pub fn can_grow(&self, ring: RingId) -> bool {
        self.session(ring).is_some_and(Session::can_grow)
    }

    /// Gives a ring, of which [`RingCore::can_grow`] holds, the volume that its own has grown to.
    pub fn grow(&mut self, ring: RingId, growth: RingGrowth) {
        let (disks, cutting) = (&self.disks, &self.cutting);
        let place = self.rings.get_mut(usize::from(ring.0));
        if let Some(session) = place.and_then(Option::as_mut) {
            session.grow(growth);
            // As one that has just come.
            if is_held(disks, session.volume()) {
                session.hold();
            }
            session.pause(cutting);
            self.count_alone();
        }
    }

    /// Submits nothing more to `unit` of a disk, whatever ring it is for: what comes, or waits to be
    /// submitted, fails.
    pub fn remove(&mut self, disk: usize, unit: Unit) {
        for session in self.rings[..self.used].iter_mut().flatten() {
            if session.volume().is_on_unit(disk, unit) {
                session.remove();
            }
        }
        self.shared.reading.remove(disk, unit);
    }

    /// The same for all that a ring asks for: its volume is about to have a part there.
    pub(crate) fn remove_ring(&mut self, ring: RingId) {
        if let Some(session) = self.session_mut(ring) {
            session.remove();
        }
    }

    /// Begins to read blocks for control.
    ///
    /// # Errors
    /// With the read, if there is one already.
    pub fn begin_access(&mut self, read: Box<BlockAccess>) -> Result<(), Box<BlockAccess>> {
        self.shared.reading.begin(read)
    }

    /// Whether blocks are being read for control.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.shared.reading.is_some()
    }

    /// Carries the read on that [`RingCore::begin_access`] began, and gives it back once it has ended. To
    /// be called at each poll iteration until then.
    pub fn attend_access(&mut self) -> Option<Box<BlockAccess>> {
        self.submit_access();
        self.shared.reading.take_ended()
    }

    fn submit_access(&mut self) {
        let disks = &mut self.disks;
        let reading = &mut self.shared.reading;
        let disk = reading.disk().and_then(|disk| disks.get(disk));
        if disk.is_some_and(|disk| disk.held) {
            return;
        }
        let busy = &mut self.busy;
        reading.submit(|number| {
            let disk = disks.get_mut(number)?;
            disk.make_busy(number, busy);
            Some(&mut disk.queue)
        });
    }

    /// Stops taking requests from a ring; those taken, also by a former life of the kernel, are still
    /// carried out and answered.
    pub fn begin_detach(&mut self, ring: RingId) {
        if let Some(session) = self.session_mut(ring) {
            session.close();
        }
    }

    /// Whether [`RingCore::begin_detach`] was called and every request taken has been answered.
    #[must_use]
    pub fn is_drained(&self, ring: RingId) -> bool {
        self.session(ring).is_none_or(Session::is_drained)
    }

    /// Lets go of a drained ring, unmapping its grants.
    ///
    /// # Errors
    /// [`RingError::Busy`] or [`RingError::Unknown`].
    pub fn detach(&mut self, ring: RingId) -> Result<Detached, RingError> {
        if !self.is_drained(ring) {
            return Err(RingError::Busy);
        }
        let place = self.rings.get_mut(usize::from(ring.0));
        let session = place.and_then(Option::take).ok_or(RingError::Unknown)?;
        session.note_event(self.now_ns, kind::DETACHED, session.consumed());
        self.awake.leave(ring.0);
        let last = self.rings.iter().rposition(Option::is_some);
        self.used = last.map_or(0, |last| last + 1);
        let holder = session.holder(ring.0);
        self.shared.pool.leave(holder);
        self.shared.turns.leave(ring.0);
        self.guests.leave(holder.guest);
        self.leave_tenant(session.tenant_place());
        for disk in &mut self.disks {
            disk.waiting.leave(ring.0);
        }
        Ok(session.dismantle(&self.grants))
    }

    /// A ring of the tenant at this place has left it.
    fn leave_tenant(&mut self, tenant: u16) {
        if self.tenants.leave(tenant) {
            let used = self.tenants.used();
            for disk in &mut self.disks {
                disk.scheduler.leave(tenant, used);
            }
        }
    }

    /// Gives a ring another share of its disk, from its next request on.
    pub fn share(&mut self, ring: RingId, share: RingShare) {
        let Some(Some(session)) = self.rings.get_mut(usize::from(ring.0)) else {
            return;
        };
        let (before, place) = (session.tenant(), session.tenant_place());
        session.set_share(share);
        session.note_event(self.now_ns, kind::SHARED, 0);
        let tenant = session.tenant();
        if tenant == before {
            return;
        }
        self.leave_tenant(place);
        // There are as many places as rings.
        if let Some(tenant) = self.tenants.enter(tenant)
            && let Some(session) = self.session_mut(ring)
        {
            session.enter_tenant(tenant);
            for disk in &mut self.disks {
                disk.scheduler.enter(tenant);
            }
        }
    }

    /// When the first of the rings may go on that their limits keep from what they have, if there are
    /// any; and whether there are no others that are awake.
    #[must_use]
    pub fn held_until(&self) -> Option<(u64, bool)> {
        let (mut until, mut all) = (None, true);
        for session in self.awake_sessions() {
            match session.held_until(self.now_ns) {
                Some(at) => until = Some(until.map_or(at, |until: u64| until.min(at))),
                None => all = false,
            }
        }
        Some((until?, all))
    }

    /// Gives a disk up: all that is in flight on it fails, and so does all that comes for it until it is
    /// back. With a write cache, the first flush of each device after that fails too.
    pub fn fail_disk(&mut self, disk: usize) {
        for session in self.rings[..self.used].iter_mut().flatten() {
            if session.volume().is_on(disk) {
                session.note_loss(self.now_ns);
            }
        }
        let (rings, shared, now_ns) = (&mut self.rings, &mut self.shared, self.now_ns);
        if let Some(disk) = self.disks.get_mut(disk) {
            disk.queue.fail_all(|tag, result| {
                let (ring, index) = split(tag);
                if let Some(Some(session)) = rings.get_mut(ring) {
                    session.complete(index, result, now_ns, shared);
                } else {
                    shared.reading.complete(tag, result);
                }
            });
        }
    }

    /// Unmaps grants that a frontend has not used for long: those of the one ring that is due for
    /// longest, in one hypercall, since others may be waiting for their turn. Gives when to come
    /// again; `None` if no ring has any mapped.
    pub fn trim(&mut self, now_ns: u64) -> Option<u64> {
        let due = |session: &Session| session.trim_at().filter(|&at| at <= now_ns);
        let rings = self.rings.iter_mut().flatten();
        let first = rings
            .filter_map(|session| Some((due(session)?, session)))
            .min_by_key(|(at, _)| *at);
        if let Some((_, session)) = first {
            session.trim(&self.grants, now_ns);
        }
        self.sessions().filter_map(|(_, s)| s.trim_at()).min()
    }

    /// A disk that was lost is back: from now on its rings share what its queue holds now.
    pub fn renew(&mut self, disk: usize) {
        if let Some(Disk {
            queue, scheduler, ..
        }) = self.disks.get_mut(disk)
        {
            scheduler.renew(queue.depth());
        }
        for session in self.rings[..self.used].iter().flatten() {
            if session.volume().is_on(disk) {
                session.note_event(self.now_ns, kind::DISK_BACK, 0);
            }
        }
    }

    /// Ends the core, giving its disk queues back.
    pub fn into_queues(self) -> Vec<Q> {
        self.disks.into_iter().map(|disk| disk.queue).collect()
    }

    /// Asks every frontend to notify us of its next request, then looks once more. True if the
    /// core may sleep until one does: nothing was found and nothing is in flight.
    pub fn arm(&mut self) -> bool {
        let busy = self.sessions().any(|(_, session)| session.active() > 0);
        self.listen() && !busy && self.in_flight() == 0
    }

    /// Asks every frontend to notify us of its next request, then looks once more; true if there
    /// is none, whatever is in flight. The next visit looks at every ring and disk.
    pub fn listen(&mut self) -> bool {
        let mut found = false;
        // Those that have something are found by the visit that comes next.
        for session in self.rings[..self.used].iter_mut().flatten() {
            found |= session.arm(self.now_ns);
        }
        self.awake.look_at_all();
        self.told_ns = None;
        !found
    }

    /// How much will be due though no event comes for it: commands that the disks have, and
    /// responses that frontends are yet to be told of.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let busy = self
            .busy
            .iter()
            .filter_map(|&disk| self.disks.get(usize::from(disk)));
        let with_disks: usize = busy.map(|disk| disk.queue.in_flight()).sum();
        with_disks + self.held_back
    }

    /// What the waits of each ring are like that may have any.
    pub fn waits(&self) -> impl Iterator<Item = &Wait> + Clone {
        self.awake_sessions().map(Session::wait)
    }

    /// Whether a disk's queue needs turns to carry on what it has.
    #[must_use]
    pub fn is_working(&self) -> bool {
        let mut busy = self
            .busy
            .iter()
            .filter_map(|&disk| self.disks.get(usize::from(disk)));
        busy.any(|disk| disk.queue.is_working())
    }

    /// Whether rings have requests between ring and response that a visit may carry on: of
    /// [`Work::busy`], what is not held.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let mut sessions = self.awake_sessions();
        sessions.any(|session| session.active() > 0 || session.is_called() || session.is_due())
    }

    /// Whether a ring that competes with others for a disk has more for it than it may send.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.contended && self.awake_sessions().any(Session::is_throttled)
    }

    /// All rings that have anything between ring and response are among these.
    fn awake_sessions(&self) -> impl Iterator<Item = &Session> + Clone {
        let awake = self.awake.places().iter();
        awake.filter_map(|&place| self.rings.get(usize::from(place))?.as_ref())
    }

    /// Rings that can be attached at once.
    #[must_use]
    pub fn places(&self) -> usize {
        self.rings.len()
    }

    /// A ring that was halted because its frontend broke the protocol; each once.
    pub fn next_fault(&mut self) -> Option<(RingId, Halt)> {
        let mut rings = self.rings[..self.used].iter_mut().enumerate();
        rings.find_map(|(place, session)| {
            let halt = session.as_mut()?.take_fault()?;
            Some((RingId(place as u16), halt))
        })
    }

    /// A ring's session.
    #[must_use]
    pub fn session(&self, ring: RingId) -> Option<&Session> {
        self.rings.get(usize::from(ring.0))?.as_ref()
    }

    /// The rings that are attached.
    pub fn sessions(&self) -> impl Iterator<Item = (RingId, &Session)> {
        let place = |(place, session): (usize, _)| (RingId(place as u16), session);
        let rings = self.rings[..self.used].iter().enumerate();
        rings
            .filter_map(|(i, session)| Some((i, session.as_ref()?)))
            .map(place)
    }

    /// The queue of a disk, for the core's own use between visits.
    pub fn queue_mut(&mut self, disk: usize) -> Option<&mut Q> {
        self.disks.get_mut(disk).map(|disk| &mut disk.queue)
    }

    /// Buffer pages that no request holds.
    #[must_use]
    pub fn free_buffers(&self) -> usize {
        self.shared.pool.free()
    }

    fn session_mut(&mut self, ring: RingId) -> Option<&mut Session> {
        self.rings.get_mut(usize::from(ring.0))?.as_mut()
    }
}

/// Whether any disk of a volume is held.
fn is_held<Q>(disks: &[Disk<Q>], volume: &Volume) -> bool {
    let held = |disk: usize| disks.get(disk).is_some_and(|disk| disk.held);
    volume.disks().any(held)
}

/// Ring and slot of a tag.
fn split(tag: Tag) -> (usize, u16) {
    ((tag.0 >> 16) as usize, tag.0 as u16)
}
