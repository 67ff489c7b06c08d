//! What is printed of a run: a table of the crates, the survivors by name, and the judgement.

use std::fmt;

use anyhow::{Result, bail};
use comfy_table::Table;

use super::listed::Listed;
use super::outcome::{Extent, Outcome, TARGET_PERCENT, percent};
use crate::ui;

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
    use anyhow::Context;
    use comfy_table::Cell;

    use super::*;
    use crate::mutants::outcome::tests::{list, outcome};

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
}
