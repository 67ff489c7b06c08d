//! The machine that control and the ring cores run on: virtual time, event channels, grants, guest
//! frames, heap, and the vCPUs of the ring cores.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use spindle_blkif::ring::Index;
use spindle_blkif::worker::Worker;
use spindle_control::{Hypervisor, NotedGrants, UpdateStep, run_core};
use spindle_hw::{Clock, PAGE_SIZE, SharedPages};
use spindle_status::orders::{UpdateAnswer, UpdateOrder};
use spindle_testkit::grants::FakeGrants;
use spindle_testkit::mem::FakeBus;
use spindle_xen::event::{Deadline, Notify, Port};
use spindle_xen::grant::{CopyOp, GrantOps, MapOp, UnmapOp};
use spindle_xen::{DomId, Errno};

use super::calls::{Calls, CoreGrants};
use super::disks::Queue;
use super::wires::{Asleep, Wire, Wires};

/// How long a turn takes.
pub const TURN_NS: u64 = 10_000;
/// Control's port to xenstored.
pub const STORE: Port = Port(1);
/// Ports from here on wake ring cores.
const WAKE: u32 = 2;
/// Ports from here on are bound to frontends.
const RINGS: u32 = 100;

/// The worker of a ring core.
pub type RingWorker = Worker<Queue, NotedGrants<CoreGrants>, Cpu>;

/// A ring core with a vCPU of its own.
struct RingCpu {
    worker: RingWorker,
    stopped: bool,
    /// It does not run, though its vCPU is up.
    hung: bool,
    turns: usize,
}

/// A frontend's ring, in its own memory and where it is mapped.
struct RingMemory {
    domain: DomId,
    refs: Vec<u32>,
    own: SharedPages,
    mapped: Option<SharedPages>,
    /// Where a former life had it, if it has been mapped anew since, and that was not undone before.
    before: Option<SharedPages>,
    /// Pages that are mapped.
    pages: usize,
}

impl RingMemory {
    /// Where it is now.
    fn now(&self) -> &SharedPages {
        self.mapped.as_ref().unwrap_or(&self.own)
    }
}

/// What is done, and after how many others.
type Hook = (usize, Box<dyn FnOnce()>);

/// The machine.
pub struct Machine {
    /// The time, in nanoseconds.
    pub now: Cell<u64>,
    /// Memory as devices see it.
    pub bus: &'static Arc<FakeBus>,
    /// The grant tables of all guests.
    pub grants: FakeGrants<'static>,
    /// Notifications on their way.
    pub wires: Wires,
    /// What the ring cores' hypercalls do.
    pub calls: Calls,
    /// Bytes of heap that are said to be free.
    pub heap: Cell<usize>,
    /// Guest frames that can be had.
    pub frames_left: Cell<usize>,
    /// What is done after so many runs of frames were handed out.
    after_frames: RefCell<Option<Hook>>,
    /// Where the next run of frames is: each machine has its own, so that a run is the same in whatever
    /// company.
    next_frame: Cell<u64>,
    /// Runs of frames in use, by address.
    frames: RefCell<BTreeMap<u64, SharedPages>>,
    /// Those of a life that has ended, until the next one has undone what is mapped there.
    former_frames: RefCell<BTreeMap<u64, SharedPages>>,
    /// Event channels that frontends have made for this domain.
    channels: RefCell<Vec<(DomId, u32)>>,
    /// Those that are bound, by local port.
    bound: RefCell<BTreeMap<u32, (DomId, u32)>>,
    next_port: Cell<u32>,
    /// Which bind from now on is refused, 0 being the next.
    refused_bind: Cell<Option<usize>>,
    rings: RefCell<Vec<RingMemory>>,
    /// What the grant of a ring's page says: the ring itself moves to where it is mapped.
    blank: SharedPages,
    cores: RefCell<Vec<RingCpu>>,
    /// By vCPU, 0 being control's.
    sleeps: RefCell<Vec<Option<Asleep>>>,
}

/// A vCPU.
#[derive(Clone, Copy)]
pub struct Cpu {
    /// The machine it is one of.
    pub machine: &'static Machine,
    number: usize,
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "vCPU {}", self.number)
    }
}

