//! The end of a life on purpose: before another image of the kernel follows, the cores finish what they have
//! taken, so that the next life has nothing to do again, and controllers are left enabled for it. What
//! is not done in time is dealt with as after a death: neither guests nor disks hold an update up.

use alloc::vec::Vec;

use spindle_xen::xenbus::ShutdownKind;

/// How long the cores get to finish what they have taken. Guests wait for that, too.
const DRAIN_NS: u64 = 150_000_000;
/// How long all controllers together get to end their work after that.
pub(crate) const STAND_BY_NS: u64 = 50_000_000;

/// Why control's loop has ended.
#[derive(Debug)]
pub enum LifeEnd {
    /// The toolstack has asked for a shutdown, and the devices are closed, or their time is up.
    Shutdown(ShutdownKind),
    /// Another image of the kernel is to follow at once. The cores take nothing any more.
    Update(HandOver),
}

/// What a life that ends on purpose leaves, besides what a death leaves.
#[derive(Debug)]
pub struct HandOver {
    /// For how long nothing has been taken from the rings, in ns.
    pub drained_ns: u64,
    /// What the next life must know of the controllers that stay enabled, in words of their drivers'.
    pub standing: Vec<u64>,
}

/// The cores are to be drained.
#[derive(Debug)]
pub(crate) struct Departure {
    /// Since when.
    since: u64,
    /// Cores that have not said that they are.
    left: usize,
}

impl Departure {
    /// So many cores were ordered to be drained now.
    pub(crate) const fn new(cores: usize, now: u64) -> Self {
        Self {
            since: now,
            left: cores,
        }
    }

    /// One of them is.
    pub(crate) const fn drained(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// How many are not.
    pub(crate) const fn left(&self) -> usize {
        self.left
    }

    /// Whether none is waited for any longer.
    pub(crate) const fn is_over(&self, now: u64) -> bool {
        self.left == 0 || self.drained_ns(now) >= DRAIN_NS
    }

    /// For how long it has been so.
    pub(crate) const fn drained_ns(&self, now: u64) -> u64 {
        now.saturating_sub(self.since)
    }
}
