//! `restart`: a new domain in the place of one that `create` made, whether that one still runs, hangs
//! or is gone. The disk stays away from dom0's driver in between, also if the restart fails.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::create::{self, Failing};
use crate::destroy;
use crate::domains::Domains;
use crate::fault::FaultKind;
use crate::host::{Host, noted};
use crate::plan::{Plan, Wanted};
use crate::record::Record;
use crate::spindle::Spindle;
use crate::users;

/// Makes everything ready, ends the domain if it runs, and creates it again. Gives the new one, and
/// the guests that had disks from the old one: none, unless with `force`, or if that had ended. With
/// `unless_runs` one that has not is left as it is.
///
/// # Errors
/// Before anything is done, if guests use its disks, or if the new domain could not be created. If it
/// then fails all the same, all that the next restart needs is left, and the disk with xen-pciback.
pub(crate) fn restart(
    host: &mut impl Host,
    name: &str,
    (force, unless_runs): (bool, bool),
    shims: Vec<String>,
    patience: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<(Spindle, Vec<String>)> {
    ensure!(
        host.user() == 0,
        "this needs root: run it with sudo, in dom0"
    );
    let domains = Domains::look(host)?;
    let Some(mut record) = Record::find(host, &domains, name)? else {
        return Err(FaultKind::Absent.error(format!(
            "spindlectl did not create a domain {name}\nend it by `xl shutdown` or `xl destroy`"
        )));
    };
    let source = record.source();
    let config = host.read(&source).with_context(|| {
        format!(
            "cannot read {source}, and with it the settings; nothing was done\n`spindlectl destroy \
             {name}` and `spindlectl create` do the same in two steps"
        )
    });
    let wanted = Wanted {
        config: Some(config?),
        shims,
        ..Wanted::default()
    };
    let mut plan = Plan::new(host, &wanted, Some(&record))?;
    for note in &plan.notes {
        say(&format!("note: {note}"));
    }
    if let Some(domain) = domains.by_uuid(&record.uuid) {
        ensure!(
            !unless_runs,
            FaultKind::Refused.error(format!("{name} runs; nothing was done"))
        );
        let looked = destroy::look(host, &domains, domain, Some(&record));
        let (hears, users) = match looked {
            // In order only without guests: a frontend that hears of the end closes for good.
            Ok((spindle, users)) => (
                users.is_empty() && spindle.is_some_and(|spindle| spindle.ready),
                users,
            ),
            Err(_) if force => (false, Vec::new()),
            Err(error) => return Err(destroy::unknown(&error, name)),
        };
        ensure!(
            force || users.is_empty(),
            FaultKind::Refused.error(format!(
                "guests use disks of {name}: {}\nput them aside meanwhile (`xl save GUEST FILE`, then \
                 `xl restore FILE`), and they notice nothing; or say --force",
                users::list(&users)
            ))
        );
        ensure!(!host.interrupted(), "interrupted; nothing was done");
        record.learn(host, domain.id)?;
        destroy::end(host, domain, hears, patience, say).map_err(|error| {
            noted(
                &error,
                format!("`spindlectl restart {name}` again goes on from here"),
            )
        })?;
    }
    plan.record.ids = waited_for(host, &domains, &record);
    let spindle = create::create(host, &plan, patience, Failing::Restart, say);
    let spindle = spindle.map_err(|error| noted(&error, format!("the old {name} has ended")))?;
    Ok((spindle, orphans(host, plan.record.ids.as_deref())))
}

/// The numbers of a record's domains that matter to the next: guests have disks from them. All of
/// them where that is not known.
fn waited_for(host: &mut impl Host, domains: &Domains, record: &Record) -> Option<Vec<u32>> {
    let Ok(users) = users::of(host, domains, record.ids.as_deref()) else {
        return record.ids.clone();
    };
    let mut ids: Vec<u32> = users.iter().map(|user| user.from).collect();
    ids.sort_unstable();
    ids.dedup();
    Some(ids)
}

/// The names of the guests whose disks came from domains that are gone; a hint for what to do next,
/// also where it is not known.
fn orphans(host: &mut impl Host, ids: Option<&[u32]>) -> Vec<String> {
    let users = Domains::look(host).and_then(|domains| users::of(host, &domains, ids));
    match users {
        Ok(users) => {
            let mut names: Vec<String> = users.into_iter().map(|user| user.name).collect();
            names.dedup();
            names
        }
        Err(error) => vec![format!("(not known: {error:#})")],
    }
}
