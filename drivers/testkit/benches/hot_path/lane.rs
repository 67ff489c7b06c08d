//! One core with a ring that has requests, its frontend, and its disk; and with rings and disks that
//! have none.

// UNSAFETY: memory stands in for registers.
#![expect(unsafe_code)]

use std::cell::Cell;
use std::sync::Arc;

use spindle_blkif::abi::{Abi, MAX_INDIRECT_SEGMENTS};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::{Attachment, Config, Counted, Gate, RingShare, Session, Window};
use spindle_block::{DiskOptions, Volume};
use spindle_control::CoreWorker;
use spindle_datapath::{Core, Grants, Queue, RingWorker};
use spindle_hw::{Mmio, SharedPages};
use spindle_kept::AtWork;
use spindle_limits::{IoLimits, Meters};
use spindle_nvme::{Controller, QueuePair};
use spindle_testkit::mem::{FakeBus, FakeClock, journal};
use spindle_testkit::nvme::{self, FakeNvme, NamespaceConfig, NullNvme};
use spindle_xen::DomId;
use spindle_xen::event::{Notify, Port};

use crate::case::{Case, Path};
use crate::front::Front;
use crate::grants::FreeGrants;

/// Where grants of the first ring are mapped.
const WINDOW: u64 = 1 << 40;
/// Between the windows of two rings.
const WINDOW_STEP: u64 = 1 << 30;
/// Where the buffers are.
const BUFFERS: u64 = 1 << 32;

/// Event channels that count.
pub(crate) struct FreeEvents(Cell<u64>);

impl Notify for FreeEvents {
    fn notify(&self, _port: Port) {
        self.0.set(self.0.get() + 1);
    }
}

/// A core's worker and all that it serves and is served by.
pub(crate) struct Lane {
    worker: RingWorker,
    disk: NullNvme,
    front: Front,
    now_ns: u64,
    /// From turn to turn: about what one takes, so that what is done by the clock is done as often
    /// as it would be.
    step_ns: u64,
}

/// As long as a core polls if nothing else is configured.
const POLL_NS: u64 = 100_000;

/// After so long without requests a ring is idle, whatever it did before.
const IDLE_NS: u64 = 10_000_000_000;

impl Lane {
    pub(crate) fn new(case: Case) -> Self {
        let mut parts: Vec<_> = (0..case.disks).map(disk).collect();
        let volume = parts[0].2.clone();
        let queues = parts
            .iter_mut()
            .map(|part| Queue::from(part.0.take().expect("a queue")));
        let stats = Arc::<CoreStats>::default();
        let ring = SharedPages::host(1, 0);
        let front = Front::new(case, ring.alias());
        let large = case.is_indirect();
        let buffers = SharedPages::host(if large { 1024 } else { 256 }, BUFFERS);
        let lists = front.lists().map(|lists| (lists, buffers.alias()));
        let grants: Grants = Box::new(FreeGrants::new(lists, WINDOW, frames(case), BUFFERS));
        let mut config = Config {
            rings: 256,
            ..Config::default()
        };
        if large {
            // As the kernel has it.
            config.segments = MAX_INDIRECT_SEGMENTS;
            config.copy_batch = config.copy_batch.max(2 * MAX_INDIRECT_SEGMENTS);
        }
        let mut core = Core::new(
            config,
            queues.collect(),
            Counted::new(grants, Arc::clone(&stats)),
            Box::new(FreeEvents(Cell::new(0))),
            buffers,
        )
        .expect("a core");
        // As the kernel does, a page each.
        let at_work = AtWork::at(SharedPages::host(1, 0), 0);
        core.note_work(at_work.expect("a page"));
        let mut session_of_front = session(&ring, 0, &volume, case);
        if case.limited {
            let mut limits = IoLimits::default();
            limits
                .set_all("iops=50000000:bandwidth=1024G")
                .expect("limits");
            let meters = Arc::new(Meters::new(&limits, 0));
            session_of_front.set_share(RingShare::new(8, None, vec![meters]));
        }
        core.attach(session_of_front).expect("a ring");
        for number in 1..=case.idle {
            let volume = &parts[number % case.disks].2;
            let session = session(&SharedPages::host(1, 0), number, volume, case);
            core.attach(session).expect("a ring");
        }
        let worker = RingWorker::new(core, Arc::default(), PollTime::For(POLL_NS), stats);
        let mut lane = Self {
            worker,
            disk: parts.remove(0).1,
            front,
            now_ns: 0,
            step_ns: u64::from(case.requests()) * (112 + 16 * u64::from(case.pages)),
        };
        lane.warm_up(case);
        lane.now_ns += IDLE_NS;
        lane.warm_up(case);
        lane
    }

