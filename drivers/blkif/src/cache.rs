//! The grants that one ring's frontend keeps using, mapped once (`feature-persistent`); or those
//! of requests under way, unmapped before their frontend hears that they are done.
//!
//! A reference that is mapped is found where it is expected, or by one hash and a short probe (`find`), and
//! costs one store for recency. What is kept is not counted while requests use it: whoever gives pages up to make room
//! marks those of requests under way first ([`GrantCache::mark`]), which is seldom. What is mapped for
//! one request is not in the table (`once`).
//!
//! All that is known of a frame is in 16 bytes, and the table has no more than its number: what a
//! reference leads to is compared where the use of it is noted, too.
//!
//! A cache that is full gives a page up only if that was not used while the ring used several times
//! as many pages as there are frames. A frontend with a few more pages in turn than there are frames
//! thus finds nearly all of them mapped, and what does not fit is copied, which costs less than to
//! map and unmap it; and grants that are used once do not drive out those that are used again.

mod find;
mod once;
mod stack;

use alloc::boxed::Box;

use spindle_block::Segment;
use spindle_xen::DomId;
use spindle_xen::grant::{GrantOps, GrantRef, MapOp, UnmapOp};

use crate::abi::RawSegment;
use crate::request::{WHOLE_PAGE, extent};
use crate::room::{NoRoom, filled};
use crate::window::Window;

use find::PROBES;
use stack::Stack;

/// Most mappings given up at once to make room.
const EVICT: usize = 64;

/// Turns from one eviction to the next. Two turns are an I/O where there is one at a time.
const EVICT_TURNS: u32 = 32;

/// Pages used in a round, for each frame: what was not used in the last whole round and since may be
/// given up. As many pages as that may be in turn before any is.
const ROUND: u32 = 4;

/// A page that has not been used for so long is unmapped, or for up to twice as long. Linux'
/// backend lets go of them after a minute.
const UNUSED_NS: u64 = 60_000_000_000;

/// Handles start at 0 and stay small; Xen's own `INVALID_MAPTRACK_HANDLE` is this.
const NOT_MAPPED: u32 = u32::MAX;

/// A free place in the table, and the end of a stack of frames. No frame has the number.
const NO_FRAME: u16 = u16::MAX;

/// Most frames that are used of a window, all of which have numbers.
const MOST_FRAMES: usize = NO_FRAME as usize;

/// What a frame of the window holds.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
struct Frame {
    gref: u32,
    /// Of a page that is kept, the sectors of a segment that asks for all of it. Others have
    /// [`OTHER`] instead, and flags of those below, which no segment has.
    rest: u32,
    /// From the map; [`NOT_MAPPED`] before it and after a failure.
    handle: u32,
    /// The turn in which it was last used; the next one of the stack that it is on.
    used: u32,
}

/// It is not kept.
const OTHER: u32 = 1 << 30;
/// A request has the frame alone.
const HELD: u32 = 1 << 31;
/// The frame is for one request, and it is not known whether it could be mapped.
const PENDING: u32 = 1 << 29;
/// A request under way uses it: as [`GrantCache::mark`] has found, until pages are given up.
const BUSY: u32 = 1 << 28;

const _: () = assert!(size_of::<Frame>() == 16);

impl Frame {
    /// One that holds nothing.
    const EMPTY: Self = Self {
        gref: 0,
        rest: OTHER,
        handle: NOT_MAPPED,
        used: NO_FRAME as u32,
    };

    /// What the segment looks like that asks for all of the page, if that is kept: one comparison finds
    /// it, and finds the segment good.
    #[inline(always)]
    fn name(&self) -> u64 {
        u64::from(self.gref) | u64::from(self.rest) << 32
    }

    /// Whether it is mapped and nothing uses it; forgets that it was marked.
    fn take_unused(&mut self) -> bool {
        let used = self.rest & (HELD | BUSY) != 0;
        self.rest &= !BUSY;
        !used && self.handle != NOT_MAPPED
    }
}

/// A reference that is not in the cache, and its place in the table, if there is one near enough:
/// until another comes into the cache or leaves it.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    gref: u32,
    place: Option<usize>,
}

