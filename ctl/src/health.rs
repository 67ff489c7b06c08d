//! The metrics of disks' controllers: what they say of their health, and what was done about them.

use spindle_status::words::{value, words};

use crate::metrics::{family, label, line};
use crate::spindle::Spindle;

/// A word of a controller's health as a metric.
struct HealthMetric {
    /// The word.
    word: &'static str,
    /// The metric, without `spindle_controller_`.
    name: &'static str,
    kind: &'static str,
    /// What one is there.
    scale: f64,
    help: &'static str,
}

const fn metric(
    word: &'static str,
    name: &'static str,
    kind: &'static str,
    scale: f64,
    help: &'static str,
) -> HealthMetric {
    HealthMetric {
        word,
        name,
        kind,
        scale,
        help,
    }
}

/// All of them that are numbers.
const METRICS: [HealthMetric; 11] = [
    metric(
        "celsius",
        "temperature_celsius",
        "gauge",
        1.0,
        "Temperature, by its own account.",
    ),
    metric(
        "spare%",
        "spare_ratio",
        "gauge",
        0.01,
        "Spare capacity left, by its own account.",
    ),
    metric(
        "used%",
        "endurance_used_ratio",
        "gauge",
        0.01,
        "Endurance used up, by its own account; may be more than 1.",
    ),
    metric(
        "read_mb",
        "read_bytes_total",
        "counter",
        1e6,
        "Data that it has ever read.",
    ),
    metric(
        "written_mb",
        "written_bytes_total",
        "counter",
        1e6,
        "Data that it has ever written.",
    ),
    metric(
        "hours",
        "powered_seconds_total",
        "counter",
        3600.0,
        "Time that it was ever under power.",
    ),
    metric(
        "unsafe_shutdowns",
        "unsafe_shutdowns_total",
        "counter",
        1.0,
        "Times that its power went without a shutdown.",
    ),
    metric(
        "media_errors",
        "media_errors_total",
        "counter",
        1.0,
        "Times that it could not bring data back.",
    ),
    metric(
        "resets",
        "resets_total",
        "counter",
        1.0,
        "Times that Spindle has reset it, since it did not do its work.",
    ),
    metric(
        "aborts",
        "aborts_total",
        "counter",
        1.0,
        "Late commands that Spindle has aborted.",
    ),
    metric(
        "spurious_completions",
        "spurious_completions_total",
        "counter",
        1.0,
        "Answers that nothing was waiting for.",
    ),
];

/// How many warnings there are.
const WARNINGS: &str = "spindle_controller_warnings";
const WARNINGS_HELP: &str = "Critical warnings that it gives.";

/// All that controllers say.
pub(crate) fn metrics(out: &mut String, spindles: &[Spindle]) {
    let all = || {
        spindles.iter().flat_map(|spindle| {
            let labels =
                |name: &str| format!("domain={},controller={}", label(&spindle.name), label(name));
            let health = spindle.health.iter();
            health.map(move |(name, health)| (labels(name), health.as_str()))
        })
    };
    for about in &METRICS {
        let name = format!("spindle_controller_{}", about.name);
        family(out, &name, about.kind, about.help);
        for (labels, health) in all() {
            if let Some(number) = value::<f64>(health, about.word).filter(|it| it.is_finite()) {
                // Two decimals of percents are enough, and keep what is whole so.
                let number = (number * about.scale * 100.0).round() / 100.0;
                line(out, &name, &labels, &number);
            }
        }
    }
    family(out, WARNINGS, "gauge", WARNINGS_HELP);
    for (labels, health) in all() {
        let given = words(health).find(|(name, _)| *name == "warnings");
        if let Some((_, given)) = given {
            let given = given.split(',').filter(|warning| *warning != "none");
            line(out, WARNINGS, &labels, &given.count());
        }
    }
}

/// The same as rows of a table in Markdown.
pub(crate) fn markdown() -> String {
    let rows = METRICS.iter().map(|about| {
        let (name, kind, help) = (about.name, about.kind, about.help);
        format!("| `spindle_controller_{name}` | {kind} | {help} |\n")
    });
    let warnings = format!("| `{WARNINGS}` | gauge | {WARNINGS_HELP} |\n");
    rows.chain([warnings]).collect()
}

#[cfg(test)]
mod tests {
    use crate::fake::Fake;
    use crate::metrics;
    use crate::spindle::Spindle;

    #[test]
    fn what_a_controller_says_of_itself_is_measured_in_units_of_prometheus() {
        let mut host = Fake::serving();
        let disk = "/local/domain/3/data/spindle/disk";
        host.store(
            &format!("{disk}/nvme0"),
            "warnings=spare,read-only celsius=40 spare%=100 used%=3 read_mb=1024 written_mb=7 hours=2 \
             unsafe_shutdowns=4 media_errors=5 resets=6 aborts=8 spurious_completions=9",
        );
        host.store(
            &format!("{disk}/vda"),
            "spurious_completions=1 warnings=none celsius=x used%=inf",
        );
        let text = metrics::text(&Spindle::all(&mut host).expect("xenstore"));
        for (name, controller, value) in [
            ("warnings", "nvme0", "2"),
            ("warnings", "vda", "0"),
            ("temperature_celsius", "nvme0", "40"),
            ("spare_ratio", "nvme0", "1"),
            ("endurance_used_ratio", "nvme0", "0.03"),
            ("read_bytes_total", "nvme0", "1024000000"),
            ("written_bytes_total", "nvme0", "7000000"),
            ("powered_seconds_total", "nvme0", "7200"),
            ("unsafe_shutdowns_total", "nvme0", "4"),
            ("media_errors_total", "nvme0", "5"),
            ("resets_total", "nvme0", "6"),
            ("aborts_total", "nvme0", "8"),
            ("spurious_completions_total", "nvme0", "9"),
            ("spurious_completions_total", "vda", "1"),
        ] {
            let labels = format!("domain=\"spindle\",controller=\"{controller}\"");
            let sample = format!("spindle_controller_{name}{{{labels}}} {value}");
            assert!(text.lines().any(|line| line == sample), "{sample}\n{text}");
        }
        let samples = text
            .lines()
            .filter(|line| line.starts_with("spindle_controller_"));
        assert_eq!(samples.count(), 14, "what is no number is left out");
    }
}
