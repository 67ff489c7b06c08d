//! What is done in the rig: named scenarios, each with a script for dom0 and, where the
//! host has a part in it, a function here.

mod file_tree;
mod flush_durable;
mod virtio;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::rig::{Backend, Machine, Mark, Outcome, Variant};
use crate::ui::Progress;

pub(crate) use file_tree::Report as FileTree;
pub(crate) use file_tree::run as file_tree;

/// How a scenario is run.
#[derive(Clone, Copy)]
enum Host {
    /// dom0 alone decides.
    Idle,
    /// The same, and the machine is fit for nothing else afterwards.
    Last,
    /// The host looks at the disk afterwards.
    FileTree,
    /// The host looks at the virtio disk afterwards.
    Virtio,
    /// The host cuts the power; the machine is gone afterwards.
    FlushDurable,
}

/// A named test.
pub(crate) struct Scenario {
    /// Its name on the command line and in the table.
    pub(crate) name: &'static str,
    script: &'static str,
    /// How long it may take.
    pub(crate) timeout: Duration,
    host: Host,
    any_backend: bool,
    /// Played on the older suite, too, where all of them would take too long.
    pub(crate) core: bool,
    /// The machine that it is played on.
    pub(crate) variant: Variant,
}

/// What came of a scenario.
pub(crate) struct Verdict {
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
    /// What it measured or saw, for the table.
    pub(crate) note: String,
    /// How long it took.
    pub(crate) took: Duration,
}

macro_rules! scenarios {
    (@) => { Variant::Usual };
    (@ $variant:ident) => { Variant::$variant };
    ($($name:literal $seconds:literal $host:ident $any_backend:literal $core:literal
       $($variant:ident)?;)*) => {
        /// All scenarios, in the order in which they share a machine: the quick ones first,
        /// the ones that end it last. Those for one variant stand together.
        pub(crate) static ALL: &[Scenario] = &[$(Scenario {
            name: $name,
            script: include_str!(concat!("../../rig/scenarios/", $name, ".sh")),
            timeout: Duration::from_secs($seconds),
            host: Host::$host,
            any_backend: $any_backend,
            core: $core,
            variant: scenarios!(@ $($variant)?),
        }),*];
    };
}

// name, seconds it may take, the host's part, whether Linux' backend can run it, too, whether it
// is one of the core, and the machine that it is for if that is not the usual one
scenarios! {
    "no-disk" 120 Idle false false;
    "hotplug" 240 Idle true true;
    "idle-no-cpu" 180 Idle false false;
    "wrong-target" 180 Idle false false;
    "second-attach" 180 Idle true false;
    "after-many-programs" 360 Idle true false;
    "rubbish-ring" 240 Idle false false;
    "never-connects" 240 Idle true false;
    "fio-verify" 420 Idle true false;
    "destroy-mid-io" 360 Idle true true;
    "guest-reboot" 300 Idle true false;
    "save-restore" 360 Idle true false;
    "targets" 360 Idle false false;
    "refusals" 360 Idle false false;
    "pvh-ram" 180 Idle false true;
    "shutdown-with-guests" 360 Idle false false;
    "smallest" 360 Idle false false;
    "nvme-timeout" 420 Idle false true;
    "nvme-events" 240 Idle false false;
    "discard" 300 Idle false false;
    "multi-queue" 480 Idle false true;
    "restart" 480 Idle false false;
    "life-cycle" 480 Idle false false;
    "detach-in-use" 600 Idle false false;
    "frontends" 600 Idle false false;
    "pvh-passthrough" 600 Idle false true;
    "virtio-blk" 360 Virtio false true;
    "disk-info" 240 Idle false false;
    "sectors-512e" 300 Idle false false;
    "resize" 300 Idle false false;
    "spindle-paused" 360 Idle false false;
    "interop" 1500 Idle false false;
    "file-tree" 480 FileTree true true;
    "flush-durable" 300 FlushDurable false false;
    "controller-limits" 420 Idle false false OddControllers;
    "one-bad-request" 360 Idle false false OddControllers;
    "large-bar" 240 Idle false false OddControllers;
    "zoned-namespace" 240 Idle false false OddControllers;
    "shared-namespace" 240 Idle false false OddControllers;
    "virtual-function" 420 Idle false false OddControllers;
    "disk-pulled" 360 Last false false OddControllers;
    "intel-iommu" 480 FileTree false false IntelIommu;
}

/// The scripts of all scenarios, by name.
pub(crate) fn scripts() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALL.iter().map(|scenario| (scenario.name, scenario.script))
}

/// The scenario of this name.
pub(crate) fn find(name: &str) -> Result<&'static Scenario> {
    match ALL.iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(scenario),
        None => bail!("there is no scenario {name}"),
    }
}

impl Scenario {
    /// Whether it means anything with this backend.
    pub(crate) fn fits(&self, backend: Backend) -> bool {
        self.any_backend || backend == Backend::Spindle
    }

    /// Whether the machine is fit for nothing else afterwards.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self.host, Host::Last)
    }

    /// Runs it on a booted machine, which comes back if it can be used further.
    ///
    /// # Errors
    /// The machine died or does not answer.
    pub(crate) fn run(&self, mut machine: Machine) -> Result<(Verdict, Option<Machine>)> {
        let began = Instant::now();
        let progress = Progress::start("test", self.name);
        let (failure, note, machine) = match self.host {
            Host::Idle | Host::Last => {
                let outcome = machine.run(self.name, self.timeout)?;
                (outcome.failure.clone(), notes(&outcome), Some(machine))
            }
            Host::Virtio => {
                let outcome = machine.run(self.name, self.timeout)?;
                let failure = match &outcome.failure {
                    None => virtio::look(&machine, &outcome)?,
                    failure => failure.clone(),
                };
                (failure, notes(&outcome), Some(machine))
            }
            Host::FileTree => {
                let report = file_tree(&mut machine, self)?;
                (report.failure.clone(), report.summary(), Some(machine))
            }
            Host::FlushDurable => {
                let failure = flush_durable::run(machine, self.timeout)?;
                (failure, String::new(), None)
            }
        };
        drop(progress);
        Ok((
            Verdict {
                failure,
                note,
                took: began.elapsed(),
            },
            machine,
        ))
    }
}

/// What a scenario measured, in short.
fn notes(outcome: &Outcome) -> String {
    let describe = |mark: &Mark| match mark.name.as_str() {
        "spindle" => Some(format!("ready after {} s", mark.get("unpause"))),
        "refused" => Some(format!("\"{}\"", mark.get("reason"))),
        "destroyed" => Some(format!("destroyed in {} s", mark.get("seconds"))),
        "hotplug" => Some(format!("on and off in {} s", mark.get("seconds"))),
        "idle" => Some(format!("{} s of CPU in 60 s", mark.get("cpu"))),
        "spindle-down" => Some(format!("down in {} s", mark.get("seconds"))),
        "note" => Some(mark.get("text").to_string()),
        _ => None,
    };
    outcome
        .marks
        .iter()
        .filter_map(describe)
        .collect::<Vec<_>>()
        .join("; ")
}
