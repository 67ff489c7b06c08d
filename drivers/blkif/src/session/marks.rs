//! Giving up pages of the cache that no request under way uses: to make room for others, or since they
//! have not been used for long.
//!
//! No request counts the pages that it uses of those that are kept. What they all use is gathered here
//! instead, when pages are to be given up, which is seldom: from the requests' slots, which the disk's
//! addresses came from, so that there is nothing that could be counted wrong.

use spindle_xen::grant::GrantOps;

use super::Session;
use crate::cache::GrantCache;

impl Session {
    /// Marks the pages of the cache that requests under way use.
    fn mark_pages(&mut self) {
        let Some(cache) = &mut self.cache else {
            return;
        };
        for slot in &self.slots {
            let pieces = slot.mapped(&self.arena).iter();
            pieces.for_each(|piece| cache.mark(piece.bus()));
        }
    }

    /// Gives up pages that have not been used for long, if the cache is full and it is time to; true if
    /// there is room then.
    pub(super) fn make_room(&mut self, grants: &impl GrantOps) -> bool {
        let keeps = self.persistent;
        let full = |cache: &mut GrantCache| keeps && cache.is_full() && cache.may_evict();
        if !self.cache.as_mut().is_some_and(full) {
            return false;
        }
        self.mark_pages();
        let evicted = self.cache.as_mut().map(|cache| cache.evict(grants));
        let (unmapped, lost) = evicted.unwrap_or_default();
        self.note_given_up(unmapped, lost);
        unmapped > 0
    }

    /// Unmaps grants that have not been used for long.
    pub(crate) fn trim(&mut self, grants: &impl GrantOps, now_ns: u64) {
        if self.trim_at().is_none_or(|at| now_ns < at) {
            return;
        }
        self.mark_pages();
        if let Some(cache) = &mut self.cache {
            let (unmapped, lost) = cache.trim(grants, now_ns);
            self.note_given_up(unmapped, lost);
        }
    }

    /// When [`Session::trim`] has something to do again, if it keeps any grants mapped.
    pub(crate) fn trim_at(&self) -> Option<u64> {
        let kept = self.cache.as_ref().filter(|_| self.persistent);
        kept.and_then(GrantCache::look_at)
    }

    fn note_given_up(&self, unmapped: usize, lost: usize) {
        self.stats.grants_evicted.add(unmapped as u64);
        self.stats.frames_lost.add(lost as u64);
    }
}
