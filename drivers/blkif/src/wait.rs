//! How long one ring waits for its disk: estimates, of which [`crate::pacer`] makes decisions.
//!
//! A wait begins when something of a ring is with a disk, and ends when something of it is found to have
//! ended; the next begins at once if there is more. What a single request takes depends on what it
//! asks for, and with several in flight a wait is the time from one end to the next. So there is an
//! estimate for each [`Awaited`]: a mean and how far from it waits usually end. Both are of bounded weight
//! towards the past, as TCP's of its round-trip time are (RFC 6298). A wait of more than two means counts
//! as two: a few slow ones among many are to be waited for once they are slow, not expected.
//!
//! On the data path a wait is only noted. It is learned from when a core without work asks for an estimate,
//! so that of those that end while there is always work only the last counts.

use core::cell::Cell;

/// The most that a wait counts for, in nanoseconds.
const WAIT_MAX_NS: u64 = 16_000_000;
/// What a wait may exceed two means by and still count in full.
const GROWTH_NS: u32 = 4_000;
/// The first request of so many sectors of 512 bytes is a large one.
const LARGE_SECTORS: u64 = 64;
/// With so many commands in flight frontends wait for those rather than adding others.
const MANY: usize = 8;

/// What a ring waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Awaited {
    /// A read of less than 32 KiB.
    Read,
    /// A larger read.
    LargeRead,
    /// A write of less than 32 KiB.
    Write,
    /// A larger write.
    LargeWrite,
    /// A flush, a discard, or a request whose list of segments has not been read yet.
    #[default]
    Other,
    /// The next of several requests.
    Several,
}

impl Awaited {
    /// How many there are.
    const COUNT: usize = Self::Several as usize + 1;
}

/// What is, or was, in flight: the sectors that are read, and above them those that are written.
#[derive(Clone, Copy, Debug, Default)]
struct Asked(u64);

impl Asked {
    /// Of several requests.
    const SEVERAL: Self = Self(u64::MAX);

    fn kind(self) -> Awaited {
        let (read, written) = (self.0 as u32, self.0 >> 32);
        match (u64::from(read), written) {
            _ if self.0 == u64::MAX => Awaited::Several,
            (0, 0) => Awaited::Other,
            (LARGE_SECTORS.., 0) => Awaited::LargeRead,
            (_, 0) => Awaited::Read,
            (_, LARGE_SECTORS..) => Awaited::LargeWrite,
            _ => Awaited::Write,
        }
    }
}

/// How long waits have been taking, in nanoseconds. Without any, both are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// An eighth of the weight is the last one's.
    pub(crate) mean: u32,
    /// The mean distance from that, likewise.
    pub(crate) spread: u32,
}

impl Estimate {
    fn after(self, wait: u32) -> Self {
        if self.mean == 0 {
            return Self {
                mean: wait,
                spread: wait / 2,
            };
        }
        let wait = wait.min(2 * self.mean + GROWTH_NS);
        let off = wait.abs_diff(self.mean);
        Self {
            mean: self.mean - self.mean / 8 + wait / 8,
            spread: self.spread - self.spread / 8 + off / 8,
        }
    }
}

/// What is known of how long one ring waits for its disk.
#[derive(Debug)]
pub struct Wait {
    /// When what is in flight began to be waited for; [`NOT_WAITING`] if nothing is.
    since: u64,
    in_flight: usize,
    /// What was taken last.
    taken: Asked,
    /// What is waited for.
    awaited: Asked,
    /// The last wait, in nanoseconds, and what for: none if that has been learned from.
    last: Cell<u64>,
    last_for: Asked,
    estimates: [Cell<Estimate>; Awaited::COUNT],
}

/// No time that a clock shows.
const NOT_WAITING: u64 = u64::MAX;

impl Default for Wait {
    fn default() -> Self {
        Self {
            since: NOT_WAITING,
            in_flight: 0,
            taken: Asked::default(),
            awaited: Asked::default(),
            last: Cell::default(),
            last_for: Asked::default(),
            estimates: Default::default(),
        }
    }
}

impl Wait {
    /// Notes that requests were taken from the ring in this turn which read and write so many sectors of 512
    /// bytes.
    #[inline]
    pub fn took(&mut self, read: u64, written: u64) {
        self.taken = Asked(read | written << 32);
    }

    /// Notes a turn: whether anything of the ring ended in it, how much still is in flight, and
    /// what [`crate::pacer::Pacer::wake`] said at its beginning: for so long the core had been asleep. What
    /// is found to have ended, has at some time meanwhile; it counts as if in the middle.
    #[inline(always)]
    pub fn note(&mut self, now_ns: u64, completed: bool, in_flight: usize, slept_ns: u64) {
        self.in_flight = in_flight;
        let began = self.since == NOT_WAITING;
        if completed && !began {
            let wait = now_ns.saturating_sub(self.since);
            self.last.set(wait.saturating_sub(slept_ns / 2));
            self.last_for = self.awaited;
        }
        if in_flight == 0 {
            self.since = NOT_WAITING;
        } else if completed || began {
            self.since = now_ns;
        }
        self.awaited = if in_flight > 1 {
            Asked::SEVERAL
        } else {
            self.taken
        };
    }

