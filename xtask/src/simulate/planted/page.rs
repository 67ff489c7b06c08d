//! `results/planted.md`: after how much processor time the simulator finds each planted bug, and by
//! which judge, as the last run of each found it.

use std::fmt::{self, Write};
use std::fs;

use anyhow::{Context, Result};

use super::hunt::Find;
use super::patch::Bug;
use crate::freshness::{self, Age};
use crate::rig::Mark;
use crate::root;

/// What a row depends on.
const PATHS: [&str; 6] = [
    "kernel/simulate/src",
    "kernel/simulate/planted",
    "kernel/control/src",
    "drivers/testkit/src",
    "drivers/blkif/src",
    "drivers/xen/src",
];

const HEAD: &str = "# Planted bugs\n\n\
    Written by `cargo xtask simulate --planted` from `planted.txt`; do not edit by hand.\n\n\
    Each patch in `kernel/simulate/planted` puts one bug into the product. Domains are simulated from \
    random seeds, everything going wrong as in an ordinary mix, until a judge speaks, or the limit of \
    processor time is over. One binary, optimised and with debug assertions, has all of the bugs, of which \
    the environment turns one on: `cargo xtask simulate --planted --filter NAME` hunts it again, and prints the \
    command that plays the find again.\n\n";

/// The mark of a bug's hunt.
pub(super) fn mark(bug: &Bug, find: Option<&Find>, first: u64, limit: u64) -> Mark {
    let mark = Mark::new("bug")
        .with("bug", &bug.name)
        .with("from", first)
        .with("limit", limit)
        .with("spindle", freshness::version_of(&PATHS));
    match find {
        None => mark,
        Some(find) => mark
            .with("seconds", &find.seconds)
            .with("reason", &find.reason)
            .with("plan", &find.plan),
    }
}

/// Puts these marks in the place of what the record has of the same bugs, drops those of bugs that are
/// no more, and writes the record and the page.
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn update(bugs: &[Bug], marks: Vec<Mark>) -> Result<()> {
    let folder = root().join("xtask/results");
    let path = folder.join("planted.txt");
    let old = fs::read_to_string(&path).unwrap_or_default();
    let mut record: Vec<Mark> = old.lines().filter_map(Mark::parse).collect();
    record.retain(|old| !marks.iter().any(|new| new.get("bug") == old.get("bug")));
    record.extend(marks);
    record.retain(|mark| bugs.iter().any(|bug| bug.name == mark.get("bug")));
    record.sort_by(|one, other| one.get("bug").cmp(other.get("bug")));
    let text: String = record.iter().map(|mark| format!("{mark}\n")).collect();
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    let page = write(bugs, &record, |version| Age::of_paths(version, &PATHS))?;
    let path = folder.join("planted.md");
    fs::write(&path, page).with_context(|| format!("write {}", path.display()))
}

fn write(bugs: &[Bug], record: &[Mark], age: impl Fn(&str) -> Age) -> Result<String, fmt::Error> {
    let mut page = HEAD.to_string();
    let found = record.iter().filter(|mark| !mark.get("seconds").is_empty());
    writeln!(
        page,
        "**{} of {} are found**; {} are not hunted yet.\n",
        found.count(),
        bugs.len(),
        bugs.len() - record.len()
    )?;
    page.push_str("| bug | what | found after, CPU-s | what the judge says | seed | Spindle |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for bug in bugs {
        let mark = record.iter().find(|mark| mark.get("bug") == bug.name);
        let Some(mark) = mark else {
            continue;
        };
        let (seconds, version) = (mark.get("seconds"), mark.get("spindle"));
        let missed = format!("**not** in {}", mark.get("limit"));
        let mut words = mark.get("plan").split(' ');
        words.find(|word| ["--seed", "--from"].contains(word));
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {version}{} |",
            bug.name,
            bug.text,
            if seconds.is_empty() { &missed } else { seconds },
            mark.get("reason"),
            words.next().unwrap_or_default(),
            age_note(age(version)),
        )?;
    }
    Ok(page)
}

fn age_note(age: Age) -> &'static str {
    match age {
        Age::Current | Age::Stale => "",
        other => other.note(),
    }
}
