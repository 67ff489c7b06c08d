//! Linux kernels that guests boot besides the suite's own, from other releases of Debian and the same
//! for all suites: an old and a new one. Fetched once, and cut down to the few files that are used.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::Shell;

use super::stamp::{is_made, stamp};
use super::tree::Tree;
use super::{debian, packages};
use crate::root;
use crate::ui::Progress;

/// A Linux kernel for guests.
struct Kernel {
    /// What scenarios call it.
    name: &'static str,
    /// The release that has it.
    release: &'static str,
    /// The modules that jobs load, by their names there.
    modules: &'static [&'static str],
}

const KERNELS: &[Kernel] = &[
    // 5.10, which goes on using a disk that is being taken away, as all do up to 5.14.
    Kernel {
        name: "old",
        release: "bullseye",
        modules: &["xen-blkfront", "ext4", "crc32c_generic"],
    },
    // The newest that there is.
    Kernel {
        name: "new",
        release: "trixie-backports",
        modules: &["xen-blkfront", "ext4"],
    },
];

/// The files, made when they are missing: `vmlinuz-NAME` and `modules-NAME.cpio` of each kernel.
pub(super) fn prepare() -> Result<Vec<PathBuf>> {
    let dir = root().join("target/rig/guests");
    let made_by = stamp(&[
        include_str!("guests.rs"),
        include_str!("debian.rs"),
        include_str!("tree.rs"),
    ]);
    let stamp_file = dir.join("stamp");
    if !is_made(&dir, &stamp_file, &made_by) {
        let sh = Shell::new()?;
        packages::install_missing(&sh)?;
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        for kernel in KERNELS {
            make(&sh, kernel, &dir)
                .with_context(|| format!("make the guests' {} kernel", kernel.name))?;
        }
        fs::write(&stamp_file, made_by)?;
    }
    let files = KERNELS
        .iter()
        .flat_map(|kernel| [vmlinuz(kernel), modules(kernel)]);
    Ok(files.map(|file| dir.join(file)).collect())
}

fn vmlinuz(kernel: &Kernel) -> String {
    format!("vmlinuz-{}", kernel.name)
}

fn modules(kernel: &Kernel) -> String {
    format!("modules-{}.cpio", kernel.name)
}

fn make(sh: &Shell, kernel: &Kernel, dir: &Path) -> Result<()> {
    let release = kernel.release;
    let _progress = Progress::start("rig", &format!("fetching Linux of {release} (1 min)"));
    let unpacked = dir.join("root");
    let mut wanted = String::from("linux-image-amd64");
    if release.ends_with("-backports") {
        wanted = format!("{wanted}/{release}");
    }
    debian::unpack(sh, release, &wanted, &unpacked)?;
    let (image, version) = debian::kernel(sh, &unpacked)?;
    fs::copy(image, dir.join(vmlinuz(kernel)))?;
    let tree = Tree::create(sh, &unpacked, &dir.join("tree"))?;
    tree.modules(&version, kernel.modules)?;
    tree.pack(&dir.join(modules(kernel)))?;
    // Hundreds of megabytes.
    fs::remove_dir_all(unpacked)?;
    Ok(())
}
