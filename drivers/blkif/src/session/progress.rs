//! How far a request has come that goes to the disk in parts, or through the buffers in chunks.
//!
//! A chunk is what a request has memory for: all of it where its pages are mapped, or as much as
//! there were buffers for. It is done when the disk has answered every part of it.

use spindle_block::{IoError, IoResult};
use spindle_hw::PAGE_SIZE;

/// Most requests go to the disk in one piece and need none of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Blocks of this chunk, or of a discard.
    pub(super) blocks: u64,
    /// Those of them that the disk was given.
    pub(super) sent: u64,
    /// Pages of the chunks that are done.
    pages: u16,
    /// Parts that the disk has not answered.
    parts: u16,
    /// Pages of them, as the scheduler counts.
    load: u16,
    error: Option<IoError>,
}

impl Progress {
    /// Of a request that has not come anywhere.
    pub(super) const NONE: Self = Self::of(0);

    /// Of a request that is for so many blocks, if it is for any without memory.
    pub(super) const fn of(blocks: u64) -> Self {
        Self {
            blocks,
            sent: 0,
            pages: 0,
            parts: 0,
            load: 0,
            error: None,
        }
    }

    /// Starts a chunk of `bytes` bytes, in blocks of 2 to the power of `shift`.
    #[inline]
    pub(super) fn begin(&mut self, bytes: u32, shift: u8) {
        self.blocks = u64::from(bytes >> (shift & 31));
        self.sent = 0;
    }

    /// Starts it again.
    pub(super) fn restart(&mut self) {
        self.sent = 0;
    }

    /// Ends a chunk that succeeded and is not the last: it is of whole pages.
    pub(super) fn next(&mut self, shift: u8) {
        self.pages += (self.chunk(shift) / PAGE_SIZE as u32) as u16;
        (self.blocks, self.sent) = (0, 0);
    }

    /// Bytes of the chunks that are done.
    pub(super) fn done(&self) -> u32 {
        u32::from(self.pages) * PAGE_SIZE as u32
    }

    /// Bytes of this chunk.
    pub(super) fn chunk(&self, shift: u8) -> u32 {
        (self.blocks << (shift & 31)) as u32
    }

    /// The disk was given a part.
    pub(super) fn give(&mut self, blocks: u64, load: u32) {
        self.sent += blocks;
        self.parts += 1;
        self.load = self.load.saturating_add(load as u16);
    }

    /// The disk has answered a part; returns the pages that it no longer has. With the last part
    /// all have been accounted for.
    pub(super) fn take(&mut self, result: IoResult) -> u32 {
        let load = self.load / self.parts.max(1);
        self.load -= load;
        self.parts = self.parts.saturating_sub(1);
        if let Err(error) = result {
            self.fail(error);
        }
        load.into()
    }

    /// Whether the disk was given any part of it.
    #[inline]
    pub(super) fn is_begun(&self) -> bool {
        self.sent > 0 || self.pages > 0 || self.parts > 0
    }

    /// Whether the disk has any part of it.
    pub(super) fn is_with_disk(&self) -> bool {
        self.parts > 0
    }

    /// A part of it has failed, or the rest of it will not be done, and why. The first reason counts,
    /// unless that is only that one of several disks does not know such commands.
    pub(super) fn fail(&mut self, why: IoError) {
        if matches!(self.error, None | Some(IoError::Unsupported)) {
            self.error = Some(why);
        }
    }

    /// Whether a part has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// How the parts so far ended; forgets it.
    pub(super) fn outcome(&mut self) -> IoResult {
        self.error.take().map_or(Ok(()), Err)
    }
}
