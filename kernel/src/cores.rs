//! The ring cores: vCPUs 1 and up, each with a worker of its own. In a domain with one vCPU the
//! only worker runs inside control's loop.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use log::{error, info, warn};
use spindle_blkif::abi::MAX_INDIRECT_SEGMENTS;
use spindle_blkif::pacer::PollTime;
use spindle_blkif::pool::share;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Next, Order, Report};
use spindle_blkif::{Config as CoreConfig, Counted};
use spindle_config::{Config, PollUs};
use spindle_datapath::{Core as RingCore, Grants, Queue, RingWorker};
use spindle_hw::{Clock, DmaAlloc, PAGE_SIZE};
use spindle_xen::event::{Deadline, Notify, Port};

use crate::disks::Disks;
use crate::mm::{self, Memory};
use crate::rings::Rings;
use crate::xen::{Events, sched, time::CoreClock, vcpus};

/// Rings that one core takes.
const MAX_RINGS: usize = 256;

/// What control knows of a core.
#[derive(Debug)]
struct Core {
    link: Arc<Link<Queue>>,
    /// Wakes it; `None` for the worker in control's own loop.
    wake: Option<Port>,
    /// Orders that wait for the mailbox.
    orders: VecDeque<Order>,
    /// Which disks it has a queue on.
    disks: Vec<bool>,
    /// Rings given to it and not given back.
    rings: usize,
    /// Answers that are due.
    waiting: usize,
    stats: Arc<CoreStats>,
}

/// All ring cores.
#[derive(Debug)]
pub(crate) struct Cores {
    cores: Vec<Core>,
    events: Events,
    /// Segments of the largest request that their buffers hold.
    segments: usize,
    /// The worker that has no core of its own.
    pub(crate) local: Option<RingWorker>,
}

impl Core {
    /// Whether it has a queue on `disk`.
    fn serves(&self, disk: usize) -> bool {
        self.disks.get(disk).copied().unwrap_or(false)
    }
}

impl Cores {
    /// Gives every vCPU but the first a worker and starts it. A core that does not start, or for
    /// which there is no memory, is reported and left out.
    ///
    /// # Errors
    /// With the reason, if not even one worker can be had.
    pub(crate) fn start(
        config: &Config,
        memory: &Memory,
        rings: Rings,
        disks: &mut Disks,
    ) -> Result<Self, String> {
        let wanted = wanted(config);
        let free = memory.dma.free_bytes() / PAGE_SIZE as u64;
        let pages = share(usize::try_from(free).unwrap_or(usize::MAX), wanted);
        let mut cores = Self {
            cores: Vec::new(),
            events: rings.events,
            segments: pages.min(MAX_INDIRECT_SEGMENTS),
            local: None,
        };
        let poll = match config.poll {
            PollUs::For(us) => PollTime::For(u64::from(us) * 1000),
            PollUs::Always => PollTime::Always,
        };
        let sizes = CoreConfig {
            rings: MAX_RINGS,
            segments: cores.segments,
            ..CoreConfig::default()
        };
        // What the last core took of the heap.
        let mut taken = 0;
        for vcpu in 1..=wanted {
            let room = mm::heap_free();
            // As much as for control is for rings.
            let buffers = if room >= taken + 2 * mm::CONTROLS_SHARE {
                memory.dma.alloc(pages)
            } else {
                None
            };
            let Some(buffers) = buffers else {
                warn!("no memory for ring cores from vCPU {vcpu} on; raise memory= to use them");
                break;
            };
            let link = Arc::new(Link::default());
            let queues = disks.queues();
            let has = queues
                .iter()
                .map(|queue| !matches!(queue, Queue::None))
                .collect();
            let stats = Arc::<CoreStats>::default();
            let grants: Grants = Box::new(rings.grants);
            let grants = Counted::new(grants, Arc::clone(&stats));
            let events = Box::new(rings.events);
            let core = RingCore::new(sizes, queues, grants, events, buffers)
                .map_err(|error| error.to_string())?;
            let worker = RingWorker::new(core, Arc::clone(&link), poll, Arc::clone(&stats));
            let wake = if vcpus::count() > 1 {
                match launch(vcpu, worker, rings.events) {
                    Ok(port) => Some(port),
                    Err(reason) => {
                        error!("vCPU {vcpu} does not serve rings: {reason}");
                        continue;
                    }
                }
            } else {
                cores.local = Some(worker);
                None
            };
            let (orders, rings, waiting) = (VecDeque::new(), 0, 0);
            cores.cores.push(Core {
                link,
                wake,
                orders,
                disks: has,
                rings,
                waiting,
                stats,
            });
            taken = room.saturating_sub(mm::heap_free());
        }
        match (cores.cores.len(), &cores.local) {
            (0, _) => return Err("no ring core could be started".to_string()),
            (_, Some(_)) => info!("one vCPU: it polls rings and does all the rest"),
            (count, None) => info!("{count} ring cores"),
        }
        cores.tell_of_queues(disks);
        Ok(cores)
    }

    /// Tells of disks whose controllers gave fewer queues than there are cores.
    fn tell_of_queues(&self, disks: &Disks) {
        let (cores, mut told) = (self.cores.len(), None);
        for volume in disks.targets.disks() {
            let queues = self.serving(volume.disk);
            // Once for all namespaces of a controller.
            if queues < cores && told.replace(volume.disk) != Some(volume.disk) {
                let name = &volume.name;
                warn!(
                    "disk {name}: {queues} queues for {cores} cores; its rings share {queues} of \
                     them, and no more rings are offered to a guest"
                );
            }
        }
    }

    /// How many cores have a queue on `disk`.
    pub(crate) fn serving(&self, disk: usize) -> usize {
        self.cores.iter().filter(|core| core.serves(disk)).count()
    }

