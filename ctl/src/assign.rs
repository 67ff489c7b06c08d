//! Takes a function from its driver in dom0, gives it back, and finds out who has it. Each of xl's
//! calls for this is several steps inside: what they left is looked at, not what they said.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::domains::Domains;
use crate::fault::FaultKind;
use crate::host::{Call, Host, noted};
use crate::pci::{Bdf, PciDevice};
use crate::record::{Record, TakenDevice};
use crate::{mapped, store};

/// How long a driver may take to show that it has a function.
const SETTLE: Duration = Duration::from_secs(2);
/// How often to look.
const LOOK: Duration = Duration::from_millis(100);

/// The driver that has a function in dom0; `None` without one.
///
/// # Errors
/// If that cannot be found out.
pub(crate) fn driver(host: &mut impl Host, bdf: Bdf) -> Result<Option<String>> {
    let path = bdf.sysfs("driver");
    let driver = host.link(&path);
    driver.map_err(|error| anyhow!("cannot look at {path}: {error}"))
}

/// Whether a function is with xen-pciback.
///
/// # Errors
/// If that cannot be found out.
pub(crate) fn is_kept(host: &mut impl Host, bdf: Bdf) -> Result<bool> {
    Ok(driver(host, bdf)?.as_deref() == Some(PciDevice::PCIBACK))
}

/// Where a function is, for a message.
pub(crate) fn place(host: &mut impl Host, bdf: Bdf) -> String {
    match driver(host, bdf) {
        Ok(Some(driver)) => format!("{bdf} is with the driver {driver}"),
        Ok(None) => format!("{bdf} has no driver"),
        Err(error) => format!("what drives {bdf} is not known ({error:#})"),
    }
}

/// Waits a little until a function is where it should be.
fn settles(host: &mut impl Host, bdf: Bdf, fits: impl Fn(Option<&str>) -> bool) -> Result<bool> {
    let deadline = host.now().saturating_add(SETTLE);
    loop {
        if fits(driver(host, bdf)?.as_deref()) {
            return Ok(true);
        }
        if host.now() >= deadline {
            return Ok(false);
        }
        host.sleep(LOOK);
    }
}

/// Puts a function into xen-pciback, out of reach of dom0's other drivers.
///
/// # Errors
/// If it is not there in the end.
pub(crate) fn take(host: &mut impl Host, bdf: Bdf) -> Result<()> {
    host.run(&Call::xl(["pci-assignable-add", &bdf.to_string()]))?;
    let taken = settles(host, bdf, |driver| driver == Some(PciDevice::PCIBACK))?;
    ensure!(taken, "`xl pci-assignable-add {bdf}` had no effect");
    Ok(())
}

/// Puts a function into xen-pciback unless it is there.
///
/// # Errors
/// If it is not there in the end.
pub(crate) fn keep(host: &mut impl Host, bdf: Bdf) -> Result<()> {
    match is_kept(host, bdf)? {
        true => Ok(()),
        false => take(host, bdf),
    }
}

/// Gives a function back to the driver that it was taken from, from whatever state xl has left it
/// in. Nothing may use it any more.
///
/// # Errors
/// If it is not there in the end, with where it is.
pub(crate) fn give_back(host: &mut impl Host, taken: &TakenDevice) -> Result<()> {
    let bdf = taken.bdf;
    let wanted = taken.driver.as_deref();
    let is_back = |driver: Option<&str>| match wanted {
        Some(_) => driver == wanted,
        None => driver != Some(PciDevice::PCIBACK),
    };
    let mut now = driver(host, bdf)?;
    // Also if it was never taken.
    if is_back(now.as_deref()) {
        return Ok(());
    }
    let mut cause = None;
    let id = bdf.to_string();
    // Nothing else than xen-pciback or no driver is xl's to act on.
    if now.is_none() || now.as_deref() == Some(PciDevice::PCIBACK) {
        let remove = Call::xl(["pci-assignable-remove", "-r", &id]);
        let mut removed = match now {
            // Half taken or half given back: whole first.
            None => Err(None),
            Some(_) => host.run(&remove).map_err(Some),
        };
        if let Err(failed) = removed {
            // xl refuses a function that it has not finished adding.
            let added = host.run(&Call::xl(["pci-assignable-add", &id]));
            removed = host.run(&remove).map_err(Some);
            cause = match (removed, added) {
                (Ok(_), _) => None,
                (Err(Some(error)), _) | (Err(None), Err(error)) => Some(error),
                (Err(None), Ok(_)) => failed,
            };
        }
    }
    if settles(host, bdf, is_back)? {
        return Ok(());
    }
    now = driver(host, bdf)?;
    if let (None, Some(wanted)) = (&now, wanted) {
        // xl has lost its note of who had it.
        let file = format!("/sys/bus/pci/drivers/{wanted}/bind");
        let bind = ["-c", "echo \"$1\" > \"$2\"", "bind", &id, &file];
        cause = host.run(&Call::change("sh", bind)).err().or(cause);
        if settles(host, bdf, is_back)? {
            return Ok(());
        }
    }
    let place = place(host, bdf);
    let cause = match cause {
        Some(error) => error.into(),
        None => anyhow!("`xl pci-assignable-remove -r {bdf}` had no effect"),
    };
    let had = wanted.unwrap_or("no driver");
    Err(noted(&cause, format_args!("{place}; it was with {had}")))
}

