//! Debian's GRUB for Xen guests, the block frontend that is not Linux: fetched once a suite.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::Shell;

use super::{Suite, debian};
use crate::ui::Progress;

/// Where the package puts its images.
const FOLDER: &str = "usr/lib/grub-xen";

/// GRUB for a PVH guest, which speaks the 32-bit ABI, and for a PV guest, which speaks the 64-bit
/// one. Both read `/boot/grub/grub.cfg` from the first disk that has one.
const IMAGES: [&str; 2] = ["grub-i386-xen_pvh.bin", "grub-x86_64-xen.bin"];

/// The images, fetched when they are missing.
pub(super) fn prepare(suite: Suite) -> Result<[PathBuf; 2]> {
    let dir = suite.dir().join("grub");
    let images = IMAGES.map(|name| dir.join(name));
    if images.iter().all(|image| image.exists()) {
        return Ok(images);
    }
    fetch(suite, &dir).context("fetch GRUB")?;
    Ok(images)
}

fn fetch(suite: Suite, dir: &Path) -> Result<()> {
    let sh = Shell::new()?;
    let name = suite.name();
    let _progress = Progress::start("rig", &format!("fetching GRUB for {name}"));
    let root = suite.dir().join("grub-root");
    debian::unpack(&sh, name, "grub-xen-host", &root)?;
    // Under its name only when it is whole: what is there is not fetched again.
    let _ = fs::remove_dir_all(dir);
    fs::rename(root.join(FOLDER), dir)?;
    fs::remove_dir_all(root)?;
    Ok(())
}
