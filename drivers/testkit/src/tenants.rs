//! Tenants with limits and weights, in virtual time: guests that ask for as much as they can, or for one
//! page at a time, on the product's ring cores, workers and NVMe queues, beside disks of which only the
//! time is modelled.
//!
//! Each core has a disk of its own, so that what holds a tenant with rings on several cores back is its
//! limits alone. A turn of a core takes 1 us; a core that sleeps wakes 5 us after its time.

use std::collections::BTreeMap;
use std::sync::Arc;

use spindle_blkif::abi::{Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::worker::{Link, Next, Order, Report, Worker};
use spindle_blkif::{RingId, RingShare, RingStats};
use spindle_limits::{IoLimits, Meters};
use spindle_nvme::QueuePair;
use spindle_xen::DomId;

use crate::blkfront::{Blkfront, GuestPage};
use crate::grants::{FakeEvents, FakeGrants};
use crate::mem::FakeBus;
use crate::neighbours::{LARGEST, World};
use crate::nvme::{Doorbells, Speed, TimedNvme};

const TURN_NS: u64 = 1_000;
const LATE_NS: u64 = 5_000;
const POLL_NS: u64 = 100_000;

/// A guest with one device.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Limits and weight, in words.
    pub limits: &'static str,
    /// Limits of the group that it is in; those of one group are the same words.
    pub group: Option<&'static str>,
    /// Rings: the first is on the first core, and so on in turn.
    pub rings: usize,
    /// Requests that it keeps under way on each.
    pub depth: usize,
    /// Whether each reads 1 MiB rather than a page.
    pub large: bool,
    /// When it asks for nothing: from, to.
    pub pause: (u64, u64),
    /// From a time on it has other limits.
    pub then: Option<(u64, &'static str)>,
}

impl Tenant {
    /// One that keeps a ring full of reads of a page.
    #[must_use]
    pub const fn flood(limits: &'static str) -> Self {
        Self {
            limits,
            group: None,
            rings: 1,
            depth: 128,
            large: false,
            pause: (0, 0),
            then: None,
        }
    }
}

/// What a tenant got.
#[derive(Clone, Debug, Default)]
pub struct TenantFigures {
    /// Requests answered in each interval.
    pub answered: Vec<u64>,
    /// How long each request that was asked for after the first interval took, in nanoseconds, sorted.
    pub took: Vec<u64>,
    /// For how long its rings were held back.
    pub held_ns: u64,
}

impl TenantFigures {
    /// What 99 of 100 requests stay within, in nanoseconds.
    #[must_use]
    pub fn p99_ns(&self) -> u64 {
        self.took
            .get(self.took.len() * 99 / 100)
            .copied()
            .unwrap_or(0)
    }
}

/// What a core did.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreUse {
    /// Time awake.
    pub awake_ns: u64,
    /// How often it slept.
    pub sleeps: u64,
}

/// A tenant's frontend for one ring.
struct Front<'a> {
    front: Blkfront<'a>,
    tenant: usize,
    ring: RingId,
    stats: Arc<RingStats>,
    pages: Vec<GuestPage>,
    list: GuestPage,
    asked: BTreeMap<u64, u64>,
    count: u64,
}

impl Front<'_> {
    fn act(&mut self, tenant: &Tenant, now_ns: u64, mut answered: impl FnMut(u64)) {
        for answer in self.front.answers() {
            assert_eq!(answer.status, RspStatus::OKAY);
            answered(self.asked.remove(&answer.id).expect("it was asked for"));
        }
        let (from, to) = tenant.pause;
        if (from..to).contains(&now_ns) {
            return;
        }
        while self.front.free() > 0 && self.front.outstanding() < tenant.depth {
            self.count += 1;
            let sector = self.count % 64 * 2048;
            let id = if tenant.large {
                let (list, count) = (self.list.gref, LARGEST as u16);
                self.front
                    .push_indirect(Operation::READ, sector, list, count)
            } else {
                let page = &self.pages[self.count as usize % LARGEST];
                self.front
                    .push(Operation::READ, sector, &[page.segment(0, 7)])
            };
            self.asked.insert(id, now_ns);
        }
        self.front.publish();
    }
}

