//! A whole domain in virtual time: the real control, ring cores and drivers, with models of
//! xenstored, the toolstack, guests and disks around them.

pub mod calls;
pub mod disks;
pub mod guest;
mod lives;
pub mod machine;
pub mod wires;

use std::cell::RefCell;

use spindle_blkif::abi::RspStatus;
use spindle_block::DiskOptions;
use spindle_config::Config;
use spindle_control::{Control, HandOver, LifeEnd};
use spindle_hw::SharedPages;
use spindle_testkit::nvme::{Config as NvmeConfig, FakeNvme, NamespaceConfig};
use spindle_testkit::virtio::{Config as VirtioConfig, FakeVirtio};
use spindle_testkit::xenstored::{Vbd, Xenstored};
use spindle_xen::xenbus::ShutdownKind;

use disks::{Hardware, Remote, Remotes, Table};
use guest::{Guest, contents, pattern};
use machine::{Cpu, Machine, RingWorker};
use wires::{Fault, Wire, Wires};

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;
/// A second in nanoseconds.
pub const SECOND: u64 = 1000 * MS;
/// The domain.
pub const BACKEND: u16 = 3;

/// What the domain is like.
pub struct Setup {
    /// Ring cores with a vCPU of their own; with none there is one vCPU for all.
    pub cores: usize,
    /// Rings that one core takes.
    pub rings: usize,
    /// Its options.
    pub config: Config,
    /// Notifications that are lost, by number.
    pub faults: Vec<(usize, Fault)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            cores: 2,
            rings: 8,
            config: Config::default(),
            faults: Vec::new(),
        }
    }
}

/// The models of the disks of [`World::with_all_disks`].
pub struct Models {
    /// `nvme0`, with two namespaces.
    pub nvme: FakeNvme,
    /// `vda`.
    pub virtio: FakeVirtio,
}

/// What control watches without any device.
pub(crate) const WATCHES: usize = 8;
/// The names of these disks.
pub const DISKS: [&str; 4] = ["nvme0n1", "nvme0n2", "vda", "ram0"];

type DomainControl = Control<Cpu, RingWorker>;

/// A domain, and everything around it.
pub struct World {
    /// What control and the ring cores run on.
    pub machine: &'static Machine,
    /// Xenstored.
    pub store: Xenstored,
    /// The guests, each with one disk.
    pub guests: Vec<Guest>,
    /// The disks, by their number.
    pub remotes: Remotes,
    control: Option<DomainControl>,
    setup: Setup,
    hardware: Hardware,
    /// The page shared with xenstored.
    page: SharedPages,
    kept: lives::KeptPages,
    /// Iterations of control.
    pub control_turns: usize,
    /// The end of it, once it has come.
    pub ended: Option<ShutdownKind>,
    /// A life has ended by an update, and the next one has not begun: what it has left.
    pub(crate) handed_over: Option<HandOver>,
    /// How many updates there were.
    pub updates: usize,
    /// How long nothing was taken from the rings before the last of them, in ns.
    drained_ns: u64,
    /// xenstored does nothing.
    pub store_stands: bool,
    /// The tree was changed by others, which xenstored has yet to pass on.
    pub(crate) poked: bool,
}

impl World {
    /// A domain with the disks that `disks` makes.
    pub fn new(setup: Setup, disks: impl FnOnce(&'static Machine, &mut Table)) -> Self {
        let machine = Machine::new(Wires::new(&setup.faults));
        let kept = lives::KeptPages::new();
        let mut table = Table::new(machine, kept.ram_disks);
        disks(machine, &mut table);
        let page = SharedPages::host(1, 0);
        let mut store = Xenstored::new(page.alias(), BACKEND);
        let (control, remotes, hardware) = lives::start(
            machine,
            &setup,
            table,
            &page,
            &mut store,
            kept.serving,
            None,
        );
        Self {
            machine,
            store,
            guests: Vec::new(),
            remotes,
            control: Some(control),
            setup,
            hardware,
            page,
            kept,
            control_turns: 0,
            ended: None,
            handed_over: None,
            updates: 0,
            drained_ns: 0,
            store_stands: false,
            poked: false,
        }
    }

    /// A domain with `nvme0`, a controller of this kind of which each core has a queue of 16 entries.
    /// `change` is done to it before it is started, and `more` adds what there is besides.
    pub fn with_nvme(
        cores: usize,
        config: NvmeConfig,
        change: impl FnOnce(&FakeNvme),
        more: impl FnOnce(&mut Table),
    ) -> (Self, FakeNvme) {
        let setup = Setup {
            cores,
            ..Setup::default()
        };
        let mut model = None;
        let world = Self::new(setup, |machine, disks| {
            let nvme = FakeNvme::new(machine.bus.clone(), config);
            change(&nvme);
            let options = DiskOptions {
                queues: cores.max(1) as u16,
                depth: 16,
                ..DiskOptions::default()
            };
            disks.add_nvme(&nvme, 0, options);
            more(disks);
            model = Some(nvme);
        });
        (world, model.expect("disks are added at once"))
    }

    /// The same, with a controller that does nothing before it is ordered to, and nothing else.
    pub fn with_slow_nvme(cores: usize) -> (Self, FakeNvme) {
        let config = NvmeConfig {
            manual: true,
            ..NvmeConfig::default()
        };
        Self::with_nvme(cores, config, |_| (), |_| ())
    }

    /// A domain with a disk of each type: an NVMe controller with two namespaces, a virtio device and
    /// a RAM disk, of which each core has a queue.
    pub fn with_all_disks(cores: usize) -> (Self, Models) {
        let mut models = None;
        let setup = Setup {
            cores,
            ..Setup::default()
        };
        let world = Self::new(setup, |machine, disks| {
            let options = DiskOptions {
                queues: cores.max(1) as u16,
                depth: 16,
                ..DiskOptions::default()
            };
            let config = NvmeConfig {
                namespaces: vec![
                    NamespaceConfig::new(1, 2048, 9),
                    NamespaceConfig::new(2, 512, 12),
                ],
                ..NvmeConfig::default()
            };
            let nvme = FakeNvme::new(machine.bus.clone(), config);
            disks.add_nvme(&nvme, 0, options);
            let virtio = FakeVirtio::new(machine.bus.clone(), VirtioConfig::default());
            disks.add_virtio(&virtio, 0, options);
            disks.add_ram("ram0", 1 << 20);
            models = Some(Models { nvme, virtio });
        });
        (world, models.unwrap())
    }

    /// The time, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.machine.now.get()
    }

