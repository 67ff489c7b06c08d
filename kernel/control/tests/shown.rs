//! What guests and dom0 find in xenstore: what is offered of each type of disk, with each option that
//! changes it; the counters of devices and cores. And that a barrier orders the rings of a device on
//! all cores, which is what is offered by it.

use std::collections::BTreeSet;

use spindle_block::DiskOptions;
use spindle_config::{Config, DataPath};
use spindle_simulate::world::guest::{contents, pattern};
use spindle_simulate::world::{DISKS, Setup, World};
use spindle_testkit::nvme::{Config as NvmeConfig, FakeNvme, NamespaceConfig};
use spindle_testkit::virtio::{Config as VirtioConfig, FakeVirtio};

/// The keys by which a frontend knows what its disk is like.
const KEYS: [&str; 14] = [
    "feature-max-indirect-segments",
    "multi-queue-max-queues",
    "max-ring-page-order",
    "feature-persistent",
    "feature-flush-cache",
    "feature-barrier",
    "feature-discard",
    "discard-granularity",
    "discard-alignment",
    "discard-secure",
    "sectors",
    "info",
    "sector-size",
    "physical-sector-size",
];

/// What a guest that is given `target` finds, in the order of the keys.
fn offered(world: &mut World, target: &str, mode: &str) -> [u64; KEYS.len()] {
    let guest = world.attach(5, 51712, target, mode);
    world.until("InitWait", |w| w.state(guest) == 2);
    let vbd = world.guests[guest].vbd;
    let values = KEYS.map(|key| {
        let text = world.store.text(&vbd.back(key));
        text.unwrap_or_else(|| panic!("no {key}")).parse().unwrap()
    });
    world.destroy(guest);
    values
}

/// A domain with an NVMe controller of this kind.
fn with_nvme(setup: Setup, config: NvmeConfig) -> (World, FakeNvme) {
    let mut model = None;
    let queues = setup.cores as u16;
    let world = World::new(setup, |machine, disks| {
        let nvme = FakeNvme::new(machine.bus.clone(), config);
        let options = DiskOptions {
            queues,
            ..DiskOptions::default()
        };
        disks.add_nvme(&nvme, 0, options);
        model = Some(nvme);
    });
    (world, model.unwrap())
}

/// By what the models say of themselves: two namespaces with a write cache, without secure erase; a
/// virtio disk with one, whose discards are best whole multiples of 8 sectors; a RAM disk, which has no cache. Who may only
/// read may not discard.
#[test]
fn each_disk_is_offered_with_what_it_can_do() {
    let (mut world, _) = World::with_all_disks(3);
    for (target, mode, expected) in [
        (
            "nvme0n1",
            "w",
            [11, 3, 4, 1, 1, 1, 1, 512, 0, 0, 2048, 0, 512, 512],
        ),
        (
            "nvme0n1",
            "r",
            [11, 3, 4, 1, 1, 1, 0, 0, 0, 0, 2048, 4, 512, 512],
        ),
        (
            "nvme0n2",
            "w",
            [11, 3, 4, 1, 1, 1, 1, 4096, 0, 0, 4096, 0, 4096, 4096],
        ),
        (
            "512e:nvme0n2",
            "w",
            [11, 3, 4, 1, 1, 1, 1, 4096, 0, 0, 4096, 0, 512, 4096],
        ),
        (
            "vda",
            "w",
            [11, 3, 4, 1, 1, 1, 1, 4096, 0, 1, 2048, 0, 512, 4096],
        ),
        (
            "ram0",
            "w",
            [11, 3, 4, 1, 1, 0, 1, 512, 0, 1, 2048, 0, 512, 4096],
        ),
    ] {
        assert_eq!(
            offered(&mut world, target, mode),
            expected,
            "{target} {mode}"
        );
    }
}