    /// Twice around everything: grants get mapped, queues and rings wrap.
    fn warm_up(&mut self, case: Case) {
        self.front.batch = 1;
        self.front.listen();
        for _ in 0..(2 * case.in_turn / u64::from(case.pages)).max(64) {
            self.turn(|worker, now_ns| {
                worker.turn(now_ns);
            });
        }
        self.front.batch = case.batch;
        self.front.listen();
        for _ in 0..8 {
            self.turn(|worker, now_ns| {
                worker.turn(now_ns);
            });
        }
    }

    /// One batch, from the frontend and back to it; each turn of the worker through `visit`.
    #[inline]
    pub(crate) fn turn(&mut self, mut visit: impl FnMut(&mut RingWorker, u64)) {
        if self.front.batch == 0 {
            self.now_ns += self.step_ns;
            return visit(&mut self.worker, self.now_ns);
        }
        self.front.ask();
        visit(&mut self.worker, self.now_ns);
        // As often as it takes large requests to get their lists and go through the buffers.
        loop {
            self.disk.run();
            self.now_ns += self.step_ns;
            visit(&mut self.worker, self.now_ns);
            if self.front.is_answered() {
                break;
            }
        }
        self.now_ns += self.step_ns;
        self.front.hear();
    }
}

/// A disk that costs nothing, as disk number `number` of a core: its queue, what completes the
/// commands there, and its volume.
fn disk(number: usize) -> (Option<QueuePair<Mmio>>, NullNvme, Volume) {
    let bus = Arc::new(FakeBus::new());
    let config = nvme::Config {
        namespaces: vec![NamespaceConfig::new(1, 1 << 20, 9).null()],
        ..nvme::Config::default()
    };
    let fake = FakeNvme::new(Arc::clone(&bus), config);
    let clock = FakeClock::new(1000);
    let mut controller = Controller::start(fake.clone(), clock, &*bus, DiskOptions::default())
        .expect("a controller");
    let registers = SharedPages::host(2, 0);
    // SAFETY: the pages are as long and aligned, are never freed, and are only ever reached as
    // atomics besides.
    let mmio = unsafe { Mmio::new(registers.base().cast(), registers.len()) };
    let queue = controller.create_queue(mmio).expect("a queue");
    let disk = fake
        .take_over_memory(queue.id(), registers.alias())
        .expect("the same");
    let volume = controller.volumes(number, number).remove(0);
    (Some(queue), disk, volume)
}

/// Pages that a ring keeps mapped.
fn frames(case: Case) -> usize {
    if case.is_large() { 1056 } else { 1024 }
}

/// Ring number `number` of a core.
fn session(ring: &SharedPages, number: usize, volume: &Volume, case: Case) -> Session {
    let at = WINDOW + number as u64 * WINDOW_STEP;
    let indirect_segments = if case.is_indirect() {
        MAX_INDIRECT_SEGMENTS as u16
    } else {
        0
    };
    let attachment = Attachment {
        domain: DomId(number as u16 + 1),
        port: Port(number as u32 + 1),
        volume: volume.clone(),
        abi: Abi::Native,
        start: 0,
        window: (case.path != Path::Copy).then(|| Window::new(at, frames(case)).unwrap()),
        persistent: case.path == Path::Persistent,
        indirect_segments,
        gate: Gate::members(1).remove(0),
        claims: None,
        losses: Default::default(),
        journal: journal(ring),
    };
    Session::new(ring.alias(), attachment).expect("a session")
}

/// A turn to be measured, under a name that tools can find.
#[inline(never)]
pub(crate) fn measured_turn(worker: &mut RingWorker, now_ns: u64) {
    worker.turn(now_ns);
}
