//! Running plans, catching what fails, and making a failing plan smaller.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use spindle_hw::SharedPages;

use crate::life::{Life, Outcome, Stop};
use crate::limit::Limit;
use crate::plan::Plan;
use crate::trace;

/// What was found wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run.
    pub plan: Plan,
    /// What is wrong.
    pub reason: String,
    /// The last moments before it.
    pub timeline: Vec<String>,
    /// What was counted until then.
    pub outcome: Outcome,
}

/// Runs plans one after the other. Memory of guests is used again; other memory is not given back, so
/// that a process should not run more than some hundreds.
#[derive(Debug, Default)]
pub struct Runner {
    spare: Vec<SharedPages>,
    deadline: Option<Limit>,
}

impl Runner {
    /// Stops runs at some moment. One that is stopped has not failed, and is not
    /// [`whole`](Outcome::whole).
    pub fn stop_at(&mut self, deadline: Option<Limit>) {
        self.deadline = deadline;
    }

    /// Runs a plan.
    ///
    /// # Errors
    /// What a judge, a model or an assertion of the domain found wrong.
    pub fn run(&mut self, plan: &Plan) -> Result<Outcome, Box<Failure>> {
        trace::begin();
        trace::take_log();
        watch_panics();
        let mut life = Life::new(plan, std::mem::take(&mut self.spare), self.deadline);
        RUNNING.set(true);
        let lived =
            panic::catch_unwind(AssertUnwindSafe(|| life.live(plan.seconds * 1_000_000_000)));
        RUNNING.set(false);
        let mut outcome = life.outcome();
        let reason = match lived {
            Ok(Ok(())) => {
                self.spare = life.into_spare();
                outcome.whole = true;
                return Ok(outcome);
            }
            Ok(Err(Stop::NoTime)) => return Ok(outcome),
            Ok(Err(Stop::Wrong(reason))) => reason,
            Err(panicked) => {
                let text = panicked.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panicked.downcast_ref::<&str>().map(|t| (*t).into()));
                // Its destructors may find a lock poisoned.
                std::mem::forget(life);
                format!("panic: {}", text.unwrap_or_default())
            }
        };
        Err(Box::new(Failure {
            plan: plan.clone(),
            reason,
            timeline: trace::timeline(),
            outcome,
        }))
    }

    /// Makes a failure smaller: fewer kinds of faults, less time, fewer guests and cores, as long as
    /// the run still fails, with `tries` runs at most. What [`Self::stop_at`] stops did not fail.
    pub fn shrink(&mut self, failure: Box<Failure>, tries: usize) -> Box<Failure> {
        let (mut best, mut left) = (failure, tries);
        'smaller: loop {
            for plan in best.plan.smaller() {
                if left == 0 {
                    return best;
                }
                left -= 1;
                if let Err(smaller) = self.run(&plan) {
                    best = smaller;
                    continue 'smaller;
                }
            }
            return best;
        }
    }
}

thread_local! {
    /// Whether this thread is in a run.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Has a panic in a run noted in the timeline instead of printed.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| match info.location() {
            Some(place) if RUNNING.get() => trace::text(format!("panic at {place}")),
            _ => usual(info),
        }));
    });
}
