//! `restart`: what it keeps, whom it asks, and that it can be tried again.

use std::time::Duration;

use anyhow::Result;

use crate::create::{Failing, create};
use crate::destroy::{Destroy, destroy};
use crate::fake::{BDF, Fake, Fate, State, wanted};
use crate::plan::{Plan, Route};
use crate::restart::restart;
use crate::spindle::Spindle;

const PATIENCE: Duration = Duration::from_secs(30);

/// A domain that runs, and how everything was before it was created.
fn created(route: Route) -> (Fake, State) {
    let mut host = Fake::with_nvme("nvme");
    let before = host.state.clone();
    let mut wanted = wanted(route);
    wanted.knobs.push("queues=2".into());
    let plan = Plan::new(&mut host, &wanted, None).expect("a plan");
    create(&mut host, &plan, PATIENCE, Failing::Undo, &mut |_| {}).expect("created");
    host.mend();
    (host, before)
}

fn run(host: &mut Fake) -> Result<(Spindle, Vec<String>)> {
    attempt(host, false)
}

fn attempt(host: &mut Fake, force: bool) -> Result<(Spindle, Vec<String>)> {
    let shims = wanted(Route::Pvh).shims;
    restart(
        host,
        "spindle",
        (force, false),
        shims,
        PATIENCE,
        &mut |_| {},
    )
}

fn clean_up(host: &mut Fake, before: &State) {
    let args = Destroy {
        name: "spindle",
        force: false,
        keep_disk: false,
        patience: PATIENCE,
    };
    destroy(host, &args, &mut |_| {}).expect("ended");
    assert_eq!(&host.state, before);
}

#[test]
fn a_new_domain_takes_the_place_with_the_same_settings() {
    for route in [Route::Hvm, Route::Pvh] {
        let (mut host, before) = created(route);
        let old = host.state.clone();
        let (spindle, guests) = run(&mut host).expect("restarted");
        assert_ne!(spindle.id, old.domains[0].id);
        assert!(guests.is_empty() && host.made("xl shutdown"));
        assert!(!host.made("pci-assignable"), "dom0 must not see the disk");
        let source = "/run/spindlectl/spindle.cfg.source";
        assert_eq!(host.state.files[source], old.files[source], "{route:?}");
        clean_up(&mut host, &before);
    }
}

#[test]
fn guests_are_asked_for_first_and_by_force_cut_off_and_named() {
    let (mut host, before) = created(Route::Pvh);
    let id = host.state.domains[0].id;
    let guest = host.add_guest("web", id);
    let running = host.state.clone();
    let text = format!("{:#}", run(&mut host).expect_err("it is used"));
    assert!(
        text.contains("web (xvda)") && text.contains("xl save"),
        "{text}"
    );
    assert_eq!(host.state, running);
    let (_, guests) = attempt(&mut host, true).expect("restarted");
    assert_eq!(guests, ["web"]);
    assert!(host.made("xl destroy") && !host.made("xl shutdown"));
    // It waits for the old one, and is not forgotten at the next restart, or at the end.
    let (_, guests) = attempt(&mut host, true).expect("restarted");
    assert_eq!(guests, ["web"]);
    let text = format!("{:#}", run(&mut host).expect_err("it waits"));
    assert!(text.contains("web (xvda)"), "{text}");
    host.end(&guest.to_string());
    run(&mut host).expect("restarted");
    let note = &host.state.store["/tool/spindlectl/spindle"];
    assert!(
        note.contains("ids=7 "),
        "only those that can matter: {note}"
    );
    clean_up(&mut host, &before);
}

#[test]
fn the_disk_of_the_old_domain_is_no_obstacle() {
    let (mut host, _) = created(Route::Pvh);
    let id = host.state.domains[0].id;
    let node = format!("/local/domain/0/backend/pci/{id}/0/dev-0");
    assert_eq!(host.state.store[&node], BDF);
    assert!(run(&mut host).is_ok());
}

#[test]
fn a_domain_that_is_gone_is_made_again() {
    let (mut host, before) = created(Route::Pvh);
    host.end("spindle");
    assert!(run(&mut host).is_ok());
    clean_up(&mut host, &before);
}

