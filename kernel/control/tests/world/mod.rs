//! The domain's two cores with the real backend, worker and sleeping rules, a xenstored, a toolstack
//! and a frontend, in virtual time, joined by notifications that can be lost.

mod wires;

use spindle_blkif::abi::{Abi, Operation};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Next, Order, Report, Worker};
use spindle_blkif::{Attachment, Config, Gate, RingCore, RingId, Session, Window};
use spindle_block::{RamDisk, RamQueue, Volume};
use spindle_control::{Rounds, Sleep};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_testkit::blkfront::{Blkfront, GuestPage};
use spindle_testkit::grants::FakeGrants;
use spindle_testkit::mem::FakeBus;
use spindle_testkit::xenstored::{Vbd, Xenstored};
use spindle_xen::DomId;
use spindle_xen::event::Deadline;
use spindle_xen::store::Ring;
use spindle_xen::xenbus::{Action, Backend, DeviceId, DiskFacts, Generation, Offer};
use std::sync::Arc;

pub(crate) use wires::{Fault, TICK_NS, Wire};
use wires::{Wires, core_port};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// What a turn takes.
const TURN_NS: u64 = 10_000;
const VBD: Vbd = Vbd {
    backend: 3,
    frontend: 5,
    device: 51712,
};

/// Where the worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// On a core of its own.
    Own,
    /// In control's loop.
    Local,
}

/// What was seen of a disk's life.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// The steps, and how long each took.
    pub(crate) steps: Vec<(&'static str, u64)>,
    /// Every notification that was sent, lost ones included.
    pub(crate) sent: Vec<Wire>,
    /// Turns of control and the core in 10 s before anything is attached.
    pub(crate) idle_turns: [usize; 2],
    /// The same with an attached disk that nothing uses.
    pub(crate) attached_turns: [usize; 2],
}

type RingWorker = Worker<RamQueue<&'static FakeBus>, &'static FakeGrants<'static>, &'static Wires>;

struct World {
    now: u64,
    wires: &'static Wires,
    store: Xenstored,
    ring: Ring,
    /// The tree was changed by others, which xenstored has yet to tell of.
    poked: bool,
    control: Control,
    control_sleeps: Option<Deadline>,
    worker: RingWorker,
    cores: Cores,
    core_sleeps: Option<Deadline>,
    core_stopped: bool,
    turns: [usize; 2],
    grants: &'static FakeGrants<'static>,
    volume: Volume,
    front: Blkfront<'static>,
    page: GuestPage,
    answers: usize,
}

/// As much of control as one disk with one ring takes.
struct Control {
    backend: Backend,
    rounds: Rounds,
    link: Arc<Link<RamQueue<&'static FakeBus>>>,
    owed: usize,
    device: Option<(DeviceId, Generation)>,
    place: Option<RingId>,
    stopped: bool,
}

impl World {
    fn new(cores: Cores, faults: &[(usize, Fault)]) -> Self {
        let wires: &Wires = Box::leak(Box::new(Wires::new(faults)));
        let bus: &FakeBus = Box::leak(Box::new(FakeBus::new()));
        let grants: &FakeGrants<'_> = Box::leak(Box::new(FakeGrants::new(bus)));
        let disk = RamDisk::new(1 << 16, bus).unwrap();
        let buffers = bus.alloc(16).unwrap();
        let queues = vec![disk.queue(64, bus)];
        let config = Config {
            rings: 2,
            ..Config::default()
        };
        let core = RingCore::new(config, queues, grants, wires, buffers).unwrap();
        let link = Arc::new(Link::default());
        let poll = PollTime::For(50_000);
        let worker = Worker::new(core, Arc::clone(&link), poll, Arc::<CoreStats>::default());
        let page = SharedPages::host(1, 0);
        let front = Blkfront::new(grants, DomId(VBD.frontend), 1, 0);
        Self {
            now: 100 * SECOND,
            wires,
            store: Xenstored::new(page.alias(), VBD.backend),
            ring: Ring::new(page),
            poked: false,
            control: Control {
                backend: Backend::new(Offer {
                    max_queues: 1,
                    max_ring_page_order: 0,
                    max_indirect_segments: 0,
                    persistent: true,
                }),
                rounds: Rounds::new(),
                link,
                owed: 0,
                device: None,
                place: None,
                stopped: false,
            },
            control_sleeps: None,
            worker,
            cores,
            core_sleeps: None,
            core_stopped: false,
            turns: [0; 2],
            grants,
            volume: disk.volume("ram0", 0),
            page: front.page(false),
            front,
            answers: 0,
        }
    }

