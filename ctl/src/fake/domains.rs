//! The domains of the fake dom0, and what an administrator does to them.

use std::time::Duration;

use anyhow::Result;

use super::Fake;

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    /// Its name; `(null)` without one.
    pub(crate) name: String,
    /// Its number.
    pub(crate) id: u32,
    pub(super) uuid: String,
    pub(super) pvh: bool,
    pub(super) iommu: bool,
    pub(super) placed: bool,
    pub(super) devices: Vec<String>,
    /// Functions whose registers are in its memory.
    pub(crate) mapped: Vec<String>,
    /// Whether libxl has its configuration.
    pub(crate) configured: bool,
}

impl Domain {
    /// `xl pci-detach`: the registers stay.
    pub(crate) fn detach(&mut self) {
        self.devices.clear();
    }
}

impl Fake {
    /// Adds a domain, and gives its number.
    pub(crate) fn add_domain(&mut self, name: &str, uuid: &str) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.state.domains.push(Domain {
            name: name.into(),
            id,
            uuid: uuid.into(),
            pvh: false,
            iommu: false,
            placed: false,
            devices: Vec::new(),
            mapped: Vec::new(),
            configured: true,
        });
        self.name(id, name);
        id
    }

    /// Adds a PVH domain that an administrator has made by hand, with the disk's registers in its
    /// memory, and gives its number.
    pub(crate) fn add_mapped(&mut self, name: &str, uuid: &str) -> u32 {
        let id = self.add_domain(name, uuid);
        let domain = self.domain(name).expect("a domain");
        domain.pvh = true;
        domain.mapped = vec![super::BDF.into()];
        id
    }

    /// Gives a domain a name, and the nodes that come with it.
    pub(super) fn name(&mut self, id: u32, name: &str) {
        let Some(domain) = self.state.domains.iter_mut().find(|d| d.id == id) else {
            return;
        };
        domain.name = name.into();
        let uuid = domain.uuid.clone();
        self.store(&format!("/local/domain/{id}/name"), name);
        // The configurations all have driver_domain=1.
        self.store(&format!("/local/domain/{id}/libxl"), "");
        self.store(&format!("/local/domain/{id}/vm"), &format!("/vm/{uuid}"));
    }

    /// `xl rename`.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let domain = self.domain(from).expect("a domain");
        domain.name = to.into();
        let path = format!("/local/domain/{}/name", domain.id);
        self.store(&path, to);
    }

    /// Adds a guest with a disk from the domain with this number, and gives its own.
    pub(crate) fn add_guest(&mut self, name: &str, from: u32) -> u32 {
        let guest = self.add_domain(name, "00000000-0000-4000-8000-0000000000ff");
        let backend = format!("/local/domain/{from}/backend/vbd/{guest}/51712");
        self.store(&format!("{backend}/state"), "4");
        self.store(&format!("{backend}/dev"), "xvda");
        let own = format!("/libxl/{guest}/device/vbd/51712");
        self.store(&format!("{own}/backend"), &backend);
        self.store(&format!("{own}/dev"), "xvda");
        guest
    }

    /// Ends a domain, by its name or number.
    pub(crate) fn end(&mut self, who: &str) {
        let Ok(id) = self.domain(who).map(|domain| domain.id) else {
            return;
        };
        self.unstore(who);
        self.state.domains.retain(|domain| domain.id != id);
    }

    /// A Spindle's kernel dies as it is ordered to, `WORD CORE`, and serves again; `own` is where it shows
    /// itself. The life's number comes last.
    pub(super) fn die(&mut self, own: &str, order: &str) {
        let (how, core) = order.split_once(' ').expect("a word and a core");
        let life = self.state.store.get(&format!("{own}/life"));
        let life: u32 = life.and_then(|life| life.parse().ok()).expect("a life");
        let soon = Duration::from_millis(340);
        self.store(&format!("{own}/crash"), "");
        for (leaf, text) in [
            ("start", format!("at=2000 down_us=310000 deaths={life}")),
            ("death", format!("{how} core={core} a drill")),
            ("life", (life + 1).to_string()),
        ] {
            self.store_later(soon, &format!("{own}/{leaf}"), &text);
        }
    }

    /// Takes a domain's devices and nodes away, and with them its name.
    pub(super) fn unstore(&mut self, who: &str) {
        let is = |domain: &Domain| domain.name == who || domain.id.to_string() == who;
        for domain in self.state.domains.iter_mut().filter(|domain| is(domain)) {
            let id = domain.id;
            for folder in [
                format!("/local/domain/{id}/"),
                format!("/local/domain/0/backend/pci/{id}/"),
                format!("/libxl/{id}/"),
            ] {
                self.state
                    .store
                    .retain(|path, _| !path.starts_with(&folder));
            }
            for device in std::mem::take(&mut domain.devices) {
                self.state.mastering.insert(device, false);
            }
            domain.name = "(null)".into();
            domain.configured = false;
        }
    }

    pub(super) fn domain(&mut self, who: &str) -> Result<&mut Domain> {
        let is = |domain: &&mut Domain| domain.name == who || domain.id.to_string() == who;
        let found = self.state.domains.iter_mut().find(is);
        found.ok_or_else(|| anyhow::anyhow!("no domain {who}"))
    }
}
