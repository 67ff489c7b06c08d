//! What a controller tells unasked: namespaces that change, health that fails.

mod common;

use std::cell::Cell;

use common::{OPTIONS, Rig, Running, command};
use spindle_block::Op;
use spindle_nvme::{Change, NamespaceError, Removal};
use spindle_testkit::nvme::{Config, Fault, NamespaceConfig};
use spindle_testkit::queue::{complete, pages};

fn rig() -> Rig {
    Rig::new(Config {
        namespaces: vec![
            NamespaceConfig::new(1, 2048, 9),
            NamespaceConfig::new(2, 256, 12),
            NamespaceConfig::new(5, 0, 9),
        ],
        ..Config::default()
    })
}

#[test]
fn a_namespace_that_grows_is_noticed_and_its_new_blocks_can_be_used() {
    let rig = rig();
    let (mut controller, mut queue) = rig.running(OPTIONS);
    assert!(controller.attend().changes.is_empty());
    rig.disk.resize(2, 512);
    let grown = Change::Resized {
        id: 2,
        sectors: 4096,
    };
    assert_eq!(controller.attend().changes, [grown]);
    assert!(controller.attend().changes.is_empty(), "said once");
    assert_eq!(controller.volumes(0, 0)[1].sectors, 4096);
    let memory = rig.memory(1);
    let segments = pages(&memory);
    let write = command(Op::Write, 2, 12, 511, &segments);
    assert_eq!(complete(&mut queue, &write), Ok(Ok(())));
    controller.shutdown([queue]).unwrap();
    rig.obeyed();
}

#[test]
fn a_uuid_that_cannot_be_read_again_is_still_known() {
    let mut namespace = NamespaceConfig::new(1, 2048, 9);
    namespace.uuid = [0x22; 16];
    let rig = Rig::new(Config {
        namespaces: vec![namespace],
        ..Config::default()
    });
    let mut controller = rig.start().unwrap();
    let uuid = Some([0x22; 16]);
    assert_eq!(controller.namespaces()[0].uuid, uuid);
    let alias = "nvme-uuid.22222222-2222-2222-2222-222222222222";
    // Identification Descriptors; and once more, to be sure that the first did not end it.
    for (blocks, sectors) in [(4096, 4096), (1024, 1024)] {
        rig.disk.arm(Fault::FailIdentify(3, 0x4002));
        rig.disk.resize(1, blocks);
        let resized = Change::Resized { id: 1, sectors };
        assert_eq!(controller.attend().changes, [resized]);
        assert_eq!(controller.namespaces()[0].uuid, uuid);
        let aliases = &controller.volumes(0, 0)[0].aliases;
        assert!(aliases.iter().any(|name| name == alias), "{aliases:?}");
    }
    rig.obeyed();
}

/// Nothing else names it: whoever has it must not go on with another one for long.
#[test]
fn one_whose_uuid_could_not_be_read_just_then_is_told_from_another_later() {
    for uuid in [[0x33; 16], [0; 16]] {
        let mut namespace = NamespaceConfig::new(1, 2048, 9);
        namespace.uuid = [0x22; 16];
        let rig = Rig::new(Config {
            namespaces: vec![namespace],
            ..Config::default()
        });
        let mut controller = rig.start().unwrap();
        // Identification Descriptors.
        rig.disk.arm(Fault::FailIdentify(3, 0x0006));
        rig.disk.replace_uuid(1, uuid);
        assert_eq!(controller.attend().changes, []);
        rig.clock.advance(6_000_000_000);
        let seen = changes(&mut controller);
        assert_eq!(seen, [removed(1, Removal::Replaced), Change::Added(1)]);
        let known = Some(uuid).filter(|uuid| *uuid != [0; 16]);
        assert_eq!(controller.namespaces()[0].uuid, known);
        rig.obeyed();
    }
}

fn removed(id: u32, reason: Removal) -> Change {
    Change::Removed { id, reason }
}

/// What changes until there is nothing more to look after, with all closed that is to be.
fn changes(controller: &mut Running<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    for _ in 0..100 {
        let mut attention = controller.attend();
        assert_eq!(attention.lost, None);
        changes.append(&mut attention.changes);
        controller.closed();
    }
    assert!(!controller.attend().soon, "no end of it");
    changes
}

#[test]
fn namespaces_that_come_and_go_are_noticed() {
    let rig = rig();
    let mut controller = rig.start().unwrap();
    rig.disk.resize(5, 64);
    assert_eq!(changes(&mut controller), [Change::Added(5)]);
    assert_eq!(controller.volumes(0, 0)[2].sectors, 64);
    rig.disk.resize(1, 0);
    let gone = removed(1, Removal::Gone);
    assert_eq!(changes(&mut controller), [gone]);
    let ids: Vec<u32> = controller.namespaces().iter().map(|n| n.id).collect();
    assert_eq!(ids, [2, 5]);
    // Changes before anybody looks come together.
    rig.disk.resize(1, 8);
    rig.disk.resize(2, 8);
    let sectors = 64;
    assert_eq!(
        changes(&mut controller),
        [Change::Added(1), Change::Resized { id: 2, sectors }]
    );
    rig.obeyed();
}

#[test]
fn a_namespace_that_is_being_formatted_is_removed_and_offered_anew() {
    for during_a_reset in [false, true] {
        let rig = rig();
        let mut controller = rig.start().unwrap();
        if during_a_reset {
            rig.disk.die();
            controller.attend();
        }
        rig.disk.format(1, 0x80 | 50);
        let reason = Removal::Unfit(NamespaceError::Formatting(50));
        assert_eq!(changes(&mut controller), [removed(1, reason)]);
        rig.disk.format(1, 0);
        assert_eq!(changes(&mut controller), [Change::Added(1)]);
        rig.obeyed();
    }
}

