//! The outcome of the scenarios: a table of them, one of the guests that the emulator ended, a line that
//! sums up, and whether all is well.

use std::fmt;

use anyhow::{Result, bail};
use comfy_table::Table;

use super::play::Run;
use crate::history::Rate;
use crate::rig::{End, Suite};
use crate::tally::{Tally, shorten};
use crate::ui;

/// What the table says of a scenario that passed, but not at once.
const SECOND: &str = "PASS (2nd try)";

/// The report, as it grows.
pub(super) struct Report {
    table: Table,
    runs: usize,
    failed: usize,
    /// How many passed only because something was tried again.
    second: usize,
    /// What needed that too often.
    too_often: Vec<String>,
    /// The guests that the emulator ended.
    ends: Table,
    ended: usize,
}

impl Report {
    /// An empty report on scenarios that are run once each, or `repeated`.
    pub(super) fn new(repeated: bool) -> Self {
        Self {
            table: if repeated {
                ui::table(["suite", "scenario", "runs", "failed", "s", "why"])
            } else {
                ui::table(["suite", "scenario", "result", "s", ""])
            },
            runs: 0,
            failed: 0,
            second: 0,
            too_often: Vec::new(),
            ends: ui::table(["suite", "scenario", "guest", "when", "state"]),
            ended: 0,
        }
    }

    /// Adds a scenario that was run; `rate` is how often something was tried again in its last runs.
    pub(super) fn ran(&mut self, suite: Suite, name: &str, run: Run, rate: Option<Rate>) {
        self.ended(suite, name, &run.ends);
        let Run {
            verdict, retries, ..
        } = run;
        let result = match (&verdict.failure, &retries[..]) {
            (Some(_), _) => "FAIL",
            (None, []) => "PASS",
            (None, _) => SECOND,
        };
        self.runs += 1;
        self.failed += usize::from(verdict.failure.is_some());
        self.second += usize::from(result == SECOND);
        let seconds = format!("{:.0}", verdict.took.as_secs_f64());
        let note = verdict.failure.unwrap_or(verdict.note);
        let first = retries.iter().map(|why| format!("first: {why}"));
        let notes: Vec<String> = first.chain([note]).map(|text| shorten(&text)).collect();
        self.table
            .add_row([suite.name(), name, result, &seconds, &notes.join("\n")]);
        // A scenario that passed at once does not fail for what an earlier run needed: a repair
        // would show only fifty runs later.
        let complaint = rate.and_then(|rate| rate.complaint(suite, name, &retries));
        self.too_often.extend(complaint);
    }

    /// Adds guests that the emulator ended in a scenario.
    fn ended(&mut self, suite: Suite, name: &str, ends: &[End]) {
        self.ended += ends.len();
        for end in ends {
            let when = if end.early { "starting" } else { "at work" };
            self.ends
                .add_row([suite.name(), name, &end.guest, when, &end.state]);
        }
    }

    /// Adds a scenario that was run many times.
    pub(super) fn repeated(&mut self, suite: Suite, name: &str, tally: &Tally, ends: &[End]) {
        self.ended(suite, name, ends);
        self.runs += tally.runs();
        self.failed += tally.failed();
        self.table.add_row([
            suite.name(),
            name,
            &tally.runs().to_string(),
            &tally.failed().to_string(),
            &tally.seconds(),
            &tally.reasons(),
        ]);
    }

