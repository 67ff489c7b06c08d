//! When a core that finds no work goes on polling, and when it sleeps.
//!
//! While work keeps coming the core spins, so that the next request or completion is found at
//! once. After `poll_ns` without any it rests: with nothing in flight until an event comes; with
//! commands on a disk, for a nap of about half the time such commands have been taking, because
//! no interrupt will tell of their end. A disk that answers within `poll_ns` is never napped on.

/// The shortest nap worth the two trips to the hypervisor.
const NAP_MIN_NS: u64 = 20_000;
/// The longest nap: a bound on what a wrong guess can add to a request.
const NAP_MAX_NS: u64 = 2_000_000;

/// How long to poll without finding work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollTime {
    /// So many nanoseconds; 0 = rest at once.
    For(u64),
    /// For ever: a core that has a CPU to itself.
    Always,
}

/// What a core does until its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Go on polling.
    Poll,
    /// Sleep until an event comes, or until this time on the clock of [`Pacer::idle`].
    Nap(u64),
    /// Sleep until an event comes. The rings must be armed first.
    Sleep,
}

/// One core's judgement.
#[derive(Debug)]
pub struct Pacer {
    poll: PollTime,
    /// Work was found last at this time.
    worked_at: u64,
    /// When what is in flight began to be waited for.
    waiting_since: Option<u64>,
    /// How long waits have been taking: an eighth of the weight is the last one's.
    usual_wait: u64,
}

impl Pacer {
    /// A pacer that has seen nothing yet.
    #[must_use]
    pub const fn new(poll: PollTime) -> Self {
        Self {
            poll,
            worked_at: 0,
            waiting_since: None,
            usual_wait: 0,
        }
    }

    /// Notes a turn that found work. `completed` tells whether a disk finished something,
    /// `in_flight` whether something is still with one.
    #[inline]
    pub fn worked(&mut self, now_ns: u64, completed: bool, in_flight: bool) {
        self.worked_at = now_ns;
        if completed && let Some(since) = self.waiting_since.take() {
            let wait = now_ns.saturating_sub(since).min(8 * NAP_MAX_NS);
            self.usual_wait = self.usual_wait - self.usual_wait / 8 + wait / 8;
        }
        if in_flight {
            self.waiting_since.get_or_insert(now_ns);
        } else {
            self.waiting_since = None;
        }
    }

    /// What to do after a turn that found nothing.
    #[inline]
    pub fn idle(&mut self, now_ns: u64, in_flight: bool) -> Rest {
        let polled = now_ns.saturating_sub(self.worked_at);
        match self.poll {
            PollTime::Always => return Rest::Poll,
            PollTime::For(limit) if polled < limit => return Rest::Poll,
            PollTime::For(_) => {}
        }
        if !in_flight {
            return Rest::Sleep;
        }
        // What is left of half the usual wait; once that is over, naps of an eighth.
        let waited = now_ns.saturating_sub(self.waiting_since.unwrap_or(now_ns));
        let nap = (self.usual_wait / 2)
            .saturating_sub(waited)
            .max(self.usual_wait / 8);
        Rest::Nap(now_ns.saturating_add(nap.clamp(NAP_MIN_NS, NAP_MAX_NS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1000;

    #[test]
    fn a_core_polls_for_its_time_and_then_sleeps() {
        let mut pacer = Pacer::new(PollTime::For(50 * US));
        pacer.worked(1000 * US, true, false);
        assert_eq!(pacer.idle(1049 * US, false), Rest::Poll);
        assert_eq!(pacer.idle(1050 * US, false), Rest::Sleep);
        let mut never = Pacer::new(PollTime::For(0));
        never.worked(1000 * US, true, false);
        assert_eq!(never.idle(1000 * US, false), Rest::Sleep);
    }

    #[test]
    fn a_core_of_its_own_never_rests() {
        let mut pacer = Pacer::new(PollTime::Always);
        assert_eq!(pacer.idle(u64::MAX, false), Rest::Poll);
        assert_eq!(pacer.idle(u64::MAX, true), Rest::Poll);
    }

    #[test]
    fn naps_follow_what_the_disk_has_been_taking() {
        let mut pacer = Pacer::new(PollTime::For(0));
        let mut now = 0;
        for _ in 0..64 {
            pacer.worked(now, false, true);
            now += 1000 * US;
            pacer.worked(now, true, false);
        }
        pacer.worked(now, false, true);
        let Rest::Nap(until) = pacer.idle(now, true) else {
            panic!("nothing will wake it otherwise");
        };
        assert!(
            (400 * US..=500 * US).contains(&(until - now)),
            "{}",
            until - now
        );
        let Rest::Nap(again) = pacer.idle(until, true) else {
            panic!("nothing will wake it otherwise");
        };
        assert!(
            (100 * US..=125 * US).contains(&(again - until)),
            "{}",
            again - until
        );
    }

    #[test]
    fn a_nap_is_bounded_whatever_was_seen() {
        let mut pacer = Pacer::new(PollTime::For(0));
        pacer.worked(0, false, true);
        assert_eq!(pacer.idle(0, true), Rest::Nap(NAP_MIN_NS));
        for i in 1..100 {
            pacer.worked(i * 1_000_000 * US, true, true);
        }
        let now = 100 * 1_000_000 * US;
        let Rest::Nap(until) = pacer.idle(now, true) else {
            panic!("nothing will wake it otherwise");
        };
        assert!(until - now <= NAP_MAX_NS);
    }
}
