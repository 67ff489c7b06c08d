//! What `create` will do, found out before anything is done: the configuration for xl, and the
//! steps. The checks are in `check`, the places of registers in `place`.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::domains::{self, Domains};
use crate::host::{Call, Host, quoted};
use crate::pci::{Bdf, PciDevice};
use crate::record::{CONFIGS, Record, TakenDevice};
use crate::xlcfg::XlConfig;
use crate::{check, place, store};

/// How a disk is passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Route {
    /// HVM container: stock xl, with a QEMU in dom0 for the PCI configuration space.
    Hvm,
    /// PVH: no QEMU; needs the preload library that comes with spindlectl.
    Pvh,
}

impl Route {
    /// xl's `type=`.
    const fn kind(self) -> &'static str {
        match self {
            Self::Hvm => "hvm",
            Self::Pvh => "pvh",
        }
    }

    /// The setting that names the image.
    pub(crate) const fn image(self) -> &'static str {
        match self {
            Self::Hvm => "firmware_override",
            Self::Pvh => "kernel",
        }
    }

    /// The configuration to start from when the user gives none.
    const fn template(self) -> &'static str {
        match self {
            Self::Hvm => include_str!("../../xl-configs/spindle-hvm.cfg"),
            Self::Pvh => include_str!("../../xl-configs/spindle-pvh-nvme.cfg"),
        }
    }
}

/// What the user wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// The text of a configuration.
    pub(crate) config: Option<String>,
    /// The route; by default what the configuration's `type` says, or HVM.
    pub(crate) route: Option<Route>,
    /// Replaces `name`.
    pub(crate) name: Option<String>,
    /// Replaces `memory`, in MiB.
    pub(crate) memory: Option<u64>,
    /// Replaces `vcpus`.
    pub(crate) vcpus: Option<u64>,
    /// Replaces `pci`.
    pub(crate) pci: Vec<String>,
    /// Replaces the image.
    pub(crate) image: Option<String>,
    /// Options for Spindle, `key=value`.
    pub(crate) knobs: Vec<String>,
    /// Where the preload library may be, best first.
    pub(crate) shims: Vec<String>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PlanStep {
    /// Note what is going to be done.
    Note,
    /// Take a function from its driver in dom0.
    Take(Bdf),
    /// Write the configuration for a restart.
    Keep(String),
    /// Write the configuration for xl.
    Configure(String),
    /// Create the domain, paused; with the preload library or without.
    Create(Option<String>),
    /// Write the options into xenstore.
    Knobs(String),
    /// Pass a function through.
    Attach(Bdf),
    /// Switch a function's memory and bus mastering on, and its interrupt line off.
    Enable(Bdf),
    /// Let the domain run.
    Unpause,
    /// Wait until it serves.
    Await,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is noted.
    pub(crate) record: Record,
    /// What an administrator should know before.
    pub(crate) notes: Vec<String>,
    /// Whether the domain is given disks, so that it must serve some.
    pub(crate) has_disks: bool,
    /// What to do, in this order.
    pub(crate) steps: Vec<PlanStep>,
}

impl Plan {
    /// Checks everything that can be checked, and plans. Changes nothing. The domain may take the
    /// place of an earlier one; what that one took from dom0 is then given back with it.
    ///
    /// # Errors
    /// With what is missing, and what to do about it.
    pub(crate) fn new(
        host: &mut impl Host,
        wanted: &Wanted,
        earlier: Option<&Record>,
    ) -> Result<Self> {
        ensure!(
            host.user() == 0,
            "this needs root: run it with sudo, in dom0"
        );
        let (route, mut config) = base(wanted)?;
        let name = check::name(&config)?;
        let line = config.text("cmdline")?.unwrap_or_default().to_string();
        // No option, but for whoever looks into Spindle itself.
        let is_knob = |word: &&str| word.split('=').next() != Some("debug_port");
        check::knobs("cmdline", line.split_whitespace().filter(is_knob))?;
        check::knobs("--set", wanted.knobs.iter().map(String::as_str))?;
        if let Some(earlier) = earlier {
            let (own, source) = (&earlier.name, earlier.source());
            ensure!(&name == own, "{source} is about {name}, not {own}; mend it");
        }
        let domains = Domains::look(host)?;
        check::is_free(host, &domains, &name, earlier)?;
        check::image(host, route, &config)?;
        let bdfs: Result<Vec<Bdf>> = config.list("pci")?.iter().map(|b| b.parse()).collect();
        let bdfs = bdfs.context("pci= (options after the address are not supported here)")?;
        check::distinct(&bdfs)?;
        check::unassigned(host, &domains, &bdfs, earlier)?;
        let mut notes = Vec::new();
        if !bdfs.is_empty() {
            check::iommu(host)?;
            notes.extend(check::remapping(host));
        }
        let devices: Result<Vec<PciDevice>> = bdfs
            .iter()
            .map(|&bdf| PciDevice::inspect(host, bdf))
            .collect();
        let devices = devices?;
        let uuid = host.read("/proc/sys/kernel/random/uuid");
        let uuid = uuid.context("no UUID from the kernel")?.trim().to_string();
        ensure!(
            domains::is_uuid(&uuid),
            "the kernel gives \"{uuid}\" for a UUID"
        );
        let words = line.split_whitespace().map(str::to_string);
        let mut knobs: Vec<String> = words.chain(wanted.knobs.iter().cloned()).collect();
        config.set_text("cmdline", &knobs.join(" "))?;
        let source = config.to_string();
        config.set_text("uuid", &uuid)?;
        // There is no command line in an HVM container: QEMU would take it for its own kernel's.
        config.remove("cmdline");
        if !devices.is_empty() {
            place::never_restart(&mut config)?;
        }
        let mut shim = None;
        if route == Route::Pvh {
            if !devices.is_empty() {
                knobs.extend(place::place(host, &mut config, &devices)?);
                shim = Some(check::shim(host, &wanted.shims)?);
                notes.extend(check::shim_fits(host)?);
            }
            config.remove("pci");
            config.set_text("cmdline", &std::mem::take(&mut knobs).join(" "))?;
        }
        // What the earlier one has taken stays taken, whatever has become of its list of disks.
        let mut taken = earlier.map_or(Vec::new(), |earlier| earlier.taken.clone());
        for device in devices.iter().filter(|device| !device.is_assignable()) {
            if taken.iter().any(|taken| taken.bdf == device.bdf) {
                continue;
            }
            notes.extend(
                device
                    .driver
                    .as_ref()
                    .map(|driver| hint(device.bdf, driver)),
            );
            taken.push(TakenDevice {
                bdf: device.bdf,
                driver: device.driver.clone(),
            });
        }
        let mut steps = vec![PlanStep::Note];
        steps.extend(devices.iter().filter_map(|device| {
            let taken = taken.iter().any(|taken| taken.bdf == device.bdf);
            taken.then_some(PlanStep::Take(device.bdf))
        }));
        steps.extend([
            PlanStep::Keep(source),
            PlanStep::Configure(config.to_string()),
        ]);
        steps.push(PlanStep::Create(shim));
        if !knobs.is_empty() {
            steps.push(PlanStep::Knobs(knobs.join(" ")));
        }
        if route == Route::Pvh {
            for device in &devices {
                // In this order: xl resets the function when it attaches it.
                steps.extend([PlanStep::Attach(device.bdf), PlanStep::Enable(device.bdf)]);
            }
        }
        steps.extend([PlanStep::Unpause, PlanStep::Await]);
        let record = Record {
            name,
            uuid,
            ids: Some(earlier.map_or(Vec::new(), |e| e.ids.clone().unwrap_or_default())),
            disks: Some(bdfs),
            taken,
        };
        Ok(Self {
            record,
            notes,
            has_disks: !devices.is_empty(),
            steps,
        })
    }
}

