//! `interop`: which frontends work with which disks on which data paths, as the scenario of that
//! name sees it on both suites, as a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::history::History;
use crate::rig::{self, Backend, Machine, Mark, Setup, Suite};
use crate::{kernel, root, scenario, ui};

const HEAD: &str = "# Interoperability\n\n\
    Written by `cargo xtask interop` from `interop.txt`; do not edit by hand.\n\n\
    Every cell is a run in the rig. Linux: fio writes with four jobs at once in blocks of 4 to \
    128 KiB and reads back with checksums, on all disks at the same time. GRUB: its `md5sum` reads \
    files that Linux wrote through Spindle. A frontend's data path and number of queues are those \
    that Spindle reports. GRUB knows neither persistent grants nor several queues. A dash is what \
    was not seen.\n\n";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Play only this suite; what the table says of the other stays.
    #[arg(long, value_enum)]
    suite: Option<Suite>,
    /// Play only these data paths (several: separated by commas); the rest of the table stays.
    #[arg(long, default_value = "")]
    paths: String,
    /// Play nothing: take what the logs of an earlier run on this suite say.
    #[arg(long, value_name = "FOLDER", requires = "suite")]
    logs: Option<PathBuf>,
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
        if args.suite.is_some_and(|only| only != suite) {
            continue;
        }
        let (seen, failure) = match &args.logs {
            Some(logs) => (logged(suite, logs)?, None),
            None => play(suite, &args.paths)?,
        };
        record.retain(|old| !seen.iter().any(|new| place(new) == place(old)));
        record.extend(seen);
        failures.extend(failure);
    }
    // What failed is told now; the table says what works.
    record.retain(|mark| mark.name != "cell" || mark.get("result") == "verified");
    let text: String = record.iter().map(|mark| format!("{mark}\n")).collect();
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let page = page(&record)?;
    println!("{page}");
    let file = folder.join("interop.md");
    fs::write(&file, page).with_context(|| format!("write {}", file.display()))?;
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Which part of the table a mark is.
fn place(mark: &Mark) -> [&str; 6] {
    let [suite, frontend, path, queues, disk] =
        ["suite", "frontend", "path", "queues", "disk"].map(|key| mark.get(key));
    [&mark.name, suite, frontend, path, queues, disk]
}

/// Plays the scenario; gives the suite's part of the record, and what went wrong.
fn play(suite: Suite, paths: &str) -> Result<(Vec<Mark>, Option<String>)> {
    let scenario = scenario::find("interop")?;
    let _lock = rig::lock()?;
    let image = kernel::build()?.path;
    let images = rig::prepare(suite)?;
    let setup = Setup::new(suite, &images, Some(&image), Backend::Spindle);
    let mut history = History::open()?;
    let mut machine = Machine::boot_or_retry(&setup)?;
    ui::step("interop", &format!("on {}", suite.name()));
    let settings = format!("PATHS={paths} GRUB=yes");
    machine.start_with(scenario.name, scenario.timeout, &settings)?;
    let outcome = machine.finish(Instant::now() + scenario.timeout, |_, mark| {
        if mark.name == "cell" {
            ui::step("interop", &mark.to_string());
        }
    });
    let logs = machine.logs.clone();
    let outcome = outcome.with_context(|| format!("logs: {}", logs.display()))?;
    let retries = machine.retries.take();
    machine.power_off()?;
    let rate = history.add(suite, scenario.name, outcome.failure.is_none(), &retries)?;
    let too_often = !retries.is_empty() && rate.is_too_high();
    let failure = outcome
        .failure
        .or_else(|| too_often.then(|| rate.complaint(suite, scenario.name)));
    let failure = failure.map(|why| format!("{}: {why}; logs: {}", suite.name(), logs.display()));
    Ok((part(suite, &outcome.marks), failure))
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

/// What of a run's marks goes into the record.
fn part(suite: Suite, marks: &[Mark]) -> Vec<Mark> {
    let spindle = marks.iter().find(|mark| mark.name == "spindle");
    let rig = Mark::new("rig")
        .with("xen", suite.xen())
        .with("spindle", spindle.map_or("", |mark| mark.get("version")));
    let cells = marks.iter().filter(|mark| mark.name == "cell").cloned();
    [rig]
        .into_iter()
        .chain(cells)
        .map(|mark| mark.with("suite", suite.name()))
        .collect()
}

fn page(record: &[Mark]) -> Result<String, fmt::Error> {
    let mut page = HEAD.to_string();
    for rig in record.iter().filter(|mark| mark.name == "rig") {
        let (suite, xen, spindle) = (rig.get("suite"), rig.get("xen"), rig.get("spindle"));
        writeln!(page, "- Debian {suite}, Xen {xen}: Spindle {spindle}")?;
    }
    table(&mut page, record)?;
    Ok(page)
}

/// One row for each frontend, path and number of queues; one column for each disk.
fn table(page: &mut String, record: &[Mark]) -> fmt::Result {
    let mut disks: Vec<&str> = Vec::new();
    let mut rows: BTreeMap<[&str; 4], BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for cell in record.iter().filter(|mark| mark.name == "cell") {
        let disk = cell.get("disk");
        if !disks.contains(&disk) {
            disks.push(disk);
        }
        let row = ["suite", "frontend", "path", "queues"].map(|key| cell.get(key));
        let results = rows.entry(row).or_default().entry(disk).or_default();
        results.insert(cell.get("result"));
    }
    let heads = disks.join(" | ");
    writeln!(page, "\n| suite | frontend | path | queues | {heads} |")?;
    writeln!(page, "|{}", " --- |".repeat(4 + disks.len()))?;
    for (row, results) in rows {
        write!(page, "| {} |", row.join(" | "))?;
        for disk in &disks {
            let results = results.get(disk).into_iter().flatten().copied();
            let text = results.collect::<Vec<_>>().join(", ");
            write!(page, " {} |", if text.is_empty() { "–" } else { &text })?;
        }
        writeln!(page)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_is_played_twice_shows_every_result() {
        let record = [
            "rig suite=trixie xen=4.20 spindle=x",
            "cell suite=trixie frontend=\"Linux 6.12\" path=copy queues=1 disk=RAM result=verified",
            "cell suite=trixie frontend=GRUB path=copy queues=1 disk=NVMe result=verified",
            "cell suite=trixie frontend=GRUB path=copy queues=1 disk=NVMe result=differs",
        ]
        .map(|line| Mark::parse(line).expect("a mark"));
        let mut page = String::new();
        table(&mut page, &record).expect("written");
        let lines: Vec<&str> = page.trim().lines().collect();
        assert_eq!(
            lines,
            [
                "| suite | frontend | path | queues | RAM | NVMe |",
                "| --- | --- | --- | --- | --- | --- |",
                "| trixie | GRUB | copy | 1 | – | differs, verified |",
                "| trixie | Linux 6.12 | copy | 1 | verified | – |",
            ]
        );
    }
}
