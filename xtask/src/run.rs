//! `run`: the whole road once, and a report about it, or many times, to count how often it fails; or a
//! guest under load while Spindle's kernel dies again and again (`crash`, `pauses`, `parts`).

pub(crate) mod crash;
mod parts;
mod pauses;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::history::History;
use crate::rig::{self, Backend, End, MOST_TRIES, Machine, Setup, Suite, is_emulator};
use crate::scenario::{self, FileTree};
use crate::tally::{Tally, shorten};
use crate::{kernel, ui};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which Debian the rig is made of.
    #[arg(long, value_enum, default_value = "bookworm")]
    suite: Suite,
    /// Do it so many times, without second tries, and count how often it failed and why.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Have Spindle's kernel die every few seconds while a guest writes and checks, and draw the guest's
    /// answered requests over time.
    #[arg(long, conflicts_with_all = ["repeat", "backend"])]
    crash: bool,
    /// Who serves the disk; `dom0` is Linux' own backend, for comparison.
    #[arg(long, value_enum, default_value = "spindle", hide = true)]
    backend: Backend,
}

/// What the history calls the whole road, and the deaths.
const NAME: &str = "run";
const CRASH_NAME: &str = "run-crash";

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let _lock = rig::lock()?;
    let image = match args.backend {
        Backend::Spindle | Backend::Bench => Some(kernel::build()?),
        Backend::Dom0 => None,
    };
    let images = rig::prepare(args.suite)?;
    let kernel = image.as_ref().map(|image| image.path.as_path());
    let setup = Setup::new(args.suite, &images, kernel, args.backend);
    if let Some(times) = args.repeat {
        return repeat(&setup, times);
    }
    if args.crash {
        ui::step(
            "run",
            "a guest writes and checks while Spindle dies again and again (2 minutes)",
        );
        let road = walk(&setup, CRASH_NAME, crash::play)?;
        if let Some(report) = &road.report {
            report.print(args.suite);
        }
        return road.verdict();
    }
    ui::step(
        "run",
        "a guest writes files, a second one checks them (2 to 3 minutes)",
    );
    let road = walk(&setup, NAME, files)?;
    if let Some(report) = &road.report {
        print(
            args.suite,
            report,
            &road.failure,
            &road.retries,
            &road.ends,
            image.as_ref(),
        );
    }
    road.verdict()
}

/// A road, once.
struct Road<T> {
    /// What was seen, if the machine lived to its end.
    report: Option<T>,
    /// Why it failed, if it did.
    failure: Option<String>,
    /// Why it is to be complained of though it did not fail.
    complaint: Option<String>,
    /// Why anything was tried again.
    retries: Vec<String>,
    /// The guests that the emulator ended.
    ends: Vec<End>,
    logs: PathBuf,
}

impl<T> Road<T> {
    /// How the task ends.
    fn verdict(self) -> Result<()> {
        if let Some(why) = self.failure.or(self.complaint) {
            bail!("{why}\nlogs: {}", self.logs.display());
        }
        Ok(())
    }
}

/// How a road is played: what was seen, and why it failed, if it did.
type Play<T> = fn(&mut Machine) -> Result<(Option<T>, Option<String>)>;

/// A road, again if the emulator ended it, counted under this name.
fn walk<T>(setup: &Setup, name: &str, road: Play<T>) -> Result<Road<T>> {
    let (mut retries, mut ends, mut tries) = (Vec::new(), Vec::new(), 1);
    let mut road = loop {
        let mut road = once_played(setup, road)?;
        retries.append(&mut road.retries);
        ends.append(&mut road.ends);
        let ended = |why: &mut String| is_emulator(why) && tries < MOST_TRIES;
        let Some(why) = road.failure.take_if(ended) else {
            break road;
        };
        tries += 1;
        ui::step("run", &format!("try {tries}: {why}"));
        retries.push(why);
    };
    if setup.backend == Backend::Spindle {
        let passed = road.failure.is_none();
        let rate = History::open()?.add(setup.suite, name, passed, &retries)?;
        road.complaint = rate.complaint(setup.suite, name, &retries);
    }
    (road.retries, road.ends) = (retries, ends);
    Ok(road)
}

