//! A dom0 for tests: xl, xenstore's tools and sysfs as far as `spindlectl` uses them. It keeps what
//! really matters in [`State`], which tests compare, and fails where it is told to.

mod tools;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::host::{Call, Host};
use crate::pci::Bdf;
use crate::plan::{Route, Wanted};
use crate::store::Nodes;

/// Where its NVMe disk is.
pub(crate) const BDF: &str = "0000:01:00.0";

/// What everybody can see of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Files by path; the folders are those that they imply.
    pub(crate) files: BTreeMap<String, String>,
    /// The driver of each function.
    pub(crate) drivers: BTreeMap<String, String>,
    /// Whether functions master the bus.
    mastering: BTreeMap<String, bool>,
    /// Xenstore.
    store: Nodes,
    /// All domains but dom0.
    pub(crate) domains: Vec<Domain>,
}

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    name: String,
    /// Its number.
    pub(crate) id: u32,
    pvh: bool,
    iommu: bool,
    placed: bool,
    devices: Vec<String>,
}

/// A call that was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// As a shell would have it.
    pub(crate) text: String,
    /// Whether it may change anything.
    pub(crate) changes: bool,
}

/// Whether a call that fails has had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Before,
    After,
}

impl Failure {
    /// Every one of `calls`, failing in both ways.
    pub(crate) fn all(calls: usize) -> impl Iterator<Item = (usize, Self)> {
        (0..calls).flat_map(|call| [(call, Self::Before), (call, Self::After)])
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

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    pub(crate) state: State,
    pub(crate) calls: Vec<Made>,
    /// Which calls fail.
    pub(crate) failures: BTreeMap<usize, Failure>,
    pub(crate) is_root: bool,
    pub(crate) virt_caps: String,
    pub(crate) shim_works: bool,
    pub(crate) fate: Fate,
    /// xl does not believe that the domain can shut down.
    pub(crate) shutdown_refused: bool,
    /// Block devices that somebody has to himself.
    pub(crate) taken: Vec<String>,
    /// Domains do not listen to requests to shut down.
    pub(crate) deaf: bool,
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
    /// A dom0 with an NVMe disk that this driver has.
    pub(crate) fn with_nvme(driver: &str) -> Self {
        let mut host = Self {
            state: State::default(),
            calls: Vec::new(),
            failures: BTreeMap::new(),
            is_root: true,
            virt_caps: "pv hvm hvm_directio hap".into(),
            shim_works: true,
            fate: Fate::Serves,
            shutdown_refused: false,
            deaf: false,
            taken: Vec::new(),
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
        host.put(
            "/proc/sys/kernel/random/uuid",
            "0a1b2c3d-0000-4000-8000-000000000001\n",
        );
        host.state.drivers.insert(BDF.into(), driver.into());
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
            ("3/data/spindle/ready", "1"),
            ("3/data/spindle/version", "0.1.0 abcdef"),
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
                 err=0 peak=9 notify=50 mapped=40 evicted=0 lost=0 copied=0 batch=1:3 \
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

    /// Has call number `call`, counted from here on, fail.
    pub(crate) fn fail(&mut self, call: usize, when: Failure) {
        if self.failures.is_empty() {
            self.calls.clear();
        }
        self.failures.insert(call, when);
    }

    /// Adds a domain, and gives its number.
    pub(crate) fn add_domain(&mut self, name: &str, uuid: &str) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.store(&format!("/local/domain/{id}/name"), name);
        // The configurations all have driver_domain=1.
        self.store(&format!("/local/domain/{id}/libxl"), "");
        self.store(&format!("/local/domain/{id}/vm"), &format!("/vm/{uuid}"));
        self.state.domains.push(Domain {
            name: name.into(),
            id,
            pvh: false,
            iommu: false,
            placed: false,
            devices: Vec::new(),
        });
        id
    }

    /// Ends a domain, by its name or number.
    pub(crate) fn end(&mut self, who: &str) {
        let is = |domain: &Domain| domain.name == who || domain.id.to_string() == who;
        for domain in self.state.domains.iter().filter(|domain| is(domain)) {
            let home = format!("/local/domain/{}/", domain.id);
            self.state.store.retain(|path, _| !path.starts_with(&home));
            for device in &domain.devices {
                self.state.mastering.insert(device.clone(), false);
            }
        }
        self.state.domains.retain(|domain| !is(domain));
    }

    fn domain(&mut self, name: &str) -> Result<&mut Domain> {
        let found = self
            .state
            .domains
            .iter_mut()
            .find(|domain| domain.name == name);
        found.ok_or_else(|| anyhow::anyhow!("no domain {name}"))
    }

    /// Counts a call, and does it unless it is to fail before.
    fn call<T>(
        &mut self,
        text: String,
        changes: bool,
        effect: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let failure = self.failures.get(&self.calls.len()).copied();
        self.calls.push(Made { text, changes });
        ensure!(failure != Some(Failure::Before), "injected");
        let result = effect(self)?;
        ensure!(failure.is_none(), "injected");
        Ok(result)
    }
}

impl Host for Fake {
    fn run(&mut self, call: &Call) -> Result<String> {
        let text = call.to_string();
        let reads = [
            "xl info",
            "xl list",
            "xenstore-read",
            "xenstore-ls",
            "xenstore-list",
        ];
        let changes = !reads.iter().any(|read| text.starts_with(read));
        self.call(text, changes, |fake| fake.execute(call))
    }

    fn read(&mut self, path: &str) -> io::Result<String> {
        let text = self.state.files.get(path).cloned();
        text.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn exists(&mut self, path: &str) -> bool {
        self.state.files.contains_key(path)
    }

    fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let names = self
            .state
            .files
            .keys()
            .filter_map(|file| file.strip_prefix(&prefix));
        let mut names: Vec<String> = names
            .filter_map(|rest| Some(rest.split('/').next()?.to_string()))
            .collect();
        names.dedup();
        if names.is_empty() {
            Err(io::ErrorKind::NotFound.into())
        } else {
            Ok(names)
        }
    }

    fn link(&mut self, path: &str) -> Option<String> {
        let bdf = path
            .strip_prefix("/sys/bus/pci/devices/")?
            .strip_suffix("/driver")?;
        self.state.drivers.get(bdf).cloned()
    }

    fn write(&mut self, path: &str, text: &str) -> io::Result<()> {
        let written = self.call(format!("write {path}"), true, |fake| {
            fake.put(path, text);
            Ok(())
        });
        written.map_err(io::Error::other)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        let removed = self.call(format!("remove {path}"), true, |fake| {
            fake.state.files.remove(path);
            Ok(())
        });
        removed.map_err(io::Error::other)
    }

    fn patch(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let patched = self.call(format!("patch {path}"), true, |fake| {
            let bdf = path.split('/').nth(5).unwrap_or_default();
            ensure!(path.ends_with("/config") && offset == 4, "no such register");
            fake.state.mastering.insert(bdf.into(), bytes[0] & 4 != 0);
            Ok(())
        });
        patched.map_err(io::Error::other)
    }

    fn is_taken(&mut self, path: &str) -> bool {
        self.taken.iter().any(|taken| taken == path)
    }

    fn user(&mut self) -> u32 {
        u32::from(!self.is_root)
    }

    fn now(&mut self) -> Duration {
        self.now
    }

    fn sleep(&mut self, time: Duration) {
        self.now += time;
    }
}
