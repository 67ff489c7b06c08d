//! What is offered: every key that a frontend may find in the backend's directory, with each
//! feature on and with each off, and that a frontend is held to it.

use std::collections::BTreeMap;

use spindle_testkit::xenbus::{Bed, VBD, facts, id};
use spindle_testkit::xenstored::Vbd;
use spindle_xen::grant::GrantRef;
use spindle_xen::xenbus::{Abi, Access, Discard, DiskFacts, Offer};

/// The keys that are the backend's to write, but `state`.
const KEYS: [&str; 15] = [
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
    "hotplug-status",
];

const EVERYTHING: Offer = Offer {
    max_queues: 6,
    max_ring_page_order: 4,
    max_indirect_segments: 256,
    persistent: true,
};

/// A disk that can do all that is offered of disks, with a value of its own for each key.
fn able() -> DiskFacts {
    DiskFacts {
        sectors: 123_456,
        sector_size: 4096,
        physical_sector_size: 16384,
        read_only: false,
        flush: true,
        barrier: true,
        discard: Some(Discard {
            granularity: 65536,
            alignment: 8192,
            secure: true,
        }),
        queues: 8,
    }
}

/// What a frontend finds once the disk is offered.
fn shown(offer: Offer, disk: DiskFacts, toolstack: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut bed = Bed::offering(offer);
    bed.kernel.facts = Some(disk);
    bed.attach(VBD);
    for (key, value) in toolstack {
        bed.store.write(&VBD.back(key), *value);
    }
    bed.settle();
    assert_eq!(VBD.back_state(&bed.store), 2);
    let value = |key: &str| Some((key.into(), bed.store.text(&VBD.back(key))?.into()));
    KEYS.iter().filter_map(|key| value(key)).collect()
}

#[test]
fn a_disk_that_can_do_everything_is_offered_with_everything() {
    let values = [
        "256",
        "6",
        "4",
        "1",
        "1",
        "1",
        "1",
        "65536",
        "8192",
        "1",
        "123456",
        "0",
        "4096",
        "16384",
        "connected",
    ];
    let expected: BTreeMap<_, _> = KEYS
        .map(String::from)
        .into_iter()
        .zip(values.map(String::from))
        .collect();
    assert_eq!(shown(EVERYTHING, able(), &[]), expected);
}

/// A change to what is offered, what the toolstack says then (`key=value`), and what is published
/// otherwise than of a disk that can do everything.
type Case = (fn(&mut Offer, &mut DiskFacts), &'static str, &'static str);

const NO_DISCARD: &str =
    "feature-discard=0 discard-granularity=0 discard-alignment=0 discard-secure=0";

const CASES: [Case; 21] = [
    (
        |o, _| o.max_indirect_segments = 0,
        "",
        "feature-max-indirect-segments=0",
    ),
    (
        |o, _| o.max_indirect_segments = 32,
        "",
        "feature-max-indirect-segments=32",
    ),
    (|o, _| o.max_queues = 1, "", "multi-queue-max-queues=1"),
    (|_, d| d.queues = 5, "", "multi-queue-max-queues=5"),
    // One can be served always.
    (|_, d| d.queues = 0, "", "multi-queue-max-queues=1"),
    (
        |o, _| o.max_ring_page_order = 0,
        "",
        "max-ring-page-order=0",
    ),
    (
        |o, _| o.max_ring_page_order = 3,
        "",
        "max-ring-page-order=3",
    ),
    (|o, _| o.persistent = false, "", "feature-persistent=0"),
    (|_, d| d.flush = false, "", "feature-flush-cache=0"),
    (|_, d| d.barrier = false, "", "feature-barrier=0"),
    (|_, d| d.discard = None, "", NO_DISCARD),
    (|_, _| (), "discard-enable=0", NO_DISCARD),
    (|_, d| discard(d).secure = false, "", "discard-secure=0"),
    (|_, d| discard(d).alignment = 0, "", "discard-alignment=0"),
    (
        |_, d| discard(d).granularity = 512,
        "",
        "discard-granularity=512",
    ),
    (|_, d| d.sectors = 1 << 40, "", "sectors=1099511627776"),
    // 512e: blocks of 512 bytes on a medium with sectors of 4,096.
    (
        |_, d| (d.sector_size, d.physical_sector_size) = (512, 4096),
        "",
        "sector-size=512 physical-sector-size=4096",
    ),
    (|_, d| d.read_only = true, "", "info=4"),
    (|_, _| (), "removable=1", "info=2"),
    (|_, _| (), "device-type=cdrom", "info=1"),
    (
        |_, d| d.read_only = true,
        "removable=1 device-type=cdrom",
        "info=7",
    ),
];

fn discard(disk: &mut DiskFacts) -> &mut Discard {
    disk.discard.as_mut().unwrap()
}

