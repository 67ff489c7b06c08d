//! Every call of `create`, `destroy` and `restart` goes wrong in every way: it fails before, in the
//! middle of, or after its effect, it lies, or `spindlectl` is killed there or asked to stop. The
//! fake dom0 panics if a disk is ever in two hands, or in dom0's while a guest uses it. Here it is
//! looked at what is reported, and what the next try makes of it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use anyhow::Result;
use proptest::prelude::*;

use crate::create::{self, Failing};
use crate::destroy::{self, Destroy};
use crate::fake::{BDF, Failure, Fake, Killed, Made, wanted};
use crate::plan::{Plan, Route};
use crate::restart;

const PATIENCE: Duration = Duration::from_secs(30);
const ROUTES: [Route; 2] = [Route::Hvm, Route::Pvh];
const DRIVERS: [&str; 3] = ["nvme", "pciback", ""];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create(Route),
    Destroy,
    Restart,
}

fn run(host: &mut Fake, verb: Verb, force: bool) -> Result<()> {
    match verb {
        Verb::Create(route) => {
            let plan = Plan::new(host, &wanted(route), None)?;
            create::create(host, &plan, PATIENCE, Failing::Undo, &mut |_| {}).map(drop)
        }
        Verb::Destroy => {
            let args = Destroy {
                name: "spindle",
                force,
                keep_disk: false,
                patience: PATIENCE,
            };
            destroy::destroy(host, &args, &mut |_| {})
        }
        Verb::Restart => {
            let shims = wanted(Route::Pvh).shims;
            restart::restart(
                host,
                "spindle",
                (force, false),
                shims,
                PATIENCE,
                &mut |_| {},
            )
            .map(drop)
        }
    }
}

/// A machine on which the verb can be run, and one on which nothing was ever done.
fn ready(verb: Verb, route: Route, driver: &str) -> (Fake, Fake) {
    let clean = Fake::with_nvme(driver);
    let mut host = clean.clone();
    if !matches!(verb, Verb::Create(_)) {
        run(&mut host, Verb::Create(route), false).expect("created");
    }
    host.mend();
    (host, clean)
}

fn cases() -> impl Iterator<Item = (Verb, Route, &'static str)> {
    ROUTES.into_iter().flat_map(|route| {
        let verbs = [Verb::Create(route), Verb::Destroy, Verb::Restart];
        verbs
            .into_iter()
            .flat_map(move |verb| DRIVERS.map(|driver| (verb, route, driver)))
    })
}

/// Every call of a verb, in all the ways in which it can go wrong: a look has no halves.
fn ways(host: &Fake, verb: Verb) -> Vec<(usize, Failure)> {
    let mut host = host.clone();
    run(&mut host, verb, false).expect("nothing goes wrong");
    let calls = host.calls.iter().enumerate();
    let ways = calls.flat_map(|(call, made)| {
        let fits = move |how: &Failure| made.changes || !matches!(how, Failure::Half(_));
        let kinds = Failure::KINDS.into_iter().filter(fits);
        kinds.map(move |how| (call, how))
    });
    ways.collect()
}

/// What must hold after a verb that went wrong, whatever it was: the report is true, and the next
/// tries come to a good end.
fn check(mut host: Fake, clean: &Fake, verb: Verb, result: &Result<()>, what: &str) {
    let text = result
        .as_ref()
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    let what = format!("{what}: {text}");
    let as_before = host.state == clean.state;
    host.mend();
    match verb {
        Verb::Create(_) => {
            if text.contains("everything is as before") {
                assert!(as_before, "{what}");
            }
            if result.is_err() && !as_before {
                assert!(text.contains("spindlectl destroy spindle"), "{what}");
            }
        }
        Verb::Destroy => assert_eq!(result.is_ok(), as_before, "{what}"),
        Verb::Restart => {
            assert_ne!(
                host.driver(),
                Some("nvme"),
                "dom0 must not see the disk: {what}"
            );
            if result.is_err() && host.state.domains.is_empty() {
                assert!(text.contains("spindlectl restart spindle"), "{what}");
            }
            run(&mut host, Verb::Restart, false).unwrap_or_else(|e| panic!("{what}: then {e:#}"));
        }
    }
    if host.state != clean.state {
        run(&mut host, Verb::Destroy, false).unwrap_or_else(|e| panic!("{what}: then {e:#}"));
    }
    assert_eq!(host.state, clean.state, "{what}");
    // As good as new.
    run(&mut host, Verb::Create(Route::Pvh), false).unwrap_or_else(|e| panic!("{what}: {e:#}"));
}

