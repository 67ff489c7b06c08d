//! What a disk may have lost with its write cache, and whether a device's guest has been shown it.
//!
//! When a disk is lost and comes back, writes that it answered and had not made durable may be gone.
//! The guest learns of that by a flush that fails. All rings of a device count in one record,
//! which outlives the rings, so that it fails once for a device: also if the ring is another one by
//! then, or connected while the disk was away. If a flush fails while the cores still hear of the loss,
//! another one may fail.
//!
//! Both counts only ever grow. What counts for a flush is what was known when it was taken, so that
//! one that was on its way already when another failed fails as well: whoever sent it may hear of
//! no other.

use crate::sync::{AtomicU32, Ordering};

/// The losses of one device.
#[derive(Debug, Default)]
pub struct Losses {
    /// How often a loss was noted. One loss may be noted several times, before the disk is back.
    noted: AtomicU32,
    /// Those of them that a flush has failed for.
    reported: AtomicU32,
}

/// Losses that the guest could know of at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known(u32);

impl Known {
    pub(crate) const NOTHING: Self = Self(0);
}

impl Losses {
    /// The disk is lost. To be called by all who have a part in it, after the last command that it
    /// has done for them, and before any that it does when it is back.
    pub fn note(&self) {
        // Release: whoever sees it sees what was answered before.
        self.noted.fetch_add(1, Ordering::Release);
    }

    /// Whether there is a loss that no flush has failed for.
    #[must_use]
    pub fn are_owed(&self) -> bool {
        self.noted.load(Ordering::Acquire) != self.reported.load(Ordering::Acquire)
    }

    /// What the guest knows of now.
    pub(crate) fn known(&self) -> Known {
        Known(self.reported.load(Ordering::Acquire))
    }

    /// The disk has carried out a flush whose guest knew this much when it was taken: true if there
    /// is more to know, so that the flush is to fail, by which the guest knows.
    #[must_use]
    pub(crate) fn report(&self, known: Known) -> bool {
        let noted = self.noted.load(Ordering::Acquire);
        if noted == known.0 {
            return false;
        }
        self.reported.fetch_max(noted, Ordering::Release);
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_reported_to_those_that_were_taken_before_and_to_none_after() {
        let losses = Losses::default();
        let [first, second] = [losses.known(); 2];
        assert!(!losses.report(first));
        losses.note();
        losses.note();
        assert!(losses.report(first) && losses.report(second));
        let later = losses.known();
        assert!(!losses.report(later));
        losses.note();
        assert!(losses.report(later));
        assert!(!losses.report(losses.known()));
    }
}