/// The same disk with each thing that it cannot do, and as a disk of 512e.
#[test]
fn what_a_disk_cannot_do_is_not_offered() {
    let able = NvmeConfig::default;
    let with = |namespace| NvmeConfig {
        namespaces: vec![namespace],
        ..able()
    };
    let plain = NamespaceConfig::new(1, 2048, 9);
    let mut protected = plain.clone();
    protected.read_only = true;
    let mut large = plain.clone();
    large.granularity = Some(7);
    let all = [11, 2, 4, 1, 1, 1, 1, 512, 0, 0, 2048, 0, 512, 512];
    let but = |changes: &[(&str, u64)]| {
        let mut values = all;
        for (key, value) in changes {
            values[KEYS.iter().position(|k| k == key).unwrap()] = *value;
        }
        values
    };
    let no_cache = NvmeConfig {
        write_cache: false,
        ..able()
    };
    let no_discard = NvmeConfig {
        discards: None,
        ..able()
    };
    let one_queue = NvmeConfig {
        queues: 1,
        ..able()
    };
    for (what, config, mode, expected) in [
        ("able", able(), "w", all),
        ("no cache", no_cache, "w", but(&[("feature-barrier", 0)])),
        (
            "no discard",
            no_discard,
            "w",
            but(&[("feature-discard", 0), ("discard-granularity", 0)]),
        ),
        (
            "one queue",
            one_queue,
            "w",
            but(&[("multi-queue-max-queues", 1)]),
        ),
        (
            "protected",
            with(protected),
            "r",
            but(&[
                ("info", 4),
                ("feature-discard", 0),
                ("discard-granularity", 0),
            ]),
        ),
        (
            "512e",
            with(large),
            "w",
            but(&[("physical-sector-size", 4096)]),
        ),
    ] {
        let (mut world, _) = with_nvme(Setup::default(), config);
        assert_eq!(offered(&mut world, "nvme0n1", mode), expected, "{what}");
    }
}

/// A part of a block cannot be erased.
#[test]
fn secure_discards_are_for_whole_blocks() {
    let mut world = World::new(Setup::default(), |machine, disks| {
        let config = VirtioConfig {
            block_size: 4096,
            ..VirtioConfig::default()
        };
        let virtio = FakeVirtio::new(machine.bus.clone(), config);
        let options = DiskOptions {
            queues: 2,
            ..DiskOptions::default()
        };
        disks.add_virtio(&virtio, 0, options);
    });
    let at = |key| KEYS.iter().position(|k| *k == key).unwrap();
    for (target, sector_size, secure) in [("vda", 4096, 1), ("512e:vda", 512, 0)] {
        let values = offered(&mut world, target, "w");
        assert_eq!(values[at("sector-size")], sector_size);
        assert_eq!(values[at("feature-discard")], 1);
        assert_eq!(values[at("discard-secure")], secure, "{target}");
    }
}

#[test]
fn options_change_what_is_offered() {
    let at = |key| KEYS.iter().position(|k| *k == key).unwrap();
    for (path, persistent) in [
        (DataPath::Auto, 1),
        (DataPath::Persistent, 1),
        (DataPath::Copy, 0),
        (DataPath::Map, 0),
    ] {
        for ring_order in [0, 1, 4] {
            for cores in [1, 3] {
                let config = Config {
                    path,
                    ring_order,
                    ..Config::default()
                };
                let setup = Setup {
                    cores,
                    config,
                    ..Setup::default()
                };
                let (mut world, _) = with_nvme(setup, NvmeConfig::default());
                let values = offered(&mut world, "nvme0n1", "w");
                assert_eq!(values[at("feature-persistent")], persistent, "{path:?}");
                assert_eq!(values[at("max-ring-page-order")], ring_order.into());
                assert_eq!(values[at("multi-queue-max-queues")], cores as u64);
            }
        }
    }
}

/// By ctl/docs/limits.md: 1,792 bytes, 14 to 25 disks; what is beyond is served and has a node of its own.
#[test]
fn the_list_of_disks_ends_with_a_whole_line_and_further_disks_are_served() {
    let config = NvmeConfig {
        namespaces: (1..=60)
            .map(|id| NamespaceConfig::new(id, 2048, 9))
            .collect(),
        ..NvmeConfig::default()
    };
    let (mut world, _) = with_nvme(Setup::default(), config);
    world.until("the end of what is published", |w| {
        w.published("ready").is_some()
    });
    let list = world.published("disks").unwrap().to_string();
    assert!(list.len() <= 1792, "{}", list.len());
    let lines: Vec<_> = list.lines().collect();
    assert!((14..=25).contains(&lines.len()), "{}", lines.len());
    let longest = lines.iter().map(|line| line.len()).max().unwrap();
    assert!(list.len() + longest + 1 > 1792, "one more would fit");
    for (number, line) in (1..).zip(&lines) {
        let start = format!("nvme0n{number} 2048 512 w ");
        assert!(line.starts_with(&start), "{line}");
        let end = format!("namespace {number}");
        assert!(line.ends_with(&end), "{line}");
    }
    let guest = world.attach(5, 51712, "nvme0n60", "w");
    world.connect(guest, 1, 1);
    world.write(guest, 0, 0, 1);
    assert_eq!(world.holder("nvme0n60"), "5/51712:w");
}

