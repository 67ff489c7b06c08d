//! A disk in memory: for first looks, tests, and measuring everything but the disk.
//!
//! [`RamQueue`] is the disk and its DMA engine in one: the copy is done when a command is
//! submitted, by the core that submits it. Nothing outlives the domain.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spindle_hw::{BusMemory, DmaAlloc, PAGE_SIZE, SharedPages};

use crate::{
    Command, DiskQueue, IoError, IoResult, Op, SECTOR_SIZE, SubmitError, Tag, Unit, Volume,
};

/// The memory of a RAM disk, shared by the queues on it.
#[derive(Clone, Debug)]
pub struct RamDisk {
    chunks: Arc<[SharedPages]>,
    bytes: u64,
}

/// Bytes of memory that are asked for at once: large runs may not be had, small ones cost a
/// lookup table.
const CHUNK: usize = 1 << 20;

impl RamDisk {
    /// A zeroed RAM disk of `bytes`, rounded up to whole MiB; `None` if there is not the memory.
    pub fn new(bytes: u64, memory: &impl DmaAlloc) -> Option<Self> {
        let count = usize::try_from(bytes.div_ceil(CHUNK as u64)).ok()?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(chunk) = memory.alloc(CHUNK / PAGE_SIZE) else {
                chunks.drain(..).for_each(|chunk| memory.free(chunk));
                return None;
            };
            chunks.push(chunk);
        }
        Some(Self {
            chunks: chunks.into(),
            bytes: (count * CHUNK) as u64,
        })
    }

    /// The one volume on it.
    #[must_use]
    pub fn volume(&self, name: &str, disk: usize) -> Volume {
        Volume {
            name: String::from(name),
            aliases: Vec::new(),
            disk,
            unit: Unit(0),
            start: 0,
            sectors: self.bytes / SECTOR_SIZE,
            block_shift: 9,
            physical_block_shift: 12,
            read_only: false,
            write_cache: false,
            discard: None,
            description: format!("RAM disk, {} MiB", self.bytes >> 20),
        }
    }

    /// A queue for one core, of at most `depth` commands, that reaches its submitters' memory
    /// through `bus`.
    pub fn queue<B: BusMemory>(&self, depth: usize, bus: B) -> RamQueue<B> {
        RamQueue {
            disk: self.clone(),
            bus,
            done: VecDeque::with_capacity(depth),
            depth,
        }
    }

    /// Copies between the disk at byte `at` and the bus.
    fn transfer(
        &self,
        bus: &impl BusMemory,
        op: Op,
        mut at: u64,
        address: u64,
        len: usize,
    ) -> IoResult {
        let mut done = 0;
        while done < len {
            let offset = (at % CHUNK as u64) as usize;
            let piece = (len - done).min(CHUNK - offset);
            let chunk = usize::try_from(at / CHUNK as u64)
                .ok()
                .and_then(|i| self.chunks.get(i));
            let chunk = chunk.ok_or(IoError::Range)?;
            let there = address + done as u64;
            let ok = match op {
                Op::Read => bus.copy_to_bus(chunk, offset, there, piece),
                Op::Write | Op::WriteThrough => bus.copy_from_bus(there, chunk, offset, piece),
                Op::Flush | Op::Discard | Op::SecureDiscard => true,
            };
            if !ok {
                return Err(IoError::Transfer);
            }
            at += piece as u64;
            done += piece;
        }
        Ok(())
    }
}

/// One core's queue on a [`RamDisk`].
#[derive(Debug)]
pub struct RamQueue<B> {
    disk: RamDisk,
    bus: B,
    /// Never grows beyond `depth`, for which it has room from the start.
    done: VecDeque<(Tag, IoResult)>,
    depth: usize,
}

impl<B: BusMemory> RamQueue<B> {
    fn execute(&self, command: &Command<'_>) -> IoResult {
        let mut at = command
            .block
            .checked_shl(command.block_shift.into())
            .ok_or(IoError::Range)?;
        for segment in command.segments {
            let len = segment.len as usize;
            if at
                .checked_add(len as u64)
                .is_none_or(|end| end > self.disk.bytes)
            {
                return Err(IoError::Range);
            }
            self.disk
                .transfer(&self.bus, command.op, at, segment.bus, len)?;
            at += len as u64;
        }
        Ok(())
    }
}

impl<B: BusMemory> DiskQueue for RamQueue<B> {
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        if self.done.len() >= self.depth {
            return Err(SubmitError::Full);
        }
        if matches!(command.op, Op::Discard | Op::SecureDiscard) {
            return Err(SubmitError::Unsupported);
        }
        let result = self.execute(command);
        self.done.push_back((tag, result));
        Ok(())
    }

    fn commit(&mut self) {}

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        let count = self.done.len();
        self.done
            .drain(..)
            .for_each(|(tag, result)| done(tag, result));
        count
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn fail_all(&mut self, done: impl FnMut(Tag, IoResult)) {
        self.poll(done);
        self.depth = 0;
    }
}
