//! The tools of the fake dom0: xl and xenstore's, step by step as Xen's own do things.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use spindle_status::inspect::{self, InspectOrder};

use super::{BDF, Domain, Fake, Fate};
use crate::host::Call;
use crate::xlcfg::XlConfig;

/// How the C library says ENOENT.
const ABSENT: &str = "No such file or directory";

impl Fake {
    /// Has the Spindle answer the order at `path` in a second, if it still has something to say; it is
    /// emptied when it is taken.
    fn answer_update(&mut self, path: String) {
        let order = self.state.store.get(&path).cloned().unwrap_or_default();
        let number = order.split(' ').next().unwrap_or_default().to_string();
        if !number.is_empty() {
            self.update_number = number;
        }
        if self.deaf {
            return;
        }
        self.store(&path, "");
        if !self.update_answers.is_empty() {
            let answer = self.update_answers.remove(0);
            if !answer.is_empty() {
                let answer = format!("{} {answer}", self.update_number);
                self.store_later(Duration::from_secs(1), &format!("{path}d"), &answer);
            }
        }
    }

    /// Has the Spindle set limits in a second, of a disk that it knows or of a group.
    fn answer_limit(&mut self, own: &str, order: &str) {
        let mut words = order.splitn(3, ' ').map(str::to_string);
        let mut word = || words.next().unwrap_or_default();
        let (number, whose, limits) = (word(), word(), word());
        let second = Duration::from_secs(1);
        let answer = if whose == "5/51712" || whose.starts_with('@') {
            let node = format!("{own}/limits/{}", whose.replace('/', "-"));
            self.store_later(second, &node, &limits);
            format!("{number} done")
        } else {
            format!("{number} refused: {whose} has no disk here")
        };
        self.store_later(second, &format!("{own}/limited"), &answer);
    }

    /// Has the Spindle hand over a part of a page, if its controller has that.
    fn answer_inspection(&mut self, own: &str, order: &str) {
        let order = InspectOrder::parse(order).expect("an order");
        let (page, _) = order.wanted.page.words();
        let is_there = order.disk == "nvme0";
        let answer = match self.pages.iter().find(|(name, _)| is_there && name == page) {
            Some((_, bytes)) => {
                let rest = &bytes[usize::from(order.wanted.from)..];
                let piece = &rest[..rest.len().min(inspect::PIECE)];
                format!("{} done, {}", order.word, inspect::hexadecimal(piece))
            }
            None => format!("{} refused: status type 0 code 0x02", order.word),
        };
        self.store_later(
            Duration::from_millis(5),
            &format!("{own}/inspected"),
            &answer,
        );
    }

    /// Has the Spindle open a disk at once, and its guest connect it in a second.
    fn attach_disk(&mut self, guest: &str, line: &str) {
        let word = |name: &str| {
            let mut words = line.split(',').filter_map(|word| word.strip_prefix(name));
            words.next().unwrap_or_default().to_string()
        };
        let vdev = word("vdev=");
        let number = vdev
            .bytes()
            .last()
            .map_or(0, |letter| u32::from(letter - b'a'));
        let own = format!(
            "/local/domain/3/backend/vbd/{guest}/{}",
            51712 + 16 * number
        );
        for (key, value) in [
            ("dev", vdev),
            ("params", word("target=")),
            ("state", "2".into()),
        ] {
            self.store(&format!("{own}/{key}"), &value);
        }
        if !self.deaf {
            self.store_later(Duration::from_secs(1), &format!("{own}/state"), "4");
        }
    }

