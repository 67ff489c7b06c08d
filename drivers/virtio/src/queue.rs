//! A virtqueue with its doorbell, owned by one core.

use spindle_block::{Budget, Command, DiskQueue, IoResult, Part, SubmitError, Tag};
use spindle_hw::NarrowRegisters;

use crate::engine::Engine;

/// A virtqueue; made by [`crate::Disk::create_queue`] and given back to
/// [`crate::Disk::shutdown`].
///
/// Dropping one instead leaks its memory, which the device may still write to.
#[derive(Debug)]
pub struct BlockQueue<R> {
    pub(crate) engine: Engine,
    pub(crate) number: u16,
    /// The BAR with the notification registers.
    registers: R,
    doorbell: usize,
}

impl<R: NarrowRegisters> BlockQueue<R> {
    pub(crate) fn new(engine: Engine, number: u16, registers: R, doorbell: usize) -> Self {
        Self {
            engine,
            number,
            registers,
            doorbell,
        }
    }

    /// The number of the virtqueue, from 0.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The most requests that can be in flight at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.engine.capacity()
    }

    /// Entries of the used ring that named no request in flight: counted and ignored.
    #[must_use]
    pub fn spurious(&self) -> u64 {
        self.engine.spurious()
    }
}

impl<R: NarrowRegisters> DiskQueue for BlockQueue<R> {
    #[inline]
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        self.engine.submit(command, tag)
    }

    fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        self.engine.submit_part(command, from, budget, tag)
    }

    fn requests(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
        self.engine.requests(command)
    }

    fn depth(&self) -> usize {
        self.engine.capacity()
    }

    #[inline]
    fn commit(&mut self) {
        if self.engine.publish() {
            self.registers.write16(self.doorbell, self.number);
        }
    }

    #[inline]
    fn poll(&mut self, done: impl FnMut(Tag, IoResult)) -> usize {
        let (count, more) = self.engine.poll(done);
        if more {
            self.commit();
        }
        count
    }

    #[inline]
    fn in_flight(&self) -> usize {
        self.engine.in_flight()
    }

    #[inline]
    fn tick(&mut self, now_ns: u64) {
        self.engine.tick(now_ns);
    }

    fn fail_all(&mut self, done: impl FnMut(Tag, IoResult)) {
        self.engine.fail_all(done);
    }
}
