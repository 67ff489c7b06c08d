//! When a core that finds no work goes on polling, and when it rests.
//!
//! A core waits for guests, or for a disk, and those are two things. A guest's request sends an event if
//! the core asks for that, so that to sleep costs a wake-up; no event announces a command's end, so that to sleep
//! costs as much as the guess was wrong by. Both kinds of spinning are bounded by `poll_us`, the latter also
//! by what a sleep has been measured to cost, if that is more.
//!
//! For guests (`Spin`) the core spins as long as that has been finding requests. Then it sleeps until
//! an event comes.
//!
//! For a disk it decides for each ring by what is known of its waits ([`Wait`]), and does what the ring
//! needs that is likely to be served first:
//!
//! 1. As long as the wait is unlikely to be over, it naps until shortly before that changes.
//! 2. If the end is as near as the shortest nap is long (twice, to be exact), it spins. A nap would be over
//!    about half its length too late.
//! 3. Otherwise, as where waits vary much or one takes unusually long, it takes naps of a sixteenth of what
//!    is expected to be left, or of the shortest that is worth it: none is late by more than that and a trip.
//!
//! With many commands in flight one nap is made to find several ends, once spinning does not pay. So it is where
//! a ring has more for a disk than it may send: not to know when there is room leaves the disk idle.
//!
//! What a nap takes beyond its length, the trip to the hypervisor, is measured (`Trip`).

use crate::wait::Wait;

/// The shortest nap worth the two trips to the hypervisor.
const NAP_MIN_NS: u64 = 5_000;
/// The longest nap: a bound on what a wrong guess can add to a request.
const NAP_MAX_NS: u64 = 2_000_000;
/// The most that one measured trip may count for: it also measures how busy the host is.
const TRIP_MAX_NS: u64 = 490_000;
/// What a trip may exceed four of the usual ones by and still count in full.
const TRIP_GROWTH_NS: u64 = 20_000;
/// Naps of less are measured by themselves: a timer of Xen ends no sooner than `timer_slop` after it was
/// set, 50 us unless its command line says otherwise.
const SHORT_NS: u64 = 60_000;
/// The shortest nap with many commands in flight, and how many trips it is long at least.
const MANY_MIN_NS: u64 = 20_000;
const TRIPS: u64 = 4;
/// A nap with many commands in flight that is no longer need not be ended by events: the next requests
/// are looked for at its end.
const SOON_NS: u64 = 100_000;
/// Every so many rests the core spins as long as it may, in case that is worth it again.
const PROBE: u32 = 64;
/// Where it is to spin at all, it does for so long without asking what for.
const GRACE_NS: u64 = 2_000;

/// How long to poll without finding work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollTime {
    /// At most so many nanoseconds; 0 = rest at once.
    For(u64),
    /// For ever: a core that has a CPU to itself.
    Always,
}

/// What a core does until its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Go on polling.
    Poll,
    /// Sleep until an event comes, or until the time `until` on the clock of [`Pacer::idle`].
    Nap {
        /// When to wake.
        until: u64,
        /// Whether the rings are to be armed first, so that a request ends the nap.
        listen: bool,
    },
    /// Sleep until an event comes. The rings must be armed first.
    Sleep,
}

/// What one ring's wait for its disk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Spin until then.
    Spin(u64),
    /// Nap for so many nanoseconds.
    Nap(u64),
}

/// One core's judgement.
#[derive(Debug)]
pub struct Pacer {
    poll: PollTime,
    /// For guests, with nothing in flight.
    guests: Spin,
    /// For disks that have many commands of a ring.
    many: Spin,
    trip: Trip,
    /// Work was found last at this time.
    worked_at: u64,
    /// What the core has found nothing for since.
    idle: Option<Idle>,
    /// Until when it polls, whatever it waits for; and for how long after work in any case.
    until: u64,
    grace: u64,
    /// The nap that the core is in: when it began, and when it is to end.
    nap: Option<(u64, u64)>,
    /// When the last nap ended.
    woke_at: u64,
}

/// What a core without work waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Guests,
    Few,
    Many,
}

impl Pacer {
    /// A pacer that has seen nothing yet.
    #[must_use]
    pub const fn new(poll: PollTime) -> Self {
        let (ns, grace) = match poll {
            PollTime::For(limit) if limit < GRACE_NS => (limit, limit),
            PollTime::For(limit) => (limit, GRACE_NS),
            PollTime::Always => (u64::MAX, u64::MAX),
        };
        Self {
            poll,
            guests: Spin { ns, rests: 0 },
            many: Spin { ns, rests: 0 },
            trip: Trip { short: 0, long: 0 },
            worked_at: 0,
            idle: None,
            until: 0,
            grace,
            nap: None,
            woke_at: 0,
        }
    }