    /// What is waited for, if anything is.
    #[must_use]
    pub fn awaited(&self) -> Option<Awaited> {
        self.is_any().then(|| self.awaited.kind())
    }

    /// Whether something is in flight.
    pub(crate) fn is_any(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether so much is in flight that one trip to the hypervisor is to find several ends.
    pub(crate) fn is_many(&self) -> bool {
        self.in_flight >= MANY
    }

    /// For how long it has been waiting, in nanoseconds.
    pub(crate) fn waited(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.since)
    }

    /// How long such waits have been taking.
    pub(crate) fn estimate(&self) -> Estimate {
        let last = self.last.take();
        if last > 0 {
            let of = &self.estimates[self.last_for.kind() as usize];
            of.set(of.get().after(last.min(WAIT_MAX_NS) as u32));
        }
        self.estimates[self.awaited.kind() as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;
    const READ: (u64, u64) = (8, 0);

    /// A ring that has one request at a time, each of which takes `time` and is found by a core that slept
    /// for so long.
    fn one_at_a_time(wait: &mut Wait, now: &mut u64, what: (u64, u64), time: u64, slept: u64) {
        wait.took(what.0, what.1);
        wait.note(*now, false, 1, 0);
        wait.estimate();
        *now += time;
        wait.note(*now, true, 0, slept);
        *now += 50 * US;
    }

    fn near(estimate: Estimate, us: u64) -> bool {
        u64::from(estimate.mean).abs_diff(us * US) <= us * US / 50
    }

    #[test]
    fn reads_and_writes_large_and_small_ones_are_known_apart() {
        let (mut wait, mut now) = (Wait::default(), 0);
        let times = [
            (Awaited::Read, (8, 0), 80),
            (Awaited::Write, (0, 8), 15),
            (Awaited::LargeRead, (256, 0), 300),
            (Awaited::LargeWrite, (0, 256), 200),
            (Awaited::Other, (0, 0), 1000),
        ];
        for _ in 0..100 {
            for (_, sectors, us) in times {
                one_at_a_time(&mut wait, &mut now, sectors, us * US, 0);
            }
        }
        for (what, sectors, us) in times {
            wait.took(sectors.0, sectors.1);
            wait.note(now, false, 1, 0);
            assert_eq!(wait.awaited(), Some(what));
            assert!(near(wait.estimate(), us), "{what:?}: {:?}", wait.estimate());
            wait.note(now, false, 0, 0);
            assert_eq!(wait.awaited(), None);
        }
    }

    #[test]
    fn several_in_flight_are_a_wait_of_their_own() {
        let (mut wait, mut now) = (Wait::default(), 0);
        for _ in 0..100 {
            one_at_a_time(&mut wait, &mut now, READ, 80 * US, 0);
        }
        wait.note(now, false, 4, 0);
        for _ in 0..100 {
            now += 20 * US;
            wait.note(now, true, 4, 0);
            wait.estimate();
        }
        assert_eq!(wait.awaited(), Some(Awaited::Several));
        assert!(near(wait.estimate(), 20), "{:?}", wait.estimate());
        wait.note(now, true, 1, 0);
        assert!(near(wait.estimate(), 80), "{:?}", wait.estimate());
    }

    #[test]
    fn of_waits_that_end_while_there_is_work_the_last_counts() {
        let (mut wait, mut now) = (Wait::default(), 0);
        one_at_a_time(&mut wait, &mut now, READ, 80 * US, 0);
        wait.note(now, false, 1, 0);
        for time in [10, 1000, 80] {
            now += time * US;
            wait.note(now, true, 1, 0);
        }
        assert!(near(wait.estimate(), 80), "{:?}", wait.estimate());
    }

    #[test]
    fn a_few_slow_ones_are_not_expected() {
        let (mut wait, mut now) = (Wait::default(), 0);
        for round in 0..1000 {
            let time = if round % 20 == 7 { 1000 } else { 80 };
            one_at_a_time(&mut wait, &mut now, READ, time * US, 0);
        }
        wait.note(now, false, 1, 0);
        assert!(wait.estimate().mean < 100_000, "{:?}", wait.estimate());
    }

    #[test]
    fn what_a_nap_outlasts_counts_as_if_in_its_middle() {
        let (mut wait, mut now) = (Wait::default(), 0);
        for _ in 0..100 {
            one_at_a_time(&mut wait, &mut now, READ, 100 * US, 40 * US);
        }
        wait.note(now, false, 1, 0);
        assert!(near(wait.estimate(), 80), "{:?}", wait.estimate());
    }

    #[test]
    fn a_wait_is_bounded_whatever_was_seen() {
        let (mut wait, mut now) = (Wait::default(), 0);
        for _ in 0..1000 {
            one_at_a_time(&mut wait, &mut now, READ, u64::MAX / 2000, 0);
        }
        wait.note(now, false, 1, 0);
        let Estimate { mean, spread } = wait.estimate();
        assert!(u64::from(mean) <= WAIT_MAX_NS && u64::from(spread) <= WAIT_MAX_NS);
    }
}
