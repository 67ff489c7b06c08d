//! Which QEMU emulates the machine: the host's if it is the version of Debian 12, and otherwise
//! that version, fetched once and run from a folder with libraries of its own. In either case a
//! copy without the faults that `mend` is about.
//!
//! Under QEMU 10.0 (Debian 13) Linux guests of the nested Xen stop before their first console line;
//! `xtask/README.md` has what was tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::debian;
use super::mend::mend;
use crate::root;
use crate::ui::{self, Progress};

/// The program.
const QEMU: &str = "qemu-system-x86_64";
/// Where the host has it.
const WHICH: &str = "command -v qemu-system-x86_64";

/// The only version that the rig is known to work with, and the suite that has it.
const VERSION: &str = "7.2.";
const SUITE: &str = "bookworm";

/// A QEMU of the right version.
pub(crate) struct Emulator {
    program: PathBuf,
    /// Where its files and libraries are, if it was fetched; otherwise they are the host's.
    root: Option<PathBuf>,
}

impl Emulator {
    /// Finds the host's QEMU fit, or fetches one, and makes a copy without the faults.
    pub(super) fn prepare(sh: &Shell) -> Result<Self> {
        let host = cmd!(sh, "{QEMU} --version").quiet().ignore_stderr().read();
        let (root, original) = if host.is_ok_and(|text| is_fit(&text)) {
            let path = cmd!(sh, "sh -c {WHICH}").quiet().read()?;
            (None, PathBuf::from(path))
        } else {
            let dir = root().join("target/rig/emulator");
            if !dir.exists() {
                fetch(sh, &dir)
                    .context("fetch QEMU; it needs root and a Debian mirror within reach")?;
            }
            let program = dir.join("usr/bin").join(QEMU);
            (Some(dir), program)
        };
        let program = copy(&original).with_context(|| format!("copy {}", original.display()))?;
        Ok(Self { program, root })
    }

    /// Adds the program, and what it needs to find its own files, to a command that starts it.
    pub(super) fn add(&self, command: &mut Command) {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let lib = root.join("usr/lib/x86_64-linux-gnu");
        command.env("QEMU_MODULE_DIR", lib.join("qemu"));
        if self.root.is_some() {
            command.arg(lib.join("ld-linux-x86-64.so.2"));
            command.arg("--library-path").arg(&lib);
        }
        command.arg(&self.program);
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(folder));
        }
    }
}

/// Makes the copy that runs.
fn copy(original: &Path) -> Result<PathBuf> {
    let mut program = fs::read(original)?;
    for name in mend(&mut program) {
        let note = format!("this QEMU lacks the code of {name}: guests may die now and then");
        ui::step("rig", &note);
    }
    let dir = root().join("target/rig/mended");
    fs::create_dir_all(&dir)?;
    let (path, part) = (dir.join(QEMU), dir.join("part"));
    fs::write(&part, program)?;
    fs::set_permissions(&part, fs::metadata(original)?.permissions())?;
    // Another one may be running.
    fs::rename(&part, &path)?;
    Ok(path)
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