/// Attaches a function to a domain.
///
/// # Errors
/// If it is not attached in the end.
pub(crate) fn attach(host: &mut impl Host, id: u32, bdf: Bdf) -> Result<()> {
    host.run(&Call::xl(["pci-attach", &id.to_string(), &bdf.to_string()]))?;
    let nodes = store::tree(host, &format!("{BACKENDS}/{id}"))?;
    let attached = nodes
        .values()
        .any(|value| value.parse::<Bdf>().ok() == Some(bdf));
    ensure!(attached, "`xl pci-attach {id} {bdf}` had no effect");
    Ok(())
}

/// Where libxl notes each function that it passes through, for any type of domain.
const BACKENDS: &str = "/local/domain/0/backend/pci";

/// Refuses a function that a living domain other than `own` has, in any of the ways in which one can:
/// attached by xl, or with its registers in the domain's memory, where they stay after a `xl
/// pci-detach` until the domain ends, be it one that `create` made or not. Also one that another
/// record still claims.
///
/// # Errors
/// With who has it and how that ends; or if it cannot be found out.
pub(crate) fn ensure_free(
    host: &mut impl Host,
    domains: &Domains,
    bdf: Bdf,
    own: Option<&Record>,
) -> Result<()> {
    let has = |record: Option<&Record>| {
        let disks = record.and_then(|record| record.disks.as_ref());
        disks.is_some_and(|disks| disks.contains(&bdf))
    };
    for record in Record::all(host)? {
        if own.is_some_and(|own| own.name == record.name) {
            continue;
        }
        let name = &record.name;
        let taken = record.taken.iter().any(|taken| taken.bdf == bdf);
        let listed = record.disks.as_ref().map(|disks| disks.contains(&bdf));
        match domains.by_uuid(&record.uuid) {
            Some(domain) => ensure!(
                listed == Some(false) && !taken,
                FaultKind::Refused.error(format!(
                    "domain {} ({}) {} {bdf}\n`spindlectl destroy {}` ends it (`xl pci-detach` would \
                     leave the registers of the disk with it)",
                    domain.id,
                    domain.name,
                    if listed.is_none() && !taken {
                        "may have"
                    } else {
                        "has"
                    },
                    record.known_as(domain)
                ))
            ),
            // What an earlier one had matters no more where it is in other hands already.
            None => ensure!(
                has(own) || listed != Some(true) && !taken,
                FaultKind::Refused.error(format!(
                    "{name}, which does not run any more, had {bdf}\n`spindlectl restart {name}` or \
                     `spindlectl destroy {name}` first"
                ))
            ),
        }
    }
    for (path, value) in store::tree(host, BACKENDS)? {
        let id = path
            .strip_prefix(BACKENDS)
            .and_then(|rest| rest.split('/').nth(1));
        let domain = id
            .and_then(|id| id.parse().ok())
            .and_then(|id| domains.by_id(id));
        let Some(domain) = domain.filter(|domain| own.is_none_or(|own| !own.is_of(domain))) else {
            continue;
        };
        let (id, name) = (domain.id, &domain.name);
        ensure!(
            value.parse::<Bdf>().ok() != Some(bdf),
            FaultKind::Refused.error(format!(
                "domain {id} ({name}) has {bdf}\nend it first (`xl shutdown {id}`): after `xl \
                 pci-detach`, a PVH domain would still have the registers of the disk"
            ))
        );
    }
    mapped::ensure_unmapped(host, domains, bdf, own)
}
