//! A dom0 for tests: xl, xenstore's tools and sysfs as far as `spindlectl` uses them. It keeps what
//! really matters in [`State`], which tests compare; fails, is cut off, or is killed where a test
//! says so; and panics as soon as a disk is in two hands.

mod domains;
mod files;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::host::{Call, Opener};
use crate::pci::Bdf;
use crate::plan::{Route, Wanted};
use crate::store::Nodes;

pub(crate) use domains::Domain;

/// Where its NVMe disk is.
pub(crate) const BDF: &str = "0000:01:00.0";

/// What every user can see of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Files by path; the folders are those that they imply.
    pub(crate) files: BTreeMap<String, String>,
    /// The driver of each function that has one.
    pub(crate) drivers: BTreeMap<String, String>,
    /// Functions that xl has finished adding.
    pub(crate) quarantined: BTreeSet<String>,
    /// Whether functions master the bus.
    pub(crate) mastering: BTreeMap<String, bool>,
    /// Xenstore.
    pub(crate) store: Nodes,
    /// All domains but dom0.
    pub(crate) domains: Vec<Domain>,
}

impl State {
    /// All but libxl's own notes of who had a function: they matter to nothing but libxl, which
    /// writes them anew.
    pub(crate) fn essence(&self) -> Self {
        let mut state = self.clone();
        state
            .store
            .retain(|path, _| !path.starts_with("/libxl/pciback/"));
        state
    }
}

/// A call that was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// As a shell would have it.
    pub(crate) text: String,
    /// Whether it may change anything.
    pub(crate) changes: bool,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It fails without an effect.
    Before,
    /// It fails after so many of its steps.
    Half(u8),
    /// It fails after all of them.
    After,
    /// xl says that all is well and does nothing, or answers with nothing.
    Lie,
}

impl Failure {
    /// All ways.
    pub(crate) const KINDS: [Self; 6] = [
        Self::Before,
        Self::Half(1),
        Self::Half(2),
        Self::Half(3),
        Self::After,
        Self::Lie,
    ];

    /// Every one of `calls`, failing in all ways.
    pub(crate) fn all(calls: usize) -> impl Iterator<Item = (usize, Self)> {
        (0..calls).flat_map(|call| Self::KINDS.map(|kind| (call, kind)))
    }
}

/// What a Spindle does once it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Serves,
    Dies,
    Hangs,
    FindsNoDisk,
}

/// What unwinds out of a `spindlectl` that is killed.
pub(crate) struct Killed;

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    pub(crate) state: State,
    pub(crate) calls: Vec<Made>,
    /// Which calls fail.
    pub(crate) failures: BTreeMap<usize, Failure>,
    /// The call in which `spindlectl` is killed, and how far that gets.
    pub(crate) killed: Option<(usize, Failure)>,
    /// After how many calls the user asks to stop.
    pub(crate) interrupt: Option<usize>,
    /// When the user asks to stop.
    pub(crate) interrupt_at: Option<Duration>,
    pub(crate) is_root: bool,
    pub(crate) virt_caps: String,
    pub(crate) dmesg: String,
    /// What xl says of Xen's version.
    pub(crate) version: String,
    /// What xl says of Xen's scheduler.
    pub(crate) scheduler: String,
    /// What xl says of the vCPUs.
    pub(crate) vcpus: String,
    /// What xenstored says of its quota; nothing if it cannot be asked.
    pub(crate) quota: String,
    pub(crate) shim_works: bool,
    pub(crate) fate: Fate,
    /// xl does not believe that the domain can shut down.
    pub(crate) shutdown_refused: bool,
    /// Block devices that are in exclusive use.
    pub(crate) taken: Vec<String>,
    /// Programs that have devices open.
    pub(crate) openers: Vec<Opener>,
    /// Until when they have.
    pub(crate) open_until: Duration,
    /// Domains do not listen to requests to shut down.
    pub(crate) deaf: bool,
    /// Pages of its NVMe controller, by their words in an order.
    pub(crate) pages: Vec<(String, Vec<u8>)>,
    /// xl's calls take effect a second after they have ended.
    pub(crate) late: bool,
    /// The most bytes that were read of a file's end.
    pub(crate) most_read: u64,
    /// The frames of machine memory that are mapped where registers are: the first, and how many.
    pub(crate) mapped_frames: (u64, u64),
    /// Files that are no text.
    pub(crate) images: BTreeMap<String, Vec<u8>>,
    /// What was granted.
    pub(crate) granted: Vec<Vec<u8>>,
    /// What a Spindle answers to an order to update, and to an interrupt after that.
    pub(crate) update_answers: Vec<&'static str>,
    update_number: String,
    pending: Vec<(Duration, Call)>,
    next_id: u32,
    now: Duration,
}

