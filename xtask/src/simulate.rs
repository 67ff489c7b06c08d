//! `simulate`: builds the simulator of whole domains (`spindle-simulate`) and runs it.

use std::path::PathBuf;

use anyhow::{Context, Result};
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
    let sh = Shell::new()?;
    let program = program(&sh)?;
    let args = &args.args;
    cmd!(sh, "{program} {args...}")
        .quiet()
        .run()
        .context("the simulation failed")
}

/// So much virtual time is simulated in each half of what CI does.
const CI_HOURS: &str = "0.5";

/// What CI does: seeds that stay, then some that the commit makes. How many is a matter of virtual
/// time, so that a commit passes or fails everywhere alike; a slow machine stops after so many seconds.
pub(crate) fn in_ci(seconds: u64) -> Result<()> {
    let sh = Shell::new()?;
    let program = program(&sh)?;
    let commit = fuzz::commit(&sh)?.to_string();
    let limit = (seconds / 2).to_string();
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
    Ok(())
}

/// Builds the simulator, optimised, with the checks of a debug build, in a folder of its own: every
/// other build would start over after such a change. A panic unwinds, since it is something found.
fn program(sh: &Shell) -> Result<PathBuf> {
    sh.change_dir(root());
    ui::step("simulate", "build");
    let _checks = sh.push_env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
    let _overflow = sh.push_env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
    let _lto = sh.push_env("CARGO_PROFILE_RELEASE_LTO", "false");
    let _units = sh.push_env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    let _panic = sh.push_env("CARGO_PROFILE_RELEASE_PANIC", "unwind");
    let folder = root().join("target/simulate");
    cmd!(
        sh,
        "cargo build --quiet --release -p spindle-simulate --target-dir {folder}"
    )
    .quiet()
    .run()?;
    Ok(folder.join("release/spindle-simulate"))
}
