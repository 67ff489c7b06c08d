//! A visit: one turn over all disks and rings of a core.

use spindle_block::{DiskQueue, IoError, Tag};
use spindle_xen::event::Notify;
use spindle_xen::grant::GrantOps;

use super::{Disk, RingCore, Shared, Work, split};
use crate::session::{Means, Session};

impl<Q: DiskQueue, G: GrantOps, N: Notify> RingCore<Q, G, N> {
    /// One turn over everything. See the module's description. `now_ns` is the caller's clock,
    /// read once a visit; it dates requests for the latency counters.
    pub fn visit(&mut self, now_ns: u64) -> Work {
        self.now_ns = now_ns;
        let mut work = Work::default();
        for disk in &mut self.disks {
            let (rings, shared) = (&mut self.rings, &mut self.shared);
            let completed = disk.queue.poll(|tag, result| {
                if let Err(error) = result {
                    return fail(rings, tag, error, now_ns, shared);
                }
                let (ring, index) = split(tag);
                if let Some(Some(session)) = rings.get_mut(ring) {
                    session.succeed(index, now_ns, shared);
                } else {
                    shared.reading.complete(tag, Ok(()));
                }
            });
            work.completed += completed as u32;
            // After the poll: what has been answered meanwhile is not late.
            disk.queue.tick(now_ns);
        }
        if self.shared.reading.is_some() {
            // As long as there are places: some command may have left one.
            self.submit_read();
        }
        if self.first >= self.used {
            self.first = 0;
        }
        self.count_load();
        // `blocked`: a ring waits for what others, perhaps on other cores, write to the same blocks.
        // No event will wake it.
        let (mut waiting, mut blocked) = (false, false);
        for turn in 0..self.used {
            let place = self.place(turn);
            if let Some(Some(session)) = self.rings.get_mut(place) {
                let ring = place as u16;
                self.at_work.begin(session.journal());
                session.start_turn(now_ns);
                if session.is_called() {
                    let notify = &self.notify;
                    session.attend_barrier(&mut self.shared.pool, |port| notify.notify(port));
                }
                session.copy_out(ring, &mut self.copies);
                if let Some(disk) = self.disks.get_mut(session.volume().disk) {
                    disk.allow(session);
                    let open = !disk.full && disk.waiting.is_free();
                    let queue = open.then_some(&mut disk.queue);
                    work.taken += session.intake(ring, self.budget, queue, &self.grants);
                    disk.charge(session);
                }
                if session.is_waiting() {
                    waiting = true;
                    let mut means = Means {
                        grants: &self.grants,
                        maps: &mut self.maps,
                        copies: &mut self.copies,
                        pool: &mut self.shared.pool,
                    };
                    session.prepare(ring, &mut means);
                    blocked |= session.is_blocked();
                }
            }
        }
        self.at_work.end();
        if waiting {
            work.more |= self.serve_waiting();
        }
        self.first += 1;
        for disk in &mut self.disks {
            if core::mem::take(&mut disk.dirty) {
                disk.queue.commit();
            }
        }
        self.unmap_idle();
        let shared = self.used > 1;
        if shared {
            self.disks
                .iter_mut()
                .for_each(|disk| disk.scheduler.start());
        }
        for session in self.rings[..self.used].iter_mut().flatten() {
            if session.publish() {
                self.notify.notify(session.port());
            }
            // Whatever waits behind what was answered, or for its memory, can go on now.
            work.more |= session.has_answered();
            work.busy |= session.is_busy() || session.is_called();
            work.fault |= session.has_fault();
            if shared && let Some(disk) = self.disks.get_mut(session.volume().disk) {
                disk.count(session, now_ns);
            }
        }
        if shared {
            for disk in &mut self.disks {
                disk.scheduler.end_visit(now_ns);
            }
            work.more |= self.next_round();
        }
        work.more |= blocked;
        work
    }

    /// Counts what each disk has, where that matters.
    #[inline]
    fn count_load(&mut self) {
        if self.disks.iter().all(|disk| !disk.scheduler.is_contended()) {
            return;
        }
        self.count_again();
    }

    #[inline(never)]
    fn count_again(&mut self) {
        self.disks
            .iter_mut()
            .for_each(|disk| disk.scheduler.start());
        for session in self.rings[..self.used].iter_mut().flatten() {
            if let Some(disk) = self.disks.get_mut(session.volume().disk) {
                disk.count(session, self.now_ns);
            }
        }
        for disk in &mut self.disks {
            disk.scheduler.begin_visit(self.now_ns);
        }
        self.next_round();
    }

