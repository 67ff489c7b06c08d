//! `simulate`: builds the simulator of whole domains (`spindle-simulate`) and runs it, with the product as
//! it is or with bugs in it ([`planted`]).

mod planted;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use xshell::{Shell, cmd};

use crate::{fuzz, root, ui};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The simulator's own.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let args = &args.args;
    if args.iter().any(|arg| arg == "--planted") {
        let name = String::from("simulate");
        return planted::run(&planted::Args::parse_from([&name].into_iter().chain(args)));
    }
    let sh = Shell::new()?;
    let program = program(&sh)?;
    cmd!(sh, "{program} {args...}")
        .quiet()
        .run()
        .context("the simulation failed")
}

/// So much virtual time is simulated in each half of what CI does.
const CI_HOURS: &str = "0.5";

/// What CI does: seeds that stay, then some that the commit makes. How many is a matter of virtual
/// time, so that a commit passes or fails everywhere alike; a slow machine stops after so many seconds.
/// Then, in the other half of those seconds, some of the planted bugs must be found. Builds do not count.
pub(crate) fn in_ci(seconds: u64) -> Result<()> {
    let sh = Shell::new()?;
    let program = program(&sh)?;
    let commit = fuzz::commit(&sh)?.to_string();
    let limit = (seconds / 4).to_string();
    for first in ["1", &commit] {
        ui::step("simulate", &format!("seeds from {first} on"));
        cmd!(
            sh,
            "{program} --from {first} --hours {CI_HOURS} --limit {limit}"
        )
        .quiet()
        .run()
        .context("the simulation failed")?;
    }
    planted::in_ci(&sh, Duration::from_secs(seconds / 2))
}

/// Builds the simulator of the product as it is.
fn program(sh: &Shell) -> Result<PathBuf> {
    ui::step("simulate", "build");
    build(sh, &root())
}

/// Builds the simulator from a folder with the workspace, optimised, with the checks of a debug build, in a
/// folder of its own: every other build would start over after such a change. A panic unwinds, since it
/// is something found.
fn build(sh: &Shell, sources: &Path) -> Result<PathBuf> {
    let _there = sh.push_dir(sources);
    let _checks = sh.push_env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
    let _overflow = sh.push_env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
    let _lto = sh.push_env("CARGO_PROFILE_RELEASE_LTO", "false");
    let _units = sh.push_env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    let _panic = sh.push_env("CARGO_PROFILE_RELEASE_PANIC", "unwind");
    let folder = root().join("target/simulate");
    let output = cmd!(
        sh,
        "cargo build --quiet --release -p spindle-simulate --target-dir {folder}"
    )
    .quiet()
    .ignore_status()
    .output()?;
    // Planted bugs leave code unused, which the compiler need not report.
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(folder.join("release/spindle-simulate"))
}
