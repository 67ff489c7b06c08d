//! What `create` checks before it does anything; every refusal says what to do about it.

use anyhow::{Context, Result, bail, ensure};

use crate::assign;
use crate::domains::{Domain, Domains};
use crate::fault::FaultKind;
use crate::host::{Call, Host, found};
use crate::pci::Bdf;
use crate::plan::Route;
use crate::record::{self, Record};
use crate::xlcfg::XlConfig;

/// The domain's name, if it is one that paths and tables can hold.
///
/// # Errors
/// If it is not.
pub(crate) fn name(config: &XlConfig) -> Result<String> {
    let name = config.text("name")?.unwrap_or_default();
    ensure!(
        record::is_name(name),
        "\"{name}\" is no name for a domain here: letters, digits, - _ after a first letter, 60 \
         at most"
    );
    Ok(name.into())
}

/// Whether Spindle knows these options, which come from `place`.
///
/// # Errors
/// At the first that it does not.
pub(crate) fn knobs<'a>(place: &str, knobs: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut config = spindle_config::Config::default();
    for knob in knobs {
        let (key, value) = knob.split_once('=').unwrap_or((knob, ""));
        let fits = knob.chars().all(|c| c.is_ascii_graphic());
        ensure!(fits, "\"{knob}\" is no option: key=value without blanks");
        let set = config.set(key, Some(value));
        set.map_err(|error| anyhow::anyhow!("{place} {knob}: {error}"))?;
    }
    Ok(())
}

/// Whether no function is named twice.
///
/// # Errors
/// If one is.
pub(crate) fn distinct(bdfs: &[Bdf]) -> Result<()> {
    for (at, bdf) in bdfs.iter().enumerate() {
        ensure!(!bdfs[..at].contains(bdf), "{bdf} is named twice");
    }
    Ok(())
}

/// Whether no domain has these functions, but the earlier one whose place is taken.
///
/// # Errors
/// If one has, or if that cannot be found out.
pub(crate) fn unassigned(
    host: &mut impl Host,
    domains: &Domains,
    bdfs: &[Bdf],
    earlier: Option<&Record>,
) -> Result<()> {
    let mut bdfs = bdfs.iter();
    bdfs.try_for_each(|&bdf| assign::ensure_free(host, domains, bdf, earlier))
}

/// Whether the name is free, but for the earlier domain whose place is taken.
///
/// # Errors
/// If a domain has it, or had it and was not cleaned up.
pub(crate) fn is_free(
    host: &mut impl Host,
    domains: &Domains,
    name: &str,
    earlier: Option<&Record>,
) -> Result<()> {
    let own = |domain: &&Domain| !earlier.is_some_and(|earlier| earlier.is_of(domain));
    if let Some(Domain { id, .. }) = domains.by_name(name).filter(own) {
        return Err(FaultKind::Refused.error(format!(
            "a domain {name} runs already (number {id})\nchoose another --name, or `xl rename` it"
        )));
    }
    let records = Record::all(host)?;
    let mut others = records.iter().filter(|record| Some(*record) != earlier);
    ensure!(
        others.all(|record| record.name != name),
        FaultKind::Refused.error(format!(
            "an earlier domain {name} was not cleaned up\n`spindlectl restart {name}` puts a new one in \
             its place, `spindlectl destroy {name}` cleans up"
        ))
    );
    Ok(())
}

/// Whether the image is there.
///
/// # Errors
/// If it is not.
pub(crate) fn image(host: &mut impl Host, route: Route, config: &XlConfig) -> Result<()> {
    let key = route.image();
    let Some(image) = config.text(key)? else {
        bail!("no image: set {key}= in the configuration, or --image");
    };
    let there = host.exists(image);
    ensure!(
        image.starts_with('/') && there.with_context(|| format!("cannot look for {image}"))?,
        "there is no image {image} (an absolute path is needed)\n`cargo xtask build` makes \
         target/spindle.elf, --image says where it is"
    );
    Ok(())
}

