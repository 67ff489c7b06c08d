//! The data path of one virtqueue, but for its doorbell: from commands to requests and back.
//!
//! Each slot has an area for header and status, and a table of descriptors for its request. With
//! indirect descriptors the table is memory of its own and takes one place in the ring; without,
//! it is a fixed part of the ring's own table. Either way nothing is allocated, and no list of
//! free descriptors is kept.

mod build;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spindle_block::{Budget, Command, IoError, IoResult, Op, Part, SubmitError, Tag};
use spindle_hw::{DmaAlloc, PAGE_SIZE, SharedPages};

use crate::Error;
use crate::config::{Erase, Features, Geometry};
use crate::request::{AREA_LEN, Areas, ID_LEN, kind};
use crate::ring::{DESCRIPTOR, Ring, flag};
use crate::runs::Limits;
use crate::slots::{Finished, Next, Slots};

/// Descriptors of a request beside its data: header and status.
const FRAME: u16 = 2;
/// The most pieces of memory in one request: half a megabyte of single pages, and tables of 2 KiB.
const MAX_PIECES: u16 = 126;
/// The same where they take places in the ring.
const MAX_DIRECT_PIECES: u16 = 14;
/// Entries of the smallest usable ring: a request with one piece, rounded up.
pub(crate) const MIN_ENTRIES: u16 = 4;

/// All that there is room for.
const WHOLE: Budget = Budget {
    commands: usize::MAX,
    bytes: u32::MAX,
};

/// What a queue may ask of the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    pub(crate) block_shift: u8,
    pub(crate) flush: bool,
    pub(crate) discard: Option<Erase>,
    pub(crate) secure_erase: Option<Erase>,
}

/// One virtqueue and the requests in it.
#[derive(Debug)]
pub(crate) struct Engine {
    ring: Ring,
    areas: Areas,
    /// The slots' tables, with indirect descriptors.
    tables: Option<SharedPages>,
    /// Descriptors in a table.
    table: u16,
    slots: Slots,
    limits: Limits,
    abilities: Abilities,
    spurious: u64,
    /// All that was in flight has failed, and nothing more may be submitted.
    abandoned: bool,
    patience: Patience,
    /// Where it is notified, in the BAR of the notification registers.
    doorbell: usize,
}

/// How long a queue waits for an answer.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// In nanoseconds.
    pub(crate) limit_ns: u64,
    /// When to look next.
    pub(crate) look_ns: u64,
    /// Where the control core finds that it took longer.
    pub(crate) reports: Arc<Reports>,
}

/// What the queues of a device report to the control core.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// A queue has waited longer for an answer than it may take.
    pub(crate) late: AtomicBool,
    /// Entries of used rings that named no request in flight.
    pub(crate) spurious: AtomicU64,
}

impl Engine {
    /// A queue with a ring of `size` entries, a power of two of at least [`MIN_ENTRIES`], that is
    /// notified at `doorbell`.
    pub(crate) fn new(
        size: u16,
        doorbell: usize,
        features: Features,
        geometry: &Geometry,
        patience: Patience,
        memory: &impl DmaAlloc,
    ) -> Result<Self, Error> {
        let indirect = features.contains(Features::INDIRECT_DESC);
        let most = if indirect {
            MAX_PIECES
        } else {
            MAX_DIRECT_PIECES
        };
        // No request has more descriptors than the ring has entries (2.7.5.3.1).
        let announced = u16::try_from(geometry.max_pieces).unwrap_or(u16::MAX);
        let pieces = most.min(size - FRAME).min(announced);
        let table = pieces + FRAME;
        let count = if indirect { size } else { size / table };
        let pages = |bytes: usize| (usize::from(count) * bytes).div_ceil(PAGE_SIZE);
        let ring = Ring::new(size, memory).ok_or(Error::Memory)?;
        let Some(areas) = memory.alloc(pages(AREA_LEN)) else {
            ring.free(memory);
            return Err(Error::Memory);
        };
        let tables = indirect.then(|| memory.alloc(pages(usize::from(table) * DESCRIPTOR)));
        let tables = match tables {
            Some(None) => {
                ring.free(memory);
                memory.free(areas);
                return Err(Error::Memory);
            }
            tables => tables.flatten(),
        };
        Ok(Self {
            ring,
            areas: Areas(areas),
            tables,
            table,
            slots: Slots::new(count),
            limits: Limits {
                pieces: pieces.into(),
                piece: geometry.max_piece,
            },
            abilities: Abilities {
                block_shift: geometry.block_shift,
                flush: features.contains(Features::FLUSH),
                discard: geometry.discard,
                secure_erase: geometry.secure_erase,
            },
            spurious: 0,
            abandoned: false,
            patience,
            doorbell,
        })
    }

