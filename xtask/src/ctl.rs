//! `spindlectl` and its preload library, for the rig's dom0: built for the host. On Debian 12 each
//! suite's dom0 has the host's C library or a newer one; a newer host has not been tried.

use std::fs;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{kernel, root, tools};

/// The files, by the names under which dom0 gets them.
const FILES: [&str; 2] = ["spindlectl", "libspindle_shim.so"];

/// Builds both, and gives each with its name, without symbols. Not the release profile: the rig
/// gains nothing by it, and this shares what `xtask` itself is built of.
pub(crate) fn build() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    cmd!(
        sh,
        "cargo build --quiet --package spindlectl --package spindlectl-shim"
    )
    .quiet()
    .run()
    .context("spindlectl does not build; its errors stand above")?;
    let folder = kernel::build_dir().join("debug");
    let file = |name: &'static str| {
        let (built, small) = (folder.join(name), folder.join(format!("{name}.stripped")));
        tools::strip(&sh, &built, &small)?;
        let bytes = fs::read(&small).with_context(|| format!("read {}", small.display()))?;
        Ok((name, bytes))
    };
    FILES.into_iter().map(file).collect()
}
