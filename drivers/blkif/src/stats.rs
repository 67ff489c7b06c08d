//! What a ring and a core have done: written by their core alone, read by the control core at any
//! time, and published as one line of text.

mod counter;

use core::fmt;

pub use counter::{Counter, Counts, Histogram};

/// Places of the histogram of batches: up to 512, the largest ring.
pub const BATCH_PLACES: usize = 11;

/// Places of the histogram of latencies: up to 4 seconds, and what takes longer.
pub const LATENCY_PLACES: usize = 24;

macro_rules! counters {
    (
        $(#[$live_doc:meta])* $live:ident, $(#[$copy_doc:meta])* $copy:ident:
        $($(#[$doc:meta])* $name:ident),* $(,)?;
        $($(#[$histogram_doc:meta])* $histogram:ident: $places:expr),* $(,)?
    ) => {
        $(#[$live_doc])*
        #[derive(Debug, Default)]
        #[repr(align(64))]
        pub struct $live {
            $($(#[$doc])* pub $name: Counter,)*
            $($(#[$histogram_doc])* pub $histogram: Histogram<{ $places }>,)*
        }

        $(#[$copy_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $copy {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$histogram_doc])* pub $histogram: Counts<{ $places }>,)*
        }

        impl $copy {
            /// All of it as numbers, in an order that stays.
            pub fn values(&self) -> impl Iterator<Item = u64> {
                [$(self.$name,)*].into_iter()$(.chain(self.$histogram.0))*
            }

            /// The same from such numbers; what is missing is 0.
            #[must_use]
            pub fn from_values(values: impl IntoIterator<Item = u64>) -> Self {
                let mut values = values.into_iter();
                let mut next = || values.next().unwrap_or(0);
                Self {
                    $($name: next(),)*
                    $($histogram: Counts([0; $places].map(|_: u64| next())),)*
                }
            }
        }

        impl $live {
            /// Reads all counters.
            #[must_use]
            pub fn snapshot(&self) -> $copy {
                $copy {
                    $($name: self.$name.get(),)*
                    $($histogram: self.$histogram.get(),)*
                }
            }

            /// Counters that go on from what they were.
            #[must_use]
            pub fn resume(from: &$copy) -> Self {
                Self {
                    $($name: Counter::from(from.$name),)*
                    $($histogram: Histogram::from(from.$histogram),)*
                }
            }
        }
    };
}

counters! {
    /// What a ring has done since it was attached. Counters never go down. The alignment keeps
    /// the cache lines that its core writes apart from everybody else's.
    RingStats,
    /// A copy of [`RingStats`] at one moment; the counters are read one after the other.
    RingSnapshot:
    /// Times that a request had to wait for room: in the buffer pool, the disk queue or a batch.
    out_of_room,
    /// Read requests accepted.
    reads,
    /// Write requests accepted.
    writes,
    /// Flush and barrier requests accepted.
    flushes,
    /// Discard requests accepted.
    discards,
    /// Requests answered with anything but success.
    errors,
    /// 512-byte sectors asked to be read.
    sectors_read,
    /// 512-byte sectors asked to be written.
    sectors_written,
    /// Most requests that were ever between ring and response at once.
    in_flight_peak,
    /// Notifications sent to the frontend.
    notifications,
    /// Grants mapped into the cache.
    grants_mapped,
    /// Grants unmapped to make room, or because they were not used for long.
    grants_evicted,
    /// Requests whose data went through the buffer pool.
    copied_requests,
    /// Frames of the window lost because an unmap failed.
    frames_lost;
    /// Requests taken per visit, of the visits that found any.
    batches: BATCH_PLACES,
    /// Time from the visit that took a request to the visit that answered it, in units of
    /// 1,024 ns; of the requests that went to the disk.
    latency: LATENCY_PLACES,
}

impl RingSnapshot {
    /// The totals of several rings, reckoned from zero; the peak is the highest of any ring.
    #[must_use]
    pub fn sum(rings: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::default();
        for ring in rings {
            sum.out_of_room += ring.out_of_room;
            sum.reads += ring.reads;
            sum.writes += ring.writes;
            sum.flushes += ring.flushes;
            sum.discards += ring.discards;
            sum.errors += ring.errors;
            sum.sectors_read += ring.sectors_read;
            sum.sectors_written += ring.sectors_written;
            sum.in_flight_peak = sum.in_flight_peak.max(ring.in_flight_peak);
            sum.notifications += ring.notifications;
            sum.grants_mapped += ring.grants_mapped;
            sum.grants_evicted += ring.grants_evicted;
            sum.copied_requests += ring.copied_requests;
            sum.frames_lost += ring.frames_lost;
            sum.batches.add(&ring.batches);
            sum.latency.add(&ring.latency);
        }
        sum
    }
}

/// One line of `name=value`, with the names of Linux's blkback where it counts the same thing.
impl fmt::Display for RingSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "oo_req={} rd_req={} wr_req={} f_req={} ds_req={} rd_sect={} wr_sect={} ",
            self.out_of_room,
            self.reads,
            self.writes,
            self.flushes,
            self.discards,
            self.sectors_read,
            self.sectors_written
        )?;
        write!(
            f,
            "err={} peak={} notify={} mapped={} evicted={} lost={} copied={} ",
            self.errors,
            self.in_flight_peak,
            self.notifications,
            self.grants_mapped,
            self.grants_evicted,
            self.frames_lost,
            self.copied_requests
        )?;
        write!(f, "batch={} lat_us={}", self.batches, self.latency)
    }
}

counters! {
    /// How a core has spent its time. Counters never go down; aligned as [`RingStats`].
    CoreStats,
    /// A copy of [`CoreStats`] at one moment; the counters are read one after the other.
    CoreSnapshot:
    /// Visits that found work.
    polls_busy,
    /// Visits that found none.
    polls_idle,
    /// Times that the core slept.
    sleeps,
    /// Grant hypercalls: maps, unmaps and copies, each of a batch.
    grant_calls,
    /// Nanoseconds in visits that found work.
    busy_ns,
    /// Nanoseconds in visits that found none, and asleep.
    idle_ns;
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

/// One line of `name=value`.
impl fmt::Display for CoreSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "busy={}.{}% polls={} idle_polls={} sleeps={} grant_calls={} busy_ns={} idle_ns={}",
            self.busy_permille() / 10,
            self.busy_permille() % 10,
            self.polls_busy,
            self.polls_idle,
            self.sleeps,
            self.grant_calls,
            self.busy_ns,
            self.idle_ns
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    /// What a node of xenstore may hold, with room to spare.
    const LINE: usize = 2048;

    fn largest() -> RingSnapshot {
        let n = u64::MAX;
        RingSnapshot {
            out_of_room: n,
            reads: n,
            writes: n,
            flushes: n,
            discards: n,
            errors: n,
            sectors_read: n,
            sectors_written: n,
            in_flight_peak: n,
            notifications: n,
            grants_mapped: n,
            grants_evicted: n,
            copied_requests: n,
            frames_lost: n,
            batches: Counts([n; BATCH_PLACES]),
            latency: Counts([n; LATENCY_PLACES]),
        }
    }

    #[test]
    fn the_longest_line_fits_a_node() {
        assert!(largest().to_string().len() <= LINE);
        let n = u64::MAX;
        let core = CoreSnapshot {
            polls_busy: n,
            polls_idle: n,
            sleeps: n,
            grant_calls: n,
            busy_ns: n,
            idle_ns: n,
        };
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
        assert_eq!(sum.latency.to_string(), "4:2");
        assert_eq!(
            sum.to_string(),
            "oo_req=0 rd_req=7 wr_req=0 f_req=0 ds_req=0 rd_sect=0 wr_sect=0 err=0 peak=9 \
             notify=0 mapped=0 evicted=0 lost=0 copied=0 batch=2:1,4:1 lat_us=4:2"
        );
    }

    #[test]
    fn counters_are_the_same_from_their_numbers() {
        let ring = largest();
        let number = (1..).take(ring.values().count());
        let ring = RingSnapshot::from_values(number.clone());
        assert!(ring.values().eq(number));
        assert_eq!(RingSnapshot::from_values([1, 2]).values().sum::<u64>(), 3);
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