/// Grants of one domain, mapped into one window.
#[derive(Debug)]
pub struct GrantCache {
    domain: DomId,
    window: Window,
    frames: Box<[Frame]>,
    /// Open addressing with linear probing; a place holds the number of a frame.
    table: Box<[u16]>,
    shift: u32,
    /// What is added to a reference for the number of the frame that it is expected in.
    ahead: u32,
    /// The page that would be in the first frame.
    first: Segment,
    free: Stack,
    /// Mapped frames that no request has any longer, to be unmapped. Each frame is on one of the two
    /// stacks at most.
    idle: Stack,
    turn: u32,
    /// What was used before this turn, and not since, is unused when it is time to look.
    mark: u32,
    look_at: u64,
    /// The first turn in which pages may be given up again to make room.
    evict_from: u32,
    /// Pages used in this round, when it began, and when the one before it did.
    uses: u32,
    round: u32,
    last_round: u32,
    /// Nothing was found in this round that could be given up.
    barren: bool,
}

/// Places in the table: about half of them taken at most, so that probes are short.
fn places(frames: usize) -> usize {
    (frames + frames * 7 / 8).next_power_of_two().max(2)
}

impl GrantCache {
    /// Bytes that a cache of `frames` frames takes.
    pub(crate) fn footprint(frames: usize) -> usize {
        let frames = frames.min(MOST_FRAMES);
        frames * size_of::<Frame>() + places(frames) * size_of::<u16>()
    }

    /// An empty cache for grants of `domain`, as large as `window`.
    ///
    /// # Errors
    /// With the window, if there is no memory for it.
    pub fn new(domain: DomId, window: Window) -> Result<Self, (NoRoom, Window)> {
        let count = window.frames().min(MOST_FRAMES);
        let room = filled(Frame::EMPTY, count)
            .and_then(|frames| filled(NO_FRAME, places(count)).map(|table| (frames, table)));
        let Ok((mut frames, table)) = room else {
            return Err((NoRoom, window));
        };
        let shift = 32 - table.len().ilog2();
        let mut free = Stack::default();
        for index in (0..count).rev().filter(|&index| window.is_usable(index)) {
            free.push(&mut frames, index);
        }
        Ok(Self {
            domain,
            first: Segment::page(window.base()),
            window,
            frames,
            table,
            shift,
            ahead: 0,
            free,
            idle: Stack::default(),
            turn: 0,
            mark: 0,
            look_at: 0,
            evict_from: 0,
            uses: 0,
            round: 0,
            last_round: 0,
            barren: false,
        })
    }

    /// Starts a new turn for the reckoning of recency.
    #[inline]
    pub fn next_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// Counts pages that were used.
    #[inline]
    pub fn note_uses(&mut self, count: u32) {
        self.uses = self.uses.saturating_add(count);
    }

    /// Takes a free frame for a reference that is not in the cache, to be kept there.
    /// The operation returned must be carried out and its outcome handed to [`GrantCache::record`].
    /// `None` if there is no free frame, or no place near enough in the table.
    pub fn reserve(&mut self, missing: Missing) -> Option<(u64, MapOp)> {
        let Missing { gref, place } = missing;
        let at = place.filter(|&at| self.table.get(at) == Some(&NO_FRAME))?;
        let index = self.free.pop(&self.frames)?;
        self.table[at] = index as u16;
        self.frames[index] = Frame {
            gref,
            rest: (WHOLE_PAGE >> 32) as u32,
            used: self.turn,
            ..Frame::EMPTY
        };
        let bus = self.window.bus(index);
        Some((bus, MapOp::new(self.domain, GrantRef(gref), bus, false)))
    }

