//! The planted bugs, as patches: `kernel/simulate/planted/NAME.patch` is one sentence, then what
//! `git diff` prints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::root;

/// Where the patches are.
pub(super) const FOLDER: &str = "kernel/simulate/planted";
/// What their first line with a diff begins with.
const DIFF: &str = "--- a/";

/// A bug that is put into the product on purpose.
#[derive(Clone, Debug)]
pub(super) struct Bug {
    /// The file's name.
    pub(super) name: String,
    /// What it is, and where it is from.
    pub(super) text: String,
    path: PathBuf,
}

/// All bugs, by name.
///
/// # Errors
/// A file cannot be read, or has no sentence before its diff.
pub(super) fn all() -> Result<Vec<Bug>> {
    let mut bugs = Vec::new();
    for entry in fs::read_dir(root().join(FOLDER)).context(FOLDER)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "patch")
        {
            bugs.push(read(path)?);
        }
    }
    bugs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(bugs)
}

fn read(path: PathBuf) -> Result<Bug> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = name.into_owned();
    let content = fs::read_to_string(&path)?;
    let (text, _) = content
        .split_once(DIFF)
        .with_context(|| format!("{name}.patch has no diff"))?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(
        text.ends_with('.') && !text.contains('"'),
        "{name}.patch begins with no sentence"
    );
    Ok(Bug { name, text, path })
}

impl Bug {
    /// The files that it changes, as they are with it. `folder` is inside the repository and is
    /// used for that only.
    ///
    /// # Errors
    /// It does not apply.
    pub(super) fn files(&self, sh: &Shell, folder: &str) -> Result<BTreeMap<String, String>> {
        self.apply(sh, folder)
            .with_context(|| format!("{FOLDER}/{}.patch", self.name))
    }

    fn apply(&self, sh: &Shell, folder: &str) -> Result<BTreeMap<String, String>> {
        let (root, path) = (root(), &self.path);
        let _ = fs::remove_dir_all(root.join(folder));
        let stat = cmd!(sh, "git apply --numstat {path}").quiet().read()?;
        let names = stat.lines().filter_map(|line| line.split('\t').nth(2));
        let names: Vec<String> = names.map(String::from).collect();
        ensure!(!names.is_empty(), "it changes no file");
        let own = |name: &String| Path::new(&root).join(folder).join(name);
        for name in &names {
            let to = own(name);
            fs::create_dir_all(to.parent().unwrap_or(&root))?;
            fs::copy(root.join(name), to).with_context(|| format!("copy {name}"))?;
        }
        cmd!(sh, "git apply --directory={folder} {path}")
            .quiet()
            .run()
            .context("it does not apply")?;
        let read = |name: String| Ok((name.clone(), fs::read_to_string(own(&name))?));
        names.into_iter().map(read).collect()
    }
}
