//! When a core that finds no work goes on polling, and when it rests.
//!
//! While work keeps coming the core spins, so that the next request or completion is found at
//! once; how long, follows from whether spinning has been finding any, with `poll_ns` as the
//! most. Then it rests: with nothing in flight until an event comes; with commands on a disk for a
//! nap, because no interrupt will tell of their end.
//!
//! Each ring's waits are reckoned by themselves ([`Wait`]), and the core wakes for the one that is
//! likely to be over first: a ring whose commands take long, by its own doing or its disk's, does
//! not make the core sleep through the end of another's short ones.
//!
//! What a nap costs beyond its length, the trip to the hypervisor, is measured. With few commands in
//! flight each is waited for: the core naps until shortly before the usual end of the wait, then
//! spins, for about as long as a trip takes, so that neither costs much more than the other would
//! have. With many in flight, one trip is made to find several of them.

/// The shortest nap worth the two trips to the hypervisor.
const NAP_MIN_NS: u64 = 20_000;
/// The longest nap: a bound on what a wrong guess can add to a request.
const NAP_MAX_NS: u64 = 2_000_000;
/// The most that one measured trip may count for: it also measures how busy the host is.
const TRIP_MAX_NS: u64 = 500_000;
/// With so many commands in flight frontends wait for those rather than adding others: their next
/// requests are looked for at the end of the nap, if that is soon, and they need not send events.
const MANY: usize = 8;
/// What is soon, where trips are cheap.
const SOON_NS: u64 = 100_000;
/// So many trips make the shortest nap with [`MANY`] commands in flight.
const TRIPS: u64 = 4;
/// Every so many rests the core spins as long as it may, in case that is worth it again.
const PROBE: u32 = 64;

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

/// What is known of how long one ring waits for its disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait {
    /// When what is in flight began to be waited for.
    since: Option<u64>,
    /// How long waits have been taking: an eighth of the weight is the last one's.
    usual: u64,
    in_flight: usize,
}

impl Wait {
    /// Notes a turn: whether anything of the ring ended in it, how much still is in flight, and
    /// what [`Pacer::wake`] said at its beginning.
    #[inline]
    pub fn note(&mut self, now_ns: u64, completed: bool, in_flight: usize, overslept: bool) {
        self.in_flight = in_flight;
        if completed && let Some(since) = self.since.take() {
            let wait = now_ns.saturating_sub(since).min(8 * NAP_MAX_NS);
            self.usual = if overslept {
                self.usual.min(wait) / 16 * 15
            } else {
                follow(self.usual, wait)
            };
        }
        if in_flight > 0 {
            self.since.get_or_insert(now_ns);
        } else {
            self.since = None;
        }
    }

    /// Whether so little is in flight that each is waited for.
    fn is_few(&self) -> bool {
        (1..MANY).contains(&self.in_flight)
    }

    /// For how long it has been waiting.
    fn waited(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.since.unwrap_or(now_ns))
    }
}

/// One core's judgement.
#[derive(Debug)]
pub struct Pacer {
    poll: PollTime,
    /// For how long it spins now.
    spin: u64,
    /// Rests since it last spun for as long as it may.
    rests: u32,
    /// Work was found last at this time.
    worked_at: u64,
    /// Nothing was found in the last turn.
    idle: bool,
    /// The nap that the core is in.
    nap: Option<Nap>,
    /// When the last nap ended.
    woke_at: u64,
    /// A nap that was not to end before a wait has outlasted what began before this time.
    outlasted: Option<u64>,
    /// How much later than asked for naps have been ending.
    trip: u64,
}

/// A nap: when it began, when it is to end, and whether that is before the end of the wait that it
/// was for.
#[derive(Clone, Copy, Debug)]
struct Nap {
    began: u64,
    until: u64,
    early: bool,
}

impl Pacer {
    /// A pacer that has seen nothing yet.
    #[must_use]
    pub const fn new(poll: PollTime) -> Self {
        let spin = match poll {
            PollTime::For(limit) => limit,
            PollTime::Always => u64::MAX,
        };
        Self {
            poll,
            spin,
            rests: 0,
            worked_at: 0,
            idle: false,
            nap: None,
            woke_at: 0,
            outlasted: None,
            trip: 0,
        }
    }

    /// Starts a turn, and learns from the end of a nap what the trip costs. True if a nap that was
    /// to end before the usual end of a wait has just ended: what is found to be over, has been for
    /// nobody knows how long.
    #[inline]
    pub fn wake(&mut self, now_ns: u64) -> bool {
        let Some(nap) = self.nap else {
            return false;
        };
        self.nap = None;
        let Some(late) = now_ns.checked_sub(nap.until) else {
            return false;
        };
        self.trip = follow(self.trip, late.min(TRIP_MAX_NS));
        self.woke_at = now_ns;
        if !nap.early {
            self.outlasted = Some(nap.began);
        }
        nap.early
    }

    /// Notes a turn that found work.
    #[inline]
    pub fn worked(&mut self, now_ns: u64) {
        if core::mem::take(&mut self.idle) {
            self.judge(now_ns.saturating_sub(self.worked_at));
        }
        self.worked_at = now_ns;
    }

    /// Notes a turn that found nothing: true if the core is to go on polling, whatever it waits for.
    #[inline]
    pub fn goes_on(&mut self, now_ns: u64) -> bool {
        self.idle = true;
        now_ns.saturating_sub(self.worked_at) < self.spin
    }

