//! What Spindle is to reach against the Linux driver domain, and whether it does.

use super::plan::BASELINE;
use super::samples::{Sample, Samples};
use super::spread::Spread;
use crate::rig::Mark;

/// One target and what was measured.
pub(super) struct Verdict {
    /// What is compared, Spindle to Linux.
    pub(super) what: String,
    /// The measured quotient.
    pub(super) ratio: Spread,
    /// Its bound.
    pub(super) bound: Bound,
}

/// Where a quotient is to be.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Verdict {
    /// Whether the median keeps the bound.
    pub(super) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.ratio.median >= bound,
            Bound::AtMost(bound) => self.ratio.median <= bound,
        }
    }
}

type Figure = fn(&Sample) -> f64;

/// Targets for jobs, with the depth that they hold for.
const JOBS: [(&str, &str, Figure, Bound); 3] = [
    ("IOPS", "32", |sample| sample.iops, Bound::AtLeast(1.5)),
    (
        "I/Os per backend CPU-second",
        "32",
        |sample| sample.per_cpu,
        Bound::AtLeast(3.0),
    ),
    (
        "median latency",
        "1",
        |sample| sample.p50,
        Bound::AtMost(0.8),
    ),
];

/// Targets for the domains, with the fields of their marks.
const DOMAINS: [(&str, &[&str], f64); 3] = [
    ("seconds from unpause to ready", &["unpause"], 1.0 / 50.0),
    (
        "seconds from `xl create` to ready",
        &["create", "unpause"],
        0.25,
    ),
    ("memory", &["memory"], 0.1),
];

/// Judges all targets that there are figures for.
pub(super) fn judge(record: &[Mark], samples: &Samples) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for queues in samples.queues() {
        for (what, depth, figure, bound) in JOBS {
            for job in super::plan::JOBS {
                if job.rsplit('-').next() != Some(depth) {
                    continue;
                }
                if let Some(ratio) = samples.ratio("spindle", job, queues, figure) {
                    let what = format!("{what}, {job}, {}", queues_text(queues));
                    verdicts.push(Verdict { what, ratio, bound });
                }
            }
        }
    }
    for (what, fields, bound) in DOMAINS {
        if let (Some(spindle), Some(linux)) = (
            domain(record, "spindle", fields),
            domain(record, BASELINE, fields),
        ) && let Some(ratio) = Spread::of([spindle.median / linux.median])
        {
            verdicts.push(Verdict {
                what: what.to_string(),
                ratio,
                bound: Bound::AtMost(bound),
            });
        }
    }
    verdicts
}

/// The sum of some fields of a domain's marks, over all boots.
pub(super) fn domain(record: &[Mark], name: &str, fields: &[&str]) -> Option<Spread> {
    Spread::of(
        record
            .iter()
            .filter(|mark| mark.name == "backend" && mark.get("name") == name)
            .filter_map(|mark| fields.iter().map(|field| mark.number(field)).sum()),
    )
}

/// `1 queue`, `2 queues`.
pub(super) fn queues_text(queues: u32) -> String {
    format!("{queues} queue{}", if queues == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_compared_by_the_sum_of_the_fields() {
        let record: Vec<Mark> = [
            "backend name=spindle create=4 unpause=0.5 memory=64",
            "backend name=linux create=8 unpause=30 memory=128",
        ]
        .into_iter()
        .filter_map(Mark::parse)
        .collect();
        let verdicts = judge(&record, &Samples::of(&record));
        let met: Vec<bool> = verdicts.iter().map(Verdict::is_met).collect();
        assert_eq!(met, [true, true, false]);
        let create = domain(&record, "linux", &["create", "unpause"]);
        assert_eq!(create.map(|create| create.median), Some(38.0));
    }
}
