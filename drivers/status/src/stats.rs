//! What a ring and a core have done: written by their core alone, read by the control core at any
//! time, and published as one line of text.
//!
//! A new statistic is one entry at the end of its list below, and the `add` where it happens. Its line, its
//! place in what a next life of the kernel resumes, its column in `stat` and `top`, its metric and its row
//! in the tables of ctl/docs follow from the entry.

mod lines;

use core::fmt;

pub use crate::counter::{Counter, Counts, Histogram};
pub use lines::{DelayLine, DeviceLine};

use crate::counter::{self, Places, Tally};
use crate::statistic::{Key, StatNode, StatUnit, Statistic};

/// Places of the histogram of batches: up to 512, the largest ring.
pub const BATCH_PLACES: usize = 11;

/// Places of the histogram of latencies, in units of 1,024 ns: up to 4 seconds, and what takes longer.
pub const LATENCY_PLACES: usize = 24;

macro_rules! counters {
    (
        $(#[$live_doc:meta])* $live:ident, $(#[$copy_doc:meta])* $copy:ident of $count:literal:
        $($(#[doc = $help:literal])+ $name:ident: $tally:ty = $about:expr;)*
    ) => {
        $(#[$live_doc])*
        #[derive(Debug, Default)]
        #[repr(align(64))]
        pub struct $live {
            $($(#[doc = $help])+ pub $name: $tally,)*
        }

        $(#[$copy_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $copy {
            $($(#[doc = $help])+ pub $name: <$tally as Tally>::Value,)*
        }

        impl $copy {
            /// The words of its line, in their order.
            pub const KEYS: [Key; $count] = [$($about.key),*];

            /// What each is, in the same order.
            pub const ABOUT: [Statistic; $count] = [$(
                $about.with(<<$tally as Tally>::Value as Places>::COUNT, concat!($($help),+))
            ),*];

            /// The numbers of each, in the same order: one of a counter, all places of a histogram.
            #[must_use]
            pub fn readings(&self) -> [&[u64]; $count] {
                [$(self.$name.places()),*]
            }

            fn readings_mut(&mut self) -> [&mut [u64]; $count] {
                [$(self.$name.places_mut()),*]
            }

            /// All of it as numbers, in an order that stays.
            pub fn values(&self) -> impl Iterator<Item = u64> {
                self.readings().into_iter().flatten().copied()
            }

            /// The same from such numbers; what is missing is 0.
            #[must_use]
            pub fn from_values(values: impl IntoIterator<Item = u64>) -> Self {
                let mut all = Self::default();
                let places = all.readings_mut().into_iter().flatten();
                places.zip(values).for_each(|(place, value)| *place = value);
                all
            }

            /// The totals of several, reckoned from zero; of what has a highest value, that.
            #[must_use]
            pub fn sum(all: impl IntoIterator<Item = Self>) -> Self {
                let mut sum = Self::default();
                for one in all {
                    lines::merge(&Self::KEYS, &mut sum.readings_mut(), &one.readings());
                }
                sum
            }

            /// What was counted since `before`; from zero where a counter went back, as after a new start.
            #[must_use]
            pub fn since(&self, before: &Self) -> Self {
                let mut now = *self;
                let places = now.readings_mut().into_iter().flatten();
                for (now, before) in places.zip(before.values()) {
                    *now = now.checked_sub(before).unwrap_or(*now);
                }
                now
            }

            /// Reads a line: words that are not known, or that have no such value, are skipped.
            #[must_use]
            pub fn parse(line: &str) -> Self {
                let mut all = Self::default();
                lines::parse(&Self::KEYS, &mut all.readings_mut(), line);
                all
            }
        }

        impl $live {
            /// Reads all counters.
            #[must_use]
            pub fn snapshot(&self) -> $copy {
                $copy { $($name: self.$name.read(),)* }
            }

            /// Counters that go on from what they were.
            #[must_use]
            pub fn resume(from: &$copy) -> Self {
                Self { $($name: from.$name.into(),)* }
            }
        }
    };
}

counters! {
    /// What a ring has done since it was attached. Counters never go down. The alignment keeps
    /// the cache lines that its core writes apart from everybody else's.
    RingStats,
    /// A copy of [`RingStats`] at one moment; the counters are read one after the other.
    RingSnapshot of 25:
    /// Times that a request had to wait for room: in the buffer pool, the disk queue or a batch.
    out_of_room: Counter = Statistic::sum("oo_req", "waits", "out_of_room");
    /// Read requests accepted.
    reads: Counter = Statistic::sum("rd_req", "reads", "requests").label("op", "read");
    /// Write requests accepted.
    writes: Counter = Statistic::sum("wr_req", "writes", "requests").label("op", "write");
    /// Flush and barrier requests accepted.
    flushes: Counter = Statistic::sum("f_req", "flushes", "requests").label("op", "flush");
    /// Discard requests accepted.
    discards: Counter = Statistic::sum("ds_req", "discards", "requests").label("op", "discard");
    /// Requests answered with anything but success.
    errors: Counter = Statistic::sum("err", "errors", "errors");
    /// Data asked to be read.
    sectors_read: Counter =
        Statistic::sum("rd_sect", "read", "bytes").label("op", "read").unit(StatUnit::Sectors);
    /// Data asked to be written.
    sectors_written: Counter =
        Statistic::sum("wr_sect", "written", "bytes").label("op", "write").unit(StatUnit::Sectors);
    /// Most requests that were ever between ring and response at once.
    in_flight_peak: Counter = Statistic::highest("peak", "peak", "in_flight_peak");
    /// Notifications sent to the frontend.
    notifications: Counter = Statistic::sum("notify", "notify", "notifications");
    /// Grants mapped into the cache.
    grants_mapped: Counter = Statistic::sum("mapped", "mapped", "grants_mapped");
    /// Grants unmapped to make room, or because they were not used for long.
    grants_evicted: Counter = Statistic::sum("evicted", "evicted", "grants_evicted");
    /// Requests whose data went through the buffer pool.
    copied_requests: Counter = Statistic::sum("copied", "copied", "copied_requests");
    /// Frames of the window lost because an unmap failed.
    frames_lost: Counter = Statistic::sum("lost", "lost", "frames_lost");
    /// Requests taken per visit, of the visits that found any.
    batches: Histogram<BATCH_PLACES> = Statistic::sum("batch", "batch", "batch_requests");
    /// Time from the visit that took a request to the visit that answered it, of the requests that went to
    /// the disk.
    latency: Histogram<LATENCY_PLACES> =
        Statistic::sum("lat_us", "lat", "latency_seconds").unit(StatUnit::Ns1024);
    /// Time in which it had requests that its limits did not let it take.
    held_ns: Counter =
        Statistic::sum("held_ns", "held back s", "held_back_seconds").unit(StatUnit::Nanoseconds);
    /// Sum of the requests taken.
    batched: Counter = Statistic::sum_of("batched", "batch_requests");
    /// Sum of the latencies.
    latency_ns: Counter = Statistic::sum_of("lat_ns", "latency_seconds").unit(StatUnit::Nanoseconds);
    /// Of the latency, the time until the visit that gave the request to the disk: waiting for Spindle.
    wait: Histogram<LATENCY_PLACES> =
        Statistic::sum("wait_us", "wait", "wait_seconds").unit(StatUnit::Ns1024).within(StatNode::Delays);
    /// Sum of those times.
    wait_ns: Counter = Statistic::sum_of("wait_ns", "wait_seconds")
        .unit(StatUnit::Nanoseconds)
        .within(StatNode::Delays);
    /// Of the latency, the time from then on: waiting for the disk.
    device: Histogram<LATENCY_PLACES> = Statistic::sum("dev_us", "device", "device_seconds")
        .unit(StatUnit::Ns1024)
        .within(StatNode::Delays);
    /// Sum of those times.
    device_ns: Counter = Statistic::sum_of("dev_ns", "device_seconds")
        .unit(StatUnit::Nanoseconds)
        .within(StatNode::Delays);
    /// Time before the latency begins, from the visit that saw the request in a ring with limits to the one
    /// that took it: waiting for tokens. What comes while others wait for theirs is seen when the next is taken.
    /// A disk that has never waited has none.
    tokens: Histogram<LATENCY_PLACES> =
        Statistic::sum("tok_us", "tokens", "token_seconds").unit(StatUnit::Ns1024).within(StatNode::Delays);
    /// Sum of those times.
    tokens_ns: Counter = Statistic::sum_of("tok_ns", "token_seconds")
        .unit(StatUnit::Nanoseconds)
        .within(StatNode::Delays);
}

impl RingSnapshot {
    /// As it is published. What most requests do not have a ring does not count: of `wait` those that had
    /// none, of `tokens` those of a ring that has had some, and of `device` those that had nothing else, so
    /// that it holds by how much it differs from `latency`.
    #[must_use]
    pub fn completed(mut self) -> Self {
        let all = counter::total(&self.latency.0);
        self.wait.0[0] = all.saturating_sub(counter::total(&self.wait.0[1..]));
        let held = counter::total(&self.tokens.0[1..]);
        if held > 0 {
            self.tokens.0[0] = all.saturating_sub(held);
        }
        self.device.add(&self.latency);
        self.device_ns = self.device_ns.wrapping_add(self.latency_ns);
        self
    }
}

/// The line of its first node, `name=value`, with the names of Linux's blkback where it counts the same thing.
impl fmt::Display for RingSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines::emit(&Self::KEYS, &self.readings(), StatNode::Stat, f)
    }
}

counters! {
    /// How a core has spent its time. Counters never go down; aligned as [`RingStats`].
    CoreStats,
    /// A copy of [`CoreStats`] at one moment; the counters are read one after the other.
    CoreSnapshot of 6:
    /// Visits that found work.
    polls_busy: Counter = Statistic::sum("polls", "polls", "busy_visits");
    /// Visits that found none.
    polls_idle: Counter = Statistic::sum("idle_polls", "idle polls", "idle_visits");
    /// Times that the core slept.
    sleeps: Counter = Statistic::sum("sleeps", "sleeps", "sleeps");
    /// Grant hypercalls: maps, unmaps and copies, each of a batch.
    grant_calls: Counter = Statistic::sum("grant_calls", "grant calls", "grant_calls");
    /// Time in visits that found work.
    busy_ns: Counter = Statistic::sum("busy_ns", "busy s", "busy_seconds").unit(StatUnit::Nanoseconds);
    /// Time in visits that found none, and asleep.
    idle_ns: Counter = Statistic::sum("idle_ns", "idle s", "idle_seconds").unit(StatUnit::Nanoseconds);
}

impl CoreSnapshot {
    /// The share of time in visits that found work, in thousandths; 0 before any time has passed.
    #[must_use]
    pub fn busy_permille(&self) -> u64 {
        let all = self.busy_ns.saturating_add(self.idle_ns);
        // 64 bits hold a thousand times what has ten bits to spare.
        let excess = 10u32.saturating_sub(all.leading_zeros());
        let (busy, all) = (self.busy_ns >> excess, all >> excess);
        (busy * 1000).checked_div(all).unwrap_or(0)
    }
}

/// One line of `name=value`, after the busy share, which follows from two of them.
impl fmt::Display for CoreSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let busy = self.busy_permille();
        write!(f, "busy={}.{}% ", busy / 10, busy % 10)?;
        lines::emit(&Self::KEYS, &self.readings(), StatNode::Stat, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    /// What a node of xenstore may hold, with room to spare.
    const LINE: usize = 2048;

    #[test]
    fn the_longest_line_fits_a_node() {
        let counters = RingSnapshot::from_values([u64::MAX; 256]);
        let rings = u64::MAX;
        assert!(DeviceLine { rings, counters }.to_string().len() <= LINE);
        assert!(DelayLine(counters).to_string().len() <= LINE);
        let core = CoreSnapshot::from_values([u64::MAX; 256]);
        assert!(core.to_string().len() <= LINE);
    }

    #[test]
    fn a_sum_starts_from_zero_and_takes_the_highest_peak() {
        assert_eq!(RingSnapshot::sum([]), RingSnapshot::default());
        let ring = |reads: u64, peak| {
            let stats = RingStats::default();
            stats.reads.add(reads);
            stats.in_flight_peak.raise(peak);
            stats.latency.count(5);
            stats.batches.count(reads);
            stats.snapshot()
        };
        let sum = RingSnapshot::sum([ring(3, 9), ring(4, 2)]);
        assert_eq!((sum.reads, sum.in_flight_peak), (7, 9));
        assert_eq!(
            sum.to_string(),
            "oo_req=0 rd_req=7 wr_req=0 f_req=0 ds_req=0 err=0 rd_sect=0 wr_sect=0 peak=9 \
             notify=0 mapped=0 evicted=0 copied=0 lost=0 batch=2:1,4:1 lat_us=4:2 held_ns=0 batched=0 \
             lat_ns=0"
        );
        assert_eq!(
            DelayLine(sum).to_string(),
            "wait_us=- wait_ns=0 dev_us=- dev_ns=0 tok_us=- tok_ns=0"
        );
    }

    #[test]
    fn what_did_not_wait_is_filled_in() {
        let stats = RingStats::default();
        for latency in [1, 2, 4, 8] {
            stats.latency.count(latency);
            stats.latency_ns.add(latency << 10);
        }
        // The last has waited for 6 of 8 units.
        stats.wait.count(6);
        stats.wait_ns.add(6 << 10);
        stats.device.shift(8, 2);
        stats.device_ns.take(6 << 10);
        let raw = stats.snapshot();
        let all = raw.completed();
        assert_eq!(
            (all.wait.to_string(), all.wait_ns),
            ("0:3,4:1".into(), 6 << 10)
        );
        assert_eq!(
            (all.device.to_string(), all.device_ns),
            ("1:1,2:2,4:1".into(), 9 << 10)
        );
        // As the sum of several rings, and in the next life.
        let next = RingStats::resume(&raw).snapshot();
        let (twice, sum) = (
            RingSnapshot::sum([raw, next]).completed(),
            RingSnapshot::sum([all, all]),
        );
        assert_eq!((twice.device, twice.wait), (sum.device, sum.wait));
    }

    #[test]
    fn counters_are_the_same_from_their_numbers() {
        let ring = RingSnapshot::default();
        let number = (1..).take(ring.values().count());
        let ring = RingSnapshot::from_values(number.clone());
        assert!(ring.values().eq(number));
        assert_eq!(RingSnapshot::from_values([1, 2]).values().sum::<u64>(), 3);
        let resumed = RingStats::resume(&ring).snapshot();
        assert_eq!(resumed, ring);
    }

    #[test]
    fn a_core_reports_its_busy_share() {
        assert_eq!(CoreSnapshot::default().busy_permille(), 0);
        let long = CoreSnapshot {
            busy_ns: 3 << 60,
            idle_ns: 1 << 60,
            ..CoreSnapshot::default()
        };
        assert_eq!(long.busy_permille(), 750);
        let stats = CoreStats::default();
        stats.busy_ns.add(1);
        stats.idle_ns.add(2);
        stats.sleeps.add(4);
        let expected = "busy=33.3% polls=0 idle_polls=0 sleeps=4 grant_calls=0 busy_ns=1 idle_ns=2";
        assert_eq!(stats.snapshot().to_string(), expected);
    }
}
