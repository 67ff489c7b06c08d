//! `results/mutants.md`: of each crate how many of its mutants its tests noticed: of all of them, and
//! of samples, as the last run of each kind found it.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::crates::CRATES;
use super::outcome::percent;
use super::sample::at_least;
use crate::freshness::Age;
use crate::rig::Mark;
use crate::root;

const HEAD: &str = "# Mutants\n\n\
    Written by `cargo xtask mutants` from `mutants.txt`; do not edit by hand.\n\n\
    Each crate is changed in one place at a time, as cargo-mutants would, and the tests of that crate \
    run (of blkif and block, those of control too). What they notice is killed. All changes are built at once, and \
    a switch turns one on; tests that do not come to its place are not run. A row is a run of all of a \
    crate's mutants.\n\n\
    - *unviable*: it does not compile;\n\
    - *no switch*: it was not tried, since it is in a constant or the choice between it and the \
    original does not compile;\n\
    - *caught*: a test fails; *timeout*: one takes eight times the processor's time that it takes \
    otherwise, and two seconds more;\n\
    - *survived*: all tests pass, or none comes to it;\n\
    - *listed*: how many of these `xtask/mutants.txt` accepts, with the reason;\n\
    - *killed*: of a hundred viable ones, and without the listed ones, of which at least 95 must be.\n\n";

const SAMPLES: &str = "\n## Samples\n\n\
    **Not all mutants of these crates were tried**, but every Nth one (`--sample`, `--shard`), as \
    the crate was at the commit that is named: a survivor may have got a test, or a \
    line in the list, since. The rate of \
    the sample is an estimate. *At least* is what the rate of all mutants (those of them that \
    can be tried) exceeds with 95 % confidence.\n\n";

/// Puts these marks in the place of what the record has of the same crates, and writes it and the page.
/// A sample takes the place of a sample only.
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
        let same = |new: &Mark| {
            new.get("crate") == old.get("crate") && (is_sample(old) || !is_sample(new))
        };
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

fn is_sample(mark: &Mark) -> bool {
    !mark.get("part").is_empty()
}

fn write(record: &[Mark], age: impl Fn(&str, &str) -> Age) -> Result<String, fmt::Error> {
    let (samples, whole): (Vec<&Mark>, Vec<&Mark>) =
        record.iter().partition(|mark| is_sample(mark));
    let mut page = HEAD.to_string();
    page.push_str(
        "| crate | mutants | unviable | no switch | caught | timeout | survived | listed | killed, % | \
         without listed, % | Spindle |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for mark in figures(&whole) {
        let row = Row::of(mark);
        let least = percent(row.killed, row.viable.saturating_sub(row.listed));
        writeln!(
            page,
            "{}",
            row.write(&row.tried().to_string(), &least, &age)
        )?;
    }
    name_survivors(&mut page, &whole)?;
    if samples.is_empty() {
        return Ok(page);
    }
    page.push_str(SAMPLES);
    page.push_str(
        "| crate | mutants | unviable | no switch | caught | timeout | survived | listed | killed, % | \
         at least, % | Spindle |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for mark in figures(&samples) {
        let row = Row::of(mark);
        let of = format!(
            "a sample: {} of {} (part {})",
            row.tried(),
            mark.get("all"),
            mark.get("part")
        );
        let part = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let least = format!("{:.1}", at_least(part(row.killed), part(row.viable)));
        writeln!(page, "{}", row.write(&of, &least, &age))?;
    }
    name_survivors(&mut page, &samples)?;
    Ok(page)
}

/// The figures of one crate.
struct Row<'a> {
    name: &'a str,
    version: &'a str,
    caught: usize,
    timeouts: usize,
    unviable: usize,
    unfit: usize,
    survived: usize,
    listed: usize,
    killed: usize,
    viable: usize,
}

impl<'a> Row<'a> {
    fn of(mark: &'a Mark) -> Self {
        let number = |key: &str| mark.get(key).parse().unwrap_or(0_usize);
        let [caught, timeouts, unviable, unfit] =
            ["caught", "timeouts", "unviable", "unfit"].map(number);
        let [survived, listed] = ["survived", "listed"].map(number);
        Self {
            name: mark.get("crate"),
            version: mark.get("spindle"),
            caught,
            timeouts,
            unviable,
            unfit,
            survived,
            listed,
            killed: caught + timeouts,
            viable: caught + timeouts + survived,
        }
    }

