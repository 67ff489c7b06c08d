//! `metrics`: everything counted, as Prometheus reads it (text format 0.0.4).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use spindle_status::counter;
use spindle_status::statistic::{StatUnit, Statistic};
use spindle_status::stats::{CoreSnapshot, DeviceLine, RingSnapshot};

use crate::health;
use crate::life::KernelLife;
use crate::spindle::{PublishedDisk, Spindle};
use crate::sums;
use crate::tables;

const SECTOR: u64 = 512;

/// All metrics of these domains.
pub(crate) fn text(spindles: &[Spindle]) -> String {
    let mut out = String::new();
    family(
        &mut out,
        "spindle_up",
        "gauge",
        "Whether the domain serves.",
    );
    for spindle in spindles {
        let (domain, version) = (label(&spindle.name), label(&spindle.version));
        let up = u8::from(spindle.ready);
        line(
            &mut out,
            "spindle_up",
            &format!("domain={domain},version={version}"),
            &up,
        );
    }
    lives(&mut out, spindles);
    family(
        &mut out,
        "spindle_target_bytes",
        "gauge",
        "Size of what can be given to guests.",
    );
    for spindle in spindles {
        for target in &spindle.targets {
            let labels = format!(
                "domain={},target={}",
                label(&spindle.name),
                label(&target.name)
            );
            let bytes = target.sectors.saturating_mul(SECTOR);
            line(&mut out, "spindle_target_bytes", &labels, &bytes);
        }
    }
    places(&mut out, spindles);
    let disks: Vec<_> = disks(spindles).collect();
    let readings: Vec<_> = disks
        .iter()
        .map(|(labels, line)| (labels.as_str(), line.counters.readings()))
        .collect();
    counted(&mut out, "disk", &RingSnapshot::ABOUT, &readings);
    let cores: Vec<_> = cores(spindles).collect();
    let readings: Vec<_> = cores
        .iter()
        .map(|(labels, core)| (labels.as_str(), core.readings()))
        .collect();
    counted(&mut out, "core", &CoreSnapshot::ABOUT, &readings);
    health::metrics(&mut out, spindles);
    out
}

/// The metrics of these statistics, for each thing that has them, by its labels.
fn counted<const N: usize>(
    out: &mut String,
    of: &str,
    all: &[Statistic; N],
    readings: &[(&str, [&[u64]; N])],
) {
    for (first, about) in all.iter().enumerate() {
        let name = about.metric(of);
        let of_family = |other: &&Statistic| other.family == about.family;
        if about.is_sum {
            continue;
        }
        if all.iter().position(|other| of_family(&other)) != Some(first) {
            continue;
        }
        family(out, &name, about.kind(), &help(all, about));
        for (at, about) in all.iter().enumerate().filter(|(_, other)| of_family(other)) {
            for (labels, readings) in readings {
                let label = about
                    .label
                    .map(|(name, value)| format!(",{name}=\"{value}\""));
                let labels = format!("{labels}{}", label.unwrap_or_default());
                let name = about.metric(of);
                match readings[at] {
                    [number] => line(out, &name, &labels, &scaled(about, *number)),
                    places => histogram(out, &name, &labels, about, places),
                }
            }
        }
    }
}

/// What the family of a statistic means: what each of it does, but for the sum of a histogram.
fn help(all: &[Statistic], about: &Statistic) -> String {
    let of_family = all
        .iter()
        .filter(|other| other.family == about.family && !other.is_sum);
    let texts = of_family.map(|other| other.help.trim());
    texts.collect::<Vec<_>>().join(" ")
}

/// A number in the unit of metrics: whole where it is one.
fn scaled(about: &Statistic, number: u64) -> String {
    match about.unit {
        StatUnit::Count => number.to_string(),
        StatUnit::Sectors => number.saturating_mul(SECTOR).to_string(),
        StatUnit::Nanoseconds => (number as f64 / 1e9).to_string(),
        StatUnit::Ns1024 => (number as f64 * about.unit.scale()).to_string(),
    }
}

