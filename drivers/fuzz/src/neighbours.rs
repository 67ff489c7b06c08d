//! Guests that ask for anything, also beyond their volumes, beside an honest one, on one core and
//! one real NVMe queue, while grants and the disk fail, volumes change size and rings come and go.
//!
//! The disk works in virtual time, so that what the others cost the honest guest can be bounded.
//! Which blocks a command may reach is reckoned by `layout`, and all that a guest may read or
//! write bears its stamp.

mod honest;
mod hostile;
mod layout;
mod shares;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use honest::Honest;
use hostile::{Ask, Memory, Ring, SEGMENTS};
use layout::{GUESTS, Layout, ROOM, SECTORS, Watched};
use spindle_blkif::abi::Abi;
use spindle_blkif::{Attachment, Config, Gate, RingCore, RingId, Session, Window};
use spindle_block::{Command, DiskOptions, DiskQueue, Op, Segment, Tag, Unit};
use spindle_hw::{Clock, DmaAlloc, SharedPages};
use spindle_nvme::{Controller, QueuePair};
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::grants::{self, Call, FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, FakeClock, journal};
use spindle_testkit::nvme::{self, FakeNvme, NamespaceConfig};
use spindle_xen::event::Port;
use spindle_xen::grant::Status;
use spindle_xen::{DomId, Errno};

use crate::steps;

/// Rings of hostile guests, by turns.
const RINGS: usize = 5;
/// What passes between two visits of the core.
const TURN_NS: u64 = 10_000;
/// Pages that the disk carries out meanwhile; of what has none, commands.
const PAGES: i64 = 4;
/// The opcode of discards.
const DATASET_MANAGEMENT: u8 = 9;
/// Longer than a command may take.
const LONG_NS: u64 = 31_000_000_000;

/// What the core, its disk and the rings are like.
#[derive(Arbitrary, Debug)]
struct Setting {
    depth: u8,
    buffers: u8,
    /// A bit for each ring.
    persistent: u8,
    indirect: u8,
    flags: u8,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Ask(u8, Ask),
    /// The same request as often as there is room.
    Flood(u8, Ask),
    Turns(u8),
    Disk(u8, DiskFault),
    Grants(u8, u8, GrantFault),
    Resize(u8, u8),
    Detach(u8),
    /// Time passes in which no one reads; the core trims its grants.
    Pause(u8),
}

#[derive(Arbitrary, Debug)]
enum DiskFault {
    Fail(u16),
    /// Of writes or discards, which the honest guest never asks for: it is not to notice.
    Swallow,
    Lose,
}

#[derive(Arbitrary, Debug)]
enum GrantFault {
    Status(u8),
    Hypercall,
}

type Queue = Watched<QueuePair<FakeNvme>>;
type Core<'a> = RingCore<Queue, &'a FakeGrants<'a>, &'a FakeEvents>;

struct World<'a> {
    setting: Setting,
    clock: &'a FakeClock,
    disk: FakeNvme,
    controller: Controller<FakeNvme, &'a FakeClock, &'a FakeBus>,
    grants: &'a FakeGrants<'a>,
    core: Core<'a>,
    layout: Rc<RefCell<Layout>>,
    honest: Honest<'a>,
    honest_ring: RingId,
    rings: Vec<Ring<'a>>,
    memory: Vec<Memory>,
    windows: u64,
    /// Faults that the honest guest may have had its part of.
    faults: u64,
    /// Commands that are never answered.
    silent: u32,
    /// Pages that the disk has time for.
    pages: i64,
    /// Frames given up after unmaps that failed.
    unusable: usize,
}

/// Puts the first image on the disk, by its own queue.
fn write_image(queue: &mut QueuePair<FakeNvme>, disk: &FakeNvme, page: &SharedPages, shift: u8) {
    let whole = [Segment::new(page.bus(), 4096)];
    for (at, bytes) in (0..).zip(Layout::image().chunks_exact(4096)) {
        page.write_bytes(0, bytes);
        let command = Command {
            op: Op::Write,
            unit: Unit(1),
            block_shift: shift,
            block: at << (12 - shift),
            blocks: 0,
            segments: &whole,
        };
        queue.submit(&command, Tag(0)).expect("an empty queue");
        queue.commit();
        disk.run();
        assert_eq!(queue.poll(|_, result| assert!(result.is_ok())), 1);
    }
}

