//! What a run adds to the cached images: the kernel under test, its configurations, `spindlectl`,
//! and the scripts of dom0 and of the guests. A few megabytes, made afresh each time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::{Suite, grub, guests, places};
use crate::run::crash;
use crate::{bench, ctl, root, scenario};

const DOM0_INIT: &str = include_str!("../../rig/dom0-init.sh");
const DOM0_LIB: &str = include_str!("../../rig/dom0-lib.sh");
const DOM0_FAILURE: &str = include_str!("../../rig/dom0-failure.sh");
const GUEST_INIT: &str = include_str!("../../rig/guest-init.sh");

/// Where the scripts are that guests run, by name.
const JOBS: &str = "xtask/rig/jobs";

/// The scripts in a folder of the repository, by name: what is there is part of the rig.
///
/// # Errors
/// The folder or a script cannot be read.
pub(crate) fn scripts(folder: &str) -> Result<BTreeMap<String, String>> {
    let path = root().join(folder);
    let mut scripts = BTreeMap::new();
    for entry in fs::read_dir(&path).with_context(|| format!("read {}", path.display()))? {
        let path = entry?.path();
        let Some(name) = path
            .file_stem()
            .filter(|_| path.extension() == Some("sh".as_ref()))
        else {
            continue;
        };
        let script = fs::read_to_string(&path);
        let script = script.with_context(|| format!("read {}", path.display()))?;
        scripts.insert(name.to_string_lossy().into_owned(), script);
    }
    Ok(scripts)
}

/// Writes `initrd`: the cached `dom0` archive, then this run's own.
pub(super) fn append(
    suite: Suite,
    dom0: &Path,
    kernel: Option<&Path>,
    initrd: &Path,
) -> Result<()> {
    let mut archive = Archive::default();
    archive.file("init", DOM0_INIT.as_bytes());
    for folder in ["spindle", "spindle/scenarios", "spindle/jobs"] {
        archive.folder(folder);
    }
    archive.file("spindle/lib.sh", DOM0_LIB.as_bytes());
    archive.file("spindle/failure.sh", DOM0_FAILURE.as_bytes());
    let own = |(name, script): (&str, &str)| (name.to_string(), script.to_string());
    for (name, script) in scenario::scripts()?
        .into_iter()
        .chain([bench::SCRIPT, crash::SCRIPT].map(own))
    {
        archive.file(&format!("spindle/scenarios/{name}.sh"), script.as_bytes());
    }
    let mut linux = Archive::default();
    linux.file("init", bench::LINUX_INIT.as_bytes());
    archive.file("spindle/linux-init.cpio", &linux.finish());
    let mut jobs = scripts(JOBS)?;
    jobs.extend([bench::JOB, crash::JOB].map(own));
    for name in jobs.keys() {
        let mut job = Archive::default();
        job.file("init", GUEST_INIT.as_bytes());
        // Some jobs begin or end with another one.
        job.folder("jobs");
        for (name, script) in &jobs {
            job.file(&format!("jobs/{name}.sh"), script.as_bytes());
        }
        job.file("job.sh", format!(". /jobs/{name}.sh\n").as_bytes());
        archive.file(&format!("spindle/jobs/{name}.cpio"), &job.finish());
    }
    for config in ["spindle-hvm.cfg", "spindle-pvh.cfg", "guest.cfg"] {
        let path = root().join("xl-configs").join(config);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        archive.file(&format!("spindle/{config}"), &text);
    }
    for (image, name) in grub::prepare(suite)?.iter().zip(["pvh", "pv"]) {
        let image = fs::read(image).with_context(|| format!("read {}", image.display()))?;
        archive.file(&format!("spindle/grub-{name}.bin"), &image);
    }
    for path in guests::prepare()? {
        let name = path.file_name().context("a file has a name")?;
        let image = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        archive.file(&format!("images/{}", name.to_string_lossy()), &image);
    }
    if let Some(kernel) = kernel {
        let image = fs::read(kernel).with_context(|| format!("read {}", kernel.display()))?;
        archive.file("spindle/spindle.elf", &image);
        archive.file("spindle/places", places::assignments(kernel)?.as_bytes());
        for (name, tool) in ctl::build()? {
            archive.file(&format!("spindle/{name}"), &tool);
        }
    }
    let mut output = File::create(initrd)?;
    io::copy(&mut File::open(dom0)?, &mut output)?;
    io::copy(&mut archive.finish().as_slice(), &mut output)?;
    Ok(())
}
