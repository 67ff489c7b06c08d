//! What the tests noticed: how many mutants of a crate, and whether that is enough.

use std::collections::BTreeSet;

use schemata::Verdict;

use super::listed::{Listed, without_place};
use crate::rig::Mark;

/// Of a hundred mutants that compile, as many at least must be noticed.
pub(super) const TARGET_PERCENT: usize = 95;

/// What happened to the mutants of a crate.
#[derive(Default)]
pub(super) struct Outcome {
    /// A test failed.
    pub(super) caught: usize,
    /// A test did not end.
    pub(super) timeouts: usize,
    /// It does not compile.
    pub(super) unviable: usize,
    /// It is in a constant, or the choice between it and the original does not compile.
    pub(super) unfit: usize,
    /// All tests passed: their names, with line and column.
    pub(super) survived: Vec<String>,
    /// Of these, those that no test comes to.
    pub(super) unreached: BTreeSet<String>,
    /// There was no time for them.
    pub(super) left: usize,
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

    /// Those that were noticed.
    pub(super) fn killed(&self) -> usize {
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
    pub(super) fn is_too_little(&self, unlisted: usize) -> bool {
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

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use anyhow::{Context, Result};

    use super::*;
    use crate::mutants::kept;

    pub(crate) fn outcome(caught: usize, timeouts: usize, survived: usize) -> Outcome {
        Outcome {
            caught,
            timeouts,
            survived: (0..survived)
                .map(|line| format!("ctl/src/a.rs:{line}:1: replace f{line} with ()"))
                .collect(),
            ..Outcome::default()
        }
    }

    pub(crate) fn list(names: &[usize]) -> Result<Listed> {
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