#[test]
fn what_cannot_be_created_again_is_not_ended() {
    let refused = |host: &mut Fake, name: &str| {
        let running = host.state.clone();
        let result = restart(
            host,
            name,
            (false, false),
            Vec::new(),
            PATIENCE,
            &mut |_| {},
        );
        assert_eq!(host.state, running);
        format!("{:#}", result.expect_err("refused"))
    };
    let (mut host, _) = created(Route::Hvm);
    host.state.files.remove("/usr/lib/spindle/spindle.elf");
    assert!(refused(&mut host, "spindle").contains("no image"));
    assert!(refused(&mut host, "other").contains("did not create"));
    // Another has its name by now.
    let (mut host, _) = created(Route::Hvm);
    host.end("spindle");
    host.add_domain("spindle", "another");
    assert!(refused(&mut host, "spindle").contains("runs already"));
    let (mut host, _) = created(Route::Hvm);
    let source = "/run/spindlectl/spindle.cfg.source";
    let text = host.state.files[source].replace("\"spindle\"", "\"other\"");
    host.put(source, &text);
    assert!(refused(&mut host, "spindle").contains("is about other, not spindle"));
    host.state.files.remove(source);
    assert!(refused(&mut host, "spindle").contains("`spindlectl create`"));
}

#[test]
fn a_restart_that_fails_keeps_all_for_the_next_and_the_disk_away_from_dom0() {
    for fate in [Fate::Hangs, Fate::Dies, Fate::FindsNoDisk] {
        for route in [Route::Hvm, Route::Pvh] {
            let (mut host, before) = created(route);
            let knobs =
                |host: &Fake| host.state.files["/run/spindlectl/spindle.cfg.source"].clone();
            let settings = knobs(&host);
            host.fate = fate;
            for _ in 0..2 {
                let text = format!("{:#}", run(&mut host).expect_err("it fails"));
                for word in [
                    "spindlectl restart spindle",
                    "stays with xen-pciback",
                    "has ended",
                ] {
                    assert!(text.contains(word), "{text}");
                }
                assert!(!text.contains("as before"), "{text}");
                assert_eq!(
                    (host.driver(), host.state.domains.len()),
                    (Some("pciback"), 0)
                );
                assert!(!host.made("pci-assignable"));
                assert_eq!(knobs(&host), settings);
            }
            host.fate = Fate::Serves;
            run(&mut host).expect("restarted");
            clean_up(&mut host, &before);
        }
    }
}

#[test]
fn what_an_earlier_version_let_two_records_claim_is_in_one_hand_all_the_same() {
    let (mut host, _) = created(Route::Pvh);
    let uuid = "0a1b2c3d-0000-4000-8000-0000000000aa";
    host.store(
        "/tool/spindlectl/old",
        &format!("uuid={uuid} ids= taken={BDF}/nvme"),
    );
    run(&mut host).expect("restarted");
    assert_eq!(host.driver(), Some("pciback"));
}

#[test]
fn a_renamed_domain_is_restarted_under_its_first_name() {
    for name in ["spindle", "store"] {
        let (mut host, before) = created(Route::Pvh);
        host.rename("spindle", "store");
        let shims = wanted(Route::Pvh).shims;
        let restarted = restart(
            &mut host,
            name,
            (false, false),
            shims,
            PATIENCE,
            &mut |_| {},
        );
        assert_eq!(restarted.expect("restarted").0.name, "spindle");
        assert_eq!(host.state.domains.len(), 1);
        clean_up(&mut host, &before);
    }
}

#[test]
fn what_was_taken_stays_noted_whatever_becomes_of_the_configuration() {
    let (mut host, before) = created(Route::Hvm);
    let source = "/run/spindlectl/spindle.cfg.source";
    let text = host.state.files[source].clone();
    let without: String = text
        .lines()
        .filter(|line| !line.starts_with("pci"))
        .collect::<Vec<_>>()
        .join("\n");
    host.put(source, &without);
    run(&mut host).expect("restarted");
    clean_up(&mut host, &before);
}
