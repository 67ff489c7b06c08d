//! One ring's state: every request between ring slot and response.
//!
//! A request takes a slot of the session, waits in line for its memory (`prepare`)
//! and for the disk, and leaves by a response. Its slot number is the disk's tag for it, so a
//! completion finds it without a search. Everything is allocated when the session is made.

mod arena;
mod aside;
mod barrier;
mod copies;
mod finish;
mod growth;
mod indirect;
mod intake;
mod ledger;
mod limit;
mod marks;
mod notes;
mod pieces;
mod prepare;
mod progress;
mod redo;
mod seen;
mod slot;
mod spread;
mod stir;
mod submit;
mod unaligned;

use alloc::boxed::Box;
use alloc::sync::Arc;

use spindle_block::{Extent, Map, Tag, Unit, Volume};
use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_kept::JournalPages;
use spindle_kept::journal::{BadJournal, Journal, Unanswered};
use spindle_limits::{Allowance, DEFAULT_WEIGHT};
use spindle_status::trace::kind;
use spindle_xen::DomId;
use spindle_xen::event::Port;
use spindle_xen::grant::{GrantOps, UnmapOp};

use crate::abi::{Abi, MAX_INDIRECT_SEGMENTS, MAX_SEGMENTS};
use crate::batch::UnmapBatch;
use crate::cache::GrantCache;
use crate::claims::Claims;
use crate::fifo::Fifo;
use crate::gate::Member;
use crate::losses::Losses;
use crate::moderation::Moderator;
use crate::pool::{BufferPool, Holder};
use crate::ring::{BackRing, BadRingSize, Halt, slots_in};
use crate::ring_core::Detached;
use crate::room::{NoRoom, filled};
use crate::scheduler::{Account, Party};
use crate::stats::{RingSnapshot, RingStats};
use crate::wait::Wait;
use crate::window::Window;

use arena::Arena;
use aside::Aside;
use barrier::Barrier;
pub use growth::RingGrowth;
pub(crate) use intake::Sink;
use ledger::Ledger;
pub use limit::RingShare;
pub(crate) use limit::Tenant;
use notes::Notes;
pub(crate) use prepare::Means;
use redo::Redo;
use seen::Seen;
use slot::{FREE_SLOT, Path, Slot, State};
use spread::Spread;
use unaligned::Unaligned;

/// What a frontend and the toolstack agreed on for a ring.
#[derive(Debug)]
pub struct Attachment {
    /// The frontend's domain.
    pub domain: DomId,
    /// Our end of its event channel.
    pub port: Port,
    /// What it is served; `read_only` if either the disk or the toolstack says so.
    pub volume: Volume,
    /// The layout of its ring.
    pub abi: Abi,
    /// Requests consumed before: 0, but for a reconnect.
    pub start: u32,
    /// Where its grants are mapped; without, data is copied.
    pub window: Option<Window>,
    /// Whether they stay mapped for the requests to come, as it offered by `feature-persistent`.
    pub persistent: bool,
    /// Most segments of an indirect request that it was offered, at most
    /// [`MAX_INDIRECT_SEGMENTS`]; 0 if there may be no such request.
    pub indirect_segments: u16,
    /// Its part in the barriers of its device.
    pub gate: Member,
    /// If its volume is shown with sectors of 512 bytes though the disk has blocks of a page: where
    /// all who write to the volume claim blocks.
    pub claims: Option<Arc<Claims>>,
    /// What its disk may have lost: one record for all rings that the device ever has.
    pub losses: Arc<Losses>,
    /// Its journal, of as many pages as the ring.
    pub journal: JournalPages,
}

/// Why pages and an attachment do not make a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The pages do not make a ring.
    #[error(transparent)]
    Ring(#[from] BadRingSize),
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] NoRoom),
    /// The pages for its journal hold none, or are too few.
    #[error(transparent)]
    Journal(#[from] BadJournal),
}

