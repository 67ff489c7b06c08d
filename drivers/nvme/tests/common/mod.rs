//! The driver on a fake controller, and memory to transfer to and from.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod bed;

use std::sync::Arc;
use std::time::Duration;

use spindle_block::{Command, DiskOptions, Op, Segment, Unit};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_nvme::{Controller, Error, QueuePair};
use spindle_testkit::mem::{FakeBus, FakeClock};
use spindle_testkit::nvme::{Config, FakeNvme};
use spindle_testkit::queue;

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
        unit: Unit(unit),
        block_shift: shift,
        ..queue::command(op, block, segments)
    }
}

pub(crate) fn discard(unit: u32, shift: u8, block: u64, blocks: u64) -> Command<'static> {
    Command {
        blocks,
        ..command(Op::Discard, unit, shift, block, &[])
    }
}
