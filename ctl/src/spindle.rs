//! A Spindle domain as it shows itself in xenstore: what it serves, to whom, and its counters.
//! A domain writes these nodes itself, so that nothing here relies on them being sound.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use spindle_limits::IoLimits;
use spindle_status::path;
use spindle_status::stats::{CoreSnapshot, DeviceLine};
use spindle_status::targets::{HolderWord, TargetLine, TargetMode};

use crate::domains::Domains;
use crate::fault::FaultKind;
use crate::host::Host;
use crate::life::KernelLife;
use crate::record::Record;
use crate::store::{self, Nodes};
use crate::tables;

/// What is said of a domain that `create` made and that is there no longer.
pub(crate) const ENDED: &str = "has ended";

/// A domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spindle {
    /// Its number.
    pub(crate) id: u32,
    /// Its name.
    pub(crate) name: String,
    /// Whether `create` made it: any driver domain can show what a Spindle shows.
    pub(crate) ours: bool,
    /// Whether what it shows could be read; if not, only its number and name are known.
    pub(crate) readable: bool,
    /// Whether it serves.
    pub(crate) ready: bool,
    /// Why it shows nothing though `create` made it; only its name is known then.
    pub(crate) silent: Option<&'static str>,
    /// What it is: version and commit.
    pub(crate) version: String,
    /// Which life its kernel is in, and how the last one ended.
    pub(crate) life: KernelLife,
    /// Whether its kernel dies when it is asked to.
    pub(crate) drill: bool,
    /// What guests can name in `target=`.
    pub(crate) targets: Vec<Target>,
    /// The disks that guests have been given.
    pub(crate) disks: Vec<PublishedDisk>,
    /// Groups of disks with limits or a weight of their own: names, and what these are.
    pub(crate) groups: Vec<(String, String)>,
    /// Its ring cores, by number.
    pub(crate) cores: Vec<(u32, CoreSnapshot)>,
    /// What its controllers say of their health, by their names.
    pub(crate) health: Vec<(String, String)>,
}

/// Something to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// Its size in sectors of 512 bytes.
    pub(crate) sectors: u64,
    /// Bytes in a block.
    pub(crate) block: u64,
    /// Whether it can be written.
    pub(crate) writable: bool,
    /// Whether its controller is lost: whoever asks for it is refused.
    pub(crate) lost: bool,
    /// The disks that guests have of it.
    pub(crate) holders: Vec<HolderWord>,
    /// The disk that it is, or that it is on or begins on.
    pub(crate) on: String,
    /// What is known about it: a disk's model and serial number, a partition's other names.
    pub(crate) about: String,
}

/// A guest's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedDisk {
    /// The guest's number.
    pub(crate) guest: u32,
    /// The guest's name; empty once it is gone.
    pub(crate) guest_name: String,
    /// Its number among the guest's devices.
    pub(crate) device: u32,
    /// What the guest calls it: `xvda`.
    pub(crate) vdev: String,
    /// What is behind it, as the guest's configuration says.
    pub(crate) target: String,
    /// Whether the guest may write it.
    pub(crate) writable: bool,
    /// XenbusState of our end: 2 waits for the guest, 4 is connected, 6 closed.
    pub(crate) state: u32,
    /// What was counted since it connected.
    pub(crate) counters: Option<DeviceLine>,
    /// Why it was refused, closed or taken from its guest.
    pub(crate) error: Option<String>,
    /// Its limits and weight, in words; empty if it has none.
    pub(crate) limits: String,
}

/// The one of this name.
///
/// # Errors
/// If there is none.
pub(crate) fn named<'a>(all: &'a [Spindle], name: &str) -> Result<&'a Spindle> {
    let found = all.iter().find(|spindle| spindle.name == name);
    found.ok_or_else(|| {
        FaultKind::Absent.error(format!(
            "no Spindle named {name} runs\n`spindlectl list` shows those that do"
        ))
    })
}

