//! The control core's loop: xenbus, the rings' coming and going, the disks' health, shutdown. In a
//! domain with one vCPU it turns the only worker as well.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use log::{debug, error, info, warn};
use spindle_blkif::BlockAccess;
use spindle_blkif::worker::{LOOK_WITHOUT_RINGS_NS, Order, Report};
use spindle_block::{SubmitError, Volume, VolumeId};
use spindle_config::Config;
use spindle_status::path;
use spindle_xen::event::Port;
use spindle_xen::store::Ring as StoreRing;
use spindle_xen::xenbus::{
    Action, Backend, ConnectRequest, DeviceId, DiskFacts, DiskRequest, Generation, Offer, Refusal,
    ShutdownKind,
};

use crate::cores::Cores;
use crate::devices::Devices;
use crate::disks::Disks;
use crate::hypervisor::{Hypervisor, UpdateStep};
use crate::keeper::{Keep, Keeper};
use crate::late::LateDisks;
use crate::leave::{Departure, HandOver, LifeEnd, STAND_BY_NS};
use crate::listing::Listing;
use crate::rings::RingMapper;
use crate::rounds::{Pace, Rounds, Sleep};
use crate::settings;
use crate::shares::Shares;
use crate::statistics::Statistics;
use crate::sweep::Leftovers;
use crate::worker::{CoreWorker, nap, rest};

/// How long the guests get to close their disks when the domain is to shut down.
const SHUTDOWN_NS: u64 = 8_000_000_000;
/// How long a core may take to give its queues up, once it has looked.
const STOP_NS: u64 = LOOK_WITHOUT_RINGS_NS + 2_000_000_000;
/// How often the disks are asked for their SMART logs, as long as any is in use.
const SMART_NS: u64 = 60_000_000_000;

/// The control core's state.
pub struct Control<H, W: CoreWorker> {
    hypervisor: H,
    store: Store,
    backend: Backend,
    disks: Disks<W::Queue>,
    cores: Cores<H, W>,
    devices: Devices<H>,
    late: LateDisks,
    rounds: Rounds,
    listing: Listing,
    smart_at: u64,
    statistics: Statistics,
    shutdown: Option<ShutdownKind>,
    /// Another image is to follow.
    leaving: Option<Departure>,
    /// What a former life has mapped, until that is undone.
    leftovers: Option<Leftovers>,
}

/// Where the store's ring is and how to tell xenstored.
#[derive(Debug)]
pub struct Store {
    /// The ring.
    pub ring: StoreRing,
    /// The port to xenstored.
    pub port: Port,
}

impl<H: Hypervisor, W: CoreWorker> Control<H, W> {
    /// Sets up the backend, and publishes `version` and the disks in xenstore. `hypervisor` is that
    /// of the vCPU that control runs on. In a life of the kernel that is not the first, what the former
    /// ones have left is undone by what `keep` has of it, and connections are taken up. No disk may
    /// reach memory of a former life any more by then.
    pub fn new(
        config: &Config,
        version: String,
        hypervisor: H,
        store: Store,
        disks: Disks<W::Queue>,
        mut cores: Cores<H, W>,
        keep: Keep,
    ) -> Self {
        cores.log_queues(&disks.targets);
        let offer = Offer {
            max_queues: cores.len() as u32,
            max_ring_page_order: config.ring_order,
            max_indirect_segments: cores.segments().into(),
            persistent: config.path.offers_persistent(),
        };
        let stood_still = keep.stood_still;
        let (keeper, former) = Keeper::new(keep);
        let shares = Shares::new(config, keeper.limits(), hypervisor.now_ns());
        let mappings = keeper.kept().mappings();
        let leftovers = keeper
            .has_lived()
            .then(|| Leftovers::find(hypervisor, mappings));
        let mut backend = if keeper.has_lived() {
            // Every controller has been disabled since that life ended.
            (0..disks.count()).for_each(|disk| cores.order_all(|| Order::Begin(disk)));
            let mut backend = Backend::resume(offer, former);
            // What the last life has said of what is no longer there.
            for path in path::FOLDERS {
                backend.unpublish(path);
            }
            backend
        } else {
            Backend::new(offer)
        };
        if config.drill {
            backend.take_drills();
        }
        backend.take_updates();
        backend.take_limits();
        backend.take_volumes();
        let drill = if config.drill { "on" } else { "off" };
        backend.publish(path::DRILL, drill);
        backend.publish(path::VERSION, version);
        backend.publish(path::DISKS, disks.list());
        let mut listing = Listing::default();
        listing.publish(&disks.targets, &mut backend);
        backend.publish(path::READY, "1");
        let mut control = Self {
            hypervisor,
            store,
            backend,
            disks,
            cores,
            devices: Devices::new(
                RingMapper {
                    hypervisor,
                    path: config.path,
                    mappings,
                },
                keeper,
                shares,
            ),
            late: LateDisks::new(hypervisor.now_ns()),
            rounds: Rounds::new(),
            listing,
            smart_at: 0,
            statistics: Statistics::default(),
            shutdown: None,
            leaving: None,
            leftovers: None,
        };
        if let Some(leftovers) = leftovers {
            control.go_on(leftovers, stood_still);
        }
        control
    }

