//! What the targets of disk drivers have in common: a queue whose books are kept, memory with
//! holes, and a clock.

use std::cell::Cell;
use std::collections::BTreeSet;

use spindle_block::{Command, DiskQueue, Segment, Tag};
use spindle_hw::{Clock, SharedPages};
use spindle_testkit::queue;

/// A clock that also moves when it is read, as real ones do.
#[derive(Default)]
pub(crate) struct Busy(Cell<u64>);

impl Clock for Busy {
    fn now_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1_000_000);
        self.0.get()
    }

    fn relax(&self) {
        self.0.set(self.0.get() + 50_000_000);
    }
}

/// One to eight of the pages, the first of them `first` bytes long.
pub(crate) fn pieces(memory: &SharedPages, count: u8, first: u32) -> Vec<Segment> {
    let mut segments = queue::pages(memory);
    segments.truncate(usize::from(count % 8) + 1);
    segments[0] = Segment::new(memory.bus(), first);
    segments
}

/// A queue of which each command must end exactly once.
pub(crate) struct Audited<Q> {
    pub(crate) queue: Q,
    awaited: BTreeSet<u32>,
    gone: bool,
}

impl<Q: DiskQueue> Audited<Q> {
    pub(crate) fn new(queue: Q) -> Self {
        Self {
            queue,
            awaited: BTreeSet::new(),
            gone: false,
        }
    }

    pub(crate) fn submit(&mut self, command: &Command<'_>, tag: u32) {
        if self.queue.submit(command, Tag(tag)).is_ok() {
            assert!(!self.gone, "taken by a queue that was given up");
            self.awaited.insert(tag);
        }
    }

    pub(crate) fn poll(&mut self) {
        let mut count = 0;
        let polled = self.queue.poll(|tag, _| {
            assert!(self.awaited.remove(&tag.0), "{tag:?} ended twice");
            count += 1;
        });
        assert_eq!(polled, count);
    }

    pub(crate) fn fail_all(&mut self) {
        let awaited = &mut self.awaited;
        self.queue
            .fail_all(|tag, _| assert!(awaited.remove(&tag.0)));
        assert!(awaited.is_empty(), "forgotten: {awaited:?}");
        self.gone = true;
    }

    pub(crate) fn commit(&mut self) {
        self.queue.commit();
    }

    pub(crate) fn queue_tick(&mut self, now_ns: u64) {
        self.queue.tick(now_ns);
    }

    /// The disk works again, with nothing in flight.
    pub(crate) fn come_back(&mut self) {
        assert!(self.awaited.is_empty());
        self.gone = false;
    }

    /// Holds what the queue says is in flight against what is.
    pub(crate) fn check(&self) {
        assert_eq!(self.queue.in_flight(), self.awaited.len());
    }
}
