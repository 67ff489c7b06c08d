//! What the tests noticed: how many mutants of each crate, and whether that is enough.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Result, bail};
use comfy_table::Table;
use schemata::Verdict;

use super::listed::{Listed, without_place};
use crate::rig::Mark;
use crate::ui;

/// Of a hundred mutants that compile, as many at least must be noticed.
const TARGET_PERCENT: usize = 95;

/// What happened to the mutants of a crate.
#[derive(Default)]
pub(super) struct Outcome {
    /// A test failed.
    caught: usize,
    /// A test did not end.
    timeouts: usize,
    /// It does not compile.
    unviable: usize,
    /// It is in a constant, or the choice between it and the original does not compile.
    unfit: usize,
    /// All tests passed: their names, with line and column.
    survived: Vec<String>,
    /// Of these, those that no test comes to.
    unreached: BTreeSet<String>,
    /// There was no time for them.
    left: usize,
}

impl Outcome {
    /// Of a crate of which so many mutants are to be tried.
    pub(super) fn of(left: usize) -> Self {
        Self {
            left,
            ..Self::default()
        }
    }

    /// So many do not compile, or cannot be switched on.
    pub(super) fn leave_out(&mut self, unviable: usize, unfit: usize) {
        self.unviable += unviable;
        self.unfit += unfit;
        self.left -= unviable + unfit;
    }

    /// One was tried.
    pub(super) fn add(&mut self, mutant: &str, verdict: Verdict) {
        self.left -= 1;
        match verdict {
            Verdict::Caught => self.caught += 1,
            Verdict::Timeout => self.timeouts += 1,
            Verdict::Survived => self.survived.push(mutant.to_string()),
            Verdict::Unreached => {
                self.survived.push(mutant.to_string());
                self.unreached.insert(mutant.to_string());
            }
        }
    }

    fn killed(&self) -> usize {
        self.caught + self.timeouts
    }

    /// Those that were switched on.
    pub(super) fn viable(&self) -> usize {
        self.killed() + self.survived.len()
    }

    /// What the record says of a crate all of whose mutants were tried: its figures, and the
    /// survivors that are not in the list.
    pub(super) fn marks(&self, name: &str, folder: &str, listed: &Listed) -> Vec<Mark> {
        let (unlisted, _) = listed.compare(folder, &self.survived);
        let figures = Mark::new("crate")
            .with("crate", name)
            .with("caught", self.caught)
            .with("timeouts", self.timeouts)
            .with("unviable", self.unviable)
            .with("unfit", self.unfit)
            .with("survived", self.survived.len())
            .with("listed", self.survived.len() - unlisted.len());
        let survivor = |mutant: &&str| {
            Mark::new("survivor")
                .with("crate", name)
                .with("mutant", without_place(mutant).replace('"', "'"))
        };
        [figures]
            .into_iter()
            .chain(unlisted.iter().map(survivor))
            .collect()
    }

    /// Whether all were tried.
    pub(super) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Whether too few were noticed: of those that compile and are not accepted.
    fn is_too_little(&self, unlisted: usize) -> bool {
        self.killed() * 100 < (self.killed() + unlisted) * TARGET_PERCENT
    }
}

/// Which of a crate's mutants were to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// Those in a change.
    Change,
    /// Those of a sample: too few for a judgement.
    Sample,
}

/// How many of a hundred, with one digit after the point, never rounded up.
pub(super) fn percent(part: usize, whole: usize) -> String {
    let permille = (part * 1000).checked_div(whole);
    permille.map_or_else(|| "-".to_string(), |p| format!("{}.{}", p / 10, p % 10))
}

/// The report, as it grows.
pub(super) struct Report {
    table: Table,
    unlisted: Vec<String>,
    /// Entries of the list that did not survive.
    stale: Vec<String>,
    below: Vec<&'static str>,
    /// Crates for which there was too little time.
    left: Vec<&'static str>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            table: ui::table([
                "crate",
                "viable",
                "killed",
                "%",
                "timeouts",
                "no switch",
                "survived",
                "listed",
                "% but listed",
                "not tried",
            ]),
            unlisted: Vec::new(),
            stale: Vec::new(),
            below: Vec::new(),
            left: Vec::new(),
        }
    }
}