/// What a user asks for on either route.
pub(crate) fn wanted(route: Route) -> Wanted {
    Wanted {
        route: Some(route),
        pci: vec![BDF.into()],
        shims: vec!["/usr/lib/spindle/libspindle_shim.so".into()],
        ..Wanted::default()
    }
}

impl Fake {
    /// A dom0 with an NVMe disk that this driver has; none if it is empty.
    pub(crate) fn with_nvme(driver: &str) -> Self {
        let mut host = Self {
            state: State::default(),
            calls: Vec::new(),
            failures: BTreeMap::new(),
            killed: None,
            interrupt: None,
            interrupt_at: None,
            is_root: true,
            virt_caps: "pv hvm hvm_directio hap".into(),
            dmesg: "(XEN) Interrupt remapping enabled\n".into(),
            version: "xen_major : 4\nxen_minor : 17\nxen_extra : .5\n".into(),
            scheduler: "credit".into(),
            vcpus: String::new(),
            quota: String::new(),
            shim_works: true,
            fate: Fate::Serves,
            shutdown_refused: false,
            deaf: false,
            pages: Vec::new(),
            late: false,
            most_read: 0,
            mapped_frames: (0xfebf8, 4),
            images: BTreeMap::new(),
            granted: Vec::new(),
            update_answers: Vec::new(),
            update_number: String::new(),
            pending: Vec::new(),
            taken: Vec::new(),
            openers: Vec::new(),
            open_until: Duration::MAX,
            next_id: 3,
            now: Duration::ZERO,
        };
        let bdf: Bdf = BDF.parse().expect("an address");
        host.put(&bdf.sysfs("class"), "0x010802\n");
        host.put(&bdf.sysfs("vendor"), "0x1b36\n");
        host.put(
            &bdf.sysfs("resource"),
            "0x00000000febf8000 0x00000000febfbfff 0x0000000000140204\n",
        );
        host.put(&bdf.sysfs("config"), "");
        host.put(&bdf.sysfs("nvme/nvme0/nvme0n1/size"), "2048");
        host.put("/usr/lib/spindle/spindle.elf", "");
        host.put("/usr/lib/spindle/libspindle_shim.so", "");
        host.put("/proc/sys/kernel/random/uuid", "");
        if !driver.is_empty() {
            host.state.drivers.insert(BDF.into(), driver.into());
        }
        host.state.mastering.insert(BDF.into(), false);
        host.store("/local/domain/0/name", "Domain-0");
        host
    }

    /// A dom0 where a Spindle serves a guest.
    pub(crate) fn serving() -> Self {
        let mut host = Self::with_nvme("pciback");
        for (path, value) in [
            ("3/name", "spindle"),
            ("3/libxl", ""),
            ("3/vm", "/vm/u"),
            ("3/data/spindle/ready", "1"),
            ("3/data/spindle/version", "0.1.0 abcdef"),
            ("3/data/spindle/drill", "on"),
            ("3/data/spindle/start", "at=1000 down_us=0 deaths=0"),
            ("3/data/spindle/life", "1"),
            ("3/cpu/0/availability", "online"),
            ("3/cpu/1/availability", "online"),
            (
                "3/data/spindle/disks",
                "nvme0n1 2048 4096 w QEMU NVMe Ctrl, serial spindle0",
            ),
            (
                "3/data/spindle/targets/nvme0n1",
                "nvme0n1 2048 4096 w 5/51712:w nvme-x\n\
                 nvme0n1p1 1024 4096 w - PARTLABEL=root nvme-x-part1",
            ),
            (
                "3/data/spindle/stat/5-51712",
                "rings=2 oo_req=1 rd_req=100 wr_req=7 f_req=2 ds_req=0 rd_sect=800 wr_sect=56 \
                 err=0 peak=9 notify=50 mapped=40 evicted=0 lost=0 copied=0 held_ns=1500000000 batch=1:3 \
                 lat_us=32:99,64:8",
            ),
            (
                "3/data/spindle/core/1",
                "busy=20.0% polls=10 idle_polls=90 sleeps=4 busy_ns=2000000000 idle_ns=8000000000",
            ),
            ("3/backend/vbd/5/51712/state", "4"),
            ("3/backend/vbd/5/51712/dev", "xvda"),
            ("3/backend/vbd/5/51712/params", "nvme0n1"),
            ("3/backend/vbd/5/51712/mode", "w"),
            ("5/name", "web"),
        ] {
            host.store(&format!("/local/domain/{path}"), value);
        }
        host.store("/tool/spindlectl/spindle", "uuid=u ids=3 disks= taken=");
        host
    }

