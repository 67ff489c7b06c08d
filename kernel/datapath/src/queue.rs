//! One core's queue on a disk, whatever kind the disk is.

use spindle_block::{Budget, Command, DiskQueue, IoResult, Part, RamQueue, SubmitError, Tag};
use spindle_hw::{IdentityMap, Mmio};
use spindle_nvme::QueuePair;
use spindle_virtio::BlockQueue;

/// One core's queue on a disk.
#[derive(Debug)]
pub enum Queue {
    /// Of an NVMe controller.
    Nvme(QueuePair<Mmio>),
    /// Of a virtio disk.
    Virtio(BlockQueue<Mmio>),
    /// Of a RAM disk.
    Ram(RamQueue<IdentityMap>),
    /// The disk had no queue left for this core: no ring on that disk is placed here.
    None,
}

impl Queue {
    /// Submits to any disk, by a call.
    #[inline(never)]
    fn submit_any(&mut self, command: Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        match self {
            Self::Nvme(queue) => queue.submit(&command, tag),
            Self::Virtio(queue) => queue.submit(&command, tag),
            Self::Ram(queue) => queue.submit(&command, tag),
            Self::None => Err(SubmitError::Gone),
        }
    }
}

impl DiskQueue for Queue {
    /// Without a call if it is an NVMe disk, whose own way is short. The others get a copy of the
    /// command: one that a call may see lies in memory, for whichever disk it is.
    #[inline(always)]
    fn submit(&mut self, command: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        match self {
            Self::Nvme(queue) => queue.submit(command, tag),
            other => other.submit_any(*command, tag),
        }
    }

    #[inline(never)]
    fn submit_part(
        &mut self,
        command: &Command<'_>,
        from: u64,
        budget: Budget,
        tag: Tag,
    ) -> Result<Part, SubmitError> {
        match self {
            Self::Nvme(queue) => queue.submit_part(command, from, budget, tag),
            Self::Virtio(queue) => queue.submit_part(command, from, budget, tag),
            Self::Ram(queue) => queue.submit_part(command, from, budget, tag),
            Self::None => Err(SubmitError::Gone),
        }
    }

    #[inline(never)]
    fn requests(&self, command: &Command<'_>) -> Result<usize, SubmitError> {
        match self {
            Self::Nvme(queue) => queue.requests(command),
            Self::Virtio(queue) => queue.requests(command),
            Self::Ram(queue) => queue.requests(command),
            Self::None => Err(SubmitError::Gone),
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Nvme(queue) => queue.depth(),
            Self::Virtio(queue) => queue.depth(),
            Self::Ram(queue) => queue.depth(),
            Self::None => 0,
        }
    }

    #[inline]
    fn commit(&mut self) {
        match self {
            Self::Nvme(queue) => queue.commit(),
            Self::Virtio(queue) => queue.commit(),
            Self::Ram(queue) => queue.commit(),
            Self::None => {}
        }
    }

    #[inline]
    fn poll(&mut self, done: impl FnMut(Tag, IoResult)) -> usize {
        match self {
            Self::Nvme(queue) => queue.poll(done),
            Self::Virtio(queue) => queue.poll(done),
            Self::Ram(queue) => queue.poll(done),
            Self::None => 0,
        }
    }

    #[inline]
    fn in_flight(&self) -> usize {
        match self {
            Self::Nvme(queue) => queue.in_flight(),
            Self::Virtio(queue) => queue.in_flight(),
            Self::Ram(queue) => queue.in_flight(),
            Self::None => 0,
        }
    }

    fn is_working(&self) -> bool {
        match self {
            Self::Ram(queue) => queue.is_working(),
            Self::Nvme(_) | Self::Virtio(_) | Self::None => false,
        }
    }

    #[inline]
    fn tick(&mut self, now_ns: u64) {
        match self {
            Self::Nvme(queue) => queue.tick(now_ns),
            Self::Virtio(queue) => queue.tick(now_ns),
            Self::Ram(_) | Self::None => {}
        }
    }

    fn fail_all(&mut self, done: impl FnMut(Tag, IoResult)) {
        match self {
            Self::Nvme(queue) => queue.fail_all(done),
            Self::Virtio(queue) => queue.fail_all(done),
            Self::Ram(queue) => queue.fail_all(done),
            Self::None => {}
        }
    }
}
