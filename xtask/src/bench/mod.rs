//! `bench`: measures Spindle beside Linux' xen-blkback and writes the results page.
//!
//! `host` runs the hot path natively; `side_by_side` boots the rig. Both leave marks in a
//! `record`, of which `samples`, `targets`, `plot` and `page` make the results.

mod fairness;
mod fio;
mod host;
mod idle;
mod idle_plot;
mod limits;
mod limits_plot;
mod page;
mod plan;
mod played;
mod plot;
mod record;
mod samples;
mod side_by_side;
mod targets;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use self::plan::Plan;
use self::record::Record;
use self::samples::Samples;
use crate::freshness::Age;
use crate::rig::Suite;
use crate::{root, ui};

/// The first process of the Linux driver domain.
pub(crate) const LINUX_INIT: &str = include_str!("../../rig/bench/linux-init.sh");

/// What dom0 does, by name.
pub(crate) const SCRIPT: (&str, &str) = ("bench", include_str!("../../rig/bench/dom0.sh"));

/// What the guest does, by name.
pub(crate) const JOB: (&str, &str) = ("fio-bench", include_str!("../../rig/bench/guest.sh"));

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One short round: shows that it works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// How often each job is run.
    #[arg(long, default_value_t = 3)]
    reps: u32,
    /// Seconds that a job runs.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Only these backends, of spindle,linux,dom0,ram.
    #[arg(long, default_value = "")]
    variants: String,
    /// Only these jobs, as `randread-4k-32` (access, block size, depth).
    #[arg(long, default_value = "")]
    jobs: String,
    /// Numbers of queues to measure with; a boot of the rig each.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    queues: Vec<u32>,
    /// Measure in the rig only.
    #[arg(long)]
    rig_only: bool,
    /// Measure on the host only.
    #[arg(long)]
    host_only: bool,
    /// Only report how a guest fares beside hostile neighbours on its core, on a disk in virtual
    /// time, and write the page of it.
    #[arg(long)]
    fairness: bool,
    /// Only compare Spindle's idle policy with others', in virtual time, and write the page of it.
    #[arg(long)]
    idle: bool,
    /// Only report how tenants keep to limits and share a disk by weight, in virtual time, and write the
    /// page of it.
    #[arg(long)]
    limits: bool,
    /// Measure nothing: make the page of the record again.
    #[arg(long)]
    page_only: bool,
    /// Which Debian the rig is made of.
    #[arg(long, value_enum, default_value = "bookworm")]
    suite: Suite,
    /// Where record, page and plot go [default: xtask/results, or target/bench with --quick].
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What CI checks of it: bounds on instructions. Gives what was not checked.
pub(crate) fn in_ci() -> Result<Option<String>> {
    host::bounds()
}

/// Runs the task. What is measured replaces the same in the record; the rest stays.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = args.output.clone().unwrap_or_else(|| {
        root().join(if args.quick {
            "target/bench"
        } else {
            "xtask/results"
        })
    });
    if args.fairness {
        return fairness::FAIRNESS.run(&folder);
    }
    if args.idle {
        return idle::IDLE.run(&folder);
    }
    if args.limits {
        return limits::LIMITS.run(&folder);
    }
    let mut record = Record::open(&folder)?;
    if !args.page_only {
        if !args.rig_only {
            let circumstances = record::circumstances(args.suite)?;
            let cases = host::run()?;
            record.forget(|mark| mark.get("queues").is_empty());
            record.add([circumstances])?;
            record.add(cases)?;
        }
        if !args.host_only {
            let (reps, seconds) = if args.quick {
                (1, 4)
            } else {
                (args.reps, args.seconds)
            };
            let plan = Plan::new(&args.variants, &args.jobs, reps, seconds)?;
            side_by_side::run(args.suite, &plan, &args.queues, &mut record)?;
        }
    }
    let samples = Samples::of(&record.marks);
    if !samples.queues().is_empty() {
        plot::draw(&samples, &folder.join("bench.svg"))?;
    }
    let path = folder.join("README.md");
    fs::write(&path, page::write(&record.marks, &samples, &Age::of)?)
        .with_context(|| format!("write {}", path.display()))?;
    print(&record, &samples);
    ui::step("bench", &format!("results: {}", path.display()));
    Ok(())
}

/// The targets, on the terminal.
fn print(record: &Record, samples: &Samples) {
    let mut table = ui::table(["Spindle / Linux driver domain; on the host", "figure", ""]);
    for verdict in targets::judge(&record.marks, samples) {
        table.add_row([&verdict.what, &verdict.text(3), verdict.outcome()]);
    }
    println!("{table}");
}