    /// Whether control would take an iteration now.
    pub(crate) fn control_runs(&self) -> bool {
        self.control.is_some() && self.machine.wakes(0)
    }

    /// An iteration of control, and the end of it when it has ended.
    pub(crate) fn turn_control(&mut self) {
        self.control_turns += 1;
        match self.control.as_mut().and_then(Control::turn) {
            None => {}
            Some(LifeEnd::Shutdown(kind)) => {
                self.control.take().into_iter().for_each(Control::stop);
                self.ended = Some(kind);
            }
            Some(LifeEnd::Update(left)) => {
                self.control = None;
                self.handed_over = Some(left);
            }
        }
    }

    /// Whether xenstored was notified, or has changes of others to pass on, since this was last asked.
    pub(crate) fn store_is_called(&mut self) -> bool {
        self.machine.wires.take(Wire::ToStore) | core::mem::take(&mut self.poked)
    }

    /// Lets everything run for a moment, or time go on to when something will, no further than
    /// `limit`.
    fn step(&mut self, limit: u64) {
        let machine = self.machine;
        machine.wires.pass(self.now());
        let mut ran = self.control_runs();
        if ran {
            self.turn_control();
            self.follow();
        }
        ran |= machine.run_cores();
        self.store.set_now(self.now());
        if !self.store_stands && self.store_is_called() {
            while self.store.step() {
                machine.wires.send(Wire::ToControl);
            }
            ran = true;
        }
        while let Some(port) = machine.wires.take_to_front() {
            ran = true;
            let Some((domain, port)) = machine.far_end(port) else {
                continue;
            };
            let guests = self.guests.iter_mut();
            for guest in guests.filter(|guest| guest.domain() == domain) {
                guest.notified(port);
            }
        }
        if ran {
            machine.pass();
            return;
        }
        let ends = [machine.next_end(), machine.wires.next_tick(), Some(limit)];
        let next = ends.into_iter().flatten().min().unwrap_or(limit);
        machine.now.set(next.max(self.now() + 1));
    }

    /// Runs until `done`; gives how long that took, or `None` if it is not done within `limit_ns`.
    pub fn run_until(&mut self, limit_ns: u64, done: impl Fn(&mut Self) -> bool) -> Option<u64> {
        let (start, limit) = (self.now(), self.now() + limit_ns);
        while !done(self) {
            if self.now() >= limit {
                return None;
            }
            self.step(limit);
        }
        Some(self.now() - start)
    }

    /// Runs until `done`; gives how long that took.
    pub fn until(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) -> u64 {
        let took = self.run_until(60 * SECOND, done);
        took.unwrap_or_else(|| panic!("no {what} within a minute"))
    }

    /// Runs for so many milliseconds.
    pub fn pass(&mut self, ms: u64) {
        let limit = self.now() + ms * MS;
        while self.now() < limit {
            self.step(limit);
        }
    }

    /// Changes the tree as the toolstack or a guest does.
    pub fn poke<T>(&mut self, change: impl FnOnce(&mut Xenstored) -> T) -> T {
        self.poked = true;
        change(&mut self.store)
    }

    /// A guest is given a disk; gives the guest's number here.
    pub fn attach(&mut self, frontend: u16, device: u32, target: &str, mode: &str) -> usize {
        let vbd = Vbd {
            backend: BACKEND,
            frontend,
            device,
        };
        self.poke(|store| vbd.attach(store, target, mode));
        self.guests.push(Guest::new(self.machine, vbd));
        self.guests.len() - 1
    }

