//! Token buckets that several cores draw from: one for each rate of a device or group.
//!
//! A bucket is one word, the time up to which what was drawn lasts (the generic cell rate algorithm,
//! ITU-T I.371). A draw moves it on by what the drawn is worth and gives the time from which that may
//! be used, which may lie ahead: rings that want more than there is thus get their turns in the order
//! in which they asked, whatever core they are on, without waiting for each other.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{IoLimits, RateKind};

/// A draw is worth so long, unless a single request or page is worth more. A core that serves a ring
/// which is held back wakes for it no more often.
pub const SLICE_NS: u64 = 500_000;

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Sectors of a page.
const PAGE_SECTORS: u32 = 8;
/// Times are counted in sixteenths of a nanosecond, so that at 100 million requests in a second the
/// rounding is less than a hundredth. 64 bits hold 36 years of them.
const SHIFT: u32 = 4;
const SECOND: u64 = 1_000_000_000 << SHIFT;

/// What a ring has done since some time, as its counters have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
    /// Flushes and discards.
    pub others: u64,
    /// 512-byte sectors read.
    pub sectors_read: u64,
    /// 512-byte sectors written.
    pub sectors_written: u64,
}

impl Usage {
    /// What has come to it since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            reads: self.reads.wrapping_sub(before.reads),
            writes: self.writes.wrapping_sub(before.writes),
            others: self.others.wrapping_sub(before.others),
            sectors_read: self.sectors_read.wrapping_sub(before.sectors_read),
            sectors_written: self.sectors_written.wrapping_sub(before.sectors_written),
        }
    }

    /// What a rate of this kind counts of it, in requests or sectors.
    fn of(self, kind: RateKind) -> u64 {
        match kind {
            RateKind::Requests => self.reads + self.writes + self.others,
            RateKind::Reads => self.reads,
            RateKind::Writes => self.writes,
            RateKind::Bytes => self.sectors_read + self.sectors_written,
            RateKind::BytesRead => self.sectors_read,
            RateKind::BytesWritten => self.sectors_written,
        }
    }
}

/// The token bucket of one rate. It counts in requests or sectors.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Meter {
    kind: RateKind,
    /// Up to when what was drawn lasts.
    drawn: AtomicU64,
    /// Requests or bytes in a second.
    rate: u64,
    /// What one of them is worth, times the rate.
    each: u64,
    /// How far back what was not drawn is kept.
    burst: u64,
    /// How many a draw is.
    pub(crate) lease: u32,
}

impl Meter {
    fn new(kind: RateKind, rate: u64, burst_ms: u32, now_ns: u64) -> Self {
        let (each, unit, least) = match kind.is_of_bytes() {
            true => (SECTOR * SECOND, SECTOR, PAGE_SECTORS),
            false => (SECOND, 1, 1),
        };
        let slice = rate / unit / (1_000_000_000 / SLICE_NS);
        Self {
            kind,
            drawn: AtomicU64::new(now_ns << SHIFT),
            rate: rate.max(1),
            each,
            burst: u64::from(burst_ms) * (1_000_000 << SHIFT),
            lease: u32::try_from(slice).unwrap_or(u32::MAX).max(least),
        }
    }

    /// What so many are worth.
    fn worth(&self, count: u64) -> u64 {
        count.saturating_mul(self.each) / self.rate
    }

    /// What it counts of what a ring has done.
    pub(crate) fn count(&self, used: Usage) -> i64 {
        i64::try_from(used.of(self.kind)).unwrap_or(i64::MAX)
    }

    /// So many are enough for requests of how many pages, the last one begun.
    pub(crate) fn pages(&self, count: i64) -> u32 {
        let count = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
        match self.kind.is_of_bytes() {
            true => count.div_ceil(PAGE_SECTORS),
            false => count,
        }
    }

    /// Draws a lease, after `owed` that was used without having been drawn: gives the time from which
    /// the lease may be used.
    pub(crate) fn draw(&self, now_ns: u64, owed: u64) -> u64 {
        let (lease, owed) = (self.worth(self.lease.into()), self.worth(owed));
        // What was not drawn for as long as the burst, the lease included, may be made up for.
        let back = self.burst.saturating_sub(lease);
        let earliest = (now_ns << SHIFT).saturating_sub(back);
        let mut drawn = self.drawn.load(Relaxed);
        loop {
            let from = drawn.max(earliest).saturating_add(owed);
            let until = from.saturating_add(lease);
            // Nothing else is published by it.
            match self
                .drawn
                .compare_exchange_weak(drawn, until, Relaxed, Relaxed)
            {
                Ok(_) => return from.div_ceil(1 << SHIFT),
                Err(now) => drawn = now,
            }
        }
    }
}

/// The token buckets of a device or a group.
#[derive(Debug)]
pub struct Meters(Box<[Meter]>);

impl Meters {
    /// Buckets for the rates of `limits`, with nothing in them at `now_ns`.
    #[must_use]
    pub fn new(limits: &IoLimits, now_ns: u64) -> Self {
        let burst = limits.burst_ms();
        let rates = limits.limited();
        let meters = rates.map(|(kind, rate)| Meter::new(kind, rate, burst, now_ns));
        Self(meters.collect())
    }

    /// Whether there is no limit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn all(&self) -> &[Meter] {
        &self.0
    }
}