    /// Notes the outcome of an operation from [`GrantCache::reserve`] or [`GrantCache::map_once`];
    /// false if it failed. The reference is then forgotten, and its frame free once no request has it.
    #[inline]
    pub fn record(&mut self, op: &MapOp) -> bool {
        let index = self.window.frame(op.host_addr);
        let Some(frame) = self.frames.get_mut(index) else {
            return false;
        };
        if op.status.is_ok() {
            frame.handle = op.handle;
            if frame.rest & HELD != 0 {
                // Its request goes on, as most do.
                frame.rest &= !PENDING;
                return true;
            }
        }
        if frame.rest & PENDING != 0 {
            self.settle_once(index);
        } else if !op.status.is_ok() {
            self.forget(index);
            self.free.push(&mut self.frames, index);
        }
        op.status.is_ok()
    }

    /// Whether the page at `bus`, which the caller has found or reserved, could be mapped.
    #[inline]
    #[must_use]
    pub fn is_mapped(&self, bus: u64) -> bool {
        self.frames[self.window.frame(bus)].handle != NOT_MAPPED
    }

    /// Whether no frame is free.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// A request under way uses the page at `bus`: [`GrantCache::evict`] or [`GrantCache::trim`], which
    /// comes next, leaves it.
    pub fn mark(&mut self, bus: u64) {
        if let Some(frame) = self.frames.get_mut(self.window.frame(bus)) {
            frame.rest |= BUSY;
        }
    }

    /// Whether [`GrantCache::evict`] may find anything now.
    ///
    /// It may once in `EVICT_TURNS` turns only: a frontend that never uses a reference twice must
    /// not make the core, which may serve others too, unmap all day. And it may not again in a round
    /// in which it has found nothing.
    pub fn may_evict(&mut self) -> bool {
        if self.uses >= ROUND.saturating_mul(self.frames.len() as u32) {
            (self.last_round, self.round) = (self.round, self.turn);
            self.uses = 0;
            self.barren = false;
        }
        !self.barren && self.turn.wrapping_sub(self.evict_from) <= u32::MAX / 2
    }

    /// Unmaps some of the least recently used pages, in one hypercall, that were not used in the last
    /// round and are not marked: if [`GrantCache::may_evict`], after all pages of requests under way
    /// were marked, but for those found in this turn. Returns how many were unmapped and how many
    /// frames were lost because that failed.
    pub fn evict(&mut self, grants: &impl GrantOps) -> (usize, usize) {
        self.evict_from = self.turn.wrapping_add(EVICT_TURNS);
        let limit = self.turn.wrapping_sub(self.last_round);
        let want = (self.frames.len() / 16).clamp(1, EVICT);
        let mut oldest = [(0u32, 0u32); EVICT];
        let mut found = 0;
        for (index, frame) in self.frames.iter_mut().enumerate() {
            let age = self.turn.wrapping_sub(frame.used);
            if !frame.take_unused() || age <= limit {
                continue;
            }
            if found == want && age <= oldest[found - 1].0 {
                continue;
            }
            // Insertion into a short list, oldest first.
            let to = oldest[..found]
                .iter()
                .position(|&(other, _)| age > other)
                .unwrap_or(found);
            let end = if found == want { found - 1 } else { found };
            oldest.copy_within(to..end, to + 1);
            oldest[to] = (age, index as u32);
            found = end + 1;
        }
        self.barren = found == 0;
        self.unmap(grants, &oldest.map(|(_, index)| index)[..found])
    }

    /// Unmaps pages that have not been used for a minute or two, and are not marked: in one hypercall,
    /// and as many as that does. It is time for it at [`GrantCache::look_at`]; pages of requests under
    /// way must have been marked. Returns as [`GrantCache::evict`].
    pub fn trim(&mut self, grants: &impl GrantOps, now_ns: u64) -> (usize, usize) {
        let limit = self.turn.wrapping_sub(self.mark);
        let mut unused = [0; EVICT];
        let mut found = 0;
        for (index, frame) in self.frames.iter_mut().enumerate() {
            let is_free = frame.take_unused();
            if is_free && self.turn.wrapping_sub(frame.used) > limit && found < EVICT {
                unused[found] = index as u32;
                found += 1;
            }
        }
        if found < EVICT {
            // All have been used since the mark. They are unused if that does not happen again.
            self.turn = self.turn.wrapping_add(1);
            self.mark = self.turn;
            self.look_at = now_ns.saturating_add(UNUSED_NS);
        }
        self.unmap(grants, &unused[..found])
    }

