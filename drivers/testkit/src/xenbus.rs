//! The xenbus backend, the daemon and a kernel that only keeps books, run by hand: the test bed of
//! the backend's tests and of its fuzz target.

use std::collections::BTreeMap;

use crate::xenstored::{Vbd, Xenstored};
use spindle_hw::SharedPages;
use spindle_xen::store::Ring;
use spindle_xen::xenbus::{
    Access, Action, Backend, ConnectRequest, DeviceId, Discard, DiskFacts, FormerDevice,
    Generation, Offer, Refusal, ShutdownKind,
};
use spindle_xen::{DomId, Errno};

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// The driver domain.
pub const BE: u16 = 3;
/// A device of a guest.
pub const VBD: Vbd = Vbd {
    backend: BE,
    frontend: 5,
    device: 51712,
};
/// What the backend offers, unless a test says otherwise.
pub const OFFER: Offer = Offer {
    max_queues: 2,
    max_ring_page_order: 1,
    max_indirect_segments: 0,
    persistent: true,
};

/// As the backend names a device.
pub fn id(vbd: Vbd) -> DeviceId {
    DeviceId {
        frontend: DomId(vbd.frontend),
        device: vbd.device,
    }
}

/// A kernel that carries out what the backend asks for in its books only, and checks it as it comes.
/// The real one is in `spindle-control`, whose tests have the whole domain.
#[derive(Default)]
pub struct Kernel {
    /// The devices whose disks are open, and for what.
    pub open: BTreeMap<DeviceId, Access>,
    /// Whether the toolstack lets the guest discard, at the last opening.
    pub discard: bool,
    /// Whether it is to be shown with 512-byte sectors, at the last opening.
    pub sectors: bool,
    /// How many rings the disk serves, if not as many as are offered.
    pub queues: Option<u32>,
    /// The disk's sector size, if not 512.
    pub sector_size: Option<u32>,
    /// All that is known of the disk, if not [`facts`].
    pub facts: Option<DiskFacts>,
    /// The connections that stand or are being made or ended.
    pub connections: BTreeMap<DeviceId, ConnectRequest>,
    /// How many there have been.
    pub connects: usize,
    /// Answers are held back while set.
    pub slow: bool,
    /// Why every connection is refused, if it is.
    pub refuse_connect: Option<Refusal>,
    /// How often the disks were to be looked at again.
    pub rescans: u32,
    /// The drills that were asked for.
    pub drills: Vec<Vec<u8>>,
    /// The updates that were asked for.
    pub updates: Vec<Vec<u8>>,
    /// The limits that were asked for.
    pub limits: Vec<Vec<u8>>,
    /// The shutdown that the toolstack has asked for.
    pub shutdown_requested: Option<ShutdownKind>,
    /// Whether the shutdown was clean, once it is over.
    pub shut_down: Option<bool>,
    /// Whether xenstore was lost.
    pub store_lost: bool,
    opening: Vec<DeviceId>,
    connecting: Vec<(DeviceId, Generation)>,
    draining: Vec<(DeviceId, Generation)>,
    newest: Option<Generation>,
}

/// The backend between a model of xenstored and a [`Kernel`], in virtual time.
pub struct Bed {
    /// The backend.
    pub backend: Backend,
    /// The daemon, with the toolstack's and the guests' hands on its tree.
    pub store: Xenstored,
    /// What carries the backend's actions out.
    pub kernel: Kernel,
    /// The time in nanoseconds.
    pub now: u64,
    ring: Ring,
    page: SharedPages,
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

impl Bed {
    /// With [`OFFER`].
    pub fn new() -> Self {
        Self::offering(OFFER)
    }

    /// With a backend that offers this.
    pub fn offering(offer: Offer) -> Self {
        let page = SharedPages::host(1, 0);
        let store = Xenstored::new(page.alias(), BE);
        Self {
            backend: Backend::new(offer),
            store,
            kernel: Kernel::default(),
            now: 1000 * MS,
            ring: Ring::new(page.alias()),
            page,
        }
    }

    /// The kernel has started again in its domain, with a backend that offers this and knows `former`.
    /// Nothing was on its way to or from xenstored.
    pub fn restart(&mut self, offer: Offer, former: Vec<FormerDevice>) {
        self.store.reset_client();
        self.backend = Backend::resume(offer, former);
        self.kernel = Kernel::default();
        self.ring = Ring::new(self.page.alias());
    }

