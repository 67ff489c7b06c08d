//! What one side writes the other reads, and a reader of this version understands what the version before
//! published.

use std::collections::BTreeSet;

use proptest::prelude::*;
use spindle_status::lives::{DeathLine, StartLine};
use spindle_status::orders::{Rescanned, UpdateAnswer, UpdateOrder};
use spindle_status::path::{self, NODES};
use spindle_status::statistic::Statistic;
use spindle_status::stats::{CoreSnapshot, DelayLine, DeviceLine, RingSnapshot};
use spindle_status::targets::{HolderWord, TargetLine, TargetMode};
use spindle_status::trace::TraceEvent;
use spindle_status::words;

/// A word without what separates words and holders.
const WORD: &str = "[!-+.-9;-~]{1,12}";

fn mode() -> impl Strategy<Value = TargetMode> {
    prop_oneof![
        Just(TargetMode::Read),
        Just(TargetMode::Write),
        Just(TargetMode::Lost)
    ]
}

proptest! {
    #[test]
    fn counters_are_read_as_they_were_written(
        rings in any::<u64>(),
        ring in prop::collection::vec(any::<u64>(), 256),
        core in prop::collection::vec(any::<u64>(), 64),
        unknown in "[a-z]{1,3}_x=[0-9a-z:,%-]{0,9}",
    ) {
        let line = DeviceLine { rings, counters: RingSnapshot::from_values(ring) };
        let both = format!("{line} {}", DelayLine(line.counters));
        prop_assert_eq!(DeviceLine::parse(&both), line);
        prop_assert_eq!(DeviceLine::parse(&format!("{unknown} {both} x {unknown}")), line);
        let core = CoreSnapshot::from_values(core);
        prop_assert_eq!(CoreSnapshot::parse(&core.to_string()), core);
    }

    #[test]
    fn what_was_counted_since_is_what_was_added(
        before in prop::collection::vec(0..1u64 << 60, 256),
        more in prop::collection::vec(0..1u64 << 60, 256),
    ) {
        let (before, more) = (RingSnapshot::from_values(before), RingSnapshot::from_values(more));
        let peak = |of: RingSnapshot| RingSnapshot { in_flight_peak: 0, ..of };
        let now = RingSnapshot::sum([before, more]);
        prop_assert_eq!(peak(now.since(&before)), peak(more));
    }

    #[test]
    fn lives_are_read_as_they_were_written(
        at in any::<u64>(),
        down_us in any::<u64>(),
        deaths in any::<u64>(),
        system_ns in any::<u64>(),
        cause in "[a-zA-Z#]{1,10}",
        core in any::<u32>(),
        message in "([!-~]( [!-~])?){0,20}",
    ) {
        let start = StartLine { at, down_us, deaths, system_ns };
        prop_assert_eq!(StartLine::parse(&start.to_string()), start);
        let death = DeathLine { cause, core: Some(core), message };
        prop_assert_eq!(DeathLine::parse(&death.to_string()), death);
    }

    #[test]
    fn events_are_read_as_they_were_written(words in any::<[u64; 4]>()) {
        let event = TraceEvent::from_words(words);
        prop_assert_eq!(event.words(), words);
        prop_assert_eq!(TraceEvent::parse(&event.to_string()), Some(event));
        prop_assert!(!event.text().is_empty());
    }

    #[test]
    fn targets_are_read_as_they_were_written(
        name in WORD,
        sectors in any::<u64>(),
        block in any::<u64>(),
        mode in mode(),
        holders in prop::collection::vec((any::<u32>(), any::<u32>(), "r|w|w!"), 1..4),
        names in prop::collection::vec(WORD, 0..3),
    ) {
        let holders: Vec<HolderWord> = holders
            .into_iter()
            .map(|(guest, device, how)| HolderWord { guest, device, how })
            .collect();
        let words: Vec<String> = holders.iter().map(ToString::to_string).collect();
        let names = names.join(" ");
        let rest = format!("{} {names}", words.join(","));
        let line = TargetLine { name: &name, sectors, block, mode, rest: &rest };
        let text = line.to_string();
        let read = TargetLine::parse(&text).expect("a line");
        prop_assert_eq!(&read, &line);
        prop_assert_eq!(read.holders(), (holders, names.as_str()));
    }

    #[test]
    fn orders_and_answers_are_read_as_they_were_written(
        number in any::<u64>(),
        grant in any::<u32>(),
        check in any::<bool>(),
        lines in prop::collection::vec("[ -~]{1,20}", 0..4),
    ) {
        let order = UpdateOrder { number, grant, check };
        prop_assert_eq!(UpdateOrder::parse(&order.to_string()), Some(order));
        for answer in UpdateAnswer::ALL {
            let more = lines.join(" ");
            let line = answer.line(number, &more);
            prop_assert_eq!(UpdateAnswer::parse(&line, number), Some((answer, more.as_str())));
            prop_assert_eq!(UpdateAnswer::parse(&line, number ^ 1), None);
        }
        let answer = Rescanned { number, lines };
        prop_assert_eq!(Rescanned::parse(&answer.to_string()), Some(answer));
    }

    #[test]
    fn nothing_that_a_node_may_hold_is_a_panic(text in any::<String>(), word in any::<String>()) {
        let _ = DeviceLine::parse(&format!("rd_req={text} lat_us={word}:{text},{text}"));
        let _ = (CoreSnapshot::parse(&text), StartLine::parse(&text), DeathLine::parse(&text));
        let _ = TargetLine::parse(&text).map(|line| line.holders());
        let _ = (Rescanned::parse(&text), UpdateOrder::parse(&text), TraceEvent::parse(&text));
        let _ = (UpdateAnswer::parse(&text, 1), path::parse_stat(&text));
        let safe = words::as_word(&text);
        prop_assert!(safe.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

/// The nodes of version 0.1.0 before this crate was: what it published is still understood.
const SAMPLE: &str = include_str!("nodes-0.1.0.txt");

#[test]
fn what_the_version_before_published_is_understood() {
    let node = |leaf: &str| {
        let path = format!("{}/{leaf} = ", path::ROOT);
        let mut lines = SAMPLE.lines().filter_map(|line| line.strip_prefix(&path));
        let value = lines.next().unwrap_or_else(|| panic!("no {leaf}"));
        value.replace("\\n", "\n")
    };
    let device = DeviceLine::parse(&node("stat/5-51712"));
    assert_eq!(device.rings, 2);
    let counters: Vec<u64> = device.counters.values().take(14).collect();
    let expected = [3, 100, 7, 2, 1, 4, 800, 56, 9, 50, 40, 5, 6, 8];
    assert_eq!(counters, expected);
    assert_eq!(
        (device.counters.batches.0[1], device.counters.batches.0[2]),
        (3, 4)
    );
    assert_eq!(
        (device.counters.latency.0[6], device.counters.latency.0[7]),
        (99, 8)
    );
    let core = CoreSnapshot::parse(&node("core/1"));
    assert!(
        core.values()
            .eq([10, 90, 4, 12, 2_000_000_000, 8_000_000_000])
    );
    let start = StartLine::parse(&node("start"));
    assert_eq!(
        (start.at, start.down_us, start.deaths, start.system_ns),
        (1_764_374_400, 312_500, 3, 0)
    );
    let death = DeathLine::parse(&node("death"));
    assert_eq!((death.cause.as_str(), death.core), ("panic", Some(1)));
    assert_eq!(death.message, "PANIC on core 1: a drill");
    let text = node("targets/nvme0n1");
    let lines: Vec<TargetLine<'_>> = text.lines().filter_map(TargetLine::parse).collect();
    let what = lines
        .iter()
        .map(|line| (line.name, line.sectors, line.block, line.mode));
    let expected = [
        ("nvme0n1", 4_194_304, 512, TargetMode::Write),
        ("nvme0n1p1", 2048, 512, TargetMode::Lost),
    ];
    assert!(what.eq(expected), "{lines:?}");
    let holder = HolderWord {
        guest: 5,
        device: 51712,
        how: "w!".into(),
    };
    assert_eq!(lines[0].holders(), (vec![holder], "nvme-x"));
    assert_eq!(lines[1].holders(), (vec![], "PARTLABEL=root"));
    let rescanned = Rescanned::parse(&node("rescanned")).expect("an answer");
    assert_eq!((rescanned.number, rescanned.lines.len()), (2, 2));
    let updated = node("updated");
    let answer = UpdateAnswer::parse(&updated, 7);
    assert_eq!(
        answer,
        Some((UpdateAnswer::Done, "0.1.0 b follows 0.1.0 a, 600 ms"))
    );
    assert_eq!(UpdateAnswer::parse(&updated, 8), None);
}

/// Every word, heading and metric stands for one thing.
#[test]
fn no_two_statistics_are_taken_for_each_other() {
    let unique = |all: &[Statistic]| {
        let mut keys = BTreeSet::new();
        let mut metrics = BTreeSet::new();
        let mut headings = BTreeSet::new();
        for about in all {
            assert!(keys.insert(about.key.name), "{}", about.key.name);
            assert!(
                metrics.insert((about.family, about.is_sum, about.label)),
                "{}",
                about.family
            );
            assert!(
                about.is_sum || headings.insert(about.heading),
                "{}",
                about.heading
            );
            assert!(about.help.trim().ends_with('.'), "{}", about.help);
            let is_of = |other: &Statistic| other.is_histogram() && other.family == about.family;
            assert!(!about.is_sum || all.iter().any(is_of), "{}", about.family);
        }
    };
    unique(&RingSnapshot::ABOUT);
    unique(&CoreSnapshot::ABOUT);
}

#[test]
fn paths_are_below_the_root_and_each_is_described_once() {
    let mut seen = BTreeSet::new();
    for node in NODES {
        let leaf = node
            .path
            .strip_prefix("data/spindle/")
            .expect("below the root");
        assert!(
            node.shown == leaf || node.shown.starts_with(&format!("{leaf}/<")),
            "{leaf}"
        );
        assert!(seen.insert(leaf), "{leaf}");
    }
    assert!(
        path::FOLDERS
            .iter()
            .all(|folder| NODES.iter().any(|node| node.path == *folder))
    );
    assert_eq!(path::stat(5, 51712), "data/spindle/stat/5-51712");
    assert_eq!(path::delays(5, 51712), "data/spindle/delays/5-51712");
    assert_eq!(path::parse_stat("5-51712"), Some((5, 51712)));
    assert_eq!(path::core(1), "data/spindle/core/1");
    assert_eq!(path::trace(1), "data/spindle/trace/1");
    let pages = [0, 2].map(|page| path::targets("nvme0n1", page));
    assert_eq!(pages[0], "data/spindle/targets/nvme0n1");
    assert_eq!(pages[1], "data/spindle/targets/nvme0n1-2");
    assert_eq!(path::health("nvme0"), "data/spindle/disk/nvme0");
}
