//! Buffer pages for grant copy: one pool per core, shared by its rings.
//!
//! No request needs more than one page at a time, since a copied request goes through the buffers
//! in as many chunks as it takes. A ring may hold an equal part of the pool, and together rings
//! leave a quarter of it to those that come new; one that holds none waits for nobody who does.
//!
//! A page goes to another guest with nothing of the last one's left in it: whoever copies out what
//! a disk should have written, and did not, finds zeroes. Pages are cleaned when they change
//! guests, not each time.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_xen::DomId;

use crate::abi::{MAX_INDIRECT_SEGMENTS, MAX_SEGMENTS};
use crate::turnstile::Turnstile;

/// Pages of a core's pool, at most: what is more is of little use.
const MOST: usize = 1024;

/// Free pages that are looked at for one that the same guest had.
const NEAR: usize = 8;

/// Pages for the pool of each of `cores` cores, of `free` that there are. A sixteenth is shared
/// out; a quarter where that makes pools large enough for the largest request. A pool that any
/// frontend could use at all has [`MAX_SEGMENTS`], whatever there is.
#[must_use]
pub fn share(free: usize, cores: usize) -> usize {
    let each = free / cores.max(1);
    (each / 16)
        .max((each / 4).min(MAX_INDIRECT_SEGMENTS))
        .clamp(MAX_SEGMENTS, MOST)
}

/// The pool could not hold one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a buffer pool of {pages} pages: must be {least} to 65535")]
pub struct BadPoolSize {
    /// What there is.
    pub pages: usize,
    /// What the largest request needs.
    pub least: usize,
}

/// What a page is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The disk is to fill it, and what is in it then goes to the guest.
    FromDisk,
    /// It is filled from the guest's memory, in part or in whole.
    FromGuest,
}

/// Whose bytes are in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    /// Only this guest's, or none.
    Of(DomId),
    /// Several guests', or one's that has gone.
    Mixed,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    contents: Contents,
    /// The ring that holds it, or held it last.
    ring: u16,
}

/// Pages that the disk and grant copies reach.
#[derive(Debug)]
pub struct BufferPool {
    pages: SharedPages,
    free: Vec<u16>,
    state: Box<[Page]>,
    /// Pages that each ring holds.
    held: Box<[u16]>,
    /// Rings that hold any.
    holders: usize,
    /// Rings on the core.
    rings: usize,
    /// Rings that hold no page and got none.
    waiting: Turnstile,
    /// Pages that are never to be used again.
    lost: usize,
}

impl BufferPool {
    /// A pool over `pages`, for at most `rings` rings, of at least `least` pages.
    ///
    /// # Errors
    /// If there are fewer, or pages could not be numbered.
    pub fn new(pages: SharedPages, rings: usize, least: usize) -> Result<Self, BadPoolSize> {
        let count = pages.len() / PAGE_SIZE;
        let page = Page {
            // As the memory came: it may have been anything before.
            contents: Contents::Mixed,
            ring: 0,
        };
        match u16::try_from(count) {
            Ok(all) if count >= least => Ok(Self {
                pages,
                free: (0..all).rev().collect(),
                state: vec![page; count].into(),
                held: vec![0; rings].into(),
                holders: 0,
                rings: 0,
                waiting: Turnstile::new(rings),
                lost: 0,
            }),
            _ => Err(BadPoolSize {
                pages: count,
                least,
            }),
        }
    }

    /// Another ring is on the core.
    pub fn join(&mut self) {
        self.rings += 1;
    }

    /// A ring of `guest` has left. It holds no page; what is in those it held is not to be shown
    /// to another guest that gets the same number.
    pub fn leave(&mut self, ring: u16, guest: DomId) {
        self.withdraw(ring);
        self.rings = self.rings.saturating_sub(1);
        for page in &mut self.state {
            if page.contents == Contents::Of(guest) {
                page.contents = Contents::Mixed;
            }
        }
    }

    /// How many of `wanted` pages, at least 1, a ring may take now. If none and it holds none, it
    /// waits, and no other ring without a page gets one before.
    #[inline]
    pub fn claim(&mut self, ring: u16, wanted: usize) -> usize {
        let held = self.held.get(usize::from(ring)).copied().unwrap_or(0);
        if held == 0 {
            if !self.waiting.admits(ring) {
                return 0;
            }
            if self.free.is_empty() {
                self.waiting.join(ring);
                return 0;
            }
            self.waiting.leave(ring);
        }
        let most = self.limit(held == 0).saturating_sub(held.into());
        wanted.min(most).min(self.free.len())
    }

