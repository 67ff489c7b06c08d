//! What Spindle is to reach, against the Linux driver domain and on the host, and whether it does.

use super::plan::BASELINE;
use super::samples::{Sample, Samples};
use crate::rig::Mark;
use crate::spread::Spread;

/// One target and what was measured.
pub(super) struct Verdict {
    /// What is compared, Spindle to Linux, or counted on the host.
    pub(super) what: String,
    /// What was measured, if it was.
    pub(super) figure: Option<Spread>,
    /// Its bound.
    pub(super) bound: Bound,
    /// With which numbers of queues it was measured; `""` on the host.
    pub(super) queues: Vec<String>,
}

/// Where a quotient is to be.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Verdict {
    /// What was measured, with so many digits after the point.
    pub(super) fn text(&self, digits: usize) -> String {
        self.figure
            .map_or_else(String::new, |figure| figure.text(digits))
    }

    /// Whether the median keeps the bound, in a word.
    pub(super) fn outcome(&self) -> &'static str {
        let Some(Spread { median, .. }) = self.figure else {
            return "not measured";
        };
        let met = match self.bound {
            Bound::AtLeast(bound) => median >= bound,
            Bound::AtMost(bound) => median <= bound,
        };
        if met { "met" } else { "missed" }
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

/// Targets for each 4 KiB request on the host, with persistent grants and 32 requests at a time: whole
/// turns of the kernel's worker, with 1 to 256 rings on its core.
const HOST: [(&str, &str, f64); 2] = [("instr", "instructions", 400.0), ("ns", "ns", 100.0)];

/// Judges all targets that there are figures for.
pub(super) fn judge(record: &[Mark], samples: &Samples) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for queues in samples.queues() {
        for (what, depth, figure, bound) in JOBS {
            for job in super::plan::JOBS {
                if job.rsplit('-').next() != Some(depth) {
                    continue;
                }
                verdicts.push(Verdict {
                    what: format!("{what}, {job}, {}", queues_text(queues)),
                    figure: samples.ratio("spindle", job, queues, figure),
                    bound,
                    queues: vec![queues.to_string()],
                });
            }
        }
    }
    for (what, fields, bound) in DOMAINS {
        if let (Some(spindle), Some(linux)) = (
            domain(record, "spindle", fields),
            domain(record, BASELINE, fields),
        ) {
            verdicts.push(Verdict {
                what: what.to_string(),
                figure: Spread::of([spindle.median / linux.median]),
                bound: Bound::AtMost(bound),
                queues: [boots(record, "spindle"), boots(record, BASELINE)].concat(),
            });
        }
    }
    for case in record.iter().filter(|mark| mark.name == "bench") {
        let name = case.get("name");
        // Not those that have more pages than a ring keeps mapped.
        let mapped = !name.ends_with("in-turn");
        if !name.starts_with("persistent-") || !name.contains("-b32-") || !mapped {
            continue;
        }
        for (key, what, bound) in HOST {
            verdicts.push(Verdict {
                what: format!("{what} on the host, {name}"),
                figure: Spread::of(case.number(key)),
                bound: Bound::AtMost(bound),
                queues: vec![String::new()],
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

/// The numbers of queues with which a domain was booted.
pub(super) fn boots(record: &[Mark], name: &str) -> Vec<String> {
    record
        .iter()
        .filter(|mark| mark.name == "backend" && mark.get("name") == name)
        .map(|mark| mark.get("queues").to_string())
        .collect()
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
        let outcomes: Vec<&str> = verdicts.iter().map(Verdict::outcome).collect();
        assert_eq!(outcomes, ["met", "met", "missed"]);
        let create = domain(&record, "linux", &["create", "unpause"]);
        assert_eq!(create.map(|create| create.median), Some(38.0));
    }

    #[test]
    fn what_was_not_measured_is_said_to_be_so() {
        let record: Vec<Mark> = [
            "bench name=persistent-read-b32-r1 instr=350.5 ns=120",
            "bench name=persistent-write-b32-r1 ns=99",
            "bench name=persistent-read-b1-r1 instr=1100 ns=120",
            "bench name=persistent-read-b32-r1-2112in-turn instr=850 ns=120",
        ]
        .into_iter()
        .filter_map(Mark::parse)
        .collect();
        let verdicts = judge(&record, &Samples::of(&record));
        let outcomes: Vec<&str> = verdicts.iter().map(Verdict::outcome).collect();
        assert_eq!(outcomes, ["met", "missed", "not measured", "met"]);
        assert_eq!(verdicts[0].text(1), "350.5");
    }
}