    /// Starts a turn, and learns from the end of a nap what the trip costs. Gives for how long the core has
    /// been napping: what is found to be over, may have been for as long.
    #[inline]
    pub fn wake(&mut self, now_ns: u64) -> u64 {
        match self.nap {
            Some((began, until)) => self.end_nap(now_ns, began, until),
            None => 0,
        }
    }

    #[inline(never)]
    fn end_nap(&mut self, now_ns: u64, began: u64, until: u64) -> u64 {
        self.nap = None;
        self.woke_at = now_ns;
        if let Some(late) = now_ns.checked_sub(until) {
            self.trip.learn(until - began, late);
        }
        now_ns.saturating_sub(began)
    }

    /// Notes a turn that found work.
    #[inline]
    pub fn worked(&mut self, now_ns: u64) {
        if let Some(idle) = self.idle.take() {
            self.judge(idle, now_ns.saturating_sub(self.worked_at));
        }
        self.until = 0;
        self.worked_at = now_ns;
    }

    /// Notes another turn that found work, after [`Pacer::worked`] and before anything else.
    #[inline]
    pub fn works_on(&mut self, now_ns: u64) {
        self.worked_at = now_ns;
    }

    /// Notes a turn that found nothing: true if the core is to go on polling, whatever it waits for.
    #[inline]
    pub fn goes_on(&self, now_ns: u64) -> bool {
        now_ns < self.until || now_ns.saturating_sub(self.worked_at) < self.grace
    }

    /// Until when [`Pacer::goes_on`] says so if no turn finds anything.
    #[inline]
    #[must_use]
    pub fn polls_until(&self) -> u64 {
        self.until.max(self.worked_at.saturating_add(self.grace))
    }

    /// When anything was done for the last time.
    pub(crate) fn worked_at(&self) -> u64 {
        self.worked_at
    }

    /// What to do after such a turn, with so much in flight of these rings; `crowded` if any of them has
    /// more for a disk than it may send.
    pub fn idle<'a>(
        &mut self,
        now_ns: u64,
        in_flight: usize,
        crowded: bool,
        rings: impl Iterator<Item = &'a Wait> + Clone,
    ) -> Rest {
        let PollTime::For(limit) = self.poll else {
            return Rest::Poll;
        };
        if in_flight == 0 {
            self.idle = Some(Idle::Guests);
            self.until = self.worked_at.saturating_add(self.guests.lasts(limit));
            if now_ns < self.until {
                return Rest::Poll;
            }
            self.guests.rested();
            return Rest::Sleep;
        }
        let (mut many, mut few) = (false, false);
        let (mut spin, mut nap) = (0, NAP_MAX_NS);
        for wait in rings.filter(|wait| wait.is_any()) {
            let choice = if wait.is_many() {
                many = true;
                self.choose_many(now_ns, wait, limit)
            } else {
                few = true;
                self.choose(now_ns, wait, limit)
            };
            match choice {
                Choice::Spin(until) => spin = spin.max(until),
                Choice::Nap(own) => nap = nap.min(own),
            }
        }
        if crowded {
            // What makes room is the end of a part of a request, which is sooner than that of all of it.
            many = true;
            spin = spin.max(self.worked_at.saturating_add(self.many.lasts(limit)));
            nap = nap.min(MANY_MIN_NS.max(TRIPS * self.trip.of(MANY_MIN_NS)));
        }
        self.idle = Some(if many { Idle::Many } else { Idle::Few });
        if now_ns < spin {
            self.until = spin;
            self.trip.fade();
            return Rest::Poll;
        }
        if many {
            self.many.rested();
        }
        let until = now_ns.saturating_add(nap);
        self.nap = Some((now_ns, until));
        // Where all have much in flight, nothing new is to be expected.
        Rest::Nap {
            until,
            listen: few || !many || nap > SOON_NS.max(TRIPS * self.trip.of(nap)),
        }
    }

    /// What a wait for one of a few commands asks for.
    fn choose(&self, now_ns: u64, wait: &Wait, limit: u64) -> Choice {
        let waited = wait.waited(now_ns);
        let estimate = wait.estimate();
        let (mean, spread) = (u64::from(estimate.mean), u64::from(estimate.spread));
        // Until then it is unlikely to end, and from then on to have gone on for so long.
        let (early, late) = (mean - (3 * spread).min(mean), mean + 2 * spread);
        let nap = self.trip.nap_for(early.saturating_sub(waited));
        if nap >= NAP_MIN_NS {
            return Choice::Nap(nap.min(NAP_MAX_NS));
        }
        let left = if waited > late {
            waited
        } else {
            mean.abs_diff(waited).max(mean - early)
        };
        let shortest = NAP_MIN_NS + self.trip.of(NAP_MIN_NS);
        if limit > 0 && left <= 2 * shortest {
            // It is the same in all of the time until then; but spinning has its bounds.
            let until = now_ns - waited + late.max(2 * shortest);
            let most = limit.max(2 * shortest);
            let bound = self.woke_at.max(self.worked_at).saturating_add(most);
            if now_ns < until.min(bound) {
                return Choice::Spin(until.min(bound));
            }
        }
        let nap = (left / 16).max(self.trip.of(NAP_MIN_NS) / 4);
        Choice::Nap(nap.clamp(NAP_MIN_NS, NAP_MAX_NS))
    }

    /// What a wait for the next of many commands asks for.
    fn choose_many(&self, now_ns: u64, wait: &Wait, limit: u64) -> Choice {
        let until = self.worked_at.saturating_add(self.many.lasts(limit));
        if now_ns < until {
            return Choice::Spin(until);
        }
        // A half of the usual wait, then naps of an eighth.
        let usual = u64::from(wait.estimate().mean);
        let left = (usual / 2).saturating_sub(wait.waited(now_ns));
        let nap = left.max(usual / 8).max(MANY_MIN_NS);
        let nap = nap.max(TRIPS * self.trip.of(nap));
        Choice::Nap(nap.min(NAP_MAX_NS))
    }

    /// Learns from a gap between work and work whether spinning through it was right, or would
    /// have been.
    #[inline(never)]
    fn judge(&mut self, idle: Idle, gap: u64) {
        let PollTime::For(limit) = self.poll else {
            return;
        };
        match idle {
            Idle::Guests => self.guests.judge(gap, limit),
            Idle::Many => self.many.judge(gap, limit),
            Idle::Few => {}
        }
        self.grace = self.guests.ns.min(GRACE_NS);
    }
}

