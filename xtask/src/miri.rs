//! `miri` and `loom`: the host's tests under an interpreter that finds undefined behaviour, and
//! the models of what runs on two cores at once under a checker of all interleavings.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::fuzz::{require_nightly, seed_property_tests};
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

/// Pages of the host are leaked on purpose. Property tests look for their regressions on disk. Rings
/// are zeroed and used by accesses of different sizes, over which Miri's emulation of weak memory
/// ends with an internal error; orderings between cores are `loom`'s.
const FLAGS: &str = "-Zmiri-ignore-leaks -Zmiri-disable-isolation \
                     -Zmiri-disable-weak-memory-emulation";

/// By how many shares a commit begins later than the one before: about as many as there is time for.
const STRIDE: usize = 7;

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
    ensure!(
        is_there(&sh),
        "Miri is missing: rustup component add miri rust-src --toolchain nightly"
    );
    let asked = |name: &str| args.crates.is_empty() || args.crates.iter().any(|c| c == name);
    for (name, tests) in CRATES.into_iter().filter(|(name, _)| asked(name)) {
        ui::step("miri", name);
        interpret(&sh, name, tests, None)?;
    }
    Ok(())
}

/// What CI does: as much as can be interpreted in this time, beginning with another share at each
/// commit, so that a few commits see it all. Gives what was not run if there is no Miri.
pub(crate) fn in_ci(time: Duration) -> Result<Option<String>> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    if !is_there(&sh) {
        let how = "rustup toolchain install nightly --component miri,rust-src";
        let what = format!("the tests under Miri: there is none ({how})");
        ui::step("miri", &format!("NOT RUN: {what}"));
        return Ok(Some(what));
    }
    let shares = shares();
    let number = cmd!(sh, "git rev-list --count HEAD").quiet().read()?;
    let first = number.trim().parse::<usize>()? * STRIDE % shares.len();
    let end = Instant::now() + time;
    for (name, tests) in (0..shares.len()).map(|at| &shares[(first + at) % shares.len()]) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let shown = format!("{name} {}", tests.join(" "));
        let ended = interpret(&sh, name, tests, Some(left))?;
        let how = if ended { "" } else { ": no time for all of it" };
        ui::step("miri", &format!("{}{how}", shown.trim_end()));
    }
    Ok(None)
}

/// One test program each, or a whole crate.
fn shares() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut shares = Vec::new();
    for (name, tests) in CRATES {
        let mut words = tests.iter().peekable();
        if tests.is_empty() {
            shares.push((name, Vec::new()));
        }
        while let Some(&word) = words.next() {
            let argument = words.next_if(|next| !next.starts_with("--"));
            shares.push((name, [word].into_iter().chain(argument.copied()).collect()));
        }
    }
    shares
}

fn is_there(sh: &Shell) -> bool {
    cmd!(sh, "cargo +nightly miri --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok()
}

/// Interprets tests of a crate; false if the time was over before them.
fn interpret(sh: &Shell, name: &str, tests: &[&str], time: Option<Duration>) -> Result<bool> {
    let _flags = sh.push_env("MIRIFLAGS", FLAGS);
    let _cases = sh.push_env("PROPTEST_CASES", "4");
    let _seed = seed_property_tests(sh);
    let Some(time) = time else {
        cmd!(
            sh,
            "cargo +nightly miri test --quiet -p spindle-{name} {tests...}"
        )
        .quiet()
        .run()?;
        return Ok(true);
    };
    let seconds = (time.as_secs() + 1).to_string();
    let output = cmd!(
        sh,
        "timeout {seconds} cargo +nightly miri test --quiet -p spindle-{name} {tests...}"
    )
    .quiet()
    .ignore_status()
    .output()?;
    match output.status.code() {
        Some(0) => Ok(true),
        // What timeout(1) says.
        Some(124) => Ok(false),
        _ => bail!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
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
    let models: [&[&str]; 2] = [
        &["spindle-blkif", "--test", "loom"],
        &["spindle-virtio", "--lib", "models"],
    ];
    for models in models {
        cmd!(
            sh,
            "cargo test --quiet --release --target-dir target/loom -p {models...}"
        )
        .quiet()
        .run()
        .context(
            "a model failed; set LOOM_LOG=trace and LOOM_LOCATION=1 to see the interleaving",
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn shares_are_what_is_interpreted_as_a_whole() {
        for (name, tests) in CRATES {
            let of = shares().into_iter().filter(|(n, _)| *n == name);
            assert_eq!(of.flat_map(|(_, part)| part).collect::<Vec<_>>(), tests);
        }
        // Each is the first at some commit.
        let count = shares().len();
        let firsts: BTreeSet<_> = (0..count).map(|commit| commit * STRIDE % count).collect();
        assert_eq!(firsts.len(), count);
        assert!(shares().contains(&("xen", vec!["--test", "clock"])));
        assert!(shares().contains(&("hw", vec![])));
    }

    #[test]
    fn a_crate_that_there_is_not_is_refused() {
        assert!(check_names(&["hw".into(), "xen".into()]).is_ok());
        assert!(check_names(&["hw".into(), "spindle-xen".into()]).is_err());
    }
}