/// Whether Xen can keep a disk's DMA inside its domain.
///
/// # Errors
/// If it cannot.
pub(crate) fn iommu(host: &mut impl Host) -> Result<()> {
    let info = host.run(&Call::look("xl", ["info"]))?;
    let capabilities = info.lines().find_map(|line| line.strip_prefix("virt_caps"));
    let capabilities = capabilities.unwrap_or_default();
    ensure!(
        capabilities
            .split([' ', ':', '\t'])
            .any(|word| word == "hvm_directio"),
        "Xen uses no IOMMU (virt_caps has no hvm_directio)\nswitch AMD-Vi or VT-d on in the \
         firmware setup, and boot Xen without iommu=off; `xl dmesg | grep -i iommu` tells more"
    );
    Ok(())
}

/// What an administrator should know about how far Xen protects dom0 from the disk's owner; `None`
/// if all is well.
pub(crate) fn remapping(host: &mut impl Host) -> Option<String> {
    let risk = "a Spindle that was broken into could then have its disk send any interrupt vector \
                to the host; see threat-model.md in Spindle's documentation";
    match host.run(&Call::look("xl", ["dmesg"])) {
        Ok(text) if text.contains("nterrupt remapping enabled") => None,
        Ok(text) if text.contains("nterrupt remapping disabled") => Some(format!(
            "Xen does not remap interrupts: {risk}; switch it on in the firmware setup, and boot \
             Xen without iommu=no-intremap"
        )),
        Ok(_) => Some(format!(
            "`xl dmesg` does not say that Xen remaps interrupts (its start may be overwritten): {risk}"
        )),
        Err(error) => Some(format!(
            "whether Xen remaps interrupts is not known ({error}): {risk}"
        )),
    }
}

/// The first and the last release of Xen 4 in which what the preload library changes is known to be
/// where the library looks for it (`struct xen_domctl_createdomain`).
const SHIM_KNOWS: std::ops::RangeInclusive<u32> = 13..=22;

/// Whether the preload library knows this Xen; gives what an administrator should know if it may not.
///
/// # Errors
/// If it does not.
pub(crate) fn shim_fits(host: &mut impl Host) -> Result<Option<String>> {
    let info = host.run(&Call::look("xl", ["info"]))?;
    let number = |key: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| name.trim() == key)?;
        value.trim().parse::<u32>().ok()
    };
    let (first, last) = (SHIM_KNOWS.start(), SHIM_KNOWS.end());
    let known = format!("libspindle_shim.so knows Xen 4.{first} to 4.{last}");
    match number("xen_major").zip(number("xen_minor")) {
        Some((4, minor)) if SHIM_KNOWS.contains(&minor) => Ok(None),
        Some((major, minor)) if (major, minor) < (4, *first) => {
            bail!("{known}, and this is Xen {major}.{minor}\nuse --route hvm")
        }
        Some((major, minor)) => Ok(Some(format!(
            "{known}, and this is Xen {major}.{minor}: look whether `struct \
             xen_domctl_createdomain` still has its flags 20 bytes from its start, or use --route hvm"
        ))),
        None => Ok(Some(format!(
            "{known}, and `xl info` does not say which this is"
        ))),
    }
}

/// The first of these preload libraries that is there, by a path that the loader takes as it is.
///
/// # Errors
/// If none is.
pub(crate) fn shim(host: &mut impl Host, places: &[String]) -> Result<String> {
    for place in places {
        let real = found(host.real(place));
        let Some(shim) = real.with_context(|| format!("cannot look for {place}"))? else {
            continue;
        };
        // What separates entries in LD_PRELOAD.
        ensure!(
            !shim.contains([':', ' ']),
            "{shim}: the path of the shim must have no blank and no colon"
        );
        return Ok(shim);
    }
    bail!(
        "the PVH route needs libspindle_shim.so, looked for at {}\n`cargo build --release -p \
         spindlectl-shim` makes it, --shim says where it is",
        places.join(", ")
    );
}
