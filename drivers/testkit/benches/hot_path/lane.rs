//! One core with one ring, its frontend, and its disk.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use spindle_blkif::abi::{Abi, Operation, RING_HEADER};
use spindle_blkif::{Attachment, Config, Gate, RingCore, Session, Window};
use spindle_block::DiskOptions;
use spindle_hw::SharedPages;
use spindle_kept::AtWork;
use spindle_nvme::{Controller, QueuePair};
use spindle_testkit::mem::{FakeBus, FakeClock, journal};
use spindle_testkit::nvme::{self, Doorbells, FakeNvme, NamespaceConfig, NullNvme};
use spindle_xen::event::{Notify, Port};
use spindle_xen::grant::{CopyOp, GrantOps, MapOp, Status, UnmapOp};
use spindle_xen::{DomId, Errno};

use crate::case::{Case, Path};

/// Grants that can always be mapped and copied, at the price of one store.
pub(crate) struct FreeGrants(Cell<u32>);

impl GrantOps for FreeGrants {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        for op in ops {
            op.handle = self.0.replace(self.0.get() + 1);
            op.status = Status::OKAY;
        }
        Ok(())
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        ops.iter_mut().for_each(|op| op.status = Status::OKAY);
        Ok(())
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        ops.iter_mut().for_each(|op| op.status = Status::OKAY);
        Ok(())
    }

    fn read(&self, _at: u64, _words: &mut [u64]) -> bool {
        false
    }
}

/// Event channels that count.
pub(crate) struct FreeEvents(Cell<u64>);

impl Notify for FreeEvents {
    fn notify(&self, _port: Port) {
        self.0.set(self.0.get() + 1);
    }
}

pub(crate) type Core = RingCore<QueuePair<Doorbells>, FreeGrants, FreeEvents>;

/// Bytes of a request slot.
const SLOT: usize = 112;
const SLOTS: u32 = 32;
const REQ_PROD: usize = 0;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;
/// References below this are Xen's.
const FIRST_GREF: u64 = 8;
const PAGES: u64 = 256;

/// A frontend that asks for one page at a time.
struct Front {
    ring: SharedPages,
    operation: Operation,
    batch: u32,
    produced: u32,
}

impl Front {
    fn slot(index: u32) -> usize {
        RING_HEADER + SLOT * (index % SLOTS) as usize
    }

    /// Asks for a batch, with the next of its pages and a sector that depends on them.
    fn ask(&mut self) {
        for _ in 0..self.batch {
            let n = u64::from(self.produced);
            let words = self.ring.u64s_at::<4>(Self::slot(self.produced));
            words[0].store(u64::from(self.operation.0) | 1 << 8, Relaxed);
            words[1].store(n, Relaxed);
            words[2].store(n % PAGES * 8, Relaxed);
            words[3].store((FIRST_GREF + n % PAGES) | 7 << 40, Relaxed);
            self.produced = self.produced.wrapping_add(1);
        }
        self.ring.u32_at(REQ_PROD).store(self.produced, Release);
    }

    /// Takes the answers to a batch, which are all there and good.
    fn hear(&mut self) {
        assert_eq!(self.ring.u32_at(RSP_PROD).load(Acquire), self.produced);
        for back in 1..=self.batch {
            let words = self
                .ring
                .u64s_at::<2>(Self::slot(self.produced.wrapping_sub(back)));
            assert_eq!(words[1].load(Relaxed), self.operation.0.into());
        }
        // It wants to hear of the whole of the next batch, as a busy frontend does.
        let event = self.produced.wrapping_add(self.batch);
        self.ring.u32_at(RSP_EVENT).store(event, Release);
    }
}

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
        let attachment = Attachment {
            domain: DomId(1),
            port: Port(1),
            volume: controller.volumes(0, 0).remove(0),
            abi: Abi::Native,
            start: 0,
            window: (case.path == Path::Persistent).then(|| Window::new(1 << 40, 1024).unwrap()),
            persistent: true,
            indirect_segments: 0,
            gate: Gate::members(1).remove(0),
            claims: None,
            losses: Default::default(),
            journal: journal(&ring),
        };
        let session = Session::new(ring.alias(), attachment).expect("a session");
        let buffers = SharedPages::host(256, 1 << 32);
        let mut core = RingCore::new(
            Config::default(),
            vec![queue],
            FreeGrants(Cell::new(0)),
            FreeEvents(Cell::new(0)),
            buffers,
        )
        .expect("a core");
        // As the kernel does, a page each.
        let at_work = AtWork::at(SharedPages::host(1, 0), 0);
        core.note_work(at_work.expect("a page"));
        core.attach(session).expect("a ring");
        let operation = if case.write {
            Operation::WRITE
        } else {
            Operation::READ
        };
        let mut lane = Self {
            core,
            disk,
            front: Front {
                ring,
                operation,
                batch: case.batch,
                produced: 0,
            },
            now_ns: 0,
        };
        // Twice around everything: grants get mapped, queues and rings wrap.
        for _ in 0..2 * PAGES / u64::from(case.batch) {
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
        self.disk.run();
        self.now_ns += 4096;
        visit(&mut self.core, self.now_ns);
        self.front.hear();
    }
}

/// A visit to be measured, under a name that tools can find.
#[inline(never)]
pub(crate) fn measured_visit(core: &mut Core, now_ns: u64) {
    core.visit(now_ns);
}