    /// When [`GrantCache::trim`] has something to do again; `None` if nothing is mapped.
    #[must_use]
    pub fn look_at(&self) -> Option<u64> {
        (self.free.len() < self.frames.len()).then_some(self.look_at)
    }

    /// Unmaps everything, in batches, and gives the window back. No request may have any of it.
    pub fn dismantle(mut self, grants: &impl GrantOps) -> Window {
        debug_assert!(self.frames.iter().all(|frame| frame.rest & HELD == 0));
        self.unmap_all(grants);
        self.window
    }

    /// Unmaps everything, whoever has it, so that no device reaches the guest's pages any longer,
    /// and gives all frames up: a device that has their addresses may write there at any time.
    /// Returns how many pages could not be unmapped.
    pub fn cut_off(&mut self, grants: &impl GrantOps) -> usize {
        let lost = self.unmap_all(grants);
        // Those that were to be unmapped are, as all others.
        (self.free, self.idle) = (Stack::default(), Stack::default());
        (0..self.frames.len()).for_each(|index| self.window.condemn(index));
        lost
    }

    /// Returns how many frames were lost.
    fn unmap_all(&mut self, grants: &impl GrantOps) -> usize {
        let mut lost = 0;
        let mut batch = [0u32; EVICT];
        let mut next = 0;
        while next < self.frames.len() {
            let mut count = 0;
            while count < EVICT && next < self.frames.len() {
                if self.frames[next].handle != NOT_MAPPED {
                    batch[count] = next as u32;
                    count += 1;
                }
                next += 1;
            }
            lost += self.unmap(grants, &batch[..count]).1;
        }
        lost
    }

    /// Unmaps at most [`EVICT`] frames in one hypercall: (unmapped, lost).
    fn unmap(&mut self, grants: &impl GrantOps, indices: &[u32]) -> (usize, usize) {
        let mut ops = [UnmapOp::new(NOT_MAPPED, 0); EVICT];
        let ops = &mut ops[..indices.len()];
        for (op, &index) in ops.iter_mut().zip(indices) {
            let index = index as usize;
            self.forget(index);
            *op = UnmapOp::new(self.frames[index].handle, self.window.bus(index));
        }
        if !ops.is_empty() {
            // Every operation's own status is looked at below.
            let _ = grants.unmap(ops);
        }
        let mut lost = 0;
        for (op, &index) in ops.iter().zip(indices) {
            self.frames[index as usize].handle = NOT_MAPPED;
            if op.status.is_ok() {
                self.free.push(&mut self.frames, index as usize);
            } else {
                self.window.condemn(index as usize);
                lost += 1;
            }
        }
        (indices.len() - lost, lost)
    }

    /// The place in the table that leads to frame `index`.
    fn place(&self, index: usize) -> Option<usize> {
        let mask = self.table.len() - 1;
        let home = self.home(self.frames[index].gref);
        (home..home + PROBES)
            .map(|at| at & mask)
            .find(|&at| usize::from(self.table[at]) == index)
    }

    /// Takes frame `index` out of the table, and moves what follows it back so that no probe
    /// meets a hole.
    fn forget(&mut self, index: usize) {
        let mask = self.table.len() - 1;
        let place = self.place(index);
        if let Some(frame) = self.frames.get_mut(index) {
            // Nor is it found in another way.
            frame.rest |= OTHER;
        }
        let Some(mut hole) = place else {
            return;
        };
        let mut at = hole;
        for _ in 0..self.table.len() {
            at = (at + 1) & mask;
            let place = self.table[at];
            let Some(frame) = self.frames.get(usize::from(place)) else {
                break;
            };
            let home = self.home(frame.gref);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.table[hole] = place;
                hole = at;
            }
        }
        self.table[hole] = NO_FRAME;
    }
}

/// What a segment that passed validation, `word`, has of the page at `page`.
#[inline(always)]
pub(crate) fn part_of(page: u64, word: u64) -> Segment {
    let (offset, len) = extent(RawSegment::from_word(word));
    Segment::new(page + u64::from(offset), len)
}
