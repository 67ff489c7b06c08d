//! What is written for people, for Prometheus, and for those who give orders: the very words.

use spindle_status::lives::DeathLine;
use spindle_status::orders::{VolumeAction, VolumeOrder};
use spindle_status::path;
use spindle_status::statistic::{StatUnit, Statistic};
use spindle_status::stats::RingSnapshot;
use spindle_status::trace::{TraceEvent, kind};
use spindle_status::words::as_word;

#[test]
fn an_event_says_what_happened_to_which_request() {
    let text = |kind, operation, values| {
        let event = TraceEvent {
            at_ns: 1,
            kind,
            operation,
            guest: 5,
            device: 51712,
            values,
        };
        event.text()
    };
    let names = [
        (0, "read"),
        (1, "write"),
        (2, "barrier"),
        (3, "flush"),
        (4, "request"),
        (5, "discard"),
        (6, "large request"),
    ];
    for (operation, name) in names {
        for (number, what) in [(kind::REFUSED, "was refused"), (kind::FAILED, "failed")] {
            let said = text(number, operation, [77, 0]);
            assert_eq!(said, format!("a {name} at sector 77 {what}"));
        }
    }
    assert_eq!(
        text(kind::FAILED, 1, [8, 3]),
        "a write at sector 8 failed; 3 more like it were not recorded before"
    );
    assert_eq!(text(kind::ATTACHED, 0, [0, 0]), "a core has the ring");
    let again = "a core has the ring; 2 requests are done again after a death";
    assert_eq!(text(kind::ATTACHED, 0, [2, 0]), again);
    let numbers = [
        (kind::DETACHED, "41 requests were answered"),
        (kind::HALTED, "after 41 requests"),
        (kind::RESIZED, "41 sectors of 512 bytes"),
        (200, "event 200 of a later version (41, 0)"),
    ];
    for (number, part) in numbers {
        let said = text(number, 0, [41, 0]);
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn an_order_to_change_a_volume_is_read_as_it_was_written() {
    let order = |action| VolumeOrder {
        word: "17".into(),
        name: "vg0/web".into(),
        action,
    };
    let (sectors, time, to) = (4096, 1_700_000_000, "www".into());
    let cases = [
        (
            VolumeAction::Create { sectors, time },
            "17 create vg0/web 4096 1700000000",
        ),
        (
            VolumeAction::Extend {
                sectors,
                more: false,
            },
            "17 extend vg0/web 4096",
        ),
        (
            VolumeAction::Extend {
                sectors,
                more: true,
            },
            "17 extend vg0/web +4096",
        ),
        (VolumeAction::Remove, "17 remove vg0/web"),
        (VolumeAction::Rename { to }, "17 rename vg0/web www"),
    ];
    for (action, text) in cases {
        let order = order(action);
        assert_eq!(order.to_string(), text);
        assert_eq!(VolumeOrder::parse(text), Some(order));
        // Nothing is left out, and nothing comes behind.
        assert_eq!(VolumeOrder::parse(&format!("{text} more")), None);
        let (less, _) = text.rsplit_once(' ').expect("words");
        assert_eq!(VolumeOrder::parse(less), None, "{less}");
    }
    assert_eq!(VolumeOrder::parse("17 format vg0/web"), None);
}

#[test]
fn a_death_is_told_on_one_line_whatever_was_said() {
    let death = DeathLine {
        cause: "panic".into(),
        core: Some(2),
        message: "one\ntwo\nthree\n".into(),
    };
    assert_eq!(death.to_string(), "panic core=2 one two three");
}

#[test]
fn a_name_from_a_disk_is_one_word_that_can_be_told_from_all_others() {
    assert_eq!(as_word("vg0/web-1.2"), "vg0/web-1.2");
    assert_eq!(as_word("a b\\\n\u{e9}"), "a\\x20b\\x5c\\x0a\\xc3\\xa9");
}

#[test]
fn limits_of_a_device_and_of_a_group_have_nodes_of_their_own() {
    let root = path::ROOT;
    assert_eq!(path::limits(5, 51712), format!("{root}/limits/5-51712"));
    assert_eq!(path::group_limits("db"), format!("{root}/limits/@db"));
}

#[test]
fn a_metric_is_named_by_what_it_is() {
    let requests = Statistic::sum("rd_req", "read", "requests");
    assert_eq!(requests.metric("disk"), "spindle_disk_requests_total");
    let peak = Statistic::highest("peak", "peak", "in_flight_peak").unit(StatUnit::Count);
    assert_eq!(peak.metric("core"), "spindle_core_in_flight_peak");
    let sum = Statistic::sum_of("lat_ns", "latency_seconds");
    assert_eq!(sum.metric("disk"), "spindle_disk_latency_seconds_sum");
    let histogram = Statistic {
        places: 24,
        ..Statistic::sum("lat_us", "latency", "latency_seconds")
    };
    assert_eq!(histogram.metric("disk"), "spindle_disk_latency_seconds");
}

/// As of a version with more places.
#[test]
fn what_is_beyond_the_last_place_of_a_histogram_counts_there() {
    let read = RingSnapshot::parse("lat_us=0:1,9223372036854775808:4,x:7");
    let places = read.latency.0;
    assert_eq!((places[0], places[places.len() - 1]), (1, 4));
    assert_eq!(places.iter().sum::<u64>(), 5);
}