    /// Lets everything run for a moment, or time go on to when something will, no further than
    /// `limit`.
    fn step(&mut self, limit: u64) {
        self.wires.pass(self.now);
        let mut ran = false;
        let ports: &[Wire] = match self.cores {
            Cores::Own => &[Wire::ToControl],
            Cores::Local => &[Wire::ToControl, Wire::RingToCore],
        };
        if self.wires.ends(&mut self.control_sleeps, ports, self.now) {
            self.turns[0] += 1;
            self.control_turn();
            ran = true;
        }
        let ports = [Wire::OrderToCore, Wire::RingToCore];
        let runs = self.cores == Cores::Own && !self.core_stopped;
        if runs && self.wires.ends(&mut self.core_sleeps, &ports, self.now) {
            self.turns[1] += 1;
            self.core_turn();
            ran = true;
        }
        if self.wires.take(Wire::ToStore) || core::mem::take(&mut self.poked) {
            while self.store.step() {
                self.wires.send(Wire::ToControl);
            }
            ran = true;
        }
        if self.wires.take(Wire::ToFront) {
            loop {
                self.answers += self.front.answers().len();
                if !self.front.arm(1) {
                    break;
                }
            }
            ran = true;
        }
        if ran {
            self.now += TURN_NS;
            return;
        }
        let sleeps = [self.control_sleeps, self.core_sleeps];
        let ends = sleeps.into_iter().flatten().map(Deadline::ns);
        let next = ends.chain(self.wires.next_tick()).chain([limit]).min();
        self.now = next.unwrap_or(limit).max(self.now + 1);
    }

    fn control_turn(&mut self) {
        let now = self.now;
        let event = self.wires.take(Wire::ToControl);
        if self.control.rounds.take_pump(event, now) {
            while let Some(action) = self.control.backend.pump(&mut self.ring, now) {
                self.act(action);
            }
            if self.ring.take_notify() {
                self.wires.send(Wire::ToStore);
            }
            let due = self.control.backend.next_deadline();
            self.control.rounds.pumped(due);
        }
        while let Some(report) = self.control.link.reports.take() {
            self.wake_core();
            self.control.reported(report);
        }
        if self.control.rounds.are_disks_due(now) {
            self.control.rounds.disks_seen(false, now);
        }
        let local = self.cores == Cores::Local;
        let next = local.then(|| self.worker.turn(now));
        let owed = self.control.owed > 0;
        self.control_sleeps = match self.control.rounds.sleep(now, || owed, next) {
            Sleep::No => None,
            Sleep::StoreAndRings(until) => {
                self.wires.take(Wire::RingToCore);
                self.worker.listen().then_some(until)
            }
            Sleep::Store(until) => (!local || !self.worker.has_orders()).then_some(until),
        };
    }

