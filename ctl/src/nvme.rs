//! `smart`, `id-ctrl`, `id-ns` and `error-log`: what an NVMe controller says of itself, as nvme-cli prints
//! it. A running Spindle has the controller, so that it is asked in xenstore; it hands over bytes, and what
//! they mean is known here.

mod controller;
mod errors;
mod fields;
mod namespace;
mod smart;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use spindle_status::inspect::{self, InspectOrder, InspectedPage, Inspection, PAGE};
use spindle_status::path;

use crate::fault::FaultKind;
use crate::host::Host;
use crate::order;
use crate::spindle::Spindle;
use crate::tables::text;

/// Locked while a page is read, which takes several orders.
pub(crate) const LOCK: &str = "/run/spindlectl.inspect.lock";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NvmePage {
    /// The SMART log.
    Smart,
    /// Identify Controller.
    Controller,
    /// Identify Namespace.
    Namespace,
    /// So many entries of the error log.
    Errors(u32),
}

/// A page that was read, as text and as JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NvmeAnswer {
    pub(crate) text: String,
    pub(crate) json: Value,
}

/// A controller of a Spindle, and perhaps one of its namespaces.
struct Place<'a> {
    spindle: &'a Spindle,
    controller: String,
    namespace: Option<u32>,
}

/// Reads a page of `disk`, of the domain `from` if several have one of that name.
///
/// # Errors
/// If there is no such disk, if it is none that has such pages, if the controller does not give it, or if
/// there is no answer within `patience`.
pub(crate) fn read(
    host: &mut impl Host,
    disk: &str,
    from: Option<&str>,
    page: NvmePage,
    patience: Duration,
) -> Result<NvmeAnswer> {
    let all = Spindle::all(host)?;
    let place = find(&all, disk, from)?;
    let mut pages = Pages {
        host,
        place: &place,
        patience,
    };
    let name = &place.controller;
    Ok(match page {
        NvmePage::Smart => smart::decode(name, &pages.read(InspectedPage::Health, smart::BYTES)?),
        NvmePage::Controller => {
            let mut page = Vec::new();
            pages.read_on(InspectedPage::Controller, &mut page, controller::BYTES)?;
            let all = controller::bytes(&page);
            pages.read_on(InspectedPage::Controller, &mut page, all)?;
            controller::decode(&page)
        }
        NvmePage::Namespace => {
            let id = place.namespace.ok_or_else(|| unnamed(&place))?;
            let page = pages.read(InspectedPage::Namespace(id), namespace::BYTES)?;
            namespace::decode(id, &page)
        }
        NvmePage::Errors(wanted) => {
            // One that is asked for more than it has may refuse all.
            let identity = pages.read(InspectedPage::Controller, controller::BYTES)?;
            let entries = controller::error_entries(&identity).min(wanted);
            let bytes = entries as usize * errors::BYTES;
            errors::decode(name, &pages.read(InspectedPage::Errors(entries), bytes)?)
        }
    })
}

/// Asks for pages, piece by piece.
struct Pages<'a, H> {
    host: &'a mut H,
    place: &'a Place<'a>,
    patience: Duration,
}

impl<H: Host> Pages<'_, H> {
    /// So many bytes of a page.
    fn read(&mut self, page: InspectedPage, bytes: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        self.read_on(page, &mut all, bytes)?;
        all.truncate(bytes);
        Ok(all)
    }

    /// At least so many bytes of a page, where the first are there.
    fn read_on(&mut self, page: InspectedPage, all: &mut Vec<u8>, bytes: usize) -> Result<()> {
        let Place {
            spindle,
            controller,
            ..
        } = self.place;
        while all.len() < bytes.min(PAGE) {
            let word = self.host.now().as_nanos().to_string();
            let from = all.len() as u16;
            let order = InspectOrder {
                word: &word,
                disk: controller,
                wanted: Inspection { page, from },
            };
            let nodes = (path::INSPECT, path::INSPECTED);
            let what = ("pages of controllers", self.patience);
            let said = order::give(self.host, spindle, nodes, &order.to_string(), what)
                .with_context(|| format!("cannot read it from {controller}"))?;
            let piece = inspect::bytes(&said).filter(|piece| !piece.is_empty());
            all.extend(piece.with_context(|| {
                format!("{} answers with what are no bytes", text(&spindle.name))
            })?);
        }
        Ok(())
    }
}

