//! A visit to the one ring that is awake on a core, where nothing else has to be looked at.
//!
//! One request at a time, on a core that polls, is two turns that find work and others between them: what
//! is fixed of a turn is most of what such a request costs. So a turn first tries to do without all that
//! is for several rings, for disks other than the ring's, for requests in line, and for the time. That
//! this will do was found by the last whole visit ([`RingCore::alone_until`]), and is so until the disks are
//! next given the time, or an order comes. What comes meanwhile and does not fit is left to a whole
//! visit of the same turn.
//!
//! Rings that are asleep are not looked at here. There is a whole visit soon enough for that: it comes
//! after [`TELL_NS`], which is short beside the time in which they are to be found.

use spindle_block::DiskQueue;
use spindle_xen::event::Notify;
use spindle_xen::grant::GrantOps;

use super::awake::FOUND_NS;
use super::visit::TELL_NS;
use super::{RingCore, Work};
use crate::session::Sink;

const _: () = assert!(TELL_NS * 4 <= FOUND_NS);

impl<Q: DiskQueue, G: GrantOps, N: Notify> RingCore<Q, G, N> {
    /// Whether the last visit gave the disks the time: then it is to be asked for
    /// [`RingCore::alone_until`] again.
    #[inline]
    pub(crate) fn was_told(&self, now_ns: u64) -> bool {
        self.told_ns == Some(now_ns)
    }

    /// Until when [`RingCore::visit_alone`] may be used, as long as nothing but visits and
    /// [`RingCore::is_quiet`] is called: a time in the past if it may not.
    #[inline(never)]
    pub(crate) fn alone_until(&mut self) -> u64 {
        let [ring] = *self.awake.places() else {
            return 0;
        };
        if !self.contended
            && !self.shared.reading.is_some()
            && let Some(Some(session)) = self.rings.get_mut(usize::from(ring))
            && let number = session.volume().disk
            && let Some(disk) = self.disks.get_mut(number)
            && session.is_plain()
            && !disk.full
            && disk.waiting.is_free()
            && self.busy.iter().all(|&busy| usize::from(busy) == number)
        {
            disk.allow(session);
            self.alone = (ring, number as u16);
            self.alone_budget = if session.is_limited() { 0 } else { self.budget };
            return self.told_ns.map_or(0, |at| at.saturating_add(TELL_NS));
        }
        0
    }

    /// Does in a turn what there is to do, and counts it in `work`. False if there is nothing, or more than
    /// this can do: then a whole visit is to follow.
    #[inline(always)]
    pub(crate) fn visit_alone(&mut self, now_ns: u64, work: &mut Work) -> bool {
        let (ring, number) = (self.alone.0, usize::from(self.alone.1));
        self.now_ns = now_ns;
        if self.awake.len() != 1 {
            // Another was just found.
            return false;
        }
        let Some(Some(mut session)) = self.rings.get_mut(usize::from(ring)).map(Option::as_mut)
        else {
            return false;
        };
        if session.is_busy() {
            work.completed = self.poll_disk(number);
            session = match self.rings.get_mut(usize::from(ring)) {
                Some(Some(session)) => session,
                _ => return false,
            };
        }
        let new = session.has_new();
        if !new && work.completed == 0 || !session.is_short() {
            return false;
        }
        session.start_short_turn(now_ns);
        if new && let Some(disk) = self.disks.get_mut(number) {
            self.at_work.begin(session.journal());
            let budgets = (self.alone_budget, self.budget);
            let sink = Sink {
                queue: &mut disk.queue,
                pool: &mut self.shared.pool,
            };
            work.taken = session.intake_alone(ring, budgets, sink, &self.grants);
            disk.charge(session, number, &mut self.busy);
            self.at_work.end();
            if !session.is_short() {
                return false;
            }
            if core::mem::take(&mut disk.dirty) {
                disk.queue.commit();
            }
        }
        if session.publish() {
            self.notify.notify(session.port());
        }
        session.note_wait(now_ns, 0);
        self.held_back = session.held();
        work.taken | work.completed > 0
    }
}
