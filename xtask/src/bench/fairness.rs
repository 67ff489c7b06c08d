//! How a guest fares beside hostile neighbours on its core: what `spindle-testkit` plays in virtual
//! time, as a page.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::freshness::{self, Age};
use crate::rig::Mark;
use crate::{root, ui};

const HEAD: &str = "# Fairness\n\n\
    Written by `cargo xtask bench --fairness` from `fairness.txt`; do not edit by hand.\n\n\
    How a guest fares beside hostile neighbours on one ring core. The core, its rings, grant cache \
    and NVMe queue are Spindle's own; disk and time are simulated, so that every run gives the same \
    figures. ";

const COLUMNS: &str = "A neighbour is a guest of its own that keeps each of its rings (16 pages) \
    full. The guest has one ring with persistent grants. Measured over 100 ms of virtual time, after \
    20 ms that do not count; one poll iteration takes 1 us.\n\n\
    - *mean*, *worst*: latency of a 4 KiB read, the guest having one under way at a time;\n\
    - *to alone*: the worst, divided by the worst without neighbours;\n\
    - *share*: with 32 reads of 4 KiB under way, what the guest gets, divided by an equal share of \
    the disk among all guests. More than 1 means that the others could not use theirs.\n\n";

const KINDS: [(&str, &str); 9] = [
    ("none", "–"),
    ("Pages", "reads of 4 KiB"),
    ("Large", "reads of 1 MiB"),
    (
        "Pieces",
        "reads of 127.5 KiB in pieces of 512 bytes, a disk command each",
    ),
    ("Discards", "discards of 1 MiB"),
    ("Flushes", "flushes"),
    (
        "FreshGrants",
        "reads of 44 KiB by grants that were never used before",
    ),
    ("CopiedLarge", "writes of 1 MiB that are copied"),
    ("Mixed", "the first five kinds by turns"),
];

/// Plays them, and writes record and page into `folder`.
pub(super) fn run(folder: &Path) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    let version = Mark::new("circumstances").with("spindle", freshness::version());
    ui::step("bench", "neighbours in virtual time");
    let output = cmd!(
        sh,
        "cargo run --quiet --release -p spindle-testkit --example fairness"
    )
    .quiet()
    .read()
    .context("neighbours could not be played")?;
    let lines = output.lines().filter_map(Mark::parse);
    let mut record: Vec<Mark> = lines.filter(|mark| mark.name == "fairness").collect();
    ensure!(!record.is_empty(), "the example says nothing");
    record.insert(0, version);
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let text: String = record.iter().map(|mark| format!("{mark}\n")).collect();
    write_file(folder, "fairness.txt", &text)?;
    let page = page(&record, Age::of)?;
    println!("{page}");
    write_file(folder, "fairness.md", &page)
}

fn write_file(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn page(record: &[Mark], age: impl Fn(&str) -> Age) -> Result<String, fmt::Error> {
    let mut page = HEAD.to_string();
    let rows: Vec<&Mark> = record
        .iter()
        .filter(|mark| mark.name == "fairness")
        .collect();
    let alone = rows.iter().find(|mark| mark.get("neighbours") == "0");
    if let Some(alone) = alone {
        write!(
            page,
            "The disk works on {} pages at once, {} us each. ",
            alone.get("channels"),
            alone.get("page_us")
        )?;
    }
    page.push_str(COLUMNS);
    for mark in record.iter().filter(|mark| mark.name == "circumstances") {
        let version = mark.get("spindle");
        writeln!(page, "- Spindle {version}{}", age(version).note())?;
    }
    page.push_str(
        "\n| neighbours | rings of each | what they do | mean, us | worst, us | to alone | share |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let worst_alone = alone.and_then(|mark| mark.number("worst_us"));
    for row in rows {
        let kind = row.get("kind");
        let what = KINDS.iter().find(|(name, _)| *name == kind);
        let to_alone = row
            .number("worst_us")
            .zip(worst_alone)
            .map_or_else(String::new, |(worst, alone)| {
                format!("{:.2}", worst / alone)
            });
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {to_alone} | {} |",
            row.get("neighbours"),
            row.get("rings"),
            what.map_or(kind, |(_, what)| *what),
            row.get("mean_us"),
            row.get("worst_us"),
            row.get("share"),
        )?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_and_how_much() {
        let record: Vec<Mark> = [
            "circumstances spindle=abc",
            "fairness kind=none neighbours=0 rings=0 channels=32 page_us=80 mean_us=80 worst_us=80 share=1.00",
            "fairness kind=Flushes neighbours=4 rings=1 channels=32 page_us=80 mean_us=90 worst_us=120 share=2.50",
        ]
        .into_iter()
        .filter_map(Mark::parse)
        .collect();
        let page = page(&record, |_| Age::Stale).expect("written");
        assert!(page.contains("32 pages at once, 80 us each"), "{page}");
        assert!(page.contains("- Spindle abc (**stale**"), "{page}");
        assert!(
            page.ends_with("| 4 | 1 | flushes | 90 | 120 | 1.50 | 2.50 |\n"),
            "{page}"
        );
    }

    /// What the repository has is what the command writes; but the age, which changes by itself.
    #[test]
    fn the_page_is_made_of_the_record() {
        let folder = root().join("xtask/results");
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a result");
        let text = read("fairness.txt");
        let record: Vec<Mark> = text.lines().filter_map(Mark::parse).collect();
        let page = page(&record, |_| Age::Current).expect("written");
        let kept = read("fairness.md");
        assert_eq!(freshness::without(&kept), freshness::without(&page));
    }
}