    /// Number of ring cores.
    pub(crate) fn len(&self) -> usize {
        self.cores.len()
    }

    /// The core with a queue on `disk` that has the fewest rings, and counts one more from now on.
    pub(crate) fn place(&mut self, disk: usize) -> Option<usize> {
        let cores = self
            .cores
            .iter_mut()
            .enumerate()
            .filter(|(_, core)| core.serves(disk));
        let (index, core) = cores.min_by_key(|(_, core)| core.rings)?;
        core.rings += 1;
        Some(index)
    }

    /// Segments of the largest request that can be offered.
    pub(crate) fn segments(&self) -> u16 {
        self.segments as u16
    }

    /// The port that wakes a core, if it has a CPU of its own to sleep on.
    pub(crate) fn wake(&self, core: usize) -> Option<Port> {
        self.cores.get(core)?.wake
    }

    /// A ring that [`Cores::place`] counted is gone.
    pub(crate) fn vacate(&mut self, core: usize) {
        if let Some(core) = self.cores.get_mut(core) {
            core.rings = core.rings.saturating_sub(1);
        }
    }

    /// Sends an order, when the mailbox is free.
    pub(crate) fn order(&mut self, core: usize, order: Order) {
        if let Some(core) = self.cores.get_mut(core) {
            let answered = !matches!(
                order,
                Order::FailDisk(_) | Order::CutOff(_) | Order::Resize { .. }
            );
            core.waiting += usize::from(answered);
            core.orders.push_back(order);
        }
        self.deliver();
    }

    /// Sends an order to every core. `order` makes one for each.
    pub(crate) fn order_all(&mut self, order: impl Fn() -> Order) {
        for core in 0..self.cores.len() {
            self.order(core, order());
        }
    }

    /// Has every core take a turn.
    pub(crate) fn wake_all(&self) {
        for port in self.cores.iter().filter_map(|core| core.wake) {
            self.events.notify(port);
        }
    }

    /// Puts waiting orders into free mailboxes, and wakes who got one.
    fn deliver(&mut self) {
        for core in &mut self.cores {
            if core.link.orders.is_full() {
                continue;
            }
            let Some(order) = core.orders.pop_front() else {
                continue;
            };
            if let Err(order) = core.link.orders.put(order) {
                core.orders.push_front(order);
            } else if let Some(port) = core.wake {
                self.events.notify(port);
            }
        }
    }

    /// The next report of a core.
    pub(crate) fn report(&mut self) -> Option<(usize, Report<Queue>)> {
        self.deliver();
        for (index, core) in self.cores.iter_mut().enumerate() {
            if let Some(report) = core.link.reports.take() {
                if !matches!(report, Report::Halted { .. }) {
                    core.waiting = core.waiting.saturating_sub(1);
                }
                // It may have another one that waits for the mailbox.
                if let Some(port) = core.wake {
                    self.events.notify(port);
                }
                return Some((index, report));
            }
        }
        None
    }

    /// The cores' counters.
    pub(crate) fn stats(&self) -> impl Iterator<Item = &CoreStats> {
        self.cores.iter().map(|core| &*core.stats)
    }

    /// Whether a core owes an answer, or an order waits for its mailbox, so that control must come
    /// back before long.
    pub(crate) fn are_waited_for(&self) -> bool {
        let waited_for = |core: &Core| core.waiting > 0 || !core.orders.is_empty();
        self.cores.iter().any(waited_for)
    }
}

/// How many ring cores there are to be.
pub(crate) fn wanted(config: &Config) -> usize {
    let most = vcpus::count().saturating_sub(1).max(1);
    usize::try_from(config.queues).map_or(most, |queues| queues.min(most))
}

/// Starts `worker` on `vcpu`; gives the port that wakes it.
fn launch(vcpu: usize, worker: RingWorker, events: Events) -> Result<Port, String> {
    let wake = events
        .bind_ipi(vcpu)
        .map_err(|error| format!("no event channel: {error}"))?;
    let main = move |clock: &'static CoreClock| serve(worker, clock, events, wake);
    match vcpus::start(vcpu, Box::new(main)) {
        Ok(()) => Ok(wake),
        Err(error) => {
            if let Err(error) = events.close(wake) {
                warn!("cannot close event channel {}: {error}", wake.0);
            }
            Err(error.to_string())
        }
    }
}

/// A ring core's life, until it is told to stop.
fn serve(mut worker: RingWorker, clock: &'static CoreClock, events: Events, wake: Port) {
    loop {
        match worker.turn(clock.now_ns()) {
            Next::Turn => {}
            Next::Rest(until) => {
                // The order that an event was for is found when the worker listens.
                events.take_pending(wake);
                rest(&mut worker, events, clock, wake, until);
            }
            Next::Nap(until) => {
                events.take_pending(wake);
                if !worker.has_orders() {
                    nap(wake, until);
                }
            }
            Next::Stop => return,
        }
    }
}

/// Sleeps until an event comes on `own`, or until the time given.
pub(crate) fn nap(own: Port, until: Deadline) {
    // An error cannot be: the port is ours.
    let _ = sched::poll(&[own], until);
}

/// Sleeps until an event comes for one of the worker's rings or on `own`, or until the time
/// given, unless there is something to do already. What has come on `own` is left for the caller
/// to take.
pub(crate) fn rest(
    worker: &mut RingWorker,
    events: Events,
    clock: &CoreClock,
    own: Port,
    until: Deadline,
) {
    for port in worker.ports() {
        events.take_pending(port);
    }
    if worker.listen() {
        let ports = core::iter::once(own).chain(worker.ports());
        // An error means that a port just went away: look again.
        let _ = events.sleep(ports, until, clock);
    }
}
