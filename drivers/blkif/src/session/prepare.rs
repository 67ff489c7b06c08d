//! Giving a request memory that the disk can reach: pages of the cache, or buffers to copy
//! through.

use spindle_block::Segment;
use spindle_hw::PAGE_SIZE;
use spindle_xen::grant::{CopyOp, GrantOps};

use super::slot::{Path, State};
use super::{Session, tag};
use crate::batch::{CopyBatch, MapBatch};
use crate::cache::{GrantCache, part_of};
use crate::pool::{BufferPool, Purpose};

/// What a core lends its rings while they prepare their requests.
pub(crate) struct Means<'a, G> {
    pub(crate) grants: &'a G,
    pub(crate) maps: &'a mut MapBatch,
    pub(crate) copies: &'a mut CopyBatch,
    pub(crate) pool: &'a mut BufferPool,
}

/// What became of an attempt to use mapped pages.
enum Mapping {
    Done,
    /// The batch is full.
    Later,
    /// No frame is to be had.
    Impossible,
}

impl Session {
    /// Prepares the requests in line. Grants not in the cache are mapped by one hypercall; copies
    /// are left in the core's batch.
    ///
    /// Buffers are handed out strictly in line order, after it is settled who needs them: were
    /// they held by a request behind one that waits for some, neither could ever leave. A request
    /// that gets fewer than it needs goes through them in chunks, before those behind it.
    pub(crate) fn prepare<G: GrantOps>(&mut self, ring: u16, means: &mut Means<'_, G>) {
        if self.ready == self.line.len() {
            return;
        }
        if let Some(cache) = &mut self.cache {
            cache.next_turn();
        }
        let start = self.ready;
        let (end, mut copying) = self.map_line(means);
        if !means.maps.is_empty() && !self.map_misses(means) {
            copying |= self.give_up_broken(start, end, means);
        }
        let listed = self.is_listed(end);
        if !copying && !listed {
            // A list for which there was no buffer may have been mapped meanwhile: whoever waits
            // for buffers without need holds up all other rings.
            means.pool.withdraw(ring);
            self.ready = end;
            return;
        }
        while self.ready < end
            && let Some(index) = self.line.get(self.ready)
        {
            let waiting = self.slots[usize::from(index)].state == State::Waiting;
            let behind = self.partial.is_some_and(|partial| partial != index);
            if waiting && self.special && self.is_filled(index) {
                // It has its buffers, and is not to wait for those that have none.
                if !self.copy_in(ring, index, means) {
                    self.stats.out_of_room.add(1);
                    return;
                }
            } else if waiting && (behind || !self.buffer(ring, index, means)) {
                self.stats.out_of_room.add(1);
                return;
            }
            self.ready += 1;
        }
        if listed {
            self.fetch_lists(ring, end, means);
        }
    }

    /// Whether the request at this place in line is waiting for a copy of its list.
    fn is_listed(&self, at: usize) -> bool {
        let index = self.line.get(at).map(usize::from);
        index
            .map(|index| &self.slots[index])
            .is_some_and(|slot| slot.state == State::Listed && slot.must_copy)
    }

    /// Finds or maps the pages of all in line that can be served so. Returns how far it came, and whether
    /// there are requests that have to be copied.
    fn map_line<G: GrantOps>(&mut self, means: &mut Means<'_, G>) -> (usize, bool) {
        let mut copying = false;
        let mut at = self.ready;
        while let Some(index) = self.line.get(at) {
            if self.slots[usize::from(index)].state == State::Listed
                && !self.read_list(index, means)
            {
                break;
            }
            if self.special && !self.claim(index) {
                break;
            }
            let slot = &mut self.slots[usize::from(index)];
            if slot.state == State::Ready || !slot.has_data() {
                slot.state = State::Ready;
            } else if slot.must_copy || self.cache.is_none() {
                copying = true;
            } else {
                let mapping = match self.map(index, means) {
                    Mapping::Impossible if self.make_room(means.grants) => self.map(index, means),
                    mapping => mapping,
                };
                match mapping {
                    Mapping::Done => {}
                    Mapping::Impossible => {
                        self.slots[usize::from(index)].must_copy = true;
                        copying = true;
                    }
                    Mapping::Later => {
                        self.stats.out_of_room.add(1);
                        break;
                    }
                }
            }
            at += 1;
        }
        (at, copying)
    }