impl Spindle {
    /// Reads what a domain shows; `None` if it is no Spindle.
    ///
    /// # Errors
    /// If xenstore does not answer.
    pub(crate) fn read(host: &mut impl Host, id: u32) -> Result<Option<Self>> {
        let home = store::home(id);
        let root = format!("{home}/{}", path::ROOT);
        let own = store::tree(host, &root)?;
        let own = below(&own, &format!("{root}/"));
        let Some(version) = own.get("version").cloned() else {
            return Ok(None);
        };
        // `data` every guest can write, and pose as a Spindle there. This node no guest can make: xl
        // does, for `driver_domain=1`.
        if store::read(host, &format!("{home}/libxl"))?.is_none() {
            return Ok(None);
        }
        let backends = store::tree(host, &format!("{home}/backend/vbd"))?;
        let backends = below(&backends, &format!("{home}/backend/vbd/"));
        let errors = store::tree(host, &format!("{home}/error/backend/vbd"))?;
        let errors = below(&errors, &format!("{home}/error/backend/vbd/"));
        let name = store::read(host, &format!("{home}/name"))?.unwrap_or_default();
        let core = |(path, line): (&String, &String)| {
            let number = path.strip_prefix("core/")?.parse().ok()?;
            Some((number, CoreSnapshot::parse(line)))
        };
        let health = below(&own, "disk/").into_iter().collect();
        // By number: `01` names no other core than `1`.
        let cores: BTreeMap<u32, CoreSnapshot> = own.iter().filter_map(core).collect();
        Ok(Some(Self {
            id,
            name,
            ours: true,
            readable: true,
            ready: own.get("ready").is_some_and(|ready| ready == "1"),
            silent: None,
            version,
            life: KernelLife::read(&own),
            drill: own.get("drill").is_some_and(|drill| drill == "on"),
            targets: targets(&own),
            disks: disks(host, &backends, &errors, &own)?,
            groups: own
                .iter()
                .filter_map(|(path, limits)| {
                    let name = path.strip_prefix("limits/@")?;
                    Some((name.to_string(), limits.clone()))
                })
                .collect(),
            cores: cores.into_iter().collect(),
            health,
        }))
    }

    /// What an administrator should know where this tool and the Spindle that runs are of two
    /// versions: either may know options and nodes in xenstore that the other does not.
    pub(crate) fn mismatch(&self) -> Option<String> {
        const OWN: &str = env!("CARGO_PKG_VERSION");
        let theirs = self.version.split(' ').next().unwrap_or_default();
        let differs = self.readable && self.silent.is_none() && theirs != OWN;
        differs.then(|| {
            let (name, theirs) = (tables::text(&self.name), tables::text(theirs));
            format!(
                "{name} runs Spindle {theirs}, and this is spindlectl {OWN}: it may show too little, or \
                 set what {name} does not know; install both from one version, then `spindlectl \
                 restart {name}`"
            )
        })
    }

    /// All Spindle domains, and those that `create` made and that have ended or show nothing.
    ///
    /// # Errors
    /// If xenstore or xl does not answer.
    pub(crate) fn all_made(host: &mut impl Host) -> Result<Vec<Self>> {
        let mut all = Self::all(host)?;
        let records = Record::all(host)?;
        if records.is_empty() {
            return Ok(all);
        }
        let domains = Domains::look(host)?;
        for record in records {
            let domain = domains.by_uuid(&record.uuid);
            let id = domain.map_or(0, |domain| domain.id);
            if domain.is_some() && all.iter().any(|spindle| spindle.id == id) {
                continue;
            }
            let silent = match domain {
                Some(_) => "shows nothing",
                None => ENDED,
            };
            all.push(Self {
                id,
                name: domain
                    .map_or(record.name.as_str(), |d| record.known_as(d))
                    .to_string(),
                ours: true,
                readable: true,
                silent: Some(silent),
                ..Self::default()
            });
        }
        Ok(all)
    }

    /// All Spindle domains.
    ///
    /// # Errors
    /// If xenstore does not answer.
    pub(crate) fn all(host: &mut impl Host) -> Result<Vec<Self>> {
        let ids = store::domain_ids(host)?;
        let records = Record::all(host)?;
        let mut all = Vec::new();
        for id in ids {
            let home = store::home(id);
            let mut spindle = match Self::read(host, id) {
                Ok(None) => continue,
                Ok(Some(spindle)) => spindle,
                // One that changes its nodes while they are read hides no other, nor itself.
                Err(_) if store::read(host, &format!("{home}/libxl"))?.is_some() => Self {
                    id,
                    name: store::read(host, &format!("{home}/name"))?.unwrap_or_default(),
                    readable: false,
                    ..Self::default()
                },
                Err(_) => continue,
            };
            let vm = store::read(host, &format!("{home}/vm"))?.unwrap_or_default();
            let is_of = |record: &Record| vm == format!("/vm/{}", record.uuid);
            spindle.ours = records.iter().any(is_of);
            all.push(spindle);
        }
        Ok(all)
    }
}