    /// The state of a guest's backend, 0 if there is none.
    pub fn state(&self, guest: usize) -> u32 {
        self.guests[guest].vbd.back_state(&self.store)
    }

    /// Changes the state of a guest's frontend.
    pub fn set_state(&mut self, guest: usize, state: u32) {
        let vbd = self.guests[guest].vbd;
        self.poke(|store| vbd.set_front_state(store, state));
    }

    /// Publishes rings and their state.
    pub fn publish(&mut self, guest: usize, rings: usize, pages: usize) {
        self.poked = true;
        self.guests[guest].publish(&mut self.store, rings, pages);
        self.set_state(guest, 3);
    }

    /// From the attach to Connected.
    pub fn connect(&mut self, guest: usize, rings: usize, pages: usize) {
        self.until("InitWait", |w| w.state(guest) == 2);
        self.publish(guest, rings, pages);
        self.until("Connected", |w| w.state(guest) == 4);
        self.set_state(guest, 4);
    }

    /// Writes a page and expects that to go well.
    pub fn write(&mut self, guest: usize, ring: usize, sector: u64, seed: u64) {
        let id = self.guests[guest].write(ring, sector, seed);
        assert_eq!(self.answer(guest, ring, id), RspStatus::OKAY);
    }

    /// Reads a page and expects it to hold what was written with `seed`.
    pub fn verify(&mut self, guest: usize, ring: usize, sector: u64, seed: u64) {
        let (id, page) = self.guests[guest].read(ring, sector);
        assert_eq!(self.answer(guest, ring, id), RspStatus::OKAY);
        assert!(contents(&page) == pattern(seed), "sector {sector}");
    }

    /// The response to the only request that is under way.
    pub fn answer(&mut self, guest: usize, ring: usize, id: u64) -> RspStatus {
        self.until("response", |w| w.guests[guest].answer_count() > 0);
        let answers = self.guests[guest].take_answers(ring);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].id, id);
        answers[0].status
    }

    /// `xl block-detach`, with a frontend that gives the disk up when asked.
    pub fn detach(&mut self, guest: usize) {
        let vbd = self.guests[guest].vbd;
        self.poke(|store| vbd.detach(store));
        self.until("Closing", |w| w.state(guest) != 4);
        self.set_state(guest, 6);
        self.until("removal", |w| w.store.read(&vbd.back_dir()).is_none());
    }

    /// `xl destroy`, or whatever else removes a disk without asking its frontend.
    pub fn destroy(&mut self, guest: usize) {
        let vbd = self.guests[guest].vbd;
        self.poke(|store| vbd.destroy(store));
        self.until("removal", |w| w.store.read(&vbd.back_dir()).is_none());
    }

    /// Whether control has nothing left of a former life to take up.
    pub fn is_settled(&self) -> bool {
        let control = self.control.as_ref();
        control.is_some_and(Control::is_settled)
    }

    /// The text of a device's error node.
    pub fn error(&self, guest: usize) -> Option<&str> {
        let Vbd {
            frontend, device, ..
        } = self.guests[guest].vbd;
        self.store.text(&format!(
            "/local/domain/{BACKEND}/error/backend/vbd/{frontend}/{device}/error"
        ))
    }

    /// What the domain has published at `data/spindle/...`.
    pub fn published(&self, leaf: &str) -> Option<&str> {
        self.store
            .text(&format!("/local/domain/{BACKEND}/data/spindle/{leaf}"))
    }

    /// Who has the disk `name`, as it is published; empty as long as it is not.
    pub fn holder(&self, name: &str) -> String {
        let text = self.published(&format!("targets/{name}"));
        let holder = text.map(|text| text.split(' ').nth(4).unwrap());
        holder.unwrap_or_default().to_string()
    }

    /// Asserts that nothing is left of any device: no grant mapped, no port bound, no frame in use.
    pub fn assert_nothing_left(&mut self) {
        // Watches are removed after the directory.
        self.pass(100);
        assert_eq!(self.machine.left(), [0, 0, 0], "mappings, ports, frames");
        assert_eq!(self.store.watch_count(), WATCHES);
        assert_eq!(self.store.open_transactions(), 0);
    }

    /// The outcomes of the disks' shutdowns, and how many queues each got back.
    pub fn shutdowns(&self) -> Vec<(Result<(), String>, usize)> {
        let outcome = |remote: &RefCell<Remote>| remote.borrow().shutdown.clone();
        self.remotes
            .iter()
            .filter_map(|remote| outcome(remote))
            .collect()
    }

    /// The toolstack asks for the domain's end; gives how long that took.
    pub fn shut_down(&mut self) -> u64 {
        let path = format!("/local/domain/{BACKEND}/control/shutdown");
        self.poke(|store| store.write(&path, "poweroff"));
        self.until("end", |w| w.ended.is_some())
    }
}
