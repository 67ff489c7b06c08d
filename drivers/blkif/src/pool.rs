//! Buffer pages for grant copy: one pool per core, shared by its rings.
//!
//! No request needs more than one page at a time, since a copied request goes through the buffers
//! in as many chunks as it takes. A guest may hold an equal part of the pool, however many rings it
//! has, and together guests leave a quarter of it to those that come new; one that holds none does
//! not wait for those that do. A guest's rings share its part in the same way.
//!
//! A page goes to another guest with nothing of the last one's left in it: whoever copies out what
//! a disk should have written, and did not, finds zeroes. Pages are cleaned when they change
//! guests, not each time.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use spindle_block::Segment;
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
    /// The guest that holds it, or held it last.
    guest: u16,
    /// The ring of it that took the page.
    ring: u16,
}

/// A ring that wants buffers: its place on its core, and its guest's.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// Place of the ring.
    pub ring: u16,
    /// Place of the guest.
    pub guest: u16,
    /// The guest.
    pub domain: DomId,
}

/// What a guest has to do with the pool.
#[derive(Clone, Copy, Debug, Default)]
struct Guest {
    /// Pages that its rings hold.
    held: u16,
    /// Its rings on the core.
    rings: u32,
    /// Those of them that hold any page.
    holders: u32,
}

/// What each may hold of so many pages that so many hold some of; a quarter is left if there are
/// `several` that may.
fn part(pages: usize, several: bool, holders: u32) -> usize {
    let shared = if several { pages - pages / 4 } else { pages };
    (shared / holders.max(1) as usize).max(1)
}

