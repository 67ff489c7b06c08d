//! `destroy`: shuts a domain down, or ends it, and gives dom0 back what was taken from it.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::host::{Call, Host};
use crate::record::{self, Record};
use crate::spindle::Spindle;
use crate::{store, tables};

/// How often to look whether it has ended.
const LOOK: Duration = Duration::from_millis(250);

/// Ends the domain `name` in order, waiting `patience` for it, and cleans up after it; also after
/// one that ended by itself, or that `create` could not undo. With `force`, guests that use its
/// disks do not matter.
///
/// # Errors
/// If there is no such Spindle, if guests use its disks, or if something is left.
pub(crate) fn destroy(
    host: &mut impl Host,
    name: &str,
    force: bool,
    patience: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    ensure!(
        host.user() == 0,
        "this needs root: run it with sudo, in dom0"
    );
    let record = Record::read(host, name)?;
    let id = match &record {
        Some(record) => record.domain(host)?,
        None => record::domain(host, name)?,
    };
    match id {
        Some(id) => {
            let spindle = Spindle::read(host, id);
            ensure!(
                record.is_some() || spindle.is_some(),
                "domain {name} is no Spindle; `xl destroy {name}` if you mean it"
            );
            let guests: Vec<String> = spindle.iter().flat_map(users).collect();
            ensure!(
                force || guests.is_empty(),
                "guests use disks of {name}: {}; detach these (`xl block-detach`) or shut the \
                 guests down, or say --force",
                guests.join(", ")
            );
            // A domain that never got ready cannot hear a request.
            let hears = spindle.is_some_and(|spindle| spindle.ready);
            end(host, name, id, hears, patience, say)?;
        }
        None if record.is_none() => bail!("there is no domain {name}; `spindlectl list` shows all"),
        None => say(&format!("{name} does not run; cleaning up after it")),
    }
    if let Some(record) = record {
        for &bdf in &record.taken {
            say(&format!("xl pci-assignable-remove -r {bdf}"));
            Record::give_back(host, bdf)?;
        }
        record.forget_configs(host)?;
        record.forget(host)?;
    }
    Ok(())
}

/// Ends a domain that runs; in order if it `hears`.
///
/// # Errors
/// If it cannot be ended.
pub(crate) fn end(
    host: &mut impl Host,
    name: &str,
    id: u32,
    hears: bool,
    patience: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    if hears {
        say(&format!("xl shutdown {name}"));
        let refused = host.run(&Call::xl(["shutdown", name])).is_err();
        if refused && record::domain(host, name)? == Some(id) {
            // xl does not see that an HVM container has a driver for this.
            let path = format!("{}/control/shutdown", store::home(id));
            store::write(host, &path, "poweroff")?;
        }
        let deadline = host.now() + patience;
        while host.now() < deadline {
            if record::domain(host, name)? != Some(id) {
                return Ok(());
            }
            host.sleep(LOOK);
        }
        say(&format!(
            "{name} does not shut down in {} s",
            patience.as_secs()
        ));
    }
    say(&format!("xl destroy {name}"));
    kill(host, name, id)
}

/// Destroys a domain. One that has ended by itself by then is no failure.
///
/// # Errors
/// If it is still there.
pub(crate) fn kill(host: &mut impl Host, name: &str, id: u32) -> Result<()> {
    match host.run(&Call::xl(["destroy", &id.to_string()])) {
        Err(error) if record::domain(host, name)? == Some(id) => Err(error),
        _ => Ok(()),
    }
}

