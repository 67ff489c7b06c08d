//! Whether a figure was measured with the data path as it is now: what the results pages say beside
//! the commit of each figure, and what `test` and `ci` warn of.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::rig::Mark;
use crate::{root, ui};

/// The sources, without tests and documents, that figures depend on.
pub(crate) const DATA_PATH: [&str; 14] = [
    ".cargo/config.toml",
    "Cargo.lock",
    "Cargo.toml",
    "boot/src",
    "drivers/blkif/src",
    "drivers/block/src",
    "drivers/hw/src",
    "drivers/limits/src",
    "drivers/nvme/src",
    "drivers/virtio/src",
    "drivers/xen/src",
    "kernel/src",
    "kernel/control/src",
    "kernel/datapath/src",
];

/// Each record, the page that is made from it, and the command that measures again.
const RECORDS: [(&str, &str, &str); 3] = [
    ("record.txt", "README.md", "cargo xtask bench"),
    ("interop.txt", "interop.md", "cargo xtask interop"),
    (
        "fairness.txt",
        "fairness.md",
        "cargo xtask bench --fairness",
    ),
];

/// How a version relates to the sources of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// The data path is the same.
    Current,
    /// The data path has changed since.
    Stale,
    /// It was measured with changes that no commit has.
    Uncommitted,
    /// The commit is not in this branch's history, or there is no git.
    Unknown,
}

impl Age {
    /// Compares a version, as `0.1.0 f40207a` or `ee48e29941`, with the sources here.
    pub(crate) fn of(version: &str) -> Self {
        Self::within(&root(), version, &DATA_PATH)
    }

    /// The same with files and folders that are not the data path's.
    pub(crate) fn of_paths(version: &str, paths: &[&str]) -> Self {
        Self::within(&root(), version, paths)
    }

    /// The same with a repository in a folder.
    fn within(folder: &Path, version: &str, paths: &[&str]) -> Self {
        let commit = version.rsplit(' ').next().unwrap_or_default();
        if commit.ends_with("-dirty") {
            return Self::Uncommitted;
        }
        // What begins with a dash would be an option.
        if commit.is_empty() || commit.starts_with('-') {
            return Self::Unknown;
        }
        let Ok(sh) = Shell::new() else {
            return Self::Unknown;
        };
        sh.change_dir(folder);
        let code = |command: xshell::Cmd<'_>| {
            let command = command.quiet().ignore_status().ignore_stderr();
            command
                .output()
                .ok()
                .and_then(|output| output.status.code())
        };
        // One of a branch that was never merged, or rewritten before, is in no other copy.
        if code(cmd!(sh, "git merge-base --is-ancestor {commit} HEAD")) != Some(0) {
            return Self::Unknown;
        }
        match code(cmd!(sh, "git diff --quiet {commit} -- {paths...}")) {
            Some(0) => Self::Current,
            Some(1) => Self::Stale,
            _ => Self::Unknown,
        }
    }

    /// What a page says behind the version.
    pub(crate) fn note(self) -> &'static str {
        match self {
            Self::Current => "",
            Self::Stale => " (**stale**: the data path has changed since)",
            Self::Uncommitted => " (**not repeatable**: with changes that were not committed)",
            Self::Unknown => " (**unknown** in this history)",
        }
    }
}

/// The version of Spindle's sources, as pages have it: the commit, and `-dirty` if the data path has
/// changes that are not committed.
pub(crate) fn version() -> String {
    version_of(&DATA_PATH)
}

/// The same for other files and folders: the last commit that has changed any of them. What is committed
/// elsewhere meanwhile, and may get another name when it is merged, is not named.
pub(crate) fn version_of(paths: &[&str]) -> String {
    version_within(&root(), paths)
}

fn version_within(folder: &Path, paths: &[&str]) -> String {
    let Ok(sh) = Shell::new() else {
        return String::new();
    };
    sh.change_dir(folder);
    let commit = cmd!(sh, "git log -1 --format=%h --abbrev=10 -- {paths...}");
    let mut version = commit.quiet().ignore_stderr().read().unwrap_or_default();
    if Age::within(folder, &version, paths) != Age::Current {
        version.push_str("-dirty");
    }
    version
}

/// Warns of each page with figures that were not measured with the data path as it is now.
///
/// # Errors
/// A record cannot be read.
pub(crate) fn warn() -> Result<()> {
    let folder = root().join("xtask/results");
    for warning in warnings(&folder, Age::of)? {
        ui::step("warning", &warning);
    }
    Ok(())
}

fn warnings(folder: &Path, age: impl Fn(&str) -> Age) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (record, page, command) in RECORDS {
        let path = folder.join(record);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let marks = text.lines().filter_map(Mark::parse);
        let versions: BTreeSet<String> = marks
            .map(|mark| mark.get("spindle").to_string())
            .filter(|version| !version.is_empty() && age(version) != Age::Current)
            .collect();
        if !versions.is_empty() {
            let versions: Vec<_> = versions.iter().map(String::as_str).collect();
            warnings.push(format!(
                "xtask/results/{page} has figures of {}, and the data path is another now; \
                 `{command}` measures again",
                versions.join(", ")
            ));
        }
    }
    Ok(warnings)
}