    /// Runs until nothing moves any more, without time going on.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            while let Some(action) = self.backend.pump(&mut self.ring, self.now) {
                self.act(action);
            }
            let answered = !self.kernel.slow && self.answer();
            self.store.set_now(self.now);
            let moved = self.store.step();
            let hurry = self
                .backend
                .next_deadline()
                .is_some_and(|time| time <= self.now);
            if !answered && !moved && !hurry {
                return;
            }
        }
        panic!("no end to it");
    }

    /// A few steps only, so that work stays half done.
    pub fn breathe(&mut self, steps: usize) {
        for _ in 0..steps {
            while let Some(action) = self.backend.pump(&mut self.ring, self.now) {
                self.act(action);
            }
            self.store.step();
        }
    }

    /// Lets `ms` pass, waking the backend when it asks to be.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        self.settle();
        while let Some(due) = self.next_due().filter(|due| *due <= end) {
            self.now = due.max(self.now + 1);
            self.settle();
        }
        self.now = self.now.max(end);
        self.settle();
    }

    /// When the backend or the daemon has something to do again.
    pub fn next_due(&self) -> Option<u64> {
        let times = [self.backend.next_deadline(), self.store.next_due()];
        times.into_iter().flatten().min()
    }

    /// Runs until `done`, and gives the time that took in ms; `None` if it took longer than `ms`.
    pub fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> Option<u64> {
        let start = self.now;
        self.settle();
        while !done(self) {
            let due = self.next_due()?;
            self.now = due.max(self.now + 1);
            if self.now > start + ms * MS {
                return None;
            }
            self.settle();
        }
        Some((self.now - start) / MS)
    }

    fn act(&mut self, action: Action) {
        let kernel = &mut self.kernel;
        match action {
            Action::Open { device, disk, .. } => {
                kernel.discard = disk.discard;
                kernel.sectors = disk.sectors;
                if disk.target == "lun0" {
                    let before = kernel.open.insert(device, disk.access);
                    assert_eq!(before, None, "opened twice");
                }
                kernel.opening.push(device);
                // The real kernel opens at once.
                if !kernel.slow {
                    self.answer_opens();
                }
            }
            Action::Connect(request) => {
                assert!(kernel.open.contains_key(&request.device));
                assert!(
                    kernel.newest < Some(request.generation),
                    "generations only grow"
                );
                kernel.newest = Some(request.generation);
                let (device, generation) = (request.device, request.generation);
                let was = kernel.connections.insert(device, request);
                assert!(was.is_none(), "two connections at a time");
                kernel.connecting.push((device, generation));
                kernel.connects += 1;
            }
            Action::Disconnect { device, generation } => {
                let current = &kernel.connections[&device];
                assert_eq!(current.generation, generation);
                assert!(
                    kernel.connecting.is_empty()
                        || !kernel.connecting.contains(&(device, generation))
                );
                kernel.draining.push((device, generation));
            }
            Action::Close { device } => {
                assert!(
                    !kernel.connections.contains_key(&device),
                    "closed under a connection"
                );
                assert!(
                    kernel.open.remove(&device).is_some(),
                    "closed what was not open"
                );
            }
            Action::Rescan => kernel.rescans += 1,
            Action::Drill(order) => kernel.drills.push(order),
            Action::Update(order) => kernel.updates.push(order),
            Action::Limit(order)
            | Action::Setting(order)
            | Action::Volume(order)
            | Action::Inspect(order) => {
                kernel.limits.push(order);
            }
            Action::ShutdownRequested(kind) => kernel.shutdown_requested = Some(kind),
            Action::ShutDown { clean } => kernel.shut_down = Some(clean),
            Action::StoreLost => kernel.store_lost = true,
        }
    }

    fn answer_opens(&mut self) {
        let kernel = &mut self.kernel;
        for device in kernel.opening.drain(..) {
            let result = match kernel.open.get(&device) {
                Some(_) if kernel.facts.is_some() => Ok(kernel.facts.unwrap()),
                Some(access) => Ok(DiskFacts {
                    queues: kernel.queues.unwrap_or(OFFER.max_queues),
                    sector_size: match kernel.sectors {
                        true => 512,
                        false => kernel.sector_size.unwrap_or(512),
                    },
                    ..facts(*access)
                }),
                None => Err(Refusal::new(Errno::ENOENT, "no such target")),
            };
            self.backend.opened(device, result);
        }
    }

    /// Gives the answers that are due; true if there were any.
    pub fn answer(&mut self) -> bool {
        let kernel = &self.kernel;
        let before = kernel.opening.len() + kernel.connecting.len() + kernel.draining.len();
        self.answer_opens();
        let kernel = &mut self.kernel;
        for (device, generation) in kernel.connecting.drain(..) {
            let result = match kernel.refuse_connect.clone() {
                Some(refusal) => {
                    kernel.connections.remove(&device);
                    Err(refusal)
                }
                None => Ok(()),
            };
            self.backend.connected(device, generation, result);
        }
        for (device, generation) in kernel.draining.drain(..) {
            kernel.connections.remove(&device);
            self.backend.disconnected(device, generation);
        }
        before > 0
    }

    /// The toolstack gives a guest the disk `lun0`.
    pub fn attach(&mut self, vbd: Vbd) {
        vbd.attach(&mut self.store, "lun0", "w");
    }

    /// From nothing to Connected, as at `xl create`.
    pub fn connect(&mut self, vbd: Vbd) {
        self.attach(vbd);
        self.run(600);
        assert_eq!(vbd.back_state(&self.store), 2);
        vbd.front_initialise(&mut self.store);
        self.settle();
        assert_eq!(vbd.back_state(&self.store), 4);
        vbd.set_front_state(&mut self.store, 4);
        self.settle();
    }

    /// The text of a device's error node.
    pub fn error(&self, vbd: Vbd) -> Option<&str> {
        let (fe, dev) = (vbd.frontend, vbd.device);
        self.store.text(&format!(
            "/local/domain/{BE}/error/backend/vbd/{fe}/{dev}/error"
        ))
    }

    /// Nothing is left of any device.
    pub fn assert_clean(&self) {
        assert_eq!(self.backend.device_count(), 0);
        assert!(self.kernel.open.is_empty() && self.kernel.connections.is_empty());
        assert_eq!(self.store.watch_count(), 3);
        assert_eq!(self.store.open_transactions(), 0);
    }
}

/// What is known of the disk that is opened, unless a test says otherwise.
pub fn facts(access: Access) -> DiskFacts {
    DiskFacts {
        sectors: 2048,
        sector_size: 512,
        physical_sector_size: 4096,
        read_only: access == Access::Read,
        flush: true,
        barrier: false,
        discard: Some(Discard {
            granularity: 4096,
            alignment: 0,
            secure: false,
        }),
        queues: OFFER.max_queues,
    }
}