#[test]
fn another_namespace_of_a_number_is_offered_when_the_old_one_is_closed() {
    for during_a_reset in [false, true] {
        for formatted in [false, true] {
            let rig = rig();
            let mut controller = rig.start().unwrap();
            if during_a_reset {
                rig.disk.die();
                controller.attend();
            }
            let reason = if formatted {
                rig.disk.reformat(1, 12);
                Removal::Formatted(12)
            } else {
                rig.disk.replace(1, [0xab; 16]);
                Removal::Replaced
            };
            let mut seen = Vec::new();
            for _ in 0..100 {
                let attention = controller.attend();
                assert_eq!(attention.lost, None);
                seen.extend(attention.changes);
            }
            assert_eq!(seen, [removed(1, reason)], "its users are not closed yet");
            assert!(controller.namespaces().iter().all(|n| n.id != 1));
            assert_eq!(changes(&mut controller), [Change::Added(1)]);
            let volume = controller.volumes(0, 0).pop().unwrap();
            let shift = if formatted { 12 } else { 9 };
            assert_eq!((volume.sectors, volume.block_shift), (2048, shift));
            assert_eq!(rig.disk.resets(), u64::from(during_a_reset));
            rig.obeyed();
        }
    }
}

#[test]
fn a_resize_during_a_reset_is_noticed_after_it() {
    let rig = rig();
    let mut controller = rig.start().unwrap();
    rig.disk.die();
    let mut changes = controller.attend().changes;
    rig.disk.resize(1, 4096);
    loop {
        let attention = controller.attend();
        changes.extend(attention.changes);
        if !attention.soon {
            break;
        }
    }
    let sectors = 4096;
    assert_eq!(changes, [Change::Resized { id: 1, sectors }]);
    assert_eq!(rig.disk.resets(), 1);
}

#[test]
fn health_is_read_and_its_warnings_are_heard_again_and_again() {
    let rig = rig();
    let mut controller = rig.start().unwrap();
    assert!(controller.ask_health() && !controller.ask_health());
    let health = controller.attend().health.expect("an answer");
    assert_eq!((health.critical, health.temperature), (0, 300));
    assert_eq!((health.spare, health.used), (90, 1));
    for warning in [1, 4, 8] {
        rig.disk.warn(warning);
        let attention = controller.attend();
        assert!(attention.health.is_none() && attention.changes.is_empty());
        let health = controller.attend().health.expect("an event is followed up");
        assert_eq!(health.critical, warning);
        assert_eq!(controller.attend().health, None, "said once");
    }
    rig.disk.vanish();
    controller.attend();
    assert!(!controller.ask_health());
    rig.obeyed();
}

#[test]
fn an_answer_from_before_a_warning_is_not_taken_for_what_it_warns_of() {
    let rig = rig();
    let mut controller = rig.start().unwrap();
    controller.ask_health();
    rig.disk.warn(2);
    let healths: Vec<_> = (0..3).map(|_| controller.attend().health).collect();
    let critical: Vec<_> = healths.iter().map(|h| h.map(|h| h.critical)).collect();
    assert_eq!(critical, [Some(0), Some(2), None]);
    rig.disk.warn(3);
    controller.attend();
    assert_eq!(controller.attend().health.map(|h| h.critical), Some(3));
    rig.obeyed();
}

#[test]
fn a_controller_without_events_serves_all_the_same() {
    let rig = rig();
    rig.disk.arm(Fault::FailAdmin(0x0c, 0x4002));
    let mut controller = rig.start().unwrap();
    for _ in 0..3 {
        assert_eq!(controller.attend().lost, None);
    }
    let queue = controller.create_queue(rig.disk.clone()).unwrap();
    controller.shutdown([queue]).unwrap();
    rig.obeyed();
}

#[test]
fn unknown_and_endless_events_keep_nobody() {
    let rig = rig();
    let mut controller = rig.start().unwrap();
    for event in [0x01_0000, 0x01_0300, 0x7f_ff07, 0x02_0001, 0x04_0002, 0] {
        for _ in 0..5 {
            rig.disk.raise(event);
        }
    }
    for _ in 0..40 {
        let attention = controller.attend();
        assert!(attention.lost.is_none() && attention.changes.is_empty());
    }
    rig.disk.resize(1, 4096);
    assert_eq!(controller.attend().changes.len(), 1, "events still work");
    rig.obeyed();
}

/// Counts, for each thread, how often the log says that a namespace cannot be served.
struct Refusals;

thread_local! {
    static REFUSALS: Cell<usize> = const { Cell::new(0) };
}

impl log::Log for Refusals {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains("cannot be served") {
            REFUSALS.set(REFUSALS.get() + 1);
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_namespace_that_cannot_be_served_is_said_once() {
    log::set_logger(&Refusals).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let rig = rig();
    let mut controller = rig.start().unwrap();
    rig.disk.hold_admin();
    // The one is served until now, the other is new. The answer for the next one takes its time.
    for (said, id) in [(1, 1), (2, 5)] {
        rig.disk.resize(id, 64);
        rig.disk.format(id, 0x80 | 50);
        rig.disk.resize(2, 4096 + u64::from(id));
        let mut attends = 0;
        while REFUSALS.get() < said || controller.attend().soon {
            for _ in 0..20 {
                controller.closed();
                controller.attend();
            }
            rig.disk.run_admin();
            attends += 1;
            assert!(attends < 100, "no end of it");
        }
        // One event for each.
        for _ in 0..400 {
            controller.closed();
            controller.attend();
            rig.disk.run_admin();
        }
        assert_eq!(REFUSALS.get(), said);
        assert_eq!(controller.refused().len(), said);
    }
    rig.obeyed();
}
