//! `spindle-simulate`: runs plans from many seeds, or one from one seed, and reports what it found.
//! `cargo xtask simulate` builds and starts it.

#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write, stderr};
use std::process::{ExitCode, exit};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use spindle_simulate::faults::Kind;
use spindle_simulate::limit::{self, Limit, cpu_time};
use spindle_simulate::plan::{Plan, SCENARIOS, Scenario};
use spindle_simulate::run::{Failure, Runner};
use spindle_simulate::{Outcome, Tally};

/// Simulate whole domains: control, ring cores and drivers as they are, with models of everything
/// else, in virtual time.
#[derive(Parser)]
#[command(
    name = "cargo xtask simulate",
    after_help = "With --planted: how long it takes to find bugs that are put into the product on purpose."
)]
struct Cli {
    /// Run what this seed makes, once; without it, one seed after the other.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed of many; by default another one each time.
    #[arg(long, conflicts_with = "seed")]
    from: Option<u64>,
    /// Virtual hours, in all runs together.
    #[arg(long, default_value_t = 100.0)]
    hours: f64,
    /// Stop after so many real seconds, in the middle of a run if need be. A failure that was found
    /// until then is made smaller for as long as a minute more.
    #[arg(long)]
    limit: Option<u64>,
    /// The same in seconds of processor time.
    #[arg(long, conflicts_with = "limit")]
    cpu: Option<u64>,
    /// What goes wrong: all, calm, guests or disks.
    #[arg(long, default_value = "all")]
    scenario: String,
    /// Report a failure as it was found.
    #[arg(long)]
    no_shrink: bool,
    /// Instead of what the seed makes: ring cores, 0 for one vCPU that does all.
    #[arg(long)]
    cores: Option<usize>,
    /// Instead of what the seed makes: frontends.
    #[arg(long)]
    guests: Option<usize>,
    /// Instead of what the seed makes: virtual seconds until the end begins.
    #[arg(long)]
    seconds: Option<u64>,
    /// Instead of what the seed makes: the disks' timeout in seconds.
    #[arg(long)]
    io_timeout: Option<u64>,
    /// Instead of what the scenario has: kinds of faults by name, "all" or "none".
    #[arg(long)]
    faults: Option<String>,
}

/// A step that takes so much processor time does not end.
const HANGS: Duration = Duration::from_secs(20);

/// How long a failure is made smaller, if there is a limit of time.
const SHRINK: Duration = Duration::from_secs(60);

/// All runs so far.
#[derive(Default)]
struct Sum {
    runs: u64,
    /// Those of them that the time limit has stopped.
    stopped: u64,
    virtual_ns: u64,
    steps: u64,
    tally: Tally,
    faults: Vec<u64>,
    /// What all of them make: the same seeds and the same sources give the same.
    hash: u64,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.stopped += u64::from(!outcome.whole);
        self.virtual_ns += outcome.virtual_ns;
        self.steps += outcome.steps;
        self.tally.add(&outcome.tally);
        self.hash = self.hash.rotate_left(7) ^ outcome.hash;
        self.faults.resize(Kind::ALL.len(), 0);
        for (sum, count) in self.faults.iter_mut().zip(&outcome.faults) {
            *sum += count;
        }
    }

    fn hours(&self) -> f64 {
        self.virtual_ns as f64 / 3600e9
    }

    fn line(&self, took: Duration) -> String {
        let faults: u64 = self.faults.iter().sum();
        let speed = self.hours() / took.as_secs_f64().max(0.001) * 3600.0;
        format!(
            "{} runs, {:.2} h of virtual time, {} requests ({} failed), {faults} faults, {speed:.0} h an hour",
            self.runs,
            self.hours(),
            self.tally.answered,
            self.tally.failed,
        )
    }

    fn print(&self, took: Duration) {
        println!("{}", self.line(took));
        println!(
            "{} steps, {} connections, {} sectors judged, {} requests never answered to dead guests, trace {:016x}",
            self.steps, self.tally.connected, self.tally.judged, self.tally.abandoned, self.hash
        );
        for (kind, count) in Kind::ALL.iter().zip(&self.faults) {
            println!("{count:9}  {:<15} {}", format!("{kind:?}"), kind.text());
        }
    }
}

