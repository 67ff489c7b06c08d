//! `test`: the host's tests, then every scenario under nested Xen, on one suite or both.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::rig::{self, Backend, Images, Machine, Suite};
use crate::scenario::{self, Scenario, Verdict};
use crate::{kernel, root, ui};

/// Which suites to test on.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Suites {
    /// Debian 12: Xen 4.17, Linux 6.1, QEMU 7.2.
    Bookworm,
    /// Debian 13: Xen 4.20, Linux 6.12, QEMU 10.0.
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
    /// Leave the rig out.
    #[arg(long)]
    host_only: bool,
    /// Leave the host's tests out.
    #[arg(long, hide = true)]
    rig_only: bool,
    /// Who serves the disk; `dom0` is Linux' own backend, to check the rig itself.
    #[arg(long, value_enum, default_value = "spindle", hide = true)]
    backend: Backend,
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        if self.filter.is_empty() {
            // This one has a task of its own, which makes a table of it.
            return name != "interop";
        }
        self.filter.iter().any(|part| name.contains(part))
    }

    /// What `--suite both` means, without the host's tests.
    pub(crate) fn rig_on_both() -> Self {
        Self {
            suite: Suites::Both,
            filter: Vec::new(),
            host_only: false,
            rig_only: true,
            backend: Backend::Spindle,
        }
    }
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.rig_only {
        host()?;
    }
    if args.host_only {
        return Ok(());
    }
    let chosen = choose(args)?;
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
    let mut table = ui::table(["suite", "scenario", "result", "s", ""]);
    let mut failed = 0;
    for &suite in suites {
        let images = rig::prepare(suite)?;
        let part: Vec<&Scenario> = chosen
            .iter()
            .copied()
            .filter(|scenario| {
                scenario.core || !args.filter.is_empty() || suite == suites[suites.len() - 1]
            })
            .collect();
        for (name, verdict) in play(suite, &images, image.as_deref(), args.backend, &part) {
            let result = if verdict.failure.is_none() {
                "PASS"
            } else {
                "FAIL"
            };
            failed += usize::from(verdict.failure.is_some());
            let seconds = format!("{:.0}", verdict.took.as_secs_f64());
            let note = verdict.failure.unwrap_or(verdict.note);
            table.add_row([suite.name(), name, result, &seconds, &shorten(&note)]);
        }
    }
    println!("{table}");
    if failed > 0 {
        bail!(
            "{failed} scenarios failed; their logs are in {}",
            root().join("target/rig/*/logs").display()
        );
    }
    Ok(())
}

/// The scenarios that are asked for; each part of the filter must name some.
fn choose(args: &Args) -> Result<Vec<&'static Scenario>> {
    let all = || {
        scenario::ALL
            .iter()
            .filter(|scenario| scenario.fits(args.backend))
    };
    for part in &args.filter {
        if !all().any(|scenario| scenario.name.contains(part)) {
            let names: Vec<&str> = all().map(|scenario| scenario.name).collect();
            bail!(
                "no scenario is called like \"{part}\"; there are: {}",
                names.join(" ")
            );
        }
    }
    Ok(all().filter(|scenario| args.wants(scenario.name)).collect())
}

/// The host's tests.
pub(crate) fn host() -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    ui::step("test", "on the host");
    cmd!(sh, "cargo test --quiet").quiet().run()?;
    Ok(())
}

/// Plays scenarios on one machine; should it die, the rest get a new one.
///
/// A scenario that fails is played once more, on a fresh machine: the emulated one now and then
/// dies or crawls for reasons of its own. The table tells of it either way.
fn play(
    suite: Suite,
    images: &Images,
    kernel: Option<&Path>,
    backend: Backend,
    chosen: &[&'static Scenario],
) -> Vec<(&'static str, Verdict)> {
    let mut machine = None;
    let mut verdicts = Vec::new();
    let boot = || Machine::boot(suite, images, kernel, backend);
    for scenario in chosen {
        let mut verdict = attempt(scenario, suite, &boot, &mut machine);
        if let Some(first) = verdict.failure.take() {
            ui::step("test", &format!("{}: once more", scenario.name));
            switch_off(machine.take());
            verdict = attempt(scenario, suite, &boot, &mut machine);
            verdict.note = format!("SECOND TRY, first: {first}; {}", verdict.note);
        }
        verdicts.push((scenario.name, verdict));
    }
    switch_off(machine);
    verdicts
}

/// Plays a scenario on the machine there is, or on one that `boot` makes.
fn attempt(
    scenario: &Scenario,
    suite: Suite,
    boot: &impl Fn() -> Result<Machine>,
    machine: &mut Option<Machine>,
) -> Verdict {
    let began = Instant::now();
    let mut logs = suite.dir().join("logs/last");
    let booted = machine.take().map_or_else(boot, Ok);
    let played = booted.and_then(|booted| {
        logs.clone_from(&booted.logs);
        scenario.run(booted)
    });
    let verdict = match played {
        Ok((verdict, left)) => {
            *machine = left;
            verdict
        }
        Err(error) => failed(format!("{error:#}"), began.elapsed()),
    };
    if let Some(why) = &verdict.failure {
        ui::step("test", &format!("{} FAIL: {why}", scenario.name));
        ui::step("test", &format!("logs: {}", logs.display()));
    } else {
        let seconds = verdict.took.as_secs_f64();
        let note = &verdict.note;
        ui::step(
            "test",
            &format!("{} PASS in {seconds:.0} s {note}", scenario.name),
        );
    }
    verdict
}

fn switch_off(machine: Option<Machine>) {
    if let Some(machine) = machine
        && let Err(error) = machine.power_off()
    {
        ui::step("rig", &format!("power-off: {error:#}"));
    }
}

fn failed(why: String, took: Duration) -> Verdict {
    Verdict {
        failure: Some(why),
        note: String::new(),
        took,
    }
}

/// Fits a note into the table.
fn shorten(text: &str) -> String {
    const WIDTH: usize = 100;
    let line = text.replace('\n', " ");
    if line.chars().count() <= WIDTH {
        return line;
    }
    line.chars().take(WIDTH).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(filter: &[&str]) -> Result<Vec<&'static str>> {
        let args = Args {
            filter: filter.iter().map(ToString::to_string).collect(),
            ..Args::rig_on_both()
        };
        Ok(choose(&args)?
            .iter()
            .map(|scenario| scenario.name)
            .collect())
    }

    #[test]
    fn a_part_of_the_filter_that_names_nothing_is_refused() -> Result<()> {
        assert_eq!(filtered(&["virtio", "hotplug"])?, ["hotplug", "virtio-blk"]);
        assert!(!filtered(&[])?.contains(&"interop"));
        let error = filtered(&["hotplug", "resiez"]).expect_err("a misspelt one");
        assert!(error.to_string().contains("\"resiez\""), "{error}");
        Ok(())
    }
}