/// Attaches a ring of `guest` to the core.
fn attach(
    core: &mut Core<'_>,
    front: &Blkfront<'_>,
    layout: &RefCell<Layout>,
    guest: usize,
    window: Option<Window>,
    indirect: bool,
) -> RingId {
    let attachment = Attachment {
        domain: DomId(guest as u16 + 1),
        port: Port(guest as u32),
        volume: layout.borrow().volume(guest),
        abi: Abi::Native,
        start: 0,
        persistent: window.is_some(),
        window,
        indirect_segments: if indirect { SEGMENTS as u16 } else { 0 },
        gate: Gate::members(1).remove(0),
        claims: None,
        losses: Default::default(),
        journal: journal(&front.ring()),
    };
    let session = Session::new(front.ring(), attachment).expect("the ring's size is right");
    let id = core.attach(session).expect("there is room");
    layout.borrow_mut().owners[usize::from(id.0)] = Some(guest);
    id
}

impl<'a> World<'a> {
    fn new(
        setting: Setting,
        bus: &'a Arc<FakeBus>,
        grants: &'a FakeGrants<'a>,
        events: &'a FakeEvents,
        clock: &'a FakeClock,
    ) -> Self {
        let shift = if setting.flags & 3 == 3 { 12 } else { 9 };
        let config = nvme::Config {
            manual: true,
            out_of_order: setting.flags & 4 != 0,
            namespaces: vec![NamespaceConfig::new(1, SECTORS >> (shift - 9), shift)],
            ..nvme::Config::default()
        };
        let disk = FakeNvme::new(Arc::clone(bus), config);
        let options = DiskOptions {
            depth: 17 + u16::from(setting.depth) % 48,
            ..DiskOptions::default()
        };
        let mut controller =
            Controller::start(disk.clone(), clock, &**bus, options).expect("a controller");
        let mut queue = controller.create_queue(disk.clone()).expect("a queue");
        let count = SEGMENTS + usize::from(setting.buffers) % 48;
        let buffers = bus.alloc(count).expect("buffers");
        write_image(&mut queue, &disk, &buffers, shift);
        let _ = disk.take_accesses();

        let config = Config {
            rings: RINGS + 1,
            segments: SEGMENTS,
            ..Config::default()
        };
        let layout = Rc::new(RefCell::new(Layout::new(
            shift,
            config.rings,
            queue.depth(),
        )));
        let queue = Watched {
            queue,
            layout: Rc::clone(&layout),
        };
        let mut core =
            RingCore::new(config, vec![queue], grants, events, buffers).expect("buffers suffice");
        let front = Blkfront::new(grants, DomId(1), 1, 0);
        let window = (setting.flags & 8 == 0).then(|| Window::new(1 << 40, 64).unwrap());
        let honest_ring = attach(&mut core, &front, &layout, 0, window, false);
        let mut world = Self {
            setting,
            clock,
            disk,
            controller,
            grants,
            core,
            layout,
            honest: Honest::new(front),
            honest_ring,
            rings: Vec::new(),
            memory: (0..GUESTS)
                .map(|guest| Memory::new(grants, guest))
                .collect(),
            windows: 0,
            faults: 0,
            silent: 0,
            pages: 0,
            unusable: 0,
        };
        for number in 0..RINGS {
            let ring = world.attach_hostile(number);
            world.rings.push(ring);
        }
        world
    }

