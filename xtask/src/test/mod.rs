//! `test`: the host's tests, then every scenario under nested Xen, on one suite or both.

mod play;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use self::play::Rig;
use self::report::Report;
use crate::history::History;
use crate::rig::{self, Backend, Setup, Suite, Variant};
use crate::scenario::{self, Scenario};
use crate::{freshness, fuzz, kernel, root, tools, ui};

/// So many scenarios of the last suite run also if there is no time left.
const AT_LEAST: usize = 4;

/// After the last scenario has begun, for third and fourth tries of those whose guests the emulator
/// ends.
const MORE_TRIES: Duration = Duration::from_secs(5 * 60);

/// Which suites to test on.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Suites {
    /// Debian 12: Xen 4.17, Linux 6.1, and in dom0 QEMU 7.2.
    Bookworm,
    /// Debian 13: Xen 4.20, Linux 6.12, and in dom0 QEMU 10.0.
    Trixie,
    /// Trixie in full, after the core of the scenarios on bookworm.
    Both,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which Debian the rig is made of.
    #[arg(long, value_enum, default_value = "both")]
    suite: Suites,
    /// Run only the scenarios whose name contains this (several: separated by commas).
    #[arg(long, value_delimiter = ',')]
    filter: Vec<String>,
    /// Run each scenario so many times, without second tries, and count how often it failed and
    /// why (leaves the host's tests out).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// A setting for the scenarios, such as DEATHS=20 of `many-deaths`; may be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Leave the rig out.
    #[arg(long, conflicts_with = "repeat")]
    host_only: bool,
    /// Leave the host's tests out.
    #[arg(long, hide = true)]
    rig_only: bool,
    /// Who serves the disk; `dom0` is Linux' own backend, to check the rig itself.
    #[arg(long, value_enum, default_value = "spindle", hide = true)]
    backend: Backend,
    /// Until when scenarios begin on the last suite, in an order that changes with the commit.
    #[arg(skip)]
    until: Option<Instant>,
}

impl Args {
    fn wants(&self, scenario: &Scenario) -> bool {
        if self.filter.is_empty() {
            return !scenario.is_asked_for();
        }
        self.filter.iter().any(|part| scenario.name.contains(part))
    }

    /// What `--suite both` means, without the host's tests: the core on bookworm, and on trixie as
    /// many scenarios as begin before `until`, others at each commit.
    pub(crate) fn ci(until: Instant) -> Self {
        Self {
            suite: Suites::Both,
            filter: Vec::new(),
            repeat: None,
            settings: Vec::new(),
            host_only: false,
            rig_only: true,
            backend: Backend::Spindle,
            until: Some(until),
        }
    }
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.rig_only && args.repeat.is_none() {
        host()?;
    }
    if args.host_only {
        return Ok(());
    }
    let mut chosen = choose(args)?;
    if args.until.is_some() {
        chosen = in_turn(chosen, fuzz::commit(&Shell::new()?)?);
    }
    let _lock = rig::lock()?;
    let image = match args.backend {
        Backend::Spindle | Backend::Bench => Some(kernel::build()?.path),
        Backend::Dom0 => None,
    };
    let suites: &[Suite] = match args.suite {
        Suites::Bookworm => &[Suite::Bookworm],
        Suites::Trixie => &[Suite::Trixie],
        Suites::Both => &[Suite::Bookworm, Suite::Trixie],
    };
    let mut history = History::open()?;
    let mut report = Report::new(args.repeat.is_some());
    for &suite in suites {
        let images = rig::prepare(suite)?;
        let setup = Setup::new(suite, &images, image.as_deref(), args.backend);
        let mut rig = Rig::new(setup, args.settings.join(" "));
        let is_last = suite == suites[suites.len() - 1];
        let part = chosen
            .iter()
            .copied()
            .filter(|scenario| scenario.is_core() || !args.filter.is_empty() || is_last);
        let (part, other): (Vec<_>, Vec<_>) =
            part.partition(|scenario| scenario.variant().boots(suite));
        if !other.is_empty() {
            let (name, other) = (suite.name(), names(&other));
            ui::step("test", &format!("not for {name}'s Xen: {other}"));
        }
        for (number, &scenario) in part.iter().enumerate() {
            let is_late = args.until.is_some_and(|until| Instant::now() > until);
            if is_last && is_late && number >= AT_LEAST {
                let left_out = names(&part[number..]);
                ui::step("test", &format!("no time this time for: {left_out}"));
                break;
            }
            if let Some(times) = args.repeat {
                let (tally, ends) = rig.repeat(scenario, times);
                report.repeated(suite, &scenario.name, &tally, &ends);
                continue;
            }
            let run = rig.run(scenario, args.until.map(|until| until + MORE_TRIES));
            let passed = run.verdict.failure.is_none();
            // The history is Spindle's, not that of Linux' backend.
            let rate = match args.backend {
                Backend::Dom0 => None,
                _ => Some(history.add(suite, &scenario.name, passed, &run.retries)?),
            };
            report.ran(suite, &scenario.name, run, rate);
        }
        rig.switch_off();
    }
    println!("{report}");
    if let Err(error) = report.judge() {
        let logs = root().join("target/rig/*/logs");
        bail!("{error}\nlogs: {}", logs.display());
    }
    Ok(())
}

