//! `miri` and `loom`: the host's tests under an interpreter that finds undefined behaviour, and
//! the models of what runs on two cores at once under a checker of all interleavings.

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::fuzz::require_nightly;
use crate::{root, ui};

/// What Miri can interpret in reasonable time: all of a crate's tests, or those that share memory
/// with a fake on the other side. None of these crates but `hw` has unsafe code of its own.
const CRATES: [(&str, &[&str]); 8] = [
    ("hw", &[]),
    ("config", &[]),
    ("pci", &[]),
    ("block", &[]),
    (
        "nvme",
        &["--lib", "--test", "hostile", "--test", "recovery"],
    ),
    ("virtio", &["--lib", "--test", "hostile"]),
    (
        "blkif",
        &[
            "--lib", "--test", "faults", "--test", "worker", "--test", "cache", "--test", "data",
            "--test", "direct", "--test", "mapped",
        ],
    ),
    (
        "xen",
        &[
            "--lib", "--test", "console", "--test", "clock", "--test", "client",
        ],
    ),
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these crates: `hw`, `xen`, ...
    crates: Vec<String>,
}

/// Runs the tests under Miri.
pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    check_names(&args.crates)?;
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
    let asked = |name: &str| args.crates.is_empty() || args.crates.iter().any(|c| c == name);
    for (name, tests) in CRATES.into_iter().filter(|(name, _)| asked(name)) {
        ui::step("miri", name);
        cmd!(
            sh,
            "cargo +nightly miri test --quiet -p spindle-{name} {tests...}"
        )
        .quiet()
        .run()?;
    }
    Ok(())
}

/// Whether Miri can be asked for all of these crates.
fn check_names(crates: &[String]) -> Result<()> {
    let names: Vec<&str> = CRATES.iter().map(|(name, _)| *name).collect();
    for name in crates {
        ensure!(
            names.contains(&name.as_str()),
            "no crate is called \"{name}\"; there are: {}",
            names.join(" ")
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_that_there_is_not_is_refused() {
        assert!(check_names(&["hw".into(), "xen".into()]).is_ok());
        assert!(check_names(&["hw".into(), "spindle-xen".into()]).is_err());
    }
}
