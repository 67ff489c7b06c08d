//! When a frontend is told of its responses: at once, or a few together.
//!
//! An interrupt costs a guest more than a response. As long as the disk is what a frontend waits
//! for, each response may let it go on, and it is told at once. But if it has most of its requests
//! in its own hands, answered and not yet submitted anew, it is the one that is behind: then
//! telling it again gains nothing, and its event is held back until half of what it keeps in
//! flight is answered. The responses themselves are published in any case; a frontend that looks
//! finds them.

/// A frontend with fewer requests than this at once waits for each of them.
const DEEP: u32 = 16;
/// The most responses that an event is held back for.
const TOGETHER: u32 = 12;
/// The longest that an event is held back, reached only by what takes longer itself.
const HOLD_MAX_NS: u64 = 8_000_000;

/// One ring's judgement.
#[derive(Debug, Default)]
pub struct Moderator {
    /// How many requests the frontend keeps in flight, as far as is known.
    depth: u32,
    /// Responses that the frontend is owed an event for; 0 = none is owed.
    held: u32,
    /// Since when.
    since: u64,
    /// Nanoseconds from response to response.
    interval: u64,
    /// When the last response was published.
    last: u64,
}

impl Moderator {
    /// Responses that the frontend is to be told of and has not been.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Notes that `fresh` responses were published, with `unanswered` requests left, and whether
    /// the frontend `wants` an event for them. True if it is to be sent one now, which this
    /// counts on.
    ///
    /// To be called in every turn as long as an event is owed, also with nothing published.
    #[inline]
    pub fn published(&mut self, fresh: u32, unanswered: u32, wants: bool, now_ns: u64) -> bool {
        if self.depth < DEEP && self.held == 0 {
            // It waits for each of its requests. Should they become many now, half of them or more were
            // answered, or are not; either way it is told at once.
            self.last = now_ns;
            self.depth = self.depth.max(unanswered + fresh);
            return wants && fresh > 0;
        }
        self.weigh(fresh, unanswered, wants, now_ns)
    }

    /// The same for a frontend that has many, or is owed an event.
    #[inline(never)]
    fn weigh(&mut self, fresh: u32, unanswered: u32, wants: bool, now_ns: u64) -> bool {
        if fresh > 0 {
            self.pace(fresh, now_ns);
            if self.held > 0 || wants {
                if self.held == 0 {
                    self.since = now_ns;
                }
                self.held += fresh;
            }
        }
        self.depth = self.depth.max(unanswered + self.held.max(fresh));
        self.held > 0 && self.is_due(unanswered, now_ns)
    }

    /// An event is due whatever has been judged: the ring is being closed.
    pub fn flush(&mut self) -> bool {
        core::mem::take(&mut self.held) > 0
    }

    fn is_due(&mut self, unanswered: u32, now_ns: u64) -> bool {
        let waits = self.depth < DEEP || unanswered >= self.depth / 2;
        if !waits && self.held < self.together() {
            if now_ns.saturating_sub(self.since) < self.hold() {
                return false;
            }
            // It has less in flight than it used to.
            self.depth = unanswered + self.held;
        }
        self.held = 0;
        true
    }

    /// How many responses an event is held back for.
    fn together(&self) -> u32 {
        (self.depth / 2).min(TOGETHER)
    }

    /// How long an event may be held back: twice as long as it should take until enough responses
    /// are together.
    fn hold(&self) -> u64 {
        (2 * u64::from(self.together()) * self.interval).min(HOLD_MAX_NS)
    }

    /// Learns how fast responses follow each other.
    fn pace(&mut self, fresh: u32, now_ns: u64) {
        let gap = now_ns.saturating_sub(core::mem::replace(&mut self.last, now_ns));
        if gap > self.hold() && self.held == 0 {
            // After a pause nothing is known about what comes.
            self.depth = 0;
        }
        let gap = gap.min(HOLD_MAX_NS);
        let interval = match fresh {
            1 => gap,
            _ => gap / u64::from(fresh),
        };
        self.interval = self.interval - self.interval / 8 + interval / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1000;

    /// A frontend with 32 requests in flight, of which a disk answers one every 10 us.
    fn deep() -> (Moderator, u64) {
        let mut moderator = Moderator::default();
        let mut now = 1_000_000 * US;
        for _ in 0..100 {
            now += 10 * US;
            assert!(moderator.published(1, 31, true, now), "the disk is behind");
        }
        (moderator, now)
    }

    #[test]
    fn a_frontend_with_few_requests_is_told_at_once() {
        let mut moderator = Moderator::default();
        for i in 0..1000 {
            assert!(moderator.published(1, (i % 7) as u32, true, i * 3 * US));
            assert_eq!(moderator.held(), 0);
        }
    }

    #[test]
    fn a_frontend_that_is_behind_is_told_of_half_its_requests_at_once() {
        let (mut moderator, mut now) = deep();
        let mut events = 0;
        for _ in 0..320 {
            now += 10 * US;
            events += u32::from(moderator.published(1, 2, true, now));
        }
        assert_eq!(events, 320 / TOGETHER);
    }

    #[test]
    fn a_frontend_that_does_not_want_events_is_owed_none() {
        let (mut moderator, now) = deep();
        assert!(!moderator.published(5, 2, false, now + US));
        assert_eq!(moderator.held(), 0);
    }

    #[test]
    fn what_is_held_back_is_sent_before_long_and_the_next_at_once() {
        let (mut moderator, now) = deep();
        assert!(!moderator.published(1, 0, true, now + 10 * US));
        let mut late = 0;
        while !moderator.published(0, 0, true, now + 10 * US + late) {
            late += US;
        }
        assert!((200 * US..400 * US).contains(&late), "{late}");
        assert!(
            moderator.published(1, 0, true, now + late + 100 * US),
            "it has less in flight now"
        );
    }

    #[test]
    fn after_a_pause_nothing_is_held_back() {
        let (mut moderator, now) = deep();
        assert!(moderator.published(1, 0, true, now + 10_000 * US));
    }

    #[test]
    fn a_slow_disk_holds_nothing_for_longer_than_the_bound() {
        let mut moderator = Moderator::default();
        let mut now = 0;
        for _ in 0..100 {
            now += 3_000 * US;
            moderator.published(1, 31, true, now);
        }
        assert!(!moderator.published(1, 3, true, now + US));
        assert!(!moderator.published(0, 3, true, now + HOLD_MAX_NS));
        assert!(moderator.published(0, 3, true, now + US + HOLD_MAX_NS));
    }

    #[test]
    fn an_event_held_back_is_sent_when_the_ring_closes() {
        let (mut moderator, now) = deep();
        assert!(!moderator.published(1, 0, true, now + 10 * US));
        assert!(moderator.flush());
        assert!(!moderator.flush());
    }
}
