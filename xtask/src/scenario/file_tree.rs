//! `file-tree`: a guest writes files, another checks them, and at the end the host reads
//! the raw disk image with tools that know nothing of Spindle.

use std::fs;

use anyhow::{Context, Result};

use super::Scenario;
use crate::rig::disk::{self, Manifest};
use crate::rig::{Machine, Mark, Outcome};

/// What was done and seen.
pub(crate) struct Report {
    outcome: Outcome,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
    /// What `e2fsck` said on the host.
    pub(crate) e2fsck: String,
    /// How many files have the same checksum on the host as in the guest that wrote them.
    pub(crate) equal: usize,
}

impl Report {
    /// The first mark of this name.
    pub(crate) fn mark(&self, name: &str) -> Option<&Mark> {
        self.outcome.mark(name)
    }

    /// One line for the table of tests.
    pub(crate) fn summary(&self) -> String {
        format!("{} files equal on the host; {}", self.equal, self.e2fsck)
    }
}

/// Runs the scenario, on whichever machine it is for.
///
/// # Errors
/// The machine died or does not answer.
pub(crate) fn run(machine: &mut Machine, scenario: &Scenario) -> Result<Report> {
    let outcome = machine.run(&scenario.name, scenario.timeout())?;
    let mut report = Report {
        failure: outcome.failure.clone(),
        outcome,
        e2fsck: String::new(),
        equal: 0,
    };
    if report.failure.is_none() {
        report.failure = look(machine, &mut report)
            .err()
            .map(|error| format!("{error:#}"));
    }
    Ok(report)
}

/// The host's part.
fn look(machine: &Machine, report: &mut Report) -> Result<()> {
    report.e2fsck = disk::check(&machine.nvme)?;
    let console = machine.logs.join("guest-writer.log");
    let console =
        fs::read_to_string(&console).with_context(|| format!("read {}", console.display()))?;
    let written = reported(&console);
    anyhow::ensure!(!written.is_empty(), "the guest reported no checksums");
    let found = disk::sums(&machine.nvme, &machine.logs.join("tree"))?;
    let differing: Vec<&str> = written
        .iter()
        .filter(|&(name, sum)| found.get(name) != Some(sum))
        .map(|(name, _)| name.as_str())
        .collect();
    report.equal = written.len() - differing.len();
    anyhow::ensure!(
        differing.is_empty() && found.len() == written.len(),
        "the host finds {} files where the guest wrote {}; {} differ: {}",
        found.len(),
        written.len(),
        differing.len(),
        differing
            .iter()
            .take(5)
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    );
    Ok(())
}

/// The checksums that the guest put on its console: `%% sum SHA256 NAME`.
fn reported(console: &str) -> Manifest {
    console
        .lines()
        .filter_map(|line| line.trim().strip_prefix("%% sum ")?.split_once(' '))
        .map(|(sum, name)| (name.to_string(), sum.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_from_a_console_with_carriage_returns() {
        let manifest =
            reported("boot\r\n%% sum abc file-1\r\n%% tree files=1\r\n%% sum def file-2\r\n");
        assert_eq!(manifest.len(), 2);
        assert_eq!(manifest["file-1"], "abc");
    }
}
