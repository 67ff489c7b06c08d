//! `create`: what it comes to, and what is refused or taken back.

use std::time::Duration;

use anyhow::Result;

use crate::create::{Failing, create};
use crate::destroy::{self, Destroy};
use crate::fake::{BDF, Failure, Fake, Fate, wanted};
use crate::host::Host;
use crate::plan::{Plan, Route};
use crate::spindle::Spindle;

const PATIENCE: Duration = Duration::from_secs(30);

fn attempt(host: &mut Fake, route: Route, failing: Failing) -> Result<Spindle> {
    let plan = Plan::new(host, &wanted(route), None)?;
    host.calls.clear();
    create(host, &plan, PATIENCE, failing, &mut |_| {})
}

fn run(host: &mut Fake, route: Route) -> Result<Spindle> {
    attempt(host, route, Failing::Undo)
}

fn clean_up(host: &mut Fake) {
    let args = Destroy {
        name: "spindle",
        force: false,
        keep_disk: false,
        patience: PATIENCE,
    };
    destroy::destroy(host, &args, &mut |_| {}).expect("cleaned up");
}

#[test]
fn both_routes_end_with_a_domain_that_serves_its_disk() {
    for route in [Route::Hvm, Route::Pvh] {
        for driver in ["nvme", "pciback", ""] {
            let mut host = Fake::with_nvme(driver);
            let spindle = run(&mut host, route).expect("created");
            assert_eq!(spindle.targets.len(), 1, "{route:?} {driver}");
            assert!(host.state.store["/tool/spindlectl/spindle"].contains("ids=3 "));
        }
    }
}

#[test]
fn what_could_not_be_undone_is_left_to_destroy() {
    for route in [Route::Hvm, Route::Pvh] {
        let mut clean = Fake::with_nvme("nvme");
        run(&mut clean, route).expect("created");
        for (call, how) in Failure::all(clean.calls.len()) {
            for (again, how_again) in (0..12).zip(Failure::KINDS.into_iter().cycle().skip(call)) {
                let mut host = Fake::with_nvme("nvme");
                let before = host.state.essence();
                let plan = Plan::new(&mut host, &wanted(route), None).expect("a plan");
                host.fail(call, how);
                host.fail(call + 1 + again, how_again);
                let result = create(&mut host, &plan, PATIENCE, Failing::Undo, &mut |_| {});
                let Err(error) = result else { continue };
                host.mend();
                if host.state.essence() != before {
                    let text = format!("{error:#}");
                    assert!(text.contains("spindlectl destroy spindle"), "{text}");
                    assert!(
                        !text.contains("as before"),
                        "{text} {:?} {before:?}",
                        host.state
                    );
                    clean_up(&mut host);
                }
                assert_eq!(
                    host.state.essence(),
                    before,
                    "{route:?} {call} {how:?} {again} {how_again:?}"
                );
            }
        }
    }
}

#[test]
fn a_disk_stays_with_xen_pciback_as_long_as_the_domain_cannot_be_ended() {
    let mut host = Fake::with_nvme("nvme");
    let before = host.state.clone();
    let plan = Plan::new(&mut host, &wanted(Route::Pvh), None).expect("a plan");
    let mut clean = host.clone();
    clean.calls.clear();
    create(&mut clean, &plan, PATIENCE, Failing::Undo, &mut |_| {}).expect("created");
    let attach = clean
        .calls
        .iter()
        .position(|c| c.text.starts_with("xl pci-attach"));
    // xl fails for good, from the attachment on.
    for call in attach.expect("it was attached")..1000 {
        host.fail(call, Failure::Before);
    }
    let error = create(&mut host, &plan, PATIENCE, Failing::Undo, &mut |_| {});
    let text = format!("{:#}", error.expect_err("xl fails"));
    assert!(text.contains("spindlectl destroy spindle"), "{text}");
    assert_eq!(
        (host.driver(), host.state.domains.len()),
        (Some("pciback"), 1)
    );
    host.mend();
    clean_up(&mut host);
    assert_eq!(host.state, before);
}

#[test]
fn a_shim_without_effect_is_found_out_before_the_disk_may_do_anything() {
    let mut host = Fake::with_nvme("nvme");
    host.shim_works = false;
    let before = host.state.clone();
    let error = run(&mut host, Route::Pvh).expect_err("refused");
    assert!(format!("{error:#}").contains("Operation not supported"));
    assert_eq!(host.state, before);
    assert!(!host.made("unpause"));
}