/// A histogram; the sum of its values is a statistic of its own.
fn histogram(out: &mut String, name: &str, labels: &str, about: &Statistic, places: &[u64]) {
    let mut sum = 0u64;
    for (place, count) in places.iter().enumerate() {
        sum = sum.saturating_add(*count);
        let bound = match (counter::end(place, places.len()), about.unit) {
            (u64::MAX, _) => "+Inf".to_string(),
            // All whole numbers below it.
            (end, StatUnit::Count) => (end - 1).to_string(),
            (end, unit) => (end as f64 * unit.scale()).to_string(),
        };
        let labels = format!("{labels},le=\"{bound}\"");
        line(out, &format!("{name}_bucket"), &labels, &sum);
    }
    line(out, &format!("{name}_count"), labels, &sum);
}

/// The metrics of disks, cores and controllers as a table in Markdown.
pub(crate) fn markdown() -> String {
    let mut out = "| metric | type | meaning |\n| --- | --- | --- |\n".to_string();
    for (of, all) in [
        ("disk", &RingSnapshot::ABOUT[..]),
        ("core", &CoreSnapshot::ABOUT[..]),
    ] {
        for about in all.iter().filter(|about| !about.is_sum) {
            let label = about
                .label
                .map(|(name, value)| format!("{{{name}=\"{value}\"}}"));
            let (name, label) = (about.metric(of), label.unwrap_or_default());
            let (kind, help) = (about.kind(), about.help.trim());
            out += &format!("| `{name}{label}` | {kind} | {help} |\n");
        }
    }
    out += &format!("| `{}` | gauge | {} |\n", INFO.0, INFO.1);
    out + &health::markdown()
}

/// A gauge or counter of a kernel's life, if the domain shows it.
type OfLife = fn(&KernelLife) -> Option<f64>;

/// What is shown of lives: name, type, help, value.
const LIFE: &[(&str, &str, &str, OfLife)] = &[
    (
        "spindle_deaths_total",
        "counter",
        "Times that the kernel died and started again in its domain.",
        |life| Some(life.deaths as f64),
    ),
    (
        "spindle_life_start_time_seconds",
        "gauge",
        "When the kernel last started, in seconds since 1970.",
        |life| life.began.map(|began| began as f64),
    ),
    (
        "spindle_last_death_down_seconds",
        "gauge",
        "Time from the last death of the kernel until it served again.",
        |life| life.down.map(|down| down.as_secs_f64()),
    ),
];

/// How often the kernels died, when they started, and of what they died last.
fn lives(out: &mut String, spindles: &[Spindle]) {
    let known = || spindles.iter().filter(|spindle| spindle.life.number > 0);
    for (name, kind, help, value) in LIFE {
        family(out, name, kind, help);
        for spindle in known() {
            let labels = format!("domain={}", label(&spindle.name));
            if let Some(value) = value(&spindle.life) {
                line(out, name, &labels, &value);
            }
        }
    }
    const CAUSE: &str = "spindle_last_death_info";
    family(
        out,
        CAUSE,
        "gauge",
        "What the kernel last died of; always 1.",
    );
    for spindle in known() {
        if let Some(last) = &spindle.life.last {
            let core = last.core.map(|core| core.to_string()).unwrap_or_default();
            let (domain, cause) = (label(&spindle.name), label(&last.cause));
            let labels = format!("domain={domain},cause={cause},core=\"{core}\"");
            line(out, CAUSE, &labels, &1);
        }
    }
}

/// Of what group each connected disk is, and on which disk it lies.
const INFO: (&str, &str) = (
    "spindle_disk_info",
    "The limit group that it is in, and the disk that it is on or begins on; always 1.",
);

