//! Tries one mutant: runs the tests that reach it, quick ones first, until one fails or does not end.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binary::{Binary, Test};

/// Time of the processor that tests may take beyond many times what they take without a mutant. Not
/// time of the clock: on a busy machine no mutant is to be taken for one that hangs.
const CPU: Duration = Duration::from_secs(2);
/// As many times what they take.
const TIMES: u32 = 8;
/// Time of the clock, for what waits and computes nothing: as much more than the processor's.
const WALL: u64 = 20;
/// Memory, in KiB.
const MEMORY: u64 = 8 << 20;
/// The first tests that run at once take so long together, and each further lot four times as long.
const FIRST: Duration = Duration::from_millis(100);

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A test failed.
    Caught,
    /// A test did not end.
    Timeout,
    /// All tests that reach it passed.
    Survived,
    /// No test reaches it.
    Unreached,
}

/// Switches this mutant on and runs the tests that reach it.
///
/// # Errors
/// A program does not run.
pub fn attempt(
    mutant: u32,
    binaries: &[Binary],
    tests: &[Test],
    environment: &[(String, String)],
    scratch: &Path,
) -> Result<Verdict> {
    let reached = |test: &&Test| test.reaches.contains(&mutant);
    let mut verdict = Verdict::Unreached;
    for (number, binary) in binaries.iter().enumerate() {
        let mut tests: Vec<&Test> = tests
            .iter()
            .filter(|test| test.binary == number)
            .filter(reached)
            .collect();
        tests.sort_by_key(|test| test.takes);
        for lot in lots(&tests) {
            verdict = run(mutant, binary, lot, environment, scratch)?;
            if verdict != Verdict::Survived {
                return Ok(verdict);
            }
        }
    }
    Ok(verdict)
}

/// The tests in lots, so that a mutant which quick tests notice does not wait for slow ones.
fn lots<'a, 'b>(mut tests: &'a [&'b Test]) -> Vec<&'a [&'b Test]> {
    let mut lots = Vec::new();
    let mut bound = FIRST;
    while !tests.is_empty() {
        let mut sum = Duration::ZERO;
        let fits = |test: &&&Test| {
            sum += test.takes;
            sum <= bound
        };
        let count = tests.iter().take_while(fits).count().max(1);
        let (lot, rest) = tests.split_at(count);
        lots.push(lot);
        tests = rest;
        bound *= 4;
    }
    lots
}

fn run(
    mutant: u32,
    binary: &Binary,
    tests: &[&Test],
    environment: &[(String, String)],
    scratch: &Path,
) -> Result<Verdict> {
    let takes: Duration = tests.iter().map(|test| test.takes).sum();
    let cpu = (CPU + takes * TIMES).as_secs();
    let status = Command::new("timeout")
        .arg("--signal=KILL")
        .arg((cpu + WALL).to_string())
        .args(["bash", "-c"])
        .arg(format!(
            "ulimit -c 0 -t {cpu} -v {MEMORY}; exec \"$0\" \"$@\""
        ))
        .arg(&binary.program)
        .args(["--exact", "--test-threads=1"])
        .args(tests.iter().map(|test| &test.name))
        .current_dir(&binary.folder)
        .env("CARGO_MANIFEST_DIR", &binary.folder)
        .env("TMPDIR", scratch)
        .env("MUTANT", mutant.to_string())
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("run the tests")?;
    // By the clock: killed with timeout(1) itself; by the processor's time: SIGXCPU, or SIGKILL after it.
    Ok(match (status.code(), status.signal()) {
        (Some(0), _) => Verdict::Survived,
        (Some(124 | 137 | 152), _) | (_, Some(9 | 24)) => Verdict::Timeout,
        _ => Verdict::Caught,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn quick_tests_come_in_small_lots_first() {
        let test = |millis| Test {
            binary: 0,
            name: String::new(),
            takes: Duration::from_millis(millis),
            reaches: BTreeSet::new(),
        };
        let all = [10, 20, 80, 90, 300, 5000, 6000].map(test);
        let all: Vec<&Test> = all.iter().collect();
        let sizes: Vec<usize> = lots(&all).iter().map(|lot| lot.len()).collect();
        assert_eq!(sizes, [2, 2, 1, 1, 1]);
    }
}
