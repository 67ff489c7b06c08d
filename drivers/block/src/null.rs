//! A disk that stores nothing and answers at once: `null0`. It shows what the backend alone can do,
//! as Linux' `null_blk` and SPDK's null bdev do for theirs.
//!
//! Writes and discards are dropped. Reads give zeroes: to leave the memory as it is would be
//! cheaper, but then a guest would read whatever it had in its own page, or in one of the backend's
//! buffers before, depending on the data path. A read thus costs one copy of memory, from a page
//! that stays in the cache.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spindle_hw::{BusMemory, DmaAlloc, PAGE_SIZE, SharedPages};

use crate::{
    BlockController, Command, Discard, DiskQueue, IoError, IoResult, Op, SECTOR_SIZE, SubmitError,
    Tag, Unit, Volume,
};

/// Commands that one core can have on a null disk at once.
const DEPTH: usize = 256;

/// A null disk with a name, which has as many queues as there are cores.
#[derive(Debug)]
pub struct NullController<B> {
    name: String,
    sectors: u64,
    zeroes: Arc<SharedPages>,
    bus: B,
}

impl<B> NullController<B> {
    /// Makes a null disk of `bytes`, rounded down to whole sectors of 512 bytes, whose queues reach
    /// their submitters' memory through `bus`. It takes one page of `memory` whatever its size.
    ///
    /// # Errors
    /// The reason, if there is no page left.
    pub fn new(name: String, bytes: u64, memory: &impl DmaAlloc, bus: B) -> Result<Self, String> {
        let zeroes = memory.alloc(1).ok_or("no memory for a page of zeroes")?;
        Ok(Self {
            name,
            sectors: bytes / SECTOR_SIZE,
            zeroes: Arc::new(zeroes),
            bus,
        })
    }
}

impl<B, Q> BlockController<Q> for NullController<B>
where
    B: BusMemory + Copy + core::fmt::Debug,
    Q: From<NullQueue<B>>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> u32 {
        0
    }

    fn volumes(&self, disk: usize) -> Vec<Volume> {
        Vec::from([Volume {
            name: self.name.clone(),
            aliases: Vec::new(),
            disk,
            unit: Unit(0),
            start: 0,
            sectors: self.sectors,
            block_shift: 9,
            physical_block_shift: 12,
            read_only: false,
            write_cache: false,
            // There is nothing that could be read again.
            discard: Some(Discard {
                granularity: SECTOR_SIZE as u32,
                alignment: 0,
                secure: true,
            }),
            description: String::from("null disk: writes are dropped, reads give zeroes"),
            map: None,
        }])
    }

    fn create_queue(&mut self) -> Result<Q, String> {
        let queue = NullQueue {
            sectors: self.sectors,
            zeroes: Arc::clone(&self.zeroes),
            bus: self.bus,
            taken: Vec::with_capacity(DEPTH),
            depth: DEPTH,
        };
        Ok(queue.into())
    }

    /// There is nothing to write out.
    fn shutdown(self: Box<Self>, _queues: Vec<Q>) -> Result<(), String> {
        Ok(())
    }
}

/// One core's queue on a null disk.
#[derive(Debug)]
pub struct NullQueue<B> {
    sectors: u64,
    /// A page of them.
    zeroes: Arc<SharedPages>,
    bus: B,
    /// What is answered by the next poll. Never grows beyond `depth`, for which it has capacity
    /// from the start.
    taken: Vec<(Tag, IoResult)>,
    depth: usize,
}

impl<B: BusMemory> NullQueue<B> {
    fn execute(&self, command: &Command<'_>) -> IoResult {
        let end = command.block.checked_add(command.total_blocks());
        if end.is_none_or(|end| end > self.sectors) {
            return Err(IoError::Range);
        }
        if command.op == Op::Read {
            for segment in command.segments {
                let len = segment.bytes() as usize;
                let zeroed =
                    len <= PAGE_SIZE && self.bus.copy_to_bus(&self.zeroes, 0, segment.bus(), len);
                if !zeroed {
                    return Err(IoError::Transfer);
                }
            }
        }
        Ok(())
    }
}

impl<B: BusMemory> DiskQueue for NullQueue<B> {
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        if self.taken.len() >= self.depth {
            return Err(match self.depth {
                0 => SubmitError::Gone,
                _ => SubmitError::Full,
            });
        }
        self.taken.push((tag, self.execute(command)));
        Ok(())
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn commit(&mut self) {}

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        let taken = self.taken.len();
        for (tag, result) in self.taken.drain(..) {
            done(tag, result);
        }
        taken
    }

    fn in_flight(&self) -> usize {
        self.taken.len()
    }

    /// What was taken is answered by the next poll, which no event announces.
    fn is_working(&self) -> bool {
        !self.taken.is_empty()
    }

    fn fail_all(&mut self, done: impl FnMut(Tag, IoResult)) {
        self.poll(done);
        self.depth = 0;
    }
}
