//! What the tests noticed: how many mutants of each crate, and whether that is enough.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use comfy_table::Table;

use super::listed::Listed;
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
    /// All tests passed: their names, with line and column.
    survived: Vec<String>,
    /// There was no time for them.
    left: usize,
}

impl Outcome {
    /// Reads what cargo-mutants has written, up to where it was interrupted.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read(found: &Path) -> Result<Self> {
        let all = found.join("mutants.json");
        // A change that no mutant is in leaves nothing.
        if !all.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&all).with_context(|| format!("read {}", all.display()))?;
        let all: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        let lines = |name: &str| -> Result<Vec<String>> {
            let path = found.join(name);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            Ok(text.lines().map(String::from).collect())
        };
        let (caught, timeouts) = (lines("caught.txt")?.len(), lines("timeout.txt")?.len());
        let (survived, unviable) = (lines("missed.txt")?, lines("unviable.txt")?.len());
        let tried = caught + timeouts + unviable + survived.len();
        Ok(Self {
            caught,
            timeouts,
            survived,
            left: all.len().saturating_sub(tried),
        })
    }

    fn killed(&self) -> usize {
        self.caught + self.timeouts
    }

    fn viable(&self) -> usize {
        self.killed() + self.survived.len()
    }

    /// Whether too few were noticed: of those that compile and are not accepted.
    fn is_too_little(&self, unlisted: usize) -> bool {
        self.killed() * 100 < (self.killed() + unlisted) * TARGET_PERCENT
    }
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
                "survived",
                "listed",
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
    /// Adds a crate, of which all mutants were made if it is `whole`.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        folder: &str,
        outcome: &Outcome,
        listed: &Listed,
        whole: bool,
    ) {
        let (unlisted, stale) = listed.compare(folder, &outcome.survived);
        let (viable, killed) = (outcome.viable(), outcome.killed());
        let percent = (killed * 1000).checked_div(viable);
        self.table.add_row([
            name.to_string(),
            viable.to_string(),
            killed.to_string(),
            percent.map_or_else(|| "-".to_string(), |p| format!("{}.{}", p / 10, p % 10)),
            outcome.timeouts.to_string(),
            outcome.survived.len().to_string(),
            (outcome.survived.len() - unlisted.len()).to_string(),
            outcome.left.to_string(),
        ]);
        if outcome.left > 0 {
            self.left.push(name);
        }
        if outcome.is_too_little(unlisted.len()) {
            self.below.push(name);
        }
        self.unlisted
            .extend(unlisted.iter().map(ToString::to_string));
        if whole && outcome.left == 0 {
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
            left: 0,
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
            report.add("ctl", "ctl", &outcome, &list(names)?, true);
            assert_eq!(report.judge().is_ok(), passes, "{report}");
        }
        Ok(())
    }

    #[test]
    fn the_table_has_the_figures_and_survivors_are_named() -> Result<()> {
        let mut report = Report::default();
        let outcome = Outcome {
            left: 4,
            ..outcome(36, 1, 2)
        };
        report.add("ctl", "ctl", &outcome, &list(&[1, 7])?, true);
        let row = report.table.row(0).context("a row")?;
        let row: Vec<String> = row.cell_iter().map(Cell::content).collect();
        assert_eq!(row, ["ctl", "39", "37", "94.8", "1", "2", "1", "4"]);
        let text = report.to_string();
        assert!(text.contains("survived: ctl/src/a.rs:0:1: replace f0 with ()"));
        // It cannot be said of a part.
        assert!(!text.contains("any more"), "{text}");
        Ok(())
    }

    #[test]
    fn what_is_listed_and_noticed_is_named() -> Result<()> {
        let mut report = Report::default();
        report.add("ctl", "ctl", &outcome(9, 0, 0), &list(&[3])?, true);
        assert!(
            report
                .to_string()
                .contains("any more: ctl/src/a.rs: replace f3")
        );
        Ok(())
    }

    #[test]
    fn an_interrupted_run_is_read_as_far_as_it_came() -> Result<()> {
        let folder = kept("test-of-read");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        assert_eq!(Outcome::read(&folder)?.viable(), 0);
        fs::write(folder.join("mutants.json"), "[{}, {}, {}, {}, {}]")?;
        fs::write(folder.join("caught.txt"), "a: f\nb: g\n")?;
        fs::write(folder.join("missed.txt"), "c: h\n")?;
        fs::write(folder.join("unviable.txt"), "d: i\n")?;
        fs::write(folder.join("timeout.txt"), "")?;
        let outcome = Outcome::read(&folder)?;
        assert_eq!(
            (outcome.viable(), outcome.killed(), outcome.left),
            (3, 2, 1)
        );
        assert_eq!(outcome.survived, ["c: h"]);
        fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
