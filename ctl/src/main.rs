//! `spindlectl`: creates, destroys and watches Spindle domains, from dom0.
//!
//! `plan` finds out what to do, `create` and `destroy` do it and undo it, `spindle` reads what
//! running domains show in xenstore, for `tables` and `metrics`. All of them reach dom0 through
//! `host`, so that they are tested without one.

#![forbid(unsafe_code)]

mod check;
mod counters;
mod create;
mod destroy;
#[cfg(test)]
mod fake;
mod host;
mod metrics;
mod pci;
mod place;
mod plan;
#[cfg(test)]
mod plan_tests;
mod record;
mod restart;
mod spindle;
mod store;
mod tables;
mod xlcfg;

use std::env;
use std::fmt::Display;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use host::{Dom0, Host};
use plan::{Plan, Route, Wanted};
use spindle::Spindle;

/// Locked while something is changed.
const LOCK: &str = "/run/spindlectl.lock";
/// How often Spindle publishes its counters, with some time to spare.
const PUBLISHED: Duration = Duration::from_secs(6);
/// How often `top` looks for news that are late.
const LOOK: Duration = Duration::from_millis(500);

/// Create, destroy and watch Spindle storage domains. Runs in dom0, as root.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Create a Spindle domain with its disks, and wait until it serves. If anything fails,
    /// everything is put back as it was.
    Create(Create),
    /// Shut a Spindle domain down and give its disks back to dom0; also cleans up after one that
    /// ended by itself.
    Destroy(Destroy),
    /// Put a new Spindle domain in the place of one that `create` made, be it dead or alive, and
    /// tell how its guests get their disks back.
    Restart(Restart),
    /// List Spindle domains, what they serve, and to whom.
    List,
    /// Print the counters of all disks and cores.
    Stat,
    /// Show live rates of all disks and cores.
    Top(Top),
    /// Print all counters for Prometheus (for the textfile collector of its node exporter).
    Metrics,
}

