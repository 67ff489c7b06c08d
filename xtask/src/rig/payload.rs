//! What a run adds to the cached images: the kernel under test, its configurations, `spindlectl`,
//! and the scripts of dom0 and of the guests. A few megabytes, made afresh each time.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::{Suite, grub, guests};
use crate::{bench, ctl, root, scenario};

const DOM0_INIT: &str = include_str!("../../rig/dom0-init.sh");
const DOM0_LIB: &str = include_str!("../../rig/dom0-lib.sh");
const DOM0_FAILURE: &str = include_str!("../../rig/dom0-failure.sh");
const GUEST_INIT: &str = include_str!("../../rig/guest-init.sh");

/// What the guests are told to do, by name.
const JOBS: &[(&str, &str)] = &[
    ("tree-write", include_str!("../../rig/jobs/tree-write.sh")),
    ("tree-check", include_str!("../../rig/jobs/tree-check.sh")),
    ("fio-sectors", include_str!("../../rig/jobs/fio-sectors.sh")),
    ("fio-verify", include_str!("../../rig/jobs/fio-verify.sh")),
    ("fio-rings", include_str!("../../rig/jobs/fio-rings.sh")),
    ("fio-virtio", include_str!("../../rig/jobs/fio-virtio.sh")),
    (
        "fio-trees",
        concat!(
            include_str!("../../rig/jobs/fio-rings.sh"),
            include_str!("../../rig/jobs/trees.sh")
        ),
    ),
    (
        "fio-patterns",
        concat!(
            include_str!("../../rig/jobs/fio-rings.sh"),
            include_str!("../../rig/jobs/patterns.sh")
        ),
    ),
    (
        "fio-orders",
        concat!(
            include_str!("../../rig/jobs/fio-orders.sh"),
            include_str!("../../rig/jobs/orders.sh")
        ),
    ),
    (
        "mount-orders",
        concat!(
            include_str!("../../rig/jobs/mount-orders.sh"),
            include_str!("../../rig/jobs/orders.sh")
        ),
    ),
    ("fio-grow", include_str!("../../rig/jobs/fio-grow.sh")),
    ("fio-stall", include_str!("../../rig/jobs/fio-stall.sh")),
    ("fio-forever", include_str!("../../rig/jobs/fio-forever.sh")),
    ("discard", include_str!("../../rig/jobs/discard.sh")),
    ("disk-info", include_str!("../../rig/jobs/disk-info.sh")),
    ("flush", include_str!("../../rig/jobs/flush.sh")),
    ("no-blkfront", include_str!("../../rig/jobs/no-blkfront.sh")),
    ("programs", include_str!("../../rig/jobs/programs.sh")),
    ("reboot", include_str!("../../rig/jobs/reboot.sh")),
    ("watch-disks", include_str!("../../rig/jobs/watch-disks.sh")),
];

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
    for (name, script) in scenario::scripts().chain([bench::SCRIPT]) {
        archive.file(&format!("spindle/scenarios/{name}.sh"), script.as_bytes());
    }
    let mut linux = Archive::default();
    linux.file("init", bench::LINUX_INIT.as_bytes());
    archive.file("spindle/linux-init.cpio", &linux.finish());
    for (name, script) in JOBS.iter().chain(&[bench::JOB]) {
        let mut job = Archive::default();
        job.file("init", GUEST_INIT.as_bytes());
        job.file("job.sh", script.as_bytes());
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
        for (name, tool) in ctl::build()? {
            archive.file(&format!("spindle/{name}"), &tool);
        }
    }
    let mut output = File::create(initrd)?;
    io::copy(&mut File::open(dom0)?, &mut output)?;
    io::copy(&mut archive.finish().as_slice(), &mut output)?;
    Ok(())
}