    /// Entries in the ring.
    pub(crate) fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Where the device finds the ring's three parts.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        self.ring.addresses()
    }

    /// Where it is notified.
    #[inline]
    pub(crate) fn doorbell(&self) -> usize {
        self.doorbell
    }

    /// The most requests that can be in flight at once.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Commands taken and not handed back.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.commands()
    }

    /// Entries of the used ring that named no request in flight.
    pub(crate) fn spurious(&self) -> u64 {
        self.spurious
    }

    /// Takes a command, as [`spindle_block::DiskQueue::submit`] does.
    #[inline]
    pub(crate) fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        match self.transfer_of(command.op) {
            Some(how) => self.transfer(command, how, tag),
            None => self.submit_other(command, tag),
        }
    }

    /// Takes a part of a command, as [`spindle_block::DiskQueue::submit_part`] does.
    pub(crate) fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        let Some(how) = self.transfer_of(command.op) else {
            // A discard goes on by itself, one request at a time.
            return self.submit_other(command, tag).map(|()| Part {
                blocks: command.blocks,
                commands: 1,
            });
        };
        let runs = self.runs(command).within(budget.bytes);
        let mut runs = runs.skip(from << self.abilities.block_shift);
        if runs.is_empty() {
            return Err(SubmitError::Scattered);
        }
        let part = self.build(command.block.wrapping_add(from), &mut runs, how.0, budget)?;
        if part.commands == 0 {
            return Err(SubmitError::Full);
        }
        self.begin_parts(part.commands, tag, how.1);
        Ok(part)
    }

    /// How many requests a command takes at first.
    pub(crate) fn requests(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
        if self.transfer_of(command.op).is_none() {
            return Ok(1);
        }
        let mut runs = self.runs(command);
        let mut count = 0;
        while let Some(run) = runs.next(|_, _, _| {}) {
            run.map_err(|_| SubmitError::Scattered)?;
            count += 1;
        }
        Ok(count)
    }

    /// The kind of request that moves a command's data, and what comes after; `None` for commands
    /// without data.
    fn transfer_of(&self, op: Op) -> Option<(u32, Next)> {
        match op {
            Op::Read => Some((kind::IN, Next::Done)),
            // virtio has no forced unit access. Where nothing can be flushed nothing is cached.
            Op::WriteThrough if self.abilities.flush => Some((kind::OUT, Next::Flush)),
            Op::Write | Op::WriteThrough => Some((kind::OUT, Next::Done)),
            Op::Flush | Op::Discard | Op::SecureDiscard => None,
        }
    }

    /// Asks for the disk's serial number; it has to be the only command.
    pub(crate) fn ask_id(&mut self) -> Option<u16> {
        let slot = self.slots.reserve(0)?;
        let bus = self.areas.id_bus(slot);
        self.describe(slot, 1, bus, ID_LEN as u32, flag::WRITE | flag::NEXT);
        self.frame(slot, kind::GET_ID, 0, 1);
        self.slots.begin(1, Tag(0), Next::Done, |_| {});
        self.ring.offer(self.head(slot));
        Some(slot)
    }

    /// The serial number that came in `slot`.
    pub(crate) fn id(&self, slot: u16) -> [u8; ID_LEN] {
        self.areas.id(slot)
    }

    /// The slot that the ring knows by `id`, if a request there is awaited.
    #[inline]
    fn slot(&self, id: u32) -> Option<u16> {
        let id = u16::try_from(id).ok()?;
        let slot = match self.tables {
            Some(_) => id,
            None if id.is_multiple_of(self.table) => id / self.table,
            None => return None,
        };
        self.slots.awaited(slot).then_some(slot)
    }

    fn sector(&self, block: u64) -> u64 {
        block.wrapping_shl(u32::from(self.abilities.block_shift) - 9)
    }

    /// Shows the device what was submitted; true if it has to be notified.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Whether a poll would find anything.
    #[inline]
    pub(crate) fn is_stirred(&self) -> bool {
        self.ring.has_used()
    }

    /// Hands every finished command to `done`; returns how many there were, and whether any
    /// went on to another request, which is to be published.
    #[inline]
    pub(crate) fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> (usize, bool) {
        let (mut count, mut more) = (0, false);
        // One turn of the ring at most: a device that keeps writing must not keep this core.
        for _ in 0..self.ring.size() {
            let Some(id) = self.ring.next_used() else {
                break;
            };
            // An entry that comes twice may name a slot that has another request by then: that one has
            // no status yet, and goes on.
            let slot = self.slot(id);
            let Some((slot, outcome)) = slot.and_then(|it| Some((it, self.areas.outcome(it)?)))
            else {
                self.note_spurious();
                continue;
            };
            match self.slots.finish(slot, outcome) {
                Finished::Nothing | Finished::Part => {}
                Finished::Command(leader, Ok(()), next) if next != Next::Done => {
                    let next = self.request(leader, next);
                    self.slots.again(leader, next);
                    self.ring.offer(self.head(leader));
                    more = true;
                }
                Finished::Command(leader, result, _) => {
                    count += 1;
                    done(self.slots.release(leader), result);
                }
            }
        }
        (count, more)
    }

    #[cold]
    fn note_spurious(&mut self) {
        self.spurious += 1;
        let all = &self.patience.reports.spurious;
        all.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the time, as [`spindle_block::DiskQueue::tick`] does.
    #[inline]
    pub(crate) fn tick(&mut self, now_ns: u64) {
        self.slots.tick(now_ns);
        if now_ns >= self.patience.look_ns {
            self.look();
            self.patience.look_ns = now_ns.saturating_add(self.patience.limit_ns / 8);
        }
    }

    /// Looks whether a request takes too long.
    #[cold]
    fn look(&self) {
        let oldest = self.slots.oldest();
        if oldest.is_some_and(|age| age > self.patience.limit_ns) {
            self.patience.reports.late.store(true, Ordering::Relaxed);
        }
    }

    /// Whether what was in flight has failed.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Hands every command in flight to `done` as failed. The device may still write to their memory.
    pub(crate) fn abandon(&mut self, mut done: impl FnMut(Tag, IoResult)) {
        self.abandoned = true;
        self.slots.abandon(|tag| done(tag, Err(IoError::Aborted)));
    }

    /// Gives the memory back, which the device must not reach any longer.
    pub(crate) fn free(self, memory: &impl DmaAlloc) {
        self.ring.free(memory);
        memory.free(self.areas.0);
        if let Some(tables) = self.tables {
            memory.free(tables);
        }
    }
}