    /// Runs a program, no more than this many steps of it.
    pub(super) fn execute(&mut self, call: &Call, steps: u8) -> Result<String> {
        let words = call.arguments.iter().map(String::as_str);
        let words: Vec<&str> = std::iter::once(call.program.as_str())
            .chain(words)
            .collect();
        match words[..] {
            ["xl", "info"] => {
                let (caps, version) = (&self.virt_caps, &self.version);
                let scheduler = &self.scheduler;
                return Ok(format!(
                    "nr_cpus : 4\nvirt_caps              : {caps}\nxen_scheduler : {scheduler}\n\
                     {version}"
                ));
            }
            ["xl", "vcpu-list"] => return Ok(self.vcpus.clone()),
            ["xenstore-control", "quota"] => {
                ensure!(!self.quota.is_empty(), "xenstore-control: no such command");
                return Ok(self.quota.clone());
            }
            ["xl", "dmesg"] => return Ok(self.dmesg.clone()),
            ["xl", "list", "-v"] => return Ok(self.listing()),
            ["xl", "list", "-l"] => return Ok(self.configurations()),
            ["xl", "pci-assignable-add", bdf] => self.add(bdf, steps),
            ["xl", "pci-assignable-remove", "-r", bdf] => self.remove(bdf, steps)?,
            ["xl", "create", "-p", path] => self.create(path, call, steps)?,
            ["xl", "pci-attach", who, bdf] => {
                let kept = self.driver() == Some("pciback");
                let domain = self.domain(who)?;
                ensure!(domain.iommu, "Operation not supported");
                ensure!(kept && domain.devices.is_empty(), "not assignable");
                let id = domain.id;
                self.store(&format!("/local/domain/0/backend/pci/{id}/0/dev-0"), bdf);
                if steps > 1 {
                    self.domain(who)?.devices.push(bdf.into());
                    self.state.mastering.insert(bdf.into(), false);
                }
            }
            ["xl", "unpause", who] => self.boot(who)?,
            ["xl", "destroy", who] => {
                self.domain(who)?;
                self.unstore(who);
                if steps > 1 {
                    self.end(who);
                }
            }
            ["xl", "shutdown", who] => {
                ensure!(!self.shutdown_refused, "PV drivers not present");
                if !self.deaf {
                    self.end(who);
                }
            }
            ["sh", "-c", _, "bind", bdf, file] => {
                let driver = file.split('/').nth(5).unwrap_or_default();
                ensure!(!self.state.drivers.contains_key(bdf), "it has a driver");
                self.state.drivers.insert(bdf.into(), driver.into());
            }
            ["xenstore-read", path] => {
                let value = self.state.store.get(path);
                let Some(value) = value else {
                    bail!("xenstore-read: couldn't read path {path}")
                };
                return Ok(format!("{}\n", escape(value)));
            }
            ["xenstore-ls", "-f", path] => return self.ls(path),
            ["xenstore-list", path] => {
                let prefix = format!("{path}/");
                let nodes = self.state.store.keys();
                let names = nodes.filter_map(|node| node.strip_prefix(&prefix));
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
                if path.ends_with("/data/spindle/rescan") && !self.deaf {
                    let path = format!("{path}ned");
                    let known = self.state.store.get(&path);
                    let known = known.and_then(|text| text.lines().next()?.parse::<u32>().ok());
                    let count = known.unwrap_or(0) + 1;
                    let answer = format!("{count}\nnvme0 works\nnvme1 is lost: gone");
                    let call = Call::change("xenstore-write", [&*path, &*answer]);
                    self.pending.push((self.now + Duration::from_secs(2), call));
                }
                if let Some(own) = path.strip_suffix("/limit")
                    && !(value.is_empty() || self.deaf)
                {
                    self.answer_limit(own, value);
                }
                if let Some(own) = path.strip_suffix("/volume")
                    && !(value.is_empty() || self.deaf)
                {
                    let (word, order) = value.split_once(' ').unwrap_or_default();
                    let known = order.contains(" vg0/");
                    let no = "refused: there is no volume group vg1";
                    let answer = format!("{word} {}", if known { "done" } else { no });
                    let second = Duration::from_secs(1);
                    self.store_later(second, &format!("{own}/volume-done"), &answer);
                }
                if let Some(own) = path.strip_suffix("/inspect")
                    && !self.deaf
                {
                    self.answer_inspection(own, value);
                }
                if let Some(own) = path.strip_suffix("/setting")
                    && !self.deaf
                {
                    let word = value.split(' ').next().unwrap_or_default();
                    let answer = format!("{word} done");
                    self.store_later(Duration::from_secs(1), &format!("{own}/set"), &answer);
                }
                if path.ends_with("/data/spindle/update") {
                    self.answer_update(path.to_string());
                }
                if let Some(own) = path.strip_suffix("/crash")
                    && !(value.is_empty() || self.deaf)
                {
                    self.die(own, value);
                }
                if path.ends_with("/control/shutdown") && !self.deaf {
                    let id = path.split('/').nth(3).unwrap_or_default().to_string();
                    self.end(&id);
                }
            }
            ["xl", "block-attach", guest, line] => self.attach_disk(guest, line),
            ["xl", "block-detach", .., guest, device] => {
                ensure!(!self.deaf, "libxl: timed out");
                let own = format!("/local/domain/3/backend/vbd/{guest}/{device}");
                self.store_later(Duration::from_secs(1), &format!("{own}/state"), "6");
            }
            ["modprobe", _] => {}
            ["xl", "trigger", id, "nmi"] => {
                self.answer_update(format!("/local/domain/{id}/data/spindle/update"));
            }
            ["xenstore-rm", path] => {
                let removed = self.state.store.remove(path);
                ensure!(removed.is_some(), "could not remove path {path}");
            }
            _ => bail!("dom0 does not know `{call}`"),
        }
        Ok(String::new())
    }

    fn listing(&self) -> String {
        let mut text = "Name ID Mem VCPUs\tState\tTime(s)   UUID Reason-Code\tSecurity Label\n\
                        Domain-0 0 2048 1 r----- 1.0 00000000-0000-0000-0000-000000000000 - -\n"
            .to_string();
        for Domain { name, id, uuid, .. } in &self.state.domains {
            // Tests may write a short one.
            let uuid = match uuid.len() {
                36 => uuid.clone(),
                _ => format!("{:08x}-0000-4000-8000-000000000000", uuid.len()),
            };
            text += &format!("{name} {id} 64 1 -b---- 0.1 {uuid} - -\n");
        }
        text
    }

