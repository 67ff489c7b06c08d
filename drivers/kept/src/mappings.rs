//! Which grants are mapped where, kept so that the next life can unmap what a death has left.
//!
//! Xen keeps a domain's mappings as long as it lives, and undoes one only for who knows its handle
//! *and* its address. So the address is noted by handle once Xen has given that, and forgotten once
//! Xen has undone the mapping. A map call that a death cuts short leaves handles unknown: the
//! addresses of a call under way are noted before it, a page for each vCPU, and the handles that may
//! be theirs are tried.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use spindle_hw::{PAGE_SIZE, SharedPages};

use crate::layout::{CALLERS, CALLS, EVENT_BYTES, HANDLES, MAPPED};

/// Grants that can be mapped in one call.
pub const MOST_IN_CALL: usize = (PAGE_SIZE - EVENT_BYTES) / size_of::<u64>() - 1;
/// Handles beyond the highest known one that a cut call may have been given, also one of a version that
/// had the whole page for it.
const SLACK: usize = 2 * (PAGE_SIZE / size_of::<u64>() - 1);

/// The table of mappings.
#[derive(Clone, Copy, Debug)]
pub struct Mappings {
    pages: &'static SharedPages,
}

impl Mappings {
    /// The table in `pages`, whose life has begun ([`begin`](crate::layout::begin)).
    #[must_use]
    pub const fn new(pages: &'static SharedPages) -> Self {
        Self { pages }
    }

    /// Grants are going to be mapped at `addresses`, of which there are at most [`MOST_IN_CALL`], by
    /// vCPU `caller`. False if there is no place to note that.
    #[must_use]
    pub fn begin(&self, caller: usize, addresses: impl Iterator<Item = u64>) -> bool {
        if caller >= CALLERS {
            return false;
        }
        let page = CALLS + caller * PAGE_SIZE;
        let mut count = 0;
        for address in addresses.take(MOST_IN_CALL) {
            count += 1;
            let at = page + count * size_of::<u64>();
            self.pages.u64_at(at).store(address, Relaxed);
        }
        self.pages.u64_at(page).store(count as u64, Release);
        true
    }

    /// The call of `caller` has ended, and what it has mapped is noted.
    pub fn end(&self, caller: usize) {
        if caller < CALLERS {
            let page = CALLS + caller * PAGE_SIZE;
            self.pages.u64_at(page).store(0, Release);
        }
    }

    /// `handle` is mapped at `address`, which is not 0. False if there is no place to note that.
    #[must_use]
    pub fn note(&self, handle: u32, address: u64) -> bool {
        let known = (handle as usize) < HANDLES;
        if known {
            self.word(handle).store(address, Release);
        }
        known
    }

    /// `handle` is no longer mapped at `address`. Another vCPU may have been given the same handle
    /// since: that stays noted.
    pub fn forget(&self, handle: u32, address: u64) {
        if (handle as usize) < HANDLES {
            let word = self.word(handle);
            let _ = word.compare_exchange(address, 0, AcqRel, Relaxed);
        }
    }

    /// What is mapped: handle and address.
    pub fn mapped(&self) -> impl Iterator<Item = (u32, u64)> {
        let all = (0..HANDLES as u32).map(|handle| (handle, self.word(handle).load(Acquire)));
        all.filter(|(_, address)| *address != 0)
    }

    /// Addresses at which something may be mapped by a handle that is not known, in order.
    #[must_use]
    pub fn under_way(&self) -> Vec<u64> {
        let mut addresses = Vec::new();
        for caller in 0..CALLERS {
            let page = CALLS + caller * PAGE_SIZE;
            let count = self.pages.u64_at(page).load(Acquire);
            let count = usize::try_from(count).unwrap_or(0).min(MOST_IN_CALL);
            for n in 1..=count {
                let word = self.pages.u64_at(page + n * size_of::<u64>());
                let address = word.load(Relaxed);
                if let Err(place) = addresses.binary_search(&address) {
                    addresses.insert(place, address);
                }
            }
        }
        // Without what the call had noted already.
        for (_, address) in self.mapped() {
            if let Ok(place) = addresses.binary_search(&address) {
                addresses.remove(place);
            }
        }
        addresses
    }