/// The scenarios that are asked for; each part of the filter must name some.
fn choose(args: &Args) -> Result<Vec<&'static Scenario>> {
    let all = scenario::all()?;
    let all = || all.iter().filter(|scenario| scenario.fits(args.backend));
    for part in &args.filter {
        if !all().any(|scenario| scenario.name.contains(part)) {
            let names = names(&all().collect::<Vec<_>>());
            bail!("no scenario is called like \"{part}\"; there are: {names}");
        }
    }
    Ok(all().filter(|scenario| args.wants(scenario)).collect())
}

/// The scenarios on the usual machine from the one that `number` draws on, and around; those on other
/// machines, which are booted for them, come last.
fn in_turn(chosen: Vec<&'static Scenario>, number: u64) -> Vec<&'static Scenario> {
    let (mut usual, other): (Vec<_>, Vec<_>) = chosen
        .into_iter()
        .partition(|scenario| scenario.variant() == Variant::Usual);
    if !usual.is_empty() {
        let first = number % usual.len() as u64;
        usual.rotate_left(first as usize);
    }
    usual.extend(other);
    usual
}

fn names(scenarios: &[&Scenario]) -> String {
    let names: Vec<&str> = scenarios
        .iter()
        .map(|scenario| scenario.name.as_str())
        .collect();
    names.join(" ")
}

/// The host's tests, and a warning of results that an older data path gave.
pub(crate) fn host() -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    tools::xen_headers(&sh)?;
    ui::step("test", "on the host");
    let _seed = fuzz::seed_property_tests(&sh);
    cmd!(sh, "cargo test --quiet").quiet().run()?;
    freshness::warn()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn filtered(filter: &[&str]) -> Result<Vec<&'static str>> {
        let args = Args {
            filter: filter.iter().map(ToString::to_string).collect(),
            ..Args::ci(Instant::now())
        };
        Ok(choose(&args)?
            .iter()
            .map(|scenario| scenario.name.as_str())
            .collect())
    }

    #[test]
    fn each_scenario_is_the_first_at_some_commit_and_none_is_lost() -> Result<()> {
        let names = |of: &[&'static Scenario]| -> Vec<_> {
            of.iter().map(|scenario| scenario.name.as_str()).collect()
        };
        let all = choose(&Args::ci(Instant::now()))?;
        let usual = |scenario: &&Scenario| scenario.variant() == Variant::Usual;
        let count = all
            .iter()
            .copied()
            .filter(|scenario| usual(scenario))
            .count();
        let mut firsts = BTreeSet::new();
        for commit in 0..count {
            let turned = in_turn(all.clone(), commit as u64);
            assert!(turned[..count].iter().all(usual));
            firsts.insert(turned[0].name.as_str());
            let sorted = |of| BTreeSet::from_iter(names(of));
            assert_eq!(sorted(&turned), sorted(&all));
            assert_eq!(turned.len(), all.len());
        }
        assert_eq!(firsts.len(), count);
        assert!(in_turn(Vec::new(), 3).is_empty());
        Ok(())
    }

    #[test]
    fn a_part_of_the_filter_that_names_nothing_is_refused() -> Result<()> {
        assert_eq!(
            filtered(&["virtio-blk", "hotplug"])?,
            ["hotplug", "virtio-blk"]
        );
        assert!(!filtered(&[])?.contains(&"interop"));
        let error = filtered(&["hotplug", "resiez"]).expect_err("a misspelt one");
        assert!(error.to_string().contains("\"resiez\""), "{error}");
        Ok(())
    }
}
