//! The ring cores as control sees them: the mailboxes of each, which disks it has a queue on, and
//! how many rings it has. In a domain with one vCPU the only worker runs inside control's loop.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use log::{info, warn};
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Order, Report};
use spindle_block::{Targets, Volume};
use spindle_xen::event::Port;
use spindle_xen::xenbus::DeviceId;

use crate::hypervisor::Hypervisor;
use crate::worker::CoreWorker;

/// A ring core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CoreId(usize);

impl CoreId {
    /// As it is kept: the first one is 1.
    pub(crate) fn number(self) -> u16 {
        u16::try_from(self.0 + 1).unwrap_or(u16::MAX)
    }
}

/// As it is shown to people: the first one is 1.
impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0 + 1).fmt(f)
    }
}

/// What control knows of a core.
#[derive(Debug)]
struct Core<Q> {
    link: Arc<Link<Q>>,
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
    /// Orders that it was given so far, those that wait for the mailbox included.
    given: u64,
    stats: Arc<CoreStats>,
}

/// The orders that the cores were given up to some moment.
#[derive(Debug)]
pub(crate) struct Given(Vec<u64>);

/// Where a core's worker runs.
#[derive(Debug)]
pub enum Runs<W> {
    /// On a vCPU of its own, which an event on the port wakes.
    Apart {
        /// The port.
        wake: Port,
    },
    /// In control's own loop.
    Here(W),
}

/// All ring cores.
#[derive(Debug)]
pub struct Cores<H, W: CoreWorker> {
    cores: Vec<Core<W::Queue>>,
    hypervisor: H,
    /// Segments of the largest request that their buffers hold.
    segments: u16,
    /// The worker that has no core of its own.
    pub(crate) local: Option<W>,
}

impl<Q> Core<Q> {
    /// Has a share that waits for the mailbox make way for a later one of the same ring: gives back what
    /// is no such order.
    fn merge_share(&mut self, order: Order) -> Option<Order> {
        let Order::Share { ring, share } = order else {
            return Some(order);
        };
        let attaches = |order: &Order| matches!(order, Order::Attach { .. });
        let waiting = self.orders.iter_mut().rev();
        for queued in waiting.take_while(|queued| !attaches(queued)) {
            if let Order::Share {
                ring: other,
                share: old,
            } = queued
                && *other == ring
            {
                *old = share;
                return None;
            }
        }
        Some(Order::Share { ring, share })
    }

    /// Whether it has a queue on `disk`.
    fn serves(&self, disk: usize) -> bool {
        self.disks.get(disk).copied().unwrap_or(false)
    }

    /// Whether it has a queue on every disk of `volume`.
    fn serves_all(&self, volume: &Volume) -> bool {
        volume.disks().all(|disk| self.serves(disk))
    }

    /// Whether an order that waits for the mailbox does for this one, perhaps with another size: those
    /// of a core that takes none are not to pile up. What is attached meanwhile is not meant by
    /// what was ordered before.
    fn merge(&mut self, order: &Order) -> bool {
        let attaches = |order: &Order| matches!(order, Order::Attach { .. });
        let waiting = self.orders.iter_mut().rev();
        for queued in waiting.take_while(|queued| !attaches(queued)) {
            match (queued, order) {
                (
                    Order::Resize { ring, sectors },
                    Order::Resize {
                        ring: other,
                        sectors: new,
                    },
                ) if ring == other => {
                    *sectors = *new;
                    return true;
                }
                (
                    Order::Remove { disk, unit },
                    Order::Remove {
                        disk: other,
                        unit: same,
                    },
                ) if (*disk, *unit) == (*other, *same) => return true,
                (Order::Renew(disk), Order::Renew(other)) if disk == other => return true,
                // What takes the disk's memory away does for what only ends its commands.
                (Order::FailDisk(disk) | Order::CutOff(disk), Order::FailDisk(other))
                | (Order::CutOff(disk), Order::CutOff(other))
                    if disk == other =>
                {
                    return true;
                }
                _ => {}
            }
        }
        false
    }
}

impl<H: Hypervisor, W: CoreWorker> Cores<H, W> {
    /// No cores yet. `segments` are those of the largest request that their buffers hold.
    pub fn new(hypervisor: H, segments: u16) -> Self {
        Self {
            cores: Vec::new(),
            hypervisor,
            segments,
            local: None,
        }
    }