    /// Has a request use pages of the cache, or have them mapped there.
    fn map<G: GrantOps>(&mut self, index: u16, means: &mut Means<'_, G>) -> Mapping {
        let Some(cache) = &mut self.cache else {
            return Mapping::Impossible;
        };
        let slot = &mut self.slots[usize::from(index)];
        if means.maps.room() < slot.segments.into() {
            return Mapping::Later;
        }
        // What is kept serves reads and writes to come; what is not, this request alone.
        let (fill, whole) = (!slot.op.writes(), slot.is_whole_pages());
        let (words, memory) = slot.room(&mut self.arena);
        let found = if self.persistent {
            // One that is alone has not been found mostly, or it would not be in line.
            let several = words.len() > 1;
            several && cache.find_all(words, memory) || map_kept(cache, words, memory, means.maps)
        } else {
            map_once(cache, words, memory, means.maps, fill, whole)
        };
        if !found {
            return Mapping::Impossible;
        }
        slot.pieces = slot.segments;
        slot.path = Path::Mapped;
        slot.state = State::Ready;
        slot.progress
            .begin(slot.sectors * 512, self.volume.block_shift);
        Mapping::Done
    }

    /// Maps the batch of misses; false if any of them failed.
    fn map_misses<G: GrantOps>(&mut self, means: &mut Means<'_, G>) -> bool {
        means.maps.execute(means.grants);
        let ops = means.maps.ops();
        let mapped = match &mut self.cache {
            Some(cache) => ops.iter().filter(|op| cache.record(op)).count(),
            None => 0,
        };
        let all = mapped == ops.len();
        means.maps.clear();
        self.stats.grants_mapped.add(mapped as u64);
        all
    }

    /// Makes requests of which any page could not be mapped let go of all of them (XSA-365), to be
    /// copied instead, which also settles whether the grant is any good. True if there are any.
    fn give_up_broken<G>(&mut self, start: usize, end: usize, means: &mut Means<'_, G>) -> bool {
        let mut any = false;
        for at in start..end {
            if let Some(index) = self.line.get(at)
                && !self.is_whole(index)
            {
                self.take_back(index, means.pool);
                any = true;
            }
        }
        any
    }

    /// Whether a request has all the pages that it was promised.
    fn is_whole(&self, index: u16) -> bool {
        let slot = &self.slots[usize::from(index)];
        match &self.cache {
            Some(cache) if slot.path == Path::Mapped => {
                let pieces = slot.pieces(&self.arena);
                pieces.iter().all(|piece| cache.is_mapped(piece.bus()))
            }
            _ => true,
        }
    }

