//! `simulate`: builds the simulator of whole domains (`spindle-simulate`) and runs it, with the product as
//! it is or with bugs in it ([`planted`]).

mod planted;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
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

/// So much virtual time of seeds that stay is simulated in CI, in hours.
const CI_HOURS: &str = "0.5";
/// So much of the commit's seeds by one process, in hours: it does not give all memory back.
const CI_AT_ONCE: &str = "2";
/// How far apart the first seeds of two such processes are.
const CI_STRIDE: u64 = 10_000;

/// What CI does: seeds that stay, for a sixth of `seconds` at most; then as many of those that the commit
/// makes as there is time for in a half of them. Then, in the other third, some of the planted bugs must
/// be found. Builds do not count.
pub(crate) fn in_ci(seconds: u64) -> Result<()> {
    let sh = Shell::new()?;
    let program = program(&sh)?;
    live(&sh, &program, 1, CI_HOURS, seconds / 6)?;
    let until = Instant::now() + Duration::from_secs(seconds / 2);
    let mut from = fuzz::commit(&sh)?;
    loop {
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 {
            break;
        }
        live(&sh, &program, from, CI_AT_ONCE, left)?;
        from = from.wrapping_add(CI_STRIDE);
    }
    planted::in_ci(&sh, Duration::from_secs(seconds / 3))
}

/// Runs so many hours of domains, for `limit` seconds at most. All that the simulator says is shown if it
/// finds something.
fn live(sh: &Shell, program: &Path, from: u64, hours: &str, limit: u64) -> Result<()> {
    let (first, limit) = (from.to_string(), limit.to_string());
    let run = cmd!(
        sh,
        "{program} --from {first} --hours {hours} --limit {limit}"
    );
    let output = run.quiet().ignore_status().output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        println!("{text}");
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("the simulation failed");
    }
    let counts = text.lines().find(|line| line.contains(" runs, "));
    let counts = counts.unwrap_or_default();
    ui::step("simulate", &format!("seeds from {from} on: {counts}"));
    Ok(())
}

/// Builds the simulator of the product as it is.
fn program(sh: &Shell) -> Result<PathBuf> {
    ui::step("simulate", "build");
    build(sh, &root())
}

/// Builds the simulator from a folder with the workspace, in a folder of its own: every other build would
/// start over after such a change.
fn build(sh: &Shell, sources: &Path) -> Result<PathBuf> {
    let _there = sh.push_dir(sources);
    let folder = root().join("target/simulate");
    let output = cmd!(
        sh,
        "cargo build --quiet --profile simulate -p spindle-simulate --target-dir {folder}"
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
    Ok(folder.join("simulate/spindle-simulate"))
}