#[derive(Args)]
struct Create {
    /// A configuration as for xl; with type="pvh", pci= is allowed here.
    config: Option<String>,
    /// How the disks are passed through [default: what the configuration's type says, or hvm].
    #[arg(long, value_enum)]
    route: Option<Route>,
    /// The domain's name [default: spindle].
    #[arg(long)]
    name: Option<String>,
    /// Memory in MiB [default: 64].
    #[arg(long)]
    memory: Option<u64>,
    /// One for control, each further one polls rings [default: 3].
    #[arg(long)]
    vcpus: Option<u64>,
    /// A disk's PCI address, as `lspci -D` prints it; may be repeated.
    #[arg(long, value_name = "BDF")]
    pci: Vec<String>,
    /// Spindle's image [default: /usr/lib/spindle/spindle.elf].
    #[arg(long, value_name = "PATH")]
    image: Option<String>,
    /// A knob for Spindle; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    knobs: Vec<String>,
    /// The preload library for the PVH route [default: beside spindlectl, or in /usr/lib/spindle].
    #[arg(long, value_name = "PATH")]
    shim: Option<String>,
    /// Seconds to wait until it serves.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    /// Leave a domain that fails as it is, to look at it.
    #[arg(long)]
    keep: bool,
    /// Check everything, print what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
struct Destroy {
    /// The domain's name.
    name: String,
    /// Even if guests use its disks.
    #[arg(long)]
    force: bool,
    /// Seconds to wait for it to shut down, before it is destroyed.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

#[derive(Args)]
struct Restart {
    /// The domain's name.
    name: String,
    /// Even if guests use its disks: they lose what is in flight, and wait for it for ever.
    #[arg(long)]
    force: bool,
    /// The preload library for the PVH route [default: beside spindlectl, or in /usr/lib/spindle].
    #[arg(long, value_name = "PATH")]
    shim: Option<String>,
    /// Seconds to wait for each, the end of the old one and the new one to serve.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

#[derive(Args)]
struct Top {
    /// Seconds between two looks; Spindle publishes every 5 seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// End after so many looks.
    #[arg(long)]
    count: Option<u64>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Create(args) => create(args),
        Verb::Destroy(args) => destroy(&args),
        Verb::Restart(args) => restart(args),
        Verb::List => list(),
        Verb::Stat => Spindle::all(&mut Dom0::new()).and_then(|all| print(&tables::stat(&all))),
        Verb::Top(args) => top(&args),
        Verb::Metrics => {
            Spindle::all(&mut Dom0::new()).and_then(|all| show(metrics::text(&all).trim_end()))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a place to say it, the status still tells.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(what: &str) {
    // A configuration is many lines; its first tells which.
    let line = what.lines().next().unwrap_or_default();
    // Nobody may be listening; what was begun goes on all the same.
    let _ = writeln!(io::stderr(), "+ {line}");
}

fn create(args: Create) -> Result<()> {
    let config = args
        .config
        .map(|path| fs::read_to_string(&path).with_context(|| format!("cannot read {path}")));
    let wanted = Wanted {
        config: config.transpose()?,
        route: args.route,
        name: args.name,
        memory: args.memory,
        vcpus: args.vcpus,
        pci: args.pci,
        image: args.image,
        knobs: args.knobs,
        shims: args.shim.map_or_else(shims, |shim| vec![shim]),
    };
    let mut host = Dom0::new();
    let _alone = if args.dry_run {
        None
    } else {
        alone(&mut host)?
    };
    let plan = Plan::new(&mut host, &wanted, None)?;
    if args.dry_run {
        for step in &plan.steps {
            show(step.shell(&plan.record))?;
        }
        return Ok(());
    }
    let patience = Duration::from_secs(args.timeout);
    let spindle = create::create(&mut host, &plan, patience, args.keep, &mut say)?;
    show(tables::list(&[spindle]))
}

fn destroy(args: &Destroy) -> Result<()> {
    let mut host = Dom0::new();
    let _alone = alone(&mut host)?;
    let patience = Duration::from_secs(args.timeout);
    destroy::destroy(&mut host, &args.name, args.force, patience, &mut say)
}

fn restart(args: Restart) -> Result<()> {
    let mut host = Dom0::new();
    let _alone = alone(&mut host)?;
    let shims = args.shim.map_or_else(shims, |shim| vec![shim]);
    let patience = Duration::from_secs(args.timeout);
    let (spindle, guests) =
        restart::restart(&mut host, &args.name, args.force, shims, patience, &mut say)?;
    show(tables::list(&[spindle]))?;
    if !guests.is_empty() {
        let guests = guests.join(", ");
        show(format!("These guests had disks from it: {guests}."))?;
        show("One whose disk was at rest gets it back without a reboot, as a new one:")?;
        show("  xl block-detach --force GUEST VDEV && xl block-attach GUEST 'DISK'")?;
        show("One that had I/O in flight waits for it for ever: xl destroy, then xl create.")?;
    }
    Ok(())
}

/// Has whoever else changes something end first: of two at once, each would take for its own, and
/// undo, what the other does.
fn alone(host: &mut Dom0) -> Result<Option<fs::File>> {
    if host.user() != 0 {
        // Who is not root will be refused, with better words.
        return Ok(None);
    }
    let lock = host::lock(Path::new(LOCK), || {
        say("waiting for another spindlectl to end")
    });
    lock.map(Some)
        .with_context(|| format!("cannot lock {LOCK}"))
}

/// Prints. Where nobody reads any more, such as `head` that has seen enough, that is the end.
fn show(text: impl Display) -> Result<()> {
    if !put(&mut io::stdout(), &text).context("cannot print")? {
        std::process::exit(0);
    }
    Ok(())
}

/// Writes a line; false if nobody reads any more.
fn put(out: &mut impl Write, text: &impl Display) -> io::Result<bool> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true),
    }
}

/// Where the preload library is looked for.
fn shims() -> Vec<String> {
    const NAME: &str = "libspindle_shim.so";
    let beside = env::current_exe().ok();
    let beside = beside.as_deref().and_then(Path::parent);
    let beside = beside.map(|folder| folder.join(NAME).display().to_string());
    let installed = format!("/usr/lib/spindle/{NAME}");
    beside.into_iter().chain([installed]).collect()
}

fn list() -> Result<()> {
    let all = Spindle::all(&mut Dom0::new())?;
    ensure!(
        !all.is_empty(),
        "no Spindle runs; `spindlectl create --help` tells how to start one"
    );
    show(tables::list(&all))
}

fn top(args: &Top) -> Result<()> {
    let mut host = Dom0::new();
    let every = Duration::from_secs(args.every);
    let (mut before, mut looked) = (Spindle::all(&mut host)?, Instant::now());
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        left -= 1;
        thread::sleep(every);
        let mut now = Spindle::all(&mut host)?;
        // Without news, nothing has happened only if none comes for as long as Spindle may take.
        while now == before && looked.elapsed() < every + PUBLISHED {
            thread::sleep(LOOK);
            now = Spindle::all(&mut host)?;
        }
        let seconds = looked.elapsed().as_secs_f64();
        looked = Instant::now();
        if io::stdout().is_terminal() {
            // Clears the screen, and goes to its top (ECMA-48).
            print!("\x1b[2J\x1b[H");
        }
        print(&tables::top(&before, &now, seconds))?;
        before = now;
    }
    Ok(())
}

fn print(tables: &[comfy_table::Table]) -> Result<()> {
    tables.iter().try_for_each(show)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        let mut seen = Vec::new();
        assert!(put(&mut seen, &"a").expect("written"));
        assert_eq!(seen, b"a\n");
        assert!(!put(&mut Broken(io::ErrorKind::BrokenPipe), &"a").expect("no failure"));
        assert!(put(&mut Broken(io::ErrorKind::StorageFull), &"a").is_err());
    }
}
