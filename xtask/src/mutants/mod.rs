//! `mutants`: changes the code in one place at a time (cargo-mutants) and runs the tests, which
//! must notice. What they do not notice is a survivor: it gets a test, or a line with the reason in
//! `xtask/mutants.txt` ([`listed`]).
//!
//! The mutants are made in a copy of the sources ([`copy`]), never in the work tree, of all the code
//! or of what a change touches ([`change`]), or a sample ([`sample`]). [`outcome`] reads what was found
//! and judges it. What it says of a crate all of whose mutants were tried, or of a sample of them, is
//! kept, and shown by a page of the results ([`page`]).

mod change;
mod copy;
mod listed;
mod outcome;
mod page;
mod sample;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use xshell::{Shell, cmd};

use self::change::Change;
use self::listed::Listed;
use self::outcome::{Earlier, Extent, Outcome, Report};
use self::sample::{Part, Sample};
use crate::{freshness, fuzz, root, tools, ui};

/// A crate whose tests are tried.
struct Tested {
    /// What it is called on the command line and in the table.
    name: &'static str,
    package: &'static str,
    /// Where its sources are.
    folder: &'static str,
    /// Other packages whose tests are its tests, too.
    also: &'static [&'static str],
}

const fn driver(name: &'static str, package: &'static str, folder: &'static str) -> Tested {
    Tested {
        name,
        package,
        folder,
        also: &[],
    }
}

/// All of them; smaller ones first. testkit and the fuzz targets are tests themselves.
const CRATES: [Tested; 12] = [
    driver("config", "spindle-config", "drivers/config"),
    driver("pci", "spindle-pci", "drivers/pci"),
    driver("hw", "spindle-hw", "drivers/hw"),
    driver("kept", "spindle-kept", "drivers/kept"),
    driver("block", "spindle-block", "drivers/block"),
    driver("datapath", "spindle-datapath", "kernel/datapath"),
    driver("control", "spindle-control", "kernel/control"),
    driver("virtio", "spindle-virtio", "drivers/virtio"),
    driver("xen", "spindle-xen", "drivers/xen"),
    driver("ctl", "spindlectl", "ctl"),
    driver("nvme", "spindle-nvme", "drivers/nvme"),
    Tested {
        also: &["spindle-control"],
        ..driver("blkif", "spindle-blkif", "drivers/blkif")
    },
];

