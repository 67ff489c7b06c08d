//! Grant operations that count themselves, so that a core's counters tell what its data path
//! costs in hypercalls.

use alloc::sync::Arc;

use spindle_xen::Errno;
use spindle_xen::grant::{CopyOp, GrantOps, MapOp, UnmapOp};

use crate::stats::CoreStats;

/// `grants`, counted in a core's [`CoreStats::grant_calls`]. For that core only: counters have
/// one writer.
#[derive(Debug)]
pub struct Counted<G> {
    grants: G,
    stats: Arc<CoreStats>,
}

impl<G> Counted<G> {
    /// Counts the calls to `grants` in `stats`.
    pub const fn new(grants: G, stats: Arc<CoreStats>) -> Self {
        Self { grants, stats }
    }
}

impl<G: GrantOps> GrantOps for Counted<G> {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        self.stats.grant_calls.add(1);
        self.grants.map(ops)
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        self.stats.grant_calls.add(1);
        self.grants.unmap(ops)
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        self.stats.grant_calls.add(1);
        self.grants.copy(ops)
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        self.grants.read(at, words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes whatever it is asked.
    struct Willing;

    impl GrantOps for Willing {
        fn map(&self, _: &mut [MapOp]) -> Result<(), Errno> {
            Ok(())
        }

        fn unmap(&self, _: &mut [UnmapOp]) -> Result<(), Errno> {
            Err(Errno::EINVAL)
        }

        fn copy(&self, _: &mut [CopyOp]) -> Result<(), Errno> {
            Ok(())
        }

        fn read(&self, _: u64, _: &mut [u64]) -> bool {
            true
        }
    }

    #[test]
    fn calls_are_counted_and_their_outcome_is_handed_on() {
        let stats = Arc::new(CoreStats::default());
        let grants = Counted::new(Willing, Arc::clone(&stats));
        assert_eq!(grants.map(&mut []), Ok(()));
        assert_eq!(grants.copy(&mut []), Ok(()));
        assert_eq!(grants.unmap(&mut []), Err(Errno::EINVAL));
        assert!(grants.read(0, &mut []));
        assert_eq!(stats.snapshot().grant_calls, 3);
    }
}