    /// Gives a request buffers, filled by the next copy batch if it is a write; false if buffers
    /// or room in the batch are short.
    fn buffer<G: GrantOps>(&mut self, ring: u16, index: u16, means: &mut Means<'_, G>) -> bool {
        if self.slots[usize::from(index)].is_one_page() {
            return self.buffer_page(ring, index, means);
        }
        let holder = self.holder(ring);
        let unaligned = self.special && self.is_unaligned(index);
        let slot = &mut self.slots[usize::from(index)];
        let write = slot.op.writes();
        let done = slot.progress.done();
        let mut left = slot.sectors * 512 - done;
        let wanted = left.div_ceil(PAGE_SIZE as u32) as usize;
        if write && means.copies.room() < 2 * usize::from(slot.segments) {
            return false;
        }
        if !means.pool.has_any() {
            slot.failed = true;
            slot.state = State::Ready;
            return true;
        }
        // A chunk that is done has left its buffers to the next.
        let kept = usize::from(slot.pieces).min(wanted);
        let more = wanted - kept;
        let claimed = if more > 0 {
            means.pool.claim(holder, more)
        } else {
            0
        };
        if kept + claimed == 0 {
            return false;
        }
        if claimed == 0 && kept > 0 {
            // It goes on with what it has, and must not stand in front of those that have none.
            means.pool.withdraw(ring);
        }
        if done == 0 {
            self.stats.copied_requests.add(1);
        }
        let purpose = if write && !unaligned {
            Purpose::FromGuest
        } else {
            Purpose::FromDisk
        };
        let pieces = usize::from(slot.pieces);
        let memory = slot.room(&mut self.arena).1;
        means.pool.give_all(&memory[kept..pieces]);
        // Filled page by page, so that the disk sees one run without holes.
        let most = memory.len().min(kept + claimed);
        let memory = &mut memory[..most];
        let taken = kept + means.pool.take_all(holder, purpose, &mut memory[kept..]);
        for piece in &mut memory[..kept] {
            *piece = Segment::page(piece.bus());
        }
        let chunk = left.min(taken as u32 * PAGE_SIZE as u32);
        left -= chunk;
        if let Some(last) = memory[..taken].last_mut() {
            let before = (taken as u32 - 1) * PAGE_SIZE as u32;
            *last = Segment::new(last.bus(), chunk - before);
        }
        slot.path = Path::Copied;
        slot.state = State::Ready;
        slot.pieces = taken as u16;
        slot.progress.begin(chunk, self.volume.block_shift);
        self.partial = (left > 0).then_some(index);
        if write && !(unaligned && self.begin_fill(index)) {
            self.push_copies(ring, index, means.copies, CopyOp::from_grant);
        }
        true
    }

    /// The same for a request of one page, which has no buffer yet and needs one, and thus never
    /// goes through them in chunks.
    #[inline]
    fn buffer_page<G: GrantOps>(
        &mut self,
        ring: u16,
        index: u16,
        means: &mut Means<'_, G>,
    ) -> bool {
        let holder = self.holder(ring);
        let slot = &mut self.slots[usize::from(index)];
        let write = slot.op.writes();
        if write && means.copies.room() < 1 {
            return false;
        }
        if !means.pool.has_any() {
            slot.failed = true;
            slot.state = State::Ready;
            return true;
        }
        let purpose = if write {
            Purpose::FromGuest
        } else {
            Purpose::FromDisk
        };
        let Some(bus) = means.pool.take_one(holder, purpose) else {
            return false;
        };
        let len = slot.sectors * 512;
        slot.memory = Segment::new(bus, len);
        slot.pieces = 1;
        slot.path = Path::Copied;
        slot.state = State::Ready;
        slot.progress.begin(len, self.volume.block_shift);
        self.stats.copied_requests.add(1);
        if write {
            let (granted, bus, len) = slot.page_copy(self.domain);
            let op = CopyOp::from_grant(granted, bus, len);
            means.copies.push(op, tag(ring, index));
        }
        true
    }
}

/// Has all pages that segments are in kept in the cache, to be mapped by the batch where they are not;
/// false if there is no frame for one. What was reserved is still mapped, for the next time.
fn map_kept(
    cache: &mut GrantCache,
    words: &[u64],
    memory: &mut [Segment],
    maps: &mut MapBatch,
) -> bool {
    cache.note_uses(words.len() as u32);
    for (&word, piece) in words.iter().zip(memory) {
        let page = cache.find_or_miss(word as u32).or_else(|missing| {
            let (page, op) = cache.reserve(missing).ok_or(())?;
            maps.push(op);
            Ok::<_, ()>(page)
        });
        let Ok(page) = page else {
            return false;
        };
        *piece = part_of(page, word);
    }
    true
}

/// The same for one request alone, which is to `fill` them or not, and whose segments are all `whole` pages
/// or not. All or nothing.
fn map_once(
    cache: &mut GrantCache,
    words: &[u64],
    memory: &mut [Segment],
    maps: &mut MapBatch,
    fill: bool,
    whole: bool,
) -> bool {
    for (number, &word) in words.iter().enumerate() {
        let Some((page, op)) = cache.map_once(word as u32, !fill) else {
            let before = memory.iter().take(number);
            before.for_each(|piece| cache.let_go(piece.bus()));
            return false;
        };
        maps.push(op);
        memory[number] = match whole {
            true => Segment::page(page),
            false => part_of(page, word),
        };
    }
    true
}