/// Pages that the disk and grant copies reach.
#[derive(Debug)]
pub struct BufferPool {
    pages: SharedPages,
    free: Vec<u16>,
    state: Box<[Page]>,
    /// Pages that each ring holds.
    held: Box<[u16]>,
    /// Each guest's side of it.
    guests: Box<[Guest]>,
    /// Guests that hold any.
    holders: u32,
    /// Guests with rings on the core.
    present: u32,
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
            guest: 0,
            ring: 0,
        };
        match u16::try_from(count) {
            Ok(all) if count >= least => Ok(Self {
                pages,
                free: (0..all).rev().collect(),
                state: vec![page; count].into(),
                held: vec![0; rings].into(),
                guests: vec![Guest::default(); rings].into(),
                holders: 0,
                present: 0,
                waiting: Turnstile::new(rings),
                lost: 0,
            }),
            _ => Err(BadPoolSize {
                pages: count,
                least,
            }),
        }
    }

    /// The guest at this place has another ring on the core.
    pub fn join(&mut self, guest: u16) {
        if let Some(guest) = self.guests.get_mut(usize::from(guest)) {
            self.present += u32::from(guest.rings == 0);
            guest.rings += 1;
        }
    }

    /// A ring has left. It holds no page; what is in those it held is not to be shown to another
    /// guest that gets the same number.
    pub fn leave(&mut self, holder: Holder) {
        self.withdraw(holder.ring);
        if let Some(guest) = self.guests.get_mut(usize::from(holder.guest)) {
            self.present -= u32::from(guest.rings == 1);
            guest.rings = guest.rings.saturating_sub(1);
        }
        for page in &mut self.state {
            if page.contents == Contents::Of(holder.domain) {
                page.contents = Contents::Mixed;
            }
        }
    }

    /// How many of `wanted` pages, at least 1, a ring may take now. If there is none, and it holds
    /// none, it waits, and no other ring without a page gets one before.
    #[inline(always)]
    pub fn claim(&mut self, holder: Holder, wanted: usize) -> usize {
        let ring = holder.ring;
        let (held, room) = self.room(holder);
        if held == 0 {
            if room == 0 {
                // Others of its guest have it, which is no other guest's affair.
                self.waiting.leave(ring);
                return 0;
            }
            if !self.waiting.admits(ring) {
                return 0;
            }
            if self.free.is_empty() {
                self.waiting.join(ring);
                return 0;
            }
            self.waiting.leave(ring);
        }
        wanted.min(room).min(self.free.len())
    }

    /// One page, after a successful claim of it.
    pub fn take_one(&mut self, holder: Holder, purpose: Purpose) -> Option<u64> {
        if self.claim(holder, 1) == 0 {
            return None;
        }
        self.take(holder, purpose)
    }

    /// Pages that a ring holds, and may take beside them if there are any.
    #[inline(always)]
    fn room(&self, holder: Holder) -> (u16, usize) {
        let Some(guest) = self.guests.get(usize::from(holder.guest)) else {
            return (0, 0);
        };
        let all = self.state.len() - self.lost;
        let holders = self.holders + u32::from(guest.held == 0);
        let most = part(all, self.present > 1, holders);
        let room = most.saturating_sub(guest.held.into());
        if guest.rings < 2 {
            return (guest.held, room);
        }
        let held = self.held.get(usize::from(holder.ring)).copied();
        let held = held.unwrap_or(0);
        let own = part(most, true, guest.holders + u32::from(held == 0));
        (held, room.min(own.saturating_sub(held.into())))
    }

    /// Forgets that `ring` waits.
    pub fn withdraw(&mut self, ring: u16) {
        self.waiting.leave(ring);
    }

    /// The bus address of a page for a request, after a successful [`BufferPool::claim`].
    #[inline(always)]
    pub fn take(&mut self, holder: Holder, purpose: Purpose) -> Option<u64> {
        let bus = self.take_page(holder, purpose)?;
        self.hold(holder, 1);
        Some(bus)
    }

    /// As [`BufferPool::take`], whole pages for all of `memory`, after a successful claim of as many.
    /// Returns how many there were.
    pub fn take_all(&mut self, holder: Holder, purpose: Purpose, memory: &mut [Segment]) -> usize {
        let mut taken = self.take_clean(holder, purpose, memory);
        for piece in &mut memory[taken..] {
            let Some(bus) = self.take_page(holder, purpose) else {
                break;
            };
            *piece = Segment::page(bus);
            taken += 1;
        }
        if taken > 0 {
            self.hold(holder, taken as u16);
        }
        taken
    }

    /// Takes the next pages up to the first that would have to be cleaned; returns how many.
    #[inline]
    fn take_clean(&mut self, holder: Holder, purpose: Purpose, memory: &mut [Segment]) -> usize {
        let own = Contents::Of(holder.domain);
        let base = self.pages.bus();
        let mut taken = 0;
        for (piece, &number) in memory.iter_mut().zip(self.free.iter().rev()) {
            let Some(page) = self.state.get_mut(usize::from(number)) else {
                break;
            };
            if page.contents != own {
                if purpose == Purpose::FromDisk {
                    break;
                }
                page.contents = Contents::Mixed;
            }
            (page.guest, page.ring) = (holder.guest, holder.ring);
            let bus = base + u64::from(number) * PAGE_SIZE as u64;
            *piece = Segment::page(bus);
            taken += 1;
        }
        self.free.truncate(self.free.len() - taken);
        taken
    }

    /// The next page, which is not counted among those that its ring holds yet.
    #[inline(always)]
    fn take_page(&mut self, holder: Holder, purpose: Purpose) -> Option<u64> {
        let domain = holder.domain;
        let number = self.pick(domain, purpose)?;
        let page = self.state.get_mut(usize::from(number))?;
        page.guest = holder.guest;
        page.ring = holder.ring;
        let start = usize::from(number) * PAGE_SIZE;
        if page.contents != Contents::Of(domain) {
            page.contents = match purpose {
                Purpose::FromDisk => {
                    self.pages.zero(start, PAGE_SIZE);
                    Contents::Of(domain)
                }
                Purpose::FromGuest => Contents::Mixed,
            };
        }
        Some(self.pages.bus() + start as u64)
    }

    /// A ring holds so many pages more, at least one.
    #[inline(always)]
    fn hold(&mut self, holder: Holder, pages: u16) {
        if let Some(guest) = self.guests.get_mut(usize::from(holder.guest)) {
            self.holders += u32::from(guest.held == 0);
            guest.held += pages;
            // Of an only ring too: its guest may have another before the page comes back.
            if let Some(held) = self.held.get_mut(usize::from(holder.ring)) {
                guest.holders += u32::from(*held == 0);
                *held += pages;
            }
        }
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
        self.release(number as usize, 1);
    }

    /// Takes pages back that one ring holds.
    pub fn give_all(&mut self, pages: &[Segment]) {
        let Some(first) = pages.first() else {
            return;
        };
        debug_assert!(self.free.len() + pages.len() <= self.free.capacity());
        let base = self.pages.bus();
        let number = |page: &Segment| page.bus().wrapping_sub(base) / PAGE_SIZE as u64;
        self.free
            .extend(pages.iter().map(|page| number(page) as u16));
        self.release(number(first) as usize, pages.len() as u16);
    }

    /// Gives up for good a page that was taken: something may still write into it.
    pub fn lose(&mut self, bus: u64) {
        let number = bus.wrapping_sub(self.pages.bus()) / PAGE_SIZE as u64;
        self.lost += 1;
        self.release(number as usize, 1);
    }

    /// The ring that took this page holds so many pages less, of those that it holds.
    fn release(&mut self, number: usize, pages: u16) {
        let Some(page) = self.state.get(number) else {
            return;
        };
        if let Some(guest) = self.guests.get_mut(usize::from(page.guest)) {
            self.holders -= u32::from(guest.held == pages);
            guest.held = guest.held.saturating_sub(pages);
            if let Some(held) = self.held.get_mut(usize::from(page.ring)) {
                guest.holders -= u32::from(*held == pages);
                *held = held.saturating_sub(pages);
            }
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
        self.pages.load_words(start, words);
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
    use core::sync::atomic::Ordering::Relaxed;

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

    /// Rings of each guest: the first ring is the first guest's, and so on.
    fn pool(pages: usize, guests: &[u16]) -> BufferPool {
        let mut pool = BufferPool::new(SharedPages::host(pages, 1 << 32), 8, pages).unwrap();
        guests.iter().for_each(|&guest| pool.join(guest));
        pool
    }

    fn holder(ring: u16, guest: u16) -> Holder {
        let domain = DomId(guest + 1);
        Holder {
            ring,
            guest,
            domain,
        }
    }

    /// Takes as many as there are for a ring.
    fn take_for(pool: &mut BufferPool, holder: Holder, wanted: usize) -> Vec<u64> {
        let pages = pool.claim(holder, wanted);
        let page = |_| pool.take(holder, Purpose::FromGuest).unwrap();
        (0..pages).map(page).collect()
    }

    /// For the only ring of a guest.
    fn take(pool: &mut BufferPool, guest: u16, wanted: usize) -> Vec<u64> {
        take_for(pool, holder(guest, guest), wanted)
    }

    /// One pool gives pages one by one, another all at once: they never differ, and no page that was
    /// another guest's reaches a disk's read as it is.
    #[test]
    fn pages_taken_and_given_together_are_as_those_that_are_taken_and_given_alone() {
        use Purpose::{FromDisk, FromGuest};
        let (mut alone, mut together) = (pool(16, &[0, 1, 1]), pool(16, &[0, 1, 1]));
        for (ring, guest, purpose, wanted) in [
            (0, 0, FromGuest, 5),
            (1, 1, FromDisk, 3),
            (0, 0, FromDisk, 16),
            (2, 1, FromDisk, 9),
            (1, 1, FromGuest, 4),
            (0, 0, FromDisk, 7),
        ] {
            let holder = holder(ring, guest);
            let count = alone.claim(holder, wanted);
            assert_eq!(together.claim(holder, wanted), count);
            let one: Vec<_> = (0..count).map(|_| alone.take(holder, purpose)).collect();
            let mut all = vec![Segment::default(); count];
            assert_eq!(together.take_all(holder, purpose, &mut all), count);
            for (piece, bus) in all.iter().zip(&one) {
                assert_eq!((Some(piece.bus()), piece.bytes()), (*bus, 4096));
                let at = (piece.bus() - (1 << 32)) as usize;
                let word = together.pages.u64_at(at);
                assert!(
                    purpose == FromGuest || [0, u64::from(guest) + 1].contains(&word.load(Relaxed))
                );
                word.store(u64::from(guest) + 1, Relaxed);
            }
            if purpose == FromDisk {
                one.into_iter().flatten().for_each(|bus| alone.give(bus));
                together.give_all(&all);
            }
            assert_eq!(alone.free, together.free);
            assert_eq!(alone.held, together.held);
            assert_eq!(alone.holders, together.holders);
            let sides = |pool: &BufferPool| {
                let side = |guest: &Guest| (guest.held, guest.rings, guest.holders);
                pool.guests.iter().map(side).collect::<Vec<_>>()
            };
            assert_eq!(sides(&alone), sides(&together));
        }
        assert_eq!(together.take_all(holder(0, 0), FromDisk, &mut []), 0);
        together.give_all(&[]);
    }

    #[test]
    fn a_ring_leaves_pages_to_those_that_come_new_and_all_get_equal_parts() {
        let mut pool = pool(16, &[0, 1, 2]);
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
        let mut alone = self::pool(16, &[0]);
        assert_eq!(alone.claim(holder(0, 0), 20), 16);
    }

    #[test]
    fn a_guest_with_many_rings_has_one_guests_part_and_its_rings_share_it() {
        let mut pool = pool(16, &[0, 0, 0, 1]);
        let ring = |ring| holder(ring, 0);
        // Of the twelve that are not left to others a ring leaves a quarter to the next.
        let first = take_for(&mut pool, ring(0), 16);
        assert_eq!(first.len(), 9);
        assert_eq!(take_for(&mut pool, ring(1), 16).len(), 3);
        assert_eq!(
            take_for(&mut pool, ring(2), 1),
            [],
            "its guest has its part"
        );
        // This one's guest has none; that the other waits is not its affair.
        assert_eq!(take_for(&mut pool, holder(3, 1), 16).len(), 4);
        assert_eq!(take_for(&mut pool, ring(2), 1), []);
        first[..6].iter().for_each(|&page| pool.give(page));
        assert_eq!(take_for(&mut pool, ring(2), 1), [], "six of six");
        pool.give(first[6]);
        assert_eq!(take_for(&mut pool, ring(0), 1), [], "two of two");
        assert_eq!(take_for(&mut pool, ring(2), 2).len(), 1);
        assert_eq!(take_for(&mut pool, holder(3, 1), 16).len(), 2);
    }

    /// The page that is lost is not held by its guest any longer, and all others are held as before.
    #[test]
    fn a_page_that_is_lost_is_taken_from_the_guest_that_had_it() {
        let mut pool = pool(16, &[0, 1]);
        let first = take(&mut pool, 0, 2);
        let second = take(&mut pool, 1, 3);
        let held = |pool: &BufferPool| [0, 1].map(|guest: usize| pool.guests[guest].held);
        pool.lose(second[1]);
        assert_eq!(held(&pool), [2, 2]);
        pool.lose(first[1]);
        assert_eq!((held(&pool), pool.free(), pool.lost), ([1, 2], 11, 2));
        first[..1].iter().for_each(|&page| pool.give(page));
        [0, 2].iter().for_each(|&at| pool.give(second[at]));
        assert_eq!((held(&pool), pool.free()), ([0, 0], 14));
        assert_eq!(pool.holders, 0);
        // Of what is left each gets its part.
        assert_eq!(take(&mut pool, 0, 16).len(), 11);
    }

    #[test]
    fn rings_of_a_guest_alone_leave_pages_to_each_other() {
        let mut pool = pool(16, &[0, 0]);
        assert_eq!(take_for(&mut pool, holder(0, 0), 16).len(), 12);
        assert_eq!(take_for(&mut pool, holder(1, 0), 16).len(), 4);
        pool.leave(holder(1, 0));
        assert_eq!(pool.guests[0].rings, 1);
        assert_eq!(pool.present, 1);
    }

    /// What a ring got as the only one of its guest counts when there are several.
    #[test]
    fn a_ring_that_holds_pages_never_waits_in_front_of_those_that_hold_none() {
        let mut pool = pool(16, &[0, 1]);
        let others = take(&mut pool, 1, 12);
        let its = take(&mut pool, 0, 11);
        assert_eq!((others.len(), its.len()), (12, 4));
        pool.join(0);
        assert_eq!(pool.claim(holder(0, 0), 3), 0);
        let all = its.into_iter().chain(others);
        all.for_each(|page| pool.give(page));
        assert_eq!(pool.claim(holder(1, 1), 1), 1);
        // Nor is what it holds forgotten when the other one leaves.
        let its = take(&mut pool, 0, 4);
        pool.leave(holder(2, 0));
        let others = take(&mut pool, 1, 12);
        assert_eq!(take(&mut pool, 1, 12), []);
        pool.join(0);
        assert_eq!(pool.claim(holder(0, 0), 8), 1, "five of six, less four");
        let all = its.into_iter().chain(others);
        all.for_each(|page| pool.give(page));
        assert!(pool.held.iter().all(|&held| held == 0));
        let guests = pool.guests.iter();
        assert!(
            guests
                .clone()
                .all(|guest| (guest.held, guest.holders) == (0, 0))
        );
        assert_eq!(pool.holders, 0);
    }

    #[test]
    fn a_page_is_cleaned_when_it_changes_guests_and_only_then() {
        let mut pool = pool(1, &[0, 0]);
        let mut words = [0; 2];
        let mut read = |pool: &mut BufferPool, guest, purpose| {
            // Whoever it is, by the same ring.
            let holder = Holder {
                domain: guest,
                ..holder(0, 0)
            };
            assert_eq!(pool.claim(holder, 1), 1);
            let page = pool.take(holder, purpose).unwrap();
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
        pool.leave(holder(0, 0));
        assert_eq!(read(&mut pool, A, Purpose::FromDisk), 0);
    }
}
