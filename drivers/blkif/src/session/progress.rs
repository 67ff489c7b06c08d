//! How far a request has come that goes to the disk in parts, or through the buffers in chunks.
//!
//! A chunk is what a request has memory for: all of it where its pages are mapped, or as much as
//! there were buffers for. It is done when the disk has answered every part of it.

use spindle_block::{IoError, IoResult};

/// Kept beside the slots, since most requests go to the disk in one piece and need none of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Bytes of the chunks that are done.
    pub(super) done: u32,
    /// Bytes of this chunk.
    pub(super) chunk: u32,
    /// Blocks of this chunk, or of a command without memory, that the disk was given.
    pub(super) sent: u64,
    /// Parts that the disk has not answered.
    parts: u16,
    /// Pages of them, as the scheduler counts.
    load: u16,
    error: Option<IoError>,
}

impl Progress {
    /// Starts a chunk of `bytes` bytes.
    pub(super) fn begin(&mut self, bytes: u32) {
        self.chunk = bytes;
        self.sent = 0;
    }

    /// Ends a chunk that succeeded.
    pub(super) fn next(&mut self) {
        self.done += self.chunk;
        self.begin(0);
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
        self.error = self.error.or(result.err());
        load.into()
    }

    /// Whether the disk has any part of it.
    pub(super) fn is_with_disk(&self) -> bool {
        self.parts > 0
    }

    /// The rest of it will not be done, and why.
    pub(super) fn fail(&mut self, why: IoError) {
        self.error.get_or_insert(why);
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