    /// What libxl has kept of each domain, as far as it matters here.
    fn configurations(&self) -> String {
        let (start, number) = self.mapped_frames;
        let entry = |domain: &Domain| {
            let iomem = match domain.pvh && !domain.mapped.is_empty() {
                true => {
                    format!(",\"iomem\":[{{\"start\":{start},\"number\":{number},\"gfn\":917504}}]")
                }
                false => String::new(),
            };
            format!(
                "{{\"domid\":{},\"config\":{{\"c_info\":{{\"name\":\"{}\"}},\"b_info\":{{\"max_vcpus\":1{iomem}}}}}}}",
                domain.id, domain.name
            )
        };
        let domains = self.state.domains.iter().filter(|domain| domain.configured);
        let entries: Vec<String> = domains.map(entry).collect();
        format!("[{}]\n", entries.join(","))
    }

    fn ls(&self, path: &str) -> Result<String> {
        let below = format!("{path}/");
        let nodes = self.state.store.iter();
        let nodes: Vec<_> = nodes.filter(|(node, _)| node.starts_with(&below)).collect();
        let there = !nodes.is_empty() || self.state.store.contains_key(path);
        ensure!(there, "xenstore-ls: xs_directory ({path}): {ABSENT}");
        let line = |(node, value): &(&String, &String)| format!("{node} = \"{}\"\n", escape(value));
        Ok(nodes.iter().map(line).collect())
    }

    /// libxl unbinds, notes the driver, binds, and quarantines.
    fn add(&mut self, bdf: &str, steps: u8) {
        if self.driver() != Some("pciback") {
            let note = format!("/libxl/pciback/{bdf}");
            let driver = self.state.drivers.remove(bdf);
            if steps < 2 {
                return;
            }
            if let Some(driver) = driver {
                self.store(&note, &driver);
            }
            if steps < 3 {
                return;
            }
            self.state.drivers.insert(bdf.into(), "pciback".into());
        }
        if steps > 3 {
            self.state.quarantined.insert(bdf.into());
        }
    }

    /// libxl takes out of quarantine, unbinds, binds the driver that it has noted, and forgets that.
    fn remove(&mut self, bdf: &str, steps: u8) -> Result<()> {
        let has = |domain: &Domain| domain.devices.iter().any(|device| device == bdf);
        let used = self.state.domains.iter().any(has);
        ensure!(!used, "{bdf} is assigned");
        let quarantined = self.state.quarantined.remove(bdf);
        ensure!(quarantined, "failed to de-quarantine {bdf}");
        if steps < 2 {
            return Ok(());
        }
        self.state.drivers.remove(bdf);
        if steps < 3 {
            return Ok(());
        }
        let note = format!("/libxl/pciback/{bdf}");
        if let Some(driver) = self.state.store.get(&note).cloned() {
            self.state.drivers.insert(bdf.into(), driver);
            self.state.store.remove(&note);
        }
        Ok(())
    }

    /// libxl makes the domain, names it, and gives it its memory, registers included.
    fn create(&mut self, path: &str, call: &Call, steps: u8) -> Result<()> {
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
            let driver = self.state.drivers.get(bdf).map(String::as_str);
            ensure!(driver == Some("pciback"), "{bdf} is not assignable");
        }
        let preload = |(name, _): &(String, String)| name == "LD_PRELOAD";
        let shim = call.environment.iter().any(preload) && self.shim_works;
        let placed = !config.list("iomem")?.is_empty();
        let line = config.text("cmdline")?.unwrap_or_default();
        let works = placed && line.contains("nvme0=");
        let id = self.next_id;
        self.next_id += 1;
        self.state.domains.push(Domain {
            name: "(null)".into(),
            id,
            uuid,
            pvh,
            iommu: !devices.is_empty() || shim,
            placed: works,
            devices: Vec::new(),
            mapped: Vec::new(),
            configured: false,
        });
        if steps < 2 {
            return Ok(());
        }
        self.name(id, &name);
        if steps < 3 {
            return Ok(());
        }
        let mapped = if placed {
            vec![BDF.into()]
        } else {
            devices.clone()
        };
        for (number, bdf) in devices.iter().enumerate() {
            self.store(
                &format!("/local/domain/0/backend/pci/{id}/0/dev-{number}"),
                bdf,
            );
        }
        let domain = self.domain(&name)?;
        domain.mapped = mapped;
        domain.devices = devices;
        domain.configured = true;
        Ok(())
    }

    /// What Spindle does when it runs.
    fn boot(&mut self, who: &str) -> Result<()> {
        let domain = self.domain(who)?.clone();
        let on = |device: &String| self.state.mastering[device];
        let works = match domain.pvh {
            true => domain.placed && domain.devices.iter().any(on),
            false => !domain.devices.is_empty(),
        };
        match self.fate {
            Fate::Dies => self.end(who),
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

/// As xenstore's tools print a value.
fn escape(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        text += &match byte {
            b'\t' => r"\t".into(),
            b'\n' => r"\n".into(),
            b'\r' => r"\r".into(),
            b'\\' => r"\\".into(),
            b' '..=b'~' => char::from(byte).to_string(),
            0..=7 => format!("\\{byte:03o}"),
            _ => format!("\\x{byte:02x}"),
        };
    }
    text
}