#[test]
fn a_domain_that_dies_hangs_or_finds_no_disk_is_taken_back_with_its_last_words() {
    for (fate, word) in [
        (Fate::Dies, "ended at once"),
        (Fate::Hangs, "does not serve after 30 s"),
        (Fate::FindsNoDisk, "no disk to serve"),
    ] {
        let mut host = Fake::with_nvme("nvme");
        let before = host.state.clone();
        host.fate = fate;
        let error = run(&mut host, Route::Pvh).expect_err("refused");
        let text = format!("{error:#}");
        assert!(
            text.starts_with("spindle ") && text.contains(word),
            "{text}"
        );
        assert!(text.ends_with("everything is as before"), "{text}");
        assert_eq!(host.state, before);
    }
}

#[test]
fn an_endless_patience_is_no_panic() {
    let mut host = Fake::with_nvme("nvme");
    let plan = Plan::new(&mut host, &wanted(Route::Pvh), None).expect("a plan");
    host.sleep(Duration::from_secs(1));
    create(&mut host, &plan, Duration::MAX, Failing::Undo, &mut |_| {}).expect("created");
}

#[test]
fn a_namesake_is_never_destroyed() {
    let mut host = Fake::with_nvme("pciback");
    let plan = Plan::new(&mut host, &wanted(Route::Pvh), None).expect("a plan");
    // Another domain of this name appears between the check and the creation.
    host.add_domain("spindle", "another");
    let before = host.state.clone();
    let error = create(&mut host, &plan, PATIENCE, Failing::Undo, &mut |_| {});
    assert!(error.is_err());
    assert_eq!(host.state, before);
}

#[test]
fn a_failed_domain_is_kept_when_asked() {
    let mut host = Fake::with_nvme("nvme");
    host.fate = Fate::Hangs;
    let error = attempt(&mut host, Route::Pvh, Failing::Keep).expect_err("it hangs");
    assert!(format!("{error:#}").contains("spindlectl destroy spindle"));
    assert_eq!(host.state.domains.len(), 1);
}

#[test]
fn registers_are_mapped_in_one_domain_at_a_time() {
    let mut host = Fake::with_nvme("nvme");
    run(&mut host, Route::Pvh).expect("created");
    // What an administrator may do: xl takes the device away, and leaves the registers.
    let id = host.state.domains[0].id;
    host.state.domains[0].detach();
    host.state
        .store
        .remove(&format!("/local/domain/0/backend/pci/{id}/0/dev-0"));
    let mut second = wanted(Route::Pvh);
    second.name = Some("other".into());
    let refusal = |host: &mut Fake| {
        let error = Plan::new(host, &second, None).expect_err("refused");
        format!("{error:#}")
    };
    let text = refusal(&mut host);
    assert!(
        text.contains("has 0000:01:00.0\n`spindlectl destroy spindle`"),
        "{text}"
    );
    // Also under another name, and with a note that does not say what the domain has.
    host.rename("spindle", "store");
    let text = refusal(&mut host);
    assert!(text.contains("`spindlectl destroy store`"), "{text}");
    let note = host.state.store["/tool/spindlectl/spindle"].clone();
    let old = note
        .split(' ')
        .filter(|word| !word.starts_with("disks=") && !word.starts_with("taken="));
    host.store(
        "/tool/spindlectl/spindle",
        &old.collect::<Vec<_>>().join(" "),
    );
    let text = refusal(&mut host);
    assert!(text.contains("may have 0000:01:00.0"), "{text}");
    // And one whose note is lost: the configuration is left.
    host.state.store.remove("/tool/spindlectl/spindle");
    let text = refusal(&mut host);
    assert!(text.contains("`spindlectl destroy store`"), "{text}");
    // And one that is dead has a claim on the disk until it is cleaned up.
    host.store("/tool/spindlectl/spindle", &note);
    host.end("store");
    let text = refusal(&mut host);
    assert!(text.contains("`spindlectl restart spindle`"), "{text}");
}