/// A road on a new machine.
fn once_played<T>(setup: &Setup, road: Play<T>) -> Result<Road<T>> {
    let mut machine = Machine::boot_or_retry(setup)?;
    let (logs, seen, ends) = (
        machine.logs.clone(),
        machine.retries.clone(),
        machine.ends.clone(),
    );
    let (report, failure) = match road(&mut machine) {
        Ok(played) => {
            machine.power_off()?;
            played
        }
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    Ok(Road {
        report,
        failure: failure.map(|why| ends.explain(&why).unwrap_or(why)),
        complaint: None,
        retries: seen.take(),
        ends: ends.list(),
        logs,
    })
}

/// The whole road: one guest writes, another one checks, the host looks.
fn files(machine: &mut Machine) -> Result<(Option<FileTree>, Option<String>)> {
    let report = scenario::file_tree(machine, scenario::find("file-tree")?)?;
    let failure = report.failure.clone();
    Ok((Some(report), failure))
}

/// The whole road so many times, each on a machine of its own, with no second try of anything.
fn repeat(setup: &Setup, times: u32) -> Result<()> {
    let mut table = ui::table(["run", "result", "s", "logs", "why"]);
    let mut tally = Tally::default();
    for run in 1..=times {
        ui::step("run", &format!("{run} of {times}"));
        let began = Instant::now();
        let failure = once(setup).unwrap_or_else(|error| Some(format!("{error:#}")));
        let took = began.elapsed();
        tally.add(took, failure.as_deref());
        let result = if failure.is_none() { "PASS" } else { "FAIL" };
        let why = failure.unwrap_or_default();
        ui::step("run", &format!("{run} of {times} {result} {why}"));
        let seconds = format!("{:.0}", took.as_secs_f64());
        let logs = fs::read_link(setup.suite.dir().join("logs/last")).unwrap_or_default();
        let logs = logs.file_name().unwrap_or_default().to_string_lossy();
        table.add_row([&run.to_string(), result, &seconds, &logs, &shorten(&why)]);
    }
    println!("{table}");
    let failed = tally.failed();
    println!("{times} runs, {failed} failed; {} s each", tally.seconds());
    if failed > 0 {
        bail!(
            "{failed} of {times} runs failed:\n{}\nlogs: {}",
            tally.reasons(),
            setup.suite.dir().join("logs").display()
        );
    }
    Ok(())
}

/// The whole road on a new machine; gives why it failed, if it did.
fn once(setup: &Setup) -> Result<Option<String>> {
    let mut machine = Machine::boot(setup)?;
    machine.may_retry = false;
    let ends = machine.ends.clone();
    let report = scenario::file_tree(&mut machine, scenario::find("file-tree")?)?;
    machine.power_off()?;
    let explain = |why: String| ends.explain(&why).unwrap_or(why);
    Ok(report.failure.map(explain))
}

/// The report; what did not happen is left out.
fn print(
    suite: Suite,
    report: &FileTree,
    failure: &Option<String>,
    retries: &[String],
    ends: &[End],
    image: Option<&kernel::Image>,
) {
    let mut table = ui::report();
    let mut row = |what: &str, value: String| {
        table.add_row([what.to_string(), value]);
    };
    row("rig", format!("{}, Xen {}", suite.name(), suite.xen()));
    if let Some(spindle) = report.mark("spindle") {
        let (create, unpause) = (spindle.number("create"), spindle.number("unpause"));
        let total = create.unwrap_or_default() + unpause.unwrap_or_default();
        row("xl create to ready", format!("{total:.2} s"));
        row(
            "  of it xl create -p",
            format!("{} s", spindle.get("create")),
        );
        row(
            "  of it xl unpause to ready",
            format!("{} s", spindle.get("unpause")),
        );
        row("first console line", spindle.get("line").to_string());
        row("disks", disks(spindle.get("disks")));
        row("memory", format!("{} MiB", spindle.get("memory")));
    }
    if let Some(image) = image {
        row("image", format!("{:.1} KiB", image.size as f64 / 1024.0));
    }
    if let Some(written) = report.mark("written") {
        let mib = written.number("kib").unwrap_or_default() / 1024.0;
        let text = format!(
            "{} files, {mib:.0} MiB, in {} s",
            written.get("files"),
            written.get("seconds")
        );
        row("first guest wrote", text);
    }
    if let Some(checked) = report.mark("checked") {
        let text = format!(
            "{} files, in {} s",
            checked.get("files"),
            checked.get("seconds")
        );
        row("second guest checked", text);
    }
    if let Some(down) = report.mark("spindle-down") {
        row("xl shutdown", format!("{} s", down.get("seconds")));
    }
    if !report.e2fsck.is_empty() {
        row("host: e2fsck", report.e2fsck.clone());
        row("host: checksums equal", format!("{} files", report.equal));
    }
    for why in retries {
        row("second try", shorten(why));
    }
    for end in ends.iter().filter(|end| end.early) {
        row("guest started again", end.to_string());
    }
    let result = if failure.is_none() { "PASS" } else { "FAIL" };
    row("result", result.to_string());
    println!("{table}");
}

/// The disks, one a line; xenstore's tools write the ends of lines as two characters each.
fn disks(listed: &str) -> String {
    listed.replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disks_are_listed_one_below_the_other_within_eighty_columns() {
        let listed = ["nvme0n1 524288 512", "nvme0n2 131072 4096"].map(|disk| {
            format!("{disk} w QEMU NVMe Ctrl, serial spindle0, firmware 7.2.22, namespace 1")
        });
        let mut table = ui::report();
        table.add_row(["  of it xl unpause to ready", "0.52 s"]);
        table.add_row(["disks", &disks(&listed.join("\\n"))]);
        let text = table.to_string();
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(!text.contains('\\'), "{text}");
        // A disk begins its line.
        let begins = |disk| {
            text.lines()
                .any(|line| line.contains(&format!("┆ {disk} ")))
        };
        assert!(begins("nvme0n1") && begins("nvme0n2"), "{text}");
    }
}
