//! The driver on a fake controller, and memory to transfer to and from.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use spindle_block::{
    Command, DiskOptions, DiskQueue, IoResult, Op, Segment, SubmitError, Tag, Unit,
};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_nvme::{Controller, Error, QueuePair};
use spindle_testkit::mem::{FakeBus, FakeClock};
use spindle_testkit::nvme::{Config, FakeNvme};

pub(crate) struct Rig {
    pub(crate) bus: Arc<FakeBus>,
    pub(crate) disk: FakeNvme,
    pub(crate) clock: FakeClock,
}

pub(crate) type Running<'a> = Controller<FakeNvme, &'a FakeClock, &'a FakeBus>;
pub(crate) type Queue = QueuePair<FakeNvme>;

pub(crate) const OPTIONS: DiskOptions = DiskOptions {
    queues: 2,
    depth: 16,
    timeout: Duration::from_secs(30),
};

impl Rig {
    pub(crate) fn new(config: Config) -> Self {
        let bus = Arc::new(FakeBus::new());
        let disk = FakeNvme::new(bus.clone(), config);
        // A millisecond passes whenever the driver waits.
        let clock = FakeClock::new(1_000_000);
        Self { bus, disk, clock }
    }

    pub(crate) fn start(&self) -> Result<Running<'_>, Error> {
        self.start_with(OPTIONS)
    }

    pub(crate) fn start_with(&self, options: DiskOptions) -> Result<Running<'_>, Error> {
        Controller::start(self.disk.clone(), &self.clock, &*self.bus, options)
    }

    pub(crate) fn running(&self, options: DiskOptions) -> (Running<'_>, Queue) {
        let mut controller = self.start_with(options).unwrap();
        let queue = controller.create_queue(self.disk.clone()).unwrap();
        (controller, queue)
    }

    pub(crate) fn memory(&self, pages: usize) -> SharedPages {
        self.bus.alloc(pages).unwrap()
    }

    pub(crate) fn obeyed(&self) {
        assert_eq!(self.disk.violations(), Vec::<String>::new());
    }
}

pub(crate) fn command(
    op: Op,
    unit: u32,
    shift: u8,
    block: u64,
    segments: &[Segment],
) -> Command<'_> {
    Command {
        op,
        unit: Unit(unit),
        block_shift: shift,
        block,
        blocks: 0,
        segments,
    }
}

pub(crate) fn discard(unit: u32, shift: u8, block: u64, blocks: u64) -> Command<'static> {
    Command {
        blocks,
        ..command(Op::Discard, unit, shift, block, &[])
    }
}

/// The pages as segments of a page each.
pub(crate) fn pages(memory: &SharedPages) -> Vec<Segment> {
    let starts = (0..memory.len()).step_by(4096);
    starts
        .map(|at| Segment {
            bus: memory.bus() + at as u64,
            len: 4096,
        })
        .collect()
}

pub(crate) fn drain(queue: &mut Queue) -> Vec<(u32, IoResult)> {
    let mut done = Vec::new();
    queue.poll(|tag, result| done.push((tag.0, result)));
    done
}

/// Submits, commits and expects the one answer at once.
pub(crate) fn complete(queue: &mut Queue, command: &Command<'_>) -> Result<IoResult, SubmitError> {
    queue.submit(command, Tag(7))?;
    queue.commit();
    let mut done = Vec::new();
    while queue.in_flight() > 0 && done.is_empty() {
        done = drain(queue);
    }
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].0, 7);
    Ok(done[0].1)
}