    /// Goes on with what former lives have served, as far as their records say enough. What they have mapped
    /// is undone later if that can wait.
    #[inline(never)]
    fn go_on(&mut self, leftovers: Leftovers, stood_still: bool) {
        let hypervisor = self.hypervisor;
        let may_wait = !stood_still && leftovers.may_wait(hypervisor);
        self.leftovers = Some(leftovers);
        if !may_wait {
            return self.undo_former();
        }
        // What has changed before anything is opened.
        self.attend_disks(hypervisor.now_ns());
        let known: Vec<_> = self.devices.keeper.waiting().map(|(id, _)| id).collect();
        for id in known {
            self.devices.take_up(id, &mut self.disks, &mut self.cores);
            if self.devices.is_early(id) {
                // Its frontend takes back what it has granted as soon as xenstore says that it is closed.
                self.backend.hold(id);
            }
        }
        self.devices.publish_limits(&mut self.backend);
        self.listing.publish(&self.disks.targets, &mut self.backend);
    }

    /// Undoes what a former life has mapped, if that was not done before its connections were taken up. To
    /// be called before the first [`Control::turn`].
    #[inline(never)]
    pub fn undo_former(&mut self) {
        let (hypervisor, local) = (self.hypervisor, &mut self.cores.local);
        if let Some(leftovers) = self.leftovers.take() {
            self.devices.keep_before_unmapping(&self.disks.targets);
            leftovers.sweep(hypervisor, || {
                if let Some(worker) = local {
                    worker.turn(hypervisor.now_ns());
                }
            });
        }
    }

    /// Deals with the devices that are served from their records, and of which xenstore says something else.
    #[inline(never)]
    fn attend_early(&mut self) {
        while let Some((id, early)) = self.devices.attend_early(&self.backend) {
            if let Some(of) = early.disconnected {
                self.backend.disconnected(id, of);
            }
            if early.closes {
                self.close(id);
            }
            if let Some(request) = early.connect {
                self.connect(&request);
            }
            if !self.devices.is_early(id) {
                self.backend.release(id);
            }
            self.rounds.pump_soon();
            self.rounds.look_soon();
        }
    }

    /// Publishes what else there is to know, at a path relative to the domain's home.
    pub fn publish(&mut self, path: &str, value: String) {
        self.backend.publish(path, value);
    }