/// After so long tests hang: many times what those of any crate take on an idle machine.
const HANGS: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only in what differs from this commit; without one, from the point where origin/main and
    /// this branch part, or from some commits ago if they do not.
    #[arg(long, value_name = "COMMIT", num_args = 0..=1, default_missing_value = "")]
    changed: Option<String>,
    /// Only in this crate (several: given several times).
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,
    /// Only what the last runs of the whole crate, and those with this option after it, have left or
    /// what survived them: after a change of the tests, or if there was too little time.
    #[arg(long, conflicts_with_all = ["changed", "shard", "sample"])]
    again: bool,
    /// Make no mutants: make the page of the record again.
    #[arg(long, conflicts_with_all = ["changed", "package", "again", "shard", "sample", "minutes"])]
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
    /// Only those that earlier runs have not settled.
    again: bool,
    /// As many as there is time for.
    time: Option<Duration>,
    /// One crate after the other has all of the time.
    in_turn: bool,
    /// The tests are known to pass without any.
    tests_pass: bool,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    if args.page_only {
        return page::update(Vec::new());
    }
    let chosen = choose(&args.package)?;
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
        again: args.again,
        time: args
            .minutes
            .map(|minutes| Duration::from_secs(60 * minutes)),
        in_turn: false,
        tests_pass: false,
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
        tests_pass: true,
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
    let tree = copy::refresh(sh)?;
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
        let all = match scope.sample {
            Some(_) => list(sh, &tree, tested)?.len(),
            None => 0,
        };
        let part = scope.sample.map(|sample| sample.of(all));
        let outcome = try_one(sh, &tree, tested, scope, part, left)?;
        let extent = match part {
            Some(_) => Extent::Sample,
            None if scope.change.is_some() => Extent::Change,
            None => Extent::Whole,
        };
        let marks = outcome.marks(tested.name, tested.folder, &listed);
        let versioned = marks.into_iter().map(|mark| mark.with("spindle", &version));
        match part {
            // One that had too little time is a smaller one: the order was mixed.
            Some(part) if outcome.tried() > 0 => {
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

/// Makes mutants of one crate, for so long.
fn try_one(
    sh: &Shell,
    tree: &copy::Tree,
    tested: &Tested,
    scope: &Scope,
    part: Option<Part>,
    time: Option<Duration>,
) -> Result<Outcome> {
    // A part has a folder of its own, so that a run of all can still be gone on with.
    let is_part = scope.change.is_some() || part.is_some();
    let found = kept(if is_part { "found-in-part" } else { "found" }).join(tested.name);
    if found.exists() && !scope.again {
        fs::remove_dir_all(&found)?;
    }
    fs::create_dir_all(&found)?;
    let mut flags: Vec<String> = Vec::new();
    let mut earlier = Earlier::default();
    if scope.again {
        let all = list(sh, tree, tested)?;
        earlier = Earlier::take(&found, |mutant| all.contains(mutant))?;
        flags.push("--iterate".to_string());
    }
    if !tested.also.is_empty() {
        let packages = [&[tested.package], tested.also].concat().join(",");
        flags.push(format!("--test-package={packages}"));
    }
    if let Some(change) = &scope.change {
        let diff = found.join("change.diff");
        fs::write(&diff, &change.diff)?;
        flags.push(format!("--in-diff={}", diff.display()));
    }
    if let Some(part) = part {
        // From all over the crate, not from one file.
        flags.extend([
            format!("--shard={part}"),
            "--sharding=round-robin".to_string(),
        ]);
    }
    // On a busy machine no mutant is to be taken for one that hangs.
    let hangs = HANGS.as_secs();
    if scope.tests_pass {
        flags.extend(["--baseline=skip".to_string(), format!("--timeout={hangs}")]);
    } else {
        flags.push(format!("--minimum-test-timeout={hangs}"));
    }
    // Not always the same first ones, where there is no time for all.
    if time.is_some() {
        flags.push("--shuffle".to_string());
    }
    // 0 is without end.
    let seconds = time.map_or(0, |time| time.as_secs().max(1)).to_string();
    let (sources, build, package) = (&tree.sources, &tree.build, tested.package);
    let output = cmd!(
        sh,
        "timeout --signal=INT --kill-after=20 {seconds} cargo mutants --dir {sources} --in-place
        --package {package} --output {found} --colors never --no-times {flags...}"
    )
    .env("CARGO_TARGET_DIR", build)
    // No debugger looks at a mutant, and most of the time goes to compiling and linking.
    .env("CARGO_PROFILE_DEV_DEBUG", "0")
    // A failed case need not be a short one, nor be kept.
    .env("PROPTEST_MAX_SHRINK_ITERS", "0")
    .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
    .quiet()
    .ignore_status()
    .output()?;
    let text = || {
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    match output.status.code() {
        // All were noticed; some were not; some made tests hang; timeout(1) ended it, or killed it.
        Some(0 | 2 | 3 | 124 | 137) => {
            Ok(Outcome::read(&found.join("mutants.out"))?.with(&earlier))
        }
        Some(4) => bail!(
            "the tests of {package} fail without any mutant:\n{}",
            text()
        ),
        _ => bail!("cargo mutants failed in {package}:\n{}", text()),
    }
}

/// The names of all mutants of a crate.
fn list(sh: &Shell, tree: &copy::Tree, tested: &Tested) -> Result<BTreeSet<String>> {
    let (sources, package) = (&tree.sources, tested.package);
    let all = cmd!(
        sh,
        "cargo mutants --dir {sources} --package {package} --colors never --list"
    );
    let all = all.quiet().ignore_stderr().read()?;
    Ok(all.lines().map(String::from).collect())
}

/// The crates of these names, or all.
fn choose(names: &[String]) -> Result<Vec<&'static Tested>> {
    let is = |tested: &Tested, name: &str| name == tested.name || name == tested.package;
    for name in names {
        let known = CRATES.map(|tested| tested.name).join(" ");
        ensure!(
            CRATES.iter().any(|tested| is(tested, name)),
            "no crate is called \"{name}\"; there are: {known}"
        );
    }
    let asked = |tested: &&Tested| names.is_empty() || names.iter().any(|name| is(tested, name));
    Ok(CRATES.iter().filter(asked).collect())
}

/// Where something is that stays between runs.
fn kept(name: &str) -> PathBuf {
    root().join("target/mutants").join(name)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn every_crate_is_where_it_is_said_to_be() -> Result<()> {
        for tested in &CRATES {
            let manifest = root().join(tested.folder).join("Cargo.toml");
            let text = fs::read_to_string(&manifest)?;
            let name = format!("name = \"{}\"", tested.package);
            assert!(text.contains(&name), "{}", manifest.display());
        }
        Ok(())
    }

    #[test]
    fn no_driver_is_left_out() -> Result<()> {
        for folder in fs::read_dir(root().join("drivers"))? {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            let name = folder.file_name();
            let name = name.to_str().context("a name")?;
            let is_test = name == "testkit" || name == "fuzz";
            let folder = format!("drivers/{name}");
            let is_tried = CRATES.iter().any(|tested| tested.folder == folder);
            assert_ne!(is_tried, is_test, "{folder}");
        }
        Ok(())
    }

    #[test]
    fn a_crate_goes_by_either_name_and_others_are_refused() -> Result<()> {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            choose(&names).map(|chosen| chosen.iter().map(|c| c.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["spindle-xen", "ctl"])?, ["xen", "ctl"]);
        assert_eq!(names(&[])?.len(), CRATES.len());
        assert!(names(&["testkit"]).is_err());
        Ok(())
    }
}
