//! A run: a domain's life from its first attach to its shutdown, in which the scheduler chooses at
//! every step who goes on.

mod limits;
mod shown;

use limits::{HELD_NS, Limits};
use shown::BEGINS_ON;
use spindle_block::DiskOptions;
use spindle_config::DataPath;
use spindle_hw::SharedPages;
use spindle_testkit::grants::{Call, Fault as GrantFault};
use spindle_testkit::nvme::{Config as NvmeConfig, FakeNvme, NamespaceConfig};
use spindle_testkit::virtio::{Config as VirtioConfig, FakeVirtio};
use spindle_testkit::xenstored::Vbd;
use spindle_xen::grant::Status;
use spindle_xen::{DomId, Errno};

use crate::chance::Chance;
use crate::disk::{Disk, Model};
use crate::faults::{Kind, Rates};
use crate::front::{Around, Front, NO_THOUGHT, Phase, Tally, Then};
use crate::limit::{self, Limit};
use crate::plan::Plan;
use crate::trace;
use crate::volume::Volume;
use crate::world::disks::SpreadVolume;
use crate::world::wires::Fault as WireFault;
use crate::world::{BACKEND, DISKS, SECOND, Setup, WATCHES, World};

/// What guests have: [`DISKS`], and a volume on two others.
const SERVED: [&str; 5] = [DISKS[0], DISKS[1], DISKS[2], DISKS[3], SPREAD.name];
/// Sectors of each of them.
const SECTORS: [usize; 5] = [2048, 4096, 2048, 2048, 2048];
/// In stripes of a page and of a sector, and in pieces with odd ends.
const SPREAD: SpreadVolume = SpreadVolume {
    name: "vg0/lv",
    stretches: &[
        (1024, 8, &[("vdb", 64), ("nvme0n3", 0)]),
        (129, 0, &[("nvme0n3", 600)]),
        (511, 0, &[("vdb", 1001)]),
        (384, 1, &[("nvme0n3", 1000), ("vdb", 2000)]),
    ],
};
/// Sectors of these two disks.
const UNDER: u64 = 4096;
/// How data gets to a guest; most domains are as the default has it.
const PATHS: [DataPath; 5] = [
    DataPath::Auto,
    DataPath::Auto,
    DataPath::Persistent,
    DataPath::Copy,
    DataPath::Map,
];
/// How long the domain may take for what depends on no disk.
const PATIENCE_NS: u64 = 150 * SECOND;

/// How long a request may take as long as nothing has gone wrong. It is longer than any disk needs, and
/// shorter than it takes until what was not notified is found by chance.
const PROMPT_NS: u64 = 5 * SECOND;
/// How much longer for each request under way, any of which a disk may have to do before.
const EACH_NS: u64 = SECOND / 50;
/// How long it may take to connect as long as nothing has gone wrong: with the half second that a
/// backend waits for the toolstack, less than it takes until a core looks that was not woken.
const CONNECT_NS: u64 = 3 * SECOND / 2;
/// The number of the RAM disk's volume.
const RAM: usize = 3;
/// How long a request to it may take as long as nothing has gone wrong: less than it takes until a core
/// looks that was not notified.
const RAM_NS: u64 = SECOND / 2;
/// How long after a death of the kernel its next life has taken up all connections.
const ADOPT_NS: u64 = 2 * SECOND;
/// Requests after which the end begins: many runs find more than a long one does.
const REQUESTS: u64 = 20_000;
/// How much later a device may be looked at whose guest has had its share of looks.
const LATE_LOOK_NS: u64 = 60 * SECOND;
/// Steps between two looks at the real clock.
const LOOK: u64 = 1 << 10;

/// Steps in which all that happens is polling, before they get slower.
const POLLS: u64 = 2;
/// By so many powers of two they are slower before sleeps get longer, too, and by how much these do first.
const NAPS: u64 = 6;
const NAP_NS: u64 = 100_000;
/// They take at most 2 to this power times as long as others: a tenth of a second.
const SLOWEST: u64 = 14;

/// What was found in a run, and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// It went on to its end. One that was stopped by the real clock did not, and what is judged at
    /// the end was not.
    pub whole: bool,
    /// Virtual time, in ns.
    pub virtual_ns: u64,
    /// How requests ended.
    pub tally: Tally,
    /// Steps of the scheduler.
    pub steps: u64,
    /// How often what went wrong, by [`Kind`].
    pub faults: Vec<u64>,
    /// What all of the run makes.
    pub hash: u64,
}

/// Why a run ends before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something is wrong.
    Wrong(String),
    /// There is no real time left.
    NoTime,
}

impl From<String> for Stop {
    fn from(reason: String) -> Self {
        Self::Wrong(reason)
    }
}

impl From<&str> for Stop {
    fn from(reason: &str) -> Self {
        Self::Wrong(reason.into())
    }
}