impl Report {
    /// Adds a crate, of which so many mutants were to be made.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        folder: &str,
        outcome: &Outcome,
        listed: &Listed,
        extent: Extent,
    ) {
        let (unlisted, stale) = listed.compare(folder, &outcome.survived);
        let (viable, killed) = (outcome.viable(), outcome.killed());
        self.table.add_row([
            name.to_string(),
            viable.to_string(),
            killed.to_string(),
            percent(killed, viable),
            outcome.timeouts.to_string(),
            outcome.unfit.to_string(),
            outcome.survived.len().to_string(),
            (outcome.survived.len() - unlisted.len()).to_string(),
            percent(killed, killed + unlisted.len()),
            outcome.left.to_string(),
        ]);
        if outcome.left > 0 {
            self.left.push(name);
        }
        if extent != Extent::Sample && outcome.is_too_little(unlisted.len()) {
            self.below.push(name);
        }
        let line = |mutant: &&str| {
            let unreached = outcome.unreached.contains(*mutant);
            let note = if unreached {
                " (no test comes to it)"
            } else {
                ""
            };
            format!("{mutant}{note}")
        };
        self.unlisted.extend(unlisted.iter().map(line));
        if extent == Extent::Whole && outcome.left == 0 {
            self.stale.extend(stale.iter().map(ToString::to_string));
        }
    }

    /// There was no time for this crate.
    pub(super) fn skip(&mut self, name: &'static str) {
        self.left.push(name);
    }

    /// Crates not all of whose mutants were tried.
    pub(super) fn left(&self) -> &[&'static str] {
        &self.left
    }

    /// Whether enough were noticed.
    ///
    /// # Errors
    /// In some crate they were not.
    pub(super) fn judge(&self) -> Result<()> {
        if self.below.is_empty() {
            return Ok(());
        }
        bail!(
            "in {} fewer than {TARGET_PERCENT} of 100 mutants were noticed: add a test for the \
             survivors above, or list them with the reason in xtask/mutants.txt",
            self.below.join(" and ")
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table)?;
        for mutant in &self.unlisted {
            write!(f, "\nsurvived: {mutant}")?;
        }
        for mutant in &self.stale {
            write!(f, "\nlisted, but it does not survive any more: {mutant}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::Context;
    use comfy_table::Cell;

    use super::*;
    use crate::mutants::kept;

    fn outcome(caught: usize, timeouts: usize, survived: usize) -> Outcome {
        Outcome {
            caught,
            timeouts,
            survived: (0..survived)
                .map(|line| format!("ctl/src/a.rs:{line}:1: replace f{line} with ()"))
                .collect(),
            ..Outcome::default()
        }
    }

    fn list(names: &[usize]) -> Result<Listed> {
        let path = kept(&format!("test-of-outcome-{}", names.len()));
        fs::create_dir_all(path.parent().context("a folder")?)?;
        let text: String = names
            .iter()
            .map(|n| format!("ctl/src/a.rs: replace f{n} with ()\n  Why.\n"))
            .collect();
        fs::write(&path, text)?;
        let listed = Listed::read(&path);
        fs::remove_file(&path)?;
        listed
    }

    #[test]
    fn an_unlisted_survivor_counts_and_a_listed_one_does_not() -> Result<()> {
        for (outcome, names, passes) in [
            (outcome(18, 1, 1), &[][..], true),
            (outcome(18, 0, 1), &[], false),
            (outcome(18, 0, 1), &[0], true),
            (outcome(18, 0, 2), &[0], false),
            (outcome(0, 0, 0), &[], true),
        ] {
            let mut report = Report::default();
            report.add("ctl", "ctl", &outcome, &list(names)?, Extent::Whole);
            assert_eq!(report.judge().is_ok(), passes, "{report}");
        }
        Ok(())
    }

    #[test]
    fn a_sample_is_not_judged_and_says_nothing_of_the_list() -> Result<()> {
        let mut report = Report::default();
        let list = list(&[8, 9])?;
        report.add("ctl", "ctl", &outcome(1, 0, 2), &list, Extent::Sample);
        assert!(report.judge().is_ok());
        let text = report.to_string();
        assert!(text.contains("survived: ctl/src/a.rs:1:1: replace f1 with ()"));
        assert!(!text.contains("any more"), "{text}");
        report.add("ctl", "ctl", &outcome(1, 0, 2), &list, Extent::Change);
        assert!(report.judge().is_err());
        Ok(())
    }

    #[test]
    fn the_table_has_the_figures_and_survivors_are_named() -> Result<()> {
        let mut report = Report::default();
        let outcome = Outcome {
            left: 4,
            ..outcome(36, 1, 2)
        };
        report.add("ctl", "ctl", &outcome, &list(&[1, 7])?, Extent::Whole);
        let row = report.table.row(0).context("a row")?;
        let row: Vec<String> = row.cell_iter().map(Cell::content).collect();
        assert_eq!(
            row,
            ["ctl", "39", "37", "94.8", "1", "0", "2", "1", "97.3", "4"]
        );
        let text = report.to_string();
        assert!(text.contains("survived: ctl/src/a.rs:0:1: replace f0 with ()"));
        // It cannot be said of a part.
        assert!(!text.contains("any more"), "{text}");
        Ok(())
    }

    #[test]
    fn what_is_listed_and_noticed_is_named() -> Result<()> {
        let mut report = Report::default();
        let list = list(&[3])?;
        report.add("ctl", "ctl", &outcome(9, 0, 0), &list, Extent::Whole);
        assert!(
            report
                .to_string()
                .contains("any more: ctl/src/a.rs: replace f3")
        );
        Ok(())
    }

    #[test]
    fn what_becomes_of_a_mutant_is_counted_in_one_place() {
        let mut outcome = Outcome::of(9);
        outcome.leave_out(1, 2);
        outcome.add("a: f", Verdict::Caught);
        outcome.add("b: g", Verdict::Timeout);
        outcome.add("c: h", Verdict::Survived);
        outcome.add("d: i", Verdict::Unreached);
        assert_eq!(
            (
                outcome.viable(),
                outcome.killed(),
                outcome.unfit,
                outcome.left
            ),
            (4, 2, 2, 2)
        );
        assert_eq!(outcome.survived, ["c: h", "d: i"]);
        assert!(outcome.unreached.contains("d: i"));
    }

    #[test]
    fn the_record_has_the_figures_and_the_survivors_without_a_reason() -> Result<()> {
        let mut outcome = outcome(36, 1, 2);
        outcome.unviable = 5;
        let marks = outcome.marks("ctl", "ctl", &list(&[1])?);
        let lines: Vec<String> = marks.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "crate caught=36 crate=ctl listed=1 survived=2 timeouts=1 unfit=0 unviable=5",
                "survivor crate=ctl mutant=\"ctl/src/a.rs: replace f0 with ()\"",
            ]
        );
        Ok(())
    }
}
