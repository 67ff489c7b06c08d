//! Every sample of `metrics` for a domain whose counters all differ, and by the names that Spindle
//! itself gives them.

use spindle_status::stats::{CoreSnapshot, Counts, DelayLine, RingSnapshot};

use crate::fake::Fake;
use crate::metrics;
use crate::spindle::Spindle;

const DISK: &str =
    "domain=\"spindle\",guest=\"web\",guest_id=\"5\",disk=\"xvda\",target=\"nvme0n1\"";

/// A domain that shows these counters of its one disk, and of its cores from 1 on.
fn text(disk: &RingSnapshot, cores: &[CoreSnapshot]) -> String {
    let mut host = Fake::serving();
    let data = "/local/domain/3/data/spindle";
    host.store(&format!("{data}/stat/5-51712"), &format!("rings=2 {disk}"));
    let delays = DelayLine(*disk).to_string();
    host.store(&format!("{data}/delays/5-51712"), &delays);
    for (number, core) in (1..).zip(cores) {
        host.store(&format!("{data}/core/{number}"), &core.to_string());
    }
    metrics::text(&Spindle::all(&mut host).expect("xenstore"))
}

/// The samples of a family, by what follows its name.
fn samples<'a>(text: &'a str, family: &str) -> Vec<&'a str> {
    let begin = format!("{family}{{");
    text.lines()
        .filter_map(|line| line.strip_prefix(&begin))
        .collect()
}

#[test]
fn every_counter_of_a_disk_is_its_own_sample_in_its_own_unit() {
    let mut batches = Counts::default();
    batches.0[1] = 1;
    let mut latency = Counts::default();
    (latency.0[0], latency.0[1], latency.0[3]) = (1, 2, 4);
    let text = text(
        &RingSnapshot {
            out_of_room: 101,
            reads: 102,
            writes: 103,
            flushes: 104,
            discards: 105,
            errors: 106,
            sectors_read: 107,
            sectors_written: 108,
            in_flight_peak: 109,
            notifications: 110,
            grants_mapped: 111,
            grants_evicted: 112,
            copied_requests: 113,
            frames_lost: 114,
            batches,
            latency,
            held_ns: 115_500_000,
            batched: 116,
            latency_ns: 117_250_000,
            wait_ns: 118_250_000,
            device: latency,
            device_ns: 119_250_000,
            tokens_ns: 120_250_000,
            ..RingSnapshot::default()
        },
        &[],
    );
    assert_eq!(
        samples(&text, "spindle_disk_in_flight_peak"),
        [format!("{DISK}}} 109")]
    );
    for (family, expected) in [
        ("out_of_room", &[("", 101)][..]),
        (
            "requests",
            &[
                (",op=\"read\"", 102),
                (",op=\"write\"", 103),
                (",op=\"flush\"", 104),
                (",op=\"discard\"", 105),
            ],
        ),
        ("errors", &[("", 106)]),
        // In bytes, not in sectors.
        (
            "bytes",
            &[(",op=\"read\"", 54_784), (",op=\"write\"", 55_296)],
        ),
        ("notifications", &[("", 110)]),
        ("grants_mapped", &[("", 111)]),
        ("grants_evicted", &[("", 112)]),
        ("copied_requests", &[("", 113)]),
        ("frames_lost", &[("", 114)]),
    ] {
        let name = format!("spindle_disk_{family}_total");
        let expected = expected
            .iter()
            .map(|(label, value)| format!("{DISK}{label}}} {value}"));
        assert_eq!(
            samples(&text, &name),
            expected.collect::<Vec<_>>(),
            "{name}"
        );
    }
    let held = samples(&text, "spindle_disk_held_back_seconds_total");
    assert_eq!(held, [format!("{DISK}}} 0.1155")]);
    let buckets = samples(&text, "spindle_disk_latency_seconds_bucket");
    assert_eq!(
        buckets.last(),
        Some(&format!("{DISK},le=\"+Inf\"}} 7").as_str())
    );
    // Of each histogram all that Prometheus asks for.
    for (family, count, sum) in [
        ("batch_requests", "1", "116"),
        ("latency_seconds", "7", "0.11725"),
        ("wait_seconds", "0", "0.11825"),
        ("device_seconds", "7", "0.11925"),
        ("token_seconds", "0", "0.12025"),
    ] {
        let name = format!("spindle_disk_{family}");
        let declared = format!("# TYPE {name} histogram");
        assert_eq!(
            text.lines().filter(|line| **line == declared).count(),
            1,
            "{name}"
        );
        for (end, value) in [("count", count), ("sum", sum)] {
            let sample = samples(&text, &format!("{name}_{end}"));
            assert_eq!(sample, [format!("{DISK}}} {value}")], "{name}_{end}");
        }
    }
}

#[test]
fn every_core_has_samples_of_its_own_and_times_are_seconds() {
    let core = |n: u64| CoreSnapshot {
        polls_busy: n + 1,
        polls_idle: n + 2,
        sleeps: n + 3,
        grant_calls: n + 4,
        busy_ns: (n + 5) * 1_500_000_000,
        idle_ns: (n + 6) * 2_500_000_000,
    };
    let text = text(&RingSnapshot::default(), &[core(10), core(20)]);
    for (family, first, second) in [
        ("busy_visits", "11", "21"),
        ("idle_visits", "12", "22"),
        ("sleeps", "13", "23"),
        ("grant_calls", "14", "24"),
        ("busy_seconds", "22.5", "37.5"),
        ("idle_seconds", "40", "65"),
    ] {
        let name = format!("spindle_core_{family}_total");
        let sample = |core, value| format!("domain=\"spindle\",core=\"{core}\"}} {value}");
        assert_eq!(
            samples(&text, &name),
            [sample(1, first), sample(2, second)],
            "{name}"
        );
    }
}
