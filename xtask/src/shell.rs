//! The rig's scripts as `shellcheck` sees them: each together with what it is sourced by, so that a
//! name which is nowhere set, or set for nothing, shows. `xtask/rig/.shellcheckrc` says what is meant.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::rig::{packages, scripts};
use crate::{root, ui};

const RIG: &str = "xtask/rig";

/// Runs the task.
pub(crate) fn run() -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    check(&sh)
}

/// Checks all scripts; the tool is installed if it is missing.
///
/// # Errors
/// It finds something, or is not to be had.
pub(crate) fn check(sh: &Shell) -> Result<()> {
    ui::step("ci", "lints of the rig's scripts");
    packages::install(sh, &[("shellcheck", "shellcheck")])?;
    let programs = programs()?;
    let next = AtomicUsize::new(0);
    let folder = root().join(RIG);
    // One after the other they take most of a minute.
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let found: Vec<String> = thread::scope(|scope| {
        let work = || {
            let mut found = Vec::new();
            while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
                found.push(findings(&folder, program)?);
            }
            anyhow::Ok(found.concat())
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let done = threads.into_iter().map(|thread| match thread.join() {
            Ok(found) => found,
            Err(_) => bail!("a check panicked"),
        });
        done.collect::<Result<_>>()
    })?;
    // What they share is found with each of them.
    let mut found: Vec<&str> = found.iter().flat_map(|text| text.lines()).collect();
    found.sort_unstable();
    found.dedup();
    if !found.is_empty() {
        bail!("shellcheck in {RIG}:\n{}", found.join("\n"));
    }
    Ok(())
}

/// All programs, as scripts that source their parts, whose paths count from the rig's folder.
fn programs() -> Result<Vec<String>> {
    let jobs = scripts(&format!("{RIG}/jobs"))?;
    let scenarios = scripts(&format!("{RIG}/scenarios"))?;
    let in_dom0 = |script: String| program(&["dom0-failure.sh", "dom0-lib.sh", &script]);
    let in_guest = |script: String| program(&["guest-init.sh", &script]);
    let scenarios = scenarios.keys().map(|name| format!("scenarios/{name}.sh"));
    // This one ends others.
    let jobs = jobs.keys().filter(|name| *name != "orders");
    let jobs = jobs.map(|name| format!("jobs/{name}.sh"));
    Ok(scenarios
        .chain(["bench/dom0.sh".to_string()])
        .map(in_dom0)
        .chain(jobs.chain(["bench/guest.sh".to_string()]).map(in_guest))
        .chain(["dom0-init.sh", "bench/linux-init.sh"].map(|script| program(&[script])))
        .collect())
}

fn program(parts: &[&str]) -> String {
    parts.iter().map(|part| format!(". ./{part}\n")).collect()
}

/// What `shellcheck` says of a program, one line for each finding.
fn findings(folder: &Path, program: &str) -> Result<String> {
    let sh = Shell::new()?;
    sh.change_dir(folder);
    let output = cmd!(sh, "shellcheck --format=gcc -x -a -")
        .stdin(program)
        .quiet()
        .ignore_status()
        .output()
        .context("run shellcheck")?;
    // 1: it has findings; others: it could not work.
    if !matches!(output.status.code(), Some(0 | 1)) {
        bail!("shellcheck: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_of_the_rig_is_part_of_a_program() -> Result<()> {
        let programs = programs()?.concat();
        for folder in ["", "/jobs", "/scenarios", "/bench"] {
            for name in scripts(&format!("{RIG}{folder}"))?.keys() {
                let path = format!("{folder}/{name}.sh");
                // It is sourced by other jobs.
                let is_there = programs.contains(&format!(". .{path}\n"));
                assert!(is_there || name == "orders", "{path} is not checked");
            }
        }
        Ok(())
    }
}
