//! Neighbours on one core, in virtual time: a guest that asks for one page at a time, and others
//! that ask for as much as they can, on the real ring core and NVMe queue, beside a disk of which
//! only the time is modelled.

use std::sync::Arc;

use spindle_blkif::abi::{Abi, Operation, RawSegment, RspStatus};
use spindle_blkif::{Attachment, Config, Gate, RingCore, Session, Window};
use spindle_block::{DiskOptions, Volume};
use spindle_hw::DmaAlloc;
use spindle_nvme::{Controller, QueuePair};
use spindle_xen::DomId;
use spindle_xen::event::Port;

use crate::blkfront::{Blkfront, GuestPage};
use crate::grants::{FakeEvents, FakeGrants};
use crate::mem::{FakeBus, FakeClock, journal};
use crate::nvme::{self, Doorbells, FakeNvme, NamespaceConfig, Speed, TimedNvme};

/// What a neighbour does, as often as its ring has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads of a page.
    Pages,
    /// Reads of 1 MiB in whole pages.
    Large,
    /// Reads of 127.5 KiB in pieces of 512 bytes, of which a disk makes a command each.
    Pieces,
    /// Discards.
    Discards,
    /// Flushes.
    Flushes,
    /// Reads of 11 pages, each by a grant that was never used before.
    FreshGrants,
    /// Writes of 1 MiB by a frontend whose data is copied.
    CopiedLarge,
    /// One request of each kind by turns.
    Mixed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pages,
        Self::Large,
        Self::Pieces,
        Self::Discards,
        Self::Flushes,
        Self::FreshGrants,
        Self::CopiedLarge,
        Self::Mixed,
    ];

    fn persistent(self) -> bool {
        self != Self::CopiedLarge
    }
}

/// A neighbour: what it does, and by which rings.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour {
    /// What it does.
    pub kind: Kind,
    /// Its rings on the core.
    pub rings: usize,
    /// Pages of each: 1, 2, 4, 8 or 16.
    pub pages: usize,
    /// Requests that it keeps under way on each, at most.
    pub depth: usize,
}

impl Neighbour {
    /// One that asks for all that so many rings of 16 pages hold.
    #[must_use]
    pub const fn flood(kind: Kind, rings: usize) -> Self {
        Self {
            kind,
            rings,
            pages: 16,
            depth: usize::MAX,
        }
    }
}

/// The guest that is looked at: it reads a page at a time.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Reads under way at once.
    pub depth: usize,
    /// Whether its grants are kept, rather than its data copied.
    pub persistent: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Of the guest's reads: mean.
    pub mean_ns: u64,
    /// And the one that took longest, but for those at the very start.
    pub worst_ns: u64,
    /// Its reads in a second.
    pub rate: f64,
}

/// A disk such as NVMe disks are: 32 pages at once, 80 us for each.
pub const SSD: Speed = Speed {
    channels: 32,
    page_ns: 80_000,
    discard_ns: 2_000_000,
    flush_ns: 1_000_000,
};

/// What a visit of a core takes, roughly.
const VISIT_NS: u64 = 1000;
/// Time that does not count: rings connect, grants get mapped.
const WARM_NS: u64 = 20_000_000;
/// Segments of the largest request, and pages of the pool, as the kernel has them.
pub(crate) const LARGEST: usize = 256;

pub(crate) type Core<'a> = RingCore<QueuePair<Doorbells>, &'a FakeGrants<'a>, &'a FakeEvents>;

/// A neighbour's frontend for one ring, with what it uses again and again.
struct Hostile<'a> {
    front: Blkfront<'a>,
    grants: &'a FakeGrants<'a>,
    domain: DomId,
    neighbour: Neighbour,
    data: Vec<GuestPage>,
    whole: GuestPage,
    pieces: GuestPage,
    count: u64,
}