    fn core_turn(&mut self) {
        self.core_sleeps = match self.worker.turn(self.now) {
            Next::Turn => None,
            Next::Stop => {
                self.core_stopped = true;
                None
            }
            Next::Rest(until) => {
                self.wires.take(Wire::OrderToCore);
                self.wires.take(Wire::RingToCore);
                self.worker.listen().then_some(until)
            }
            Next::Nap(until) => {
                self.wires.take(Wire::OrderToCore);
                (!self.worker.has_orders()).then_some(until)
            }
        };
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open { device, .. } => {
                let facts = DiskFacts {
                    sectors: self.volume.sectors,
                    sector_size: 512,
                    physical_sector_size: 4096,
                    read_only: false,
                    flush: true,
                    barrier: false,
                    discard: None,
                    queues: 1,
                };
                self.control.backend.opened(device, Ok(facts));
            }
            Action::Connect(request) => {
                self.control.device = Some((request.device, request.generation));
                let attachment = Attachment {
                    domain: DomId(VBD.frontend),
                    port: core_port(),
                    volume: self.volume.clone(),
                    abi: Abi::Native,
                    start: 0,
                    window: Some(Window::new(1 << 40, 64)),
                    persistent: true,
                    indirect_segments: 0,
                    gate: Gate::members(1).remove(0),
                    claims: None,
                };
                let session = Box::new(Session::new(self.front.ring(), attachment).unwrap());
                self.order(Order::Attach { token: 1, session });
            }
            Action::Disconnect { .. } => {
                let ring = self.control.place.take().expect("it is connected");
                self.order(Order::Detach(ring));
            }
            Action::Close { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn order(&mut self, order: Order) {
        self.control.link.orders.put(order).unwrap();
        self.control.owed += 1;
        self.wake_core();
    }

    fn wake_core(&self) {
        if self.cores == Cores::Own {
            self.wires.send(Wire::OrderToCore);
        }
    }

    /// Runs until `done`; gives how long that took.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> u64 {
        let (start, limit) = (self.now, self.now + 60 * SECOND);
        while !done(self) {
            assert!(self.now < limit, "no {what} within a minute");
            self.step(limit);
        }
        self.now - start
    }

    fn pass(&mut self, ms: u64) {
        let limit = self.now + ms * MS;
        while self.now < limit {
            self.step(limit);
        }
    }

    /// Turns of each core in the next 10 s.
    fn count_turns(&mut self) -> [usize; 2] {
        let before = self.turns;
        self.pass(10_000);
        core::array::from_fn(|core| self.turns[core] - before[core])
    }

    fn read(&mut self) {
        let segment = self.page.segment(0, 7);
        self.front.push(Operation::READ, 0, &[segment]);
        if self.front.publish() {
            self.wires.send(Wire::RingToCore);
        }
    }
}

impl Control {
    fn reported(&mut self, report: Report<RamQueue<&'static FakeBus>>) {
        self.owed -= 1;
        self.rounds.pump_soon();
        let (device, generation) = self.device.expect("there is one");
        match report {
            Report::Attached { ring, .. } => {
                self.place = Some(ring);
                self.backend.connected(device, generation, Ok(()));
            }
            Report::Detached { .. } => self.backend.disconnected(device, generation),
            Report::Stopped(_) => self.stopped = true,
            other => panic!("{other:?}"),
        }
    }
}

impl Life {
    /// A disk's life with these notifications lost, by their numbers.
    pub(crate) fn run(cores: Cores, faults: &[(usize, Fault)]) -> Self {
        let mut world = World::new(cores, faults);
        let mut life = Self::default();
        // Setting up, then asleep with nothing attached.
        world.pass(5000);
        life.idle_turns = world.count_turns();
        VBD.attach(&mut world.store, "lun0", "w");
        world.poked = true;
        life.step(&mut world, "InitWait", |w| VBD.back_state(&w.store) == 2);
        world.pass(700);
        VBD.front_initialise(&mut world.store);
        world.poked = true;
        life.step(&mut world, "Connected", |w| VBD.back_state(&w.store) == 4);
        VBD.set_front_state(&mut world.store, 4);
        world.poked = true;
        for _ in 0..3 {
            world.pass(2500);
            world.read();
            let answers = world.answers + 1;
            life.step(&mut world, "response", |w| w.answers == answers);
        }
        world.pass(5000);
        life.attached_turns = world.count_turns();
        VBD.detach(&mut world.store);
        world.poked = true;
        // It waits for the frontend, which sees the toolstack's state.
        world.pass(100);
        VBD.set_front_state(&mut world.store, 6);
        world.poked = true;
        life.step(&mut world, "Closed", |w| VBD.back_state(&w.store) == 6);
        life.step(&mut world, "removal", |w| {
            w.store.read(&VBD.back_dir()).is_none()
        });
        world.pass(5000);
        assert_eq!(world.control.backend.device_count(), 0);
        assert_eq!(world.grants.outstanding(), 0);
        world.order(Order::Stop);
        world.control_sleeps = None;
        life.step(&mut world, "stop", |w| w.control.stopped);
        life.sent = world.wires.sent();
        life
    }

    /// How long all steps took.
    pub(crate) fn total(&self) -> u64 {
        self.steps.iter().map(|(_, took)| took).sum()
    }

    fn step(&mut self, world: &mut World, name: &'static str, done: impl Fn(&World) -> bool) {
        let took = world.until(name, done);
        self.steps.push((name, took));
    }
}
