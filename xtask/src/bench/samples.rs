//! What the record says, ordered: the samples of each backend, job and number of queues.

use spindle_status::words::words;

use super::fio;
use super::plan::BASELINE;
use crate::rig::Mark;
use crate::spread::Spread;

/// One run of a job on one backend.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) variant: String,
    pub(super) job: String,
    pub(super) queues: u32,
    round: u32,
    /// Requests per second.
    pub(super) iops: f64,
    /// MB (10^6 bytes) per second.
    pub(super) megabytes: f64,
    /// Median latency in microseconds.
    pub(super) p50: f64,
    /// 99th percentile of the latency in microseconds.
    pub(super) p99: f64,
    /// Processor share of the backend's domain; 1 is one processor.
    pub(super) cpu: f64,
    /// Requests for each second of the backend's processor time.
    pub(super) per_cpu: f64,
    /// Notifications and sleeps of the backend for each request, where it counts them.
    pub(super) hypercalls: f64,
}

/// Makes a lasting record of what dom0 reported: without what fio says beside the point.
pub(super) fn condense(mark: &Mark, queues: u32, rest: f64) -> Option<Mark> {
    let report = fio::Report::parse(mark.get("fio"))?;
    let variant = mark.get("variant");
    let background = if variant == "dom0" { rest } else { 0.0 };
    // A share that was taken after fio had ended says nothing.
    let share = if mark.get("late").is_empty() {
        mark.number(&format!("{variant}.cpu"))? - background
    } else {
        f64::NAN
    };
    Some(
        Mark::new("sample")
            .with("variant", variant)
            .with("job", mark.get("job"))
            .with("round", mark.get("round"))
            .with("queues", queues)
            .with("iops", report.iops)
            .with("kib", report.kib)
            .with("p50", report.p50)
            .with("p99", report.p99)
            .with("cpu", format!("{:.3}", share / 100.0))
            .with("dom0", mark.get("dom0.cpu"))
            .with("guest", mark.get("bench.cpu"))
            .with(
                "hypercalls",
                hypercalls(mark.get("before"), mark.get("after")),
            ),
    )
}

/// How far the guest's clock may run off the host's during a job, either way, for a sample to
/// count: the emulated machine's now and then jumps by seconds, and so does what is reckoned by it.
const DRIFT: f64 = 1.25;

/// Whether the guest's clock and the host's agreed on how long the job took, as far as is known.
pub(super) fn is_in_time(mark: &Mark) -> bool {
    mark.number("clock")
        .is_none_or(|clock| (1.0 / DRIFT..=DRIFT).contains(&clock))
}

/// How many rounds, of so many `runs` each, the record has whole.
pub(super) fn rounds(record: &[Mark], runs: usize) -> u32 {
    let samples = |round: u32| {
        let of_round = |mark: &&Mark| mark.number("round") == Some(round.into());
        record.iter().filter(of_round).count()
    };
    (1..).take_while(|&round| samples(round) >= runs).count() as u32
}

/// Hypercalls for each request between two readings of a backend's counters: notifications,
/// sleeps and grant operations are all that its data path makes. Empty if it counts nothing.
fn hypercalls(before: &str, after: &str) -> String {
    // Of all its devices and cores at once.
    let total = |text: &str, keys: &[&str]| -> f64 {
        words(text)
            .filter(|(key, _)| keys.contains(key))
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    };
    let grown = |keys: &[&str]| total(after, keys) - total(before, keys);
    let requests = grown(&["rd_req", "wr_req"]);
    if requests > 0.0 {
        format!(
            "{:.4}",
            grown(&["notify", "sleeps", "grant_calls"]) / requests
        )
    } else {
        String::new()
    }
}

impl Sample {
    /// Reads a line of the record.
    fn of(mark: &Mark) -> Option<Self> {
        let iops = mark.number("iops")?;
        let cpu = mark.number("cpu")?;
        Some(Self {
            variant: mark.get("variant").to_string(),
            job: mark.get("job").to_string(),
            queues: mark.get("queues").parse().ok()?,
            round: mark.get("round").parse().ok()?,
            iops,
            megabytes: mark.number("kib")? * 1024.0 / 1e6,
            p50: mark.number("p50")?,
            p99: mark.number("p99")?,
            cpu,
            per_cpu: iops / cpu,
            hypercalls: mark.number("hypercalls").unwrap_or(f64::NAN),
        })
    }
}

