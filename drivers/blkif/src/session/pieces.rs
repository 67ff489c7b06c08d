//! From the line to the disks, for a volume that is spread over several runs of blocks: each request in
//! as many pieces as it meets runs, and in further parts where a disk takes less.
//!
//! A piece is cut when it is its turn, so that a request of a thousand pieces takes no more memory than
//! one, and waits in line, with what is left of it, for places in the queue of the next disk. What is
//! behind it waits as well, also for other disks: the order of a ring's requests is kept.
//!
//! A request is answered when no disk has any piece of it, with the worst that came of one. A flush goes
//! to all disks that have a cache at once. Of a discard one piece is with a disk at a time.

use spindle_block::{Budget, Command, DiskQueue, IoResult, Map, Op, Part, Place, SubmitError};
use spindle_hw::PAGE_SIZE;

use super::Session;
use super::slot::{Path, State};
use super::spread::{Spread, piece_tag, split};
use super::submit::{MOST_COMMANDS, is_in_pieces, pages_of};
use crate::pool::BufferPool;
use crate::ring_core::{Disk, Shared};
use crate::scheduler::{DISCARD_COST, FLUSH_COST};
use crate::stats::RingStats;

/// Why a disk was not given the next piece.
enum Refusal {
    /// Not now: it waits for its turn with the disk of this share, or has no credit there.
    NotNow(Option<usize>),
    /// It will never be.
    Failed(SubmitError),
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        Self::Failed(error)
    }
}

impl Session {
    /// Submits what is ready, in line order, as far as the credit goes that there is for each disk.
    pub(crate) fn submit_spread<Q: DiskQueue>(
        &mut self,
        ring: u16,
        disks: &mut [Disk<Q>],
        shared: &mut Shared,
    ) {
        let Some(mut spread) = self.spread.take() else {
            return;
        };
        let waits = match spread.paused {
            false => self.submit_pieces(&mut spread, ring, disks, shared),
            true => None,
        };
        for (at, share) in spread.shares().iter().enumerate() {
            if waits != Some(at)
                && let Some(disk) = disks.get_mut(share.disk)
            {
                disk.waiting.leave(ring);
            }
        }
        self.spread = Some(spread);
    }

    /// The same; gives the share whose disk it waits for a place with.
    fn submit_pieces<Q: DiskQueue>(
        &mut self,
        spread: &mut Spread,
        ring: u16,
        disks: &mut [Disk<Q>],
        shared: &mut Shared,
    ) -> Option<usize> {
        while let Some(index) = self.line.get(0)
            && self.slots[usize::from(index)].state == State::Ready
        {
            let begun = self.slots[usize::from(index)].progress.sent > 0;
            self.note_turn(index);
            let sent = if self.is_empty() {
                Err(SubmitError::Gone.into())
            } else if !begun && self.step_aside(ring, index, &mut shared.turns) {
                continue;
            } else if self.is_fill_due(index) {
                self.fill_next(spread, ring, index, disks)
            } else {
                self.submit_piece(spread, ring, index, disks)
            };
            match sent {
                Ok(()) => {}
                Err(Refusal::NotNow(share)) => return share,
                Err(Refusal::Failed(SubmitError::Scattered))
                    if self.slots[usize::from(index)].path == Path::Mapped =>
                {
                    self.copy_instead(index, shared);
                    return None;
                }
                Err(Refusal::Failed(error)) => {
                    self.give_up(index, error, shared);
                    if self.has_aside() {
                        self.resume(ring, &mut shared.turns, &mut shared.pool);
                    }
                }
            }
        }
        None
    }

    /// Gives a disk the next piece of the request at the head of the line, or a part of it. The request
    /// leaves the line with the last of what it has memory for.
    fn submit_piece<Q: DiskQueue>(
        &mut self,
        spread: &mut Spread,
        ring: u16,
        index: u16,
        disks: &mut [Disk<Q>],
    ) -> Result<(), Refusal> {
        let slot = &mut self.slots[usize::from(index)];
        let map = self.volume.map.as_deref().ok_or(SubmitError::Gone)?;
        if slot.failed {
            return Err(SubmitError::Gone.into());
        }
        let shift = self.volume.block_shift;
        let place = match slot.op {
            Op::Flush => {
                slot.progress.blocks = caches(map).count() as u64;
                caches(map).nth(slot.progress.sent as usize)
            }
            Op::Discard | Op::SecureDiscard => {
                map.gather(slot.block, slot.progress.blocks, slot.progress.sent)
            }
            _ => {
                let done = u64::from(slot.progress.done() >> (shift & 31));
                map.locate(slot.block.saturating_add(done + slot.progress.sent))
            }
        };
        let place = place.ok_or(SubmitError::Gone)?;
        let (share, disk) = admitting(spread, &place, ring, disks)?;
        let mut command = Command {
            op: slot.op,
            unit: place.unit,
            block_shift: shift,
            block: place.block,
            blocks: 0,
            segments: &[],
        };
        if slot.has_data() {
            let blocks = place.blocks.min(slot.progress.blocks - slot.progress.sent);
            let bytes = |blocks: u64| (blocks << (shift & 31)) as u32;
            let memory = slot.pieces(&self.arena);
            spread.cut(index, memory, bytes(slot.progress.sent), bytes(blocks));
            command.segments = spread.piece();
            let cached = map.disks().get(place.part).is_some_and(|it| it.write_cache);
            if command.op == Op::WriteThrough && !cached {
                command.op = Op::Write;
            }
            let (sectors, count) = (bytes(blocks) / 512, command.segments.len());
            if slot.path == Path::Mapped && is_in_pieces(sectors, count as u16) {
                let pages = pages_of(sectors).min(count);
                if disk.queue.requests(&command)? > MOST_COMMANDS.max(pages) {
                    return Err(SubmitError::Scattered.into());
                }
            }
        } else if slot.op != Op::Flush {
            command.blocks = place.blocks;
        }
        let credit = spread.credit(share);
        let budget = Budget {
            commands: if slot.has_data() { credit as usize } else { 1 },
            bytes: credit.saturating_mul(PAGE_SIZE as u32),
        };
        let tag = piece_tag(ring, index, share);
        let part = disk.queue.submit_part(&command, 0, budget, tag);
        let Part { blocks, commands } =
            part.map_err(|error| refused(error, spread, share, disk, ring, &self.stats))?;
        let (blocks, load, cost) = match slot.op {
            Op::Flush => (1, 0, FLUSH_COST),
            Op::Discard | Op::SecureDiscard => (blocks, 0, DISCARD_COST),
            _ => {
                let pages = (blocks << (shift & 31)).div_ceil(PAGE_SIZE as u64) as u32;
                let load = pages.max(commands as u32);
                (blocks, load, load)
            }
        };
        slot.progress.give(blocks, 0);
        spread.give(index, share, load, cost);
        let all = slot.progress.sent >= slot.progress.blocks;
        if all || !(slot.has_data() || slot.op == Op::Flush) {
            self.slots[usize::from(index)].state = State::InFlight;
            self.leave_line();
        }
        Ok(())
    }