    /// Pages that a ring may hold, one that holds none yet or another.
    fn limit(&self, newcomer: bool) -> usize {
        let all = self.state.len() - self.lost;
        let shared = if self.rings > 1 { all - all / 4 } else { all };
        (shared / (self.holders + usize::from(newcomer)).max(1)).max(1)
    }

    /// Forgets that `ring` waits.
    pub fn withdraw(&mut self, ring: u16) {
        self.waiting.leave(ring);
    }

    /// The bus address of a page for a request of `guest`, after a successful
    /// [`BufferPool::claim`].
    #[inline]
    pub fn take(&mut self, ring: u16, guest: DomId, purpose: Purpose) -> Option<u64> {
        let number = self.pick(guest, purpose)?;
        let page = self.state.get_mut(usize::from(number))?;
        page.ring = ring;
        let start = usize::from(number) * PAGE_SIZE;
        if page.contents != Contents::Of(guest) {
            page.contents = match purpose {
                Purpose::FromDisk => {
                    self.pages.zero(start, PAGE_SIZE);
                    Contents::Of(guest)
                }
                Purpose::FromGuest => Contents::Mixed,
            };
        }
        if let Some(held) = self.held.get_mut(usize::from(ring)) {
            self.holders += usize::from(*held == 0);
            *held += 1;
        }
        Some(self.pages.bus() + start as u64)
    }

    /// The next free page. If it would have to be cleaned, one of those that are near and would not.
    #[inline]
    fn pick(&mut self, guest: DomId, purpose: Purpose) -> Option<u16> {
        let last = *self.free.last()?;
        if purpose == Purpose::FromDisk && !self.is_of(last, guest) {
            self.bring_near(guest);
        }
        self.free.pop()
    }

    #[inline]
    fn is_of(&self, page: u16, guest: DomId) -> bool {
        let page = self.state.get(usize::from(page));
        page.is_some_and(|page| page.contents == Contents::Of(guest))
    }

    #[inline(never)]
    fn bring_near(&mut self, guest: DomId) {
        let last = self.free.len() - 1;
        let near = last.saturating_sub(NEAR)..last;
        if let Some(at) = near.rev().find(|&at| self.is_of(self.free[at], guest)) {
            self.free.swap(at, last);
        }
    }

    /// Takes a page back.
    #[inline]
    pub fn give(&mut self, bus: u64) {
        let number = bus.wrapping_sub(self.pages.bus()) / PAGE_SIZE as u64;
        debug_assert!(self.free.len() < self.free.capacity());
        self.free.push(number as u16);
        self.release(number as usize);
    }

    /// Gives up for good a page that was taken: something may still write into it.
    pub fn lose(&mut self, bus: u64) {
        let number = bus.wrapping_sub(self.pages.bus()) / PAGE_SIZE as u64;
        self.lost += 1;
        self.release(number as usize);
    }

    fn release(&mut self, number: usize) {
        let ring = self.state.get(number).map_or(0, |page| page.ring);
        if let Some(held) = self.held.get_mut(usize::from(ring)) {
            self.holders -= usize::from(*held == 1);
            *held = held.saturating_sub(1);
        }
    }

    /// Whether there will ever be a page. If not, it is no use waiting for one.
    #[inline]
    #[must_use]
    pub fn has_any(&self) -> bool {
        self.state.len() > self.lost
    }

    /// Reads words from the start of a page that was taken.
    pub fn read(&self, bus: u64, words: &mut [u64]) {
        let start = bus.wrapping_sub(self.pages.bus()) as usize;
        for (i, word) in words.iter_mut().enumerate() {
            let at = self.pages.u64_at(start + i * size_of::<u64>());
            *word = at.load(Relaxed);
        }
    }

