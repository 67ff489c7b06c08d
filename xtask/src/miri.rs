//! `miri` and `loom`: the host's tests under an interpreter that finds undefined behaviour, and
//! the models of what runs on two cores at once under a checker of all interleavings.

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::fuzz::require_nightly;
use crate::{root, ui};

/// What Miri can interpret in reasonable time.
const CRATES: [&str; 7] = ["hw", "config", "pci", "block", "nvme", "blkif", "xen"];

/// Tests that are left out: whole lives of devices, of which each takes minutes, in a part of the
/// code that shares nothing with anybody.
const SKIPPED: [&str; 4] = ["--skip", "life::", "--skip", "interleavings::"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these crates: `hw`, `xen`, ...
    crates: Vec<String>,
}

/// Runs the tests under Miri.
pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    require_nightly(&sh)?;
    cmd!(sh, "cargo +nightly miri --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .context("Miri is missing: rustup component add miri rust-src --toolchain nightly")?;
    // Pages of the host are leaked on purpose; property tests look for their regressions on disk.
    let _flags = sh.push_env("MIRIFLAGS", "-Zmiri-ignore-leaks -Zmiri-disable-isolation");
    let _cases = sh.push_env("PROPTEST_CASES", "4");
    let all = CRATES.map(String::from);
    let crates = if args.crates.is_empty() {
        &all[..]
    } else {
        &args.crates
    };
    for name in crates {
        ui::step("miri", name);
        cmd!(
            sh,
            "cargo +nightly miri test --quiet -p spindle-{name} -- {SKIPPED...}"
        )
        .quiet()
        .run()?;
    }
    Ok(())
}

/// Runs the models.
pub(crate) fn loom() -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    ui::step("loom", "models of the rings and mailboxes");
    let _cfg = sh.push_env("RUSTFLAGS", "--cfg loom");
    // Its own folder, or every other build would start over after the change of flags.
    cmd!(
        sh,
        "cargo test --quiet --release -p spindle-blkif --test loom --target-dir target/loom"
    )
    .quiet()
    .run()
    .context("a model failed; set LOOM_LOG=trace and LOOM_LOCATION=1 to see the interleaving")
}