/// What [`Session::new`] or [`Session::adopt`] gives back.
#[derive(Debug)]
pub struct Unfit {
    /// Why.
    pub why: Unusable,
    /// The ring's pages, still mapped.
    pub ring: SharedPages,
    /// The window, with nothing mapped in it.
    pub window: Option<Window>,
    /// The pages of the journal.
    pub journal: JournalPages,
}

/// What a session keeps for its requests.
struct Room {
    slots: Box<[Slot]>,
    arena: Arena,
    line: Fifo,
    finished: Fifo,
    waits: Box<[u32]>,
    flushes: Aside,
    discards: Aside,
    unaligned: Option<Unaligned>,
    spread: Option<Box<Spread>>,
}

impl Room {
    fn new(
        requests: usize,
        indirect: usize,
        claims: Option<Arc<Claims>>,
        map: Option<&Map>,
    ) -> Result<Self, NoRoom> {
        let unaligned = claims.map(|claims| Unaligned::new(claims, requests));
        let spread = map.map(|map| Spread::new(map, requests, indirect.max(MAX_SEGMENTS)));
        Ok(Self {
            slots: filled(FREE_SLOT, requests)?,
            arena: Arena::new(requests, indirect > 0)?,
            line: Fifo::new(requests)?,
            finished: Fifo::new(requests)?,
            waits: filled(0, requests)?,
            flushes: Aside::new(requests)?,
            discards: Aside::new(requests)?,
            unaligned: unaligned.transpose()?,
            spread: spread.transpose()?.map(Box::new),
        })
    }

    /// Bytes of all that.
    const fn footprint(requests: usize, indirect: bool, unaligned: bool, disks: usize) -> usize {
        // In line, finished, two kinds aside, and to be done again.
        let numbers = 5 * size_of::<u16>();
        let each = size_of::<Slot>() + size_of::<u32>() + numbers;
        let unaligned = if unaligned {
            Unaligned::footprint(requests)
        } else {
            0
        };
        let segments = if indirect {
            MAX_INDIRECT_SEGMENTS
        } else {
            MAX_SEGMENTS
        };
        let spread = Spread::footprint(requests, segments, disks);
        requests * each + Arena::footprint(requests, indirect) + unaligned + spread
    }
}

/// log2 of the nanoseconds in a unit of [`RingStats::latency`].
const LATENCY_SHIFT: u32 = 10;