    /// Pages that nobody holds.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Gives the memory back.
    #[must_use]
    pub fn into_pages(self) -> SharedPages {
        self.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_hold_the_largest_request_wherever_there_is_memory_for_it() {
        const MIB: usize = 256;
        // With 64 MiB, 16 of them heap and 1 kernel: with four ring cores and with eleven.
        assert_eq!(share(47 * MIB, 4), MAX_INDIRECT_SEGMENTS);
        assert_eq!(share(47 * MIB, 11), MAX_INDIRECT_SEGMENTS);
        assert!((MAX_SEGMENTS..MAX_INDIRECT_SEGMENTS).contains(&share(47 * MIB, 31)));
        // With 12 MiB, 4 of them heap.
        assert!((64..MAX_INDIRECT_SEGMENTS).contains(&share(7 * MIB, 2)));
        assert_eq!((share(0, 4), share(1000, 0)), (MAX_SEGMENTS, 250));
        assert_eq!(share(4096 * MIB, 1), MOST);
        // No more than a quarter goes to buffers, but for what every pool must have.
        for cores in 1..=31 {
            for free in (0..64 * MIB).step_by(37) {
                let all = share(free, cores) * cores;
                assert!(
                    all <= (free / 4).max(MAX_SEGMENTS * cores),
                    "{free} {cores}"
                );
            }
        }
    }

    const A: DomId = DomId(1);
    const B: DomId = DomId(2);

    fn pool(pages: usize, rings: u16) -> BufferPool {
        let mut pool = BufferPool::new(SharedPages::host(pages, 1 << 32), 8, pages).unwrap();
        (0..rings).for_each(|_| pool.join());
        pool
    }

    fn take(pool: &mut BufferPool, ring: u16, wanted: usize) -> Vec<u64> {
        let guest = DomId(ring + 1);
        let pages = pool.claim(ring, wanted);
        let page = |_| pool.take(ring, guest, Purpose::FromGuest).unwrap();
        (0..pages).map(page).collect()
    }

    #[test]
    fn a_ring_leaves_pages_to_those_that_come_new_and_all_get_equal_parts() {
        let mut pool = pool(16, 3);
        let first = take(&mut pool, 0, 16);
        assert_eq!(first.len(), 12, "a quarter is left");
        assert_eq!(take(&mut pool, 0, 1), []);
        let second = take(&mut pool, 1, 16);
        assert_eq!(second.len(), 4);
        // Nothing is left. Whoever holds nothing is next, and gets what is given back.
        assert_eq!(take(&mut pool, 2, 1), []);
        first[..3].iter().for_each(|&page| pool.give(page));
        assert_eq!(take(&mut pool, 0, 1), [], "more than a third already");
        assert_eq!(take(&mut pool, 2, 8).len(), 3);
        first[3..].iter().for_each(|&page| pool.give(page));
        assert_eq!(take(&mut pool, 1, 8).len(), 2, "a half of what is shared");
        // Alone it may have all.
        second.iter().for_each(|&page| pool.give(page));
        let mut alone = BufferPool::new(SharedPages::host(16, 0), 8, 16).unwrap();
        alone.join();
        assert_eq!(alone.claim(0, 20), 16);
    }

    #[test]
    fn a_page_is_cleaned_when_it_changes_guests_and_only_then() {
        let mut pool = pool(1, 2);
        let mut words = [0; 2];
        let mut read = |pool: &mut BufferPool, guest, purpose| {
            assert_eq!(pool.claim(0, 1), 1);
            let page = pool.take(0, guest, purpose).unwrap();
            pool.read(page, &mut words);
            // What a guest or a disk puts there.
            pool.pages.u64_at(8).store(7, Relaxed);
            pool.give(page);
            words[1]
        };
        assert_eq!(read(&mut pool, A, Purpose::FromDisk), 0);
        assert_eq!(read(&mut pool, A, Purpose::FromDisk), 7, "its own");
        assert_eq!(read(&mut pool, B, Purpose::FromDisk), 0);
        assert_eq!(read(&mut pool, B, Purpose::FromGuest), 7);
        // Filled by another guest, in part: the rest is still the first one's.
        assert_eq!(read(&mut pool, A, Purpose::FromGuest), 7);
        assert_eq!(read(&mut pool, A, Purpose::FromDisk), 0);
        // Another guest may get the number of one that has gone.
        pool.leave(0, A);
        assert_eq!(read(&mut pool, A, Purpose::FromDisk), 0);
    }
}