impl Target {
    /// One by a line of [`path::DISKS`].
    fn of_disk(line: &TargetLine<'_>) -> Self {
        Self {
            name: line.name.into(),
            sectors: line.sectors,
            block: line.block,
            writable: line.mode == TargetMode::Write,
            lost: line.mode == TargetMode::Lost,
            holders: Vec::new(),
            on: line.name.into(),
            about: line.rest.into(),
        }
    }

    /// One by a line of [`path::TARGETS`].
    fn of_family(line: &TargetLine<'_>) -> Self {
        let (holders, names) = line.holders();
        Self {
            holders,
            about: names.into(),
            ..Self::of_disk(line)
        }
    }
}

/// All disks, each followed by its partitions; of one name the first.
fn targets(own: &Nodes) -> Vec<Target> {
    let disks = own.get("disks").map_or("", String::as_str);
    let mut all = Vec::new();
    for disk in disks.lines().filter_map(TargetLine::parse) {
        let disk = Target::of_disk(&disk);
        let page = |page: usize| {
            let path = path::targets(&disk.name, page);
            own.get(path.strip_prefix(path::ROOT)?.strip_prefix('/')?)
        };
        let mut family: Vec<Target> = (0..)
            .map_while(page)
            .flat_map(|page| page.lines())
            .filter_map(TargetLine::parse)
            .map(|line| Target {
                on: disk.name.clone(),
                ..Target::of_family(&line)
            })
            .collect();
        match family.first_mut() {
            Some(first) => first.about = disk.about,
            None => family.push(disk),
        }
        all.append(&mut family);
    }
    let mut seen = BTreeSet::new();
    all.retain(|target| seen.insert(target.name.clone()));
    all
}

/// The nodes below `prefix`, by the rest of their paths.
fn below(nodes: &Nodes, prefix: &str) -> Nodes {
    let rest = nodes.iter().filter_map(|(path, value)| {
        let path = path.strip_prefix(prefix)?;
        Some((path.to_string(), value.clone()))
    });
    rest.collect()
}

fn disks(
    host: &mut impl Host,
    backends: &Nodes,
    errors: &Nodes,
    own: &Nodes,
) -> Result<Vec<PublishedDisk>> {
    // By number: `077` names no other device than `77`.
    let mut disks = BTreeMap::new();
    for (path, state) in backends.iter().filter(|(path, _)| path.ends_with("/state")) {
        let mut parts = path.split('/');
        let numbers = (
            parts.next().and_then(|guest| guest.parse().ok()),
            parts.next().and_then(|device| device.parse().ok()),
        );
        let (Some(guest), Some(device)) = numbers else {
            continue;
        };
        let text = |key: &str| {
            let value = backends.get(&path.replace("/state", &format!("/{key}")));
            value.cloned().unwrap_or_default()
        };
        let name = store::read(host, &format!("{}/name", store::home(guest)))?;
        let line = own.get(&format!("stat/{guest}-{device}")).map(|line| {
            let delays = own.get(&format!("delays/{guest}-{device}"));
            let delays = delays.map_or("", String::as_str);
            DeviceLine::parse(&format!("{line} {delays}"))
        });
        disks
            .entry((guest, device))
            .or_insert_with(|| PublishedDisk {
                guest,
                guest_name: name.unwrap_or_default(),
                device,
                vdev: text("dev"),
                target: without_limits(&text("params")),
                writable: text("mode").starts_with('w'),
                state: state.parse().unwrap_or(0),
                counters: line,
                error: errors.get(&format!("{guest}/{device}/error")).cloned(),
                limits: own
                    .get(&format!("limits/{guest}-{device}"))
                    .cloned()
                    .unwrap_or_default(),
            });
    }
    Ok(disks.into_values().collect())
}