/// The backend's side of one ring.
#[derive(Debug)]
pub struct Session {
    ring: BackRing,
    /// The first page of its journal.
    journal: u32,
    /// Requests that a former life of the kernel has taken, to be done again before others are taken.
    redo: Redo,
    /// It takes and does nothing until [`Session::begin`].
    held: bool,
    /// It takes nothing new until [`Session::grow`].
    growing: bool,
    domain: DomId,
    port: Port,
    volume: Volume,
    /// What of the volume requests are held against.
    extent: Extent,
    /// The place of its guest on the core.
    guest: u16,
    /// The place of its group, or its guest if it is in none, among those that share disks.
    tenant: u16,
    /// Its group, and the weight of that, or that of its guest.
    group: Option<u32>,
    tenant_weight: u8,
    /// What its limits let it take, if it has any.
    allowance: Option<Box<Allowance>>,
    /// Since when what is in the ring has waited for that.
    seen: Option<Box<Seen>>,
    /// Whether the allowance has pages that may be used now, and no request waits that was seen.
    leased: bool,
    /// From when on they do.
    from_ns: u64,
    /// Pages beyond one for each request that it has taken since they were asked.
    more_pages: u32,
    /// Nothing but they keeps it from taking what is in the ring.
    limited: bool,
    cache: Option<GrantCache>,
    /// Whether grants stay in the cache.
    persistent: bool,
    /// What each place of the journal has.
    slots: Box<[Slot]>,
    arena: Arena,
    /// Most segments of an indirect request.
    indirect: u16,
    /// Accepted and not yet with the disk, in the order of the ring.
    line: Fifo,
    /// How many at the head of the line are known to be ready.
    ready: usize,
    /// How many in line have their list in the copy batch.
    fetching: usize,
    /// The request that has been through the buffers in part. Those behind it get none before.
    partial: Option<u16>,
    flushes: Aside,
    discards: Aside,
    /// Requests that wait in those.
    asides: usize,
    account: Account,
    ledger: Ledger,
    /// Requests were left in the ring for want of credit.
    throttled: bool,
    /// What is in line may have been taken in a visit before this one.
    late: bool,
    /// What the disk may have lost of what its cache held.
    losses: Arc<Losses>,
    /// For how long requests waited until the disk got them, in units of [`RingStats::latency`]; of those
    /// that did.
    waits: Box<[u32]>,
    /// Something was answered in the last visit.
    answered: bool,
    wait: Wait,
    /// Reads whose data still is in buffers.
    finished: Fifo,
    /// How many at the head of `finished` are in the copy batch.
    copying: usize,
    gate: Member,
    /// The barrier that was taken and not answered; nothing is taken after it.
    barrier: Option<Barrier>,
    /// What requests of parts of blocks need, where there may be any.
    unaligned: Option<Unaligned>,
    /// What requests need that go to several disks, or to several runs of one, where there may be any.
    spread: Option<Box<Spread>>,
    /// There is a barrier, or writes claim their blocks, or the volume is spread over several runs, or
    /// nothing is left of it: what is shorter for lack of all these is not done.
    special: bool,
    /// Its volume was removed, and is never one that has its place.
    removed: bool,
    stats: Arc<RingStats>,
    notes: Notes,
    /// When the current visit began, or the last that had anything to do for it.
    now_ns: u64,
    halt: Option<Halt>,
    /// The halt has not been reported.
    fault: bool,
    closing: bool,
    /// It does not simply take what is in the ring: it is closing, or halted, or held, or has some to do
    /// again, or has limits.
    stopped: bool,
    moderator: Moderator,
}

impl Session {
    /// Bytes of memory that a session takes for a ring of `pages` pages, with a window of `frames`
    /// frames, with indirect requests or without, for a volume that is shown with smaller sectors
    /// than it has blocks or not. If the volume has a map, `disks` are those that it leads to.
    #[must_use]
    pub fn footprint(
        pages: usize,
        abi: Abi,
        frames: usize,
        indirect: bool,
        unaligned: bool,
        disks: usize,
    ) -> usize {
        // What is no ring takes nothing.
        let requests = slots_in(pages * PAGE_SIZE, abi).unwrap_or(0) as usize;
        let cache = if frames > 0 {
            GrantCache::footprint(frames)
        } else {
            0
        };
        Room::footprint(requests, indirect, unaligned, disks) + cache + size_of::<RingStats>()
    }

    /// Takes over the ring in `pages`. Its journal begins.
    ///
    /// # Errors
    /// If the pages do not make a ring, or there is no memory for it.
    pub fn new(pages: SharedPages, attachment: Attachment) -> Result<Self, Unfit> {
        Self::take_over(pages, attachment, None)
    }

    /// Takes over the ring in `pages` from a life of the kernel that has ended, which has left the
    /// journal: `start` does not count. What it took and had no response to is done again, as soon
    /// as the disk may be used ([`crate::RingCore::hold`]) and before any other request is taken. The
    /// counters go on from `stats`. Nothing may be mapped in the window; the grants that the former
    /// life has mapped are not this one's.
    ///
    /// # Errors
    /// As [`Session::new`], and if the journal is not that of such a ring, or does not fit together.
    pub fn adopt(
        pages: SharedPages,
        attachment: Attachment,
        stats: &RingSnapshot,
    ) -> Result<Self, Unfit> {
        Self::take_over(pages, attachment, Some(stats))
    }

