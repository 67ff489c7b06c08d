//! `destroy`: what it gives back, what it refuses, and which domain it means.

use std::time::Duration;

use anyhow::Result;

use crate::create::{Failing, create};
use crate::destroy::{Destroy, destroy};
use crate::fake::{BDF, Failure, Fake, State, wanted};
use crate::plan::{Plan, Route};

const PATIENCE: Duration = Duration::from_secs(30);
const RUN: Destroy<'_> = Destroy {
    name: "spindle",
    force: false,
    keep_disk: false,
    patience: PATIENCE,
};

fn created(route: Route, driver: &str) -> (Fake, State) {
    let mut host = Fake::with_nvme(driver);
    let before = host.state.clone();
    let plan = Plan::new(&mut host, &wanted(route), None).expect("a plan");
    create(&mut host, &plan, PATIENCE, Failing::Undo, &mut |_| {}).expect("created");
    host.mend();
    (host, before)
}

fn attempt(host: &mut Fake, args: &Destroy<'_>) -> Result<()> {
    destroy(host, args, &mut |_| {})
}

fn run(host: &mut Fake) -> Result<()> {
    attempt(host, &RUN)
}

fn refusal(host: &mut Fake, args: &Destroy<'_>) -> String {
    let before = host.state.clone();
    let error = attempt(host, args).expect_err("refused");
    assert_eq!(host.state, before, "nothing is done");
    format!("{error:#}")
}

#[test]
fn everything_is_as_before_the_domain_was_created() {
    for route in [Route::Hvm, Route::Pvh] {
        for driver in ["nvme", "pciback", ""] {
            let (mut host, before) = created(route, driver);
            run(&mut host).expect("destroyed");
            assert_eq!(host.state, before, "{route:?} {driver}");
            assert!(host.made("xl shutdown 3") && !host.made("destroy"));
        }
    }
}

