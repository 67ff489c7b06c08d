//! Scenarios are run one after the other on one machine, which is replaced after a failure and by
//! other variants of it: once, or a second time should they fail, or many times over.

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
        at_most_twice(&scenario.name, || self.attempt(scenario, true))
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
        if self.setup.variant != scenario.variant() {
            self.switch_off();
            self.setup.variant = scenario.variant();
        }
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
        let name = &scenario.name;
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
        if scenario.is_last() {
            self.switch_off();
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

/// Makes a second attempt if the first fails, which is then one of the things that were tried again.
fn at_most_twice(
    name: &str,
    mut attempt: impl FnMut() -> (Verdict, Vec<String>),
) -> (Verdict, Vec<String>) {
    let (mut first, mut retries) = attempt();
    let Some(why) = first.failure.take() else {
        return (first, retries);
    };
    ui::step("test", &format!("{name}: second try"));
    let (second, more) = attempt();
    retries.push(why);
    retries.extend(more);
    (second, retries)
}

fn failed(why: String, took: Duration) -> Verdict {
    Verdict {
        failure: Some(why),
        note: String::new(),
        took,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of attempts that end like this, each with something that dom0 tried again: why it
    /// failed, if it did, what was tried again, and how many attempts were left.
    fn run(ends: &[Option<&str>]) -> (Option<String>, Vec<String>, usize) {
        let mut ends = ends.iter().enumerate();
        let (verdict, retries) = at_most_twice("hotplug", || {
            let (number, end) = ends.next().expect("another attempt");
            let mut verdict = failed(end.unwrap_or_default().to_string(), Duration::ZERO);
            verdict.failure = verdict.failure.filter(|why| !why.is_empty());
            (verdict, vec![format!("guest {}", number + 1)])
        });
        (verdict.failure, retries, ends.len())
    }

    #[test]
    fn a_scenario_that_fails_is_tried_twice_at_most_and_says_so() {
        let tried = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(run(&[None, None]), (None, tried(&["guest 1"]), 1));
        let both = tried(&["guest 1", "no disk", "guest 2"]);
        assert_eq!(run(&[Some("no disk"), None, None]), (None, both.clone(), 1));
        let dead = Some("dead".to_string());
        assert_eq!(run(&[Some("no disk"), Some("dead"), None]), (dead, both, 1));
    }
}