/// The value of `key=` in a line of counters.
fn counter(text: &str, key: &str) -> u64 {
    let mut words = text.split(' ').filter_map(|word| word.split_once('='));
    let (_, value) = words.find(|(name, _)| *name == key).unwrap();
    value.parse().unwrap()
}

#[test]
fn counters_of_each_device_and_each_core_are_shown_every_5_s() {
    let (mut world, _) = World::with_all_disks(2);
    world.pass(100);
    assert_eq!(world.published("version"), Some("test"));
    assert_eq!(world.published("ready"), Some("1"));
    assert_eq!(world.published("drill"), Some("off"));
    let list = world.published("disks").unwrap();
    let names = list
        .lines()
        .map(|line| line.split([' ', ':']).next().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), DISKS);
    for (frontend, target) in [(5, "nvme0n1"), (6, "vda")] {
        let guest = world.attach(frontend, 51712, target, "w");
        world.connect(guest, 2, 1);
    }
    for page in 0..3 {
        world.write(0, 0, 8 * page, page);
    }
    for page in 1..3 {
        world.verify(0, 1, 8 * page, page);
    }
    let id = world.guests[0].flush(1);
    world.answer(0, 1, id);
    world.write(1, 1, 0, 9);
    world.pass(5100);
    let shown = |world: &World, node: &str| world.published(node).unwrap().to_string();
    let keys = [
        "rings", "wr_req", "rd_req", "f_req", "ds_req", "wr_sect", "rd_sect", "err",
    ];
    let device = |world: &World, node: &str| keys.map(|key| counter(&shown(world, node), key));
    assert_eq!(device(&world, "stat/5-51712"), [2, 3, 2, 1, 0, 24, 16, 0]);
    assert_eq!(device(&world, "stat/6-51712"), [2, 1, 0, 0, 0, 8, 0, 0]);
    // One core has the work of another ring of the first guest.
    let busy =
        |world: &World| ["core/1", "core/2"].map(|node| counter(&shown(world, node), "polls"));
    let before = busy(&world);
    for page in 0..10 {
        world.write(0, 0, 8 * page, page);
    }
    world.pass(5100);
    assert_eq!(counter(&shown(&world, "stat/5-51712"), "wr_req"), 13);
    let after = busy(&world);
    let more: Vec<_> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    assert!(
        more.contains(&0) && more.iter().any(|n| *n >= 10),
        "{more:?}"
    );
    // Another line every 5 s, however often there is something new.
    let mut lines = BTreeSet::new();
    for page in 0..20 {
        world.write(0, 0, 8 * page, page);
        world.pass(1000);
        lines.insert(shown(&world, "stat/5-51712"));
    }
    assert!((4..=5).contains(&lines.len()), "{lines:?}");
    world.detach(0);
    world.pass(5100);
    assert_eq!(world.published("stat/5-51712"), None);
    assert_eq!(device(&world, "stat/6-51712"), [2, 1, 0, 0, 0, 8, 0, 0]);
}

#[test]
fn a_barrier_orders_the_rings_of_a_device_on_all_cores() {
    // It works on commands only when it is said to.
    let config = NvmeConfig {
        manual: true,
        ..NvmeConfig::default()
    };
    let (mut world, nvme) = with_nvme(Setup::default(), config);
    let guest = world.attach(5, 51712, "nvme0n1", "w");
    world.connect(guest, 2, 1);
    world.guests[guest].write(0, 0, 1);
    world.pass(20);
    world.guests[guest].write_barrier(1, 8, 2);
    world.pass(20);
    let (_, page) = world.guests[guest].read(0, 8);
    world.pass(20);
    // The write alone: the barrier waits for it, and the read for the barrier.
    assert_eq!(nvme.run(), 1);
    world.until("the write's response", |w| {
        !w.guests[guest].take_answers(0).is_empty()
    });
    assert_eq!(world.guests[guest].answer_count(), 0);
    world.until("the barrier's response", |w| {
        nvme.run();
        w.guests[guest].answer_count() > 0
    });
    let (first, second) = (
        world.guests[guest].take_answers(1).len(),
        world.guests[guest].take_answers(0).len(),
    );
    assert_eq!(
        (first, second),
        (1, 0),
        "the barrier is done before the read"
    );
    world.until("the read's response", |w| {
        nvme.run();
        !w.guests[guest].take_answers(0).is_empty()
    });
    assert!(contents(&page) == pattern(2));
}
