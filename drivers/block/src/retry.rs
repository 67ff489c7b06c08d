//! When a disk that was lost is looked for again.

/// How long after a disk was lost it is looked for the first time, in nanoseconds.
const FIRST_NS: u64 = 1_000_000_000;
/// The longest time from one look to the next.
const LONGEST_NS: u64 = 60_000_000_000;

/// Looks for a lost disk: a second after it was lost, then after twice as long each time, up to a
/// minute; and at once when an administrator asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// When the next look is due, and how long after it the one after that, in nanoseconds; `None`
    /// for a disk that works.
    next: Option<(u64, u64)>,
}

impl Retry {
    /// The disk was lost at `now_ns`, or has not come back by a look that was due.
    pub fn lost(&mut self, now_ns: u64) {
        let wait = self.next.map_or(FIRST_NS, |(_, wait)| wait);
        let longer = wait.saturating_mul(2).min(LONGEST_NS);
        self.next = Some((now_ns.saturating_add(wait), longer));
    }

    /// The disk works.
    pub fn back(&mut self) {
        self.next = None;
    }

    /// An administrator asks for it: a disk that is lost is looked for now, and again soon.
    pub fn ask(&mut self, now_ns: u64) {
        self.next = self.next.map(|_| (now_ns, FIRST_NS));
    }

    /// Whether a look is due. It counts as begun: the next one is due only after
    /// [`Retry::lost`].
    pub fn take_due(&mut self, now_ns: u64) -> bool {
        match &mut self.next {
            Some((due, _)) if now_ns >= *due => {
                *due = u64::MAX;
                true
            }
            _ => false,
        }
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
        retry.back();
        assert_eq!(looks(&mut retry, 2000..10_000), []);
        retry.lost(10_000 * SECOND);
        assert_eq!(looks(&mut retry, 10_000..10_005), [10_001, 10_003]);
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
