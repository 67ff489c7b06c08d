//! `destroy`: shuts a domain down, or ends it, and gives dom0 back what was taken from it.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::domains::{self, Domain, Domains};
use crate::fault::FaultKind;
use crate::host::{Call, Host, noted};
use crate::record::Record;
use crate::spindle::Spindle;
use crate::users::{self, User};
use crate::{clean, store};

/// How often to look whether it has ended.
const LOOK: Duration = Duration::from_millis(250);

/// What is to be destroyed, and how.
#[derive(Clone, Debug)]
pub(crate) struct Destroy<'a> {
    /// The domain's name.
    pub(crate) name: &'a str,
    /// Whether guests that use its disks do not matter.
    pub(crate) force: bool,
    /// Whether its disks stay with xen-pciback.
    pub(crate) keep_disk: bool,
    /// How long to wait for it to shut down.
    pub(crate) patience: Duration,
}

/// Ends a domain in order and cleans up after it; also after one that ended by itself, or that
/// `create` could not undo.
///
/// # Errors
/// If there is no such Spindle, if guests use its disks, if that cannot be found out, or if
/// something is left.
pub(crate) fn destroy(
    host: &mut impl Host,
    args: &Destroy<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let name = args.name;
    ensure!(
        host.user() == 0,
        "this needs root: run it with sudo, in dom0"
    );
    let domains = Domains::look(host)?;
    let mut record = Record::find(host, &domains, name)?;
    let domain = match &record {
        Some(record) => domains.by_uuid(&record.uuid),
        None => domains.by_name(name),
    };
    if let (Some(record), None) = (&record, domain)
        && let Some(other) = domains.by_name(name)
    {
        let (id, made) = (other.id, &record.name);
        say(&format!(
            "number {id}, {name} now, is another domain than {made} was; it is left alone"
        ));
    }
    match domain {
        Some(domain) => {
            let hears = may_end(host, args, &domains, domain, record.as_ref())?;
            ensure!(!host.interrupted(), "interrupted; nothing was done");
            if let Some(record) = &mut record {
                record.learn(host, domain.id)?;
            }
            end(host, domain, hears, args.patience, say)?;
        }
        None if record.is_none() => {
            return Err(FaultKind::Absent.error(format!(
                "there is no domain {name}\n`spindlectl list` shows all"
            )));
        }
        None => say(&format!("{name} does not run; cleaning up after it")),
    }
    if let Some(record) = record {
        clean::up(host, &record, args.keep_disk, say).map_err(|error| {
            let name = &record.name;
            let note = format!(
                "{name} has ended, but not all is cleaned up; run `spindlectl destroy {name}` again \
                 once the cause is gone"
            );
            noted(&error, note)
        })?;
    }
    say(&format!("{name} has ended"));
    Ok(())
}

/// Whether the domain may be ended; gives whether it may hear a request to shut down.
fn may_end(
    host: &mut impl Host,
    args: &Destroy<'_>,
    domains: &Domains,
    domain: &Domain,
    record: Option<&Record>,
) -> Result<bool> {
    let name = args.name;
    let is_ours = record.is_some();
    ensure!(
        domain.id != 0,
        FaultKind::Refused.error(format!("{name} is dom0 itself, which no tool can destroy"))
    );
    let looked = look(host, domains, domain, record);
    if args.force && is_ours {
        // A domain that never got ready cannot hear a request; where that is not known, it is tried.
        let spindle = looked.map(|(spindle, _)| spindle);
        return Ok(spindle.map_or(true, |spindle| spindle.is_some_and(|s| s.ready)));
    }
    let (spindle, users) = looked.map_err(|error| unknown(&error, name))?;
    ensure!(
        is_ours || spindle.is_some(),
        FaultKind::Refused.error(format!(
            "domain {name} is no Spindle\n`xl destroy {name}` if you mean it"
        ))
    );
    ensure!(
        args.force || users.is_empty(),
        FaultKind::Refused.error(format!(
            "guests use disks of {name}: {}\ndetach these (`xl block-detach`) or shut the guests down, \
             or say --force",
            users::list(&users)
        ))
    );
    Ok(spindle.is_some_and(|spindle| spindle.ready))
}

/// What a domain shows, and who uses its disks or those of the earlier ones.
///
/// # Errors
/// If xenstore does not answer.
pub(crate) fn look(
    host: &mut impl Host,
    domains: &Domains,
    domain: &Domain,
    record: Option<&Record>,
) -> Result<(Option<Spindle>, Vec<User>)> {
    let mut ids = record
        .and_then(|record| record.ids.clone())
        .unwrap_or_default();
    ids.push(domain.id);
    let mut users = users::of(host, domains, Some(&ids))?;
    let spindle = Spindle::read(host, domain.id)?;
    if let Some(spindle) = &spindle {
        users::shown(&mut users, spindle);
    }
    Ok((spindle, users))
}

/// The error where it cannot be found out who uses a domain's disks.
pub(crate) fn unknown(error: &anyhow::Error, name: &str) -> anyhow::Error {
    let note = format!(
        "so it is not known whether guests use disks of {name}; nothing was done. Try again, or say \
         --force"
    );
    noted(error, note)
}

/// Ends a domain that runs; in order if it `hears`.
///
/// # Errors
/// If it cannot be ended, or the user asks to stop.
pub(crate) fn end(
    host: &mut impl Host,
    domain: &Domain,
    hears: bool,
    patience: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    // By number: the name could be another's by now.
    let id = domain.id.to_string();
    if hears {
        say(&format!("xl shutdown {id}"));
        let asked = match host.run(&Call::xl(["shutdown", &id])) {
            Ok(_) => true,
            // xl does not see that an HVM container has a driver for this. Where the domain has gone,
            // the node would stay behind.
            Err(_) => {
                let path = format!("{}/control/shutdown", store::home(domain.id));
                let alive = domains::is_alive(host, domain).unwrap_or(false);
                alive && store::write(host, &path, "poweroff").is_ok()
            }
        };
        let patience = if asked { patience } else { Duration::ZERO };
        let deadline = host.now().saturating_add(patience);
        loop {
            // What cannot be looked at now can be later; `kill` has the last look.
            if let Ok(false) = domains::is_alive(host, domain) {
                return Ok(());
            }
            ensure!(
                !host.interrupted(),
                "interrupted while {} shut down: it may still do so; `spindlectl destroy {}` goes on",
                domain.name,
                domain.name
            );
            if host.now() >= deadline {
                break;
            }
            host.sleep(LOOK);
        }
        say(&format!(
            "it has not shut down within {} s",
            patience.as_secs()
        ));
    }
    say(&format!("xl destroy {id}"));
    domains::kill(host, domain)
}
