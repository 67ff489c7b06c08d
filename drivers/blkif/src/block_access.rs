//! An access to a few blocks that control asks of a ring core, beside what the rings ask for: a read of
//! the partition table of a disk that has come while guests are served, or a write of metadata that an
//! administrator changes.
//!
//! A core has one at a time. It gets the first place in the disk's queue that is free, before the
//! rings, which may take all there are again and again. Its memory is given back only when the disk does
//! not write to it any longer.

use alloc::boxed::Box;
use core::slice;

use spindle_block::{Command, DiskQueue, IoResult, Op, ReadError, Segment, SubmitError, Tag, Unit};
use spindle_hw::SharedPages;

/// The tag of the command. No ring has the place that it names.
pub(crate) const TAG: Tag = Tag(u32::MAX);

/// What is to be read or written, and the outcome.
#[derive(Debug)]
pub struct BlockAccess {
    /// Control's name for it.
    pub token: u64,
    /// [`Op::Read`], [`Op::Write`], or [`Op::Flush`], which has neither block nor bytes.
    pub op: Op,
    /// The disk.
    pub disk: usize,
    /// Which part of it.
    pub unit: Unit,
    /// log2 of the disk's block size in bytes.
    pub block_shift: u8,
    /// First block on the unit.
    pub block: u64,
    /// Bytes: whole blocks, at most a page.
    pub bytes: u32,
    /// Where to or from; `None` if a disk that cannot be kept from memory may still reach it.
    pub page: Option<SharedPages>,
    /// The outcome; [`ReadError::Pending`] before there is one.
    pub outcome: Result<(), ReadError>,
}

/// The access that a core has.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    read: Option<Box<BlockAccess>>,
    /// The disk has it.
    submitted: bool,
}

impl Reading {
    /// Takes on a read.
    ///
    /// # Errors
    /// With the read, if there is one already.
    pub(crate) fn begin(&mut self, read: Box<BlockAccess>) -> Result<(), Box<BlockAccess>> {
        if self.read.is_some() {
            return Err(read);
        }
        (self.read, self.submitted) = (Some(read), false);
        Ok(())
    }

    /// Whether there is one.
    pub(crate) fn is_some(&self) -> bool {
        self.read.is_some()
    }

    /// The disk that it is of.
    pub(crate) fn disk(&self) -> Option<usize> {
        self.read.as_ref().map(|read| read.disk)
    }

    /// Submits it if that is still to be done, to the queue of its disk by `queue`.
    #[cold]
    pub(crate) fn submit<'a, Q: DiskQueue + 'a>(
        &mut self,
        queue: impl FnOnce(usize) -> Option<&'a mut Q>,
    ) {
        let waiting = self.read.as_mut().filter(|_| !self.submitted);
        if let Some(read) = waiting.filter(|read| read.outcome == Err(ReadError::Pending)) {
            match submit(read, queue(read.disk)) {
                Ok(()) => self.submitted = true,
                Err(SubmitError::Full) => {}
                Err(error) => read.outcome = Err(error.into()),
            }
        }
    }

    /// Gives it back once it has ended.
    pub(crate) fn take_ended(&mut self) -> Option<Box<BlockAccess>> {
        let is_over = |read: &mut Box<BlockAccess>| read.outcome != Err(ReadError::Pending);
        self.read.take_if(is_over)
    }

    /// The command with [`TAG`] has ended.
    #[cold]
    pub(crate) fn complete(&mut self, tag: Tag, result: IoResult) {
        if let Some(read) = self.read.as_mut().filter(|_| tag == TAG && self.submitted) {
            read.outcome = result.map_err(ReadError::Failed);
        }
    }

    /// Nothing more is submitted to `unit` of `disk`.
    pub(crate) fn remove(&mut self, disk: usize, unit: Unit) {
        let submitted = self.submitted;
        let waiting = self.read.as_mut().filter(|_| !submitted);
        if let Some(read) = waiting.filter(|read| (read.disk, read.unit) == (disk, unit)) {
            read.outcome = Err(SubmitError::Gone.into());
        }
    }

    /// `disk` may write to its memory at any time from now on: the page is given up.
    pub(crate) fn cut_off(&mut self, disk: usize) {
        let submitted = self.submitted;
        if let Some(read) = self.read.as_mut().filter(|r| submitted && r.disk == disk) {
            read.page = None;
        }
    }
}

fn submit<Q: DiskQueue>(read: &BlockAccess, queue: Option<&mut Q>) -> Result<(), SubmitError> {
    let queue = queue.ok_or(SubmitError::Gone)?;
    let page = read.page.as_ref().ok_or(SubmitError::Gone)?;
    let segment;
    let segments = if read.op == Op::Flush {
        &[]
    } else {
        segment = Segment::new(page.bus(), read.bytes);
        slice::from_ref(&segment)
    };
    let command = Command {
        op: read.op,
        unit: read.unit,
        block_shift: read.block_shift,
        block: read.block,
        blocks: 0,
        segments,
    };
    queue.submit(&command, TAG)?;
    queue.commit();
    Ok(())
}