    /// Has the next block at an end of a chunk read, for the request at the head of the line, which
    /// leaves the line with the last of them.
    #[cold]
    fn fill_next<Q: DiskQueue>(
        &mut self,
        spread: &mut Spread,
        ring: u16,
        index: u16,
        disks: &mut [Disk<Q>],
    ) -> Result<(), Refusal> {
        if self.slots[usize::from(index)].failed {
            return Err(SubmitError::Gone.into());
        }
        let Some((block, piece)) = self.next_fill(index) else {
            self.slots[usize::from(index)].state = State::InFlight;
            self.leave_line();
            return Ok(());
        };
        let map = self.volume.map.as_deref();
        let place = map.and_then(|map| map.locate(block));
        let place = place.ok_or(SubmitError::Gone)?;
        let (share, disk) = admitting(spread, &place, ring, disks)?;
        let command = self.fill_command(place.unit, place.block, &piece);
        let given = disk.queue.submit(&command, piece_tag(ring, index, share));
        given.map_err(|error| refused(error, spread, share, disk, ring, &self.stats))?;
        self.slots[usize::from(index)].progress.give(1, 0);
        spread.give(index, share, 1, 1);
        Ok(())
    }

    /// A disk is done with a piece of a request, unless it makes that up.
    #[cold]
    pub(super) fn complete_piece(
        &mut self,
        tagged: u16,
        result: IoResult,
        now_ns: u64,
        shared: &mut Shared,
    ) {
        if let Some(spread) = &mut self.spread
            && let Some((slot, share)) = split(tagged)
            && usize::from(slot) < self.slots.len()
            && spread.take(slot, share)
        {
            self.complete(slot, result, now_ns, shared);
        }
    }

    /// No page that requests in line have is mapped any longer: they wait for memory again, or fail if a
    /// disk has a piece of them.
    #[cold]
    pub(super) fn take_back_mapped(&mut self, pool: &mut BufferPool) {
        self.ready = 0;
        for at in 0..self.line.len() {
            if let Some(index) = self.line.get(at)
                && self.slots[usize::from(index)].path == Path::Mapped
                && !self.take_back(index, pool)
            {
                self.slots[usize::from(index)].failed = true;
            }
        }
    }
}

/// The share and the disk of a place, if a ring may give it a piece now.
fn admitting<'a, Q>(
    spread: &Spread,
    place: &Place,
    ring: u16,
    disks: &'a mut [Disk<Q>],
) -> Result<(usize, &'a mut Disk<Q>), Refusal> {
    let share = spread.share_of(place.part);
    let disk = spread.disk(share, disks).ok_or(SubmitError::Gone)?;
    if spread.credit(share) == 0 {
        return Err(Refusal::NotNow(None));
    }
    if !disk.waiting.admits(ring) {
        return Err(Refusal::NotNow(Some(share)));
    }
    Ok((share, disk))
}

/// A disk's queue has not taken a ring's piece: if it is full, that is noted, and the ring waits.
fn refused<Q>(
    error: SubmitError,
    spread: &Spread,
    share: usize,
    disk: &mut Disk<Q>,
    ring: u16,
    stats: &RingStats,
) -> Refusal {
    if error != SubmitError::Full {
        return Refusal::Failed(error);
    }
    stats.out_of_room.add(1);
    disk.note_full(ring, spread.has_sent(share));
    Refusal::NotNow(Some(share))
}

/// The disks with a write cache, as places to flush.
fn caches(map: &Map) -> impl Iterator<Item = Place> {
    let disks = map.disks().iter().enumerate();
    let cached = disks.filter(|(_, disk)| disk.write_cache);
    cached.map(|(part, disk)| Place {
        part,
        unit: disk.unit,
        block: 0,
        blocks: 1,
    })
}
