//! The record of a comparison: one mark a line, from which the page is made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::rig::{Mark, Suite};
use crate::{freshness, root};

/// A record and where it is kept.
pub(super) struct Record {
    path: PathBuf,
    pub(super) marks: Vec<Mark>,
}

impl Record {
    /// Opens the record in `folder`; one that is not there is empty.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let path = folder.join("record.txt");
        let text = if path.exists() {
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?
        } else {
            String::new()
        };
        Ok(Self {
            path,
            marks: text.lines().filter_map(Mark::parse).collect(),
        })
    }

    /// Forgets what fits.
    pub(super) fn forget(&mut self, fits: impl Fn(&Mark) -> bool) {
        self.marks.retain(|mark| !fits(mark));
    }

    /// Adds marks and writes the record, so that a later failure loses nothing.
    pub(super) fn add(&mut self, marks: impl IntoIterator<Item = Mark>) -> Result<()> {
        self.marks.extend(marks);
        let text: String = self.marks.iter().map(|mark| format!("{mark}\n")).collect();
        fs::write(&self.path, text).with_context(|| format!("write {}", self.path.display()))
    }
}

/// What was measured, where, with what and when.
pub(super) fn circumstances(suite: Suite) -> Result<Mark> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    let read = |command: xshell::Cmd| command.quiet().ignore_stderr().read().unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read(cmd!(sh, "uname -r"));
    let qemu = read(cmd!(sh, "qemu-system-x86_64 --version"));
    Ok(Mark::new("circumstances")
        .with("cpu", model)
        .with("cores", cores)
        .with("linux", kernel.split('-').next().unwrap_or("unknown"))
        .with("qemu", qemu.split(' ').nth(3).unwrap_or("unknown"))
        .with("suite", suite.name())
        .with("xen", suite.xen())
        .with("date", read(cmd!(sh, "date -u +%F")))
        .with("spindle", freshness::version()))
}
