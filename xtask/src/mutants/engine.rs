//! Tries the mutants of one crate: lists them, has `schemata` build the crate with them, and tries them.

use std::fs::{self, File};
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use schemata::{Mutant, Verdict, Workspace};
use xshell::{Shell, cmd};

use super::change::Change;
use super::copy::Tree;
use super::crates::Tested;
use super::kept;
use super::outcome::Outcome;
use crate::{fuzz, ui};

/// The mutants of a crate, or those in a change.
///
/// # Errors
/// cargo-mutants fails.
pub(super) fn list(
    sh: &Shell,
    tree: &Tree,
    tested: &Tested,
    change: Option<&Change>,
) -> Result<Vec<Mutant>> {
    let (sources, package) = (&tree.sources, tested.package);
    let mut flags = Vec::new();
    if let Some(change) = change {
        let diff = kept("change.diff");
        fs::write(&diff, &change.diff)?;
        flags.push(format!("--in-diff={}", diff.display()));
    }
    let json = cmd!(
        sh,
        "cargo mutants --dir {sources} --package {package} --list --json {flags...}"
    );
    let json = json.quiet().ignore_stderr().read()?;
    // Of a change without any it says nothing.
    if json.trim().is_empty() {
        return Ok(Vec::new());
    }
    Mutant::parse(&json)
}

/// Tries these mutants until `until`.
///
/// # Errors
/// The crate does not compile, or a test fails without any mutant.
pub(super) fn attempt(
    sh: &Shell,
    tree: &Tree,
    tested: &Tested,
    mut mutants: Vec<Mutant>,
    until: Option<Instant>,
) -> Result<Outcome> {
    let mut outcome = Outcome::of(mutants.len());
    if mutants.is_empty() {
        return Ok(outcome);
    }
    let seed = fuzz::commit(sh)?;
    let environment = environment(sh, seed);
    let packages = [&[tested.package], tested.also].concat();
    let workspace = Workspace {
        top: &tree.sources,
        folder: tested.folder,
        packages: &packages,
        target: &tree.build,
        environment: &environment,
        until,
    };
    let built = schemata::build(&workspace, &mutants)?;
    let scratch = kept("scratch");
    fs::create_dir_all(&scratch)?;
    let tests = schemata::trace(&built.binaries, &environment, &scratch, until)?;
    let Some(tests) = tests.filter(|tests| !tests.is_empty()) else {
        return Ok(outcome);
    };
    ui::step(
        "mutants",
        &format!(
            "{} to be tried, with {} tests",
            built.viable.len(),
            tests.len()
        ),
    );
    outcome.leave_out(built.unviable.len(), built.unfit.len());
    mutants.retain(|mutant| built.viable.contains(&mutant.id));
    // Not always the same first ones, where there is no time for all.
    mutants.sort_by_key(|mutant| (u64::from(mutant.id) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let log = kept("found").join(format!("{}.txt", tested.name));
    fs::create_dir_all(kept("found"))?;
    let log = File::create(&log).with_context(|| log.display().to_string())?;
    let found = Mutex::new((outcome, log));
    schemata::each(&mutants, until, |worker, mutant| {
        let scratch = scratch.join(worker.to_string());
        fs::create_dir_all(&scratch)?;
        let verdict =
            schemata::attempt(mutant.id, &built.binaries, &tests, &environment, &scratch)?;
        let mut found = found.lock().expect("no worker panics");
        found.0.add(&mutant.name, verdict);
        Ok(writeln!(found.1, "{} {}", word(verdict), mutant.name)?)
    })?;
    Ok(found.into_inner().expect("no worker panics").0)
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Caught => "caught",
        Verdict::Timeout => "timeout",
        Verdict::Survived => "survived",
        Verdict::Unreached => "unreached",
    }
}

/// What compiler and tests are run with.
fn environment(sh: &Shell, seed: u64) -> Vec<(String, String)> {
    // The cases of property tests must be those that were traced.
    let seed = sh
        .var("PROPTEST_RNG_SEED")
        .unwrap_or_else(|_| seed.to_string());
    [
        // No debugger looks at a mutant.
        ("CARGO_PROFILE_DEV_DEBUG", "0"),
        // What is built once runs a thousand times. Assertions stay.
        ("CARGO_PROFILE_DEV_OPT_LEVEL", "1"),
        ("RUST_BACKTRACE", "0"),
        ("PROPTEST_RNG_SEED", &seed),
        // A failed case need not be a short one, nor be kept.
        ("PROPTEST_MAX_SHRINK_ITERS", "0"),
        ("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true"),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into()
}
