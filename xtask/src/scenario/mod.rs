//! What is done in the rig: named scenarios, each with a script for dom0, which says itself what there
//! is to know about it (`facts`), and, where the host has a part in it, a function here.

mod facts;
mod file_tree;
mod flush_durable;
mod virtio;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::facts::Facts;
use crate::rig::{self, Backend, Machine, Mark, Outcome, Variant};
use crate::ui::Progress;

pub(crate) use file_tree::Report as FileTree;
pub(crate) use file_tree::run as file_tree;

/// The host's part in a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Host {
    /// dom0 alone decides.
    Idle,
    /// The host looks at the disk afterwards.
    FileTree,
    /// The host looks at the virtio disk afterwards.
    Virtio,
    /// The host cuts the power; the machine is gone afterwards.
    FlushDurable,
}

/// A named test.
pub(crate) struct Scenario {
    /// Its name on the command line and in the table: that of its file.
    pub(crate) name: String,
    facts: Facts,
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

/// Where the scripts are.
const FOLDER: &str = "xtask/rig/scenarios";

/// All scenarios, in the order in which they share a machine.
///
/// # Errors
/// A script cannot be read, or does not say what it must.
pub(crate) fn all() -> Result<&'static [Scenario]> {
    static ALL: OnceLock<Vec<Scenario>> = OnceLock::new();
    if let Some(all) = ALL.get() {
        return Ok(all);
    }
    let mut all = Vec::new();
    for (name, script) in rig::scripts(FOLDER)? {
        let facts = Facts::of(&script).with_context(|| format!("{FOLDER}/{name}.sh"))?;
        all.push(Scenario { name, facts });
    }
    // Those with the same place stay in the order of their names.
    all.sort_by_key(|scenario| scenario.facts.place());
    Ok(ALL.get_or_init(|| all))
}

/// The scripts of all scenarios, by name.
///
/// # Errors
/// One cannot be read.
pub(crate) fn scripts() -> Result<BTreeMap<String, String>> {
    rig::scripts(FOLDER)
}

/// The scenario of this name.
pub(crate) fn find(name: &str) -> Result<&'static Scenario> {
    match all()?.iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(scenario),
        None => bail!("there is no scenario {name}"),
    }
}

impl Scenario {
    /// Whether it means anything with this backend.
    pub(crate) fn fits(&self, backend: Backend) -> bool {
        self.facts.any_backend || backend == Backend::Spindle
    }

    /// How long it may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.facts.timeout
    }

    /// Whether it is played on the older suite, too, where all of them would take too long.
    pub(crate) fn is_core(&self) -> bool {
        self.facts.core
    }

    /// The machine that it is played on.
    pub(crate) fn variant(&self) -> Variant {
        self.facts.variant
    }

    /// Whether it is left out where it is not named.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.facts.asked
    }

    /// Whether the machine is fit for nothing else afterwards.
    pub(crate) fn is_last(&self) -> bool {
        self.facts.last
    }

    /// Runs it on a booted machine, which comes back if it can be used further.
    ///
    /// # Errors
    /// The machine died or does not answer.
    pub(crate) fn run(&self, mut machine: Machine) -> Result<(Verdict, Option<Machine>)> {
        let began = Instant::now();
        let progress = Progress::start("test", &self.name);
        let (failure, note, machine) = match self.facts.host {
            Host::Idle => {
                let outcome = machine.run(&self.name, self.timeout())?;
                (outcome.failure.clone(), notes(&outcome), Some(machine))
            }
            Host::Virtio => {
                let outcome = machine.run(&self.name, self.timeout())?;
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
                let failure = flush_durable::run(machine, self.timeout())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_scripts_say_what_they_are_and_those_for_a_machine_stand_together() -> Result<()> {
        let all = all()?;
        let machines: Vec<Variant> = all.iter().map(Scenario::variant).collect();
        let mut blocks = machines.clone();
        blocks.dedup();
        assert_eq!(blocks.len(), 3);
        let at = |name: &str| all.iter().position(|scenario| scenario.name == name);
        let usual = machines.iter().filter(|&&of| of == Variant::Usual).count();
        assert_eq!(at("flush-durable"), Some(usual - 1));
        assert!(at("disk-pulled") > at("virtual-function"));
        assert!(find("hotplug")?.is_core() && find("nosuch").is_err());
        Ok(())
    }
}
