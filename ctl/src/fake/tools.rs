//! The tools of the fake dom0: xl and xenstore's.

use anyhow::{Result, bail, ensure};

use super::{Domain, Fake, Fate};
use crate::host::Call;
use crate::xlcfg::XlConfig;

impl Fake {
    /// Runs a program.
    pub(super) fn execute(&mut self, call: &Call) -> Result<String> {
        let words: Vec<&str> = call.arguments.iter().map(String::as_str).collect();
        let words = std::iter::once(call.program.as_str()).chain(words);
        let words: Vec<&str> = words.collect();
        match words[..] {
            ["xl", "info"] => {
                return Ok(format!(
                    "nr_cpus : 4\nvirt_caps              : {}\n",
                    self.virt_caps
                ));
            }
            ["xl", "list"] => {
                let mut text =
                    "Name ID Mem VCPUs State Time(s)\nDomain-0 0 2048 1 r----- 1.0\n".to_string();
                for domain in &self.state.domains {
                    text += &format!("{} {} 64 1 -b---- 0.1\n", domain.name, domain.id);
                }
                return Ok(text);
            }
            ["xl", "pci-assignable-add", bdf] => {
                let driver = self.state.drivers.insert(bdf.into(), "pciback".into());
                self.store(
                    &format!("/libxl/pciback/{bdf}"),
                    &driver.unwrap_or_default(),
                );
            }
            ["xl", "pci-assignable-remove", "-r", bdf] => {
                let used = self
                    .state
                    .domains
                    .iter()
                    .any(|d| d.devices.iter().any(|d| d == bdf));
                ensure!(!used, "{bdf} is assigned");
                let driver = self.state.store.remove(&format!("/libxl/pciback/{bdf}"));
                self.state
                    .drivers
                    .insert(bdf.into(), driver.unwrap_or_default());
            }
            ["xl", "create", "-p", path] => self.create(path, call)?,
            ["xl", "pci-attach", name, bdf] => {
                let ready = self
                    .state
                    .drivers
                    .get(bdf)
                    .is_some_and(|driver| driver == "pciback");
                let domain = self.domain(name)?;
                ensure!(domain.iommu, "Operation not supported");
                ensure!(ready && domain.devices.is_empty(), "not assignable");
                domain.devices.push(bdf.into());
                self.state.mastering.insert(bdf.into(), false);
            }
            ["xl", "unpause", name] => self.boot(name)?,
            ["xl", "destroy", who] => self.end(who),
            ["xl", "shutdown", name] => {
                ensure!(!self.shutdown_refused, "PV drivers not present");
                if !self.deaf {
                    self.end(name);
                }
            }
            ["xenstore-read", path] => {
                let value = self.state.store.get(path);
                let Some(value) = value else {
                    bail!("couldn't read path {path}")
                };
                return Ok(format!("{}\n", value.replace('\n', "\\n")));
            }
            ["xenstore-ls", "-f", path] => {
                let nodes = self
                    .state
                    .store
                    .iter()
                    .filter(|(node, _)| node.starts_with(path));
                return Ok(nodes
                    .map(|(node, value)| format!("{node} = \"{}\"\n", value.replace('\n', "\\n")))
                    .collect());
            }
            ["xenstore-list", path] => {
                let prefix = format!("{path}/");
                let names = self
                    .state
                    .store
                    .keys()
                    .filter_map(|node| node.strip_prefix(&prefix));
                let mut names: Vec<&str> =
                    names.filter_map(|rest| rest.split('/').next()).collect();
                names.dedup();
                ensure!(!names.is_empty(), "could not list path {path}");
                return Ok(names.join("\n"));
            }
            ["xenstore-write", path, value] => {
                // As xenstored does; a point is none of these.
                let plain = |c: char| c.is_ascii_alphanumeric() || "-/_@".contains(c);
                ensure!(path.chars().all(plain), "could not write path {path}");
                self.store(path, value);
                if path.ends_with("/control/shutdown") && !self.deaf {
                    let id = path.split('/').nth(3).unwrap_or_default().to_string();
                    self.end(&id);
                }
            }
            ["xenstore-rm", path] => {
                ensure!(
                    self.state.store.remove(path).is_some(),
                    "could not remove path {path}"
                );
            }
            _ => bail!("dom0 does not know `{call}`"),
        }
        Ok(String::new())
    }

    fn create(&mut self, path: &str, call: &Call) -> Result<()> {
        let text = self.state.files.get(path);
        let Some(text) = text else { bail!("no {path}") };
        let config = XlConfig::parse(text)?;
        let name = config.text("name")?.unwrap_or_default().to_string();
        let uuid = config.text("uuid")?.unwrap_or_default().to_string();
        ensure!(self.domain(&name).is_err(), "{name} exists");
        let pvh = config.text("type")? == Some("pvh");
        let devices = config.list("pci")?.to_vec();
        ensure!(
            !pvh || devices.is_empty(),
            "passthrough not yet supported for x86 PVH guests"
        );
        for bdf in &devices {
            ensure!(
                self.state.drivers[bdf] == "pciback",
                "{bdf} is not assignable"
            );
        }
        let shim = call
            .environment
            .iter()
            .any(|(name, _)| name == "LD_PRELOAD");
        let iommu = !devices.is_empty() || shim && self.shim_works;
        let placed = !config.list("iomem")?.is_empty();
        let line = config.text("cmdline")?.unwrap_or_default();
        let placed = placed && line.contains("nvme0=");
        self.add_domain(&name, &uuid);
        let domain = self.domain(&name)?;
        *domain = Domain {
            pvh,
            iommu,
            placed,
            devices,
            ..domain.clone()
        };
        Ok(())
    }

    /// What Spindle does when it runs.
    fn boot(&mut self, name: &str) -> Result<()> {
        let domain = self.domain(name)?.clone();
        let mastering = domain
            .devices
            .iter()
            .any(|device| self.state.mastering[device]);
        let works = if domain.pvh {
            domain.placed && mastering
        } else {
            !domain.devices.is_empty()
        };
        match self.fate {
            Fate::Dies => self.end(name),
            Fate::Hangs => {}
            Fate::Serves | Fate::FindsNoDisk => {
                let home = format!("/local/domain/{}/data/spindle", domain.id);
                let disk = if works && self.fate == Fate::Serves {
                    "nvme0n1 2048 512 w model"
                } else {
                    ""
                };
                self.store(&format!("{home}/disks"), disk);
                self.store(&format!("{home}/version"), "0.1.0 abcdef");
                self.store(&format!("{home}/ready"), "1");
            }
        }
        Ok(())
    }
}
