//! `run --crash`: Spindle's kernel dies every few seconds while a guest writes and checks, and the guest's
//! answered requests are drawn over time.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::parts::{self, LifeParts};
use super::pauses::{Gap, OrderedDeath, Pauses};
use crate::rig::{Machine, Mark, Outcome, Suite};
use crate::ui;

/// What dom0 does, by name.
pub(crate) const SCRIPT: (&str, &str) = ("run-crash", include_str!("../../rig/run/crash.sh"));

/// What the guest does, by name.
pub(crate) const JOB: (&str, &str) = ("fio-crash", include_str!("../../rig/run/fio-crash.sh"));

/// What the kernel dies of in turn, and on which core.
const ORDERS: [&str; 6] = [
    "panic-1",
    "exception-2",
    "panic-0",
    "heap-1",
    "exception-0",
    "panic-2",
];
/// Seconds between two deaths: seven within a minute would end the domain.
const EVERY: u32 = 9;
/// Seconds that the load takes.
const LOAD: u32 = EVERY * (ORDERS.len() as u32 + 1);
/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(600);

/// What was seen.
pub(super) struct CrashReport {
    pauses: Pauses,
    /// How far each life after a death got when; read from Spindle's console.
    parts: Vec<LifeParts>,
    /// Requests that the guest has had answered, all of them right.
    requests: u64,
}

/// Plays it; gives what was seen, and why it failed, if it did.
///
/// # Errors
/// The machine died or does not answer.
pub(super) fn play(machine: &mut Machine) -> Result<(Option<CrashReport>, Option<String>)> {
    let settings = format!(
        "LOAD_SECONDS={LOAD} EVERY={EVERY} ORDERS={}",
        ORDERS.join(",")
    );
    machine.start_with(SCRIPT.0, TIMEOUT, &settings)?;
    let outcome = machine.finish(std::time::Instant::now() + TIMEOUT, |_, _| {})?;
    if outcome.failure.is_some() {
        return Ok((None, outcome.failure));
    }
    let console = machine.logs.join("guest-spindle.log");
    let console = fs::read(&console).with_context(|| format!("read {}", console.display()))?;
    let parts = parts::of(&String::from_utf8_lossy(&console));
    Ok(match report(&outcome, parts) {
        Ok(report) => (Some(report), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    })
}

/// From what dom0 has said.
///
/// # Errors
/// Something is missing.
fn report(outcome: &Outcome, parts: Vec<LifeParts>) -> Result<CrashReport> {
    let number = |mark: &Mark, key: &str| {
        let number = mark.number(key);
        number.with_context(|| format!("no {key}= in \"{mark}\""))
    };
    let of = |name: &'static str| outcome.marks.iter().filter(move |mark| mark.name == name);
    let answered = outcome.mark("answered").context("no counts of requests")?;
    let counts = answered
        .get("counts")
        .split(',')
        .filter(|count| !count.is_empty());
    let counts: Result<Vec<u32>, _> = counts.map(str::parse).collect();
    let gap = |mark: &Mark| {
        Ok(Gap {
            at: number(mark, "at")? / 1e3,
            took: number(mark, "ms")? / 1e3,
        })
    };
    let death = |mark: &Mark| {
        Ok(OrderedDeath {
            at: number(mark, "when")?,
            order: mark.get("order").to_string(),
            down: number(mark, "down_us")? / 1e6,
        })
    };
    let checked = outcome
        .mark("checked")
        .context("the guest has not checked")?;
    Ok(CrashReport {
        pauses: Pauses {
            step: number(answered, "step")? / 1e3,
            counts: counts.context("counts of requests")?,
            gaps: of("gap").map(gap).collect::<Result<_>>()?,
            deaths: of("death").map(death).collect::<Result<_>>()?,
        },
        parts,
        requests: number(checked, "requests")? as u64,
    })
}

impl CrashReport {
    /// Prints the plot, and a table of the deaths below it.
    pub(super) fn print(&self, suite: Suite) {
        let Self {
            pauses,
            parts,
            requests,
        } = self;
        println!(
            "Requests that a guest had answered in a second, on {} (Xen {}):",
            suite.name(),
            suite.xen()
        );
        println!(
            "# at least, : on average of {} s steps, ^ a death\n",
            pauses.step
        );
        println!("{}", pauses.plot());
        println!(
            "From each death until the image was back, the disks found, Spindle ready, rings taken up:"
        );
        let mut table = ui::table([
            "",
            "at",
            "of",
            "image",
            "disks",
            "ready",
            "rings",
            "guest's pause",
        ]);
        let ms = |seconds: f64| format!("{:.0} ms", seconds * 1e3);
        for (number, death) in pauses.deaths.iter().enumerate() {
            let pause = pauses
                .after(number)
                .map_or("< 100 ms".into(), |gap| ms(gap.took));
            let part = |of: fn(&LifeParts) -> Option<f64>| {
                parts.get(number).and_then(of).map_or("-".into(), ms)
            };
            table.add_row([
                &(number + 1).to_string(),
                &format!("{:.1} s", death.at),
                &death.order.replace('-', " "),
                &part(|life| Some(life.image)),
                &part(|life| life.disks),
                &ms(death.down),
                &part(|life| life.rings),
                &pause,
            ]);
        }
        println!("{table}");
        let longest = pauses.longest().map_or("less than 100 ms".into(), |gap| {
            format!("{} from {:.1} s on", ms(gap.took), gap.at)
        });
        let median = pauses
            .spread()
            .map_or("-".into(), |spread| ms(spread.median));
        println!(
            "{} deaths, {requests} requests answered and found right; the guest's pause after a death: \
             {median} (median); the longest of all: {longest}",
            pauses.deaths.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(marks: &[&str]) -> Outcome {
        let marks = marks.iter().map(|text| Mark::parse(text).expect("a mark"));
        Outcome {
            marks: marks.collect(),
            failure: None,
        }
    }

    #[test]
    fn what_dom0_says_becomes_a_report_and_what_is_missing_is_named() {
        let marks = [
            "death when=9.05 order=panic-1 at=1795910000 down_us=250000",
            "answered step=200 counts=10,0,7,",
            "gap at=150 ms=320",
            "checked requests=17",
        ];
        let seen = report(&outcome(&marks), Vec::new()).expect("a report");
        assert_eq!(
            (seen.requests, &seen.pauses.counts[..]),
            (17, &[10, 0, 7][..])
        );
        assert_eq!(
            seen.pauses.gaps,
            [Gap {
                at: 0.15,
                took: 0.32
            }]
        );
        assert_eq!((seen.pauses.step, seen.pauses.deaths[0].at), (0.2, 9.05));
        assert_eq!(
            (seen.pauses.deaths[0].down, &*seen.pauses.deaths[0].order),
            (0.25, "panic-1")
        );
        for left_out in [1, 3] {
            let mut marks = marks.to_vec();
            marks.remove(left_out);
            assert!(report(&outcome(&marks), Vec::new()).is_err());
        }
        for (at, odd) in [
            (0, "death order=x"),
            (1, "answered step=200 counts=1,x"),
            (2, "gap at=1"),
        ] {
            let mut marks = marks;
            marks[at] = odd;
            assert!(report(&outcome(&marks), Vec::new()).is_err(), "{odd}");
        }
    }

    #[test]
    fn deaths_are_too_few_in_a_minute_to_end_the_domain_and_all_within_the_load() {
        assert!(60_u32.div_ceil(EVERY) <= 7 && EVERY * ORDERS.len() as u32 + 5 < LOAD);
        assert!(ORDERS.iter().all(|order| order.split_once('-').is_some()));
    }
}
