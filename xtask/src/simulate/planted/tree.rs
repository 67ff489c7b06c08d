//! A copy of the workspace with all planted bugs in it, of which a number in the environment turns one
//! on: one build for all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::patch::Bug;
use super::switch;
use crate::root;

/// Where the copy is, from the repository's top folder.
const TREE: &str = "target/planted/tree";
/// The variable with the number of the bug that is on; 0, or none, for no bug.
pub(super) const VARIABLE: &str = "SPINDLE_PLANTED";

/// The crate that every switched function asks.
const SWITCH: &str = "//! Which of the planted bugs is on.\n\
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};\n\
    static ON: AtomicU32 = AtomicU32::new(u32::MAX);\n\
    /// Its number, 0 for none.\n\
    #[inline(always)]\n\
    pub fn on() -> u32 {\n    match ON.load(Relaxed) {\n        u32::MAX => find(),\n        on => on,\n    }\n}\n\
    #[cold]\n\
    fn find() -> u32 {\n    let on = std::env::var(\"SPINDLE_PLANTED\").ok();\n    \
    let on = on.and_then(|on| on.parse().ok()).unwrap_or(0);\n    ON.store(on, Relaxed);\n    on\n}\n";
const MANIFEST: &str = "[package]\nname = \"spindle-planted\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
    publish = false\n";

/// What the copy has instead of the repository's files, by path: each file that a bug changes in its
/// switched form, which asks for the bug's place in `bugs`, counted from 1.
///
/// # Errors
/// A patch does not apply, or changes what no switch could choose.
pub(super) fn switched(sh: &Shell, bugs: &[Bug]) -> Result<BTreeMap<String, String>> {
    // Where one bug after the other is put into the files that it changes; another process may do so too.
    let folder = format!("target/planted/one-{}", std::process::id());
    let mut versions: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for (number, bug) in (1..).zip(bugs) {
        for (path, text) in bug.files(sh, &folder)? {
            versions.entry(path).or_default().push((number, text));
        }
    }
    fs::remove_dir_all(root().join(folder)).ok();
    let mut files = BTreeMap::new();
    for (path, versions) in versions {
        let old = fs::read_to_string(root().join(&path))?;
        let merged = switch::merge(&old, &versions).with_context(|| {
            let names = versions
                .iter()
                .map(|(number, _)| format!("{number}: {}", bugs[number - 1].name));
            format!("{path} ({})", names.collect::<Vec<_>>().join(", "))
        })?;
        files.insert(path, merged);
    }
    Ok(files)
}

/// Brings the copy up to date; gives its folder.
///
/// # Errors
/// A patch does not apply, or a file cannot be read or written.
pub(super) fn refresh(sh: &Shell, bugs: &[Bug]) -> Result<PathBuf> {
    let mut files = switched(sh, bugs)?;
    let changed: BTreeSet<String> = files.keys().filter_map(|path| manifest_of(path)).collect();
    for path in changed {
        let text = fs::read_to_string(root().join(&path))?;
        let folder = Path::new(&path).parent().unwrap_or(Path::new(""));
        let up = "../".repeat(folder.components().count());
        let line = format!("[dependencies]\nspindle-planted = {{ path = \"{up}planted\" }}\n");
        let text = match text.contains("\n[dependencies]\n") {
            true => text.replacen("[dependencies]\n", &line, 1),
            false => format!("{text}\n{line}"),
        };
        files.insert(path, text);
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml"))?;
    let workspace = workspace.replacen("members = [\n", "members = [\n    \"planted\",\n", 1);
    files.insert("Cargo.toml".into(), workspace);
    files.insert("planted/Cargo.toml".into(), MANIFEST.into());
    files.insert("planted/src/lib.rs".into(), SWITCH.into());
    let tree = root().join(TREE);
    let names = cmd!(sh, "git ls-files -z --cached --others --exclude-standard");
    let names = names.quiet().read()?;
    let names = names.split('\0').filter(|name| !name.is_empty());
    let own: Vec<&str> = files.keys().map(String::as_str).collect();
    for name in names.chain(own) {
        let bytes = match files.get(name) {
            Some(text) => text.as_bytes().to_vec(),
            None => match fs::read(root().join(name)) {
                Ok(bytes) => bytes,
                // It was removed without git's knowledge.
                Err(_) => continue,
            },
        };
        let to = tree.join(name);
        // What is the same keeps its time, so that it is not compiled again.
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(&tree))?;
        fs::write(&to, bytes).with_context(|| format!("write {}", to.display()))?;
    }
    Ok(tree)
}

/// The manifest of the crate that a source file is of.
fn manifest_of(path: &str) -> Option<String> {
    let folders = Path::new(path).ancestors().skip(1);
    let mut manifests = folders.map(|folder| folder.join("Cargo.toml"));
    let manifest = manifests.find(|manifest| root().join(manifest).is_file())?;
    Some(manifest.to_string_lossy().into_owned())
}