/// A page without what it says about ages, which change while the page does not.
#[cfg(test)]
pub(crate) fn without(page: &str) -> String {
    let ages = [Age::Stale, Age::Uncommitted, Age::Unknown];
    let mut page = page.to_string();
    for age in ages {
        page = page.replace(age.note(), "");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository in a folder of its own, which goes with it.
    fn repository() -> Result<(xshell::TempDir, Shell)> {
        let sh = Shell::new()?;
        let folder = sh.create_temp_dir()?;
        sh.change_dir(folder.path());
        sh.set_var("GIT_CONFIG_GLOBAL", "/dev/null");
        cmd!(sh, "git init --quiet").run()?;
        for (name, value) in [("user.name", "test"), ("user.email", "test@example.org")] {
            cmd!(sh, "git config {name} {value}").run()?;
        }
        sh.write_file("drivers/nvme/src/lib.rs", "one")?;
        sh.write_file("drivers/nvme/tests/lib.rs", "one")?;
        sh.write_file("README.md", "one")?;
        commit(&sh)?;
        Ok((folder, sh))
    }

    fn commit(sh: &Shell) -> Result<String> {
        cmd!(sh, "git add .").run()?;
        cmd!(sh, "git commit --quiet --message change").run()?;
        Ok(cmd!(sh, "git rev-parse --short HEAD").read()?)
    }

    #[test]
    fn figures_are_stale_once_the_sources_of_the_data_path_change() -> Result<()> {
        let (folder, sh) = repository()?;
        let measured = cmd!(sh, "git rev-parse --short HEAD").read()?;
        let age = |version: &str| Age::within(folder.path(), version, &DATA_PATH);
        assert_eq!(age(&measured), Age::Current);
        assert_eq!(age(&format!("0.1.0 {measured}")), Age::Current);
        sh.write_file("README.md", "two")?;
        sh.write_file("drivers/nvme/tests/lib.rs", "two")?;
        let documents = commit(&sh)?;
        assert_eq!(age(&measured), Age::Current, "documents and tests");
        sh.write_file("drivers/nvme/src/lib.rs", "two")?;
        assert_eq!(age(&measured), Age::Stale, "not even committed");
        commit(&sh)?;
        assert_eq!(age(&documents), Age::Stale);
        // What was taken back is as it was.
        sh.write_file("drivers/nvme/src/lib.rs", "one")?;
        assert_eq!(age(&measured), Age::Current);
        Ok(())
    }

    #[test]
    fn a_version_that_says_nothing_is_not_current() -> Result<()> {
        let (folder, sh) = repository()?;
        let measured = cmd!(sh, "git rev-parse --short HEAD").read()?;
        let age = |version: &str| Age::within(folder.path(), version, &DATA_PATH);
        assert_eq!(age(&format!("{measured}-dirty")), Age::Uncommitted);
        assert_eq!(age("deadbee"), Age::Unknown);
        assert_eq!(age(""), Age::Unknown);
        assert_eq!(age("--cached"), Age::Unknown);
        Ok(())
    }

    #[test]
    fn a_commit_of_another_branch_is_unknown_though_it_is_there() -> Result<()> {
        let (folder, sh) = repository()?;
        let age = |version: &str| Age::within(folder.path(), version, &DATA_PATH);
        cmd!(sh, "git checkout --quiet -b other").run()?;
        sh.write_file("README.md", "two")?;
        let other = commit(&sh)?;
        assert_eq!(age(&other), Age::Current);
        cmd!(sh, "git checkout --quiet -").run()?;
        assert_eq!(age(&other), Age::Unknown);
        Ok(())
    }

    #[test]
    fn a_version_is_that_of_what_was_measured_and_of_nothing_else() -> Result<()> {
        let (folder, sh) = repository()?;
        let version = || version_within(folder.path(), &["drivers/nvme/src"]);
        let measured = cmd!(sh, "git rev-parse --short=10 HEAD").read()?;
        assert_eq!(version(), measured);
        sh.write_file("README.md", "two")?;
        commit(&sh)?;
        assert_eq!(version(), measured);
        sh.write_file("drivers/nvme/src/lib.rs", "two")?;
        assert_eq!(version(), format!("{measured}-dirty"));
        commit(&sh)?;
        assert_ne!(version(), measured);
        assert!(!version().ends_with("-dirty"));
        Ok(())
    }

    #[test]
    fn every_page_with_older_figures_is_warned_of() -> Result<()> {
        let sh = Shell::new()?;
        let folder = sh.create_temp_dir()?;
        let write = |name: &str, text: &str| sh.write_file(folder.path().join(name), text);
        write(
            "record.txt",
            "circumstances spindle=a\ncircumstances spindle=b\n",
        )?;
        write("interop.txt", "cell spindle=\"0.1.0 c\" result=verified\n")?;
        write("fairness.txt", "fairness spindle=a\n")?;
        let age = |version: &str| match version {
            "a" => Age::Current,
            _ => Age::Stale,
        };
        let warnings = warnings(folder.path(), age)?;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("README.md has figures of b, "));
        assert!(warnings[1].contains("interop.md has figures of 0.1.0 c, "));
        Ok(())
    }
}
