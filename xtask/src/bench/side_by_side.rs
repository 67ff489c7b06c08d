//! The comparison in the rig: boots it with all backends and records what dom0 measures.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::plan::{self, Plan};
use super::record::{self, Record};
use super::samples;
use super::targets::queues_text;
use crate::rig::{self, Backend, Images, Machine, Mark, Retries, Setup, Suite};
use crate::{kernel, ui};

/// How often a boot may fail before this gives up: emulation kills a domain now and then.
const TRIES: usize = 5;

/// Measures with each number of queues.
pub(super) fn run(suite: Suite, plan: &Plan, queues: &[u32], record: &mut Record) -> Result<()> {
    let _lock = rig::lock()?;
    // What is measured is what is built now, whatever is committed meanwhile.
    let circumstances = record::circumstances(suite)?;
    let image = kernel::build()?;
    let images = rig::prepare(suite)?;
    for &queues in queues {
        let (mut tries, mut again, mut marks) = (1, 0_usize, Vec::new());
        loop {
            let mut retries = Retries::default();
            let done = measure(
                suite,
                &images,
                &image,
                plan,
                queues,
                &mut marks,
                &mut retries,
            );
            again += retries.take().len();
            let Err(error) = done else { break };
            // What was measured in whole rounds stays.
            let rounds = samples::rounds(&marks, plan.runs());
            marks.retain(|mark| {
                mark.number("round")
                    .is_none_or(|at| at <= f64::from(rounds))
            });
            if tries == TRIES {
                return Err(error);
            }
            ui::step(
                "bench",
                &format!("{rounds} rounds are done; retry: {error:#}"),
            );
            tries += 1;
        }
        record.forget(|mark| mark.get("queues") == queues.to_string());
        record.add([circumstances
            .clone()
            .with("queues", queues)
            .with("cpus", plan::cpus(queues))
            .with("tries", tries + again)])?;
        record.add(marks)?;
    }
    Ok(())
}

/// One boot: the rounds that `kept` lacks.
fn measure(
    suite: Suite,
    images: &Images,
    image: &kernel::Image,
    plan: &Plan,
    queues: u32,
    kept: &mut Vec<Mark>,
    retries: &mut Retries,
) -> Result<()> {
    let cpus = plan::cpus(queues);
    let kernel: &Path = &image.path;
    let setup = Setup {
        cpus,
        ..Setup::new(suite, images, Some(kernel), Backend::Bench)
    };
    let mut machine = Machine::boot(&setup)?;
    *retries = machine.retries.clone();
    let first = 1 + samples::rounds(kept, plan.runs());
    let expected = plan.duration(first);
    ui::step(
        "bench",
        &format!(
            "{}, {cpus} CPUs: about {} minutes",
            queues_text(queues),
            expected.div_ceil(60)
        ),
    );
    let timeout = Duration::from_secs(300 + 3 * expected);
    machine.start_with("bench", timeout, &plan.settings(queues, first))?;
    let deadline = Instant::now() + timeout + Duration::from_secs(60);
    let mut rest = 0.0;
    let mut started = Instant::now();
    loop {
        // One mark at a time, so that the user sees the figures come in.
        let mark = machine.next(deadline)?;
        match mark.name.as_str() {
            "rest" => rest = mark.number("dom0.cpu").unwrap_or(0.0),
            "started" => started = Instant::now(),
            "sample" => match samples::condense(&mark, queues, rest) {
                Some(sample) => {
                    let took = started.elapsed().as_secs_f64();
                    let sample = sample.with("clock", format!("{:.2}", plan.job_seconds() / took));
                    ui::step("bench", &describe(&sample));
                    kept.push(sample);
                }
                None => bail!("fio failed: {mark}; logs: {}", machine.logs.display()),
            },
            "spindle" => kept.push(
                mark.renamed("backend")
                    .with("image", image.size / 1024)
                    .with("queues", queues),
            ),
            "backend" => kept.push(mark.with("queues", queues)),
            "connected" => ui::step("bench", mark.get("disks")),
            "note" => ui::step("dom0", mark.get("text")),
            "fail" => bail!("{}; logs: {}", mark.get("why"), machine.logs.display()),
            "end" if mark.get("rc") == "0" => break,
            "end" => bail!(
                "dom0's script ended with status {}; logs: {}",
                mark.get("rc"),
                machine.logs.display()
            ),
            _ => {}
        }
    }
    machine.power_off()
}

/// A sample for the user.
fn describe(sample: &Mark) -> String {
    let number = |key| sample.number(key).unwrap_or(f64::NAN);
    let note = if samples::is_in_time(sample) {
        ""
    } else {
        "; not counted: the machine's clock ran off"
    };
    format!(
        "{:14} {:8} round {}: {:6.0} IOPS, p50 {:6.2} ms, backend CPU {:3.0} %{note}",
        sample.get("job"),
        sample.get("variant"),
        sample.get("round"),
        number("iops"),
        number("p50") / 1000.0,
        number("cpu") * 100.0
    )
}