    fn take_over(
        pages: SharedPages,
        attachment: Attachment,
        former: Option<&RingSnapshot>,
    ) -> Result<Self, Unfit> {
        let (domain, abi) = (attachment.domain, attachment.abi);
        let indirect = attachment.indirect_segments;
        let mut volume = attachment.volume;
        if volume.map.is_some() {
            // None, so that whatever is done for a ring of one disk is not done for this one.
            volume.disk = usize::MAX;
        }
        let claims = attachment.claims;
        if let (Some(_), Some(discard)) = (&claims, &mut volume.discard) {
            // A part of a block cannot be erased, nor what another request is about to write back.
            discard.secure = false;
        }
        let (window, journal) = (attachment.window, attachment.journal);
        let room = slots_in(pages.len(), abi)
            .map_err(Unusable::from)
            .and_then(|slots| {
                let segments = usize::from(indirect).min(MAX_INDIRECT_SEGMENTS);
                let room = Room::new(slots as usize, segments, claims, volume.map.as_deref())?;
                let redo = Redo::room(slots as usize)?;
                Ok((slots, room, redo))
            });
        let (slots, room, mut redo) = match room {
            Ok(room) => room,
            Err(why) => {
                return Err(Unfit {
                    why,
                    ring: pages,
                    window,
                    journal,
                });
            }
        };
        let first = journal.first;
        let journal = match former {
            None => Journal::begin(journal.pages, slots, attachment.start)
                .map(|journal| (journal, Unanswered::none(attachment.start))),
            Some(_) => redo.recover(journal.pages, slots),
        };
        let (journal, found) = match journal {
            Ok(journal) => journal,
            Err((why, journal)) => {
                let journal = JournalPages {
                    pages: journal,
                    first,
                };
                return Err(Unfit {
                    why: why.into(),
                    ring: pages,
                    window,
                    journal,
                });
            }
        };
        let cache = window.map(|w| GrantCache::new(domain, w));
        let cache = match cache.transpose() {
            Ok(cache) => cache,
            Err((why, window)) => {
                let pages_of_journal = journal.into_memory();
                return Err(Unfit {
                    why: why.into(),
                    ring: pages,
                    window: Some(window),
                    journal: JournalPages {
                        pages: pages_of_journal,
                        first,
                    },
                });
            }
        };
        let ring = match former {
            None => BackRing::new(pages, journal, abi, attachment.start),
            Some(_) => BackRing::resume(pages, journal, abi, found),
        };
        let stopped = redo.left() > 0;
        Ok(Self {
            ring,
            journal: first,
            redo,
            held: false,
            growing: false,
            domain,
            port: attachment.port,
            extent: volume.extent(),
            volume,
            guest: 0,
            tenant: 0,
            group: None,
            tenant_weight: DEFAULT_WEIGHT,
            allowance: None,
            seen: None,
            leased: false,
            from_ns: 0,
            more_pages: 0,
            limited: false,
            cache,
            persistent: attachment.persistent,
            slots: room.slots,
            arena: room.arena,
            indirect: indirect.min(MAX_INDIRECT_SEGMENTS as u16),
            line: room.line,
            ready: 0,
            fetching: 0,
            partial: None,
            flushes: room.flushes,
            discards: room.discards,
            asides: 0,
            account: Account::default(),
            ledger: Ledger::new(),
            throttled: false,
            late: false,
            losses: attachment.losses,
            waits: room.waits,
            answered: false,
            wait: Wait::default(),
            finished: room.finished,
            copying: 0,
            gate: attachment.gate,
            barrier: None,
            special: room.unaligned.is_some() || room.spread.is_some(),
            unaligned: room.unaligned,
            spread: room.spread,
            removed: false,
            stats: former.map_or_else(Arc::default, |stats| Arc::new(RingStats::resume(stats))),
            notes: Notes::new(domain),
            now_ns: 0,
            halt: None,
            fault: false,
            closing: false,
            stopped,
            moderator: Moderator::default(),
        })
    }

    /// The frontend's domain.
    #[must_use]
    pub fn domain(&self) -> DomId {
        self.domain
    }

