//! `ci`: everything that must hold before a change goes in, cheapest first.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{bench, deny, fuzz, kernel, lvm, miri, mutants, root, shell, simulate, test, ui};

/// For each fuzz target.
const FUZZ_SECONDS: u64 = 30;
/// For simulated domains: a sixth of it with seeds that stay, half with those of the commit, and a third
/// to find planted bugs.
const SIMULATE_SECONDS: u64 = 360;
/// For the mutants of what a change touches.
const MUTANTS_TIME: Duration = Duration::from_secs(240);
/// For a share of the tests under Miri.
const MIRI_TIME: Duration = Duration::from_secs(300);
/// From the beginning until the last scenario of the rig begins.
const TIME: Duration = Duration::from_secs(50 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the rig out: formatting, lints, documentation, licences, the host's tests, mutants,
    /// models, fuzz targets and Miri.
    #[arg(long)]
    host_only: bool,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let until = Instant::now() + TIME;
    let sh = Shell::new()?;
    sh.change_dir(root());
    kernel::install_target(&sh)?;
    let target = kernel::TARGET;

    ui::step("ci", "formatting");
    cmd!(sh, "cargo fmt --all --check")
        .quiet()
        .run()
        .context("run `cargo fmt --all`")?;

    ui::step("ci", "lints of the host's crates");
    cmd!(sh, "cargo clippy --quiet --all-targets -- -D warnings")
        .quiet()
        .run()?;
    ui::step("ci", "lints of the kernel");
    cmd!(
        sh,
        "cargo clippy --quiet --release -p spindle --target {target} -- -D warnings"
    )
    .quiet()
    .run()?;

    shell::check(&sh)?;

    ui::step("ci", "documentation");
    {
        let _deny = sh.push_env("RUSTDOCFLAGS", "-D warnings");
        cmd!(sh, "cargo doc --quiet --no-deps").quiet().run()?;
    }

    let mut unchecked: Vec<String> = deny::run(&sh)?.into_iter().collect();

    test::host()?;
    unchecked.extend(lvm::in_ci()?);
    unchecked.extend(mutants::in_ci(MUTANTS_TIME)?);
    unchecked.extend(bench::in_ci()?);
    miri::loom()?;
    fuzz::in_ci(FUZZ_SECONDS)?;
    simulate::in_ci(SIMULATE_SECONDS)?;
    unchecked.extend(miri::in_ci(MIRI_TIME)?);
    if args.host_only {
        kernel::build()?;
    } else {
        test::run(&test::Args::ci(until))?;
    }
    for what in unchecked {
        ui::step("ci", &format!("NOT CHECKED: {what}"));
    }
    Ok(())
}
