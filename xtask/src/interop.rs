//! `interop`: which frontends work with which disks on which data paths, as the scenario of that
//! name sees it on both suites, as a table.

mod page;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::freshness::Age;
use crate::history::History;
use crate::rig::{self, Backend, Machine, Mark, Setup, Suite};
use crate::{kernel, root, scenario, ui};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only on this suite; what the table says of the other stays.
    #[arg(long, value_enum)]
    suite: Option<Suite>,
    /// Run only these data paths (several: separated by commas); the rest of the table stays.
    #[arg(long, default_value = "")]
    paths: String,
    /// Run nothing: take what the logs of an earlier run on this suite say.
    #[arg(long, value_name = "FOLDER", requires = "suite")]
    logs: Option<PathBuf>,
    /// Run nothing: make the page of the record again.
    #[arg(long, conflicts_with_all = ["suite", "paths", "logs"])]
    page_only: bool,
    /// The folder of the table and of its record.
    #[arg(long, default_value = "xtask/results", hide = true)]
    output: PathBuf,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = root().join(&args.output);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let file = folder.join("interop.txt");
    let mut record: Vec<Mark> = match fs::read_to_string(&file) {
        Ok(text) => text.lines().filter_map(Mark::parse).collect(),
        Err(_) => Vec::new(),
    };
    let mut failures = Vec::new();
    for suite in [Suite::Bookworm, Suite::Trixie] {
        if args.page_only || args.suite.is_some_and(|only| only != suite) {
            continue;
        }
        let (seen, failure) = match &args.logs {
            Some(logs) => (logged(suite, logs)?, None),
            None => run_on(suite, &args.paths)?,
        };
        replace(&mut record, seen);
        failures.extend(failure);
    }
    let text: String = record.iter().map(|mark| format!("{mark}\n")).collect();
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let page = page::write(&record, Age::of)?;
    println!("{page}");
    let file = folder.join("interop.md");
    fs::write(&file, page).with_context(|| format!("write {}", file.display()))?;
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Puts what was seen in the place of what the record has of the same cells, whatever the results.
fn replace(record: &mut Vec<Mark>, seen: Vec<Mark>) {
    record.retain(|old| !seen.iter().any(|new| place(new) == place(old)));
    record.extend(seen);
}

/// Which part of the table a mark is.
fn place(mark: &Mark) -> [&str; 6] {
    let [suite, frontend, path, queues, disk] =
        ["suite", "frontend", "path", "queues", "disk"].map(|key| mark.get(key));
    [&mark.name, suite, frontend, path, queues, disk]
}

/// Runs the scenario; gives the suite's part of the record, and what went wrong. A machine that
/// fails half-way leaves the cells until then.
fn run_on(suite: Suite, paths: &str) -> Result<(Vec<Mark>, Option<String>)> {
    let scenario = scenario::find("interop")?;
    let _lock = rig::lock()?;
    let image = kernel::build()?.path;
    let images = rig::prepare(suite)?;
    let setup = Setup::new(suite, &images, Some(&image), Backend::Spindle);
    let mut history = History::open()?;
    let mut machine = Machine::boot_or_retry(&setup)?;
    ui::step("interop", &format!("on {}", suite.name()));
    let settings = format!("PATHS={paths} GRUB=yes");
    machine.start_with(&scenario.name, scenario.timeout(), &settings)?;
    let mut marks = Vec::new();
    let outcome = machine.finish(Instant::now() + scenario.timeout(), |_, mark| {
        if mark.name == "cell" {
            ui::step("interop", &mark.to_string());
        }
        marks.push(mark.clone());
    });
    let (logs, ends) = (machine.logs.clone(), machine.ends.clone());
    let retries = machine.retries.take();
    let failure = match outcome {
        Ok(outcome) => {
            machine.power_off()?;
            outcome.failure
        }
        Err(error) => Some(format!("{error:#}")),
    };
    let failure = failure.map(|why| ends.explain(&why).unwrap_or(why));
    let rate = history.add(suite, &scenario.name, failure.is_none(), &retries)?;
    let failure = failure.or_else(|| rate.complaint(suite, &scenario.name, &retries));
    let failure = failure.map(|why| format!("{}: {why}; logs: {}", suite.name(), logs.display()));
    Ok((part(suite, &marks), failure))
}

/// The suite's part of the record, from the logs of a run.
fn logged(suite: Suite, logs: &Path) -> Result<Vec<Mark>> {
    let file = logs.join("channel.log");
    let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter_map(|line| line.strip_prefix("@@ "));
    let marks: Vec<Mark> = lines.filter_map(Mark::parse).collect();
    Ok(part(suite, &marks))
}

/// What of a run's marks goes into the record: each cell with the version that it was seen with.
fn part(suite: Suite, marks: &[Mark]) -> Vec<Mark> {
    let mut version = "";
    let mut cells = Vec::new();
    for mark in marks {
        match mark.name.as_str() {
            "spindle" => version = mark.get("version"),
            "cell" => cells.push(
                mark.clone()
                    .with("suite", suite.name())
                    .with("spindle", version),
            ),
            _ => {}
        }
    }
    let rig = Mark::new("rig")
        .with("suite", suite.name())
        .with("xen", suite.xen());
    [rig].into_iter().chain(cells).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(lines: &[&str]) -> Vec<Mark> {
        let parse = |line: &&str| Mark::parse(line).expect("a mark");
        lines.iter().map(parse).collect()
    }

    #[test]
    fn what_fails_takes_the_place_of_what_worked_and_the_rest_keeps_its_version() {
        let run = |version: &str, cells: &[&str]| {
            let spindle = format!("spindle version=\"0.1.0 {version}\"");
            let mut lines = vec!["note text=x", spindle.as_str()];
            lines.extend(cells);
            part(Suite::Trixie, &marks(&lines))
        };
        let (nvme, ram) = (
            "cell frontend=GRUB path=copy queues=1 disk=NVMe result=",
            "cell frontend=GRUB path=copy queues=1 disk=RAM result=",
        );
        let mut record = Vec::new();
        let first = [format!("{nvme}verified"), format!("{ram}verified")];
        replace(
            &mut record,
            run("aaa", &first.each_ref().map(String::as_str)),
        );
        replace(&mut record, run("bbb", &[&format!("{nvme}differs")]));
        let seen: Vec<_> = record
            .iter()
            .filter(|mark| mark.name == "cell")
            .map(|mark| ["disk", "result", "spindle"].map(|key| mark.get(key)))
            .collect();
        assert_eq!(
            seen,
            [
                ["RAM", "verified", "0.1.0 aaa"],
                ["NVMe", "differs", "0.1.0 bbb"]
            ]
        );
        assert_eq!(record.iter().filter(|mark| mark.name == "rig").count(), 1);
    }
}