    /// Our end of the event channel.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// The volume it serves.
    #[must_use]
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Segments of the largest request that it takes.
    #[must_use]
    pub fn most_segments(&self) -> usize {
        MAX_SEGMENTS.max(self.indirect.into())
    }

    /// The ring's counters, to be read by any core at any time, also after the ring is gone.
    #[must_use]
    pub fn stats(&self) -> Arc<RingStats> {
        Arc::clone(&self.stats)
    }

    /// Why the ring is no longer served, if so.
    #[must_use]
    pub fn halted(&self) -> Option<Halt> {
        self.halt
    }

    /// Requests taken, by this life of the kernel, and not answered.
    #[must_use]
    pub fn active(&self) -> usize {
        (self.ring.taken() - self.redo.left()) as usize
    }

    /// Requests taken over the ring's life.
    pub(crate) fn consumed(&self) -> u64 {
        self.ring.consumed().into()
    }

    /// Requests that a former life has taken and that are yet to be done again.
    #[must_use]
    pub fn redo(&self) -> usize {
        self.redo.left() as usize
    }

    /// The first page of its journal in kept memory.
    pub(crate) fn journal(&self) -> u32 {
        self.journal
    }

    /// The reason for the halt, the first time it is asked for.
    pub(crate) fn take_fault(&mut self) -> Option<Halt> {
        self.halt.filter(|_| core::mem::take(&mut self.fault))
    }

    /// Whether there is a halt that [`Session::take_fault`] has not given.
    pub(crate) fn has_fault(&self) -> bool {
        self.fault
    }

    /// Takes no more requests, since the frontend broke the protocol.
    #[cold]
    fn stop(&mut self, halt: Halt) {
        self.halt = Some(halt);
        self.fault = true;
        self.note_event(self.now_ns, kind::HALTED, self.ring.consumed().into());
        self.judge_stopped();
    }

    /// It takes and does nothing until [`Session::begin`].
    pub(crate) fn hold(&mut self) {
        self.held = true;
        self.judge_stopped();
    }

    /// Its disk may be used.
    pub(crate) fn begin(&mut self) {
        self.held = false;
        self.judge_stopped();
    }

    fn judge_stopped(&mut self) {
        let takes_nothing = self.takes_nothing_new();
        self.stopped = takes_nothing || self.allowance.is_some();
        self.limited = self.stopped && !takes_nothing;
    }

    /// Whether it takes no requests off the ring, whatever its limits.
    fn takes_nothing_new(&self) -> bool {
        let waits = self.held || self.growing || self.redo.left() > 0;
        self.closing || self.halt.is_some() || waits
    }

    /// The disk is lost. If it comes back, what was answered and was still in its cache may be gone: the
    /// next flush that goes well must fail, or the frontend would take that for stored.
    pub(crate) fn note_loss(&self, now_ns: u64) {
        self.note_event(now_ns, kind::DISK_LOST, 0);
        self.losses.note();
    }

    /// The volume has another size from the next request on. A part of a disk without any sectors is
    /// gone for good.
    pub(crate) fn resize(&mut self, sectors: u64) {
        if sectors == 0 && self.volume.unit != Unit::NONE {
            return self.remove();
        }
        if !self.removed {
            self.note_event(self.now_ns, kind::RESIZED, sectors);
            self.volume.sectors = sectors;
            self.extent = self.volume.extent();
            self.judge_special();
        }
    }

    /// The volume is gone for good. What waits, and what comes, must not reach what may be in its
    /// place: it fails, and nothing is submitted any longer.
    pub(crate) fn remove(&mut self) {
        if !self.removed {
            self.note_event(self.now_ns, kind::REMOVED, 0);
        }
        (self.removed, self.volume.sectors) = (true, 0);
        self.extent = self.volume.extent();
        self.volume.unit = Unit::NONE;
        self.judge_special();
    }

    /// Whether nothing is left of the volume, so that no disk is asked for anything.
    #[inline]
    fn is_empty(&self) -> bool {
        self.volume.sectors == 0
    }

