//! A few whole lives from fixed seeds, and that the same plan gives the same run.

use std::time::{Duration, Instant};

use spindle_simulate::faults::Kind;
use spindle_simulate::limit::Limit;
use spindle_simulate::plan::{Plan, Scenario};
use spindle_simulate::run::Runner;

/// A short plan with a few guests.
fn plan(seed: u64, scenario: &str) -> Plan {
    let scenario = Scenario::find(scenario).expect("a scenario of this name");
    let mut plan = Plan::draw(seed, &scenario);
    plan.seconds = 20;
    plan.guests = plan.guests.min(4);
    plan
}

#[test]
fn domains_live_through_whatever_happens() {
    let mut runner = Runner::default();
    for scenario in ["all", "guests", "disks", "calm"] {
        if let Err(failure) = runner.run(&plan(0, scenario)) {
            let timeline = failure.timeline.join("\n");
            panic!("{}\n{timeline}\n{}", failure.reason, failure.plan);
        }
    }
}

/// Each of these has found a fault, which is cured.
#[test]
fn domains_live_through_what_was_found() {
    use Kind::{Death, Removed, Update};
    let plan = |seed, cores, guests, seconds, kinds: &[Kind]| Plan {
        seed,
        cores,
        guests,
        seconds,
        timeout_s: 2,
        kinds: kinds.to_vec(),
    };
    let plans = [
        // A disk loses its cache before a life has taken up the devices on it.
        plan(411, 7, 6, 85, &[Removed, Death]),
        // A disk is away while the kernel dies. All kinds that there were then.
        plan(7_700_124, 5, 2, 20, &Kind::ALL[..=Update as usize]),
    ];
    let mut runner = Runner::default();
    for plan in plans {
        if let Err(failure) = runner.run(&plan) {
            panic!("{}\n{}", failure.reason, failure.plan);
        }
    }
}

#[test]
fn the_same_plan_gives_the_same_run_in_whatever_company() {
    let mut runner = Runner::default();
    let plan = plan(10, "all");
    let mut other = plan.clone();
    other.seed = 8;
    let [first, different, second] =
        [&plan, &other, &plan].map(|plan| runner.run(plan).expect("nothing is wrong"));
    assert!(first.tally.answered > 0 && first.faults.iter().sum::<u64>() > 0);
    assert_eq!(first.hash, second.hash);
    assert_eq!(first.steps, second.steps);
    assert_ne!(first.hash, different.hash);
}

#[test]
fn a_run_that_has_no_time_left_neither_passes_nor_fails() {
    let mut runner = Runner::default();
    let mut plan = plan(7, "all");
    // More virtual time than the longest test could take.
    plan.seconds = 1_000_000;
    let start = Instant::now();
    runner.stop_at(Some(Limit::Real(start + Duration::from_millis(200))));
    let stopped = runner.run(&plan).expect("nothing is wrong");
    assert!(!stopped.whole && stopped.steps > 0);
    assert!(start.elapsed() < Duration::from_secs(20));
    runner.stop_at(None);
    plan.seconds = 5;
    assert!(runner.run(&plan).expect("nothing is wrong").whole);
}
