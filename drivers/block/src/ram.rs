//! A disk in memory: for first looks, tests, and measuring everything but the disk.
//!
//! [`RamQueue`] is the disk and its DMA engine in one: the copy is done when a command is
//! submitted, by the core that submits it. Only what a discard gives up, which may be the whole
//! disk, is zeroed piece by piece as the core polls. It outlives the kernel
//! (`RamMemory`), but not the domain.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use spindle_hw::{BusMemory, DmaAlloc, SharedPages};

use crate::ram_memory::{CHUNK, RamMemory};
use crate::{
    Command, Discard, DiskQueue, IoError, IoResult, Op, SECTOR_SIZE, SubmitError, Tag, Unit, Volume,
};

/// The memory of a RAM disk, shared by the queues on it.
#[derive(Clone, Debug)]
pub struct RamDisk {
    chunks: Arc<[SharedPages]>,
    bytes: u64,
}

/// Bytes zeroed in one poll, about as many as a visit to a ring copies: other rings on the core
/// wait for no more than that.
const PIECE: u64 = 256 << 10;

impl RamDisk {
    /// A zeroed RAM disk of `bytes`, rounded up to whole MiB; `None` if there is not the memory.
    pub fn new(bytes: u64, memory: &impl DmaAlloc) -> Option<Self> {
        RamMemory::new(bytes, memory).map(Self::over)
    }

    /// A RAM disk over this memory, with what that holds.
    #[must_use]
    pub fn over(memory: RamMemory) -> Self {
        Self {
            bytes: memory.bytes(),
            chunks: memory.into_chunks().into(),
        }
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
            // Zeroed memory tells nothing of what was in it.
            discard: Some(Discard {
                granularity: SECTOR_SIZE as u32,
                alignment: 0,
                secure: true,
            }),
            description: format!("RAM disk, {} MiB", self.bytes >> 20),
            map: None,
        }
    }

    /// A queue for one core, of at most `depth` commands, that reaches its submitters' memory
    /// through `bus`.
    pub fn queue<B: BusMemory>(&self, depth: usize, bus: B) -> RamQueue<B> {
        RamQueue {
            disk: self.clone(),
            bus,
            taken: VecDeque::with_capacity(depth),
            depth,
        }
    }

    /// The chunk with byte `at`, and where in it that is.
    fn chunk(&self, at: u64) -> Result<(&SharedPages, usize), IoError> {
        let index = usize::try_from(at / CHUNK as u64).ok();
        let chunk = index.and_then(|index| self.chunks.get(index));
        Ok((chunk.ok_or(IoError::Range)?, (at % CHUNK as u64) as usize))
    }

    /// Whether bytes `at` to `at + len` are on the disk.
    fn check(&self, at: u64, len: u64) -> IoResult {
        match at.checked_add(len) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(IoError::Range),
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
            let (chunk, offset) = self.chunk(at)?;
            let piece = (len - done).min(CHUNK - offset);
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

/// How many bytes so many blocks of a command's are.
fn bytes(command: &Command<'_>, blocks: u64) -> Result<u64, IoError> {
    blocks
        .checked_mul(1 << command.block_shift)
        .ok_or(IoError::Range)
}

/// A command that was taken.
#[derive(Debug)]
struct Taken {
    tag: Tag,
    result: IoResult,
    /// Bytes of the disk that it has yet to zero; it is done when there are none.
    erase: Range<u64>,
}

impl Taken {
    /// Zeroes a piece.
    fn carry_on(&mut self, disk: &RamDisk) {
        match disk.chunk(self.erase.start) {
            Ok((chunk, offset)) => {
                let left = self.erase.end - self.erase.start;
                let piece = left.min(PIECE).min((CHUNK - offset) as u64);
                chunk.zero(offset, piece as usize);
                self.erase.start += piece;
            }
            Err(error) => (self.result, self.erase) = (Err(error), 0..0),
        }
    }
}

/// One core's queue on a [`RamDisk`].
#[derive(Debug)]
pub struct RamQueue<B> {
    disk: RamDisk,
    bus: B,
    /// In the order of submission. Never grows beyond `depth`, for which it has room from the
    /// start.
    taken: VecDeque<Taken>,
    depth: usize,
}

impl<B: BusMemory> RamQueue<B> {
    fn execute(&self, command: &Command<'_>) -> IoResult {
        let mut at = bytes(command, command.block)?;
        for segment in command.segments {
            let len = segment.bytes() as usize;
            self.disk.check(at, len as u64)?;
            self.disk
                .transfer(&self.bus, command.op, at, segment.bus(), len)?;
            at += len as u64;
        }
        Ok(())
    }

    /// The bytes that a discard gives up.
    fn erasure(&self, command: &Command<'_>) -> Result<Range<u64>, IoError> {
        let (at, len) = (
            bytes(command, command.block)?,
            bytes(command, command.blocks)?,
        );
        self.disk.check(at, len)?;
        Ok(at..at + len)
    }
}

impl<B: BusMemory> DiskQueue for RamQueue<B> {
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        if self.taken.len() >= self.depth {
            return Err(match self.depth {
                0 => SubmitError::Gone,
                _ => SubmitError::Full,
            });
        }
        let outcome = match command.op {
            Op::Discard | Op::SecureDiscard => self.erasure(command),
            _ => self.execute(command).map(|()| 0..0),
        };
        let (result, erase) = match outcome {
            Ok(erase) => (Ok(()), erase),
            Err(error) => (Err(error), 0..0),
        };
        self.taken.push_back(Taken { tag, result, erase });
        Ok(())
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn commit(&mut self) {}

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        let taken = self.taken.len();
        let mut erased = false;
        for _ in 0..taken {
            let Some(mut command) = self.taken.pop_front() else {
                break;
            };
            // The oldest goes on; the others come after it.
            if !command.erase.is_empty() && !core::mem::replace(&mut erased, true) {
                command.carry_on(&self.disk);
            }
            if command.erase.is_empty() {
                done(command.tag, command.result);
            } else {
                self.taken.push_back(command);
            }
        }
        taken - self.taken.len()
    }

    fn in_flight(&self) -> usize {
        self.taken.len()
    }

    fn is_working(&self) -> bool {
        self.taken.iter().any(|command| !command.erase.is_empty())
    }

    fn fail_all(&mut self, mut done: impl FnMut(Tag, IoResult)) {
        while let Some(command) = self.taken.pop_front() {
            let result = match command.erase.is_empty() {
                true => command.result,
                false => Err(IoError::Aborted),
            };
            done(command.tag, result);
        }
        self.depth = 0;
    }
}