    fn judge_special(&mut self) {
        let spread = self.volume.map.is_some();
        self.special =
            self.barrier.is_some() || self.unaligned.is_some() || spread || self.is_empty();
    }

    /// A disk is lost, and may still write to the memory of what it was given: takes the guest's
    /// pages from it, and gives up the buffers that it was given. No other disk that works may have
    /// anything of this ring.
    pub(crate) fn cut_off(&mut self, disk: usize, grants: &impl GrantOps, pool: &mut BufferPool) {
        if let Some(cache) = &mut self.cache {
            self.stats.frames_lost.add(cache.cut_off(grants) as u64);
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let busy = match &self.spread {
                None => {
                    matches!(slot.state, State::InFlight | State::OneBuffer)
                        || slot.progress.is_with_disk()
                }
                Some(spread) => spread.has(index, disk),
            };
            if busy && slot.path == Path::Copied {
                slot.path = Path::None;
                let pieces = slot.pieces(&self.arena);
                pieces.iter().for_each(|piece| pool.lose(piece.bus()));
            }
        }
        if self.spread.is_some() {
            self.take_back_mapped(pool);
        }
    }

    /// Stops taking requests for good.
    pub(crate) fn close(&mut self) {
        self.closing = true;
        self.judge_stopped();
    }

    /// Whether it was closed and everything taken, by this life or a former one, has been answered.
    pub(crate) fn is_drained(&self) -> bool {
        self.closing && self.ring.taken() == 0
    }

    /// Whether all that this life has taken is answered, and the frontend can see that.
    pub(crate) fn is_through(&self) -> bool {
        self.active() == 0 && self.ring.unpublished() == 0
    }

    /// Starts the ring's turn in a visit.
    #[inline]
    pub(crate) fn start_turn(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.late = self.line.len() > 0;
    }

    /// The same if there is nothing in line, which this visit will not look at.
    #[inline]
    pub(crate) fn start_short_turn(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// When a turn of it began last, if it has had any.
    pub(crate) fn served_ns(&self) -> Option<u64> {
        (self.now_ns > 0).then_some(self.now_ns)
    }

    /// Its guest has this place on the core.
    pub(crate) fn enter(&mut self, guest: u16) {
        self.guest = guest;
    }

    /// The ring, at this place on its core, as one that holds buffers.
    #[inline]
    pub(crate) fn holder(&self, ring: u16) -> Holder {
        Holder {
            ring,
            guest: self.guest,
            domain: self.domain,
        }
    }

    /// What the scheduler of its disk knows of it, with `own` pages with the disk.
    #[inline]
    pub(crate) fn party(&mut self, own: u32) -> Party<'_> {
        Party {
            guest: self.tenant,
            account: &mut self.account,
            own,
            weight: self.tenant_weight,
        }
    }

    /// Lets so many pages go to the disk.
    #[inline]
    pub(crate) fn allow(&mut self, credit: u32) {
        self.ledger.allow(credit);
    }

    /// Pages that went to the disk since this was last asked, and what they cost it.
    #[inline]
    pub(crate) fn take_sent(&mut self) -> (u32, u32) {
        self.ledger.take_sent()
    }

    /// Pages that the disk has.
    #[inline]
    pub(crate) fn outstanding(&self) -> u32 {
        self.ledger.outstanding(self.active())
    }

    /// Whether it may send nothing.
    pub(crate) fn is_broke(&self) -> bool {
        self.ledger.credit() == 0
    }

    /// Whether it could send more if it had the credit.
    pub(crate) fn is_throttled(&self) -> bool {
        self.throttled || self.is_ready()
    }

    /// Whether the next request in line can be submitted.
    pub(crate) fn is_ready(&self) -> bool {
        let next = self.line.get(0).map(usize::from);
        next.is_some_and(|next| self.slots[next].state == State::Ready)
    }