/// Who can go on.
#[derive(Clone, Copy, Debug)]
enum Actor {
    Control,
    Core(usize),
    Store,
    /// A notification gets to a frontend.
    Event,
    Front(usize),
    /// Requests are announced that were written before.
    Publish,
    Disk(usize),
    Fault,
    /// What is short or slow is so no longer.
    Relief,
}

/// What is short or slow, until when.
#[derive(Clone, Copy, Debug)]
enum Strain {
    Core(usize),
    Frames(usize),
    Heap,
    Store,
}

pub(crate) struct Life {
    world: World,
    cores: usize,
    fronts: Vec<Front>,
    disks: Vec<Disk>,
    volumes: Vec<Volume>,
    rates: Rates,
    limits: Limits,
    strains: Vec<(u64, Strain)>,
    spare: Vec<SharedPages>,
    store_runs: bool,
    /// How often its tree had changed when frontends last looked.
    store_changes: u64,
    chance: Chance,
    tally: Tally,
    /// How long a request may take.
    bound_ns: u64,
    /// Requests may fail by now.
    may_fail: bool,
    /// Something has happened by now that also delays requests which no disk delays.
    disturbed: bool,
    /// Attaches and connects may fail by now.
    may_give_up: bool,
    /// Nothing else than deaths of the kernel has happened, which no frontend is to notice.
    only_deaths: bool,
    /// No life has left the next one any request to be done again.
    all_drained: bool,
    /// No new requests, and devices go.
    ending: bool,
    /// No new devices but those that are attached one by one.
    attaches: bool,
    steps: u64,
    /// Rounds of the scheduler until it looks at the real clock again.
    look: u64,
    deadline: Option<Limit>,
    /// When something went wrong with a disk last.
    disk_failed_at: u64,
    /// From when on nothing is late because of a death of the kernel.
    adopted_from: u64,
    /// Steps since anything else than a core could go on.
    polls: u64,
    started: u64,
    judged_at: u64,
    /// What is published was judged last.
    published_at: u64,
    /// From when on xenstored is fast enough for what is published to be judged.
    prompt_from: u64,
    /// Since when each volume is no one's.
    free_since: [u64; SERVED.len()],
}

impl Life {
    pub(crate) fn new(plan: &Plan, spare: Vec<SharedPages>, deadline: Option<Limit>) -> Self {
        let mut chance = Chance::new(plan.seed);
        let mut setup = Setup {
            cores: plan.cores,
            ..Setup::default()
        };
        setup.config.path = chance.pick(&PATHS);
        // What it draws is drawn apart, so that runs without it stay the same.
        let (own, acts) = (Chance::new(!plan.seed), plan.kinds.contains(&Kind::Limited));
        let limits = Limits::new(own, acts, plan.guests, plan.cores);
        let mut unread = Vec::new();
        setup
            .config
            .set_all(&limits.options(), |error| unread.push(error.to_string()));
        assert!(unread.is_empty(), "{unread:?}");
        let mut models = Vec::new();
        let out_of_order = chance.one_in(2);
        let queues = plan.cores.max(1);
        let options = DiskOptions {
            queues: queues as u16,
            depth: chance.pick(&[4, 16, 64]),
            timeout: std::time::Duration::from_secs(plan.timeout_s),
        };
        let world = World::new(setup, |machine, table| {
            let nvme = NvmeConfig {
                namespaces: vec![
                    NamespaceConfig::new(1, SECTORS[0] as u64, 9),
                    NamespaceConfig::new(2, SECTORS[1] as u64 / 8, 12),
                    NamespaceConfig::new(3, UNDER, 9),
                ],
                queues: queues as u16,
                manual: true,
                out_of_order,
                ..NvmeConfig::default()
            };
            let nvme = FakeNvme::new(machine.bus.clone(), nvme);
            table.add_nvme(&nvme, 0, options);
            let mut virtio = |number, sectors| {
                let config = VirtioConfig {
                    queues: queues as u16,
                    sectors,
                    out_of_order,
                    ..VirtioConfig::default()
                };
                let model = FakeVirtio::new(machine.bus.clone(), config);
                table.add_virtio(&model, number, options);
                model.hold();
                model
            };
            let [vda, vdb] = [virtio(0, SECTORS[2] as u64), virtio(1, UNDER)];
            table.add_ram("ram0", SECTORS[3] as u64 * 512);
            table.spread = Some(SPREAD);
            models = vec![
                (Model::Nvme(nvme), vec![0, 1, 4]),
                (Model::Virtio(vda), vec![2]),
                (Model::Virtio(vdb), vec![4]),
            ];
        });
        let now = world.now();
        world.machine.calls.watch();
        let disks = models.into_iter();
        let disks = disks.map(|(model, range)| Disk::new(model, queues, range, chance.split()));
        let disks = disks.collect();
        let fronts = (0..plan.guests).map(|number| {
            let vbd = Vbd {
                backend: BACKEND,
                // The first two are of one guest.
                frontend: 5 + number.saturating_sub(1) as u16,
                device: 51712 + 16 * number as u32,
            };
            Front::new(number, vbd, chance.split(), now)
        });
        let fronts = fronts.collect();
        let volumes = (1..).zip(SECTORS);
        let volumes = volumes.map(|(tag, sectors)| Volume::new(tag, sectors));
        let volumes = volumes.collect();
        let rates = Rates::draw(chance.split(), &plan.kinds, now);
        Self {
            world,
            cores: plan.cores,
            fronts,
            disks,
            volumes,
            rates,
            limits,
            strains: Vec::new(),
            spare,
            store_runs: true,
            store_changes: 0,
            chance,
            tally: Tally::default(),
            bound_ns: plan.timeout_s * 8 * SECOND + PATIENCE_NS,
            may_fail: false,
            disturbed: false,
            may_give_up: false,
            only_deaths: true,
            all_drained: true,
            ending: false,
            attaches: true,
            steps: 0,
            look: LOOK,
            deadline,
            disk_failed_at: 0,
            adopted_from: 0,
            polls: 0,
            started: now,
            judged_at: now,
            published_at: now,
            prompt_from: now,
            free_since: [now; SERVED.len()],
        }
    }