    /// Adds a core that has been started, or the one whose worker is `local` and runs in control's
    /// loop. `disks` tells on which disks it has a queue.
    pub fn add(
        &mut self,
        link: Arc<Link<W::Queue>>,
        stats: Arc<CoreStats>,
        disks: Vec<bool>,
        runs: Runs<W>,
    ) {
        let wake = match runs {
            Runs::Apart { wake } => Some(wake),
            Runs::Here(worker) => {
                self.local = Some(worker);
                None
            }
        };
        self.cores.push(Core {
            link,
            wake,
            orders: VecDeque::new(),
            disks,
            rings: 0,
            waiting: 0,
            given: 0,
            stats,
        });
    }

    /// Logs the number of cores, and of which disks the controllers gave fewer queues than that.
    pub(crate) fn log_queues(&self, targets: &Targets<DeviceId>) {
        let (cores, mut logged) = (self.cores.len(), None);
        match self.local {
            Some(_) => info!("one vCPU: it polls rings and does all the rest"),
            None => info!("{cores} ring cores"),
        }
        for volume in targets.disks() {
            let queues = self.serving(volume);
            // Once for all namespaces of a controller.
            if queues < cores && logged.replace(volume.disk) != Some(volume.disk) {
                let name = &volume.name;
                warn!(
                    "disk {name}: {queues} queues for {cores} cores; its rings share {queues} of \
                     them, and no more rings are offered to a guest"
                );
            }
        }
    }

    /// How many cores have a queue on every disk of `volume`.
    pub(crate) fn serving(&self, volume: &Volume) -> usize {
        let serving = self.cores.iter().filter(|core| core.serves_all(volume));
        serving.count()
    }

    /// Whether a core has a queue on every disk of `volume`.
    pub(crate) fn serves(&self, core: CoreId, volume: &Volume) -> bool {
        let core = self.cores.get(core.0);
        core.is_some_and(|core| core.serves_all(volume))
    }

    /// Whether there is no core at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cores.is_empty()
    }

    /// Number of ring cores.
    pub(crate) fn len(&self) -> usize {
        self.cores.len()
    }

    /// The core with a queue on every disk of `volume` that has the fewest rings, and counts one more
    /// from now on.
    pub(crate) fn place(&mut self, volume: &Volume) -> Option<CoreId> {
        let cores = self
            .cores
            .iter_mut()
            .enumerate()
            .filter(|(_, core)| core.serves_all(volume));
        let (index, core) = cores.min_by_key(|(_, core)| core.rings)?;
        core.rings += 1;
        Some(CoreId(index))
    }

    /// The core that is to read blocks of `disk` for control, if it has been tried `tries` times: one
    /// with a queue there, that has carried out its orders if there is such a one.
    pub(crate) fn reader(&self, disk: usize, tries: usize) -> Option<CoreId> {
        let cores = self.cores.iter().enumerate();
        let serving: Vec<_> = cores.filter(|(_, core)| core.serves(disk)).collect();
        let is_free = |(_, core): &&(_, &Core<_>)| core.link.done() >= core.given;
        let free: Vec<_> = serving.iter().filter(is_free).collect();
        let (index, _) = match free.len() {
            0 => serving.first()?,
            count => free[tries % count],
        };
        Some(CoreId(*index))
    }

    /// Segments of the largest request that can be offered.
    pub(crate) fn segments(&self) -> u16 {
        self.segments
    }

    /// The port that wakes a core, if it has a CPU of its own to sleep on.
    pub(crate) fn wake(&self, core: CoreId) -> Option<Port> {
        self.cores.get(core.0)?.wake
    }

    /// A ring that [`Cores::place`] counted is gone.
    pub(crate) fn vacate(&mut self, core: CoreId) {
        if let Some(core) = self.cores.get_mut(core.0) {
            core.rings = core.rings.saturating_sub(1);
        }
    }

    /// Sends an order, when the mailbox is free.
    pub(crate) fn order(&mut self, core: CoreId, order: Order) {
        if let Some(core) = self.cores.get_mut(core.0)
            && let Some(order) = core.merge_share(order)
            && !core.merge(&order)
        {
            let answered = !matches!(
                order,
                Order::FailDisk(_)
                    | Order::CutOff(_)
                    | Order::Resize { .. }
                    | Order::Grow { .. }
                    | Order::Share { .. }
                    | Order::Remove { .. }
                    | Order::Access(_)
                    | Order::Renew(_)
                    | Order::Begin(_)
                    | Order::Poll(_)
            );
            core.given += 1;
            core.waiting += usize::from(answered);
            core.orders.push_back(order);
        }
        self.deliver();
    }

    /// Sends an order to every core. `order` makes one for each.
    pub(crate) fn order_all(&mut self, order: impl Fn() -> Order) {
        for core in 0..self.cores.len() {
            self.order(CoreId(core), order());
        }
    }

    /// All that the cores were ordered so far.
    pub(crate) fn given(&self) -> Given {
        Given(self.cores.iter().map(|core| core.given).collect())
    }

    /// The first core with a queue on `disk` that has not carried out what it was `given`. One
    /// without a queue there submits nothing to it.
    pub(crate) fn behind(&self, disk: usize, given: &Given) -> Option<CoreId> {
        let mut cores = self.cores.iter().zip(&given.0);
        let behind = cores.position(|(core, given)| core.serves(disk) && core.link.done() < *given);
        behind.map(CoreId)
    }

    /// Has every core take a turn.
    pub(crate) fn wake_all(&self) {
        for port in self.cores.iter().filter_map(|core| core.wake) {
            self.hypervisor.notify(port);
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
                self.hypervisor.notify(port);
            }
        }
    }

    /// The next report of a core.
    pub(crate) fn report(&mut self) -> Option<(CoreId, Report<W::Queue>)> {
        self.deliver();
        for (index, core) in self.cores.iter_mut().enumerate() {
            if let Some(report) = core.link.reports.take() {
                if !matches!(report, Report::Halted { .. } | Report::Access(_)) {
                    core.waiting = core.waiting.saturating_sub(1);
                }
                // It may have another one that waits for the mailbox.
                if let Some(port) = core.wake {
                    self.hypervisor.notify(port);
                }
                return Some((CoreId(index), report));
            }
        }
        None
    }

    /// The cores' counters.
    pub(crate) fn stats(&self) -> impl Iterator<Item = (CoreId, &CoreStats)> {
        let cores = self.cores.iter().enumerate();
        cores.map(|(index, core)| (CoreId(index), &*core.stats))
    }

    /// Whether a core owes an answer, or an order waits for its mailbox, so that control must come
    /// back before long.
    pub(crate) fn are_waited_for(&self) -> bool {
        let waited_for = |core: &Core<W::Queue>| core.waiting > 0 || !core.orders.is_empty();
        self.cores.iter().any(waited_for)
    }
}

