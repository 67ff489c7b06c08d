//! Simulates domains with one planted bug until a judge speaks.

use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::tree::VARIABLE;

/// Seconds of processor time after which another process goes on: the simulator does not give back all
/// memory of a run.
const SLICE: u64 = 60;

/// What was found of a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Find {
    /// Seconds of processor time until then.
    pub(super) seconds: String,
    /// What the judge said.
    pub(super) reason: String,
    /// The options of `cargo xtask simulate` that play it again.
    pub(super) plan: String,
}

/// Simulates seeds from `first` on with bug `number`, for at most `limit` seconds of processor time.
///
/// # Errors
/// The simulator cannot be started.
pub(super) fn hunt(
    sh: &Shell,
    program: &Path,
    number: usize,
    first: u64,
    limit: u64,
) -> Result<Option<Find>> {
    let number = number.to_string();
    let mut spent = 0;
    while spent < limit {
        let slice = SLICE.min(limit - spent);
        // No process runs so many that it meets the next one's.
        let from = (first + ((spent / SLICE) << 32)).to_string();
        let cpu = slice.to_string();
        let output = cmd!(
            sh,
            "{program} --from {from} --hours 1e9 --cpu {cpu} --no-shrink"
        )
        .env(VARIABLE, &number)
        .quiet()
        .ignore_status()
        .ignore_stderr()
        .output()
        .context("run the simulator")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(mut find) = read(&text) {
            let seconds: f64 = find.seconds.parse().unwrap_or(0.0);
            find.seconds = format!("{:.1}", spent as f64 + seconds);
            return Ok(Some(find));
        }
        if output.status.code() != Some(0) {
            return Ok(Some(Find {
                seconds: format!("below {}", spent + slice),
                reason: format!("the simulator itself dies: {}", output.status),
                plan: format!("--from {from}"),
            }));
        }
        spent += slice;
    }
    Ok(None)
}

/// What the simulator printed of a failure.
fn read(text: &str) -> Option<Find> {
    let line = |begin: &str| text.lines().find_map(|line| line.strip_prefix(begin));
    let reason = line("FAILED: ")?;
    let found = line("found after ")?;
    Some(Find {
        seconds: found.split(' ').next()?.to_string(),
        reason: short(reason),
        plan: line("cargo xtask simulate ").unwrap_or_default().into(),
    })
}

/// A reason without what stands in braces, which is long, and without quotes.
fn short(reason: &str) -> String {
    let (mut text, mut depth) = (String::new(), 0_usize);
    for letter in reason.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            '"' | '|' | '`' => text.push('\''),
            _ => text.push(letter),
        }
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(110) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_simulator_prints_of_a_failure_is_read() {
        let text = "\nFAILED: front 1: Request { what: Read } fails \"so\"\n\n  1.0 s: it goes\n\nafter 3 s; \
            again with:\ncargo xtask simulate --seed 7 --cores 1\nfound after 0.4 s of processor time, in run 2\n";
        let find = read(text).unwrap();
        assert_eq!(find.reason, "front 1: Request fails 'so'");
        assert_eq!(find.seconds, "0.4");
        assert_eq!(find.plan, "--seed 7 --cores 1");
        assert_eq!(read("8 runs, 0.36 h of virtual time"), None);
    }
}