    fn now(&self) -> u64 {
        self.world.now()
    }

    /// What has been counted so far.
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome {
            whole: false,
            virtual_ns: self.now() - self.started,
            tally: self.tally,
            steps: self.steps,
            faults: self.rates.counts(),
            hash: trace::hash(),
        }
    }

    /// Gives the memory back, for another run.
    pub(crate) fn into_spare(self) -> Vec<SharedPages> {
        self.spare
    }

    /// The whole life.
    pub(crate) fn live(&mut self, ns: u64) -> Result<(), Stop> {
        let until = self.now() + ns;
        self.run(until, |life| life.tally.answered >= REQUESTS)?;
        self.settle()?;
        self.verify()?;
        self.shut_down()
    }

    /// Runs until `done`, or a time; true if it is done.
    fn run(&mut self, until: u64, done: impl Fn(&Self) -> bool) -> Result<bool, Stop> {
        let mut actors = Vec::new();
        loop {
            if done(self) {
                return Ok(true);
            }
            let now = self.now();
            if now >= until {
                return Ok(false);
            }
            self.look -= 1;
            if self.look == 0 {
                self.look = LOOK;
                limit::look();
                if self.deadline.is_some_and(Limit::is_over) {
                    return Err(Stop::NoTime);
                }
            }
            trace::set_now(now);
            self.world.machine.wires.pass(now);
            self.find(&mut actors);
            if actors.is_empty() {
                self.world
                    .machine
                    .now
                    .set(self.wake().min(until).max(now + 1));
                continue;
            }
            let chosen = self.chance.index(actors.len());
            let actor = actors[chosen];
            self.steps += 1;
            trace::step(chosen as u64 | (actors.len() as u64) << 8);
            self.act(actor)?;
            let took = self.chance.within(200..4_000);
            let is_poll = |actor: &Actor| matches!(actor, Actor::Core(_) | Actor::Control);
            let polls = actors.iter().all(is_poll);
            self.polls = if polls { self.polls + 1 } else { 0 };
            let took = self.stretch(took);
            let machine = self.world.machine;
            machine.now.set(machine.now.get() + took);
            if self.now() >= self.judged_at {
                self.judged_at = self.now() + SECOND;
                self.judge()?;
            }
        }
    }

    /// How long a step takes. Cores, and control, that do nothing but poll a disk that is late get slower and slower,
    /// until something else is due: a run would spend most of its real time on that otherwise.
    fn stretch(&self, took: u64) -> u64 {
        match self.slower() {
            0 => took,
            slower => {
                let next = if slower > NAPS {
                    self.due()
                } else {
                    self.next()
                };
                let left = next.saturating_sub(self.now());
                (took << slower).min(left.max(took))
            }
        }
    }

    /// By which power of two steps are slower.
    fn slower(&self) -> u64 {
        (self.polls / POLLS).min(SLOWEST)
    }

    /// When someone can go on. Cores that sleep for short times, one after the other, for nothing sleep
    /// longer and longer, until something else is due.
    fn wake(&self) -> u64 {
        let next = self.next();
        match self.slower().saturating_sub(NAPS) {
            0 => next,
            slower => next.max(self.due().min(next.saturating_add(NAP_NS << slower))),
        }
    }

    /// Who can go on now.
    fn find(&mut self, actors: &mut Vec<Actor>) {
        actors.clear();
        let now = self.now();
        if self.world.control_runs() {
            actors.push(Actor::Control);
        }
        for core in 0..self.cores {
            if self.world.machine.core_runs(core) {
                actors.push(Actor::Core(core));
            }
        }
        self.world.store.set_now(now);
        self.store_runs |= self.world.store_is_called();
        self.store_runs |= self.world.store.next_due().is_some_and(|due| due <= now);
        if self.store_runs {
            actors.push(Actor::Store);
        }
        if self.world.machine.wires.has_for_front() {
            actors.push(Actor::Event);
        }
        for (number, front) in self.fronts.iter().enumerate() {
            if front.next <= now {
                actors.push(Actor::Front(number));
            }
        }
        let publish_at = self.world.machine.calls.next_due();
        if publish_at.is_some_and(|at| at <= now) {
            actors.push(Actor::Publish);
        }
        for (number, disk) in self.disks.iter().enumerate() {
            if disk.next() <= now {
                actors.push(Actor::Disk(number));
            }
        }
        if self.rates.next() <= now {
            actors.push(Actor::Fault);
        }
        if self.strains.iter().any(|(until, _)| *until <= now) {
            actors.push(Actor::Relief);
        }
    }

    /// When someone can go on.
    fn next(&self) -> u64 {
        let end = self.world.machine.next_end().unwrap_or(u64::MAX);
        end.min(self.due())
    }

    /// The same without what ends the sleep of cores and control.
    fn due(&self) -> u64 {
        let ends = [
            self.world.machine.wires.next_tick(),
            self.world.store.next_due(),
            self.world.machine.calls.next_due(),
        ];
        let fronts = self.fronts.iter().map(|front| front.next);
        let disks = self.disks.iter().map(Disk::next);
        let strains = self.strains.iter().map(|(until, _)| *until);
        let all = ends.into_iter().flatten().chain(fronts);
        let all = all.chain(disks).chain(strains).chain([self.rates.next()]);
        all.min().unwrap_or(u64::MAX)
    }

    fn act(&mut self, actor: Actor) -> Result<(), String> {
        let now = self.now();
        match actor {
            Actor::Control => {
                self.world.turn_control();
                if self.world.handed_over.is_some() {
                    self.follow(now)?;
                }
                self.disks.iter_mut().for_each(|disk| disk.plan(now));
            }
            Actor::Core(core) => {
                self.world.machine.run_core(core);
                self.disks.iter_mut().for_each(|disk| disk.plan(now));
                self.judge_awake(core)?;
            }
            Actor::Store => self.step_store(now),
            Actor::Event => return self.pass_event(now),
            Actor::Front(number) => return self.step_front(number, now),
            Actor::Publish => self.world.machine.publish(),
            Actor::Disk(number) => self.step_disk(number, now),
            Actor::Fault => {
                if let Some(kind) = self.rates.take(now)
                    && self.go_wrong(kind, now)
                {
                    trace::text(format!("fault: {}", kind.text()));
                    self.rates.note(kind);
                    self.may_fail |= kind.may_fail();
                    self.only_deaths &= kind.is_unnoticed();
                    self.disturbed |= kind.disturbs();
                    self.may_give_up |= !kind.is_unnoticed();
                    if kind <= Kind::Removed {
                        self.disk_failed_at = now;
                    }
                }
            }
            Actor::Relief => self.relieve(now),
        }
        Ok(())
    }

    fn step_store(&mut self, now: u64) {
        self.store_runs = self.world.store.step();
        if self.store_runs {
            self.world
                .machine
                .wires
                .send(crate::world::wires::Wire::ToControl);
        }
        let changes = self.world.store.changes();
        if std::mem::replace(&mut self.store_changes, changes) == changes {
            return;
        }
        for front in &mut self.fronts {
            let state = front.back_state(&self.world.store);
            if state != std::mem::replace(&mut front.seen, state) {
                let soon = now + front.chance.scale(10_000..100_000_000);
                front.next = front.next.min(soon);
            }
        }
    }

    /// Calls `with` on a frontend and all that its steps need.
    fn with<T>(&mut self, number: usize, with: impl FnOnce(&mut Front, &mut Around<'_>) -> T) -> T {
        let front = &mut self.fronts[number];
        let volume = front.volume;
        let free_at = self.limits.free_at(number);
        let mut around = Around {
            machine: self.world.machine,
            now: self.world.machine.now.get(),
            store: &mut self.world.store,
            poked: &mut self.world.poked,
            volume: volume.map(|volume| &mut self.volumes[volume]),
            spare: &mut self.spare,
            tally: &mut self.tally,
            may_fail: self.may_fail,
            prompt_ns: match volume {
                Some(RAM) if !self.disturbed && free_at.is_some() => RAM_NS,
                _ => u64::MAX,
            },
            prompt_from: self.adopted_from.max(free_at.unwrap_or(0)),
        };
        with(front, &mut around)
    }

    fn pass_event(&mut self, _now: u64) -> Result<(), String> {
        let machine = self.world.machine;
        let Some((domain, port)) = machine
            .wires
            .take_to_front()
            .and_then(|local| machine.far_end(local))
        else {
            return Ok(());
        };
        for number in 0..self.fronts.len() {
            let front = &self.fronts[number];
            if DomId(front.vbd.frontend) == domain && front.phase != Phase::Dead {
                self.with(number, |front, around| front.notified(port, around))?;
                self.judge_limits(number)?;
            }
        }
        Ok(())
    }

    fn step_disk(&mut self, number: usize, now: u64) {
        let disk = &mut self.disks[number];
        if let Some(since) = disk.come_back(now) {
            trace::event("disk {} is back", [number as u64, 0, 0]);
            for at in disk.volumes.clone() {
                let owed = |front: &Front| {
                    front.volume == Some(at)
                        && front.since < since
                        && !front.traits.read_only
                        && matches!(front.phase, Phase::Running | Phase::Closing(_))
                };
                let owed = self.fronts.iter().any(owed);
                self.volumes[at].lose_cache(owed, now);
            }
            disk.plan(now);
            return;
        }
        // One that does not master the bus reaches no memory, whatever it has been given.
        if self.world.remotes[number].borrow().masters == Some(false) {
            disk.rest(now);
        } else {
            disk.work(now);
        }
        disk.plan(now);
    }

    /// A step of a frontend, or of the toolstack for it.
    fn step_front(&mut self, number: usize, now: u64) -> Result<(), String> {
        let state = self.fronts[number].back_state(&self.world.store);
        let front = &mut self.fronts[number];
        let overdue = now >= front.patience;
        // A command may be lost again each time that it is repeated.
        let held = self.limits.free_at(number).map_or(HELD_NS, |_| 0);
        let late = overdue && now - self.disk_failed_at.max(front.entered) > self.bound_ns + held;
        front.next = now + front.chance.within(SECOND / 4..SECOND);
        match front.phase {
            Phase::Absent if !self.attaches => front.next = u64::MAX,
            Phase::Absent => {
                let free = |volume: &usize| self.fronts.iter().all(|f| f.volume != Some(*volume));
                let free: Vec<usize> = (0..SERVED.len()).filter(free).collect();
                if !free.is_empty() {
                    let volume = self.chance.pick(&free);
                    self.attach(number, volume);
                }
            }
            Phase::Waiting if state == 2 => {
                self.with(number, Front::publish);
                self.fronts[number].patience = now + PATIENCE_NS;
            }
            Phase::Published if state == 4 => {
                if !self.may_give_up && now > front.entered.max(self.adopted_from) + CONNECT_NS {
                    return Err(format!("front {number} is connected late"));
                }
                self.with(number, Front::connect);
                self.limits.disturb(number, now);
            }
            Phase::Waiting if state == 0 => self.leave(number),
            Phase::Waiting | Phase::Published if overdue || state == 5 || state == 6 => {
                if state != 6 && overdue && !self.may_give_up {
                    return Err(format!("front {number} is not connected in time"));
                }
                // One that was just closed is still Closed when it begins again.
                if overdue || front.phase == Phase::Published {
                    self.kill(number, now);
                }
            }
            Phase::Waiting | Phase::Published => {}
            Phase::Running if front.broken => {
                if now >= front.patience {
                    if state == 4 && !self.disturbed && now >= self.prompt_from {
                        return Err(format!("front {number}: its overrun ring is served on"));
                    }
                    self.kill(number, now);
                }
            }
            Phase::Running if state != 4 && self.only_deaths && !self.ending => {
                return Err(format!(
                    "front {number}: a death has cost it its connection"
                ));
            }
            Phase::Running if state != 4 => {
                front.enter(Phase::Closing(Then::Leave), now, self.bound_ns);
                let vbd = front.vbd;
                self.world.poke(|store| vbd.detach(store));
            }
            Phase::Running if self.ending => {
                let until = front.next;
                front.enter(Phase::Closing(Then::Leave), now, self.bound_ns);
                front.next = until;
                let vbd = front.vbd;
                self.world.poke(|store| vbd.detach(store));
            }
            Phase::Running => self.with(number, Front::work),
            Phase::Closing(then) => {
                if front.outstanding() == 0 || state == 6 || state == 0 {
                    let vbd = front.vbd;
                    front.enter(Phase::Closed(then), now, self.bound_ns);
                    self.world.poke(|store| vbd.set_front_state(store, 6));
                } else if late {
                    return Err(format!("front {number}: requests are never answered"));
                }
            }
            Phase::Closed(Then::Return) if state == 6 => {
                self.with(number, Front::take_back);
                let front = &mut self.fronts[number];
                front.enter(Phase::Waiting, now, PATIENCE_NS);
                let vbd = front.vbd;
                self.world.poke(|store| vbd.set_front_state(store, 1));
            }
            Phase::Closed(_) | Phase::Dead if state == 0 => self.leave(number),
            Phase::Closed(_) if late => {
                return Err(format!(
                    "front {number}: the backend does not close, state {state}"
                ));
            }
            Phase::Dead if late => {
                return Err(format!(
                    "front {number}: the device is not removed, state {state}"
                ));
            }
            Phase::Closed(_) | Phase::Dead => {}
        }
        Ok(())
    }

    fn attach(&mut self, number: usize, volume: usize) {
        let now = self.now();
        let front = &mut self.fronts[number];
        front.traits = crate::front::Traits::draw(&mut front.chance);
        front.volume = Some(volume);
        front.since = now;
        self.free_since[volume] = u64::MAX;
        front.enter(Phase::Waiting, now, PATIENCE_NS);
        let (vbd, mode) = (front.vbd, if front.traits.read_only { "r" } else { "w" });
        let target = self.limits.attach(number, now) + SERVED[volume];
        self.world.poke(|store| vbd.attach(store, &target, mode));
    }

    /// The guest is destroyed, or the toolstack takes the device away by force.
    fn kill(&mut self, number: usize, now: u64) {
        let front = &mut self.fronts[number];
        front.enter(Phase::Dead, now, self.bound_ns);
        let vbd = front.vbd;
        self.world.poke(|store| vbd.destroy(store));
    }

    /// The backend's directory is gone.
    fn leave(&mut self, number: usize) {
        let now = self.now();
        self.with(number, Front::take_back);
        self.limits.disturb(number, now);
        let front = &mut self.fronts[number];
        if let Some(volume) = front.volume.take() {
            self.free_since[volume] = now;
        }
        front.enter(Phase::Absent, now, u64::MAX);
        front.next = now + front.chance.scale(1_000_000..30_000_000_000);
        let path = front.vbd.front_dir();
        self.world.poke(|store| store.remove(&path));
    }

    /// Has something go wrong; false if there is nothing that could.
    fn go_wrong(&mut self, kind: Kind, now: u64) -> bool {
        let machine = self.world.machine;
        let chance = &mut self.chance;
        let ahead = chance.scale(1..64) - 1;
        let until = now + chance.scale(100_000_000..60_000_000_000);
        let errno = chance.pick(&[Errno::EINVAL, Errno::EFAULT]);
        let status = chance.pick(&[Status::BAD_GNTREF, Status::EAGAIN, Status::GENERAL_ERROR]);
        match kind {
            Kind::MapOperation => {
                machine
                    .grants
                    .inject(Call::Map, ahead, GrantFault::Operation(status));
            }
            Kind::MapHypercall => {
                machine
                    .grants
                    .inject(Call::Map, ahead, GrantFault::Hypercall(errno));
            }
            Kind::CopyOperation => {
                machine
                    .grants
                    .inject(Call::Copy, ahead, GrantFault::Operation(status));
            }
            Kind::CopyHypercall => {
                machine
                    .grants
                    .inject(Call::Copy, ahead, GrantFault::Hypercall(errno));
            }
            Kind::BindRefused => machine.refuse_bind(chance.index(3)),
            Kind::FramesShort => {
                let left = machine.frames_left.replace(0);
                self.strains.push((until, Strain::Frames(left)));
            }
            Kind::HeapShort => {
                machine.heap.set(1 << 20);
                self.strains.push((until, Strain::Heap));
            }
            Kind::EventLost => machine.wires.lose_next(WireFault::Vanishes),
            Kind::EventUnheard => machine.wires.lose_next(WireFault::FindsItDeaf),
            Kind::CoreStalls => {
                if self.cores == 0 {
                    return false;
                }
                let core = chance.index(self.cores);
                machine.hang(core, true);
                let until = now + chance.scale(1_000_000..2_000_000_000);
                self.strains.push((until, Strain::Core(core)));
            }
            Kind::StoreSlow => {
                let latency = chance.scale(100_000..200_000_000);
                let cost = chance.scale(1_000..10_000_000);
                self.world.store.set_pace(latency, cost);
                self.strains.push((until, Strain::Store));
                self.disturbed |= now < self.adopted_from;
            }
            Kind::StoreConflict => self.world.store.force_conflicts(1 + chance.index(4)),
            Kind::Death => return self.die(now),
            Kind::Update => self.world.ask_for_update(false),
            Kind::Limited => return self.order_limits(now),
            // What it brings comes by itself.
            Kind::Storm => {}
            Kind::GuestKilled | Kind::Detached | Kind::Reloaded | Kind::RingBroken => {
                return self.meddle(kind, now);
            }
            _ => {
                let disk = chance.index(self.disks.len());
                return self.disks[disk].fail(kind, now);
            }
        }
        true
    }

    /// The kernel dies. What its disks were doing goes on until the next life disables them.
    fn die(&mut self, now: u64) -> bool {
        // A function that is not there when the bus is looked through is not found later.
        if !self.disks.iter().all(Disk::can_be_found) {
            return false;
        }
        self.all_drained = false;
        self.end_life(now, World::die);
        true
    }

    /// A life has ended by an update: the next one begins.
    fn follow(&mut self, now: u64) -> Result<(), String> {
        let left = self.world.handed_over.as_ref();
        let drained = left.is_some_and(|left| !left.standing.is_empty());
        let unanswered = self.world.unanswered();
        if drained && self.all_drained && unanswered > 0 {
            return Err(format!("{unanswered} requests are left by drained cores"));
        }
        // What a life leaves undone may be so for more than the next one.
        self.all_drained &= unanswered == 0;
        // All are there: see [`Life::die`].
        for number in 0..self.disks.len() {
            if !self.disks[number].can_be_found() {
                self.disks[number].hurry(now);
                self.step_disk(number, now);
            }
        }
        self.end_life(now, World::follow);
        Ok(())
    }

    fn end_life(&mut self, now: u64, begin: fn(&mut World)) {
        for (disk, remote) in self.disks.iter_mut().zip(&self.world.remotes) {
            disk.outlive(remote.borrow().masters != Some(false), now);
        }
        self.note_counters();
        // Nothing is taken up before xenstored has said that it is there.
        self.disturbed |= self.is_store_slow();
        begin(&mut self.world);
        let now = self.now();
        self.disks.iter_mut().for_each(|disk| disk.begin_anew(now));
        self.adopted_from = now + ADOPT_NS;
        self.limits.outlive(now, self.adopted_from);
        self.behind_until(now);
        self.strains
            .retain(|(_, strain)| !matches!(strain, Strain::Core(_)));
    }

    /// Something happens to a guest that is connected.
    fn meddle(&mut self, kind: Kind, now: u64) -> bool {
        let running = |number: &usize| self.fronts[*number].phase == Phase::Running;
        let running: Vec<usize> = (0..self.fronts.len()).filter(running).collect();
        if running.is_empty() {
            return false;
        }
        let number = self.chance.pick(&running);
        let front = &mut self.fronts[number];
        let vbd = front.vbd;
        match kind {
            Kind::Detached => self.world.poke(|store| vbd.detach(store)),
            Kind::Reloaded if !front.broken => {
                front.enter(Phase::Closing(Then::Return), now, self.bound_ns);
                self.world.poke(|store| vbd.set_front_state(store, 5));
            }
            Kind::RingBroken if !front.broken => {
                front.patience = now + front.chance.within(8 * SECOND..20 * SECOND);
                self.with(number, Front::break_ring);
            }
            Kind::GuestKilled => {
                for other in 0..self.fronts.len() {
                    let front = &self.fronts[other];
                    let alive = !matches!(front.phase, Phase::Absent | Phase::Dead);
                    if front.vbd.frontend == vbd.frontend && alive {
                        self.kill(other, now);
                    }
                }
            }
            _ => return false,
        }
        true
    }

    fn relieve(&mut self, now: u64) {
        let (over, on): (Vec<_>, Vec<_>) =
            self.strains.iter().partition(|(until, _)| *until <= now);
        self.strains = on;
        let machine = self.world.machine;
        for (_, strain) in over {
            match strain {
                Strain::Core(core) => machine.hang(core, false),
                Strain::Frames(count) => {
                    machine.frames_left.set(machine.frames_left.get() + count);
                }
                Strain::Heap => machine.heap.set(64 << 20),
                Strain::Store => self.world.store.set_pace(0, 0),
            }
        }
    }

    /// What must hold at any time.
    fn judge(&mut self) -> Result<(), String> {
        self.disks.iter().try_for_each(Disk::judge)?;
        let now = self.now();
        let bound = match self.may_give_up {
            true => self.bound_ns,
            false => {
                let busy: usize = self.fronts.iter().map(Front::outstanding).sum();
                PROMPT_NS + busy as u64 * EACH_NS
            }
        };
        for front in &self.fronts {
            if let Some(oldest) = front.oldest()
                && !front.broken
                && front.phase != Phase::Dead
            {
                let since = oldest.max(self.disk_failed_at).max(self.adopted_from);
                let (since, bound) = match self.limits.free_at(front.number) {
                    Some(free_at) => (since.max(free_at), bound),
                    None => (since, bound + HELD_NS),
                };
                if now.saturating_sub(since) <= bound {
                    continue;
                }
                let (number, age) = (front.number, (now - oldest) / SECOND);
                return Err(format!("front {number}: a request is {age} s old"));
            }
        }
        if self.world.ended.is_some() {
            return Err("the domain has ended".into());
        }
        self.look_for_limits()?;
        if now >= self.published_at {
            self.published_at = now + 5 * SECOND;
            self.judge_published()?;
        }
        Ok(())
    }

    /// Everything works again, and all devices go.
    fn settle(&mut self) -> Result<(), Stop> {
        trace::event("the end begins", [0; 3]);
        let now = self.now();
        self.rates.end();
        self.relieve(u64::MAX);
        self.disks.iter_mut().for_each(|disk| disk.repair(now));
        self.world.store.force_conflicts(0);
        self.world.machine.grants.repair();
        (self.ending, self.attaches) = (true, false);
        for front in &mut self.fronts {
            front.next = front.next.min(now + SECOND);
        }
        let gone = |life: &Self| life.fronts.iter().all(|f| f.phase == Phase::Absent);
        let limit = now + 4 * self.bound_ns;
        if !self.run(limit, gone)? {
            return Err("devices are left at the end".into());
        }
        self.nothing_left()
    }

    fn nothing_left(&mut self) -> Result<(), Stop> {
        let until = self.now() + 3 * SECOND;
        self.run(until, |_| false)?;
        // A guest that has had more than its share of looks is looked at later, and forgotten then.
        let until = self.now() + LATE_LOOK_NS;
        self.run(until, |life| life.world.store.watch_count() == WATCHES)?;
        let [mappings, ports, frames] = self.world.machine.left();
        let watches = self.world.store.watch_count() - WATCHES;
        let transactions = self.world.store.open_transactions();
        if mappings + ports + frames + watches + transactions > 0 {
            let left = format!(
                "left at rest: {mappings} mappings, {ports} ports, {frames} runs of frames, \
                 {watches} watches, {transactions} transactions; watched: {}",
                self.world.store.watched().collect::<Vec<_>>().join(", ")
            );
            return Err(left.into());
        }
        for disk in SERVED {
            if self.holder(disk).is_some_and(|holder| holder != "-") {
                return Err(format!("{disk} still has a holder").into());
            }
        }
        Ok(())
    }

    /// Reads everything that is on the disks.
    fn verify(&mut self) -> Result<(), Stop> {
        let counts = self.rates.counts();
        let died = counts[Kind::Death as usize] + counts[Kind::Update as usize] > 0;
        for (volume, disk) in SERVED.into_iter().enumerate() {
            // It is put together at the start of a life, from what is there.
            if disk == SPREAD.name && died && self.holder(disk).is_none() {
                let limit = self.now() + 4 * self.bound_ns;
                if !self.run(limit, |life| !life.is_lost(BEGINS_ON))? {
                    return Err(format!("{BEGINS_ON} is not back at the end").into());
                }
                continue;
            }
            let mut tries = 0;
            loop {
                let number = 0;
                self.ending = false;
                self.attach(number, volume);
                self.fronts[number].traits.think_ns = NO_THOUGHT;
                // Refused, it is absent again.
                let settled = |life: &Self| {
                    let phase = life.fronts[0].phase;
                    matches!(phase, Phase::Running | Phase::Dead | Phase::Absent)
                };
                let limit = self.now() + 2 * PATIENCE_NS;
                self.run(limit, settled)?;
                let mut read = self.fronts[number].phase == Phase::Running;
                if read {
                    self.fronts[number].next = u64::MAX;
                    read = self.read_all(number)?;
                    self.fronts[number].next = 0;
                }
                self.ending = true;
                let gone = |life: &Self| life.fronts[0].phase == Phase::Absent;
                let limit = self.now() + 3 * self.bound_ns;
                if !self.run(limit, gone)? {
                    return Err("the last device is not removed".into());
                }
                if read {
                    break;
                }
                tries += 1;
                if tries > 20 {
                    return Err(format!("{disk} cannot be read at the end").into());
                }
                let until = self.now() + 10 * SECOND;
                self.run(until, |_| false)?;
            }
        }
        self.nothing_left()
    }

    /// Reads a volume; false if that fails.
    fn read_all(&mut self, number: usize) -> Result<bool, Stop> {
        let mut from = 0;
        let len = self.fronts[number]
            .volume
            .map_or(0, |v| self.volumes[v].len());
        while from < len {
            let failed = self.tally.failed;
            from = self.with(number, |front, around| front.read_on(around, from));
            let answered = move |life: &Self| life.fronts[number].outstanding() == 0;
            let limit = self.now() + self.bound_ns;
            if !self.run(limit, answered)? {
                return Err("a read at the end is never answered".into());
            }
            if self.tally.failed != failed {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn shut_down(&mut self) -> Result<(), Stop> {
        let path = format!("/local/domain/{BACKEND}/control/shutdown");
        self.world.poke(|store| store.write(&path, "poweroff"));
        let limit = self.now() + 60 * SECOND;
        self.judged_at = u64::MAX;
        self.disks.iter().for_each(Disk::release);
        if !self.run(limit, |life| life.world.ended.is_some())? {
            return Err("the domain does not shut down".into());
        }
        // A command that was never carried out may be found late in the last moment.
        let mut names = DISKS.into_iter().chain([BEGINS_ON]);
        let any_lost = names.any(|disk| self.is_lost(disk));
        for (result, queues) in self.world.shutdowns() {
            let is_lost = any_lost && result.as_ref().is_err_and(|why| why == "device is lost");
            if result != Ok(()) && !is_lost || queues != self.cores.max(1) {
                return Err(format!("a disk's shutdown: {result:?}, {queues} queues back").into());
            }
        }
        Ok(self.disks.iter().try_for_each(Disk::judge)?)
    }
}

impl Kind {
    /// Whether no frontend is to notice it: the next life of the kernel follows, requests are
    /// held back, or it is nothing by itself.
    fn is_unnoticed(self) -> bool {
        matches!(
            self,
            Self::Death | Self::Update | Self::Limited | Self::Storm
        )
    }

    /// Whether it delays requests that no disk delays. Control resets disks on its one vCPU, if that
    /// is all there are.
    fn disturbs(self) -> bool {
        self <= Self::CoreStalls
    }

    /// Whether requests may fail for it.
    fn may_fail(self) -> bool {
        self <= Self::HeapShort && self != Self::BindRefused
    }
}