#[test]
fn the_advice_about_a_strangers_disk_leaves_no_registers_behind() {
    let mut host = Fake::with_nvme("pciback");
    let id = host.add_domain("other", "another");
    host.store(&format!("/local/domain/0/backend/pci/{id}/0/dev-0"), BDF);
    let error = run(&mut host, Route::Hvm).expect_err("refused");
    let text = format!("{error:#}");
    assert!(
        text.contains(&format!("end it first (`xl shutdown {id}`)")),
        "{text}"
    );
}

#[test]
fn registers_mapped_by_hand_keep_the_disk_from_others() {
    for route in [Route::Hvm, Route::Pvh] {
        let mut host = Fake::with_nvme("pciback");
        let id = host.add_mapped("hand", "0a1b2c3d-0000-4000-8000-0000000000aa");
        let before = host.state.clone();
        let error = run(&mut host, route).expect_err("refused");
        let text = format!("{error:#}");
        assert!(
            text.contains(&format!("domain {id} (hand) has registers")),
            "{text}"
        );
        assert_eq!(host.state, before);
        host.end("hand");
        run(&mut host, route).expect("created");
    }
}

#[test]
fn an_administrator_hears_what_is_not_as_safe_as_it_could_be() {
    let notes = |host: &mut Fake| {
        let plan = Plan::new(host, &wanted(Route::Pvh), None);
        plan.expect("a plan").notes.join("\n")
    };
    let mut host = Fake::with_nvme("pciback");
    assert_eq!(notes(&mut host), "");
    assert!(notes(&mut Fake::with_nvme("nvme")).contains("xen-pciback.hide=(0000:01:00.0)"));
    host.dmesg = "(XEN) Interrupt remapping disabled\n".into();
    assert!(notes(&mut host).contains("does not remap interrupts"));
    host.dmesg.clear();
    assert!(notes(&mut host).contains("does not say"));
}

#[test]
fn the_shim_is_not_used_with_a_xen_that_it_does_not_know() {
    let plan = |route, major: u32, minor: u32| {
        let mut host = Fake::with_nvme("pciback");
        host.version = format!("xen_major              : {major}\nxen_minor : {minor}\n");
        Plan::new(&mut host, &wanted(route), None)
    };
    for (major, minor) in [(4, 12), (3, 17), (0, 0)] {
        let error = plan(Route::Pvh, major, minor).expect_err("too old");
        let text = format!("{error:#}");
        assert!(
            text.contains(&format!("this is Xen {major}.{minor}\nuse --route hvm")),
            "{text}"
        );
    }
    for (major, minor) in [(4, 23), (5, 0)] {
        let notes = plan(Route::Pvh, major, minor).expect("a plan").notes;
        assert!(notes[0].contains("xen_domctl_createdomain"), "{notes:?}");
    }
    for minor in [13, 22] {
        let notes = plan(Route::Pvh, 4, minor).expect("a plan").notes;
        assert_eq!(notes, [] as [&str; 0]);
    }
    // It is not used there.
    plan(Route::Hvm, 4, 12).expect("a plan");
    let mut host = Fake::with_nvme("pciback");
    host.version = "xen_major : \n".into();
    let notes = Plan::new(&mut host, &wanted(Route::Pvh), None).expect("a plan");
    assert!(notes.notes[0].contains("does not say which this is"));
}

#[test]
fn it_is_created_once_it_says_that_it_is_ready_and_not_before() {
    let mut host = Fake::with_nvme("nvme");
    host.fate = Fate::Hangs;
    let home = "/local/domain/3/data/spindle";
    let disk = "nvme0n1 2048 512 w model";
    let second = Duration::from_secs(1);
    for (path, value) in [("version", "0.1.0 abcdef"), ("disks", disk)] {
        host.store_later(second, &format!("{home}/{path}"), value);
    }
    host.store_later(5 * second, &format!("{home}/ready"), "1");
    let spindle = run(&mut host, Route::Pvh).expect("created");
    assert!(spindle.ready);
}

#[test]
fn each_step_is_said_also_where_what_it_does_is_done_already() {
    for driver in ["nvme", "pciback"] {
        let mut host = Fake::with_nvme(driver);
        let plan = Plan::new(&mut host, &wanted(Route::Pvh), None).expect("a plan");
        let mut said = 0;
        let mut say = |_: &str| said += 1;
        create(&mut host, &plan, PATIENCE, Failing::Undo, &mut say).expect("created");
        assert_eq!(said, plan.steps.len(), "{driver}");
    }
}