impl<'a> Hostile<'a> {
    fn new(world: &mut World<'a>, domain: DomId, neighbour: Neighbour) -> Self {
        let front = world.attach(domain, neighbour.pages, neighbour.kind.persistent());
        let data: Vec<_> = (0..LARGEST).map(|_| front.page(false)).collect();
        let whole: Vec<_> = data.iter().map(|page| page.segment(0, 7)).collect();
        let whole = front.list(&whole);
        let pieces = front.list(&[data[0].segment(1, 1); LARGEST - 1]);
        Self {
            front,
            grants: world.grants,
            domain,
            neighbour,
            data,
            whole,
            pieces,
            count: 0,
        }
    }

    /// A page by a grant that was never used before.
    fn grant_anew(&self, page: usize) -> RawSegment {
        let memory = self.data[page].memory.alias();
        let gref = self.grants.grant(self.domain, &memory, false);
        GuestPage { memory, gref }.segment(0, 7)
    }

    /// Asks for as much as there is room for.
    fn ask(&mut self) {
        self.front.answers();
        while self.front.free() > 0 && self.front.outstanding() < self.neighbour.depth {
            let kind = match self.neighbour.kind {
                Kind::Mixed => Kind::ALL[(self.count % 5) as usize],
                kind => kind,
            };
            self.count += 1;
            let sector = self.count % 64 * 2048;
            match kind {
                Kind::Pages | Kind::Mixed => {
                    let page = &self.data[self.count as usize % LARGEST];
                    self.front
                        .push(Operation::READ, sector, &[page.segment(0, 7)]);
                }
                Kind::Large => {
                    let list = self.whole.gref;
                    self.front
                        .push_indirect(Operation::READ, sector, list, LARGEST as u16);
                }
                Kind::CopiedLarge => {
                    let list = self.whole.gref;
                    self.front
                        .push_indirect(Operation::WRITE, sector, list, LARGEST as u16);
                }
                Kind::Pieces => {
                    let (list, count) = (self.pieces.gref, LARGEST as u16 - 1);
                    self.front
                        .push_indirect(Operation::READ, sector, list, count);
                }
                Kind::Discards => {
                    self.front.push_discard(sector, 2048, false);
                }
                Kind::Flushes => {
                    self.front.push(Operation::FLUSH, 0, &[]);
                }
                Kind::FreshGrants => {
                    // The same memory again and again: there is no end of references.
                    let segments: Vec<_> = (0..11).map(|at| self.grant_anew(at)).collect();
                    self.front.push(Operation::READ, sector, &segments);
                }
            }
        }
        self.front.publish();
    }
}

/// A core, its disk, and the guests on it.
pub(crate) struct World<'a> {
    pub(crate) core: Core<'a>,
    pub(crate) disk: TimedNvme,
    grants: &'a FakeGrants<'a>,
    volume: Volume,
    pub(crate) rings: u16,
    now_ns: u64,
}

impl<'a> World<'a> {
    pub(crate) fn new(
        bus: &'a Arc<FakeBus>,
        grants: &'a FakeGrants<'a>,
        events: &'a FakeEvents,
        speed: Speed,
    ) -> Self {
        let config = nvme::Config {
            namespaces: vec![NamespaceConfig::new(1, 1 << 20, 9).null()],
            ..nvme::Config::default()
        };
        let fake = FakeNvme::new(Arc::clone(bus), config);
        let clock = FakeClock::new(1000);
        let options = DiskOptions::default();
        let mut controller =
            Controller::start(fake.clone(), clock, &**bus, options).expect("a controller");
        let doorbells = Doorbells::default();
        let queue = controller.create_queue(doorbells.clone()).expect("a queue");
        let disk = fake.take_over_timed(queue.id(), doorbells, speed);
        let volume = controller.volumes(0, 0).remove(0);
        // It would switch the controller off.
        std::mem::forget(controller);
        let config = Config {
            segments: LARGEST,
            ..Config::default()
        };
        let buffers = bus.alloc(LARGEST).expect("buffers");
        Self {
            core: RingCore::new(config, vec![queue], grants, events, buffers).expect("a core"),
            disk: disk.expect("the same queue"),
            grants,
            volume,
            rings: 0,
            now_ns: 0,
        }
    }