/// The guests that have a disk open, with the disk.
pub(crate) fn users(spindle: &Spindle) -> impl Iterator<Item = String> {
    // XenbusState: 6 is closed.
    let open = spindle.disks.iter().filter(|disk| disk.state < 6);
    open.map(|disk| {
        let guest = match disk.guest_name.as_str() {
            "" => disk.guest.to_string(),
            name => tables::text(name),
        };
        format!("{guest} ({})", tables::text(&disk.vdev))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create::create;
    use crate::fake::{Fake, wanted};
    use crate::plan::{Plan, Route};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn created(route: Route, driver: &str) -> (Fake, crate::fake::State) {
        let mut host = Fake::with_nvme(driver);
        let before = host.state.clone();
        let plan = Plan::new(&mut host, &wanted(route), None).expect("a plan");
        create(&mut host, &plan, PATIENCE, false, &mut |_| {}).expect("created");
        (host, before)
    }

    fn run(host: &mut Fake, force: bool) -> Result<()> {
        destroy(host, "spindle", force, PATIENCE, &mut |_| {})
    }

    #[test]
    fn everything_is_as_before_the_domain_was_created() {
        for route in [Route::Hvm, Route::Pvh] {
            for driver in ["nvme", "pciback"] {
                let (mut host, before) = created(route, driver);
                run(&mut host, false).expect("destroyed");
                assert_eq!(host.state, before, "{route:?} {driver}");
                let shut_down = host
                    .calls
                    .iter()
                    .any(|call| call.text == "xl shutdown spindle");
                let destroyed = host.calls.iter().any(|call| call.text.contains("destroy"));
                assert!(shut_down && !destroyed);
            }
        }
    }

    #[test]
    fn a_domain_that_xl_cannot_reach_or_that_does_not_listen_ends_all_the_same() {
        let (mut host, before) = created(Route::Hvm, "nvme");
        host.shutdown_refused = true;
        run(&mut host, false).expect("destroyed");
        assert_eq!(host.state, before);
        let (mut host, before) = created(Route::Pvh, "nvme");
        host.deaf = true;
        run(&mut host, false).expect("destroyed");
        assert_eq!(host.state, before);
    }

    #[test]
    fn a_domain_that_ended_by_itself_is_cleaned_up_after() {
        let (mut host, before) = created(Route::Pvh, "nvme");
        host.end("spindle");
        run(&mut host, false).expect("cleaned up");
        assert_eq!(host.state, before);
        let text = run(&mut host, false)
            .expect_err("nothing is left")
            .to_string();
        assert!(text.contains("no domain spindle"), "{text}");
    }

    #[test]
    fn guests_are_asked_for_first() {
        let (mut host, before) = created(Route::Pvh, "nvme");
        let id = host.state.domains[0].id;
        let backend = format!("/local/domain/{id}/backend/vbd/9/51712");
        host.store(&format!("{backend}/state"), "4");
        host.store(&format!("{backend}/dev"), "xvda\x1b[2J");
        let text = run(&mut host, false).expect_err("it is used").to_string();
        assert!(
            text.contains("9 (xvda?[2J)") && text.contains("--force"),
            "{text}"
        );
        run(&mut host, true).expect("destroyed");
        assert_eq!(host.state, before);
    }

    #[test]
    fn a_domain_that_is_gone_when_it_is_to_be_destroyed_has_ended_as_well() {
        let deaf = || {
            let (mut host, before) = created(Route::Pvh, "nvme");
            host.deaf = true;
            host.calls.clear();
            (host, before)
        };
        let (mut host, _) = deaf();
        run(&mut host, false).expect("destroyed");
        let is_it = |call: &crate::fake::Made| call.text.starts_with("xl destroy");
        let call = host.calls.iter().position(is_it).expect("it was destroyed");
        let (mut host, before) = deaf();
        host.fail(call, crate::fake::Failure::After);
        run(&mut host, false).expect("destroyed");
        assert_eq!(host.state, before);
    }

    #[test]
    fn other_domains_are_left_alone() {
        let mut host = Fake::with_nvme("nvme");
        host.add_domain("spindle", "not-a-spindle");
        let text = run(&mut host, true).expect_err("it is none").to_string();
        assert!(text.contains("no Spindle"), "{text}");
        assert_eq!(host.state.domains.len(), 1);
    }
}
