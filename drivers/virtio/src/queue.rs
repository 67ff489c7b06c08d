//! A virtqueue with its doorbell, owned by one core.

use alloc::sync::Arc;

use spindle_block::{Budget, Command, DiskQueue, IoResult, Part, SubmitError, Tag};
use spindle_hw::NarrowRegisters;

use crate::engine::Engine;
use crate::handover::Handover;

/// A virtqueue; made by [`crate::Disk::create_queue`] and given back to
/// [`crate::Disk::shutdown`].
///
/// After [`DiskQueue::fail_all`] it takes no commands until the device is back. Dropping one that has
/// not failed leaks its memory, which the device may still write to.
#[derive(Debug)]
pub struct BlockQueue<R> {
    /// `None` as long as the device is lost.
    pub(crate) engine: Option<Engine>,
    handover: Arc<Handover>,
    pub(crate) number: u16,
    /// Requests that can be in flight at once, by what was known when it was made.
    depth: usize,
    /// The BAR with the notification registers.
    registers: R,
}

impl<R: NarrowRegisters> BlockQueue<R> {
    pub(crate) fn new(
        engine: Option<Engine>,
        handover: Arc<Handover>,
        number: u16,
        depth: usize,
        registers: R,
    ) -> Self {
        Self {
            engine,
            handover,
            number,
            depth,
            registers,
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
        self.engine.as_ref().map_or(self.depth, Engine::capacity)
    }

    /// Entries of the used ring that named no request in flight: counted and ignored.
    #[must_use]
    pub fn spurious(&self) -> u64 {
        self.engine.as_ref().map_or(0, Engine::spurious)
    }

    /// The device is lost, or was when this core last looked. A queue that is taken gets the time at
    /// once: what is submitted before the next tick would seem to be as old as the domain.
    #[cold]
    fn look_for_another(&mut self, now_ns: u64) {
        self.engine = self.handover.pick_up();
        if let Some(engine) = &mut self.engine {
            engine.tick(now_ns);
        }
    }
}

impl<R: NarrowRegisters> DiskQueue for BlockQueue<R> {
    #[inline]
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        let engine = self.engine.as_mut().ok_or(SubmitError::Gone)?;
        engine.submit(command, tag)
    }

    fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        let engine = self.engine.as_mut().ok_or(SubmitError::Gone)?;
        engine.submit_part(command, from, budget, tag)
    }

    fn requests(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
        let engine = self.engine.as_ref().ok_or(SubmitError::Gone)?;
        engine.requests(command)
    }

    fn depth(&self) -> usize {
        self.capacity()
    }

    #[inline]
    fn commit(&mut self) {
        if let Some(engine) = &mut self.engine
            && engine.publish()
        {
            self.registers.write16(engine.doorbell(), self.number);
        }
    }

    #[inline]
    fn poll(&mut self, done: impl FnMut(Tag, IoResult)) -> usize {
        let Some(engine) = &mut self.engine else {
            return 0;
        };
        let (count, more) = engine.poll(done);
        if more {
            self.commit();
        }
        count
    }

    #[inline]
    fn in_flight(&self) -> usize {
        self.engine.as_ref().map_or(0, Engine::in_flight)
    }

    #[inline]
    fn is_stirred(&self) -> bool {
        self.engine.as_ref().is_some_and(Engine::is_stirred)
    }

    #[inline]
    fn tick(&mut self, now_ns: u64) {
        match &mut self.engine {
            Some(engine) => engine.tick(now_ns),
            None => self.look_for_another(now_ns),
        }
    }

    fn fail_all(&mut self, done: impl FnMut(Tag, IoResult)) {
        if let Some(mut engine) = self.engine.take() {
            engine.abandon(done);
            self.handover.keep(engine);
        }
    }
}