/// All samples of a record.
pub(super) struct Samples {
    samples: Vec<Sample>,
    /// How many were left out because of the clock.
    pub(super) left_out: usize,
}

impl Samples {
    /// Reads them, but for those that the clock spoiled.
    pub(super) fn of(record: &[Mark]) -> Self {
        let (good, bad): (Vec<&Mark>, Vec<&Mark>) = record
            .iter()
            .filter(|mark| mark.name == "sample")
            .partition(|mark| is_in_time(mark));
        Self {
            samples: good.into_iter().filter_map(Sample::of).collect(),
            left_out: bad.len(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    /// The numbers of queues that there are samples for.
    pub(super) fn queues(&self) -> Vec<u32> {
        let mut queues: Vec<u32> = self.samples.iter().map(|sample| sample.queues).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// The spread of one figure.
    pub(super) fn spread(
        &self,
        variant: &str,
        job: &str,
        queues: u32,
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.select(variant, job, queues).map(figure))
    }

    /// The spread of a figure divided by the baseline's in the same round, so that what slows
    /// the host for a while slows both.
    pub(super) fn ratio(
        &self,
        variant: &str,
        job: &str,
        queues: u32,
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.select(variant, job, queues).filter_map(|sample| {
            let base = self
                .select(BASELINE, job, queues)
                .find(|base| base.round == sample.round)?;
            Some(figure(sample) / figure(base))
        }))
    }

    fn select(&self, variant: &str, job: &str, queues: u32) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            sample.variant == variant && sample.job == job && sample.queues == queues
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(variant: &str, round: u32, iops: u32) -> Mark {
        let text = format!(
            "sample variant={variant} job=j queues=1 round={round} iops={iops} kib=1000 p50=5 p99=9 cpu=0.500"
        );
        Mark::parse(&text).expect("a mark")
    }

    #[test]
    fn hypercalls_are_reckoned_from_what_the_counters_grew_by() {
        let (before, after) = (
            "rd_req=10 wr_req=5 notify=1 sleeps=2 ",
            "rd_req=100 wr_req=15 notify=11 sleeps=17 ",
        );
        assert_eq!(hypercalls(before, after), "0.2500");
        assert_eq!(hypercalls("", ""), "");
    }

    #[test]
    fn only_whole_rounds_count() {
        let mut record = vec![sample("spindle", 1, 1), sample("linux", 1, 1)];
        record.push(Mark::parse("backend name=linux create=1").expect("a mark"));
        assert_eq!(rounds(&record, 2), 1);
        record.push(sample("spindle", 2, 1));
        assert_eq!(rounds(&record, 2), 1);
        record.push(sample("linux", 2, 1));
        assert_eq!(rounds(&record, 2), 2);
        assert_eq!(rounds(&[], 2), 0);
    }

    #[test]
    fn what_a_jumping_clock_measured_is_left_out() {
        let samples = Samples::of(&[
            sample("spindle", 1, 200).with("clock", "1.10"),
            sample("spindle", 2, 900).with("clock", "1.80"),
            sample("spindle", 3, 20).with("clock", "0.40"),
            sample("spindle", 4, 100),
        ]);
        assert_eq!((samples.len(), samples.left_out), (2, 2));
        let iops = samples.spread("spindle", "j", 1, |sample| sample.iops);
        assert_eq!(iops.map(|iops| (iops.min, iops.max)), Some((100.0, 200.0)));
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let samples = Samples::of(&[
            sample("spindle", 1, 200),
            sample("linux", 1, 100),
            sample("linux", 2, 50),
            sample("spindle", 2, 150),
            sample("spindle", 3, 1),
        ]);
        let ratio = samples.ratio("spindle", "j", 1, |sample| sample.iops);
        assert_eq!(ratio.map(|ratio| (ratio.min, ratio.max)), Some((2.0, 3.0)));
        let cpu = samples.spread("linux", "j", 1, |sample| sample.per_cpu);
        assert_eq!(cpu.map(|cpu| cpu.median), Some(150.0));
        assert!(
            samples
                .spread("dom0", "j", 1, |sample| sample.iops)
                .is_none()
        );
    }
}