#[test]
fn whatever_call_goes_wrong_the_report_is_true_and_the_next_try_works() {
    for (verb, route, driver) in cases() {
        let (ready, clean) = ready(verb, route, driver);
        for (call, how) in ways(&ready, verb) {
            let mut host = ready.clone();
            host.failures.insert(call, how);
            let result = run(&mut host, verb, false);
            let made = host.calls.get(call).map(|made| made.text.clone());
            check(
                host,
                &clean,
                verb,
                &result,
                &format!("{verb:?} {route:?} {driver} {how:?} {made:?}"),
            );
        }
    }
}

#[test]
fn wherever_it_is_asked_to_stop_it_stops_in_order() {
    for (verb, route, driver) in cases() {
        let (ready, clean) = ready(verb, route, driver);
        let calls: BTreeSet<usize> = ways(&ready, verb)
            .into_iter()
            .map(|(call, _)| call)
            .collect();
        for call in calls {
            let mut host = ready.clone();
            host.interrupt = Some(call);
            let result = run(&mut host, verb, false);
            // What already runs is waited for.
            let begun = |made: &Made| made.text.starts_with("xl unpause");
            if matches!(verb, Verb::Create(_)) && !host.calls[..=call].iter().any(begun) {
                result.as_ref().expect_err("it was asked to stop");
            }
            check(
                host,
                &clean,
                verb,
                &result,
                &format!("{verb:?} {route:?} {driver} at {call}"),
            );
        }
    }
}

/// Runs a verb that is killed in a call.
fn killed(host: &mut Fake, verb: Verb, call: usize, how: Failure) {
    host.killed = Some((call, how));
    let ended = catch_unwind(AssertUnwindSafe(|| run(host, verb, false)));
    if let Err(cause) = ended
        && !cause.is::<Killed>()
    {
        resume_unwind(cause);
    }
    host.mend();
}

#[test]
fn wherever_it_is_killed_each_verb_goes_on_from_there() {
    for (verb, route, driver) in cases() {
        let (ready, clean) = ready(verb, route, driver);
        for (call, how) in ways(&ready, verb) {
            let mut left = ready.clone();
            killed(&mut left, verb, call, how);
            let what = format!("{verb:?} {route:?} {driver} {call} {how:?}");
            if left.state.store.contains_key("/tool/spindlectl/spindle") {
                let source = "/run/spindlectl/spindle.cfg.source";
                if left.state.files.contains_key(source) {
                    let mut host = left.clone();
                    run(&mut host, Verb::Restart, false)
                        .unwrap_or_else(|e| panic!("{what}: {e:#}"));
                }
                let mut host = left;
                run(&mut host, Verb::Destroy, false).unwrap_or_else(|e| panic!("{what}: {e:#}"));
                assert_eq!(host.state, clean.state, "{what}");
            } else {
                // Nothing was done yet, or nothing is left.
                assert_eq!(left.state, clean.state, "{what}");
            }
        }
    }
}

#[test]
fn no_failure_ends_a_domain_whose_disks_a_guest_uses() {
    for verb in [Verb::Destroy, Verb::Restart] {
        for route in ROUTES {
            let (mut ready, _) = ready(verb, route, "nvme");
            let id = ready.state.domains[0].id;
            ready.add_guest("web", id);
            let mut clean = ready.clone();
            let text = format!(
                "{:#}",
                run(&mut clean, verb, false).expect_err("it is used")
            );
            assert!(
                text.contains("web (xvda)") && text.contains("--force"),
                "{text}"
            );
            for (call, how) in Failure::all(clean.calls.len()) {
                let mut host = ready.clone();
                host.failures.insert(call, how);
                run(&mut host, verb, false).expect_err("it is used");
                assert_eq!(host.state, ready.state, "{verb:?} {route:?} {call} {how:?}");
            }
        }
    }
}

