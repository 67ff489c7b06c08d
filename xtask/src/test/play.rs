//! Scenarios are run one after the other on one machine, which is replaced after a failure and by
//! other variants of it: once, or again should they fail, or many times over.

use std::time::{Duration, Instant};

use crate::rig::{End, MOST_TRIES, Machine, Setup, is_emulator};
use crate::scenario::{Scenario, Verdict};
use crate::tally::Tally;
use crate::ui;

/// How a scenario went, with all its tries.
pub(super) struct Run {
    /// How the last one ended.
    pub(super) verdict: Verdict,
    /// Why anything was tried again.
    pub(super) retries: Vec<String>,
    /// The guests that the emulator ended.
    pub(super) ends: Vec<End>,
}

/// What scenarios run on.
pub(super) struct Rig<'a> {
    setup: Setup<'a>,
    /// For the environment of scenarios.
    settings: String,
    machine: Option<Machine>,
}

impl<'a> Rig<'a> {
    /// One that is booted when it is needed.
    pub(super) fn new(setup: Setup<'a>, settings: String) -> Self {
        Self {
            setup,
            settings,
            machine: None,
        }
    }

    /// Runs a scenario, and again on a fresh machine if it fails: the emulated one now and then dies
    /// or crawls for reasons of its own, and more often ends a guest. From the third on, tries begin
    /// before `until`.
    pub(super) fn run(&mut self, scenario: &Scenario, until: Option<Instant>) -> Run {
        let has_time = || until.is_none_or(|until| Instant::now() < until);
        until_it_passes(&scenario.name, has_time, || self.attempt(scenario, true))
    }

    /// Runs a scenario so many times, with no second try of anything. Gives also the guests that the
    /// emulator ended.
    pub(super) fn repeat(&mut self, scenario: &Scenario, times: u32) -> (Tally, Vec<End>) {
        let (mut tally, mut ends) = (Tally::default(), Vec::new());
        for run in 1..=times {
            ui::step("test", &format!("{}: {run} of {times}", scenario.name));
            let run = self.attempt(scenario, false);
            tally.add(run.verdict.took, run.verdict.failure.as_deref());
            ends.extend(run.ends);
        }
        (tally, ends)
    }

    /// Runs a scenario on the machine there is, or on a new one.
    fn attempt(&mut self, scenario: &Scenario, may_retry: bool) -> Run {
        if self.setup.variant != scenario.variant() {
            self.switch_off();
            self.setup.variant = scenario.variant();
        }
        let mut logs = self.setup.suite.dir().join("logs/last");
        let mut seen = None;
        let mut began = Instant::now();
        let booted = match self.machine.take() {
            Some(machine) => Ok(machine),
            None => Machine::boot(&self.setup),
        };
        let played = booted.and_then(|mut machine| {
            machine.may_retry = may_retry;
            machine.settings.clone_from(&self.settings);
            logs.clone_from(&machine.logs);
            machine.ends.begin();
            seen = Some((machine.retries.clone(), machine.ends.clone()));
            began = Instant::now();
            scenario.run(machine)
        });
        let mut verdict = match played {
            Ok((verdict, left)) => {
                self.machine = left;
                verdict
            }
            Err(error) => failed(format!("{error:#}"), began.elapsed()),
        };
        let (mut retries, mut ended) = (Vec::new(), Vec::new());
        if let Some((tried, ends)) = seen {
            retries = tried.take();
            ended = ends.list();
            verdict.failure = verdict.failure.map(|why| ends.explain(&why).unwrap_or(why));
        }
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
        Run {
            verdict,
            retries,
            ends: ended,
        }
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

/// Makes another attempt as long as they fail: one, or more if it is the emulator that has ended a
/// guest and there is time. The reasons of those before the last are among what was tried again.
fn until_it_passes(
    name: &str,
    has_time: impl Fn() -> bool,
    mut attempt: impl FnMut() -> Run,
) -> Run {
    let (mut retries, mut ends) = (Vec::new(), Vec::new());
    let (mut tries, mut others) = (0, 0);
    loop {
        let mut run = attempt();
        tries += 1;
        retries.append(&mut run.retries);
        ends.append(&mut run.ends);
        let why = run.verdict.failure.take_if(|why| {
            others += usize::from(!is_emulator(why));
            tries < MOST_TRIES && others < 2 && (tries < 2 || has_time())
        });
        let Some(why) = why else {
            return Run {
                retries,
                ends,
                ..run
            };
        };
        ui::step("test", &format!("{name}: try {}", tries + 1));
        retries.push(why);
    }
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

    const ENDED: &str = "emulator: triple fault of guest wide (d7v1); no end";

    /// What comes of attempts that end like this, each with something that dom0 tried again: why it
    /// failed, if it did, what was tried again, and how many attempts were left.
    fn run(ends: &[Option<&str>]) -> (Option<String>, Vec<String>, usize) {
        run_until(ends, true)
    }

    /// The same with or without time for more than two.
    fn run_until(ends: &[Option<&str>], has_time: bool) -> (Option<String>, Vec<String>, usize) {
        let mut ends = ends.iter().enumerate();
        let run = until_it_passes(
            "hotplug",
            || has_time,
            || {
                let (number, end) = ends.next().expect("another attempt");
                let mut verdict = failed(end.unwrap_or_default().to_string(), Duration::ZERO);
                verdict.failure = verdict.failure.filter(|why| !why.is_empty());
                Run {
                    verdict,
                    retries: vec![format!("guest {}", number + 1)],
                    ends: Vec::new(),
                }
            },
        );
        (run.verdict.failure, run.retries, ends.len())
    }

    fn tried(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_scenario_that_fails_is_tried_twice_at_most_and_says_so() {
        assert_eq!(run(&[None, None]), (None, tried(&["guest 1"]), 1));
        let both = tried(&["guest 1", "no disk", "guest 2"]);
        assert_eq!(run(&[Some("no disk"), None, None]), (None, both.clone(), 1));
        let dead = Some("dead".to_string());
        assert_eq!(run(&[Some("no disk"), Some("dead"), None]), (dead, both, 1));
    }

    #[test]
    fn one_whose_guests_the_emulator_ends_is_tried_four_times_at_most() {
        let ended = Some(ENDED);
        let (failure, retries, left) = run(&[ended, ended, ended, None]);
        assert_eq!((failure, left), (None, 0));
        assert_eq!(retries.iter().filter(|why| is_emulator(why)).count(), 3);
        let (failure, _, left) = run(&[ended, ended, ended, ended, None]);
        assert_eq!((failure.as_deref(), left), (ended, 1));
        let (failure, _, left) = run_until(&[ended, ended, None], false);
        assert_eq!((failure.as_deref(), left), (ended, 1));
        // What else fails is still tried once more only.
        let (failure, retries, left) = run(&[ended, Some("no disk"), ended, Some("dead"), None]);
        assert_eq!((failure.as_deref(), left), (Some("dead"), 1));
        let expected = [
            "guest 1", ENDED, "guest 2", "no disk", "guest 3", ENDED, "guest 4",
        ];
        assert_eq!(retries, tried(&expected));
        let (failure, _, left) = run(&[Some("no disk"), ended, Some("dead"), None]);
        assert_eq!((failure.as_deref(), left), (Some("dead"), 1));
    }
}