/// What follows from taking a disk from dom0's driver.
fn hint(bdf: Bdf, driver: &str) -> String {
    format!(
        "dom0's driver {driver} has {bdf} until now, and after each boot: udev then reads, as root, \
         what guests have written; xen-pciback.hide=({bdf}) for dom0's kernel keeps them apart"
    )
}

/// The user's configuration or a template, with the user's changes.
fn base(wanted: &Wanted) -> Result<(Route, XlConfig)> {
    let (route, mut config) = match &wanted.config {
        Some(text) => {
            let config = XlConfig::parse(text).context("the configuration")?;
            let kind = config.text("type")?.unwrap_or("pv");
            let route = Route::value_variants().iter().find(|r| r.kind() == kind);
            let Some(&route) = route else {
                bail!("type=\"{kind}\": Spindle runs as \"hvm\" or as \"pvh\"");
            };
            let agrees = wanted.route.is_none_or(|wanted| wanted == route);
            ensure!(
                agrees,
                "--route contradicts type=\"{kind}\" in the configuration; leave one of them out"
            );
            (route, config)
        }
        None => {
            let route = wanted.route.unwrap_or(Route::Hvm);
            let mut config = XlConfig::parse(route.template()).context("the template")?;
            config.remove("pci");
            (route, config)
        }
    };
    if let Some(name) = &wanted.name {
        config.set_text("name", name)?;
    }
    for (key, value) in [("memory", wanted.memory), ("vcpus", wanted.vcpus)] {
        if let Some(value) = value {
            config.set_number(key, value);
        }
    }
    if !wanted.pci.is_empty() {
        config.set_list("pci", &wanted.pci)?;
    }
    if let Some(image) = &wanted.image {
        config.set_text(route.image(), image)?;
    }
    Ok((route, config))
}

impl PlanStep {
    /// The step as a shell would do it.
    pub(crate) fn shell(&self, record: &Record) -> String {
        let (name, config) = (&record.name, &record.config());
        // Only xl knows the number, once it has created the domain.
        let home = format!("{}/$(xl domid {name})", store::DOMAINS);
        match self {
            Self::Note => {
                // Only xl knows the number.
                let note = Record {
                    ids: None,
                    ..record.clone()
                };
                store::write_call(&Record::path(name), &note.to_string()).to_string()
            }
            Self::Take(bdf) => format!("xl pci-assignable-add {bdf}"),
            Self::Keep(text) => format!(
                "mkdir -p -m 700 {CONFIGS} && cat > {} <<'END'\n{text}END",
                record.source()
            ),
            Self::Configure(text) => format!("cat > {config} <<'END'\n{text}END"),
            Self::Create(shim) => self::create(config, shim.as_deref()).to_string(),
            Self::Knobs(knobs) => format!(
                "xenstore-write {home}/{} {}",
                spindle_config::STORE_PATH,
                quoted(knobs)
            ),
            Self::Attach(bdf) => format!("xl pci-attach {name} {bdf}"),
            Self::Enable(bdf) => format!(
                "printf '\\006\\004' | dd of={} bs=1 seek=4 conv=notrunc",
                bdf.sysfs("config")
            ),
            Self::Unpause => format!("xl unpause {name}"),
            Self::Await => {
                let ready = spindle_status::path::READY;
                format!("until xenstore-exists {home}/{ready}; do sleep 1; done")
            }
        }
    }
}

/// The call that creates the domain, paused.
pub(crate) fn create(config: &str, shim: Option<&str>) -> Call {
    let call = Call::xl(["create", "-p", config]);
    match shim {
        Some(shim) => call.with("LD_PRELOAD", shim),
        None => call,
    }
}
