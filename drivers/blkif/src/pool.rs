//! Buffer pages for grant copy: one pool per core, shared by its rings.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use spindle_hw::{PAGE_SIZE, SharedPages};

use crate::abi::{MAX_INDIRECT_SEGMENTS, MAX_SEGMENTS};
use crate::turnstile::Turnstile;

/// Pages of a core's pool, at most: what is more is of little use.
const MOST: usize = 1024;

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

/// Pages that the disk and grant copies reach.
#[derive(Debug)]
pub struct BufferPool {
    pages: SharedPages,
    free: Vec<u16>,
    /// Rings that got no page at their last turn.
    waiting: Turnstile,
    /// Whose turn it is.
    turn: u16,
    /// Whether that ring has had some.
    served: bool,
    /// Pages that are never to be used again.
    lost: usize,
}

impl BufferPool {
    /// A pool over `pages`, for at most `rings` rings and requests of at most `least` pages.
    ///
    /// # Errors
    /// If the largest request would not fit, or pages could not be numbered.
    pub fn new(pages: SharedPages, rings: usize, least: usize) -> Result<Self, BadPoolSize> {
        let count = pages.len() / PAGE_SIZE;
        match u16::try_from(count) {
            Ok(all) if count >= least => Ok(Self {
                pages,
                free: (0..all).rev().collect(),
                waiting: Turnstile::new(rings),
                turn: 0,
                served: false,
                lost: 0,
            }),
            _ => Err(BadPoolSize {
                pages: count,
                least,
            }),
        }
    }

    /// Starts a ring's turn, and ends the one before: what that ring waited for, it got.
    #[inline]
    pub fn start_turn(&mut self, ring: u16) {
        if self.served {
            self.waiting.leave(self.turn);
        }
        self.turn = ring;
        self.served = false;
    }

    /// Whether the ring whose turn it is may take `pages` pages now. If not, and it has had none
    /// in this turn, it waits, and nobody else gets any before.
    #[inline]
    pub fn claim(&mut self, pages: usize) -> bool {
        if !self.waiting.admits(self.turn) {
            return false;
        }
        let enough = pages <= self.free.len();
        if enough {
            self.served = true;
        } else if !self.served {
            self.waiting.join(self.turn);
        }
        enough
    }

    /// Forgets that `ring` waits.
    pub fn withdraw(&mut self, ring: u16) {
        self.waiting.leave(ring);
    }

    /// The bus address of a page, after a successful [`BufferPool::claim`].
    #[inline]
    pub fn take(&mut self) -> Option<u64> {
        let page = self.free.pop()?;
        Some(self.pages.bus() + u64::from(page) * PAGE_SIZE as u64)
    }

    /// Takes a page back.
    #[inline]
    pub fn give(&mut self, bus: u64) {
        let page = bus.wrapping_sub(self.pages.bus()) / PAGE_SIZE as u64;
        debug_assert!(self.free.len() < self.free.capacity());
        self.free.push(page as u16);
    }

    /// Gives pages that were taken up for good: something may still write into them.
    pub fn lose(&mut self, pages: usize) {
        self.lost += pages;
    }

    /// Whether there will ever be `pages` pages. If not, `ring` does not wait for them.
    #[inline]
    pub fn could_hold(&mut self, ring: u16, pages: usize) -> bool {
        let could = pages <= self.pages.len() / PAGE_SIZE - self.lost;
        if !could {
            self.withdraw(ring);
        }
        could
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
}