    /// Handles that may be in use though they are not known.
    #[must_use]
    pub fn unknown(&self) -> Vec<u32> {
        let highest = self
            .mapped()
            .last()
            .map_or(0, |(handle, _)| handle as usize);
        let most = highest.saturating_add(SLACK).min(HANDLES) as u32;
        let free = |handle: &u32| self.word(*handle).load(Acquire) == 0;
        (0..most).filter(free).collect()
    }

    /// Nothing of the calls that a death cut short is mapped any longer, or will ever be found.
    pub fn clear_calls(&self) {
        (0..CALLERS).for_each(|caller| self.end(caller));
    }

    fn word(&self, handle: u32) -> &core::sync::atomic::AtomicU64 {
        let at = MAPPED + handle as usize * size_of::<u64>();
        self.pages.u64_at(at)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::layout::FIXED_PAGES;

    fn table() -> Mappings {
        Mappings::new(Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0))))
    }

    #[test]
    fn a_handle_that_went_to_another_vcpu_meanwhile_stays_noted() {
        let table = table();
        assert!(table.note(3, 0x1000) && table.note(9, 0x2000));
        // vCPU 1 has had 3 unmapped, and vCPU 2 is given it before 1 says so.
        assert!(table.note(3, 0x5000));
        table.forget(3, 0x1000);
        table.forget(9, 0x2000);
        assert_eq!(table.mapped().collect::<Vec<_>>(), [(3, 0x5000)]);
        assert!(!table.note(HANDLES as u32, 0x1000));
        table.forget(HANDLES as u32, 0x1000);
    }

    #[test]
    fn of_a_call_that_was_cut_short_the_rest_is_looked_for() {
        let table = table();
        assert!(table.note(0, 0x9000));
        assert!(table.begin(1, [0x1000, 0x2000].into_iter()));
        assert!(table.begin(CALLERS - 1, [0x3000].into_iter()));
        assert!(!table.begin(CALLERS, [0x4000].into_iter()));
        // The first of them was noted before the death.
        assert!(table.note(2, 0x1000));
        assert_eq!(table.under_way(), [0x2000, 0x3000]);
        let unknown = table.unknown();
        assert!(unknown.contains(&1) && unknown.contains(&3) && !unknown.contains(&2));
        table.end(1);
        assert_eq!(table.under_way(), [0x3000]);
        // One that cannot be noted has nothing to take back.
        table.end(CALLERS);
        assert_eq!(table.mapped().next(), Some((0, 0x9000)));
        table.clear_calls();
        table.forget(0, 0x9000);
        table.forget(2, 0x1000);
        assert!(table.under_way().is_empty() && table.mapped().next().is_none());
    }

    #[test]
    fn nothing_behind_the_table_is_taken_for_a_handle() {
        let table = table();
        let behind = table.word(HANDLES as u32);
        behind.store(0x1000, Release);
        table.forget(HANDLES as u32, 0x1000);
        assert!(!table.note(HANDLES as u32, 0x2000));
        assert_eq!(behind.load(Acquire), 0x1000);
        assert_eq!(table.mapped().next(), None);
    }

    #[test]
    fn the_calls_of_every_caller_are_cleared_and_no_mapping_is() {
        let table = table();
        let last = HANDLES as u32 - 1;
        for handle in [0, last] {
            assert!(table.note(handle, 0x1000 + u64::from(handle)));
        }
        for caller in 0..CALLERS {
            assert!(table.begin(caller, [0x9000_0000].into_iter()));
        }
        table.clear_calls();
        assert_eq!(table.under_way(), []);
        assert_eq!(table.mapped().count(), 2);
    }
}
