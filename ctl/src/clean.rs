//! What is done after a domain has ended: its disks go back to dom0, and what was noted of it goes.
//! Nothing is done as long as the domain may be alive, and nothing is forgotten that is not done.

use anyhow::{Result, bail, ensure};

use crate::domains::Domains;
use crate::host::Host;
use crate::record::{Record, TakenDevice};
use crate::{assign, users};

/// Cleans up after the domain of a record. With `keep`, its disks stay with xen-pciback.
///
/// # Errors
/// If the domain still runs, if guests have disks from it that dom0's driver would get, or if
/// something is left: then with what. The record stays, so that this can be tried again.
pub(crate) fn up(
    host: &mut impl Host,
    record: &Record,
    keep: bool,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let domains = Domains::look(host)?;
    if let Some(domain) = domains.by_uuid(&record.uuid) {
        bail!("domain {} still runs, with its disks", domain.id);
    }
    if !keep && !record.taken.is_empty() {
        let users = users::of(host, &domains, record.ids.as_deref())?;
        ensure!(
            users.is_empty(),
            "guests still have disks from {name}: {}; {} is kept away from dom0's driver\n`xl \
             block-detach --force` these or end the guests, then `spindlectl destroy {name}`; or \
             `spindlectl destroy --force --keep-disk {name}` leaves the disk with xen-pciback",
            users::list(&users),
            bdfs(&record.taken),
            name = record.name,
        );
    }
    let mut left = Vec::new();
    for taken in &record.taken {
        let bdf = taken.bdf;
        // It may have gone to another domain since.
        let result = match assign::ensure_free(host, &domains, bdf, Some(record)) {
            Err(error) if keep => {
                say(&format!("{bdf} is left alone: {error:#}"));
                continue;
            }
            Err(error) => Err(error),
            Ok(()) if keep => assign::keep(host, bdf),
            Ok(()) => assign::give_back(host, taken),
        };
        match result {
            Ok(()) => say(&assign::place(host, bdf)),
            Err(error) => left.push(format!("{error:#}")),
        }
    }
    ensure!(left.is_empty(), "{}", left.join("; "));
    record.forget_configs(host)?;
    record.forget(host)
}

fn bdfs(taken: &[TakenDevice]) -> String {
    let bdfs = taken.iter().map(|taken| taken.bdf.to_string());
    bdfs.collect::<Vec<_>>().join(", ")
}