    /// Has new rounds begin where rings with work have used theirs up: true if there are any.
    #[inline(never)]
    fn next_round(&mut self) -> bool {
        for session in self.rings[..self.used].iter_mut().flatten() {
            if session.is_throttled()
                && let Some(disk) = self.disks.get_mut(session.volume().disk)
                && disk.scheduler.is_contended()
            {
                let own = session.outstanding();
                disk.scheduler.left_over(&session.party(own));
            }
        }
        let mut any = false;
        for disk in &mut self.disks {
            any |= disk.scheduler.next_round();
        }
        any
    }

    /// Unmaps what requests of this visit used last and what is not kept, before their frontends
    /// hear of it (XSA-396): in one hypercall, if the batch holds all of it.
    fn unmap_idle(&mut self) {
        let mut at = 0;
        while at < self.used {
            let more = match &mut self.rings[at] {
                Some(session) if session.has_idle() => session.sweep(at as u16, &mut self.unmaps),
                _ => false,
            };
            if more {
                self.execute_unmaps();
            } else {
                at += 1;
            }
        }
        self.execute_unmaps();
    }

    fn execute_unmaps(&mut self) {
        let rings = &mut self.rings;
        self.unmaps.execute(&self.grants, |ring, op| {
            if let Some(Some(session)) = rings.get_mut(usize::from(ring)) {
                session.swept(op);
            }
        });
    }

    /// The ring whose turn number `turn` of this visit is.
    #[inline]
    fn place(&self, turn: usize) -> usize {
        let place = self.first + turn;
        if place < self.used {
            place
        } else {
            place - self.used
        }
    }

    /// Copies what is to be copied, and submits what is ready then. True if a ring whose place has
    /// passed was given a turn meanwhile.
    #[inline(never)]
    fn serve_waiting(&mut self) -> bool {
        let rings = &mut self.rings;
        self.copies.execute(&self.grants, |tag| {
            let (ring, index) = split(tag);
            if let Some(Some(session)) = rings.get_mut(ring) {
                session.copy_failed(index);
            }
        });
        for disk in &mut self.disks {
            disk.full = false;
        }
        for turn in 0..self.used {
            self.submit(self.place(turn));
        }
        self.at_work.end();
        self.shared.turns.is_due()
    }

    /// Answers a ring's copied reads and submits what it has ready.
    fn submit(&mut self, place: usize) {
        let Some(session) = &mut self.rings[place] else {
            return;
        };
        let ring = place as u16;
        self.at_work.begin(session.journal());
        session.finish_copies(&mut self.shared.pool);
        session.take_lists(&mut self.shared.pool);
        if session.has_aside() {
            session.resume(ring, &mut self.shared.turns, &mut self.shared.pool);
        }
        let Some(disk) = self.disks.get_mut(session.volume().disk) else {
            return;
        };
        if !session.is_ready() {
            disk.waiting.leave(ring);
            return;
        }
        disk.allow(session);
        if session.is_broke() {
            disk.waiting.leave(ring);
            return;
        }
        if !disk.waiting.admits(ring) {
            return;
        }
        let (any, full) = session.submit(ring, &mut disk.queue, &mut self.shared);
        disk.charge(session);
        disk.full |= full;
        if full && !any {
            disk.waiting.join(ring);
        } else {
            disk.waiting.leave(ring);
        }
    }
}

impl<Q> Disk<Q> {
    /// Lets a ring send what it may now.
    #[inline(always)]
    fn allow(&mut self, session: &mut Session) {
        let credit = if self.scheduler.is_contended() {
            self.grant(session)
        } else {
            u32::MAX
        };
        session.allow(credit);
    }

    /// What that is while rings compete.
    #[inline(never)]
    fn grant(&mut self, session: &mut Session) -> u32 {
        let own = session.outstanding();
        self.scheduler.grant(session.party(own))
    }

    /// Charges a ring for what it sent.
    #[inline(always)]
    fn charge(&mut self, session: &mut Session) {
        let (load, cost) = session.take_sent();
        if cost > 0 {
            self.dirty = true;
            if self.scheduler.is_contended() {
                self.charge_for(session, load, cost);
            }
        }
    }

    /// The same while rings compete.
    #[inline(never)]
    fn charge_for(&mut self, session: &mut Session, load: u32, cost: u32) {
        let before = session.outstanding() - load;
        self.scheduler.charge(session.party(before), load, cost);
    }

    /// Counts what a ring has.
    #[inline(never)]
    fn count(&mut self, session: &mut Session, now_ns: u64) {
        let own = session.outstanding();
        let active = session.active() > 0 || session.is_throttled();
        self.scheduler.count(session.party(own), active, now_ns);
    }
}

/// A command has failed.
#[cold]
pub(super) fn fail(
    rings: &mut [Option<Session>],
    tag: Tag,
    error: IoError,
    now_ns: u64,
    shared: &mut Shared,
) {
    let (ring, index) = split(tag);
    if let Some(Some(session)) = rings.get_mut(ring) {
        session.complete(index, Err(error), now_ns, shared);
    } else {
        shared.reading.complete(tag, Err(error));
    }
}
