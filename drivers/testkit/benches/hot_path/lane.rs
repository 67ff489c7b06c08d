//! One core with one ring, its frontend, and its disk.

use std::cell::Cell;
use std::sync::Arc;

use spindle_blkif::abi::{Abi, MAX_INDIRECT_SEGMENTS, MAX_SEGMENTS};
use spindle_blkif::{Attachment, Config, Gate, RingCore, Session, Window};
use spindle_block::DiskOptions;
use spindle_hw::SharedPages;
use spindle_kept::AtWork;
use spindle_nvme::{Controller, QueuePair};
use spindle_testkit::mem::{FakeBus, FakeClock, journal};
use spindle_testkit::nvme::{self, Doorbells, FakeNvme, NamespaceConfig, NullNvme};
use spindle_xen::DomId;
use spindle_xen::event::{Notify, Port};

use crate::case::{Case, Path};
use crate::front::Front;
use crate::grants::FreeGrants;

/// Where grants are mapped.
const WINDOW: u64 = 1 << 40;
/// Where the buffers are.
const BUFFERS: u64 = 1 << 32;

/// Event channels that count.
pub(crate) struct FreeEvents(Cell<u64>);

impl Notify for FreeEvents {
    fn notify(&self, _port: Port) {
        self.0.set(self.0.get() + 1);
    }
}

pub(crate) type Core = RingCore<QueuePair<Doorbells>, FreeGrants, FreeEvents>;

/// A core and all that it serves and is served by.
pub(crate) struct Lane {
    core: Core,
    disk: NullNvme,
    front: Front,
    now_ns: u64,
}

impl Lane {
    pub(crate) fn new(case: Case) -> Self {
        let bus = Arc::new(FakeBus::new());
        let config = nvme::Config {
            namespaces: vec![NamespaceConfig::new(1, 1 << 20, 9).null()],
            ..nvme::Config::default()
        };
        let fake = FakeNvme::new(Arc::clone(&bus), config);
        let clock = FakeClock::new(1000);
        let mut controller = Controller::start(fake.clone(), clock, &*bus, DiskOptions::default())
            .expect("a controller");
        let doorbells = Doorbells::default();
        let queue = controller.create_queue(doorbells.clone()).expect("a queue");
        let disk = fake.take_over(queue.id(), doorbells).expect("the same");
        let ring = SharedPages::host(1, 0);
        let front = Front::new(case, ring.alias());
        let large = usize::from(case.pages) > MAX_SEGMENTS;
        let frames = if case.is_large() { 1056 } else { 1024 };
        let attachment = Attachment {
            domain: DomId(1),
            port: Port(1),
            volume: controller.volumes(0, 0).remove(0),
            abi: Abi::Native,
            start: 0,
            window: (case.path != Path::Copy).then(|| Window::new(WINDOW, frames).unwrap()),
            persistent: case.path == Path::Persistent,
            indirect_segments: if large {
                MAX_INDIRECT_SEGMENTS as u16
            } else {
                0
            },
            gate: Gate::members(1).remove(0),
            claims: None,
            losses: Default::default(),
            journal: journal(&ring),
        };
        let session = Session::new(ring, attachment).expect("a session");
        let buffers = SharedPages::host(if large { 1024 } else { 256 }, BUFFERS);
        let mut config = Config::default();
        if large {
            // As the kernel has it.
            config.segments = MAX_INDIRECT_SEGMENTS;
            config.copy_batch = config.copy_batch.max(2 * MAX_INDIRECT_SEGMENTS);
        }
        let lists = front.lists().map(|lists| (lists, buffers.alias()));
        let mut core = RingCore::new(
            config,
            vec![queue],
            FreeGrants::new(lists, WINDOW, frames, BUFFERS),
            FreeEvents(Cell::new(0)),
            buffers,
        )
        .expect("a core");
        // As the kernel does, a page each.
        let at_work = AtWork::at(SharedPages::host(1, 0), 0);
        core.note_work(at_work.expect("a page"));
        core.attach(session).expect("a ring");
        let mut lane = Self {
            core,
            disk,
            front,
            now_ns: 0,
        };
        // Twice around everything: grants get mapped, queues and rings wrap.
        let pages = u64::from(case.batch) * u64::from(case.pages);
        for _ in 0..(2 * case.in_turn / pages).max(16) {
            lane.turn(|core, now_ns| {
                core.visit(now_ns);
            });
        }
        lane
    }

    /// One batch, from the frontend and back to it; each visit through `visit`.
    #[inline]
    pub(crate) fn turn(&mut self, mut visit: impl FnMut(&mut Core, u64)) {
        self.front.ask();
        visit(&mut self.core, self.now_ns);
        // As often as it takes large requests to get their lists and go through the buffers.
        loop {
            self.disk.run();
            self.now_ns += 4096;
            visit(&mut self.core, self.now_ns);
            if self.front.is_answered() {
                break;
            }
        }
        self.front.hear();
    }
}

/// A visit to be measured, under a name that tools can find.
#[inline(never)]
pub(crate) fn measured_visit(core: &mut Core, now_ns: u64) {
    core.visit(now_ns);
}
