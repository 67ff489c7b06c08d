//! When a disk that was lost is looked for again.

/// How long after a disk was lost it is looked for the first time, in nanoseconds.
const FIRST_NS: u64 = 1_000_000_000;
/// The longest time from one look to the next.
const LONGEST_NS: u64 = 60_000_000_000;

/// For how long a disk must have worked, in nanoseconds, for a new loss to be the first of a row.
const GOOD_NS: u64 = 60_000_000_000;

/// Looks for a lost disk: a second after it was lost, then after twice as long each time, up to a
/// minute; and at once when an administrator asks for it. One that comes back and is soon lost again
/// goes on in that row: each return costs those who use it a second of errors or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    state: RetryState,
    /// How long after the next loss, or the next look that comes to nothing, the one after that is due,
    /// in nanoseconds; 0 for the first one.
    wait: u64,
}

/// What a disk is known to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryState {
    /// It works, since this time if it was lost before.
    Works(u64),
    /// It is lost, and looked for at this time.
    Lost(u64),
    /// It is being looked for.
    Looking,
}

impl Default for RetryState {
    fn default() -> Self {
        Self::Works(0)
    }
}

impl Retry {
    /// The disk was lost at `now_ns`, or has not come back by a look that was due.
    pub fn lost(&mut self, now_ns: u64) {
        if let RetryState::Works(since) = self.state
            && now_ns.saturating_sub(since) >= GOOD_NS
        {
            self.wait = 0;
        }
        let wait = self.wait.max(FIRST_NS);
        self.wait = wait.saturating_mul(2).min(LONGEST_NS);
        self.state = RetryState::Lost(now_ns.saturating_add(wait));
    }

    /// The disk works, since `now_ns`.
    pub fn back(&mut self, now_ns: u64) {
        self.state = RetryState::Works(now_ns);
    }

    /// An administrator asks for it: a disk that is lost is looked for now, and again soon.
    pub fn ask(&mut self, now_ns: u64) {
        if let RetryState::Lost(due) = &mut self.state {
            *due = now_ns;
        }
        self.wait = 0;
    }

    /// Whether a look is due. It counts as begun: the next one is due only after
    /// [`Retry::lost`].
    pub fn take_due(&mut self, now_ns: u64) -> bool {
        let due = matches!(self.state, RetryState::Lost(due) if now_ns >= due);
        if due {
            self.state = RetryState::Looking;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Seconds at which a disk is looked for that does not come back.
    fn looks(retry: &mut Retry, seconds: core::ops::Range<u64>) -> alloc::vec::Vec<u64> {
        let due = |second: &u64| {
            let due = retry.take_due(second * SECOND);
            if due {
                retry.lost(second * SECOND);
            }
            due
        };
        seconds.filter(due).collect()
    }

    #[test]
    fn a_lost_disk_is_looked_for_less_and_less_often_and_one_that_works_never() {
        let mut retry = Retry::default();
        assert_eq!(looks(&mut retry, 0..10_000), []);
        retry.lost(0);
        let times = looks(&mut retry, 0..300);
        assert_eq!(times, [1, 3, 7, 15, 31, 63, 123, 183, 243]);
        retry.back(2000 * SECOND);
        assert_eq!(looks(&mut retry, 2000..10_000), []);
        retry.lost(10_000 * SECOND);
        assert_eq!(looks(&mut retry, 10_000..10_005), [10_001, 10_003]);
    }

    #[test]
    fn a_disk_that_is_lost_again_and_again_is_brought_up_less_and_less_often() {
        let mut retry = Retry::default();
        let mut now = 0;
        // Back at each look, and lost again after so many seconds.
        let row = |retry: &mut Retry, now: &mut u64, good: u64| {
            let mut waits = alloc::vec::Vec::new();
            for _ in 0..8 {
                retry.lost(*now * SECOND);
                let lost = *now;
                while !retry.take_due(*now * SECOND) {
                    *now += 1;
                }
                waits.push(*now - lost);
                retry.back(*now * SECOND);
                *now += good;
            }
            waits
        };
        assert_eq!(row(&mut retry, &mut now, 59), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(row(&mut retry, &mut now, 60), [60, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(row(&mut retry, &mut now, 0)[..4], [1, 2, 4, 8]);
        retry.ask(now * SECOND);
        assert_eq!(row(&mut retry, &mut now, 0)[..4], [1, 2, 4, 8]);
    }

    #[test]
    fn a_look_that_is_not_over_is_not_begun_again() {
        let mut retry = Retry::default();
        retry.lost(0);
        assert!(retry.take_due(5 * SECOND));
        assert!(!retry.take_due(1000 * SECOND));
        retry.lost(1000 * SECOND);
        assert!(!retry.take_due(1001 * SECOND) && retry.take_due(1002 * SECOND));
    }

    #[test]
    fn who_asks_need_not_wait() {
        let mut retry = Retry::default();
        retry.ask(0);
        assert!(!retry.take_due(SECOND), "it works");
        retry.lost(0);
        assert_eq!(looks(&mut retry, 0..1000).len(), 21);
        retry.ask(1000 * SECOND);
        assert_eq!(looks(&mut retry, 1000..1004), [1000, 1001, 1003]);
    }
}