/// The controller that is meant.
fn find<'a>(all: &'a [Spindle], disk: &str, from: Option<&str>) -> Result<Place<'a>> {
    let short = disk.strip_prefix("/dev/").unwrap_or(disk);
    let Some((number, namespace)) = parse(short) else {
        return Err(no_nvme(all, short));
    };
    let controller = format!("nvme{number}");
    let has = |spindle: &&Spindle| {
        let targets = spindle.targets.iter().map(|target| target.name.as_str());
        let names = targets.chain(spindle.health.iter().map(|(name, _)| name.as_str()));
        let numbers = names.filter_map(parse).map(|(number, _)| number);
        let is_it = numbers.into_iter().any(|other| other == number);
        is_it && from.is_none_or(|from| spindle.name == from)
    };
    let found: Vec<_> = all.iter().filter(has).collect();
    match found[..] {
        [spindle] => {
            ensure!(
                spindle.ready,
                "{} does not serve yet: wait until `spindlectl list` says that it does",
                spindle.name
            );
            Ok(Place {
                spindle,
                controller,
                namespace,
            })
        }
        [] => Err(FaultKind::Absent.error(format!(
            "no Spindle has a controller {controller}\n`spindlectl list` shows what there is"
        ))),
        _ => {
            let names: Vec<_> = found.iter().map(|spindle| text(&spindle.name)).collect();
            let names = names.join(", ");
            Err(FaultKind::Absent.error(format!(
                "each of {names} has a controller {controller}\nsay --from which domain"
            )))
        }
    }
}

/// The number of a controller, and of a namespace if one is named: `nvme0`, `nvme0n1`, `nvme0n1p2`.
fn parse(name: &str) -> Option<(u32, Option<u32>)> {
    let rest = name.strip_prefix("nvme")?;
    let Some((number, rest)) = rest.split_once('n') else {
        return Some((rest.parse().ok()?, None));
    };
    let namespace = rest.split('p').next().unwrap_or_default();
    Some((number.parse().ok()?, Some(namespace.parse().ok()?)))
}

/// Why what is no NVMe disk has no such pages.
fn no_nvme(all: &[Spindle], name: &str) -> anyhow::Error {
    let targets = all.iter().flat_map(|spindle| &spindle.targets);
    let is_known = targets.clone().any(|target| target.name == name);
    let shown = text(name);
    let known = |prefix| is_known && name.starts_with(prefix);
    let why = if name.contains('/') && is_known {
        "is a logical volume: name the disk that it is on, such as nvme0"
    } else if known("vd") {
        "is a virtio disk, which does not say such things: ask the host that offers it"
    } else if known("ram") || known("null") {
        "is in Spindle's memory: no controller is behind it"
    } else {
        return FaultKind::Absent.error(format!(
            "no Spindle has a disk {shown}\n`spindlectl list` shows what there is"
        ));
    };
    FaultKind::Refused.error(format!("{shown} {why}"))
}

fn unnamed(place: &Place<'_>) -> anyhow::Error {
    let first = format!("{}n", place.controller);
    let targets = place.spindle.targets.iter().map(|target| &target.name);
    let names = targets.filter(|name| name.starts_with(&first) && !name.contains('p'));
    let names: Vec<_> = names.map(|name| text(name)).collect();
    FaultKind::Absent.error(format!(
        "{} is a controller, and a namespace is asked for\nname one of {}",
        place.controller,
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests;
