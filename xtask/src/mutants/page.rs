//! `results/mutants.md`: of each crate all of whose mutants were tried, how many its tests noticed,
//! as the last such run found it.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::CRATES;
use super::outcome::percent;
use crate::freshness::Age;
use crate::rig::Mark;
use crate::root;

const HEAD: &str = "# Mutants\n\n\
    Written by `cargo xtask mutants` from `mutants.txt`; do not edit by hand.\n\n\
    cargo-mutants changes each crate in one place at a time, and the tests of that crate run. What \
    they notice is killed. A row is a run of all of a crate's mutants; with `--again`, those that \
    had survived were tried once more with newer tests, at the commit that is named.\n\n\
    - *unviable*: it does not compile;\n\
    - *caught*, *timeout*: a test fails, or does not end within a minute;\n\
    - *survived*: all tests pass;\n\
    - *listed*: how many of these `xtask/mutants.txt` accepts, with the reason;\n\
    - *killed*: of a hundred viable ones, and without the listed ones, of which at least 95 must be.\n\n";

/// Puts these marks in the place of what the record has of the same crates, and writes it and the page.
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn update(marks: Vec<Mark>) -> Result<()> {
    update_in(&root().join("xtask/results"), marks)
}

fn update_in(folder: &Path, marks: Vec<Mark>) -> Result<()> {
    let path = folder.join("mutants.txt");
    let mut record: Vec<Mark> = match fs::read_to_string(&path) {
        Ok(text) => text.lines().filter_map(Mark::parse).collect(),
        Err(_) => Vec::new(),
    };
    record.retain(|old| {
        let same = |new: &Mark| new.get("crate") == old.get("crate");
        !marks.iter().any(same)
    });
    record.extend(marks);
    // As the crates are; stable, so that a crate's figures stay before its survivors.
    record.sort_by_key(|mark| {
        CRATES
            .iter()
            .position(|tested| tested.name == mark.get("crate"))
    });
    let text: String = record.iter().map(|mark| format!("{mark}\n")).collect();
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    let page = write(&record, age)?;
    let path = folder.join("mutants.md");
    fs::write(&path, page).with_context(|| format!("write {}", path.display()))
}

/// How a crate's version relates to the crate as it is now.
fn age(name: &str, version: &str) -> Age {
    match CRATES.iter().find(|tested| tested.name == name) {
        Some(tested) => Age::of_paths(version, &[tested.folder]),
        None => Age::Unknown,
    }
}

/// What the page says behind a version.
fn note(age: Age) -> &'static str {
    match age {
        Age::Stale => " (the crate has changed since)",
        other => other.note(),
    }
}

fn write(record: &[Mark], age: impl Fn(&str, &str) -> Age) -> Result<String, fmt::Error> {
    let mut page = HEAD.to_string();
    page.push_str(
        "| crate | mutants | unviable | caught | timeout | survived | listed | killed, % | \
         without listed, % | Spindle |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for mark in record.iter().filter(|mark| mark.name == "crate") {
        let number = |key: &str| mark.get(key).parse().unwrap_or(0_usize);
        let [caught, timeouts, unviable, survived, listed] =
            ["caught", "timeouts", "unviable", "survived", "listed"].map(number);
        let killed = caught + timeouts;
        let viable = killed + survived;
        let (name, version) = (mark.get("crate"), mark.get("spindle"));
        writeln!(
            page,
            "| {name} | {} | {unviable} | {caught} | {timeouts} | {survived} | {listed} | {} | {} \
             | {version}{} |",
            viable + unviable,
            percent(killed, viable),
            percent(killed, viable.saturating_sub(listed)),
            note(age(name, version)),
        )?;
    }
    let mut survivors = record.iter().filter(|mark| mark.name == "survivor");
    if let Some(first) = survivors.next() {
        page.push_str("\n## Survivors that are not listed\n\n");
        for mark in [first].into_iter().chain(survivors) {
            writeln!(page, "- `{}`", mark.get("mutant"))?;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::kept;

    fn marks(lines: &[&str]) -> Vec<Mark> {
        let parse = |line: &&str| Mark::parse(line).expect("a mark");
        lines.iter().map(parse).collect()
    }

    const HW: &str =
        "crate crate=hw caught=36 timeouts=2 unviable=3 survived=2 listed=1 spindle=aaa";

    #[test]
    fn a_row_has_both_rates_and_the_version() {
        let survivor = "survivor crate=hw mutant=\"drivers/hw/src/a.rs: replace f\"";
        let age = |_: &str, _: &str| Age::Stale;
        let page = write(&marks(&[HW, survivor]), age).expect("written");
        let row =
            "| hw | 43 | 3 | 36 | 2 | 2 | 1 | 95.0 | 97.4 | aaa (the crate has changed since) |\n";
        assert!(page.contains(row), "{page}");
        assert!(page.ends_with("not listed\n\n- `drivers/hw/src/a.rs: replace f`\n"));
    }

    #[test]
    fn a_run_takes_the_place_of_the_last_one_of_its_crate() -> Result<()> {
        let folder = kept("test-of-page");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let config = "crate crate=config caught=1 spindle=aaa";
        let survivor = "survivor crate=hw mutant=\"replace f\"";
        update_in(&folder, marks(&[HW, survivor]))?;
        update_in(&folder, marks(&[config]))?;
        update_in(&folder, marks(&["crate crate=hw caught=40 spindle=bbb"]))?;
        let text = fs::read_to_string(folder.join("mutants.txt"))?;
        let second = "crate caught=40 crate=hw spindle=bbb";
        let first = "crate caught=1 crate=config spindle=aaa";
        assert_eq!(text, format!("{first}\n{second}\n"));
        let page = fs::read_to_string(folder.join("mutants.md"))?;
        assert!(!page.contains("Survivors"), "{page}");
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    /// What the repository has is what the command writes; but the ages, which change by themselves.
    #[test]
    fn the_page_is_made_of_the_record() -> Result<()> {
        let folder = root().join("xtask/results");
        let text = fs::read_to_string(folder.join("mutants.txt"))?;
        let record: Vec<Mark> = text.lines().filter_map(Mark::parse).collect();
        let without = |page: String| {
            let ages = [Age::Stale, Age::Uncommitted, Age::Unknown];
            ages.iter()
                .fold(page, |page, age| page.replace(note(*age), ""))
        };
        let page = write(&record, |_, _| Age::Current)?;
        let kept = fs::read_to_string(folder.join("mutants.md"))?;
        assert_eq!(without(kept), without(page));
        Ok(())
    }
}
