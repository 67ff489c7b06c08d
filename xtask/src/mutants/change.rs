//! What a change touches: the difference between the work tree and the commit that it began at.

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

/// In a clone of the main branch nothing says where a change began: so many commits back.
const COMMITS: usize = 10;

/// A change to the sources.
pub(super) struct Change {
    /// What was taken for it, in words.
    pub(super) what: String,
    /// The difference in Rust sources, as git prints it.
    pub(super) diff: String,
}

impl Change {
    /// What differs from `base`, or from the commit that the change seems to have begun at.
    ///
    /// # Errors
    /// There is no such commit.
    pub(super) fn since(sh: &Shell, base: Option<&str>) -> Result<Self> {
        let (base, why) = match base {
            Some(base) => (base.to_string(), "as asked for".to_string()),
            None => begin(sh)?,
        };
        let range = format!("{base}^{{tree}}");
        let tree = cmd!(sh, "git rev-parse --verify --quiet {range}")
            .quiet()
            .read()
            .with_context(|| format!("there is no commit {base}"))?;
        // Neither prefix nor colours may be what the user has configured.
        let diff = cmd!(
            sh,
            "git diff --no-ext-diff --no-color --src-prefix=a/ --dst-prefix=b/ {tree} -- *.rs"
        )
        .quiet()
        .read()?;
        let short = base.get(..10).unwrap_or(&base);
        Ok(Self {
            what: format!("what differs from {short} ({why})"),
            diff: diff + "\n",
        })
    }

    /// Whether it touches sources in this folder.
    pub(super) fn touches(&self, folder: &str) -> bool {
        let start = format!("+++ b/{folder}/src/");
        self.diff.lines().any(|line| line.starts_with(&start))
    }
}

/// The commit that a change began at, and how it was found.
fn begin(sh: &Shell) -> Result<(String, String)> {
    let head = cmd!(sh, "git rev-parse HEAD").quiet().read()?;
    let parted = cmd!(sh, "git merge-base HEAD origin/main")
        .quiet()
        .ignore_stderr()
        .read();
    if let Ok(parted) = parted
        && parted != head
    {
        return Ok((parted, "where this branch leaves origin/main".to_string()));
    }
    let number = (COMMITS + 1).to_string();
    let commits = cmd!(sh, "git rev-list --first-parent --max-count={number} HEAD")
        .quiet()
        .read()?;
    let commits: Vec<&str> = commits.lines().collect();
    match commits.split_last() {
        Some((last, newer)) if !newer.is_empty() => {
            let why = format!("{} commits back", newer.len());
            Ok(((*last).to_string(), why))
        }
        // A clone of one commit: all of it is the change.
        _ => {
            let nothing = cmd!(sh, "git hash-object -t tree --stdin")
                .stdin("")
                .quiet()
                .read()?;
            Ok((nothing, "nothing: there is one commit only".to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_touches_the_sources_of_a_crate_and_not_its_tests() {
        let change = Change {
            what: String::new(),
            diff: "--- a/drivers/xen/src/lib.rs\n+++ b/drivers/xen/src/lib.rs\n\
                   --- a/drivers/pci/tests/bus.rs\n+++ b/drivers/pci/tests/bus.rs\n"
                .to_string(),
        };
        assert!(change.touches("drivers/xen"));
        assert!(!change.touches("drivers/pci"));
        assert!(!change.touches("drivers/x"));
    }
}