    /// Whether all is well.
    ///
    /// # Errors
    /// Something failed, or needed a second try too often.
    pub(super) fn judge(&self) -> Result<()> {
        let mut wrong = self.too_often.clone();
        if self.failed > 0 {
            wrong.insert(0, format!("{} of {} runs failed", self.failed, self.runs));
        }
        if !wrong.is_empty() {
            bail!("{}", wrong.join("\n"));
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table,
            runs,
            failed,
            second,
            ends,
            ended,
            ..
        } = self;
        let passed = runs - failed;
        writeln!(f, "{table}")?;
        if *ended > 0 {
            writeln!(f, "guests ended by the emulator: {ended}\n{ends}")?;
        }
        write!(
            f,
            "{runs} runs: {passed} passed, {second} of them at a second try; {failed} failed"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use comfy_table::Cell;

    use super::*;
    use crate::scenario::Verdict;

    fn ran(failure: Option<&str>, retries: &[String]) -> Run {
        Run {
            verdict: Verdict {
                failure: failure.map(String::from),
                note: "ready after 1 s".to_string(),
                took: Duration::from_secs(7),
            },
            retries: retries.to_vec(),
            ends: Vec::new(),
        }
    }

    fn row(report: &Report, number: usize) -> Vec<String> {
        let row = report.table.row(number).expect("a row");
        row.cell_iter().map(Cell::content).collect()
    }

    #[test]
    fn a_second_try_is_shown_with_its_reason_and_counted() {
        let why = ["no disk".to_string()];
        let mut report = Report::new(false);
        let rate = Some(Rate::new(1, 0, 7));
        report.ran(Suite::Trixie, "hotplug", ran(None, &why), rate);
        report.ran(Suite::Trixie, "resize", ran(None, &[]), None);
        let notes = "first: no disk\nready after 1 s";
        assert_eq!(row(&report, 0), ["trixie", "hotplug", SECOND, "7", notes]);
        assert_eq!(row(&report, 1)[2], "PASS");
        let text = report.to_string();
        let end = "2 runs: 2 passed, 1 of them at a second try; 0 failed";
        assert_eq!(text.lines().last(), Some(end));
        report.judge().expect("one second try is let pass");
    }

    #[test]
    fn what_needs_a_second_try_too_often_fails_when_it_does_again() {
        let why = ["no disk".to_string()];
        let mut report = Report::new(false);
        let often = Some(Rate::new(2, 0, 7));
        report.ran(Suite::Trixie, "hotplug", ran(None, &[]), often);
        report.judge().expect("it passed at once now");
        report.ran(Suite::Trixie, "hotplug", ran(None, &why), often);
        let error = report.judge().expect_err("too often").to_string();
        assert!(
            error.contains("2 of the last 7 runs needed a second try"),
            "{error}"
        );
    }

    #[test]
    fn a_failure_shows_both_tries() {
        let why = ["no disk".to_string()];
        let mut report = Report::new(false);
        report.ran(Suite::Trixie, "hotplug", ran(Some("dead"), &why), None);
        assert_eq!(row(&report, 0)[2], "FAIL");
        assert_eq!(row(&report, 0)[4], "first: no disk\ndead");
        let error = report.judge().expect_err("it failed");
        assert_eq!(error.to_string(), "1 of 1 runs failed");
    }

    #[test]
    fn repeated_runs_have_one_row_with_reasons_and_counts() {
        let mut tally = Tally::default();
        for failure in [None, Some("no end after 3 s"), Some("no end after 4 s")] {
            tally.add(Duration::from_secs(5), failure);
        }
        let mut report = Report::new(true);
        report.repeated(Suite::Bookworm, "hotplug", &tally, &[]);
        let expected = ["bookworm", "hotplug", "3", "2", "5", "2x no end after 3 s"];
        assert_eq!(row(&report, 0), expected);
        let error = report.judge().expect_err("two failed");
        assert_eq!(error.to_string(), "2 of 3 runs failed");
    }

    #[test]
    fn guests_that_the_emulator_ended_are_listed_and_counted() {
        let mut report = Report::new(false);
        report.ran(Suite::Trixie, "resize", ran(None, &[]), None);
        assert!(!report.to_string().contains("emulator"));
        let mut run = ran(None, &[]);
        run.ends = [("wide", true), ("narrow", false)]
            .map(|(guest, early)| End::sample(guest, early))
            .to_vec();
        report.ran(Suite::Trixie, "multi-queue", run, None);
        let row = report.ends.row(1).expect("a row");
        let cells: Vec<_> = row.cell_iter().map(Cell::content).collect();
        let expected = [
            "trixie",
            "multi-queue",
            "narrow",
            "at work",
            "d7v1, RIP 0x0",
        ];
        assert_eq!(cells, expected);
        let text = report.to_string();
        assert!(text.contains("guests ended by the emulator: 2\n"), "{text}");
        // One that was started again is no second try.
        let end = "2 runs: 2 passed, 0 of them at a second try; 0 failed";
        assert_eq!(text.lines().last(), Some(end));
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let mut report = Report::new(false);
        let why = ["xl create: ".to_string() + &"a_long_word".repeat(40)];
        report.ran(Suite::Bookworm, "never-connects", ran(None, &why), None);
        let text = report.to_string();
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{text}");
    }
}
