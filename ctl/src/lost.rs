//! Domains whose record is gone, as after a xenstored that was started anew or a slip of an
//! administrator: what was written for xl says which UUID they have, and which disks.

use anyhow::{Context, Result, anyhow};

use crate::host::{Host, found};
use crate::pci::Bdf;
use crate::record::{CONFIGS, Record, is_name};
use crate::xlcfg::XlConfig;

/// A record for each configuration that none of these is about. It does not say from whom disks were
/// taken, so that they stay with xen-pciback.
///
/// # Errors
/// If the configurations cannot be read.
pub(crate) fn records(host: &mut impl Host, known: &[Record]) -> Result<Vec<Record>> {
    let files = found(host.list(CONFIGS)).with_context(|| format!("cannot look into {CONFIGS}"))?;
    let files = files.unwrap_or_default();
    let names = files.iter().filter_map(|file| file.strip_suffix(".cfg"));
    let lost = names.filter(|name| is_name(name) && known.iter().all(|r| r.name != *name));
    lost.filter_map(|name| record(host, name).transpose())
        .collect()
}

/// The record of a configuration; `None` if that has gone meanwhile.
fn record(host: &mut impl Host, name: &str) -> Result<Option<Record>> {
    let mut record = Record {
        name: name.into(),
        uuid: String::new(),
        ids: None,
        disks: None,
        taken: Vec::new(),
    };
    let path = record.config();
    let config = found(host.read(&path)).with_context(|| format!("cannot read {path}"))?;
    let Some(config) = config else {
        return Ok(None);
    };
    let uuid = XlConfig::parse(&config).and_then(|c| c.text("uuid").map(|u| u.map(String::from)));
    record.uuid = uuid.ok().flatten().ok_or_else(|| {
        anyhow!("{path} is no configuration of spindlectl's; look at it, then remove it")
    })?;
    let source = record.source();
    let source = found(host.read(&source)).with_context(|| format!("cannot read {source}"))?;
    record.disks = source.and_then(|source| disks(&source).ok());
    Ok(Some(record))
}

fn disks(source: &str) -> Result<Vec<Bdf>> {
    let config = XlConfig::parse(source)?;
    config.list("pci")?.iter().map(|bdf| bdf.parse()).collect()
}