fn places(out: &mut String, spindles: &[Spindle]) {
    family(out, INFO.0, "gauge", INFO.1);
    let mut seen = BTreeSet::new();
    for spindle in spindles {
        for disk in spindle.disks.iter().filter(|it| it.counters.is_some()) {
            let labels = labels(spindle, disk);
            let group = label(&sums::group(disk).unwrap_or_default());
            let on = label(sums::disk_of(spindle, disk).unwrap_or_default());
            if seen.insert(labels.clone()) {
                line(out, INFO.0, &format!("{labels},group={group},on={on}"), &1);
            }
        }
    }
}

/// All cores with their labels.
fn cores(spindles: &[Spindle]) -> impl Iterator<Item = (String, &CoreSnapshot)> {
    spindles.iter().flat_map(|spindle| {
        let labels = |number| format!("domain={},core=\"{number}\"", label(&spindle.name));
        let cores = spindle.cores.iter();
        cores.map(move |(number, counters)| (labels(number), counters))
    })
}

/// All connected disks with their labels.
fn disks(spindles: &[Spindle]) -> impl Iterator<Item = (String, &DeviceLine)> {
    // Two disks under one name would make the whole answer unreadable; a domain that shows them is
    // broken, and the first counts.
    let mut seen = BTreeSet::new();
    let all = spindles.iter().flat_map(|spindle| {
        let counted = spindle.disks.iter().filter_map(|disk| {
            let counters = disk.counters.as_ref()?;
            Some((labels(spindle, disk), counters))
        });
        counted.collect::<Vec<_>>()
    });
    all.filter(move |(labels, _)| seen.insert(labels.clone()))
}

fn labels(spindle: &Spindle, disk: &PublishedDisk) -> String {
    let (domain, target) = (label(&spindle.name), label(&disk.target));
    let (guest, id, vdev) = (label(&disk.guest_name), disk.guest, label(&disk.vdev));
    format!("domain={domain},guest={guest},guest_id=\"{id}\",disk={vdev},target={target}")
}

/// Declares a metric.
pub(crate) fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A sample.
pub(crate) fn line(out: &mut String, name: &str, labels: &str, value: &dyn std::fmt::Display) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