#[test]
fn the_word_of_dom0_counts_where_the_domain_says_that_its_guests_are_gone() {
    for verb in [Verb::Destroy, Verb::Restart] {
        let (mut host, _) = ready(verb, Route::Pvh, "nvme");
        let id = host.state.domains[0].id;
        let guest = host.add_guest("web", id);
        host.store(
            &format!("/local/domain/{id}/backend/vbd/{guest}/51712/state"),
            "6",
        );
        let text = format!("{:#}", run(&mut host, verb, false).expect_err("it is used"));
        assert!(text.contains("web (xvda)"), "{text}");
        // Nor does it help to show nothing at all.
        host.state
            .store
            .retain(|path, _| !path.contains("/data/spindle"));
        let text = format!("{:#}", run(&mut host, verb, false).expect_err("it is used"));
        assert!(text.contains("web (xvda)"), "{text}");
    }
}

#[test]
fn a_disk_that_guests_wait_for_is_kept_from_dom0_whatever_fails() {
    for route in ROUTES {
        let (mut ready, clean) = ready(Verb::Destroy, route, "nvme");
        let id = ready.state.domains[0].id;
        let guest = ready.add_guest("web", id);
        ready.end("spindle");
        let mut host = ready.clone();
        let text = format!(
            "{:#}",
            run(&mut host, Verb::Destroy, true).expect_err("it is used")
        );
        assert!(
            text.contains("web (xvda)") && text.contains("--keep-disk"),
            "{text}"
        );
        for (call, how) in Failure::all(host.calls.len()) {
            let mut host = ready.clone();
            host.failures.insert(call, how);
            run(&mut host, Verb::Destroy, true).expect_err("it is used");
            assert_eq!(host.driver(), Some("pciback"), "{call} {how:?}");
        }
        host.end(&guest.to_string());
        run(&mut host, Verb::Destroy, false).expect("cleaned up");
        host.state
            .store
            .retain(|path, _| !path.contains("/backend/vbd"));
        assert_eq!(host.state, clean.state);
    }
}

#[test]
fn what_takes_effect_late_is_waited_for() {
    for ((verb, route, driver), deaf) in cases().zip([true, false].into_iter().cycle()) {
        let (mut host, clean) = ready(verb, route, driver);
        host.late = true;
        host.deaf = deaf;
        let result = run(&mut host, verb, false);
        result.as_ref().expect("late is not never");
        host.late = false;
        host.deaf = false;
        check(
            host,
            &clean,
            verb,
            &result,
            &format!("{verb:?} {route:?} {driver}"),
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_failures_in_any_number_of_tries_can_be_mended(
        tries in prop::collection::vec(
            (0..3usize, any::<bool>(), prop::collection::btree_map(0..80usize, 0..6usize, 0..4)),
            1..5,
        ),
        route in prop::sample::select(ROUTES.to_vec()),
        driver in prop::sample::select(DRIVERS.to_vec()),
    ) {
        let clean = Fake::with_nvme(driver);
        let mut host = clean.clone();
        for (verb, deaf, failures) in tries {
            let verb = [Verb::Create(route), Verb::Destroy, Verb::Restart][verb];
            host.mend();
            host.deaf = deaf;
            let failures = failures.into_iter().map(|(call, how)| (call, Failure::KINDS[how]));
            host.failures = failures.collect();
            let result = run(&mut host, verb, false);
            let there = host.state.domains.iter().any(|domain| domain.name == "spindle");
            match verb {
                Verb::Destroy => prop_assert!(result.is_err() || host.state.essence() == clean.state),
                _ => prop_assert!(result.is_err() || there),
            }
        }
        host.mend();
        if host.state.essence() != clean.state {
            let ended = run(&mut host, Verb::Destroy, false);
            prop_assert!(ended.is_ok(), "{:#} {:?}", ended.expect_err("it failed"), host.state);
        }
        prop_assert_eq!(&host.state.essence(), &clean.state);
        prop_assert_eq!(host.driver().unwrap_or_default(), driver, "{}", BDF);
    }
}
