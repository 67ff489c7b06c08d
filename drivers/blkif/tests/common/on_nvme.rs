//! A ring core on a real NVMe queue pair, whose controller does something only when it is run.
#![allow(unreachable_pub, reason = "each test file is a crate")]

use std::sync::Arc;

use spindle_blkif::abi::Abi;
use spindle_blkif::{Attachment, Config, Gate, RingCore, Session, Window};
use spindle_block::{DiskOptions, Volume};
use spindle_hw::DmaAlloc;
use spindle_nvme::{Controller, QueuePair};
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, FakeClock, journal};
use spindle_testkit::nvme::{self, FakeNvme};
use spindle_xen::DomId;
use spindle_xen::event::Port;

type Core = RingCore<QueuePair<FakeNvme>, &'static FakeGrants<'static>, &'static FakeEvents>;

/// The controller, its first namespace, and the core.
pub struct OnNvme {
    pub disk: FakeNvme,
    pub volume: Volume,
    pub core: Core,
    pub now: u64,
    grants: &'static FakeGrants<'static>,
    windows: u64,
}

impl OnNvme {
    /// A core with so many buffers.
    pub fn new(nvme: nvme::Config, core: Config, buffers: usize) -> Self {
        let bus: &'static Arc<FakeBus> = Box::leak(Box::new(Arc::new(FakeBus::new())));
        let config = nvme::Config {
            manual: true,
            ..nvme
        };
        let disk = FakeNvme::new(Arc::clone(bus), config);
        let clock: &'static FakeClock = Box::leak(Box::new(FakeClock::new(1_000_000)));
        let started = Controller::start(disk.clone(), clock, &**bus, DiskOptions::default());
        let mut controller = started.unwrap();
        let queue = controller.create_queue(disk.clone()).unwrap();
        let volume = controller.volumes(0, 0).remove(0);
        // It would switch the controller off.
        std::mem::forget(controller);
        let grants: &FakeGrants<'_> = Box::leak(Box::new(FakeGrants::new(bus)));
        let events: &FakeEvents = Box::leak(Box::default());
        let buffers = bus.alloc(buffers).unwrap();
        Self {
            disk,
            volume,
            core: RingCore::new(core, vec![queue], grants, events, buffers).unwrap(),
            now: 0,
            grants,
            windows: 0,
        }
    }

    /// A ring of `pages` pages of guest `dom`, which may have requests of so many segments.
    pub fn attach(
        &mut self,
        dom: u16,
        pages: usize,
        persistent: bool,
        segments: u16,
    ) -> Blkfront<'static> {
        let front = Blkfront::new(self.grants, DomId(dom), pages, 0);
        self.windows += 1;
        let base = (1 << 40) + (self.windows << 32);
        let attachment = Attachment {
            domain: DomId(dom),
            port: Port(dom.into()),
            volume: self.volume.clone(),
            abi: Abi::Native,
            start: 0,
            window: persistent.then(|| Window::new(base, 1056).unwrap()),
            persistent,
            indirect_segments: segments,
            gate: Gate::members(1).remove(0),
            claims: None,
            losses: Default::default(),
            journal: journal(&front.ring()),
        };
        let session = Session::new(front.ring(), attachment).unwrap();
        self.core.attach(session).unwrap();
        front
    }

    /// A visit of the core after so many nanoseconds.
    pub fn visit(&mut self, after_ns: u64) {
        self.now += after_ns;
        self.core.visit(self.now);
    }
}