/// A label's value in its quotes, without what a terminal would act on.
pub(crate) fn label(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", tables::text(&text.replace('\n', "\\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    fn metrics(host: &mut Fake) -> String {
        text(&Spindle::all(host).expect("xenstore"))
    }

    #[test]
    fn counters_come_with_their_labels_and_units() {
        let text = metrics(&mut Fake::serving());
        let disk =
            "domain=\"spindle\",guest=\"web\",guest_id=\"5\",disk=\"xvda\",target=\"nvme0n1\"";
        for line in [
            "spindle_up{domain=\"spindle\",version=\"0.1.0 abcdef\"} 1".to_string(),
            "spindle_deaths_total{domain=\"spindle\"} 0".to_string(),
            "spindle_life_start_time_seconds{domain=\"spindle\"} 1000".to_string(),
            "spindle_target_bytes{domain=\"spindle\",target=\"nvme0n1\"} 1048576".to_string(),
            format!("spindle_disk_requests_total{{{disk},op=\"read\"}} 100"),
            format!("spindle_disk_bytes_total{{{disk},op=\"read\"}} 409600"),
            format!("spindle_disk_errors_total{{{disk}}} 0"),
            format!("spindle_disk_latency_seconds_bucket{{{disk},le=\"+Inf\"}} 107"),
            "spindle_core_busy_seconds_total{domain=\"spindle\",core=\"1\"} 2".to_string(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn deaths_are_counted_with_what_is_known_of_the_last() {
        let text = metrics(&mut Fake::serving());
        for absent in [
            "spindle_last_death_down_seconds{",
            "spindle_last_death_info{",
        ] {
            assert!(!text.contains(absent), "{text}");
        }
        let mut host = Fake::serving();
        let data = "/local/domain/3/data/spindle";
        host.store(&format!("{data}/life"), "4");
        host.store(
            &format!("{data}/start"),
            "at=1764374400 down_us=312500 deaths=3",
        );
        host.store(&format!("{data}/death"), "exception core=2 #UD\\n at");
        let text = metrics(&mut host);
        for line in [
            "spindle_deaths_total{domain=\"spindle\"} 3",
            "spindle_life_start_time_seconds{domain=\"spindle\"} 1764374400",
            "spindle_last_death_down_seconds{domain=\"spindle\"} 0.3125",
            "spindle_last_death_info{domain=\"spindle\",cause=\"exception\",core=\"2\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        // One that does not say which life it is in has no count, rather than a count of none.
        host.state.store.remove(&format!("{data}/life"));
        assert!(!metrics(&mut host).contains("spindle_deaths_total{"));
    }

    #[test]
    fn every_family_is_declared_once_before_its_samples_and_no_sample_comes_twice() {
        let text = metrics(&mut Fake::serving());
        let (mut families, mut samples) = (BTreeSet::new(), BTreeSet::new());
        let mut current = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap_or_default();
                assert!(families.insert(current), "{current} twice");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                let ends = ["{", "_bucket{", "_count{", "_sum{"];
                let fits = |end| name.starts_with(&format!("{current}{end}"));
                assert!(ends.into_iter().any(fits), "{line}");
                assert!(
                    value.parse::<f64>().is_ok() && samples.insert(name),
                    "{line}"
                );
            }
        }
        assert!(samples.len() > 40);
    }

    #[test]
    fn every_statistic_is_a_metric_and_stands_in_the_page() {
        let text = metrics(&mut Fake::serving());
        for (of, all) in [
            ("disk", &RingSnapshot::ABOUT[..]),
            ("core", &CoreSnapshot::ABOUT[..]),
        ] {
            for about in all.iter().filter(|about| !about.is_sum) {
                let declared = format!("# TYPE {} {}", about.metric(of), about.kind());
                assert!(text.lines().any(|line| line == declared), "{declared}");
            }
        }
        let page = include_str!("../docs/metrics.md");
        assert!(
            page.contains(&markdown()),
            "ctl/docs/metrics.md needs what `spindlectl generate metrics` prints"
        );
    }

    #[test]
    fn what_a_domain_shows_twice_comes_once() {
        let mut host = Fake::serving();
        let data = "/local/domain/3/data/spindle";
        host.store(&format!("{data}/core/01"), "busy_ns=7");
        host.store(&format!("{data}/core/+1"), "busy_ns=8");
        host.store(&format!("{data}/disks"), "ram0 1 512 w\nram0 2 512 w");
        // Another writing of the same number, and another disk of the same name.
        for place in ["5/051712", "5/51728"] {
            host.store(&format!("/local/domain/3/backend/vbd/{place}/state"), "4");
            host.store(&format!("/local/domain/3/backend/vbd/{place}/dev"), "xvda");
            host.store(
                &format!("/local/domain/3/backend/vbd/{place}/params"),
                "nvme0n1",
            );
        }
        host.store(&format!("{data}/stat/5-51728"), "rd_req=1");
        let text = metrics(&mut host);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut names = samples.filter_map(|line| Some(line.rsplit_once(' ')?.0));
        let mut seen = BTreeSet::new();
        assert!(names.all(|name| seen.insert(name)), "{text}");
        assert!(text.contains("core=\"1\"} 2\n") && text.contains("target=\"ram0\"} 512\n"));
    }

    #[test]
    fn names_cannot_break_out_of_their_labels() {
        let mut host = Fake::serving();
        host.store("/local/domain/5/name", "a\"} 1\nb\\");
        let text = metrics(&mut host);
        assert!(text.contains(r#"guest="a\"} 1\nb\\","#), "{text}");
        host.store("/local/domain/5/name", "\u{7}\u{1b}[2J\r");
        let text = metrics(&mut host);
        assert!(text.contains("guest=\"??[2J?\""), "{text}");
    }
}
