//! Where the registers of controllers go in a PVH domain: `iomem=` for xl, options for Spindle. They
//! are to be in no other domain, which is why xl may not restart one.

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::pci::{Frames, PciDevice, PciKind};
use crate::xlcfg::XlConfig;

/// The first guest frame for registers, and the end of the room for them: a hole below 4 GiB in
/// which neither libxl nor Spindle puts anything.
const FIRST: u64 = 0xe0000;
const END: u64 = 0xf0000;
/// The most pages of a BAR that Spindle has a use for: the doorbells of all its queues, as far apart
/// as a controller may have them. What lies behind, such as a controller's memory buffer of many
/// GiB, stays out of the domain.
const MOST_PAGES: u64 = (16 << 20) / 4096;
/// MiB of memory up to which that hole stays one.
const MOST_MEMORY: u64 = 3072;

/// Keeps xl from restarting the domain by itself: it would come back without its disk, or without
/// its options, and under another number than its record says; `rename-restart` would give the old one,
/// which keeps the disk's registers, another UUID.
///
/// # Errors
/// If one of the settings is a list.
pub(crate) fn never_restart(config: &mut XlConfig) -> Result<()> {
    for (key, default) in [
        ("on_poweroff", "destroy"),
        ("on_reboot", "restart"),
        ("on_crash", "destroy"),
        ("on_watchdog", "destroy"),
        ("on_soft_reset", "soft-reset"),
    ] {
        let action = config.text(key)?.unwrap_or(default);
        if action.contains("restart") || action.contains("reset") {
            config.set_text(key, "destroy")?;
        }
    }
    Ok(())
}

/// Puts the registers of the controllers into guest memory: `iomem=` for xl. Gives the options that
/// tell Spindle.
///
/// # Errors
/// If they do not fit, or the configuration has other plans.
pub(crate) fn place(
    host: &mut impl Host,
    config: &mut XlConfig,
    devices: &[PciDevice],
) -> Result<Vec<String>> {
    for key in ["memory", "maxmem"] {
        let text = config.text(key)?.unwrap_or("0");
        let mib = text.parse::<u64>();
        let mib = mib.with_context(|| format!("{key}={text}: a number of MiB is needed"))?;
        ensure!(
            mib <= MOST_MEMORY,
            "{key}={mib}: with a disk on the PVH route, {MOST_MEMORY} MiB is the most; RAM would \
             lie where the disk's registers go"
        );
    }
    ensure!(
        !config.has("iomem"),
        "iomem= is spindlectl's to set with a disk on the PVH route; take it out"
    );
    let mut iomem = Vec::new();
    let mut knobs = Vec::new();
    let mut next = FIRST;
    for (number, device) in devices.iter().enumerate() {
        ensure!(
            device.kind == PciKind::Nvme,
            "{} is a virtio disk; on the PVH route only NVMe controllers work: --route hvm",
            device.bdf
        );
        let Frames { first, pages } = device.registers(host)?;
        let pages = pages.min(MOST_PAGES);
        let room = END - next;
        ensure!(
            pages <= room,
            "the registers of {} take {pages} pages, more than the {room} there is room for; give \
             the disks to two domains",
            device.bdf
        );
        iomem.push(format!("{first:x},{pages:x}@{next:x}"));
        knobs.push(format!("nvme{number}={next:x},{pages:x}"));
        next += pages;
    }
    config.set_list("iomem", &iomem)?;
    Ok(knobs)
}