/// What an event on a local port is.
fn incoming(local: Port) -> Wire {
    match local.0 {
        _ if local == STORE => Wire::ToControl,
        port if port < RINGS => Wire::OrderToCore((port - WAKE) as usize),
        _ => Wire::RingToCore(local),
    }
}

/// Runs of frames to use again: those of all machines, since pages of the host are never freed.
static FREE: Mutex<BTreeMap<usize, Vec<SharedPages>>> = Mutex::new(BTreeMap::new());

impl Machine {
    /// A machine without disks and ring cores, 100 s after its start.
    #[must_use]
    pub fn new(wires: Wires) -> &'static Self {
        let bus: &Arc<FakeBus> = Box::leak(Box::default());
        Box::leak(Box::new(Self {
            now: Cell::new(100_000_000_000),
            bus,
            grants: FakeGrants::new(bus),
            wires,
            calls: Calls::default(),
            heap: Cell::new(64 << 20),
            frames_left: Cell::new(1 << 18),
            after_frames: RefCell::default(),
            next_frame: Cell::new(1 << 40),
            frames: RefCell::default(),
            former_frames: RefCell::default(),
            channels: RefCell::default(),
            bound: RefCell::default(),
            next_port: Cell::new(RINGS),
            refused_bind: Cell::new(None),
            rings: RefCell::default(),
            blank: SharedPages::host(1, 0),
            cores: RefCell::default(),
            sleeps: RefCell::default(),
        }))
    }

    /// The vCPU with this number, 0 being control's.
    pub fn cpu(&'static self, number: usize) -> Cpu {
        Cpu {
            machine: self,
            number,
        }
    }

    /// Starts a ring core; gives the port that wakes it.
    pub fn start(&self, worker: RingWorker) -> Port {
        let mut cores = self.cores.borrow_mut();
        cores.push(RingCpu {
            worker,
            stopped: false,
            hung: false,
            turns: 0,
        });
        Port(WAKE + cores.len() as u32 - 1)
    }

    /// The kernel has died: its cores run no more. Its frames, and what is mapped there, stay until the
    /// next life has undone that.
    pub fn die(&self) {
        self.cores.borrow_mut().clear();
        self.sleeps.borrow_mut().clear();
        self.bus.die();
        let former = core::mem::take(&mut *self.frames.borrow_mut());
        self.former_frames.borrow_mut().extend(former);
    }

    /// The next life has undone what the last one had mapped, which gives its frames back.
    pub fn forget_former(&self) {
        let former = core::mem::take(&mut *self.former_frames.borrow_mut());
        for run in former.into_values() {
            let count = run.len() / PAGE_SIZE;
            let addresses = run.bus()..run.bus() + run.len() as u64;
            assert!(
                !self.grants.is_any_mapped(addresses),
                "a mapping of a former life is left"
            );
            self.frames_left.set(self.frames_left.get() + count);
            FREE.lock().unwrap().entry(count).or_default().push(run);
        }
    }

    /// Hangs a ring core, or lets it go on.
    pub fn hang(&self, core: usize, hung: bool) {
        self.cores.borrow_mut()[core].hung = hung;
    }

    /// Whether a ring core has ended.
    pub fn has_stopped(&self, core: usize) -> bool {
        self.cores.borrow()[core].stopped
    }

    /// Iterations of a ring core.
    pub fn turns(&self, core: usize) -> usize {
        self.cores.borrow().get(core).map_or(0, |core| core.turns)
    }

    /// Whether a vCPU is awake. It must run then: its sleep is over.
    pub fn wakes(&self, cpu: usize) -> bool {
        let mut sleeps = self.sleeps.borrow_mut();
        let count = sleeps.len().max(cpu + 1);
        sleeps.resize(count, None);
        let wakes = self.wires.ends(sleeps[cpu].as_ref(), self.now.get());
        if wakes {
            sleeps[cpu] = None;
        }
        wakes
    }

    /// When the next sleep ends by itself.
    pub fn next_end(&self) -> Option<u64> {
        let sleeps = self.sleeps.borrow();
        let cores = self.cores.borrow();
        let runs = |cpu: usize| {
            let core = cpu.checked_sub(1).and_then(|core| cores.get(core));
            core.is_none_or(|core| !core.hung && !core.stopped)
        };
        let sleeps = sleeps.iter().enumerate().filter(|(cpu, _)| runs(*cpu));
        let ends = sleeps.filter_map(|(_, sleep)| sleep.as_ref().map(|(_, until)| until.ns()));
        ends.min()
    }

    /// An iteration of each ring core that is awake; true if there was any.
    pub fn run_cores(&'static self) -> bool {
        let count = self.cores.borrow().len();
        // Each of them, also once one has run.
        (0..count).filter(|core| self.run_core(*core)).count() > 0
    }

    /// An iteration of a ring core, if it is awake; true if it was.
    pub fn run_core(&'static self, number: usize) -> bool {
        let mut cores = self.cores.borrow_mut();
        let core = &mut cores[number];
        let runs = !core.stopped && !core.hung && self.wakes(number + 1);
        if runs {
            core.turns += 1;
            let wake = Port(WAKE + number as u32);
            core.stopped = !run_core(&mut core.worker, self.cpu(number + 1), wake);
        }
        runs
    }

    /// Whether a ring core would take an iteration now.
    pub fn core_runs(&self, number: usize) -> bool {
        let cores = self.cores.borrow();
        let core = &cores[number];
        !core.stopped && !core.hung && self.wakes(number + 1)
    }

    /// Lets a moment pass.
    pub fn pass(&self) {
        self.now.set(self.now.get() + TURN_NS);
        self.wires.pass(self.now.get());
    }

    /// A frontend makes an event channel for this domain.
    pub fn make_channel(&self, domain: DomId, port: u32) {
        self.channels.borrow_mut().push((domain, port));
    }

    /// Refuses to bind an event channel: the next, or one after `ahead` others.
    pub fn refuse_bind(&self, ahead: usize) {
        self.refused_bind.set(Some(ahead));
    }

    /// Does something when the next run of frames has been handed out, or one after `ahead` others.
    pub fn after_frames(&self, ahead: usize, what: Box<dyn FnOnce()>) {
        *self.after_frames.borrow_mut() = Some((ahead, what));
    }

    /// A frontend notifies this domain.
    pub fn notify_from(&self, domain: DomId, port: u32) {
        let bound = self.bound.borrow();
        let local = bound.iter().find(|(_, end)| **end == (domain, port));
        if let Some((local, _)) = local {
            self.wires.send(Wire::RingToCore(Port(*local)));
        }
    }

    /// The frontend's end of a local port, if it is bound.
    pub fn far_end(&self, local: Port) -> Option<(DomId, u32)> {
        self.bound.borrow().get(&local.0).copied()
    }

    /// Zeroes for a ring of so many pages.
    pub fn ring_memory(&self, pages: usize) -> SharedPages {
        let free = FREE.lock().unwrap().get_mut(&pages).and_then(Vec::pop);
        let ring = free.map_or_else(|| SharedPages::host(pages, 0), |run| run.alias_at(0));
        ring.zero(0, ring.len());
        ring
    }

    /// Grants a ring, page by page.
    pub fn grant_ring(&self, domain: DomId, own: &SharedPages) -> Vec<u32> {
        let page = || self.grants.grant(domain, &self.blank, false).0;
        let refs: Vec<u32> = (0..own.len() / PAGE_SIZE).map(|_| page()).collect();
        self.rings.borrow_mut().push(RingMemory {
            domain,
            refs: refs.clone(),
            own: own.alias(),
            mapped: None,
            before: None,
            pages: 0,
        });
        refs
    }

    /// A frontend takes a ring and its event channel back.
    pub fn forget_ring(&self, domain: DomId, first: u32, port: u32) {
        let is_it = |ring: &RingMemory| ring.domain == domain && ring.refs[0] == first;
        let mut rings = self.rings.borrow_mut();
        for RingMemory { own, .. } in rings.extract_if(.., |ring| is_it(ring)) {
            let pages = own.len() / PAGE_SIZE;
            FREE.lock().unwrap().entry(pages).or_default().push(own);
        }
        let is_it = |channel: &(DomId, u32)| *channel == (domain, port);
        self.channels.borrow_mut().retain(|channel| !is_it(channel));
    }

    /// A frontend announces requests; true if the backend asked to be notified. Nothing happens to a
    /// ring that was taken back.
    pub(super) fn announce(&self, domain: DomId, first: u32, produced: u32) -> bool {
        let rings = self.rings.borrow();
        let mut rings = rings.iter();
        let same = |ring: &&RingMemory| ring.domain == domain && ring.refs[0] == first;
        let Some(ring) = rings.find(same) else {
            return false;
        };
        let at = |index: Index| ring.now().u32_at(index as usize);
        let old = at(Index::ReqProd).load(SeqCst);
        if produced.wrapping_sub(old).cast_signed() <= 0 {
            return false;
        }
        at(Index::ReqProd).store(produced, SeqCst);
        let event = at(Index::ReqEvent).load(SeqCst);
        produced.wrapping_sub(event) < produced.wrapping_sub(old)
    }

    /// How many responses each ring of a guest has, by the reference of its first page.
    pub(super) fn answered(&self, domain: DomId) -> Vec<(u32, u32)> {
        let rings = self.rings.borrow();
        let rings = rings.iter().filter(|ring| ring.domain == domain);
        let answered = |ring: &RingMemory| ring.now().u32_at(Index::RspProd as usize).load(SeqCst);
        rings.map(|ring| (ring.refs[0], answered(ring))).collect()
    }

    /// Where a ring is now: mapped, or in the frontend's own memory.
    pub fn ring(&self, domain: DomId, first: u32) -> SharedPages {
        let rings = self.rings.borrow();
        let same = |ring: &&RingMemory| ring.domain == domain && ring.refs[0] == first;
        let ring = rings.iter().find(same).expect("it was granted");
        ring.now().alias()
    }

    /// Mappings, bound ports and runs of frames that are left.
    pub fn left(&self) -> [usize; 3] {
        let (ports, frames) = (self.bound.borrow().len(), self.frames.borrow().len());
        [self.grants.outstanding(), ports, frames]
    }

    /// A page of a ring was mapped at `at`, or is no longer.
    fn moved(&self, at: u64, which: Option<(DomId, u32)>) {
        let (frames, former) = (self.frames.borrow(), self.former_frames.borrow());
        let runs = [&*frames, &*former].into_iter();
        let mut runs = runs.filter_map(|runs| Some(runs.range(..=at).next_back()?.1));
        let Some(run) = runs.find(|run| at < run.bus() + run.len() as u64) else {
            return;
        };
        let offset = (at - run.bus()) as usize;
        for ring in self.rings.borrow_mut().iter_mut() {
            match which {
                Some((domain, gref)) if domain == ring.domain && ring.refs.contains(&gref) => {
                    if let Some(before) = ring.mapped.take_if(|it| it.bus() != run.bus()) {
                        ring.before = Some(before);
                        ring.pages = 0;
                    }
                    let from = ring.before.as_ref().unwrap_or(&ring.own);
                    run.copy_from(offset, from, offset, PAGE_SIZE);
                    ring.mapped = Some(run.alias());
                    ring.pages += 1;
                }
                None if ring.mapped.as_ref().is_some_and(|m| m.bus() == run.bus()) => {
                    ring.own.copy_from(offset, run, offset, PAGE_SIZE);
                    ring.pages -= 1;
                    if ring.pages == 0 {
                        (ring.mapped, ring.before) = (None, None);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Hypervisor for Cpu {
    type Grants = Self;

    fn grants(&self) -> &Self {
        self
    }

    fn now_ns(&self) -> u64 {
        self.machine.now.get()
    }

    fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno> {
        let machine = self.machine;
        let end = (remote, port.0);
        let refused = machine.refused_bind.take();
        machine
            .refused_bind
            .set(refused.and_then(|n| n.checked_sub(1)));
        if refused == Some(0) {
            return Err(Errno::ENOSPC);
        }
        let mut bound = machine.bound.borrow_mut();
        let taken = bound.values().any(|other| *other == end);
        if taken || !machine.channels.borrow().contains(&end) {
            return Err(Errno::EINVAL);
        }
        let local = machine.next_port.replace(machine.next_port.get() + 1);
        bound.insert(local, end);
        Ok(Port(local))
    }

    fn close(&self, port: Port) -> Result<(), Errno> {
        let was = self.machine.bound.borrow_mut().remove(&port.0);
        assert!(was.is_some(), "port {} is closed twice", port.0);
        self.machine.wires.take(Wire::RingToCore(port));
        Ok(())
    }

    fn notify(&self, port: Port) {
        let wire = match port {
            STORE => Wire::ToStore,
            Port(RINGS..) => Wire::ToFront(port),
            port => incoming(port),
        };
        self.machine.wires.send(wire);
    }

    fn take_pending(&self, port: Port) -> bool {
        self.machine.publish();
        self.machine.wires.take(incoming(port))
    }

    fn sleep(&self, ports: impl Iterator<Item = Port>, until: Deadline) -> Result<(), Errno> {
        self.machine.publish();
        let wires = ports.map(incoming).collect();
        let mut sleeps = self.machine.sleeps.borrow_mut();
        let count = sleeps.len().max(self.number + 1);
        sleeps.resize(count, None);
        sleeps[self.number] = Some((wires, until));
        Ok(())
    }

    fn yield_now(&self) {
        self.machine.run_cores();
        self.machine.pass();
    }

    fn alloc_frames(&self, pages: usize) -> Option<SharedPages> {
        let left = self.machine.frames_left.get().checked_sub(pages)?;
        self.machine.frames_left.set(left);
        let free = FREE.lock().unwrap().get_mut(&pages).and_then(Vec::pop);
        let run: SharedPages = free.unwrap_or_else(|| SharedPages::host(pages, 0));
        // A hole after each run, so that an overrun is found.
        let bytes = ((pages + 1) * PAGE_SIZE) as u64;
        let at = self.machine.next_frame.get();
        self.machine.next_frame.set(at + bytes);
        let run = run.alias_at(at);
        let mut frames = self.machine.frames.borrow_mut();
        frames.insert(run.bus(), run.alias());
        let mut after = self.machine.after_frames.borrow_mut();
        match after.take() {
            Some((0, what)) => what(),
            Some((ahead, what)) => *after = Some((ahead - 1, what)),
            None => {}
        }
        Some(run)
    }

    fn free_frames(&self, pages: &SharedPages) {
        let machine = self.machine;
        let run = machine.frames.borrow_mut().remove(&pages.bus());
        let run = run.expect("frames are given back once");
        assert_eq!(run.len(), pages.len());
        let count = run.len() / PAGE_SIZE;
        machine.frames_left.set(machine.frames_left.get() + count);
        let addresses = run.bus()..run.bus() + run.len() as u64;
        assert!(
            !machine.grants.is_any_mapped(addresses),
            "frames are given back with a grant mapped"
        );
        FREE.lock().unwrap().entry(count).or_default().push(run);
    }

    /// Every image is fit, and is the one that runs.
    fn update(&self, order: &[u8]) -> UpdateStep {
        let order = UpdateOrder::parse(str::from_utf8(order).unwrap()).unwrap();
        match order.check {
            true => UpdateStep::Fits(UpdateAnswer::Fits.line(order.number, "it fits")),
            false => UpdateStep::Planned,
        }
    }

    fn close_former(&self) {
        let bound = core::mem::take(&mut *self.machine.bound.borrow_mut());
        for port in bound.into_keys() {
            self.machine.wires.take(Wire::RingToCore(Port(port)));
        }
    }

    fn may_map_at(&self, bus: u64) -> bool {
        // Each life has frames of its own.
        bus >= self.machine.next_frame.get()
    }

    fn give_up_frame(&self, bus: u64) {
        panic!("the grant at {bus:#x} cannot be unmapped");
    }

    fn heap_free(&self) -> usize {
        self.machine.heap.get()
    }
}

/// As control maps rings: they move to where they are mapped.
impl GrantOps for Cpu {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        let result = (&&self.machine.grants).map(ops);
        for op in ops.iter().filter(|op| op.status.is_ok()) {
            let which = (DomId(op.dom), op.gref);
            self.machine.moved(op.host_addr, Some(which));
        }
        result
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        let result = (&&self.machine.grants).unmap(ops);
        for op in ops.iter().filter(|op| op.status.is_ok()) {
            self.machine.moved(op.host_addr, None);
        }
        result
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        (&&self.machine.grants).copy(ops)
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        (&&self.machine.grants).read(at, words)
    }
}

impl Notify for Cpu {
    fn notify(&self, port: Port) {
        Hypervisor::notify(self, port);
    }
}

/// For the drivers, which wait by letting time pass.
impl Clock for Cpu {
    fn now_ns(&self) -> u64 {
        self.machine.now.get()
    }

    fn relax(&self) {
        let now = &self.machine.now;
        now.set(now.get() + 1_000_000);
    }
}
