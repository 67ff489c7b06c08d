//! A visit: one turn over all disks and rings of a core.

use alloc::vec::Vec;

use spindle_block::{DiskQueue, IoResult, Tag};
use spindle_xen::event::Notify;
use spindle_xen::grant::GrantOps;

use super::awake::ASLEEP_NS;
use super::{Disk, RingCore, Shared, Work, split, spread};
use crate::session::{Means, Session, Sink};

/// Disks are told the time so often, all of them, and in the first visit after a rest: what they measure
/// by it takes milliseconds. As late they follow what control orders by other ways than a core's mailbox.
pub(super) const TELL_NS: u64 = 16_384;

impl<Q: DiskQueue, G: GrantOps, N: Notify> RingCore<Q, G, N> {
    /// One turn over everything that has something to do. See the module's description. `now_ns` is
    /// the caller's clock, read once a visit; it dates requests for the latency counters.
    pub fn visit(&mut self, now_ns: u64) -> Work {
        self.visit_after(now_ns, 0, Work::default())
    }

    /// The same; for `slept_ns` see [`crate::wait::Wait::note`], and `work` is what was done in this turn
    /// before. The one caller in a kernel is [`crate::worker::Worker::turn`].
    #[inline(always)]
    pub(crate) fn visit_after(&mut self, now_ns: u64, slept_ns: u64, mut work: Work) -> Work {
        self.now_ns = now_ns;
        self.poll_disks(&mut work);
        self.tell_time();
        if self.shared.reading.is_some() {
            // As long as there are places: some command may have left one.
            self.submit_access();
        }
        self.find_awake(now_ns);
        self.count_load();
        self.served.clear();
        let mut asleep = None;
        // `blocked`: a ring waits for what others, perhaps on other cores, write to the same blocks.
        // No event will wake it.
        let (mut waiting, mut blocked, mut idle) = (false, false, false);
        for &ring in self.awake.places() {
            if let Some(Some(session)) = self.rings.get_mut(usize::from(ring)) {
                if session.is_still(now_ns) {
                    work.busy |= session.is_busy();
                    if session.is_asleep(now_ns, ASLEEP_NS) {
                        asleep = Some(ring);
                    }
                } else {
                    self.served.push(ring);
                    self.at_work.begin(session.journal());
                    session.start_turn(now_ns);
                    if session.is_called() {
                        let notify = &self.notify;
                        session.attend_barrier(&mut self.shared.pool, |port| notify.notify(port));
                    }
                    session.copy_out(ring, &mut self.copies);
                    let number = session.volume().disk;
                    if session.takes(now_ns) {
                        if let Some(disk) = self.disks.get_mut(number) {
                            disk.allow(session);
                            let open = !disk.full && disk.waiting.is_free();
                            let sink = open.then_some(Sink {
                                queue: &mut disk.queue,
                                pool: &mut self.shared.pool,
                            });
                            work.taken += session.intake(ring, self.budget, sink, &self.grants);
                            disk.charge(session, number, &mut self.busy);
                        } else {
                            // It is on several disks.
                            let (disks, grants) = (&mut self.disks, &self.grants);
                            work.taken += spread::intake(disks, session, ring, self.budget, grants);
                        }
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
                    idle |= session.has_idle();
                }
            }
        }
        self.awake.turn();
        if !self.served.is_empty() {
            self.at_work.end();
            if waiting {
                work.more |= self.serve_waiting();
            }
            for &disk in &self.busy {
                if let Some(disk) = self.disks.get_mut(usize::from(disk))
                    && core::mem::take(&mut disk.dirty)
                {
                    disk.queue.commit();
                }
            }
            // Requests may have ended while others were served that wait.
            if waiting || idle {
                self.unmap_idle();
            }
            self.publish(slept_ns, &mut work);
        }
        if self.awake.len() > 1 {
            work.more |= self.count_after();
        }
        if let Some(ring) = asleep {
            self.put_to_sleep(ring);
        }
        work.more |= blocked;
        work
    }

    /// Takes what disks have finished that had something to do.
    #[inline]
    fn poll_disks(&mut self, work: &mut Work) {
        let mut at = 0;
        while let Some(&number) = self.busy.get(at) {
            work.completed += self.poll_disk(number.into());
            let Some(disk) = self.disks.get_mut(usize::from(number)) else {
                return;
            };
            if disk.queue.in_flight() == 0 {
                disk.busy = false;
                self.busy.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Takes what one of them has finished: says how many commands.
    #[inline(never)]
    pub(super) fn poll_disk(&mut self, number: usize) -> u32 {
        let Some(disk) = self.disks.get_mut(number) else {
            return 0;
        };
        let now_ns = self.now_ns;
        let (rings, shared) = (&mut self.rings, &mut self.shared);
        // What is done for a success is in one place, for the compiler to put it where it is needed.
        let succeeded = disk.queue.poll_successes(|tag| {
            let (ring, index) = split(tag);
            if let Some(Some(session)) = rings.get_mut(ring) {
                session.succeed(index, now_ns, shared);
            } else {
                shared.reading.complete(tag, Ok(()));
            }
        });
        let completed = disk
            .queue
            .poll(|tag, result| end(rings, tag, result, now_ns, shared));
        (succeeded + completed) as u32
    }

    /// Tells the disks the time, if that is due. After the poll: what has been answered meanwhile is
    /// not late.
    #[inline]
    fn tell_time(&mut self) {
        let now_ns = self.now_ns;
        let due = |at| now_ns.saturating_sub(at) >= TELL_NS;
        if self.told_ns.is_none_or(due) {
            self.told_ns = Some(now_ns);
            self.disks
                .iter_mut()
                .for_each(|disk| disk.queue.tick(now_ns));
        }
    }

    /// Looks at some of the rings that are asleep.
    #[inline]
    pub(super) fn find_awake(&mut self, now_ns: u64) {
        let looks = self.awake.looks(now_ns, self.used);
        if looks > 0 {
            self.look_at(looks, now_ns);
        }
    }

    /// Looks at so many places.
    #[inline(never)]
    fn look_at(&mut self, looks: usize, now_ns: u64) {
        for _ in 0..looks {
            if let Some(place) = self.awake.next(self.used)
                && let Some(Some(session)) = self.rings.get(place)
                && session.is_stirred(now_ns)
            {
                self.count_alone();
                self.awake.wake(place as u16);
            }
        }
    }

    /// Counts the ring that is awake alone, as of when it was last served: another one comes now, whose
    /// rival it may be.
    #[cold]
    pub(super) fn count_alone(&mut self) {
        if let [ring] = *self.awake.places()
            && let Some(Some(session)) = self.rings.get_mut(usize::from(ring))
            && let Some(at_ns) = session.served_ns()
        {
            let Some(disk) = self.disks.get_mut(session.volume().disk) else {
                return spread::count_alone(&mut self.disks, session, at_ns);
            };
            let own = session.outstanding();
            disk.scheduler.count_alone(session.party(own), at_ns);
        }
    }

    /// This ring has had nothing to do for long.
    #[cold]
    fn put_to_sleep(&mut self, ring: u16) {
        if let Some(Some(session)) = self.rings.get_mut(usize::from(ring)) {
            // It waits for nothing.
            session.note_wait(self.now_ns, 0);
        }
        self.awake.fall_asleep(ring);
    }

    /// Publishes what was answered of the rings that were served.
    #[inline]
    fn publish(&mut self, slept_ns: u64, work: &mut Work) {
        self.held_back = 0;
        for &ring in &self.served {
            let Some(Some(session)) = self.rings.get_mut(usize::from(ring)) else {
                continue;
            };
            if session.publish() {
                self.notify.notify(session.port());
            }
            session.note_wait(self.now_ns, slept_ns);
            self.held_back += session.held();
            // Whatever waits behind what was answered, or for its memory, can go on now.
            work.more |= session.has_answered();
            work.busy |= session.is_busy() || session.is_called();
            work.fault |= session.has_fault();
        }
    }

    /// Counts what each disk has once all is sent; true if a new round begins.
    #[inline(never)]
    fn count_after(&mut self) -> bool {
        self.count_rings();
        self.contended = false;
        for disk in &mut self.disks {
            disk.scheduler.end_visit(self.now_ns);
            self.contended |= disk.scheduler.is_contended();
        }
        self.next_round()
    }

    fn count_rings(&mut self) {
        self.disks
            .iter_mut()
            .for_each(|disk| disk.scheduler.start());
        for &ring in self.awake.places() {
            if let Some(Some(session)) = self.rings.get_mut(usize::from(ring)) {
                match self.disks.get_mut(session.volume().disk) {
                    Some(disk) => disk.count(session, self.now_ns),
                    None => spread::count(&mut self.disks, session, self.now_ns),
                }
            }
        }
    }

    /// Counts what each disk has, where that matters.
    #[inline]
    fn count_load(&mut self) {
        if self.contended {
            self.count_again();
        }
    }

    #[inline(never)]
    fn count_again(&mut self) {
        self.count_rings();
        self.contended = false;
        for disk in &mut self.disks {
            disk.scheduler.begin_visit(self.now_ns);
            self.contended |= disk.scheduler.is_contended();
        }
        self.next_round();
    }

    /// Has new rounds begin where rings with work have used theirs up: true if there are any.
    #[inline(never)]
    fn next_round(&mut self) -> bool {
        for &ring in self.awake.places() {
            let Some(Some(session)) = self.rings.get_mut(usize::from(ring)) else {
                continue;
            };
            if !session.is_throttled() {
                continue;
            }
            let Some(disk) = self.disks.get_mut(session.volume().disk) else {
                spread::leave_over(&mut self.disks, session);
                continue;
            };
            if disk.scheduler.is_contended() {
                let own = session.outstanding();
                disk.scheduler.left_over(session.party(own));
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
        while let Some(&ring) = self.served.get(at) {
            let more = match self.rings.get_mut(usize::from(ring)) {
                Some(Some(session)) if session.has_idle() => session.sweep(ring, &mut self.unmaps),
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
        self.unmaps.execute(&self.grants, |ring, ops| {
            if let Some(Some(session)) = rings.get_mut(usize::from(ring)) {
                session.swept(ops);
            }
        });
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
            // Those that have nothing to submit any longer may not be among the rings that are served.
            disk.waiting.retain(|ring| {
                let session = rings.get(usize::from(ring)).and_then(Option::as_ref);
                session.is_some_and(Session::is_ready)
            });
        }
        for at in 0..self.served.len() {
            self.submit(self.served[at]);
        }
        self.at_work.end();
        self.shared.turns.is_due()
    }

    /// Answers a ring's copied reads and submits what it has ready.
    fn submit(&mut self, ring: u16) {
        let Some(Some(session)) = self.rings.get_mut(usize::from(ring)) else {
            return;
        };
        self.at_work.begin(session.journal());
        session.finish_copies(&mut self.shared.pool);
        session.take_lists(&mut self.shared.pool);
        if session.has_aside() {
            session.resume(ring, &mut self.shared.turns, &mut self.shared.pool);
        }
        let number = session.volume().disk;
        let Some(disk) = self.disks.get_mut(number) else {
            let (shared, busy) = (&mut self.shared, &mut self.busy);
            return spread::submit(&mut self.disks, session, ring, shared, busy);
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
        disk.charge(session, number, &mut self.busy);
        disk.full |= full;
        if full && !any {
            disk.waiting.join(ring);
        } else {
            disk.waiting.leave(ring);
        }
    }
}

impl<Q> Disk<Q> {
    /// The disk of this number has something, or is about to.
    #[inline]
    pub(super) fn make_busy(&mut self, number: usize, busy: &mut Vec<u16>) {
        if !self.busy {
            self.busy = true;
            busy.push(number as u16);
        }
    }

    /// Its queue is full at the turn of a ring, of which it took `any` commands or none before.
    pub(crate) fn note_full(&mut self, ring: u16, any: bool) {
        self.full = true;
        if any {
            self.waiting.leave(ring);
        } else {
            self.waiting.join(ring);
        }
    }

    /// Lets a ring send what it may now.
    #[inline(always)]
    pub(super) fn allow(&mut self, session: &mut Session) {
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

    /// Charges a ring for what it sent to this disk, which has this number.
    #[inline(always)]
    pub(super) fn charge(&mut self, session: &mut Session, number: usize, busy: &mut Vec<u16>) {
        let (load, cost) = session.take_sent();
        if cost > 0 {
            self.dirty = true;
            self.make_busy(number, busy);
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

/// A command has ended, in whichever way.
#[inline(never)]
pub(super) fn end(
    rings: &mut [Option<Session>],
    tag: Tag,
    result: IoResult,
    now_ns: u64,
    shared: &mut Shared,
) {
    let (ring, index) = split(tag);
    if let Some(Some(session)) = rings.get_mut(ring) {
        session.complete(index, result, now_ns, shared);
    } else {
        shared.reading.complete(tag, result);
    }
}
