//! What `create` checks before it does anything; every refusal says what to do about it.

use anyhow::{Result, bail, ensure};

use crate::host::{Call, Host};
use crate::pci::Bdf;
use crate::plan::Route;
use crate::record::{self, Record};
use crate::store;
use crate::xlcfg::XlConfig;

/// The domain's name, if it is one that paths and tables can hold.
///
/// # Errors
/// If it is not.
pub(crate) fn name(config: &XlConfig) -> Result<String> {
    let name = config.text("name")?.unwrap_or_default();
    // Xenstore, where the record goes by it, takes nothing else in a path.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let sound = name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphabetic());
    ensure!(
        sound && name.len() <= 60,
        "\"{name}\" is no name for a domain here: letters, digits, - _ after a first letter"
    );
    Ok(name.into())
}

/// Whether Spindle knows these knobs, which come from `place`.
///
/// # Errors
/// At the first that it does not.
pub(crate) fn knobs<'a>(place: &str, knobs: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut config = spindle_config::Config::default();
    for knob in knobs {
        let (key, value) = knob.split_once('=').unwrap_or((knob, ""));
        let fits = knob.chars().all(|c| c.is_ascii_graphic());
        ensure!(fits, "\"{knob}\" is no knob: key=value without blanks");
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
    bdfs: &[Bdf],
    earlier: Option<&Record>,
) -> Result<()> {
    const BACKENDS: &str = "/local/domain/0/backend/pci/";
    if bdfs.is_empty() {
        return Ok(());
    }
    let own = earlier.map(|earlier| earlier.domain(host)).transpose()?;
    let alive = store::domain_ids(host)?;
    // libxl notes each function that it passes through, for any type of domain.
    for (path, value) in store::tree(host, BACKENDS.trim_end_matches('/')) {
        let id = path
            .strip_prefix(BACKENDS)
            .and_then(|rest| rest.split('/').next());
        let id = id.and_then(|id| id.parse::<u32>().ok());
        let (Some(id), Ok(bdf)) = (id, value.parse::<Bdf>()) else {
            continue;
        };
        let free = !bdfs.contains(&bdf) || !alive.contains(&id) || own == Some(Some(id));
        ensure!(
            free,
            "domain {id} has {bdf}; `xl pci-detach {id} {bdf}` takes it away, `xl list` says who \
             that is"
        );
    }
    Ok(())
}

/// Whether the name is free.
///
/// # Errors
/// If a domain has it, or had it and was not cleaned up.
pub(crate) fn is_free(host: &mut impl Host, name: &str) -> Result<()> {
    if let Some(id) = record::domain(host, name)? {
        bail!("a domain {name} runs already (number {id}); choose another --name");
    }
    ensure!(
        Record::read(host, name)?.is_none(),
        "an earlier domain {name} was not cleaned up; run `spindlectl destroy {name}` first"
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
    ensure!(
        image.starts_with('/') && host.exists(image),
        "there is no image {image} (an absolute path is needed); `cargo xtask build` makes \
         target/spindle.elf, --image says where it is"
    );
    Ok(())
}

/// Whether Xen can keep a disk's DMA inside its domain.
///
/// # Errors
/// If it cannot.
pub(crate) fn iommu(host: &mut impl Host) -> Result<()> {
    let info = host.run(&Call::xl(["info"]))?;
    let capabilities = info.lines().find_map(|line| line.strip_prefix("virt_caps"));
    let capabilities = capabilities.unwrap_or_default();
    ensure!(
        capabilities
            .split([' ', ':', '\t'])
            .any(|word| word == "hvm_directio"),
        "Xen uses no IOMMU (virt_caps has no hvm_directio): switch AMD-Vi or VT-d on in the \
         firmware setup, and boot Xen without iommu=off; `xl dmesg | grep -i iommu` tells more"
    );
    Ok(())
}

/// The first of these preload libraries that is there.
///
/// # Errors
/// If none is.
pub(crate) fn shim(host: &mut impl Host, places: &[String]) -> Result<String> {
    let Some(shim) = places.iter().find(|place| host.exists(place)) else {
        bail!(
            "the PVH route needs libspindle_shim.so, looked for at {}; `cargo build --release -p \
             spindlectl-shim` makes it, --shim says where it is",
            places.join(", ")
        );
    };
    // What separates entries in LD_PRELOAD.
    ensure!(
        !shim.contains([':', ' ']),
        "{shim}: the path of the shim must have no blank and no colon"
    );
    Ok(shim.clone())
}