    fn tried(&self) -> usize {
        self.viable + self.unviable + self.unfit
    }

    fn write(&self, mutants: &str, last: &str, age: &impl Fn(&str, &str) -> Age) -> String {
        let Self {
            name,
            version,
            caught,
            timeouts,
            unviable,
            unfit,
            survived,
            listed,
            ..
        } = self;
        format!(
            "| {name} | {mutants} | {unviable} | {unfit} | {caught} | {timeouts} | {survived} | {listed} | \
             {} | {last} | {version}{} |",
            percent(self.killed, self.viable),
            note(age(name, version)),
        )
    }
}

fn figures<'a>(record: &[&'a Mark]) -> impl Iterator<Item = &'a Mark> {
    let is_figures = |mark: &&Mark| mark.name == "crate";
    record.iter().copied().filter(is_figures)
}

fn name_survivors(page: &mut String, record: &[&Mark]) -> fmt::Result {
    let mut survivors = record.iter().filter(|mark| mark.name == "survivor");
    if let Some(first) = survivors.next() {
        page.push_str("\n### Survivors that are not listed\n\n");
        for mark in [first].into_iter().chain(survivors) {
            writeln!(page, "- `{}`", mark.get("mutant"))?;
        }
    }
    Ok(())
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
        "crate crate=hw caught=36 timeouts=2 unviable=3 unfit=4 survived=2 listed=1 spindle=aaa";

    #[test]
    fn a_row_has_both_rates_and_the_version() {
        let survivor = "survivor crate=hw mutant=\"drivers/hw/src/a.rs: replace f\"";
        let age = |_: &str, _: &str| Age::Stale;
        let page = write(&marks(&[HW, survivor]), age).expect("written");
        let row = "| hw | 47 | 3 | 4 | 36 | 2 | 2 | 1 | 95.0 | 97.4 | aaa (the crate has changed since) |\n";
        assert!(page.contains(row), "{page}");
        assert!(page.ends_with("not listed\n\n- `drivers/hw/src/a.rs: replace f`\n"));
    }

    #[test]
    fn a_sample_says_that_it_is_one() {
        let sample = "crate all=900 crate=xen caught=24 listed=0 part=3/36 spindle=bbb survived=1 \
                      timeouts=0 unviable=1";
        let survivor = "survivor crate=xen mutant=\"drivers/xen/src/a.rs: replace f\" part=3/36";
        let page = write(&marks(&[HW, sample, survivor]), |_, _| Age::Current).expect("written");
        let (whole, samples) = page.split_once("## Samples").expect("a part of its own");
        assert!(
            whole.contains("| hw | 47 |") && !whole.contains("xen"),
            "{page}"
        );
        let row = "| xen | a sample: 26 of 900 (part 3/36) | 1 | 0 | 24 | 0 | 1 | 0 | 96.0 | 83.9 | bbb |\n";
        assert!(samples.contains(row), "{page}");
        assert!(samples.ends_with("not listed\n\n- `drivers/xen/src/a.rs: replace f`\n"));
        let without = write(&marks(&[HW]), |_, _| Age::Current).expect("written");
        assert!(!without.contains("ample"), "{without}");
    }

    #[test]
    fn a_sample_takes_the_place_of_samples_and_a_run_of_all_that_of_both() -> Result<()> {
        let folder = kept("test-of-samples");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let record = |lines: &[&str]| -> Result<String> {
            update_in(&folder, marks(lines))?;
            Ok(fs::read_to_string(folder.join("mutants.txt"))?)
        };
        record(&["crate caught=1 crate=hw"])?;
        record(&["crate caught=2 crate=hw part=0/2"])?;
        let both = record(&["crate caught=3 crate=hw part=1/2"])?;
        assert_eq!(
            both,
            "crate caught=1 crate=hw\ncrate caught=3 crate=hw part=1/2\n"
        );
        let whole = record(&["crate caught=4 crate=hw"])?;
        assert_eq!(whole, "crate caught=4 crate=hw\n");
        fs::remove_dir_all(&folder)?;
        Ok(())
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