fn report(failure: &Failure) {
    println!("\nFAILED: {}\n", failure.reason);
    failure.timeline.iter().for_each(|line| println!("{line}"));
    println!(
        "\nafter {:.3} s of virtual time and {} requests; again with:",
        failure.outcome.virtual_ns as f64 / 1e9,
        failure.outcome.tally.answered
    );
    println!("cargo xtask simulate {}", failure.plan);
}

fn found_after(time: Duration) {
    println!("found after {:.1} s of processor time", time.as_secs_f64());
}

/// Ends the process if a step of the domain does not end: no run looks at a clock any longer, whatever
/// processor time is used.
fn watch(current: Arc<Mutex<Option<Plan>>>) {
    thread::spawn(move || {
        let (mut seen, mut since) = (limit::looks(), cpu_time());
        loop {
            thread::sleep(Duration::from_secs(1));
            let (looks, time) = (limit::looks(), cpu_time());
            if looks != seen {
                (seen, since) = (looks, time);
            } else if time - since > HANGS {
                println!("\nFAILED: a step of the domain does not end\n");
                if let Some(plan) = &*current.lock().expect("no other thread panics") {
                    println!("cargo xtask simulate {plan}");
                }
                found_after(time);
                exit(1);
            }
        }
    });
}

/// What of the command line replaces what a seed makes.
fn change(cli: &Cli, plan: &mut Plan) -> Result<(), String> {
    plan.cores = cli.cores.unwrap_or(plan.cores);
    plan.guests = cli.guests.unwrap_or(plan.guests).max(1);
    plan.seconds = cli.seconds.unwrap_or(plan.seconds);
    plan.timeout_s = cli.io_timeout.unwrap_or(plan.timeout_s).max(1);
    match cli.faults.as_deref() {
        None => {}
        Some("all") => plan.kinds = Kind::ALL.to_vec(),
        Some("none") => plan.kinds.clear(),
        Some(names) => {
            let kind = |name| Kind::find(name).ok_or(format!("no kind of fault is called {name}"));
            plan.kinds = names.split(',').map(kind).collect::<Result<_, _>>()?;
        }
    }
    Ok(())
}

fn simulate(cli: &Cli) -> Result<bool, String> {
    let scenario = Scenario::find(&cli.scenario).ok_or_else(|| {
        let names = SCENARIOS.map(|s| format!("{}: {}", s.name, s.text));
        format!(
            "no scenario is called {}; there are\n{}",
            cli.scenario,
            names.join("\n")
        )
    })?;
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH);
    let clock = clock().map_or(0, |since| since.as_secs() << 16);
    let first = cli.seed.or(cli.from).unwrap_or(clock);
    let (mut runner, mut sum, start) = (Runner::default(), Sum::default(), Instant::now());
    let real = cli.limit.map(Duration::from_secs);
    let real = real.map(|limit| Limit::Real(start + limit));
    let cpu = cli.cpu.map(Duration::from_secs).map(Limit::Cpu);
    let deadline = real.or(cpu);
    runner.stop_at(deadline);
    let current = Arc::new(Mutex::new(None));
    watch(Arc::clone(&current));
    let live = stderr().is_terminal();
    for seed in first.. {
        let mut plan = Plan::draw(seed, &scenario);
        change(cli, &mut plan)?;
        *current.lock().expect("no other thread panics") = Some(plan.clone());
        match runner.run(&plan) {
            Ok(outcome) => sum.add(&outcome),
            Err(mut failure) => {
                let found = cpu_time();
                failure.outcome.whole = true;
                sum.add(&failure.outcome);
                runner.stop_at(deadline.map(|_| Limit::Real(Instant::now() + SHRINK)));
                if !cli.no_shrink && cli.seed.is_none() {
                    println!("FAILED: {}\n{plan}\nmaking it smaller", failure.reason);
                    failure = runner.shrink(failure, 60);
                }
                report(&failure);
                found_after(found);
                println!("in run {}", sum.runs);
                sum.print(start.elapsed());
                return Ok(false);
            }
        }
        if live {
            let _ = write!(stderr(), "\r{}\x1b[K", sum.line(start.elapsed()));
        }
        let late = deadline.is_some_and(Limit::is_over);
        if cli.seed.is_some() || late || sum.hours() >= cli.hours {
            break;
        }
    }
    if live {
        eprintln!();
    }
    println!("seeds from {first} on, scenario {}", scenario.name);
    if sum.stopped > 0 {
        println!("no time for the end of the last run, which is judged only so far");
    }
    sum.print(start.elapsed());
    Ok(true)
}

fn main() -> ExitCode {
    match simulate(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