    fn attach_hostile(&mut self, number: usize) -> Ring<'a> {
        let guest = 1 + number % (GUESTS - 1);
        let bit = |bits: u8| bits >> number & 1 != 0;
        let front = Blkfront::new(self.grants, DomId(guest as u16 + 1), 1 << (number % 3), 0);
        self.windows += 1;
        let window = bit(self.setting.persistent)
            .then(|| Window::new((1 << 40) + (self.windows << 32), 64).unwrap());
        let indirect = bit(self.setting.indirect);
        let id = attach(
            &mut self.core,
            &front,
            &self.layout,
            guest,
            window,
            indirect,
        );
        Ring::new(guest, front, id)
    }

    /// A visit of the core, what the disk does until the next, and what its driver's control does.
    fn turn(&mut self, go: bool) {
        self.visit();
        assert_eq!(self.core.next_fault(), None, "no one broke the protocol");
        self.run_disk();
        let attention = self.controller.attend();
        assert!(attention.lost.is_none(), "{:?}", attention.lost);
        self.clock.advance(TURN_NS);
        if attention.wake {
            // The controller is being reset, or tries alone what it may have failed over.
            self.honest.excuse(TURN_NS);
        }
        self.honest.turn(self.clock.now_ns(), go);
        for number in 0..self.rings.len() {
            self.rings[number].front.answers();
            let (id, closing) = (self.rings[number].id, self.rings[number].closing);
            if closing && self.core.is_drained(id) {
                self.detach(id);
                self.rings[number] = self.attach_hostile(number);
            }
        }
        self.see_limits();
    }

    /// A visit of the core.
    fn visit(&mut self) {
        let now_ns = self.clock.now_ns();
        self.layout.borrow_mut().shares.begin(now_ns);
        self.core.visit(now_ns);
        let layout = &mut *self.layout.borrow_mut();
        for (id, session) in self.core.sessions() {
            if session.active() > 0
                && let Some(guest) = layout.owners[usize::from(id.0)]
            {
                layout.shares.saw(guest);
            }
        }
    }

    /// Lets the disk do as many pages as it can until the next visit; what it began it ends.
    fn run_disk(&mut self) {
        self.pages = (self.pages + PAGES).min(PAGES);
        while self.pages > 0 && self.disk.run_at_most(1) > 0 {
            let mut pages = 1;
            for access in self.disk.take_accesses() {
                let layout = self.layout.borrow();
                layout.check_access(&access);
                if access.opcode != DATASET_MANAGEMENT {
                    pages = (access.blocks << (layout.shift - 9)).div_ceil(8);
                }
            }
            self.pages -= pages.cast_signed();
        }
    }

    fn detach(&mut self, id: RingId) {
        let detached = self.core.detach(id).expect("it is drained");
        self.unusable += detached.window.map_or(0, |window| window.unusable());
        let layout = &mut *self.layout.borrow_mut();
        if let Some(guest) = layout.owners[usize::from(id.0)].take() {
            layout.shares.forget(guest);
        }
    }

    /// What was taken when a volume was larger has been answered once all of its rings are idle.
    fn see_limits(&mut self) {
        let layout = &mut *self.layout.borrow_mut();
        for guest in 1..GUESTS {
            let mut rings = self.rings.iter().filter(|ring| ring.guest == guest);
            if rings.all(|ring| !ring.closing && ring.front.outstanding() == 0) {
                layout.limits[guest] = layout.sizes[guest];
            }
        }
    }

    /// Until the honest guest has what it asked for.
    fn calm(&mut self) {
        while self.honest.is_waiting() {
            self.turn(false);
        }
    }

    fn ring(&mut self, number: u8) -> &mut Ring<'a> {
        let count = self.rings.len();
        &mut self.rings[usize::from(number) % count]
    }

    fn ask(&mut self, number: u8, ask: &Ask, times: u32) {
        let number = usize::from(number) % self.rings.len();
        let ring = &mut self.rings[number];
        let size = self.layout.borrow().sizes[ring.guest];
        if !ring.closing {
            ring.ask(ask, times, &self.memory[ring.guest], size);
        }
    }

    fn fail_disk(&mut self, opcode: u8, fault: &DiskFault) {
        let others = if opcode & 1 == 0 { 1 } else { 9 };
        if !matches!(fault, DiskFault::Fail(_)) {
            // Two leave most of the queue, and cost fewer resets than a disk is given up after.
            if self.silent == 2 {
                return;
            }
            self.silent += 1;
        }
        self.disk.arm(match fault {
            DiskFault::Fail(status) => {
                self.faults += 1;
                // None that is tried again only after a while: should it be the honest guest's
                // command, it would wait for the disk and not for its neighbours.
                let status = [0x0281, 0x4281, 0x4006, 0x4002, 0x0080][usize::from(*status) % 5];
                nvme::Fault::FailIo([0, 1, 2, 9][usize::from(opcode) % 4], status)
            }
            DiskFault::Swallow => nvme::Fault::SwallowIo(others),
            DiskFault::Lose => nvme::Fault::LoseIo(others),
        });
    }

    fn fail_grants(&mut self, call: u8, ahead: u8, fault: &GrantFault) {
        let statuses = [Status::GENERAL_ERROR, Status::BAD_GNTREF, Status::EAGAIN];
        let fault = match fault {
            GrantFault::Status(status) => {
                grants::Fault::Operation(statuses[usize::from(*status) % statuses.len()])
            }
            GrantFault::Hypercall => grants::Fault::Hypercall(Errno::EFAULT),
        };
        let call = [Call::Map, Call::Copy, Call::Unmap][usize::from(call) % 3];
        self.grants.inject(call, (ahead % 32).into(), fault);
        self.faults += 1;
    }

    fn resize(&mut self, guest: u8, sectors: u8) {
        let guest = 1 + usize::from(guest) % (GUESTS - 1);
        let sectors = u64::from(sectors) % (ROOM / 8 + 1) * 8;
        {
            let layout = &mut *self.layout.borrow_mut();
            layout.sizes[guest] = sectors;
            layout.limits[guest] = layout.limits[guest].max(sectors);
        }
        for ring in self.rings.iter().filter(|ring| ring.guest == guest) {
            self.core.resize(ring.id, sectors);
        }
    }

    /// Lets a long time pass.
    fn pause(&mut self, ns: u64) {
        self.calm();
        self.clock.advance(ns);
        self.core.trim(self.clock.now_ns());
        self.turn(false);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(ring, ask) => {
                self.ask(ring, &ask, 1);
                if ring & 0x80 != 0 {
                    // More is asked for before the core looks.
                    return;
                }
            }
            Step::Flood(ring, ask) => self.ask(ring, &ask, u32::MAX),
            Step::Turns(count) => (0..=count % 8).for_each(|_| self.turn(true)),
            Step::Disk(opcode, fault) => self.fail_disk(opcode, &fault),
            Step::Grants(call, ahead, fault) => self.fail_grants(call, ahead, &fault),
            Step::Resize(guest, sectors) => self.resize(guest, sectors),
            Step::Detach(ring) => {
                let ring = self.ring(ring);
                ring.closing = true;
                let id = ring.id;
                self.core.begin_detach(id);
            }
            Step::Pause(seconds) => self.pause(u64::from(seconds) % 70 * 1_000_000_000),
        }
        self.turn(true);
    }

    /// Ends all that is under way: commands without an answer are aborted, or the disk is reset.
    fn settle(&mut self) {
        for _ in 0..20 {
            let mut quiet = 0;
            while quiet < 100 {
                if self.rings.iter().all(|ring| ring.front.outstanding() == 0) {
                    return;
                }
                let before = self.disk.commands();
                self.turn(false);
                quiet = if self.disk.commands() == before {
                    quiet + 1
                } else {
                    0
                };
            }
            self.pause(LONG_NS);
        }
        panic!("requests never end");
    }

    /// Looks at everything once more, and takes it apart.
    fn end(mut self, buffers: usize) {
        self.calm();
        self.settle();
        self.calm();
        assert!(self.honest.errors <= self.faults, "errors without a fault");
        for guest in 1..GUESTS {
            self.memory[guest].check(guest);
        }
        Layout::check_image(&self.disk.contents(1));
        assert_eq!(self.disk.violations(), Vec::<String>::new());
        let rings = std::mem::take(&mut self.rings).into_iter();
        let ids = rings.map(|ring| ring.id).chain([self.honest_ring]);
        for id in ids.collect::<Vec<_>>() {
            self.core.begin_detach(id);
            assert!(self.core.is_drained(id));
            self.detach(id);
        }
        assert_eq!(self.grants.outstanding(), self.unusable, "grants mapped");
        assert_eq!(self.core.free_buffers(), buffers, "buffers lost");
        let queues = self.core.into_queues().into_iter();
        let ended = self
            .controller
            .shutdown(queues.map(|watched| watched.queue));
        assert!(ended.is_ok());
    }
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(setting) = Setting::arbitrary(&mut input) else {
        return;
    };
    let bus = Arc::new(FakeBus::new());
    let (grants, events) = (FakeGrants::new(&bus), FakeEvents::default());
    let clock = FakeClock::new(1000);
    let mut world = World::new(setting, &bus, &grants, &events, &clock);
    let buffers = world.core.free_buffers();
    for (_, step) in steps(&mut input, 200) {
        world.step(step);
    }
    world.end(buffers);
}