/// For how long a core spins for what has been coming within that time, or not.
#[derive(Clone, Copy, Debug)]
struct Spin {
    ns: u64,
    /// Rests since it last spun for as long as it may.
    rests: u32,
}

impl Spin {
    /// For how long it spins now.
    fn lasts(self, limit: u64) -> u64 {
        if self.rests >= PROBE { limit } else { self.ns }
    }

    fn rested(&mut self) {
        self.rests = if self.rests >= PROBE {
            0
        } else {
            self.rests + 1
        };
    }

    fn judge(&mut self, gap: u64, limit: u64) {
        self.ns = if gap <= limit {
            limit.min(self.ns.max(gap) * 2)
        } else if self.ns > limit / 16 {
            self.ns / 2
        } else {
            0
        };
    }
}

/// How much later than asked for naps have been ending, in nanoseconds: short ones and long ones.
#[derive(Clone, Copy, Debug)]
struct Trip {
    short: u64,
    long: u64,
}

impl Trip {
    /// How late a nap of so long ends: a short one is no less late than a long one.
    fn of(self, nap: u64) -> u64 {
        if nap < SHORT_NS {
            self.short.max(self.long)
        } else {
            self.long
        }
    }

    /// The nap, if any, that ends before so much time has passed: most take no longer than one and a half
    /// of the usual trip.
    fn nap_for(self, time: u64) -> u64 {
        let but = |trip| time.saturating_sub(trip + trip / 2);
        let long = but(self.long);
        if long < SHORT_NS {
            but(self.of(0))
        } else {
            long
        }
    }

    fn learn(&mut self, nap: u64, late: u64) {
        let trip = if nap < SHORT_NS {
            &mut self.short
        } else {
            &mut self.long
        };
        let late = late.min(TRIP_MAX_NS).min(4 * *trip + TRIP_GROWTH_NS);
        *trip = *trip - *trip / 8 + late / 8;
    }