/// What a guest's disk line says of a target, without the limits before its name.
fn without_limits(target: &str) -> String {
    let (mut rest, mut kept) = (target, String::new());
    loop {
        if let Some((_, after)) = IoLimits::prefix(rest) {
            rest = after;
        } else if let Some((word, after)) = rest.split_once(':')
            && matches!(word, "shared" | "512e")
        {
            kept.push_str(word);
            kept.push(':');
            rest = after;
        } else {
            return kept + rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create::{Failing, create};
    use crate::fake::{Failure, Fake, Made, wanted};
    use crate::plan::{Plan, Route};

    #[test]
    fn a_target_is_shown_without_the_limits_before_it() {
        for (line, target) in [
            ("nvme0n1", "nvme0n1"),
            (
                "iops=5:shared:weight=2:512e:PARTUUID=1",
                "shared:512e:PARTUUID=1",
            ),
            ("group=a:PARTLABEL=iops=5:x", "PARTLABEL=iops=5:x"),
        ] {
            assert_eq!(without_limits(line), target);
        }
    }

    #[test]
    fn a_spindle_is_read_with_its_targets_disks_and_cores() {
        let mut host = Fake::serving();
        let all = Spindle::all(&mut host).expect("xenstore");
        assert_eq!(all.len(), 1);
        let spindle = &all[0];
        assert_eq!((spindle.id, spindle.name.as_str()), (3, "spindle"));
        assert!(spindle.ready);
        let target = &spindle.targets[0];
        assert_eq!((target.name.as_str(), target.sectors), ("nvme0n1", 2048));
        assert_eq!((target.block, target.writable), (4096, true));
        assert_eq!(target.about, "QEMU NVMe Ctrl, serial spindle0");
        let holder = HolderWord {
            guest: 5,
            device: 51712,
            how: "w".into(),
        };
        assert_eq!(target.holders, [holder]);
        let partition = &spindle.targets[1];
        assert_eq!(
            (partition.name.as_str(), partition.sectors),
            ("nvme0n1p1", 1024)
        );
        assert_eq!(partition.about, "PARTLABEL=root nvme-x-part1");
        assert!(partition.holders.is_empty());
        let disk = &spindle.disks[0];
        assert_eq!((disk.guest, disk.device, disk.state), (5, 51712, 4));
        assert_eq!(
            (disk.guest_name.as_str(), disk.vdev.as_str()),
            ("web", "xvda")
        );
        let counters = disk.counters.as_ref().expect("counters");
        assert_eq!(counters.counters.reads, 100);
        assert_eq!(spindle.cores[0].1.busy_ns, 2_000_000_000);
    }

    #[test]
    fn a_spindle_of_another_version_than_the_tool_is_noticed() {
        let mut host = Fake::serving();
        let mismatch = |host: &mut Fake| {
            let spindle = Spindle::read(host, 3).expect("an answer");
            spindle.expect("a Spindle").mismatch()
        };
        let own = env!("CARGO_PKG_VERSION");
        let path = "/local/domain/3/data/spindle/version";
        for same in [format!("{own} abcdef"), own.to_string()] {
            host.store(path, &same);
            assert_eq!(mismatch(&mut host), None);
        }
        for other in ["0.0.9 abcdef", "", "nonsense", "99.0.0\x1b[2J x"] {
            host.store(path, other);
            let text = mismatch(&mut host).expect("another");
            assert!(text.contains(own) && !text.contains('\x1b'), "{text}");
        }
        let unread = Spindle {
            id: 3,
            ..Spindle::default()
        };
        assert_eq!(unread.mismatch(), None, "not known");
    }

    #[test]
    fn one_that_cannot_be_read_hides_no_other() {
        let mut clean = Fake::serving();
        let text = "4/libxl 4/name 4/vm 4/data/spindle/version";
        for path in text.split(' ') {
            clean.store(&format!("/local/domain/{path}"), "other");
        }
        Spindle::all(&mut clean).expect("xenstore");
        let at_of = |host: &Fake| {
            let looked = |call: &Made| call.text == "xenstore-ls -f /local/domain/4/data/spindle";
            host.calls.iter().position(looked).expect("it was read")
        };
        let mut host = clean.clone();
        host.fail(at_of(&clean), Failure::Before);
        let all = Spindle::all(&mut host).expect("xenstore");
        let seen: Vec<_> = all.iter().map(|s| (s.name.as_str(), s.readable)).collect();
        assert_eq!(seen, [("spindle", true), ("other", false)]);
        // A guest that writes such a node is no Spindle (libxl makes the other one, out of its reach).
        let mut host = clean.clone();
        host.state.store.remove("/local/domain/4/libxl");
        host.fail(at_of(&clean), Failure::Before);
        let all = Spindle::all(&mut host).expect("xenstore");
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn one_that_has_ended_or_shows_nothing_is_not_forgotten() {
        let mut host = Fake::with_nvme("nvme");
        assert!(Spindle::all_made(&mut host).expect("none").is_empty());
        let plan = Plan::new(&mut host, &wanted(Route::Hvm), None).expect("a plan");
        let patience = std::time::Duration::from_secs(30);
        create(&mut host, &plan, patience, Failing::Undo, &mut |_| {}).expect("created");
        let seen = |host: &mut Fake| {
            let all = Spindle::all_made(host).expect("xenstore");
            let names = all.iter().map(|s| (s.name.clone(), s.silent, s.ready));
            names.collect::<Vec<_>>()
        };
        let named = |silent, ready| vec![("spindle".to_string(), silent, ready)];
        assert_eq!(seen(&mut host), named(None, true));
        host.state
            .store
            .remove("/local/domain/3/data/spindle/version");
        assert_eq!(seen(&mut host), named(Some("shows nothing"), false));
        host.state.domains.clear();
        host.state
            .store
            .retain(|path, _| !path.starts_with("/local/domain/3/"));
        assert_eq!(seen(&mut host), named(Some("has ended"), false));
    }

    #[test]
    fn a_list_of_several_pages_is_read_in_their_order() {
        let mut host = Fake::serving();
        let root = "/local/domain/3/data/spindle";
        host.store(&format!("{root}/disks"), "ram1 8 512 r");
        for page in 0..12 {
            let line = format!("vg0/v{page} 8 512 w -");
            match page {
                0 => host.store(
                    &format!("{root}/targets/ram1"),
                    &format!("ram1 8 512 r -\n{line}"),
                ),
                page => host.store(&format!("{root}/targets/ram1-{page}"), &line),
            }
        }
        let spindle = Spindle::read(&mut host, 3).expect("an answer");
        let spindle = spindle.expect("a Spindle");
        let names = spindle.targets.iter().map(|target| target.name.clone());
        let volumes = (0..12).map(|page| format!("vg0/v{page}"));
        assert!(names.eq(["ram1".to_string()].into_iter().chain(volumes)));
    }

    #[test]
    fn odd_nodes_are_passed_over() {
        let mut host = Fake::serving();
        host.store(
            "/local/domain/3/data/spindle/disks",
            "x\nram0 y 512 w\nram1 8 512 r\n\n",
        );
        let line = "ram1 8 512 r x:w,5/6,7/8:,9/y:r\n... 3 volumes more";
        host.store("/local/domain/3/data/spindle/targets/ram1", line);
        host.store("/local/domain/3/data/spindle/core/x", "busy_ns=1");
        host.store("/local/domain/3/backend/vbd/evil/1/state", "4");
        host.store("/local/domain/3/backend/vbd/5/51728/state", "nonsense");
        let spindle = Spindle::read(&mut host, 3).expect("an answer");
        let spindle = spindle.expect("a Spindle");
        assert_eq!(spindle.targets.len(), 1);
        assert!(!spindle.targets[0].writable);
        let devices: Vec<u32> = spindle.targets[0]
            .holders
            .iter()
            .map(|h| h.device)
            .collect();
        assert_eq!(devices, [8]);
        assert_eq!(spindle.cores.len(), 1);
        assert_eq!((spindle.disks.len(), spindle.disks[1].state), (2, 0));
        host.store("/local/domain/5/data/spindle/version", "posing");
        assert_eq!(Spindle::read(&mut host, 5).expect("an answer"), None);
    }
}