type Work<'a> = Worker<QueuePair<Doorbells>, &'a FakeGrants<'a>, &'a FakeEvents>;

/// A core with its disk, its worker and the frontends on it.
struct Lane<'a> {
    worker: Work<'a>,
    link: Arc<Link<QueuePair<Doorbells>>>,
    disk: TimedNvme,
    fronts: Vec<Front<'a>>,
    now_ns: u64,
    spent: CoreUse,
}

/// The buckets of a tenant and its group.
struct Buckets {
    own: Vec<(IoLimits, Arc<Meters>)>,
    groups: Vec<(&'static str, IoLimits, Arc<Meters>)>,
}

fn limits(words: &str) -> IoLimits {
    let mut limits = IoLimits::default();
    limits.set_all(words).expect("limits");
    limits
}

impl Buckets {
    fn new(tenants: &[Tenant]) -> Self {
        let meters = |words: &str| {
            let limits = limits(words);
            let meters = Arc::new(Meters::new(&limits, 0));
            (limits, meters)
        };
        let mut groups: Vec<(&'static str, IoLimits, Arc<Meters>)> = Vec::new();
        for words in tenants.iter().filter_map(|tenant| tenant.group) {
            if groups.iter().all(|(other, ..)| *other != words) {
                let (limits, meters) = meters(words);
                groups.push((words, limits, meters));
            }
        }
        Self {
            own: tenants.iter().map(|tenant| meters(tenant.limits)).collect(),
            groups,
        }
    }

    fn share(&self, at: usize, tenant: &Tenant) -> RingShare {
        let (limits, own) = &self.own[at];
        let mut meters = vec![own.clone()];
        let of = |(words, ..): &(&str, IoLimits, Arc<Meters>)| Some(*words) == tenant.group;
        let group = self.groups.iter().position(of).map(|number| {
            let (_, limits, of_group) = &self.groups[number];
            meters.push(of_group.clone());
            (number as u32, limits.weight())
        });
        RingShare::new(limits.weight(), group, meters)
    }
}

/// Plays the tenants on so many cores for `time_ns`, and counts in intervals of `every_ns`.
///
/// # Panics
/// If a request fails.
#[must_use]
pub fn play(
    cores: usize,
    speed: Speed,
    tenants: &[Tenant],
    time_ns: u64,
    every_ns: u64,
) -> (Vec<TenantFigures>, Vec<CoreUse>) {
    let bus = Arc::new(FakeBus::new());
    let (grants, events) = (FakeGrants::new(&bus), FakeEvents::default());
    let mut buckets = Buckets::new(tenants);
    let mut lanes = Vec::new();
    for core in 0..cores {
        let mut world = World::new(&bus, &grants, &events, speed);
        // Windows of all cores are in one machine.
        world.rings = 8 * core as u16;
        let mut fronts = Vec::new();
        for (at, tenant) in tenants.iter().enumerate() {
            for _ in (0..tenant.rings).filter(|ring| ring % cores == core) {
                let (mut session, front) = world.session(DomId(1 + at as u16), 16, true);
                session.set_share(buckets.share(at, tenant));
                let stats = session.stats();
                let ring = world.core.attach(session).expect("a place");
                let pages: Vec<_> = (0..LARGEST).map(|_| front.page(false)).collect();
                let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
                fronts.push(Front {
                    list: front.list(&segments),
                    front,
                    tenant: at,
                    ring,
                    stats,
                    pages,
                    asked: BTreeMap::new(),
                    count: 0,
                });
            }
        }
        let link = Arc::new(Link::default());
        let poll = PollTime::For(POLL_NS);
        lanes.push(Lane {
            worker: Worker::new(world.core, Arc::clone(&link), poll, Arc::default()),
            link,
            disk: world.disk,
            fronts,
            now_ns: 0,
            spent: CoreUse::default(),
        });
    }
    let mut came = vec![
        TenantFigures {
            answered: vec![0; time_ns.div_ceil(every_ns) as usize],
            ..TenantFigures::default()
        };
        tenants.len()
    ];
    let mut changes: Vec<_> = tenants.iter().map(|tenant| tenant.then).collect();
    // When sleeping cores are woken whatever they wait for.
    let mut wakes: Vec<u64> = tenants
        .iter()
        .flat_map(|tenant| [tenant.pause.1, tenant.then.map_or(0, |(at, _)| at)])
        .filter(|&at| at > 0)
        .collect();
    wakes.sort_unstable();
    loop {
        let lane = lanes.iter_mut().min_by_key(|lane| lane.now_ns);
        let now_ns = lane.map_or(time_ns, |lane| lane.now_ns);
        if now_ns >= time_ns {
            break;
        }
        for (at, change) in changes.iter_mut().enumerate() {
            if let Some((_, words)) = change.take_if(|(at, _)| *at <= now_ns) {
                let limits = limits(words);
                buckets.own[at] = (limits.clone(), Arc::new(Meters::new(&limits, now_ns)));
                order(&mut lanes, at, || buckets.share(at, &tenants[at]));
            }
        }
        let next = wakes.iter().find(|&&at| at > now_ns);
        let next = next.map_or(u64::MAX, |&at| at);
        let Some(lane) = lanes.iter_mut().min_by_key(|lane| lane.now_ns) else {
            break;
        };
        lane.turn(tenants, next, |tenant, asked_ns, now_ns| {
            if let Some(count) = came[tenant].answered.get_mut((now_ns / every_ns) as usize) {
                *count += 1;
            }
            if asked_ns >= every_ns {
                came[tenant].took.push(now_ns - asked_ns);
            }
        });
    }
    for lane in &lanes {
        for front in &lane.fronts {
            came[front.tenant].held_ns += front.stats.snapshot().held_ns;
        }
    }
    for came in &mut came {
        came.took.sort_unstable();
    }
    (came, lanes.iter().map(|lane| lane.spent).collect())
}

/// Has all rings of a tenant get another share.
fn order(lanes: &mut [Lane<'_>], tenant: usize, share: impl Fn() -> RingShare) {
    for lane in lanes {
        for front in lane.fronts.iter().filter(|front| front.tenant == tenant) {
            let ring = front.ring;
            let share = Box::new(share());
            let order = Order::Share { ring, share };
            lane.link.orders.put(order).expect("one order at a time");
        }
    }
}

impl Lane<'_> {
    /// A turn, and the sleep after it, not beyond `next`.
    fn turn(&mut self, tenants: &[Tenant], next: u64, mut answered: impl FnMut(usize, u64, u64)) {
        let now_ns = self.now_ns;
        for front in &mut self.fronts {
            let at = front.tenant;
            front.act(&tenants[at], now_ns, |asked_ns| {
                answered(at, asked_ns, now_ns)
            });
        }
        self.disk.run(now_ns);
        let what = self.worker.turn(now_ns);
        self.disk.run(now_ns);
        self.now_ns += TURN_NS;
        self.spent.awake_ns += TURN_NS;
        while let Some(report) = self.link.reports.take() {
            assert!(!matches!(report, Report::Halted { .. }));
        }
        let until = match what {
            Next::Turn => return,
            Next::Rest(until) if self.worker.listen() => until,
            Next::Rest(_) => return,
            Next::Nap(until) => until,
            Next::Stop => return,
        };
        let until = until.ns().max(self.now_ns).saturating_add(LATE_NS);
        // What guests have asked for by now has been seen; those that begin again wake it.
        self.now_ns = until.min(next.max(self.now_ns));
        self.spent.sleeps += 1;
    }
}
