//! `restart`: a new domain in the place of one that `create` made, whether that one still runs, hangs
//! or is gone. The disk stays away from dom0's driver in between.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::create;
use crate::destroy;
use crate::host::Host;
use crate::plan::{Plan, Wanted};
use crate::record::Record;
use crate::spindle::Spindle;
use crate::store;

/// Makes everything ready, ends the domain if it runs, and creates it again. Gives the new one, and
/// the guests that had disks from the old one: none, unless with `force`, or if that had ended.
///
/// # Errors
/// Before anything is done, if guests use its disks, or if the new domain could not be created. If it
/// then fails all the same, nothing is left of either, and dom0 has its disk back.
pub(crate) fn restart(
    host: &mut impl Host,
    name: &str,
    force: bool,
    shims: Vec<String>,
    patience: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<(Spindle, Vec<String>)> {
    ensure!(
        host.user() == 0,
        "this needs root: run it with sudo, in dom0"
    );
    let Some(record) = Record::read(host, name)? else {
        bail!("spindlectl did not create a domain {name}; end it by `xl shutdown` or `xl destroy`");
    };
    let source = record.source();
    let config = host.read(&source);
    let wanted = Wanted {
        config: Some(config.with_context(|| format!("cannot read {source}"))?),
        shims,
        ..Wanted::default()
    };
    let plan = Plan::new(host, &wanted, Some(&record))?;
    let id = record.domain(host)?;
    if let Some(id) = id {
        let spindle = Spindle::read(host, id);
        let guests: Vec<String> = spindle.iter().flat_map(destroy::users).collect();
        ensure!(
            force || guests.is_empty(),
            "guests use disks of {name}: {}; put them aside meanwhile (`xl save GUEST FILE`, then \
             `xl restore FILE`), and they notice nothing; or say --force",
            guests.join(", ")
        );
        // In order only without guests: a frontend that is told of the end closes for good.
        let hears = guests.is_empty() && spindle.is_some_and(|spindle| spindle.ready);
        destroy::end(host, name, id, hears, patience, say)?;
    }
    let guests = orphans(host, id)?;
    let spindle = create::create(host, &plan, patience, false, say);
    let spindle = spindle.with_context(|| format!("the old {name} has ended"))?;
    Ok((spindle, guests))
}

/// The names of the guests whose disks came from a domain that is gone: number `id`, or any.
fn orphans(host: &mut impl Host, id: Option<u32>) -> Result<Vec<String>> {
    let alive = store::domain_ids(host)?;
    let mut orphans = Vec::new();
    for &guest in &alive {
        let disks = store::tree(host, &format!("/libxl/{guest}/device/vbd"));
        let backends = disks.iter().filter(|(path, _)| path.ends_with("/backend"));
        let mut backends = backends.filter_map(|(_, backend)| {
            let rest = backend.strip_prefix(store::DOMAINS)?.strip_prefix('/')?;
            rest.split('/').next()?.parse::<u32>().ok()
        });
        if backends.any(|backend| id.is_none_or(|id| id == backend) && !alive.contains(&backend)) {
            let name = store::read(host, &format!("{}/name", store::home(guest)));
            orphans.extend(name);
        }
    }
    Ok(orphans)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Failure, Fake, Fate, State, wanted};
    use crate::plan::Route;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A domain that runs, and how everything was before it was created.
    fn created(route: Route) -> (Fake, State) {
        let mut host = Fake::with_nvme("nvme");
        let before = host.state.clone();
        let mut wanted = wanted(route);
        wanted.knobs.push("queues=2".into());
        let plan = Plan::new(&mut host, &wanted, None).expect("a plan");
        create::create(&mut host, &plan, PATIENCE, false, &mut |_| {}).expect("created");
        host.calls.clear();
        (host, before)
    }

    fn run(host: &mut Fake) -> Result<(Spindle, Vec<String>)> {
        attempt(host, false)
    }

    fn attempt(host: &mut Fake, force: bool) -> Result<(Spindle, Vec<String>)> {
        let shims = wanted(Route::Pvh).shims;
        restart(host, "spindle", force, shims, PATIENCE, &mut |_| {})
    }

    fn made(host: &Fake, text: &str) -> bool {
        host.calls.iter().any(|call| call.text.contains(text))
    }

    #[test]
    fn a_new_domain_takes_the_place_with_the_same_settings() {
        for route in [Route::Hvm, Route::Pvh] {
            let (mut host, before) = created(route);
            let old = host.state.clone();
            let (spindle, guests) = run(&mut host).expect("restarted");
            assert_ne!(spindle.id, old.domains[0].id);
            assert!(guests.is_empty() && made(&host, "xl shutdown"));
            assert!(!made(&host, "pci-assignable"), "dom0 must not see the disk");
            assert_eq!(host.state.files, old.files, "{route:?}");
            destroy::destroy(&mut host, "spindle", false, PATIENCE, &mut |_| {}).expect("ended");
            assert_eq!(host.state, before, "{route:?}");
        }
    }

    #[test]
    fn guests_are_asked_for_first_and_by_force_cut_off_and_named() {
        let (mut host, _) = created(Route::Pvh);
        let id = host.state.domains[0].id;
        let guest = host.add_domain("web", "web-uuid");
        let backend = format!("/local/domain/{id}/backend/vbd/{guest}/51712");
        host.store(&format!("{backend}/state"), "4");
        host.store(&format!("{backend}/dev"), "xvda");
        host.store(
            &format!("/libxl/{guest}/device/vbd/51712/backend"),
            &backend,
        );
        let running = host.state.clone();
        let text = run(&mut host).expect_err("it is used").to_string();
        assert!(
            text.contains("web (xvda)") && text.contains("xl save"),
            "{text}"
        );
        assert_eq!(host.state, running);
        let (_, guests) = attempt(&mut host, true).expect("restarted");
        assert_eq!(guests, ["web"]);
        assert!(made(&host, "xl destroy") && !made(&host, "xl shutdown"));
    }

    #[test]
    fn the_disk_of_the_old_domain_is_no_obstacle() {
        let (mut host, _) = created(Route::Pvh);
        let id = host.state.domains[0].id;
        let node = format!("/local/domain/0/backend/pci/{id}/0/dev-0");
        host.store(&node, crate::fake::BDF);
        assert!(run(&mut host).is_ok());
    }

    #[test]
    fn a_domain_that_is_gone_is_made_again() {
        let (mut host, before) = created(Route::Pvh);
        host.end("spindle");
        assert!(run(&mut host).is_ok());
        destroy::destroy(&mut host, "spindle", false, PATIENCE, &mut |_| {}).expect("ended");
        assert_eq!(host.state, before);
    }

    #[test]
    fn what_cannot_be_created_again_is_not_ended() {
        let (mut host, _) = created(Route::Pvh);
        host.state.files.remove("/usr/lib/spindle/spindle.elf");
        let running = host.state.clone();
        assert!(run(&mut host).is_err());
        assert_eq!(host.state, running);
        let stranger = restart(&mut host, "other", false, Vec::new(), PATIENCE, &mut |_| {});
        let text = stranger.expect_err("not ours").to_string();
        assert!(text.contains("did not create"), "{text}");
    }

    #[test]
    fn a_failure_on_the_way_leaves_what_destroy_can_clean_up() {
        let (mut clean, _) = created(Route::Pvh);
        run(&mut clean).expect("restarted");
        for (call, when) in Failure::all(clean.calls.len()) {
            let (mut host, before) = created(Route::Pvh);
            host.fail(call, when);
            let _ = run(&mut host);
            host.failures.clear();
            if host.state != before {
                destroy::destroy(&mut host, "spindle", true, PATIENCE, &mut |_| {})
                    .expect("cleaned up");
            }
            assert_eq!(host.state, before, "{call} {when:?}");
        }
        let (mut host, before) = created(Route::Pvh);
        host.fate = Fate::Hangs;
        assert!(run(&mut host).is_err());
        assert_eq!(host.state, before);
    }
}