/// Each feature switched off alone changes its own keys, to what is said here, and no other.
#[test]
fn each_feature_is_offered_by_itself() {
    let pairs = |text: &'static str| {
        let words = text.split(' ').filter(|word| !word.is_empty());
        words
            .map(|word| word.split_once('=').unwrap())
            .collect::<Vec<_>>()
    };
    let all = shown(EVERYTHING, able(), &[]);
    for (change, toolstack, changed) in CASES {
        let (mut offer, mut disk) = (EVERYTHING, able());
        change(&mut offer, &mut disk);
        let mut expected = all.clone();
        for (key, value) in pairs(changed) {
            let before = expected.insert(key.into(), value.into());
            assert_ne!(before.as_deref(), Some(value), "{key} changes");
        }
        assert_eq!(shown(offer, disk, &pairs(toolstack)), expected, "{changed}");
    }
}

#[test]
fn nothing_is_written_into_the_directory_that_is_not_listed_here() {
    let mut bed = Bed::offering(EVERYTHING);
    bed.kernel.facts = Some(able());
    bed.attach(VBD);
    let before = bed.store.children(&VBD.back_dir());
    bed.settle();
    let mut expected: Vec<_> = KEYS.iter().map(ToString::to_string).chain(before).collect();
    let mut after = bed.store.children(&VBD.back_dir());
    expected.sort();
    after.sort();
    assert_eq!(after, expected);
}

/// A frontend writes its keys as Linux does for rings of `1 << order` pages.
fn initialise(bed: &mut Bed, vbd: Vbd, queues: u32, order: u32) {
    let mut write = |key: String, value: u32| bed.store.write(&vbd.front(&key), value.to_string());
    if queues > 1 {
        write("multi-queue-num-queues".into(), queues);
    }
    if order > 0 {
        write("ring-page-order".into(), order);
    }
    for queue in 0..queues {
        let directory = if queues > 1 {
            format!("queue-{queue}/")
        } else {
            String::new()
        };
        write(format!("{directory}event-channel"), 100 + queue);
        for page in 0..1 << order {
            let number = if order > 0 {
                page.to_string()
            } else {
                String::new()
            };
            write(
                format!("{directory}ring-ref{number}"),
                1000 * (queue + 1) + page,
            );
        }
    }
    vbd.set_front_state(&mut bed.store, 3);
    bed.settle();
}

/// Rings of every size and number up to what is offered reach the kernel, page for page, and the
/// next larger ones are refused.
#[test]
fn rings_of_every_offered_size_are_taken_and_no_larger_ones() {
    for max in 0..=4 {
        for order in 0..=5 {
            for queues in [1, 3] {
                let offer = Offer {
                    max_ring_page_order: max,
                    ..EVERYTHING
                };
                let mut bed = Bed::offering(offer);
                bed.kernel.facts = Some(able());
                bed.attach(VBD);
                bed.run(600);
                initialise(&mut bed, VBD, queues, order);
                if order > max {
                    assert_eq!(VBD.back_state(&bed.store), 6, "{order} of {max}");
                    let why = bed.error(VBD).unwrap();
                    let says = format!("ring-page-order {order}, at most {max} is offered");
                    assert!(why.contains(&says), "{why}");
                    assert_eq!(bed.kernel.connects, 0);
                    continue;
                }
                assert_eq!(VBD.back_state(&bed.store), 4, "{order} of {max}");
                let layout = &bed.kernel.connections[&id(VBD)].layout;
                assert_eq!(layout.queues.len(), queues as usize);
                for (queue, params) in (0u32..).zip(&layout.queues) {
                    let refs = (0..1 << order).map(|page| GrantRef(1000 * (queue + 1) + page));
                    assert_eq!(params.refs, refs.collect::<Vec<_>>());
                    assert_eq!(params.event_channel, 100 + queue);
                }
            }
        }
    }
}

#[test]
fn queues_are_limited_by_the_offer_and_by_the_disk() {
    for (offered, disk, most) in [(1, 8, 1), (6, 8, 6), (6, 2, 2), (6, 0, 1)] {
        for queues in 1..=most + 1 {
            let mut bed = Bed::offering(Offer {
                max_queues: offered,
                ..EVERYTHING
            });
            bed.kernel.facts = Some(DiskFacts {
                queues: disk,
                ..able()
            });
            bed.attach(VBD);
            bed.run(600);
            initialise(&mut bed, VBD, queues, 0);
            let state = if queues <= most { 4 } else { 6 };
            assert_eq!(
                VBD.back_state(&bed.store),
                state,
                "{queues} of {offered} and {disk}"
            );
        }
    }
}

#[test]
fn what_the_frontend_says_of_itself_reaches_the_kernel() {
    for (protocol, expected) in [
        (None, Abi::Native),
        (Some("x86_64-abi"), Abi::Native),
        (Some("x86_32-abi"), Abi::X86_32),
    ] {
        for (keeps, persistent) in [(None, false), (Some("0"), false), (Some("1"), true)] {
            let mut bed = Bed::offering(EVERYTHING);
            bed.kernel.facts = Some(facts(Access::Write));
            bed.attach(VBD);
            bed.run(600);
            for (key, value) in [("protocol", protocol), ("feature-persistent", keeps)] {
                value.inspect(|value| bed.store.write(&VBD.front(key), *value));
            }
            initialise(&mut bed, VBD, 1, 0);
            let layout = &bed.kernel.connections[&id(VBD)].layout;
            assert_eq!((layout.abi, layout.persistent), (expected, persistent));
        }
    }
}
