//! The driver on a fake device, and memory to transfer to and from.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use spindle_block::{DiskOptions, Segment};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_pci::{BarWindow, Bus, Placement};
use spindle_testkit::mem::{FakeBus, FakeClock};
use spindle_testkit::pci::FakePci;
use spindle_testkit::queue::pages;
use spindle_testkit::virtio::{Config, FakeVirtio};
use spindle_virtio::{BlockQueue, Disk, Error, Layout, LayoutError, PciTransport};

pub(crate) struct Rig {
    pub(crate) bus: Arc<FakeBus>,
    pub(crate) device: FakeVirtio,
}

pub(crate) type Running<'a> = Disk<FakeVirtio, FakeClock, &'a FakeBus>;
pub(crate) type Queue = BlockQueue<FakeVirtio>;

pub(crate) const OPTIONS: DiskOptions = DiskOptions {
    queues: 2,
    depth: 16,
    timeout: Duration::from_secs(30),
};

/// Finds the registers of the only function on a bus.
pub(crate) fn layout(pci: FakePci) -> Result<Layout, LayoutError> {
    let bus = Bus::new(pci);
    let function = bus.scan()[0];
    assert!(spindle_virtio::is_block_device(&function));
    let mut window = BarWindow::HVM;
    let bars = bus
        .enable(function.address, Placement::Assign(&mut window))
        .unwrap();
    let found = Layout::find(&bus, function.address, &bars);
    if let Ok(layout) = &found {
        assert_eq!(Layout::of_words(&layout.words()), *layout);
    }
    found
}

impl Rig {
    pub(crate) fn new(config: Config) -> Self {
        let bus = Arc::new(FakeBus::new());
        let device = FakeVirtio::new(bus.clone(), config);
        Self { bus, device }
    }

    pub(crate) fn start(&self) -> Result<Running<'_>, Error> {
        self.start_with(OPTIONS)
    }

    pub(crate) fn transport(&self) -> PciTransport<FakeVirtio> {
        let pci = FakePci::new();
        pci.insert((0, 5, 0), self.device.function());
        let layout = layout(pci).unwrap();
        let bar = |_| Ok::<_, ()>(self.device.clone());
        PciTransport::new(layout, bar).unwrap()
    }

    pub(crate) fn start_with(&self, options: DiskOptions) -> Result<Running<'_>, Error> {
        // A millisecond passes whenever the driver waits.
        let clock = FakeClock::new(1_000_000);
        Disk::start(self.transport(), clock, &*self.bus, options)
    }

    pub(crate) fn running(&self, options: DiskOptions) -> (Running<'_>, Queue) {
        let mut disk = self.start_with(options).unwrap();
        let queue = disk.create_queue(self.device.clone()).unwrap();
        (disk, queue)
    }

    pub(crate) fn memory(&self, pages: usize) -> SharedPages {
        self.bus.alloc(pages).unwrap()
    }

    pub(crate) fn obeyed(&self) {
        assert_eq!(self.device.violations(), Vec::<String>::new());
    }
}

/// The pages as segments of a page each, last page first: none follows the other in memory.
pub(crate) fn scattered(memory: &SharedPages) -> Vec<Segment> {
    let mut pages = pages(memory);
    pages.reverse();
    pages
}

pub(crate) fn fill(memory: &SharedPages, seed: u8) -> Vec<u8> {
    let data: Vec<u8> = (0..memory.len())
        .map(|i| (i / 512 + i % 251) as u8 ^ seed)
        .collect();
    memory.write_bytes(0, &data);
    data
}

pub(crate) fn contents(memory: &SharedPages) -> Vec<u8> {
    let mut data = vec![0; memory.len()];
    memory.read_bytes(0, &mut data);
    data
}