    /// Whether it is decided what becomes of each device that a former life has served.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.devices.have_former(&self.backend)
    }

    /// Whether each device that a former life has served, and that may be taken up, has been so by now:
    /// xenstore may have to confirm it yet.
    #[must_use]
    pub fn serves_former(&self) -> bool {
        self.devices.unopened().next().is_none()
    }

    /// Does what is due, then sleeps until there is something to do. Gives the end once there is one:
    /// [`Control::stop`] is due then or, for an update, the next life.
    pub fn turn(&mut self) -> Option<LifeEnd> {
        let now = self.hypervisor.now_ns();
        if self.leaving.is_none()
            && let Some(kind) = self.pump(now)
        {
            return Some(LifeEnd::Shutdown(kind));
        }
        while let Some((core, report)) = self.cores.report() {
            if let Report::Access(read) = report {
                self.disks.has_read(*read);
                self.rounds.look_soon();
                continue;
            }
            if let (Report::Drained, Some(leaving)) = (&report, &mut self.leaving) {
                leaving.drained();
            }
            let (backend, cores) = (&mut self.backend, &mut self.cores);
            self.devices.reported(core, report, backend, cores);
            self.rounds.pump_soon();
        }
        self.attend_early();
        self.devices.keep_before_unmapping(&self.disks.targets);
        if self.devices.settle(&mut self.backend, &mut self.cores) {
            self.rounds.pump_soon();
        }
        match self.leaving.take_if(|leaving| leaving.is_over(now)) {
            Some(leaving) => return Some(LifeEnd::Update(self.leave(&leaving, now))),
            None if self.leaving.is_some() => {}
            None if self.rounds.are_disks_due(now) => self.look_around(now),
            None => {}
        }
        self.devices.keep(&self.disks.targets);
        self.turn_and_sleep(now);
        None
    }

    /// Stops the cores and switches the disks off.
    pub fn stop(mut self) {
        for device in self.devices.connected() {
            warn!("{}: still connected at shutdown; cut off", device.id);
        }
        let queues = self.stop_cores();
        self.disks.shutdown(queues);
    }

    /// Lets the backend do what is due. Gives the kind of shutdown once that is through.
    #[inline(never)]
    fn pump(&mut self, now: u64) -> Option<ShutdownKind> {
        let event = self.hypervisor.take_pending(self.store.port);
        if !self.rounds.take_pump(event, now) {
            return None;
        }
        while self.leaving.is_none()
            && let Some(action) = self.backend.pump(&mut self.store.ring, now)
        {
            match action {
                Action::Open {
                    device,
                    disk,
                    former,
                } => {
                    if self.devices.is_early(device) {
                        self.open_early(device, disk, former);
                        continue;
                    }
                    if !former {
                        self.devices.drop_former(device);
                    }
                    self.open_or_wait(device, disk, now);
                }
                Action::Connect(request) => self.connect(&request),
                Action::Disconnect { device, generation } => self.disconnect(device, generation),
                Action::Close { device } => self.close(device),
                Action::Rescan => {
                    self.disks.rescan(now);
                    self.rounds.disks_seen(Pace::Soon, now);
                }
                Action::Drill(order) => self.hypervisor.drill(&order),
                Action::Update(order) => self.update(&order),
                Action::Limit(order) => {
                    let answer = self.devices.limit(&order, &mut self.cores);
                    info!("limit {answer}");
                    self.backend.publish(path::LIMITED, answer);
                    self.devices.publish_limits(&mut self.backend);
                    self.rounds.pump_soon();
                }
                Action::Volume(order) => {
                    if let Err(answer) = self.disks.change_volume(&order, now) {
                        self.backend.publish(path::VOLUME_DONE, answer);
                        self.rounds.pump_soon();
                    }
                    self.rounds.disks_seen(Pace::Soon, now);
                }
                Action::Inspect(order) => {
                    self.disks.inspect(&order, now);
                    self.rounds.disks_seen(Pace::Soon, now);
                }
                Action::Setting(order) => {
                    let answer = settings::set(&order, &mut self.cores);
                    info!("set {answer}");
                    self.backend.publish(path::SET, answer);
                    self.rounds.pump_soon();
                }
                Action::ShutdownRequested(kind) => {
                    info!("shutdown requested: {kind:?}");
                    self.shutdown = Some(kind);
                    self.backend.shutdown(now, now + SHUTDOWN_NS);
                }
                Action::ShutDown { clean } => {
                    if !clean {
                        warn!("some guests did not close their disks in time");
                    }
                    return self.shutdown;
                }
                Action::StoreLost => {
                    // The rings need no xenstore; what is attached goes on.
                    error!("xenstore is lost: no disk can be attached or detached any more");
                }
            }
        }
        if self.store.ring.take_notify() {
            self.hypervisor.notify(self.store.port);
        }
        self.rounds.pumped(self.backend.next_deadline());
        None
    }

    /// Has another image follow, or says what would be kept.
    fn update(&mut self, order: &[u8]) {
        let answer = match self.hypervisor.update(order) {
            UpdateStep::Answered(answer) => answer,
            UpdateStep::Fits(answer) => answer + &self.disks.stand_by(|| None).1,
            UpdateStep::Planned => {
                let now = self.hypervisor.now_ns();
                self.leaving = Some(Departure::new(self.cores.len(), now));
                return self.cores.order_all(|| Order::Drain);
            }
        };
        info!("update {answer}");
        self.backend.publish(path::UPDATED, answer);
    }

    /// Ends this life, whose cores are drained or have had their time.
    fn leave(&mut self, leaving: &Departure, now: u64) -> HandOver {
        let drained_ns = leaving.drained_ns(now);
        let standing = if leaving.left() == 0 {
            let hypervisor = self.hypervisor;
            let deadline = now + STAND_BY_NS;
            let left = || deadline.saturating_sub(hypervisor.now_ns());
            let (standing, text) = self.disks.stand_by(|| Some(Duration::from_nanos(left())));
            info!("update: drained in {} us{text}", drained_ns / 1000);
            standing
        } else {
            let (left, ms) = (leaving.left(), drained_ns / 1_000_000);
            warn!("update: {left} cores have requests after {ms} ms, which are done again");
            Vec::new()
        };
        // The counters as they are now.
        self.devices.changed = true;
        self.devices.keep(&self.disks.targets);
        HandOver {
            drained_ns,
            standing,
        }
    }

    /// Opens a disk, or waits: for that of a device which a former life has served, and any other device
    /// for those.
    fn open_or_wait(&mut self, device: DeviceId, request: DiskRequest, now: u64) {
        if self.devices.is_early(device) {
            return self.late.add(device, request);
        }
        // What has changed since the last look.
        self.attend_disks(self.hypervisor.now_ns());
        let (targets, backend) = (&self.disks.targets, &self.backend);
        if !self.devices.is_former(device)
            && !self.late.are_all_seen(now)
            && self
                .devices
                .is_awaited(device, &request.target, targets, backend)
        {
            debug!("{device}: waits for those who had its disk before");
            return self.late.add(device, request);
        }
        let result = self.open(device, &request);
        if let Err(refusal) = &result
            && self.devices.is_former(device)
        {
            if self.late.may_come(now) {
                debug!("{device}: waits for its disk: {refusal}");
                return self.late.add(device, request);
            }
            self.devices.drop_former(device);
        }
        self.backend.opened(device, result);
    }

    /// Looks for the disks that devices of a former life wait for, and gives those up that nothing has
    /// been heard of.
    fn look_for_late_disks(&mut self, now: u64) {
        for (device, request) in self.late.take() {
            self.open_or_wait(device, request, now);
            self.rounds.pump_soon();
        }
        if self.late.are_all_seen(now) {
            self.devices.drop_silent();
        }
    }

    fn open(&mut self, device: DeviceId, request: &DiskRequest) -> Result<DiskFacts, Refusal> {
        let (disks, cores) = (&mut self.disks, &self.cores);
        let facts = self.devices.open(device, request, disks, cores)?;
        self.devices.publish_limits(&mut self.backend);
        self.listing.publish(&self.disks.targets, &mut self.backend);
        Ok(facts)
    }

    /// Xenbus asks for the disk of a device that is served from its record.
    #[inline(never)]
    fn open_early(&mut self, device: DeviceId, request: DiskRequest, former: bool) {
        if !former {
            self.devices.close_early(device);
        }
        if self.devices.is_leaving_early(device) {
            return self.late.add(device, request);
        }
        let (devices, targets) = (&mut self.devices, &self.disks.targets);
        let facts = devices.open_early(device, &request, targets, &self.cores);
        self.backend.opened(device, facts);
    }

    fn close(&mut self, device: DeviceId) {
        if self.devices.close_early(device) {
            return;
        }
        self.devices.close(device);
        self.devices.publish_limits(&mut self.backend);
        self.disks.targets.release(device);
        self.listing.publish(&self.disks.targets, &mut self.backend);
        info!("{device}: closed");
    }

    #[inline(never)]
    fn connect(&mut self, request: &ConnectRequest) {
        if self.devices.confirm(request) {
            if !self.devices.is_early(request.device) {
                self.backend.release(request.device);
            }
            return self.rounds.pump_soon();
        }
        let targets = &self.disks.targets;
        let connected = self.devices.connect(request, targets, &mut self.cores);
        if let Err(refusal) = connected {
            let (device, generation) = (request.device, request.generation);
            self.backend.connected(device, generation, Err(refusal));
            self.rounds.pump_soon();
        }
    }

    fn disconnect(&mut self, device: DeviceId, generation: Generation) {
        if self.devices.disconnect_early(device, generation) {
            return;
        }
        if !self.devices.disconnect(device, generation) {
            self.backend.disconnected(device, generation);
            self.rounds.pump_soon();
        }
    }

    /// What is done now and then: most of it as long as a disk is attached.
    #[inline(never)]
    fn look_around(&mut self, now: u64) {
        self.attend_disks(now);
        self.look_for_late_disks(now);
        if !self.is_used() {
            return;
        }
        if now >= self.smart_at {
            self.smart_at = now + SMART_NS;
            self.disks.ask_health();
        }
        if now >= self.statistics.due() {
            let (devices, cores, kept) = (&self.devices, &self.cores, self.devices.keeper.kept());
            self.statistics
                .publish(now, devices, cores, kept, &mut self.backend);
            // The counters.
            self.devices.changed = true;
            self.rounds.pump_soon();
        }
    }

    /// Looks after the disks, and passes on what has happened to them.
    fn attend_disks(&mut self, now: u64) {
        let cores = &self.cores;
        let behind = |disk: usize, given: &_| cores.behind(disk, given);
        let mut care = self.disks.attend(now, behind);
        let (devices, cores) = (&self.devices, &self.cores);
        let may_grow = |id: VolumeId, new: &Volume| devices.may_grow(id, new, cores);
        let read = self.disks.next_read(now, &may_grow, &mut care);
        if let Some((read, tries)) = read {
            match self.cores.reader(read.disk, tries) {
                Some(core) => self.cores.order(core, Order::Access(read)),
                None => self.disks.has_read(BlockAccess {
                    outcome: Err(SubmitError::Gone.into()),
                    ..*read
                }),
            }
        }
        care.soon |= self.disks.is_reading(now);
        let pace = match (care.soon, care.late) {
            (true, _) => Pace::Soon,
            (_, true) => Pace::Late,
            _ => Pace::Idle,
        };
        self.rounds.disks_seen(pace, now);
        if !care.health.is_empty() || !care.withdrawn.is_empty() {
            self.rounds.pump_soon();
        }
        for path in care.withdrawn {
            self.backend.unpublish(path);
        }
        for (path, line) in care.health {
            self.backend.publish(path, line);
        }
        for disk in care.back {
            self.cores.order_all(|| Order::Renew(disk));
        }
        let lossy = care.lost.iter().chain(&care.loose).chain(&care.heard);
        for &disk in lossy.chain(&care.forgot) {
            self.devices.note_loss(disk, &self.disks.targets);
        }
        // On record before anything is done that has the disk forget that it has lost something.
        self.devices.keep(&self.disks.targets);
        if care.wake {
            self.cores.wake_all();
        }
        for disk in care.lost {
            self.cores.order_all(|| Order::FailDisk(disk));
        }
        for disk in care.loose {
            self.cores.order_all(|| Order::CutOff(disk));
        }
        for (volume, sectors) in care.resized {
            self.list_disks();
            let (backend, cores) = (&mut self.backend, &mut self.cores);
            self.devices.resize(volume, sectors, backend, cores);
        }
        for volume in core::mem::take(&mut care.grown) {
            let (targets, backend) = (&self.disks.targets, &mut self.backend);
            self.devices.grow(volume, targets, backend, &mut self.cores);
            care.listed = true;
        }
        for removed in &care.removed {
            let (disk, unit) = (removed.disk, removed.unit);
            // Rings that are on their way to a core are there by then.
            self.cores.order_all(|| Order::Remove { disk, unit });
            self.devices.remove(removed, &mut self.backend);
        }
        let cores = &self.cores;
        self.disks.ordered(now, || cores.given());
        if care.listed {
            self.list_disks();
        }
        let answers = [
            (path::VOLUME_DONE, self.disks.volume_changed()),
            (
                path::RESCANNED,
                self.disks.rescanned(pace != Pace::Idle, now),
            ),
            (path::INSPECTED, self.disks.inspected()),
        ];
        for (path, answer) in answers {
            if let Some(answer) = answer {
                self.backend.publish(path, answer);
                self.rounds.pump_soon();
            }
        }
    }

    /// Publishes which disks there are.
    fn list_disks(&mut self) {
        self.backend.publish(path::DISKS, self.disks.list());
        self.listing.publish(&self.disks.targets, &mut self.backend);
        self.rounds.pump_soon();
    }

    /// Whether a disk is attached, or was when the counters were last published.
    fn is_used(&self) -> bool {
        self.devices.connected().next().is_some() || self.statistics.has_disks()
    }

    /// Turns the local worker, if there is one, then sleeps until there is something to do.
    fn turn_and_sleep(&mut self, now: u64) {
        let next = self.cores.local.as_mut().map(|worker| worker.turn(now));
        let owed = || self.cores.are_waited_for();
        let sleep = self.rounds.sleep(now, owed, next);
        match (sleep, &mut self.cores.local) {
            (Sleep::No, _) => {}
            (Sleep::StoreAndRings(until), Some(worker)) => {
                rest(worker, self.hypervisor, self.store.port, until);
            }
            (Sleep::Store(_), Some(worker)) if worker.has_orders() => {}
            // One port only: Xen then wakes this core for no other.
            (Sleep::Store(until) | Sleep::StoreAndRings(until), _) => {
                nap(self.hypervisor, self.store.port, until);
            }
        }
    }

    /// Stops the cores; gives each one's disk queues.
    fn stop_cores(&mut self) -> Vec<Vec<W::Queue>> {
        self.cores.order_all(|| Order::Stop);
        let deadline = self.hypervisor.now_ns() + STOP_NS;
        let mut queues = Vec::new();
        while queues.len() < self.cores.len() {
            let now = self.hypervisor.now_ns();
            if now >= deadline {
                warn!("{} ring cores do not stop", self.cores.len() - queues.len());
                break;
            }
            if let Some(worker) = &mut self.cores.local {
                worker.turn(now);
            }
            match self.cores.report() {
                Some((_, Report::Stopped(given))) => queues.push(given),
                Some(_) => {}
                None => self.hypervisor.yield_now(),
            }
        }
        queues
    }
}
