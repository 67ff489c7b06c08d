//! Reading a few blocks and waiting for them: what looks at a disk before guests are served.

use alloc::vec::Vec;

use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE, SharedPages};

use crate::{Command, DiskQueue, IoError, Op, Segment, SubmitError, Tag, Volume};

/// How long to wait for a block before guests are served: a disk that was switched on a moment ago may
/// still wake up, and what it cannot do just then is tried again for some 13 s, or for as long as it
/// asks for. Who does not wait that long loses the queue.
pub const PATIENCE_NS: u64 = 60_000_000_000;

/// Why blocks could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Beyond the end of the volume.
    #[error("address out of range")]
    Range,
    /// No page to read into.
    #[error("no memory")]
    NoMemory,
    /// The queue does not take the command.
    #[error("not taken: {0}")]
    NotTaken(#[from] SubmitError),
    /// The disk answered with an error.
    #[error(transparent)]
    Failed(#[from] IoError),
    /// Not read yet: see [`crate::TableReader`].
    #[error("not read yet")]
    Pending,
    /// The disk did not answer. The command is still with it: the queue must not be used any
    /// more.
    #[error("no answer in time")]
    TimedOut,
}

/// What a partition table is read from: a volume, or a disk's image in tests.
pub trait Blocks {
    /// log2 of the block size in bytes.
    fn block_shift(&self) -> u8;

    /// Number of blocks.
    fn count(&self) -> u64;

    /// Reads `out.len()` bytes, a whole number of blocks, from block `first` on.
    ///
    /// # Errors
    /// See [`ReadError`]; `out` may then hold a part.
    fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), ReadError>;
}

/// Reads a volume through an idle queue, page by page.
#[derive(Debug)]
pub struct BlockReader<'a, Q, C, M: DmaAlloc> {
    queue: &'a mut Q,
    volume: &'a Volume,
    clock: C,
    memory: M,
    /// `None` when it had to be left to a disk that does not answer.
    page: Option<SharedPages>,
    patience_ns: u64,
}

impl<'a, Q: DiskQueue, C: Clock, M: DmaAlloc> BlockReader<'a, Q, C, M> {
    /// A reader of `volume` that waits `patience_ns` for each page.
    ///
    /// # Errors
    /// [`ReadError::NoMemory`] if there is no page to read into.
    pub fn new(
        queue: &'a mut Q,
        volume: &'a Volume,
        clock: C,
        memory: M,
        patience_ns: u64,
    ) -> Result<Self, ReadError> {
        let page = Some(memory.alloc(1).ok_or(ReadError::NoMemory)?);
        Ok(Self {
            queue,
            volume,
            clock,
            memory,
            page,
            patience_ns,
        })
    }

    fn read_page(&mut self, first: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let page = self.page.as_ref().ok_or(ReadError::TimedOut)?;
        let segments = [Segment::new(
            page.bus(),
            u32::try_from(out.len()).map_err(|_| ReadError::Range)?,
        )];
        let command = Command {
            op: Op::Read,
            unit: self.volume.unit,
            block_shift: self.volume.block_shift,
            block: self.volume.start + first,
            blocks: 0,
            segments: &segments,
        };
        // What the disk has done with it before the first tick counts from that time, too.
        self.queue.tick(self.clock.now_ns());
        self.queue.submit(&command, Tag(0))?;
        self.queue.commit();
        let deadline = self.clock.now_ns().saturating_add(self.patience_ns);
        let mut answer = None;
        loop {
            self.queue.poll(|_, result| answer = Some(result));
            // What the disk could not do just then is tried again in time.
            self.queue.tick(self.clock.now_ns());
            match answer {
                Some(result) => break result?,
                None if self.clock.now_ns() >= deadline => {
                    // The disk may write to it at any time from now on: it is given up.
                    self.page = None;
                    return Err(ReadError::TimedOut);
                }
                None => self.clock.relax(),
            }
        }
        page.read_bytes(0, out);
        Ok(())
    }
}

impl<Q: DiskQueue, C: Clock, M: DmaAlloc> Blocks for BlockReader<'_, Q, C, M> {
    fn block_shift(&self) -> u8 {
        self.volume.block_shift
    }

    fn count(&self) -> u64 {
        self.volume.sectors / self.volume.sectors_per_block()
    }

    fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let size = 1 << self.volume.block_shift;
        let blocks = (out.len() / size) as u64;
        let end = first.checked_add(blocks).ok_or(ReadError::Range)?;
        if end > self.count() || !out.len().is_multiple_of(size) {
            return Err(ReadError::Range);
        }
        let mut first = first;
        for piece in out.chunks_mut(PAGE_SIZE) {
            self.read_page(first, piece)?;
            first += (piece.len() / size) as u64;
        }
        Ok(())
    }
}

impl<Q, C, M: DmaAlloc> Drop for BlockReader<'_, Q, C, M> {
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            self.memory.free(page);
        }
    }
}

/// Reads blocks into a buffer of their own.
pub(crate) fn read(from: &mut dyn Blocks, first: u64, blocks: usize) -> Result<Vec<u8>, ReadError> {
    let mut out = alloc::vec![0; blocks << from.block_shift()];
    from.read(first, &mut out)?;
    Ok(out)
}
