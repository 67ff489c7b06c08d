//! The tools that the rig needs on the host, installed when they are missing.

use std::env;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::ui;

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

/// Installs the packages of all missing tools.
pub(crate) fn install_missing(sh: &Shell) -> Result<()> {
    let mut missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(tool, _)| !is_installed(tool))
        .map(|&(_, package)| package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    ui::step("rig", &format!("apt-get install {}", missing.join(" ")));
    let packages = missing.clone();
    let hint = || {
        format!(
            "could not install packages; as root, run: apt-get install {}",
            missing.join(" ")
        )
    };
    let _env = sh.push_env("DEBIAN_FRONTEND", "noninteractive");
    cmd!(sh, "apt-get update -qq")
        .quiet()
        .ignore_stdout()
        .run()
        .with_context(hint)?;
    cmd!(
        sh,
        "apt-get install -y -qq --no-install-recommends {packages...}"
    )
    .quiet()
    .ignore_stdout()
    .run()
    .with_context(hint)
}

fn is_installed(tool: &str) -> bool {
    let path = env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|dir| Path::new(dir).join(tool).exists())
}
