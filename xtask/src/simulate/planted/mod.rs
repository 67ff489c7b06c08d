//! `simulate --planted`: bugs that are put into the product on purpose, and after how long the simulator
//! finds each of them. What it does not find shows where the simulator is blind.
//!
//! The bugs are patches ([`patch`]). All of them are built into one binary, in a copy of the sources
//! ([`tree`]), by functions that have a body for each ([`switch`]). One after the other is hunted
//! ([`hunt`]); a page of the results has the outcome ([`page`]).

mod hunt;
mod page;
mod patch;
mod switch;
mod tree;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use xshell::Shell;

use self::patch::Bug;
use crate::{fuzz, root, ui};

/// Put bugs into the product, one at a time, and see after how long the simulator finds each.
#[derive(Parser)]
#[command(name = "cargo xtask simulate --planted")]
pub(super) struct Args {
    #[arg(long, hide = true)]
    planted: bool,
    /// Only the bugs whose names contain this.
    #[arg(long, default_value = "")]
    filter: String,
    /// Give a bug up after so many seconds of processor time.
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// The first seed; another one each time by default.
    #[arg(long)]
    from: Option<u64>,
    /// Only see whether all patches apply and can be switched.
    #[arg(long)]
    check: bool,
    /// Leave the page of the results as it is.
    #[arg(long)]
    no_page: bool,
    /// Hunt none: make the page of the record again.
    #[arg(long, conflicts_with_all = ["check", "no_page"])]
    page_only: bool,
}

/// Runs the task.
pub(super) fn run(args: &Args) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    let bugs = patch::all()?;
    if args.page_only {
        return page::update(&bugs, Vec::new());
    }
    if args.check {
        tree::switched(&sh, &bugs)?;
        println!("{} bugs can be planted", bugs.len());
        return Ok(());
    }
    let wanted = |bug: &Bug| bug.name.contains(&args.filter);
    ensure!(bugs.iter().any(wanted), "no bug is called {}", args.filter);
    let program = build(&sh, &bugs)?;
    let from = args.from.unwrap_or_else(seed_of_now);
    let mut missed = Vec::new();
    for (number, bug) in (1..).zip(&bugs).filter(|(_, bug)| wanted(bug)) {
        let find = hunt::hunt(&sh, &program, number, from, args.limit)?;
        let text = match &find {
            Some(find) => format!(
                "found after {} s by \"{}\"; again with\n{}={number} {} {}",
                find.seconds,
                find.reason,
                tree::VARIABLE,
                program.display(),
                find.plan
            ),
            None => format!("not found in {} s of processor time", args.limit),
        };
        ui::step("planted", &format!("{}: {text}", bug.name));
        if !args.no_page {
            let mark = page::mark(bug, find.as_ref(), from, args.limit);
            page::update(&bugs, vec![mark])?;
        }
        if find.is_none() {
            missed.push(bug.name.as_str());
        }
    }
    if !missed.is_empty() {
        bail!("not found: {}", missed.join(", "));
    }
    Ok(())
}

/// So many seconds of processor time each bug of CI's sample has: those in it are found in a quarter of that.
const CI_LIMIT: u64 = 20;
/// So many of the bugs CI tries, if there is time.
const CI_SAMPLE: usize = 6;
/// The bugs that CI chooses from: each was found within five seconds from several seeds.
const QUICK: [&str; 12] = [
    "claim-not-released",
    "closed-not-reopened",
    "copy-at-wrong-offset",
    "copy-of-whole-page",
    "core-not-woken",
    "discard-too-long",
    "eight-sectors-beyond",
    "frames-leak-per-attach",
    "holder-shown-too-long",
    "nvme-doorbell-left-out",
    "nvme-phase-of-one-round",
    "read-only-ignored",
];

/// What CI does: sees that all patches apply, and that some of the bugs which the simulator finds soon are
/// found, from the commit's seed: as many as there is `time` for.
///
/// # Errors
/// A patch is out of date, or a bug is not found.
pub(super) fn in_ci(sh: &Shell, time: Duration) -> Result<()> {
    ui::step("simulate", "planted bugs");
    let bugs = patch::all()?;
    let program = build(sh, &bugs)?;
    let seed = fuzz::commit(sh)?;
    let start = seed as usize % QUICK.len();
    // The last one may take all that it has.
    let last = Instant::now() + time.saturating_sub(Duration::from_secs(CI_LIMIT));
    for name in QUICK.iter().cycle().skip(start).take(CI_SAMPLE) {
        if Instant::now() > last {
            ui::step(
                "simulate",
                &format!("no time for {name} and those behind it"),
            );
            break;
        }
        let Some(at) = bugs.iter().position(|bug| bug.name == *name) else {
            bail!("no bug is called {name}");
        };
        let find = hunt::hunt(sh, &program, at + 1, seed, CI_LIMIT)?;
        let Some(find) = find else {
            bail!("the planted bug {name} is not found in {CI_LIMIT} s of processor time");
        };
        ui::step(
            "simulate",
            &format!("{name}: found after {} s", find.seconds),
        );
    }
    Ok(())
}

/// Builds the simulator with all bugs, beside the one without: what both depend on is built once.
fn build(sh: &Shell, bugs: &[Bug]) -> Result<PathBuf> {
    let tree = tree::refresh(sh, bugs)?;
    let built = super::build(sh, &tree)?;
    let own = root().join("target/planted/spindle-simulate");
    // A new file: another hunt may still run the old one.
    let _ = fs::remove_file(&own);
    fs::copy(built, &own).context("copy the simulator")?;
    Ok(own)
}

fn seed_of_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bugs_can_be_planted_and_those_that_ci_chooses_from_are_there() -> Result<()> {
        let sh = Shell::new()?;
        sh.change_dir(root());
        let bugs = patch::all()?;
        assert!(bugs.len() >= 30);
        tree::switched(&sh, &bugs)?;
        for name in QUICK {
            assert!(bugs.iter().any(|bug| bug.name == name), "{name}");
        }
        Ok(())
    }
}