    /// Whether there is anything for [`Session::finish_copies`], [`Session::resume`] or
    /// [`Session::submit`].
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        self.copying | self.line.len() | self.asides != 0
    }

    /// Responses that the frontend is to be told of, but not yet.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.moderator.held() as usize
    }

    /// Whether there are grants to be unmapped before anything is published.
    #[inline]
    pub(crate) fn has_idle(&self) -> bool {
        self.cache.as_ref().is_some_and(GrantCache::has_idle)
    }

    /// Adds grants that nobody uses any longer to the batch; true if there are more.
    pub(crate) fn sweep(&mut self, ring: u16, unmaps: &mut UnmapBatch) -> bool {
        let Some(cache) = &mut self.cache else {
            return false;
        };
        unmaps.add(ring, |ops| cache.sweep(ops));
        cache.has_idle()
    }

    /// Notes what came of it.
    pub(crate) fn swept(&mut self, ops: &[UnmapOp]) {
        if let Some(cache) = &mut self.cache {
            self.stats.frames_lost.add(cache.swept(ops) as u64);
        }
    }

    /// Notes for how long it has been waiting.
    #[inline]
    pub(crate) fn note_wait(&mut self, now_ns: u64, slept_ns: u64) {
        let in_flight = self.active() + self.held();
        self.wait.note(now_ns, self.answered, in_flight, slept_ns);
    }

    /// Whether there is anything between ring and response, be it that it is held.
    #[inline]
    pub(crate) fn is_busy(&self) -> bool {
        self.ring.taken() > 0
    }

    pub(crate) fn wait(&self) -> &Wait {
        &self.wait
    }

    /// Publishes what was answered; true if the frontend is to be notified.
    #[inline(always)]
    pub(crate) fn publish(&mut self) -> bool {
        let fresh = self.ring.unpublished();
        self.answered = fresh > 0;
        (fresh > 0 || self.moderator.held() > 0) && self.publish_some(fresh)
    }

    /// The same if it was so many, or if the frontend has yet to be notified of others.
    #[inline(never)]
    fn publish_some(&mut self, fresh: u32) -> bool {
        let wants = self.ring.publish();
        let active = self.ring.taken();
        let mut notify = self.moderator.published(fresh, active, wants, self.now_ns);
        if self.stopped && !self.limited {
            notify |= self.moderator.flush();
        }
        if notify {
            self.stats.notifications.add(1);
        }
        notify
    }

    /// Whether the last [`Session::publish`] had anything to publish.
    #[inline]
    pub(crate) fn has_answered(&self) -> bool {
        self.answered
    }

    /// Asks for a notification of the next request; true if there is something to do already.
    pub(crate) fn arm(&mut self, now_ns: u64) -> bool {
        if self.gate.keeps_awake() {
            return true;
        }
        // What has no credit is looked for when the disk has answered something.
        if self.takes_nothing_new() || self.throttled {
            return self.is_due() && !self.throttled;
        }
        // It goes on at a known time, and has something to do then.
        if self.held_until(now_ns).is_some() {
            return false;
        }
        match self.ring.arm() {
            Ok(found) => found,
            Err(halt) => {
                self.stop(halt);
                true
            }
        }
    }

    /// Takes the session apart, unmapping its cached grants. For one that no core would have; a
    /// core's own is given back by [`crate::RingCore::detach`]. There must be no request in it.
    pub fn dismantle(self, grants: &impl GrantOps) -> Detached {
        let consumed = self.ring.consumed();
        let (ring, journal) = self.ring.into_memory();
        Detached {
            consumed,
            window: self.cache.map(|cache| cache.dismantle(grants)),
            ring,
            journal: JournalPages {
                pages: journal,
                first: self.journal,
            },
            port: self.port,
            stats: self.stats,
        }
    }
}

/// The disk's name for the request in slot `index` of ring number `ring`.
fn tag(ring: u16, index: u16) -> Tag {
    Tag(u32::from(ring) << 16 | u32::from(index))
}
