//! `metrics`: everything counted, as Prometheus reads it (text format 0.0.4).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::counters::Counters;
use crate::life::KernelLife;
use crate::spindle::{PublishedDisk, Spindle};
use crate::tables;

/// Counters of a disk: as Spindle names them, as Prometheus does, a label, help. Sectors become
/// bytes.
const DISK: &[(&str, &str, &str, &str)] = &[
    (
        "rd_req",
        "spindle_disk_requests_total",
        "op=\"read\"",
        "Requests accepted.",
    ),
    ("wr_req", "spindle_disk_requests_total", "op=\"write\"", ""),
    ("f_req", "spindle_disk_requests_total", "op=\"flush\"", ""),
    (
        "ds_req",
        "spindle_disk_requests_total",
        "op=\"discard\"",
        "",
    ),
    (
        "rd_sect",
        "spindle_disk_bytes_total",
        "op=\"read\"",
        "Bytes asked for.",
    ),
    ("wr_sect", "spindle_disk_bytes_total", "op=\"write\"", ""),
    (
        "err",
        "spindle_disk_errors_total",
        "",
        "Requests not answered with success.",
    ),
    (
        "oo_req",
        "spindle_disk_out_of_room_total",
        "",
        "Times that a request waited for room.",
    ),
    (
        "notify",
        "spindle_disk_notifications_total",
        "",
        "Events sent to the guest.",
    ),
    (
        "copied",
        "spindle_disk_copied_requests_total",
        "",
        "Requests that were copied, not mapped.",
    ),
    (
        "mapped",
        "spindle_disk_grants_mapped_total",
        "",
        "Grants mapped.",
    ),
    (
        "evicted",
        "spindle_disk_grants_evicted_total",
        "",
        "Grants unmapped to make room, or because they were not used for long.",
    ),
    (
        "lost",
        "spindle_disk_frames_lost_total",
        "",
        "Guest frames lost because an unmap failed.",
    ),
];

/// Counters of a core.
const CORE: &[(&str, &str, &str)] = &[
    (
        "busy_ns",
        "spindle_core_busy_seconds_total",
        "Time in visits that found work.",
    ),
    (
        "idle_ns",
        "spindle_core_idle_seconds_total",
        "Time asleep or without work.",
    ),
    (
        "sleeps",
        "spindle_core_sleeps_total",
        "Times that the core slept.",
    ),
    (
        "polls",
        "spindle_core_busy_visits_total",
        "Visits that found work.",
    ),
    (
        "idle_polls",
        "spindle_core_idle_visits_total",
        "Visits that found none.",
    ),
    (
        "grant_calls",
        "spindle_core_grant_calls_total",
        "Grant hypercalls, each of a batch.",
    ),
];

const LATENCY: &str = "spindle_disk_latency_seconds_bucket";
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
    for &(key, name, extra, help) in DISK {
        if !help.is_empty() {
            family(&mut out, name, "counter", help);
        }
        let unit = if key.ends_with("_sect") { SECTOR } else { 1 };
        for (labels, counters) in disks(spindles) {
            let separator = if extra.is_empty() { "" } else { "," };
            let value = counters.get(key).saturating_mul(unit);
            line(
                &mut out,
                name,
                &format!("{labels}{separator}{extra}"),
                &value,
            );
        }
    }
    let help = "Requests that took no longer than le seconds.";
    family(&mut out, LATENCY, "counter", help);
    for (labels, counters) in disks(spindles) {
        for (bound, count) in counters.latency_buckets() {
            let bound = match bound {
                bound if bound.is_infinite() => "+Inf".to_string(),
                bound => bound.to_string(),
            };
            line(
                &mut out,
                LATENCY,
                &format!("{labels},le=\"{bound}\""),
                &count,
            );
        }
    }
    for &(key, name, help) in CORE {
        family(&mut out, name, "counter", help);
        for spindle in spindles {
            for (number, counters) in &spindle.cores {
                let labels = format!("domain={},core=\"{number}\"", label(&spindle.name));
                let value = counters.get(key);
                if key.ends_with("_ns") {
                    line(&mut out, name, &labels, &(value as f64 / 1e9));
                } else {
                    line(&mut out, name, &labels, &value);
                }
            }
        }
    }
    out
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

/// All connected disks with their labels.
fn disks(spindles: &[Spindle]) -> impl Iterator<Item = (String, &Counters)> {
    // Two disks under one name would make the whole answer unreadable; a domain that shows them is
    // broken, and the first counts.
    let mut seen = BTreeSet::new();
    let all = spindles.iter().flat_map(|spindle| {
        let labels = |disk: &PublishedDisk| {
            let (domain, target) = (label(&spindle.name), label(&disk.target));
            let (guest, id, vdev) = (label(&disk.guest_name), disk.guest, label(&disk.vdev));
            format!("domain={domain},guest={guest},guest_id=\"{id}\",disk={vdev},target={target}")
        };
        let disk = move |disk| Some((labels(disk), disk.counters.as_ref()?));
        spindle.disks.iter().filter_map(disk)
    });
    all.filter(move |(labels, _)| seen.insert(labels.clone()))
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: &dyn std::fmt::Display) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

/// A label's value in its quotes, without what a terminal would act on.
fn label(text: &str) -> String {
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
                assert!(name.starts_with(&format!("{current}{{")), "{line}");
                assert!(
                    value.parse::<f64>().is_ok() && samples.insert(name),
                    "{line}"
                );
            }
        }
        assert!(samples.len() > 40);
    }

    #[test]
    fn every_counter_that_spindle_has_is_there() {
        let known = DISK.iter().map(|entry| entry.0);
        let known: BTreeSet<&str> = known.chain(CORE.iter().map(|entry| entry.0)).collect();
        let lines = [
            spindle_blkif::stats::RingSnapshot::default().to_string(),
            spindle_blkif::stats::CoreSnapshot::default().to_string(),
        ];
        let names = lines.iter().flat_map(|line| line.split(' '));
        for name in names.filter_map(|word| Some(word.split_once('=')?.0)) {
            // A share, a highest value, and histograms, of which one has a form of its own.
            let other = ["busy", "peak", "batch", "lat_us"].contains(&name);
            assert!(other || known.contains(name), "{name}");
        }
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
