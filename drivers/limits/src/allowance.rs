//! What one ring may use without asking again, of its device's limits and its group's.
//!
//! The ring is bounded by pages, which costs it next to nothing: every request is taken for as many
//! requests, and as many pages, as it has pages. Once those are used up its counters say what it has
//! really used. Too much of that, since the last request may be larger than what was left, is drawn
//! along with the next lease, which is the later for it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::meter::{Meter, Meters, Usage};

/// What is left of the last lease from one bucket.
#[derive(Debug)]
struct Lease {
    meters: Arc<Meters>,
    at: usize,
    /// In requests or sectors; negative if more was used.
    left: i64,
}

impl Lease {
    fn meter(&self) -> Option<&Meter> {
        self.meters.all().get(self.at)
    }
}

/// One ring's allowance.
#[derive(Debug)]
pub struct Allowance {
    leases: Box<[Lease]>,
    /// The ring's counters when they were looked at last.
    counted: Usage,
    /// Pages that it may use yet, from this time on.
    pages: u32,
    from_ns: u64,
    /// Since when the ring has been held back, if it is.
    held_ns: Option<u64>,
}

impl Allowance {
    /// For a ring that has counted so much, with the limits of all these.
    #[must_use]
    pub fn new(of: impl IntoIterator<Item = Arc<Meters>>, counted: Usage) -> Self {
        let mut leases = Vec::new();
        for meters in of {
            for at in 0..meters.all().len() {
                let meters = Arc::clone(&meters);
                leases.push(Lease {
                    meters,
                    at,
                    left: 0,
                });
            }
        }
        Self {
            leases: leases.into(),
            counted,
            pages: 0,
            from_ns: 0,
            held_ns: None,
        }
    }

    /// The ring has counted so much so far.
    pub fn begin(&mut self, counted: Usage) {
        self.counted = counted;
    }

    /// When the ring may go on, if it is held back: not before.
    #[inline]
    #[must_use]
    pub fn from_ns(&self) -> u64 {
        self.from_ns
    }

    /// Since when the ring has been held back, if it is; forgets it.
    pub fn take_held(&mut self) -> Option<u64> {
        self.held_ns.take()
    }

    /// How many pages the ring may use now. It has requests; `usage` reads its counters.
    #[inline]
    pub fn pages(&mut self, now_ns: u64, usage: impl FnOnce() -> Usage) -> u32 {
        if self.pages == 0 {
            self.settle(now_ns, usage());
        }
        if now_ns < self.from_ns {
            self.held_ns.get_or_insert(now_ns);
            return 0;
        }
        self.pages
    }

    /// How many are left of those of which [`Allowance::pages`] has said that they may be used.
    #[inline]
    #[must_use]
    pub fn left(&self) -> u32 {
        self.pages
    }

    /// So many have been used: says how many are left.
    #[inline]
    pub fn take(&mut self, pages: u32) -> u32 {
        self.pages = self.pages.saturating_sub(pages);
        self.pages
    }

    /// Accounts for what was used, and draws from each bucket of which nothing is left.
    #[inline(never)]
    fn settle(&mut self, now_ns: u64, usage: Usage) {
        let used = usage.since(self.counted);
        self.counted = usage;
        (self.pages, self.from_ns) = (u32::MAX, 0);
        for lease in &mut self.leases {
            let mut left = lease.left;
            let Some(meter) = lease.meter() else {
                continue;
            };
            left = left.saturating_sub(meter.count(used));
            if left <= 0 {
                let from = meter.draw(now_ns, left.unsigned_abs());
                self.from_ns = self.from_ns.max(from);
                left = meter.lease.into();
            }
            self.pages = self.pages.min(meter.pages(left));
            lease.left = left;
        }
    }
}
