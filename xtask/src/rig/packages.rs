//! The tools that the rig needs on the host, installed when they are missing.

use std::env;
use std::path::Path;

use anyhow::{Result, ensure};
use xshell::Shell;

use crate::tools;

/// A tool that must be there, and the Debian package that brings it.
const TOOLS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("e2fsck", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("sfdisk", "fdisk"),
    ("xz", "xz-utils"),
    ("setpriv", "util-linux"),
];

/// Where some of them are, which is not in the `PATH` that a plain `su` leaves.
const SYSTEM: &str = "/usr/sbin";

/// Installs the packages of all missing tools that the rig needs.
pub(crate) fn install_missing(sh: &Shell) -> Result<()> {
    install(sh, TOOLS)
}

/// Installs the packages of those of `tools` (each with its package) that are missing.
pub(crate) fn install(sh: &Shell, tools: &[(&str, &str)]) -> Result<()> {
    let path = env::var("PATH").unwrap_or_default();
    let is_installed = |tool: &str| path.split(':').any(|dir| is_in(dir, tool));
    for (tool, _) in tools {
        ensure!(
            is_installed(tool) || !is_in(SYSTEM, tool),
            "{tool} is in {SYSTEM}, and PATH is without that: become root by `su -` or `sudo`"
        );
    }
    let mut missing: Vec<&str> = tools
        .iter()
        .filter(|(tool, _)| !is_installed(tool))
        .map(|&(_, package)| package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    tools::install(sh, "rig", &missing)
}

fn is_in(dir: &str, tool: &str) -> bool {
    Path::new(dir).join(tool).exists()
}