    /// A core that spins because naps end late is to find out when they no longer do.
    fn fade(&mut self) {
        self.short -= self.short >> 11;
        self.long -= self.long >> 11;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1000;

    /// A core with one ring.
    struct Pacer(super::Pacer, Wait);

    impl Pacer {
        fn new(poll: PollTime) -> Self {
            Self(super::Pacer::new(poll), Wait::default())
        }

        fn worked(&mut self, now: u64, completed: bool, in_flight: usize) {
            let slept = self.0.wake(now);
            self.1.note(now, completed, in_flight, slept);
            self.0.worked(now);
        }

        fn idle(&mut self, now: u64, in_flight: usize) -> Rest {
            self.0.wake(now);
            self.1.note(now, false, in_flight, 0);
            self.0
                .idle(now, in_flight, false, core::iter::once(&self.1))
        }
    }

    /// A nap's length and whether it listens.
    fn nap(pacer: &mut Pacer, now: u64, in_flight: usize) -> (u64, bool) {
        match pacer.idle(now, in_flight) {
            Rest::Nap { until, listen } => (until - now, listen),
            rest => panic!("{rest:?}: nothing will wake it"),
        }
    }

    /// Work after a gap, found by spinning or otherwise.
    fn gap(pacer: &mut Pacer, now: &mut u64, gap: u64) {
        pacer.idle(*now, 0);
        *now += gap;
        pacer.worked(*now, false, 0);
    }

    #[test]
    fn a_core_polls_for_its_time_and_then_sleeps() {
        let mut pacer = Pacer::new(PollTime::For(50 * US));
        pacer.worked(1000 * US, true, 0);
        assert_eq!(pacer.idle(1049 * US, 0), Rest::Poll);
        assert_eq!(pacer.idle(1050 * US, 0), Rest::Sleep);
        let mut never = Pacer::new(PollTime::For(0));
        never.worked(1000 * US, true, 0);
        assert_eq!(never.idle(1000 * US, 0), Rest::Sleep);
    }

    #[test]
    fn a_core_of_its_own_never_rests() {
        let mut pacer = Pacer::new(PollTime::Always);
        for i in 0..1000 {
            pacer.worked(i * 1_000_000 * US, true, 1);
            assert_eq!(pacer.idle(i * 1_000_000 * US + 500_000 * US, 0), Rest::Poll);
        }
        assert_eq!(pacer.idle(u64::MAX, 0), Rest::Poll);
        assert_eq!(pacer.idle(u64::MAX, 1), Rest::Poll);
    }

    #[test]
    fn spinning_that_finds_nothing_is_given_up_and_taken_up_again() {
        let mut pacer = Pacer::new(PollTime::For(50 * US));
        let mut now = 1000 * US;
        pacer.worked(now, true, 0);
        for _ in 0..20 {
            gap(&mut pacer, &mut now, 300 * US);
        }
        assert_eq!(pacer.idle(now, 0), Rest::Sleep, "it did not pay");
        // Work that would have been found makes it spin again.
        for _ in 0..3 {
            gap(&mut pacer, &mut now, 20 * US);
        }
        assert_eq!(pacer.idle(now + 30 * US, 0), Rest::Poll);
        assert_eq!(
            pacer.idle(now + 50 * US, 0),
            Rest::Sleep,
            "the option bounds"
        );
    }

    #[test]
    fn where_rests_are_long_it_still_tries_spinning_now_and_then() {
        let mut pacer = Pacer::new(PollTime::For(50 * US));
        let mut now = 1000 * US;
        let mut probes = 0;
        for _ in 0..10 * PROBE {
            pacer.worked(now, false, 0);
            if pacer.idle(now, 0) == Rest::Poll {
                probes += 1;
                pacer.idle(now + 50 * US, 0);
            }
            now += 300 * US;
        }
        assert!((9..=20).contains(&probes), "{probes}");
    }

    #[test]
    fn naps_follow_what_the_disk_has_been_taking() {
        let mut pacer = Pacer::new(PollTime::For(0));
        let mut now = 0;
        for _ in 0..64 {
            pacer.worked(now, false, 1);
            now += 1000 * US;
            pacer.worked(now, true, 0);
            // As it does when it has to decide.
            pacer.1.estimate();
        }
        pacer.worked(now, false, 1);
        let (first, listen) = nap(&mut pacer, now, 1);
        assert!((950 * US..=1000 * US).contains(&first), "{first}");
        assert!(listen);
        let (second, _) = nap(&mut pacer, now + 1000 * US, 1);
        assert_eq!(second, NAP_MIN_NS, "it may end any time");
        let (third, _) = nap(&mut pacer, now + 1600 * US, 1);
        assert_eq!(third, 100 * US, "it takes unusually long");
    }

    /// Waits for a command that ends after `time`, with naps that end 100 us late: when its end is
    /// found, and how much of the time was spent spinning.
    fn wait(pacer: &mut Pacer, began: u64, time: u64) -> (u64, u64) {
        let (mut now, mut spun) = (began, 0);
        while now - began < time {
            match pacer.idle(now, 1) {
                Rest::Poll => {
                    now += US;
                    spun += US;
                }
                Rest::Nap { until, .. } => now = until + 100 * US,
                Rest::Sleep => panic!("nothing would wake it"),
            }
        }
        (now, spun)
    }

    /// The same for the last of many commands that take `time` each, one at a time: how long it was
    /// waited for.
    fn one_at_a_time(poll: PollTime, time: u64) -> (u64, u64) {
        let mut pacer = Pacer::new(poll);
        let (mut now, mut last) = (0, (0, 0));
        for _ in 0..500 {
            pacer.worked(now, false, 1);
            let (end, spun) = wait(&mut pacer, now, time);
            pacer.worked(end, true, 0);
            last = (end - now, spun);
            now = end + 5000 * US;
        }
        last
    }

    #[test]
    fn a_core_naps_until_shortly_before_a_command_ends_and_spins_for_the_rest() {
        let (waited, spun) = one_at_a_time(PollTime::For(50 * US), 1500 * US);
        assert!((1500 * US..1750 * US).contains(&waited), "{waited}");
        assert!(spun <= 250 * US, "{spun}");
        // One that ends sooner than a trip would take is spun for.
        let (waited, spun) = one_at_a_time(PollTime::For(50 * US), 80 * US);
        assert!((80 * US..90 * US).contains(&waited), "{waited}");
        assert!(spun >= 80 * US, "{spun}");
    }

    #[test]
    fn a_command_that_takes_much_longer_than_usual_is_not_spun_for_again_and_again() {
        let mut pacer = Pacer::new(PollTime::For(50 * US));
        let mut now = 0;
        for _ in 0..100 {
            pacer.worked(now, false, 1);
            now = wait(&mut pacer, now, 200 * US).0;
            pacer.worked(now, true, 0);
        }
        pacer.worked(now, false, 1);
        let (end, spun) = wait(&mut pacer, now, 100_000 * US);
        assert!(end < now + 102_200 * US, "{}", end - now);
        assert!(spun <= 400 * US, "{spun}");
    }

    #[test]
    fn a_core_that_is_not_to_poll_only_naps() {
        let (_, spun) = one_at_a_time(PollTime::For(0), 1500 * US);
        assert_eq!(spun, 0);
    }

    /// With naps that end 200 us late, and with so much in flight.
    fn nap_where_trips_are_long(in_flight: usize) -> (u64, bool) {
        let mut pacer = Pacer::new(PollTime::For(0));
        let mut now = 0;
        pacer.worked(now, false, in_flight);
        for _ in 0..64 {
            now += nap(&mut pacer, now, in_flight).0 + 200 * US;
            pacer.worked(now, true, in_flight);
        }
        nap(&mut pacer, now, in_flight)
    }

    #[test]
    fn where_a_ring_has_more_than_it_may_send_ends_of_parts_are_looked_for() {
        let now = 200_000 * US;
        let nap = |crowded| {
            // Eight requests, of which one ends every 4 ms.
            let mut wait = Wait::default();
            for at in 1..=50 {
                wait.note(at * 4_000 * US, true, 8, 0);
                wait.estimate();
            }
            let mut pacer = super::Pacer::new(PollTime::For(0));
            pacer.worked(now);
            match pacer.idle(now, 8, crowded, core::iter::once(&wait)) {
                Rest::Nap { until, .. } => until - now,
                rest => panic!("{rest:?}"),
            }
        };
        assert_eq!((nap(false), nap(true)), (NAP_MAX_NS, MANY_MIN_NS));
        // Where it may spin, it does.
        let mut pacer = super::Pacer::new(PollTime::For(50 * US));
        pacer.worked(now);
        let none = core::iter::empty();
        assert_eq!(pacer.idle(now + 40 * US, 8, true, none), Rest::Poll);
    }

    #[test]
    fn where_trips_are_long_naps_are_longer_the_more_is_in_flight() {
        let (one, listen) = nap_where_trips_are_long(1);
        assert!((40 * US..=120 * US).contains(&one), "{one}");
        assert!(listen);
        let (many, listen) = nap_where_trips_are_long(32);
        assert!((720 * US..=800 * US).contains(&many), "{many}");
        assert!(!listen, "nothing new is to be expected");
    }

    #[test]
    fn a_nap_is_bounded_whatever_was_seen() {
        let mut pacer = Pacer::new(PollTime::For(0));
        pacer.worked(0, false, 1);
        assert_eq!(nap(&mut pacer, 0, 1).0, NAP_MIN_NS);
        for i in 1..100 {
            pacer.worked(i * 1_000_000 * US, true, 1);
            pacer.idle(i * 1_000_000 * US, 1);
        }
        let now = 100 * 1_000_000 * US;
        assert!(nap(&mut pacer, now, 1000).0 <= NAP_MAX_NS);
    }
}
