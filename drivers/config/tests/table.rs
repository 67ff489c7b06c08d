//! The table of options in ctl/docs/reference.md, row by row: defaults, every value that is said to be one, and
//! what each does as far as that is decided here.

use std::time::Duration;

use spindle_config::{Config, DataPath, PollUs};

fn set(words: &str) -> Config {
    let mut config = Config::default();
    config.set_all(words, |error| panic!("{words}: {error}"));
    config
}

fn refused(words: &str) -> usize {
    let (mut config, mut count) = (Config::default(), 0);
    config.set_all(words, |_| count += 1);
    assert_eq!(config, Config::default(), "{words} changes nothing");
    count
}

/// The option's row of ctl/docs/reference.md: its default is the last cell.
fn default_in_reference(knob: &str) -> String {
    let page = include_str!("../../../ctl/docs/reference.md");
    let row = page
        .lines()
        .find(|line| line.starts_with(&format!("| `{knob}")));
    let row = row.unwrap_or_else(|| panic!("{knob} has no row"));
    let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
    cells[cells.len() - 1].trim_matches('`').to_string()
}

#[test]
fn defaults_are_those_that_are_documented() {
    let config = Config::default();
    assert_eq!(config.poll, PollUs::For(100));
    assert_eq!(config.path, DataPath::Auto);
    assert_eq!(config.ring_order, 4);
    assert_eq!(config.io_timeout, 30);
    assert_eq!(config.queues, u32::MAX);
    assert!(config.partitions);
    assert_eq!(config.log, log::LevelFilter::Info);
    assert!(config.ram_disks.is_empty() && config.null_disks.is_empty());
    assert!(config.placed_controllers.is_empty());
    for (knob, words) in [
        ("poll_us=", "100"),
        ("path=", "auto"),
        ("ring_order=", "4"),
        ("io_timeout=", "30"),
        ("partitions=", "on"),
        ("log=", "info"),
        ("queues=", "all vCPUs but one"),
        ("ramN=", "none"),
        ("nullN=", "none"),
        ("nvmeN=", "none"),
    ] {
        assert_eq!(default_in_reference(knob), words, "{knob}");
    }
    // To say the default changes nothing.
    let words = "poll_us=100 path=auto ring_order=4 io_timeout=30 partitions=on log=info";
    assert_eq!(set(words), config);
}

/// `auto` = persistent grants, or grant copy for guests without them; `persistent` = the same, but
/// other guests' pages are mapped; `copy`, `map` = that alone, for all.
#[test]
fn each_path_offers_and_maps_what_is_documented() {
    for (value, path, offers, maps_kept, maps_others) in [
        ("auto", DataPath::Auto, true, true, false),
        ("persistent", DataPath::Persistent, true, true, true),
        ("copy", DataPath::Copy, false, false, false),
        ("map", DataPath::Map, false, true, true),
    ] {
        let config = set(&format!("path={value}"));
        assert_eq!(
            config,
            Config {
                path,
                ..Config::default()
            },
            "{value}"
        );
        assert_eq!(config.path.offers_persistent(), offers, "{value}");
        assert_eq!(config.path.maps(true), maps_kept, "{value}");
        assert_eq!(config.path.maps(false), maps_others, "{value}");
    }
    assert_eq!(refused("path=Auto path= path=grant path"), 4);
}

/// `queues=`: the most ring cores; by default all vCPUs but one.
#[test]
fn there_are_as_many_ring_cores_as_vcpus_and_queues_allow() {
    for (words, cores) in [
        ("", [1, 1, 2, 3, 31]),
        ("queues=1", [1, 1, 1, 1, 1]),
        ("queues=2", [1, 1, 2, 2, 2]),
        ("queues=31", [1, 1, 2, 3, 31]),
        ("queues=4294967295", [1, 1, 2, 3, 31]),
    ] {
        let config = set(words);
        assert_eq!(
            [1, 2, 3, 4, 32].map(|v| config.ring_cores(v)),
            cores,
            "{words}"
        );
    }
}

/// `poll_us=` is in microseconds, `io_timeout=` in seconds.
#[test]
fn times_have_the_units_that_are_documented() {
    for (words, ns) in [
        ("", Some(100_000)),
        ("poll_us=0", Some(0)),
        ("poll_us=1", Some(1000)),
        ("poll_us=4294967295", Some(4_294_967_295_000)),
        ("poll_us=always", None),
    ] {
        assert_eq!(set(words).poll.ns(), ns, "{words}");
    }
    for (words, seconds) in [("", 30), ("io_timeout=1", 1), ("io_timeout=3600", 3600)] {
        let time = set(words).command_timeout();
        assert_eq!(time, Duration::from_secs(seconds), "{words}");
    }
}

#[test]
fn every_value_of_the_other_knobs_is_taken_and_sets_that_knob_alone() {
    let default = Config::default;
    for order in 0..=4 {
        let expected = Config {
            ring_order: order,
            ..default()
        };
        assert_eq!(set(&format!("ring_order={order}")), expected);
    }
    for (value, poll) in [
        ("0", PollUs::For(0)),
        ("1", PollUs::For(1)),
        ("4294967295", PollUs::For(u32::MAX)),
        ("always", PollUs::Always),
    ] {
        assert_eq!(
            set(&format!("poll_us={value}")),
            Config { poll, ..default() }
        );
    }
    for queues in [1, 2, 31, u32::MAX] {
        assert_eq!(
            set(&format!("queues={queues}")),
            Config {
                queues,
                ..default()
            }
        );
    }
    for io_timeout in [1, 30, 3600] {
        let expected = Config {
            io_timeout,
            ..default()
        };
        assert_eq!(set(&format!("io_timeout={io_timeout}")), expected);
    }
    assert_eq!(
        set("partitions=off"),
        Config {
            partitions: false,
            ..default()
        }
    );
    for level in log::LevelFilter::iter() {
        let word = level.as_str().to_lowercase();
        assert_eq!(
            set(&format!("log={word}")),
            Config {
                log: level,
                ..default()
            }
        );
    }
    for number in [0, 15] {
        let config = set(&format!("null{number}=1G"));
        let disk = config.null_disks[0];
        assert_eq!((disk.number, disk.bytes), (number, 1 << 30));
        assert!(config.ram_disks.is_empty());
        let disk = set(&format!("ram{number}=1M")).ram_disks[0];
        assert_eq!((disk.number, disk.bytes), (number, 1 << 20));
    }
    let bad = "ring_order=5 ring_order=-1 poll_us=for queues=0 io_timeout=0 io_timeout=3601 \
               partitions=1 log=5 ram16=1M ram0=1X null16=1M null0=0 nvme16=1,1 nvme0=g,1 ram+1=1M \
               ram=1M";
    assert_eq!(refused(bad), 16);
}
