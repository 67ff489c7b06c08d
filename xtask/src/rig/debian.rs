//! Debian's packages: fetched from a mirror with what they depend on, and unpacked into a folder
//! without being installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

/// What ends the name of a release that only adds to another.
const BACKPORTS: &str = "-backports";

/// Unpacks `packages` (separated by commas) of `release` into `root`, of which nothing is kept.
/// A release of backports adds to the one it belongs to.
///
/// # Errors
/// There is no mirror within reach, or it has no such package.
pub(super) fn unpack(sh: &Shell, release: &str, packages: &str, root: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(root);
    let base = release.strip_suffix(BACKPORTS).unwrap_or(release);
    // The mirror is the one that mmdebstrap takes for the base.
    let backports = (base != release).then(|| {
        format!(
            "--setup-hook=cd \"$1/etc/apt\" && \
             sed -n 's| {base} | {release} |p' sources.list > sources.list.d/{release}.list"
        )
    });
    cmd!(
        sh,
        "mmdebstrap --quiet --variant=extract {backports...} --include={packages} {base} {root}"
    )
    .quiet()
    .run()
    .context("mmdebstrap failed; it needs root and a Debian mirror within reach")?;
    // Older releases still have /bin and /lib apart from /usr.
    for folder in ["bin", "sbin", "lib", "lib64"] {
        let (old, merged) = (root.join(folder), root.join("usr").join(folder));
        if old.is_dir() && !old.is_symlink() {
            fs::create_dir_all(&merged)?;
            cmd!(sh, "cp -a {old}/. {merged}/").quiet().run()?;
            fs::remove_dir_all(&old)?;
        }
        if !old.exists() {
            std::os::unix::fs::symlink(format!("usr/{folder}"), &old)?;
        }
    }
    Ok(())
}

/// The one kernel among the unpacked packages and the name of its release, as `modprobe` needs it:
/// with a list of what depends on what.
///
/// # Errors
/// There is none, or more than one.
pub(super) fn kernel(sh: &Shell, root: &Path) -> Result<(PathBuf, String)> {
    let modules = find(&root.join("usr/lib/modules"), |_| true)?;
    let release = modules
        .file_name()
        .context("a kernel release")?
        .to_string_lossy()
        .into_owned();
    if !modules.join("modules.dep").exists() {
        cmd!(sh, "depmod -b {root} {release}").quiet().run()?;
    }
    // Newer ones have it beside the modules.
    let beside = modules.join("vmlinuz");
    let kernel = if beside.exists() {
        beside
    } else {
        find(&root.join("boot"), |name| name.starts_with("vmlinuz-"))?
    };
    Ok((kernel, release))
}

/// The one entry of `dir` that fits.
pub(super) fn find(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("read {}", dir.display()))?
        .filter_map(Result::ok)
        .filter(|entry| fits(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    ensure!(
        found.len() == 1,
        "expected one match in {}, found {found:?}",
        dir.display()
    );
    Ok(found.remove(0))
}