    fn attach(&mut self, domain: DomId, pages: usize, persistent: bool) -> Blkfront<'a> {
        let (session, front) = self.session(domain, pages, persistent);
        self.core.attach(session).expect("a place");
        front
    }

    /// A frontend of so many pages, and the session for its ring.
    pub(crate) fn session(
        &mut self,
        domain: DomId,
        pages: usize,
        persistent: bool,
    ) -> (Session, Blkfront<'a>) {
        self.rings += 1;
        let front = Blkfront::new(self.grants, domain, pages, 0);
        let base = (1 << 40) + (u64::from(self.rings) << 32);
        let attachment = Attachment {
            domain,
            port: Port(self.rings.into()),
            volume: self.volume.clone(),
            abi: Abi::Native,
            start: 0,
            window: persistent.then(|| Window::new(base, 1056).unwrap()),
            persistent,
            indirect_segments: LARGEST as u16,
            gate: Gate::members(1).remove(0),
            claims: None,
            losses: Default::default(),
            journal: journal(&front.ring()),
        };
        let session = Session::new(front.ring(), attachment).expect("a session");
        (session, front)
    }

    /// A visit, and what the disk does until the next.
    fn visit(&mut self) {
        let work = self.core.visit(self.now_ns);
        self.disk.run(self.now_ns);
        self.now_ns += VISIT_NS;
        if work.is_idle() || (work.taken == 0 && work.completed == 0 && !work.more) {
            // Nothing happens before a command is done.
            self.now_ns = self.now_ns.max(self.disk.next_ns().unwrap_or(0));
        }
        self.disk.run(self.now_ns);
    }
}

/// Plays `guest` beside `neighbours` on a disk of this speed, for so long.
///
/// # Panics
/// If a read of the guest fails.
#[must_use]
pub fn play(speed: Speed, guest: Guest, neighbours: &[Neighbour], time_ns: u64) -> Outcome {
    let bus = Arc::new(FakeBus::new());
    let (grants, events) = (FakeGrants::new(&bus), FakeEvents::default());
    let mut world = World::new(&bus, &grants, &events, speed);
    let mut hostile = Vec::new();
    for (domain, &neighbour) in (2..).map(DomId).zip(neighbours) {
        let rings = 0..neighbour.rings;
        hostile.extend(rings.map(|_| Hostile::new(&mut world, domain, neighbour)));
    }
    let mut front = world.attach(DomId(1), 1, guest.persistent);
    let pages: Vec<_> = (0..guest.depth).map(|_| front.page(false)).collect();
    // When each read was asked for, and which page is free.
    let mut asked = std::collections::BTreeMap::new();
    let mut idle: Vec<usize> = (0..guest.depth).collect();
    let (mut count, mut sum, mut worst) = (0u64, 0, 0);
    while world.now_ns < WARM_NS + time_ns {
        hostile.iter_mut().for_each(Hostile::ask);
        for answer in front.answers() {
            assert_eq!(answer.status, RspStatus::OKAY);
            let (page, at) = asked.remove(&answer.id).expect("it was asked for");
            idle.push(page);
            if at >= WARM_NS {
                let took: u64 = world.now_ns - at;
                count += 1;
                sum += took;
                worst = worst.max(took);
            }
        }
        while let Some(page) = idle.pop() {
            let id = front.push(Operation::READ, 0, &[pages[page].segment(0, 7)]);
            asked.insert(id, (page, world.now_ns));
        }
        front.publish();
        world.visit();
    }
    // What has not come yet counts as well.
    let late = asked
        .values()
        .map(|&(_, at)| world.now_ns - at.max(WARM_NS));
    worst = worst.max(late.max().unwrap_or(0));
    Outcome {
        mean_ns: sum / count.max(1),
        worst_ns: worst,
        rate: count as f64 * 1e9 / time_ns as f64,
    }
}
