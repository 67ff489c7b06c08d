//! `mutants`: changes the code in one place at a time and runs the tests, which must notice. What they do
//! not notice is a survivor: it gets a test, or a line with the reason in `xtask/mutants.txt` ([`listed`]).
//!
//! cargo-mutants names the mutants; the crate `schemata` builds a crate ([`crates`]) with all of them once
//! and switches one after the other on ([`engine`]). They are made in a copy of the sources ([`copy`]),
//! never in the work tree, of all the code or of what a change touches ([`change`]), or a sample
//! ([`sample`]). [`outcome`] counts what was found, and [`report`] prints and judges it. What it says of a crate all of whose
//! mutants were tried, or of a sample of them, is kept, and shown by a page of the results ([`page`]).

mod change;
mod copy;
mod crates;
mod engine;
mod listed;
mod outcome;
mod page;
mod report;
mod sample;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use xshell::Shell;

use self::change::Change;
use self::crates::{Tested, choose};
use self::listed::Listed;
use self::outcome::Extent;
use self::report::Report;
use self::sample::{Part, Sample};
use crate::{freshness, fuzz, root, tools, ui};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only in what differs from this commit; without one, from the point where origin/main and
    /// this branch part, or from some commits ago if they do not.
    #[arg(long, value_name = "COMMIT", num_args = 0..=1, default_missing_value = "")]
    changed: Option<String>,
    /// Only in this crate (several: given several times).
    #[arg(long = "crate", alias = "package", value_name = "NAME")]
    crates: Vec<String>,
    /// Make no mutants: make the page of the record again.
    #[arg(long, conflicts_with_all = ["changed", "crates", "shard", "sample", "minutes"])]
    page_only: bool,
    /// Only a sample of about so many of each crate's mutants: every Nth one, where the commit decides
    /// which is the first. The page shows it as a sample; no rate makes the command fail.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["changed", "shard"])]
    sample: Option<usize>,
    /// Only this sample of each crate's mutants: of N the one with the number K, from 0 on, and every
    /// Nth after it.
    #[arg(long, value_name = "K/N", conflicts_with = "changed")]
    shard: Option<Part>,
    /// End after so many minutes, and print how many mutants were left.
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,
}

/// Which mutants of the chosen crates are made.
#[derive(Default)]
struct Scope {
    /// Only those in it.
    change: Option<Change>,
    /// Only this part of each crate's.
    sample: Option<Sample>,
    /// As many as there is time for.
    time: Option<Duration>,
    /// One crate after the other has all of the time.
    in_turn: bool,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    if args.page_only {
        return page::update(Vec::new());
    }
    let chosen = choose(&args.crates)?;
    let base = args.changed.as_deref();
    let change = base.map(|base| Change::since(&sh, Some(base).filter(|base| !base.is_empty())));
    let sample = match (args.shard, args.sample) {
        (Some(part), _) => Some(Sample::Given(part)),
        (None, Some(size)) => Some(Sample::Drawn {
            size,
            by: fuzz::commit(&sh)?,
        }),
        (None, None) => None,
    };
    let scope = Scope {
        change: change.transpose()?,
        sample,
        time: args
            .minutes
            .map(|minutes| Duration::from_secs(60 * minutes)),
        in_turn: false,
    };
    try_all(&sh, chosen, &scope)?.judge()
}

/// What CI does after the host's tests: as many of the mutants in what a change touches as there is
/// time for, crate by crate, beginning with another one at each commit: most of the time is for
/// compiling a crate once, so that a share for each would be enough for none. A sample says nothing
/// of a crate's rate, so that it shows what survived and judges nothing. Returns what was left out.
pub(crate) fn in_ci(time: Duration) -> Result<Option<String>> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    let scope = Scope {
        change: Some(Change::since(&sh, None)?),
        time: Some(time),
        in_turn: true,
        ..Scope::default()
    };
    let mut chosen = choose(&[])?;
    let first = fuzz::commit(&sh)? % chosen.len() as u64;
    chosen.rotate_left(usize::try_from(first)?);
    let report = try_all(&sh, chosen, &scope)?;
    let left = report.left();
    let command = "cargo xtask mutants --changed";
    Ok((!left.is_empty()).then(|| format!("mutants in {} ({command})", left.join(", "))))
}

/// Makes mutants of these crates and prints what their tests noticed.
fn try_all(sh: &Shell, mut chosen: Vec<&Tested>, scope: &Scope) -> Result<Report> {
    let mut report = Report::default();
    let listed = Listed::read(&root().join("xtask/mutants.txt"))?;
    if let Some(change) = &scope.change {
        ui::step("mutants", &format!("in {}", change.what));
        chosen.retain(|tested| change.touches(tested.folder));
    }
    if chosen.is_empty() {
        ui::step(
            "mutants",
            "none: no source of a crate that is tested differs",
        );
        return Ok(report);
    }
    tools::cargo_mutants(sh)?;
    let tree = copy::Tree::hold()?;
    let start = Instant::now();
    for (number, tested) in chosen.iter().enumerate() {
        // What is left of the time is shared by the crates that are left, or is all for the next.
        let left = scope.time.map(|time| {
            let rest = u32::try_from(chosen.len() - number).unwrap_or(u32::MAX);
            let parts = if scope.in_turn { 1 } else { rest };
            time.saturating_sub(start.elapsed()) / parts
        });
        if scope.in_turn && left.is_some_and(|left| left.is_zero()) {
            report.skip(tested.name);
            continue;
        }
        ui::step("mutants", tested.name);
        // Before the run: the work tree may change under it, the copy does not.
        let version = freshness::version_of(&[tested.folder]);
        tree.refresh(sh)?;
        let mut mutants = engine::list(sh, &tree, tested, scope.change.as_ref())?;
        let all = mutants.len();
        let part = scope.sample.map(|sample| sample.of(all));
        if let Some(part) = part {
            mutants = part.take(mutants);
        }
        let until = left.map(|left| Instant::now() + left);
        let outcome = engine::attempt(sh, &tree, tested, mutants, until)?;
        let extent = match part {
            Some(_) => Extent::Sample,
            None if scope.change.is_some() => Extent::Change,
            None => Extent::Whole,
        };
        let marks = outcome.marks(tested.name, tested.folder, &listed);
        let versioned = marks.into_iter().map(|mark| mark.with("spindle", &version));
        match part {
            // One that had too little time is a smaller one: the order was mixed.
            Some(part) if outcome.viable() > 0 => {
                let marks = versioned.map(|mark| mark.with("part", part).with("all", all));
                page::update(marks.collect())?;
            }
            None if extent == Extent::Whole && outcome.is_complete() => {
                page::update(versioned.collect())?;
            }
            _ => {}
        }
        report.add(tested.name, tested.folder, &outcome, &listed, extent);
    }
    println!("{report}");
    Ok(report)
}

/// Where something is that stays between runs.
fn kept(name: &str) -> PathBuf {
    root().join("target/mutants").join(name)
}
