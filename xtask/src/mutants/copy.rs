//! A copy of the sources in which mutants are made: the work tree is never touched, and since the
//! copy stays where it is, only what changed is compiled again.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use super::kept;
use crate::root;

/// The copy. There is one, for one run at a time.
pub(super) struct Tree {
    pub(super) sources: PathBuf,
    /// Where cargo puts what it builds of it. Not where it puts other things: whoever builds those would
    /// wait for each other.
    pub(super) build: PathBuf,
    _lock: File,
}

impl Tree {
    /// The copy, for this run alone.
    ///
    /// # Errors
    /// Another run uses it.
    pub(super) fn hold() -> Result<Self> {
        Ok(Self {
            sources: kept("tree"),
            build: kept("build"),
            _lock: lock(&kept("lock"))?,
        })
    }

    /// Brings it up to date, also with what is not committed, and undoes what was changed in it.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(super) fn refresh(&self, sh: &Shell) -> Result<()> {
        let names = cmd!(sh, "git ls-files -z --cached --others --exclude-standard")
            .quiet()
            .read()?;
        let names: BTreeSet<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
        mirror(&root(), &self.sources, &names)
    }
}

/// Holds the file until it is dropped.
fn lock(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "mutants are being made already (by who holds {}); wait for the end of it",
            path.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).context("lock the copy of the sources"),
    }
}

/// Makes `to` have these files of `from` and no others. Files that are equal are left alone, with
/// the time at which they were written.
fn mirror(from: &Path, to: &Path, names: &BTreeSet<&str>) -> Result<()> {
    for name in names {
        let (source, target) = (from.join(name), to.join(name));
        // Some may have been removed without git's knowledge.
        if !source.is_file() {
            continue;
        }
        let bytes = fs::read(&source).with_context(|| format!("read {name}"))?;
        if fs::read(&target).is_ok_and(|old| old == bytes) {
            continue;
        }
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&target, bytes).with_context(|| format!("write {}", target.display()))?;
    }
    let mut folders = vec![to.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(to)?.to_str();
            let is_one = name.is_some_and(|name| names.contains(name) && from.join(name).is_file());
            if !is_one && name != Some("Cargo.lock") {
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_do_not_use_the_copy_at_once() -> Result<()> {
        let path = kept("test-of-lock");
        let held = lock(&path)?;
        let error = lock(&path).expect_err("it is held");
        assert!(error.to_string().contains("already"), "{error}");
        drop(held);
        lock(&path)?;
        Ok(fs::remove_file(&path)?)
    }

    #[test]
    fn a_copy_has_what_it_is_made_of_and_nothing_else() -> Result<()> {
        let top = root().join("target/mutants/test-of-copy");
        let _ = fs::remove_dir_all(&top);
        let (from, to) = (top.join("from"), top.join("to"));
        fs::create_dir_all(from.join("src"))?;
        fs::create_dir_all(to.join("src"))?;
        fs::write(from.join("src/lib.rs"), "right")?;
        fs::write(from.join("same"), "same")?;
        fs::write(from.join("not-asked-for"), "")?;
        fs::write(to.join("src/lib.rs"), "mutant")?;
        fs::write(to.join("same"), "same")?;
        fs::write(to.join("src/gone.rs"), "")?;
        let before = fs::metadata(to.join("same"))?.modified()?;
        mirror(&from, &to, &BTreeSet::from(["src/lib.rs", "same", "lost"]))?;
        assert_eq!(fs::read_to_string(to.join("src/lib.rs"))?, "right");
        assert_eq!(fs::metadata(to.join("same"))?.modified()?, before);
        for gone in ["src/gone.rs", "not-asked-for", "lost"] {
            assert!(!to.join(gone).exists(), "{gone}");
        }
        fs::remove_dir_all(&top)?;
        Ok(())
    }
}