    /// Puts a file.
    pub(crate) fn put(&mut self, path: &str, text: &str) {
        self.state.files.insert(path.into(), text.into());
    }

    /// Puts a node into xenstore.
    pub(crate) fn store(&mut self, path: &str, value: &str) {
        self.state.store.insert(path.into(), value.into());
    }

    /// Puts a node into xenstore after so much time.
    pub(crate) fn store_later(&mut self, after: Duration, path: &str, value: &str) {
        let call = Call::change("xenstore-write", [path, value]);
        self.pending.push((self.now + after, call));
    }

    /// Removes a node from xenstore after so much time.
    pub(crate) fn remove_later(&mut self, after: Duration, path: &str) {
        let call = Call::change("xenstore-rm", [path]);
        self.pending.push((self.now + after, call));
    }

    /// Has call number `call`, counted from here on, go wrong.
    pub(crate) fn fail(&mut self, call: usize, how: Failure) {
        if self.failures.is_empty() {
            self.calls.clear();
        }
        self.failures.insert(call, how);
    }

    /// Has nothing go wrong any more.
    pub(crate) fn mend(&mut self) {
        self.failures.clear();
        self.killed = None;
        self.interrupt = None;
        self.calls.clear();
    }

    /// Whether a call with this text was made.
    pub(crate) fn made(&self, text: &str) -> bool {
        self.calls.iter().any(|call| call.text.contains(text))
    }

    /// The driver of the disk.
    pub(crate) fn driver(&self) -> Option<&str> {
        self.state.drivers.get(BDF).map(String::as_str)
    }

    /// Counts a call, and has it go as wrong as it is to. `effect` gets the number of steps after
    /// which it is cut off, and tells what it was if it lies.
    fn call<T>(
        &mut self,
        text: String,
        changes: bool,
        lie: Option<T>,
        effect: impl FnOnce(&mut Self, u8) -> Result<T>,
    ) -> Result<T> {
        let number = self.calls.len();
        let killed = self.killed.filter(|(call, _)| *call == number);
        let failure = killed.map(|(_, how)| how);
        let failure = failure.or_else(|| self.failures.get(&number).copied());
        self.calls.push(Made { text, changes });
        let result = match (failure, lie) {
            (None, _) => effect(self, u8::MAX),
            (Some(Failure::Lie), Some(lie)) => Ok(lie),
            (Some(Failure::Before | Failure::Lie), _) => Err(anyhow::anyhow!("injected")),
            (Some(Failure::Half(steps)), _) => {
                effect(self, steps).and_then(|_| bail!("injected half-way"))
            }
            (Some(Failure::After), _) => {
                effect(self, u8::MAX).and_then(|_| bail!("injected after"))
            }
        };
        self.check();
        if killed.is_some() {
            std::panic::resume_unwind(Box::new(Killed));
        }
        result
    }

    /// No disk is in two hands, and none that a guest uses is in dom0's.
    fn check(&self) {
        for (bdf, driver) in &self.state.drivers {
            let has =
                |domain: &&Domain| domain.mapped.contains(bdf) || domain.devices.contains(bdf);
            let domains: Vec<&Domain> = self.state.domains.iter().filter(has).collect();
            let last = self.calls.last();
            assert!(domains.len() < 2, "{bdf} is in {domains:?} after {last:?}");
            if driver == "pciback" {
                continue;
            }
            assert!(
                domains.is_empty(),
                "{bdf} is in dom0 and {domains:?} after {last:?}"
            );
            let mut uses = self.state.store.iter().filter(|(path, backend)| {
                path.starts_with("/libxl/")
                    && path.ends_with("/backend")
                    && !backend.starts_with("/local/domain/0/")
            });
            assert_eq!(
                uses.next(),
                None,
                "a guest uses {bdf}, which is in dom0, after {last:?}"
            );
        }
    }
}
