//! Whether the package is as it should be: the same bytes from two folders, no complaint of lintian's, and
//! an installation, an upgrade and a removal in a fresh Debian of each suite.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::rig::{Suite, packages};
use crate::{root, ui};

/// Builds the last commit in two folders of different depth, and compares what comes out.
pub(super) fn twice() -> Result<()> {
    let sh = Shell::new()?;
    let mut outputs = Vec::new();
    for folder in ["target/twice/a", "target/twice/b/somewhere/deeper"] {
        let folder = root().join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        sh.change_dir(root());
        cmd!(sh, "git clone --quiet --local . {folder}")
            .quiet()
            .run()
            .context("the last commit cannot be copied")?;
        sh.change_dir(&folder);
        ui::step("package", &format!("once more, in {}", folder.display()));
        cmd!(sh, "cargo run --quiet --package xtask -- package")
            .env_remove("CARGO_TARGET_DIR")
            .run()
            .context("the copy cannot be packed")?;
        outputs.push(fs::read_to_string(
            folder.join("target/package/SHA256SUMS"),
        )?);
    }
    let [a, b] = outputs.as_slice() else {
        unreachable!("two folders");
    };
    ensure!(a == b, "the same commit gave two packages:\n{a}and\n{b}");
    ui::step("package", "the same bytes from both folders");
    fs::remove_dir_all(root().join("target/twice"))?;
    Ok(())
}

/// Has lintian look at it.
pub(super) fn lint(package: &Path) -> Result<()> {
    let sh = Shell::new()?;
    packages::install(&sh, &[("lintian", "lintian")])?;
    let overrides = "initial-upload-closes-no-bugs";
    cmd!(
        sh,
        "lintian --fail-on error,warning --suppress-tags {overrides} --tag-display-limit 0 {package}"
    )
    .env("LC_ALL", "C.UTF-8")
    .quiet()
    .run()
    .context("lintian complains; what it says stands above")
}

/// What is done in a fresh system, by a shell. Without systemd running nothing is started there.
const STEPS: &str = "export DEBIAN_FRONTEND=noninteractive
! test -e /usr/sbin/spindlectl || apt-get purge -qq --yes spindle
apt-get install -qq --yes --no-install-recommends /package.deb
spindlectl --version
spindlectl create --help > /dev/null
ldd /usr/lib/spindle/libspindle_shim.so
test -s /usr/lib/spindle/spindle.elf
systemd-analyze verify --man=no /usr/lib/systemd/system/spindle@.service \
	/usr/lib/systemd/system/spindle-watch@.service
dpkg --verify spindle
echo mine > /etc/spindle/mine.cfg
apt-get install -qq --yes --reinstall /package.deb
apt-get remove -qq --yes spindle
test -e /etc/spindle/mine.cfg
test ! -e /usr/sbin/spindlectl
rm /etc/spindle/mine.cfg
apt-get purge -qq --yes spindle
test ! -e /etc/spindle
";

/// Installs, upgrades and removes it in a fresh Debian of each suite.
pub(super) fn install(package: &Path) -> Result<()> {
    let sh = Shell::new()?;
    for suite in [Suite::Bookworm, Suite::Trixie] {
        let suite = suite.name();
        ui::step(
            "package",
            &format!("install, upgrade and remove in {suite}"),
        );
        let folder: PathBuf = root().join("target/package-install");
        let system = folder.join(suite);
        if !system.exists() {
            fs::create_dir_all(&folder)?;
            let part = folder.join(format!("{suite}.part"));
            if part.exists() {
                cmd!(sh, "rm -rf --one-file-system {part}").quiet().run()?;
            }
            cmd!(
                sh,
                "mmdebstrap --quiet --variant=apt --include=systemd,xen-utils-common,xenstore-utils {suite} {part}"
            )
            .quiet()
            .run()
            .context("mmdebstrap failed; it needs root and a Debian mirror within reach")?;
            fs::rename(&part, &system)?;
        }
        fs::copy(package, system.join("package.deb"))?;
        fs::write(system.join("steps.sh"), STEPS)?;
        cmd!(sh, "chroot {system} sh -ex /steps.sh")
            .quiet()
            .run()
            .with_context(|| {
                format!("it does not install in {suite}; what was done stands above")
            })?;
    }
    Ok(())
}