#[cfg(test)]
mod tests {
    use spindle_blkif::RingId;
    use spindle_block::Unit;

    use super::*;

    fn core() -> Core<()> {
        Core {
            link: Arc::default(),
            wake: None,
            orders: VecDeque::new(),
            disks: Vec::new(),
            rings: 0,
            waiting: 0,
            given: 0,
            stats: Arc::default(),
        }
    }

    /// What waits for a core that takes nothing, in letters.
    fn waiting(core: &Core<()>) -> Vec<(char, usize)> {
        let letter = |order: &Order| match order {
            Order::FailDisk(disk) => ('f', *disk),
            Order::CutOff(disk) => ('c', *disk),
            Order::Remove { disk, .. } => ('r', *disk),
            _ => ('?', 0),
        };
        core.orders.iter().map(letter).collect()
    }

    #[test]
    fn orders_for_a_core_that_takes_none_do_not_pile_up() {
        let mut core = core();
        let mut order = |order: Order| {
            if !core.merge(&order) {
                core.orders.push_back(order);
            }
            waiting(&core)
        };
        for _ in 0..3 {
            order(Order::FailDisk(1));
            order(Order::FailDisk(2));
            let (disk, unit) = (1, Unit(1));
            order(Order::Remove { disk, unit });
        }
        let once = [('f', 1), ('f', 2), ('r', 1)];
        assert_eq!(order(Order::FailDisk(2)), once);
        // A disk that may still write is another matter, and more than the first.
        let more = [&once[..], &[('c', 1)]].concat();
        assert_eq!(order(Order::CutOff(1)), more);
        assert_eq!(order(Order::CutOff(1)), more);
        assert_eq!(order(Order::FailDisk(1)), more);
    }

    #[test]
    fn of_sizes_for_a_core_that_takes_none_each_ring_gets_the_last() {
        let mut core = core();
        let mut order = |order: Order| {
            if !core.merge(&order) {
                core.orders.push_back(order);
            }
        };
        for sectors in [8, 16, 24] {
            for ring in [RingId(1), RingId(2)] {
                order(Order::Resize { ring, sectors });
            }
            order(Order::Renew(0));
        }
        order(Order::Resize {
            ring: RingId(2),
            sectors: 32,
        });
        let size = |order: &Order| match *order {
            Order::Resize { ring, sectors } => Some((ring.0, sectors)),
            _ => None,
        };
        let waiting: Vec<_> = core.orders.iter().map(size).collect();
        assert_eq!(waiting, [Some((1, 24)), Some((2, 32)), None]);
    }
}