#[test]
fn what_is_reported_is_what_is_there() {
    let (mut host, _) = created(Route::Pvh, "nvme");
    let mut said = Vec::new();
    destroy(&mut host, &RUN, &mut |line| said.push(line.to_string())).expect("destroyed");
    let expected = [
        "xl shutdown 3",
        "0000:01:00.0 is with the driver nvme",
        "spindle has ended",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_disk_can_be_kept_from_dom0() {
    let (mut host, _) = created(Route::Pvh, "nvme");
    let keep = Destroy {
        keep_disk: true,
        ..RUN
    };
    attempt(&mut host, &keep).expect("destroyed");
    assert_eq!(host.driver(), Some("pciback"));
    assert!(!host.made("pci-assignable"));
    assert!(host.state.domains.is_empty());
    assert!(
        host.state
            .store
            .keys()
            .all(|path| !path.starts_with("/tool"))
    );
    // Also one that a cut off xl has left without a driver.
    let (mut host, _) = created(Route::Pvh, "nvme");
    host.end("spindle");
    host.state.drivers.remove(BDF);
    attempt(&mut host, &keep).expect("destroyed");
    assert_eq!(host.driver(), Some("pciback"));
}

#[test]
fn a_disk_without_a_driver_is_found_and_given_back() {
    for note in [true, false] {
        let (mut host, before) = created(Route::Pvh, "nvme");
        host.end("spindle");
        host.state.drivers.remove(BDF);
        host.state.quarantined.clear();
        if !note {
            host.state.store.remove(&format!("/libxl/pciback/{BDF}"));
        }
        run(&mut host).expect("cleaned up");
        assert_eq!(host.state, before, "{note}");
    }
    // Where xl does nothing and there is no such driver any more, that is said.
    let (mut host, _) = created(Route::Pvh, "nvme");
    host.end("spindle");
    let mut clean = host.clone();
    run(&mut clean).expect("cleaned up");
    let at = clean
        .calls
        .iter()
        .position(|c| c.text.contains("pci-assignable-remove"));
    for call in at.expect("it was given back")..1000 {
        host.fail(call, Failure::Before);
    }
    let before = host.state.clone();
    let text = format!("{:#}", run(&mut host).expect_err("xl fails"));
    assert!(
        text.contains("cannot look at") && text.contains("spindlectl destroy spindle"),
        "{text}"
    );
    assert_eq!(host.state, before);
}

#[test]
fn a_domain_that_xl_cannot_reach_or_that_does_not_listen_ends_all_the_same() {
    let (mut host, before) = created(Route::Hvm, "nvme");
    host.shutdown_refused = true;
    run(&mut host).expect("destroyed");
    assert_eq!(host.state, before);
    let (mut host, before) = created(Route::Pvh, "nvme");
    host.deaf = true;
    run(&mut host).expect("destroyed");
    assert_eq!(host.state, before);
}

#[test]
fn a_domain_that_ended_by_itself_is_cleaned_up_after() {
    let (mut host, before) = created(Route::Pvh, "nvme");
    host.end("spindle");
    run(&mut host).expect("cleaned up");
    assert_eq!(host.state, before);
    assert!(refusal(&mut host, &RUN).contains("no domain spindle"));
}

#[test]
fn guests_are_asked_for_first() {
    let (mut host, before) = created(Route::Pvh, "nvme");
    let id = host.state.domains[0].id;
    let backend = format!("/local/domain/{id}/backend/vbd/9/51712");
    host.store(&format!("{backend}/state"), "4");
    host.store(&format!("{backend}/dev"), "xvda\x1b[2J");
    let text = refusal(&mut host, &RUN);
    assert!(
        text.contains("9 (xvda?[2J)") && text.contains("--force"),
        "{text}"
    );
    let force = Destroy { force: true, ..RUN };
    attempt(&mut host, &force).expect("destroyed");
    assert_eq!(host.state, before);
}

#[test]
fn a_disk_that_guests_still_have_stays_away_from_dom0_unless_they_go() {
    let (mut host, _) = created(Route::Pvh, "nvme");
    let id = host.state.domains[0].id;
    let guest = host.add_guest("web", id);
    let force = Destroy { force: true, ..RUN };
    let text = format!("{:#}", attempt(&mut host, &force).expect_err("it is used"));
    for word in ["web (xvda)", BDF, "spindle has ended", "--keep-disk"] {
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(
        (host.state.domains.len(), host.driver()),
        (1, Some("pciback"))
    );
    let mut kept = host.clone();
    let keep = Destroy {
        keep_disk: true,
        ..force
    };
    attempt(&mut kept, &keep).expect("cleaned up");
    assert_eq!(kept.driver(), Some("pciback"));
    host.end(&guest.to_string());
    run(&mut host).expect("cleaned up");
    assert_eq!(host.driver(), Some("nvme"));
}

#[test]
fn a_note_that_does_not_say_which_domain_it_was_counts_any_that_is_gone() {
    let (mut host, _) = created(Route::Pvh, "nvme");
    let id = host.state.domains[0].id;
    host.add_guest("web", id);
    let note = host.state.store["/tool/spindlectl/spindle"].replace("ids=3 ", "");
    host.store("/tool/spindlectl/spindle", &note);
    // Ended by force, the number is noted first.
    let mut forced = host.clone();
    let force = Destroy { force: true, ..RUN };
    attempt(&mut forced, &force).expect_err("it is used");
    assert!(forced.state.store["/tool/spindlectl/spindle"].contains("ids=3 "));
    host.end("spindle");
    for mut host in [forced, host] {
        let text = refusal(&mut host, &force);
        assert!(text.contains("web (xvda)"), "{text}");
        assert_eq!(host.driver(), Some("pciback"));
    }
}

#[test]
fn a_domain_whose_note_is_lost_is_cleaned_up_after_all_the_same() {
    for running in [true, false] {
        let (mut host, before) = created(Route::Pvh, "pciback");
        host.state.store.remove("/tool/spindlectl/spindle");
        let id = host.state.domains[0].id;
        let guest = host.add_guest("web", id);
        if running {
            assert!(refusal(&mut host, &RUN).contains("web (xvda)"));
        } else {
            host.end("spindle");
        }
        host.end(&guest.to_string());
        let backends = "/backend/vbd";
        host.state.store.retain(|path, _| !path.contains(backends));
        run(&mut host).expect("cleaned up");
        assert_eq!(host.state, before);
    }
    // Who had the disk is lost with it: it stays where no guest's data are read.
    let (mut host, _) = created(Route::Pvh, "nvme");
    host.state.store.remove("/tool/spindlectl/spindle");
    run(&mut host).expect("cleaned up");
    assert_eq!(host.driver(), Some("pciback"));
    // What is no configuration of ours is not guessed at.
    host.put("/run/spindlectl/x.cfg", "name='x'");
    assert!(refusal(&mut host, &RUN).contains("/run/spindlectl/x.cfg is no configuration"));
}

#[test]
fn a_domain_is_known_by_its_uuid_whatever_it_is_called() {
    for name in ["spindle", "store"] {
        let (mut host, before) = created(Route::Pvh, "nvme");
        host.rename("spindle", "store");
        attempt(&mut host, &Destroy { name, ..RUN }).expect("destroyed");
        assert_eq!(host.state, before, "{name}");
    }
    // Another one has taken the name.
    let (mut host, _) = created(Route::Pvh, "nvme");
    host.rename("spindle", "store");
    host.add_domain("spindle", "another");
    let text = refusal(&mut host, &RUN);
    assert!(text.contains("spindle is two domains"), "{text}");
    attempt(
        &mut host,
        &Destroy {
            name: "store",
            ..RUN
        },
    )
    .expect("destroyed");
    assert_eq!((host.state.domains.len(), host.driver()), (1, Some("nvme")));
    // And is left alone when ours has died.
    let (mut host, _) = created(Route::Pvh, "nvme");
    host.end("spindle");
    host.add_domain("spindle", "another");
    run(&mut host).expect("cleaned up");
    assert_eq!((host.state.domains.len(), host.driver()), (1, Some("nvme")));
}

#[test]
fn a_disk_that_another_domain_has_by_now_stays_with_it() {
    let (mut host, _) = created(Route::Pvh, "nvme");
    host.end("spindle");
    let id = host.add_domain("other", "another");
    host.store(&format!("/local/domain/0/backend/pci/{id}/0/dev-0"), BDF);
    let before = host.state.clone();
    let text = format!("{:#}", run(&mut host).expect_err("it is used"));
    assert!(
        text.contains(&format!("domain {id} (other) has {BDF}")),
        "{text}"
    );
    assert!(text.contains("spindlectl destroy spindle"), "{text}");
    assert_eq!(host.state, before);
    let mut kept = host.clone();
    let keep = Destroy {
        keep_disk: true,
        ..RUN
    };
    attempt(&mut kept, &keep).expect("forgotten");
    assert_eq!(
        (kept.state.domains.len(), kept.driver()),
        (1, Some("pciback"))
    );
    host.end("other");
    run(&mut host).expect("cleaned up");
    assert_eq!(host.driver(), Some("nvme"));
}

#[test]
fn a_disk_whose_registers_another_domain_has_is_not_given_back() {
    let (mut host, _) = created(Route::Pvh, "nvme");
    host.end("spindle");
    host.add_mapped("hand", "0a1b2c3d-0000-4000-8000-0000000000aa");
    let text = format!("{:#}", run(&mut host).expect_err("it is mapped"));
    assert!(
        text.contains("(hand) has registers of 0000:01:00.0"),
        "{text}"
    );
    assert_eq!(host.driver(), Some("pciback"));
    host.end("hand");
    run(&mut host).expect("cleaned up");
    assert_eq!(host.driver(), Some("nvme"));
}

#[test]
fn other_domains_are_left_alone() {
    let mut host = Fake::with_nvme("nvme");
    host.add_domain("spindle", "not-a-spindle");
    let force = Destroy { force: true, ..RUN };
    assert!(refusal(&mut host, &force).contains("no Spindle"));
    let dom0 = Destroy {
        name: "Domain-0",
        ..force
    };
    assert!(refusal(&mut host, &dom0).contains("dom0 itself"));
}