    /// Until when [`Pacer::goes_on`] says so if no turn finds anything.
    #[inline]
    #[must_use]
    pub fn polls_until(&self) -> u64 {
        self.worked_at.saturating_add(self.spin)
    }

    /// What to do after such a turn, with so much in flight of these rings.
    pub fn idle<'a>(
        &mut self,
        now_ns: u64,
        in_flight: usize,
        rings: impl Iterator<Item = &'a Wait> + Clone,
    ) -> Rest {
        self.idle = true;
        let polled = now_ns.saturating_sub(self.worked_at);
        let limit = match self.poll {
            PollTime::Always => return Rest::Poll,
            PollTime::For(limit) => limit,
        };
        if polled < self.spin || (self.rests >= PROBE && polled < limit) {
            return Rest::Poll;
        }
        let soon = |wait: &Wait| wait.is_few() && self.is_soon_over(now_ns, wait);
        if limit > 0 && rings.clone().any(soon) {
            return Rest::Poll;
        }
        self.rests = if self.rests >= PROBE {
            0
        } else {
            self.rests + 1
        };
        if in_flight == 0 {
            return Rest::Sleep;
        }
        let (mut nap, mut least, mut early) = (NAP_MAX_NS, 0, false);
        for wait in rings.clone().filter(|wait| wait.in_flight > 0) {
            let (own, own_least) = self.nap_for(now_ns, wait);
            if own <= nap {
                (nap, least) = (own, own_least);
                early = wait.is_few() && wait.waited(now_ns) < wait.usual;
            }
        }
        let until = now_ns.saturating_add(nap);
        self.nap = Some(Nap {
            began: now_ns,
            until,
            early,
        });
        // Where all have much in flight, nothing new is to be expected.
        let mut rings = rings;
        let many = rings.all(|wait| wait.in_flight >= MANY);
        Rest::Nap {
            until,
            listen: !many || nap > least.max(SOON_NS),
        }
    }

    /// How long a nap may be that is for one ring's wait, and how long one is at least.
    fn nap_for(&self, now_ns: u64, wait: &Wait) -> (u64, u64) {
        let waited = wait.waited(now_ns);
        let few = wait.is_few();
        // Once the usual wait is over, or half of it with many in flight, naps of an eighth.
        let least = if few { self.trip } else { self.trip * TRIPS };
        let left = if few {
            wait.usual.saturating_sub(waited + self.lead())
        } else {
            (wait.usual / 2).saturating_sub(waited)
        };
        let nap = left
            .max(wait.usual / 8)
            .max(least)
            .clamp(NAP_MIN_NS, NAP_MAX_NS);
        (nap, least)
    }

    /// How long before the usual end of a wait a nap is to end: it is late by a trip, more or less.
    fn lead(&self) -> u64 {
        self.trip + self.trip / 2
    }

    /// Whether spinning is likely to find the end of a wait sooner than a trip would.
    fn is_soon_over(&self, now_ns: u64, wait: &Wait) -> bool {
        let waited = wait.waited(now_ns);
        let overdue = waited.saturating_sub(wait.usual);
        let spun = now_ns.saturating_sub(self.woke_at).min(overdue);
        let outlasted = self.outlasted >= wait.since && wait.since.is_some();
        !outlasted && wait.usual <= waited + self.lead() && spun < self.trip
    }

    /// Learns from a gap between work and work whether spinning through it was right, or would
    /// have been.
    fn judge(&mut self, gap: u64) {
        let PollTime::For(limit) = self.poll else {
            return;
        };
        self.spin = if gap <= limit {
            limit.min(self.spin.max(gap) * 2)
        } else if self.spin > limit / 16 {
            self.spin / 2
        } else {
            0
        };
    }
}

/// A mean of which the last value has an eighth of the weight.
fn follow(mean: u64, value: u64) -> u64 {
    mean - mean / 8 + value / 8
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
            let overslept = self.0.wake(now);
            self.1.note(now, completed, in_flight, overslept);
            self.0.worked(now);
        }

        fn idle(&mut self, now: u64, in_flight: usize) -> Rest {
            self.0.wake(now);
            self.1.in_flight = in_flight;
            self.0.idle(now, in_flight, core::iter::once(&self.1))
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
        }
        pacer.worked(now, false, 1);
        let (first, listen) = nap(&mut pacer, now, 1);
        assert!((950 * US..=1000 * US).contains(&first), "{first}");
        assert!(listen);
        let (second, _) = nap(&mut pacer, now + 1000 * US, 1);
        assert!((100 * US..=125 * US).contains(&second), "{second}");
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
        assert!(end < now + 100_300 * US, "{}", end - now);
        assert!(spun <= 400 * US, "{spun}");
    }

    #[test]
    fn a_core_that_is_not_to_poll_only_naps() {
        let (_, spun) = one_at_a_time(PollTime::For(0), 1500 * US);
        assert_eq!(spun, 0);
    }

    #[test]
    fn where_trips_are_dear_naps_are_longer_the_more_is_in_flight() {
        let mut pacer = Pacer::new(PollTime::For(0));
        let mut now = 0;
        pacer.worked(now, false, 1);
        for _ in 0..64 {
            now += nap(&mut pacer, now, 1).0 + 200 * US;
        }
        let (one, listen) = nap(&mut pacer, now, 1);
        assert!((180 * US..=300 * US).contains(&one), "{one}");
        assert!(listen);
        let (many, listen) = nap(&mut pacer, now, 32);
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
