//! Which QEMU emulates the machine: the host's if it is the version of Debian 12, and otherwise
//! that version, fetched once and run from a folder with libraries of its own.
//!
//! Under QEMU 10.0 (Debian 13) Linux guests of the nested Xen stop before their first console line;
//! `xtask/README.md` has what was tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::debian;
use crate::root;
use crate::ui::Progress;

/// The program.
const QEMU: &str = "qemu-system-x86_64";

/// The only version that the rig is known to work with, and the suite that has it.
const VERSION: &str = "7.2.";
const SUITE: &str = "bookworm";

/// A QEMU of the right version.
pub(crate) struct Emulator {
    /// The folder that it was fetched to; `None` for the host's own.
    root: Option<PathBuf>,
}

impl Emulator {
    /// Finds the host's QEMU fit, or fetches one.
    pub(super) fn prepare(sh: &Shell) -> Result<Self> {
        let host = cmd!(sh, "{QEMU} --version").quiet().ignore_stderr().read();
        if host.is_ok_and(|text| is_fit(&text)) {
            return Ok(Self { root: None });
        }
        let dir = root().join("target/rig/emulator");
        if !dir.exists() {
            fetch(sh, &dir)
                .context("fetch QEMU; it needs root and a Debian mirror within reach")?;
        }
        Ok(Self { root: Some(dir) })
    }

    /// Adds the program, and what it needs to find its own files, to a command that starts it.
    pub(super) fn add(&self, command: &mut Command) {
        let Some(root) = &self.root else {
            command.arg(QEMU);
            return;
        };
        let lib = root.join("usr/lib/x86_64-linux-gnu");
        command.env("QEMU_MODULE_DIR", lib.join("qemu"));
        command.arg(lib.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&lib);
        command.arg(root.join("usr/bin").join(QEMU));
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(folder));
        }
    }
}

/// Whether `--version` says that it is of the version wanted.
fn is_fit(text: &str) -> bool {
    text.split_whitespace()
        .any(|word| word.starts_with(VERSION))
}

fn fetch(sh: &Shell, dir: &Path) -> Result<()> {
    let _progress = Progress::start("rig", &format!("fetching QEMU {VERSION}x of {SUITE}"));
    let part = dir.with_extension("part");
    debian::unpack(sh, SUITE, "qemu-system-x86", &part)?;
    // Under its name only when it is whole: what is there is not fetched again.
    fs::rename(part, dir)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_known_version_is_fit() {
        assert!(is_fit(
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\n"
        ));
        assert!(!is_fit(
            "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"
        ));
        assert!(!is_fit(""));
    }
}
