//! What the limits of a ring's device and group let it take, and by which weights it shares its disk.
//!
//! A ring with limits is one that does not simply take what comes (`stopped`), so that one without
//! limits pays nothing for them. What a ring must not take yet stays in it, and is not looked at before
//! the time at which it may be taken; a core with nothing else to do sleeps until then.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spindle_block::DiskQueue;
use spindle_limits::{Allowance, Meters, Usage};
use spindle_xen::DomId;
use spindle_xen::grant::GrantOps;

use super::{LATENCY_SHIFT, Session, Sink};
use crate::stats::RingStats;

/// Who shares the disks of a core: a group of devices, or what a guest has that is in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tenant {
    Guest(DomId),
    Group(u32),
}

/// The share that a ring is to have.
#[derive(Debug)]
pub struct RingShare {
    weight: u8,
    group: Option<u32>,
    tenant_weight: u8,
    allowance: Option<Box<Allowance>>,
}

impl RingShare {
    /// The share of a ring whose device has this `weight`, at least 1, and, if it is in a `group`, of
    /// that one's number and weight. `meters` are those of the device and its group.
    #[must_use]
    pub fn new(weight: u8, group: Option<(u32, u8)>, meters: Vec<Arc<Meters>>) -> Self {
        let is_limited = meters.iter().any(|meters| !meters.is_empty());
        let allowance = is_limited.then(|| Box::new(Allowance::new(meters, Usage::default())));
        Self {
            weight,
            group: group.map(|(group, _)| group),
            tenant_weight: group.map_or(weight, |(_, weight)| weight),
            allowance,
        }
    }
}

impl Session {
    /// Gives it another share, from its next request on. Of one that a core has, see
    /// [`crate::RingCore::share`].
    pub fn set_share(&mut self, share: RingShare) {
        self.note_held();
        self.set_weight(share.weight);
        self.group = share.group;
        self.tenant_weight = share.tenant_weight;
        (self.allowance, self.from_ns) = (share.allowance, 0);
        self.leased = false;
        self.seen = self.allowance.is_some().then(Box::default);
        if let Some(allowance) = &mut self.allowance {
            allowance.begin(usage(&self.stats));
        }
        self.judge_stopped();
    }

    /// Who it shares its disk for.
    pub(crate) fn tenant(&self) -> Tenant {
        self.group.map_or(Tenant::Guest(self.domain), Tenant::Group)
    }

    /// Its tenant has this place on the core.
    pub(crate) fn enter_tenant(&mut self, tenant: u16) {
        self.tenant = tenant;
    }

    /// Its tenant's place on the core.
    pub(crate) fn tenant_place(&self) -> u16 {
        self.tenant
    }

    /// Whether it takes no more than its limits let it.
    pub(crate) fn is_limited(&self) -> bool {
        self.limited
    }

    /// Until when its limits keep it from taking what is in the ring, if they do.
    pub(crate) fn held_until(&self, now_ns: u64) -> Option<u64> {
        let held = self.limited && now_ns < self.from_ns && self.ring.has_new();
        held.then_some(self.from_ns)
    }

    /// Whether there is a request that would be taken, of a ring that does not simply take what comes.
    #[inline(always)]
    pub(super) fn may_take(&self, now_ns: u64) -> bool {
        if self.limited {
            now_ns >= self.from_ns && self.ring.has_new()
        } else {
            self.is_due()
        }
    }

    /// [`Session::intake`] of a ring that does not simply take what comes.
    #[inline(never)]
    pub(super) fn intake_within<Q: DiskQueue, G: GrantOps>(
        &mut self,
        ring: u16,
        budget: u32,
        sink: Option<Sink<'_, Q>>,
        grants: &G,
    ) -> u32 {
        if !self.limited {
            self.note_held();
            return self.take_again(budget);
        }
        let start = self.ring.consumed();
        let most = match &self.allowance {
            Some(allowance) if self.leased => allowance.left(),
            _ => self.draw(start),
        };
        if most == 0 {
            return 0;
        }
        self.more_pages = 0;
        let budget = budget.min(most);
        let taken = self.intake_new::<Q, G, true>(ring, budget, most, sink, grants);
        let left = self.use_up(taken);
        if self.leased {
            self.leased = left > 0;
        } else {
            self.count_tokens(start, left);
        }
        taken
    }

    /// So many requests were taken: takes them and their pages from its allowance, and says what is left.
    #[inline]
    pub(super) fn use_up(&mut self, taken: u32) -> u32 {
        let used = taken.saturating_add(self.more_pages);
        let allowance = self.allowance.as_mut();
        allowance.map_or(0, |allowance| allowance.take(used))
    }

    /// Looks at what the ring has from request number `start` on, and how many pages it may use: 0 if its
    /// limits hold it back.
    #[inline(never)]
    fn draw(&mut self, start: u32) -> u32 {
        let Some(allowance) = &mut self.allowance else {
            return 0;
        };
        let stats = &self.stats;
        let most = allowance.pages(self.now_ns, || usage(stats));
        self.from_ns = allowance.from_ns();
        if let Some(seen) = &mut self.seen
            && let Ok(waiting) = self.ring.pending()
        {
            seen.look(start, start.wrapping_add(waiting), self.now_ns);
        }
        match most {
            0 => self.note_held_back(),
            _ => self.note_held(),
        }
        most
    }

    /// Counts for how long those of the requests from number `start` on that were just taken have waited
    /// for tokens which did. If none waits now, and there are pages `left`, what comes next need not be
    /// looked at, since it does not wait.
    #[inline(never)]
    fn count_tokens(&mut self, start: u32, left: u32) {
        let (stats, end) = (&self.stats, self.ring.consumed());
        if let Some(seen) = &mut self.seen {
            seen.take(start, end, self.now_ns, |wait, count| {
                if wait >> LATENCY_SHIFT > 0 {
                    let count = u64::from(count);
                    stats.tokens.count_many(wait >> LATENCY_SHIFT, count);
                    stats.tokens_ns.add(wait * count);
                }
            });
            self.leased = left > 0 && seen.is_empty();
        }
    }

    /// It is not held back any longer, if it was.
    #[inline]
    fn note_held(&mut self) {
        let held = self.allowance.as_mut();
        if let Some(since) = held.and_then(|allowance| allowance.take_held()) {
            let now_ns = self.now_ns;
            self.stats.held_ns.add(now_ns.saturating_sub(since));
        }
    }
}

/// What the limits count of what a ring has done.
fn usage(stats: &RingStats) -> Usage {
    Usage {
        reads: stats.reads.get(),
        writes: stats.writes.get(),
        others: stats.flushes.get().wrapping_add(stats.discards.get()),
        sectors_read: stats.sectors_read.get(),
        sectors_written: stats.sectors_written.get(),
    }
}
