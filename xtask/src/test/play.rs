//! Scenarios are run one after the other on one machine, which is replaced after a failure: once, or
//! a second time should they fail, or many times over.

use std::time::{Duration, Instant};

use crate::rig::{Machine, Retries, Setup};
use crate::scenario::{Scenario, Verdict};
use crate::tally::Tally;
use crate::ui;

/// What scenarios run on.
pub(super) struct Rig<'a> {
    setup: Setup<'a>,
    machine: Option<Machine>,
}

impl<'a> Rig<'a> {
    /// One that is booted when it is needed.
    pub(super) fn new(setup: Setup<'a>) -> Self {
        Self {
            setup,
            machine: None,
        }
    }

    /// Runs a scenario, and once more on a fresh machine if it fails: the emulated one now and then
    /// dies or crawls for reasons of its own. Gives also why anything was tried again.
    pub(super) fn run(&mut self, scenario: &Scenario) -> (Verdict, Vec<String>) {
        let (mut verdict, mut retries) = self.attempt(scenario, true);
        if let Some(first) = verdict.failure.take() {
            ui::step("test", &format!("{}: second try", scenario.name));
            let (second, more) = self.attempt(scenario, true);
            retries.push(first);
            retries.extend(more);
            verdict = second;
        }
        (verdict, retries)
    }

    /// Runs a scenario so many times, with no second try of anything.
    pub(super) fn repeat(&mut self, scenario: &Scenario, times: u32) -> Tally {
        let mut tally = Tally::default();
        for run in 1..=times {
            ui::step("test", &format!("{}: {run} of {times}", scenario.name));
            let (verdict, _) = self.attempt(scenario, false);
            tally.add(verdict.took, verdict.failure.as_deref());
        }
        tally
    }

    /// Runs a scenario on the machine there is, or on a new one.
    fn attempt(&mut self, scenario: &Scenario, may_retry: bool) -> (Verdict, Vec<String>) {
        let mut logs = self.setup.suite.dir().join("logs/last");
        let mut retries = Retries::default();
        let mut began = Instant::now();
        let booted = match self.machine.take() {
            Some(machine) => Ok(machine),
            None => Machine::boot(&self.setup),
        };
        let played = booted.and_then(|mut machine| {
            machine.may_retry = may_retry;
            logs.clone_from(&machine.logs);
            retries = machine.retries.clone();
            began = Instant::now();
            scenario.run(machine)
        });
        let verdict = match played {
            Ok((verdict, left)) => {
                self.machine = left;
                verdict
            }
            Err(error) => failed(format!("{error:#}"), began.elapsed()),
        };
        let name = scenario.name;
        if let Some(why) = &verdict.failure {
            ui::step("test", &format!("{name} FAIL: {why}"));
            ui::step("test", &format!("logs: {}", logs.display()));
            // Whatever is wrong with it must not fail the next scenario.
            self.switch_off();
        } else {
            let seconds = verdict.took.as_secs_f64();
            let note = &verdict.note;
            ui::step("test", &format!("{name} PASS in {seconds:.0} s {note}"));
        }
        (verdict, retries.take())
    }

    /// Ends the machine, if there is one.
    pub(super) fn switch_off(&mut self) {
        if let Some(machine) = self.machine.take()
            && let Err(error) = machine.power_off()
        {
            ui::step("rig", &format!("power-off: {error:#}"));
        }
    }
}

fn failed(why: String, took: Duration) -> Verdict {
    Verdict {
        failure: Some(why),
        note: String::new(),
        took,
    }
}
