//! Disks that come back after they were lost, others in their place, and namespaces that change under
//! those who use them, while others go on undisturbed.

mod common;

use common::bed::{Bed, SECOND};
use common::{OPTIONS, Rig, command, discard};
use spindle_block::{DiskQueue, IoError, Op, SubmitError, Tag};
use spindle_hw::{Clock, DmaAlloc};
use spindle_nvme::{Back, Change, Controller, Error, Removal, Status};
use spindle_testkit::nvme::{Config, Fault, HostMemoryConfig, NamespaceConfig};

fn two_namespaces() -> Rig {
    Rig::new(Config {
        namespaces: vec![
            NamespaceConfig::new(1, 2048, 9),
            NamespaceConfig::new(2, 2048, 9),
            NamespaceConfig::new(3, 0, 9),
        ],
        ..Config::default()
    })
}

/// Every queue writes and reads.
fn works(bed: &mut Bed<'_>) {
    bed.answers.clear();
    for queue in 0..bed.queues.len() {
        bed.submit(queue, Op::Write, 3);
        bed.submit(queue, Op::Read, 4);
    }
    bed.turn();
    assert_eq!(bed.answers.len(), 2 * bed.queues.len());
    assert!(bed.answers.iter().all(|(_, result)| result.is_ok()));
    bed.answers.clear();
}

/// Has the controller be lost, by being pulled out or by not starting after a failure.
fn lose(bed: &mut Bed<'_>, pulled: bool) {
    if pulled {
        bed.rig.disk.vanish();
    } else {
        bed.rig.disk.arm(Fault::NeverReady);
        bed.rig.disk.die();
    }
    bed.pass(SECOND);
    bed.settle();
    let lost = bed.lost.take().expect("it is lost");
    assert_eq!((lost.disabled, lost.again), (!pulled, false));
}

#[test]
fn a_disk_that_was_lost_works_again_on_the_queues_that_the_cores_have() {
    for pulled in [true, false] {
        let rig = Rig::new(Config {
            timeout: 1,
            host_memory: Some(HostMemoryConfig {
                preferred: 8,
                least: 4,
                piece: 0,
                pieces: 0,
            }),
            ..Config::default()
        });
        let mut bed = Bed::new(&rig, 2);
        bed.controller.lend(1 << 20).unwrap();
        for round in 0..3 {
            works(&mut bed);
            rig.disk.hang();
            bed.submit(0, Op::Write, 1);
            bed.submit(1, Op::Read, 2);
            lose(&mut bed, pulled);
            assert_eq!(bed.answers, [], "kept until the cores fail them");
            // The first time the cores are not asked to.
            if round > 0 {
                bed.fail_all();
            }
            let segments = bed.segments();
            let read = command(Op::Read, 1, 9, 0, &segments[..1]);
            assert_eq!(bed.queues[1].submit(&read, Tag(3)), Err(SubmitError::Gone));
            if pulled {
                assert_eq!(bed.controller.probe_again(), Err(Error::Gone));
                rig.disk.come_back();
            } else {
                rig.disk.repair();
            }
            assert_eq!(bed.controller.probe_again(), Ok(()));
            bed.settle();
            bed.answers.sort_unstable_by_key(|(tag, _)| *tag);
            let aborted = Err(IoError::Aborted);
            assert_eq!(bed.answers, [(1, aborted), (2, aborted)]);
            assert_eq!((bed.back.take(), bed.lost), (Some(Back::Same), None));
            assert_eq!(bed.changes, []);
            assert_eq!(rig.disk.lent(), [8 * 4096]);
            // As many commands at once as before.
            bed.answers.clear();
            for tag in 0..15 {
                bed.submit(0, Op::Write, tag);
            }
            let full = bed.queues[0].submit(&read, Tag(3));
            assert_eq!(full, Err(SubmitError::Full));
            bed.turn();
            assert_eq!(bed.answers.len(), 15);
        }
        works(&mut bed);
        let Bed {
            controller, queues, ..
        } = bed;
        controller.shutdown(queues).unwrap();
        assert_eq!(rig.bus.outstanding(), 4, "all memory but the test's");
        rig.obeyed();
    }
}

#[test]
fn one_that_does_not_come_back_is_lost_again_and_can_be_tried_again() {
    let rig = Rig::new(Config {
        timeout: 1,
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 1);
    assert_eq!(
        bed.controller.probe_again(),
        Err(Error::Pending),
        "it works"
    );
    lose(&mut bed, false);
    bed.fail_all();
    for fault in [
        Fault::NeverReady,
        Fault::FatalWhenEnabled,
        Fault::FailIdentify(1, 0x06),
        Fault::SwallowIdentify(1),
        Fault::FailAdmin(0x01, 0x06),
    ] {
        rig.disk.repair();
        rig.disk.arm(fault);
        assert_eq!(bed.controller.probe_again(), Ok(()));
        let mut minutes = 0;
        while bed.pass(SECOND).soon {
            minutes += 1;
            assert!(minutes < 200, "no end of it");
        }
        let lost = bed.lost.take().expect("still lost");
        assert!(lost.again && lost.disabled, "{fault:?}");
        let segments = bed.segments();
        let read = command(Op::Read, 1, 9, 0, &segments[..1]);
        assert_eq!(bed.queues[0].submit(&read, Tag(3)), Err(SubmitError::Gone));
    }
    rig.disk.repair();
    assert_eq!(bed.controller.probe_again(), Ok(()));
    bed.settle();
    assert_eq!(bed.back, Some(Back::Same));
    works(&mut bed);
    rig.obeyed();
}

#[test]
fn another_disk_in_the_place_of_a_lost_one_is_not_reached_by_those_who_had_that() {
    let rig = two_namespaces();
    let mut bed = Bed::new(&rig, 2);
    lose(&mut bed, true);
    bed.fail_all();
    rig.disk.arm(Fault::OtherSerial);
    rig.disk.resize(2, 0);
    rig.disk.come_back();
    bed.closes = false;
    assert_eq!(bed.controller.probe_again(), Ok(()));
    for _ in 0..10_000 {
        bed.pass(1_000_000);
    }
    let reason = Removal::OtherDisk;
    let removed = [1, 2].map(|id| Change::Removed { id, reason });
    assert_eq!(bed.changes, removed);
    // Not before those who had it are closed.
    let segments = bed.segments();
    let read = command(Op::Read, 1, 9, 0, &segments[..1]);
    assert_eq!(bed.queues[1].submit(&read, Tag(3)), Err(SubmitError::Gone));
    assert_eq!(bed.back, None);
    bed.closes = true;
    bed.settle();
    assert_eq!((bed.back, bed.lost), (Some(Back::Other), None));
    assert_eq!(bed.changes[2..], [Change::Added(1)]);
    assert_eq!(bed.controller.identity().serial, "SPINDLE-0002");
    works(&mut bed);
    // It is known by that from now on, and keeps its namespaces.
    bed.changes.clear();
    lose(&mut bed, true);
    bed.fail_all();
    rig.disk.come_back();
    assert_eq!(bed.controller.probe_again(), Ok(()));
    bed.back = None;
    bed.settle();
    assert_eq!((bed.back, &bed.changes[..]), (Some(Back::Same), &[][..]));
    works(&mut bed);
    rig.obeyed();
}

#[test]
fn another_disk_is_one_however_often_it_fails_before_it_works() {
    for (fault, answers_identify) in [
        (Fault::FailIdentify(1, 0x06), false),
        // Number of Queues.
        (Fault::FailAdmin(0x09, 0x06), true),
        (Fault::FailAdmin(0x05, 0x06), true),
        (Fault::SwallowAdmin(0x01), true),
    ] {
        let rig = two_namespaces();
        let mut bed = Bed::new(&rig, 2);
        lose(&mut bed, true);
        bed.fail_all();
        rig.disk.arm(Fault::OtherSerial);
        // One less than before, and one that has never been there.
        rig.disk.resize(2, 0);
        rig.disk.resize(3, 2048);
        rig.disk.come_back();
        for attempt in 0..2 {
            rig.disk.arm(fault);
            assert_eq!(bed.controller.probe_again(), Ok(()));
            let mut turns = 0;
            while bed.pass(SECOND).soon {
                turns += 1;
                assert!(turns < 200, "no end of it");
            }
            assert!(bed.lost.take().is_some_and(|lost| lost.again), "{fault:?}");
            // All are removed once, and none is offered.
            let removed = match answers_identify {
                true => [1, 2].map(|id| Change::Removed {
                    id,
                    reason: Removal::OtherDisk,
                }),
                false => continue,
            };
            assert_eq!(bed.changes, removed, "{fault:?}, attempt {attempt}");
            assert_eq!(bed.controller.volumes(0, 0), []);
        }
        bed.changes.clear();
        assert_eq!(bed.controller.probe_again(), Ok(()));
        // What is new is offered only after the new name can be known.
        while bed.back.is_none() {
            let attention = bed.pass(1_000_000);
            assert_eq!(bed.lost, None);
            let added = |change: &Change| matches!(change, Change::Added(_));
            let early = attention.changes.iter().any(added);
            assert!(!early || bed.back.is_some(), "{fault:?}");
        }
        assert_eq!(bed.back, Some(Back::Other), "{fault:?}");
        bed.settle();
        rest(&mut bed);
        bed.changes.retain(|it| matches!(it, Change::Added(_)));
        bed.changes.sort_unstable_by_key(|it| match it {
            Change::Added(id) => *id,
            _ => 0,
        });
        assert_eq!(bed.changes, [Change::Added(1), Change::Added(3)]);
        works(&mut bed);
        // It has been reported, and is a known one.
        lose(&mut bed, true);
        bed.fail_all();
        rig.disk.come_back();
        assert_eq!(bed.controller.probe_again(), Ok(()));
        bed.back = None;
        bed.settle();
        assert_eq!(bed.back, Some(Back::Same));
        rig.obeyed();
    }
}

#[test]
fn the_first_disk_in_its_old_place_is_another_one_once_its_users_were_closed() {
    let rig = two_namespaces();
    let mut bed = Bed::new(&rig, 1);
    lose(&mut bed, true);
    bed.fail_all();
    rig.disk.arm(Fault::OtherSerial);
    rig.disk.arm(Fault::FailAdmin(0x05, 0x06));
    rig.disk.come_back();
    assert_eq!(bed.controller.probe_again(), Ok(()));
    bed.settle();
    assert!(bed.lost.take().is_some_and(|lost| lost.again));
    assert_eq!(bed.changes.len(), 2);
    rig.disk.repair();
    assert_eq!(bed.controller.probe_again(), Ok(()));
    while bed.back.is_none() {
        bed.pass(1_000_000);
        assert_eq!((bed.lost, bed.changes.len()), (None, 2));
    }
    assert_eq!(bed.back, Some(Back::Other));
    bed.settle();
    assert_eq!(bed.changes[2..], [Change::Added(1), Change::Added(2)]);
    works(&mut bed);
    rig.obeyed();
}

#[test]
fn one_that_comes_back_with_smaller_limits_is_kept_within_them() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    let segments = bed.segments();
    let write = command(Op::Write, 1, 9, 0, &segments);
    for (smaller, commands) in [(false, 1), (true, 2), (false, 1)] {
        if smaller {
            rig.disk.arm(Fault::Smaller);
        } else {
            rig.disk.repair();
        }
        lose(&mut bed, true);
        bed.fail_all();
        rig.disk.come_back();
        assert_eq!(bed.controller.probe_again(), Ok(()));
        bed.settle();
        let before = rig.disk.commands();
        bed.queues[0].submit(&write, Tag(1)).unwrap();
        bed.queues[0].commit();
        bed.turn();
        assert_eq!(bed.answers.pop(), Some((1, Ok(()))));
        assert_eq!(rig.disk.commands() - before, commands);
        let discarded = bed.queues[0].submit(&discard(1, 9, 0, 64), Tag(2));
        assert_eq!(discarded.is_err(), smaller);
        bed.queues[0].commit();
        bed.turn();
        bed.answers.clear();
    }
    rig.obeyed();
}

#[test]
fn one_that_does_not_start_is_served_once_it_does() {
    for (fault, doorbell_shift) in [
        // It does not answer at all.
        (None, 0),
        (None, 2),
        (Some(Fault::NeverReady), 1),
        (Some(Fault::FatalWhenEnabled), 0),
        (Some(Fault::FailIdentify(1, 0x4006)), 0),
        (Some(Fault::SwallowIdentify(1)), 0),
    ] {
        let rig = Rig::new(Config {
            timeout: 1,
            doorbell_shift,
            ..Config::default()
        });
        match fault {
            Some(fault) => rig.disk.arm(fault),
            None => rig.disk.vanish(),
        }
        let reason = rig.start().unwrap_err();
        let outstanding = rig.bus.outstanding();
        let absent = |reason| {
            let disk = rig.disk.clone();
            Controller::absent(disk, &rig.clock, &*rig.bus, OPTIONS, reason)
        };
        let accesses = rig.disk.register_accesses();
        let mut bed = Bed::with(&rig, absent(reason).unwrap(), 2);
        assert_eq!(bed.controller.volumes(0, 0), []);
        bed.pass(SECOND);
        let lost = bed.lost.take().expect("it is reported");
        assert_eq!((lost.reason, lost.again), (reason, true));
        assert_eq!(rig.disk.register_accesses(), accesses, "not touched");
        bed.fail_all();
        let segments = bed.segments();
        let read = command(Op::Read, 1, 9, 0, &segments[..1]);
        let gone = Err(SubmitError::Gone);
        assert_eq!(bed.queues[0].submit(&read, Tag(1)), gone);
        // Still not; if it answers at all.
        if fault == Some(Fault::NeverReady) {
            assert_eq!(bed.controller.probe_again(), Ok(()));
            while bed.pass(SECOND).soon {}
            assert!(bed.lost.take().is_some_and(|lost| lost.again));
            assert_eq!(bed.queues[0].submit(&read, Tag(1)), gone);
        } else if fault.is_none() {
            assert_eq!(bed.controller.probe_again(), Err(Error::Gone));
        }
        rig.disk.repair();
        if fault.is_none() {
            rig.disk.come_back();
        }
        assert_eq!(bed.controller.probe_again(), Ok(()), "{fault:?}");
        bed.settle();
        assert_eq!((bed.back, bed.lost), (Some(Back::Same), None), "{fault:?}");
        assert_eq!(bed.changes, [Change::Added(1)]);
        assert_eq!(bed.controller.volumes(0, 0)[0].name, "nvme0n1");
        works(&mut bed);
        assert_eq!(fill(&mut bed), 15);
        // From now on it is a known one.
        lose(&mut bed, true);
        bed.fail_all();
        rig.disk.arm(Fault::OtherSerial);
        rig.disk.come_back();
        bed.back = None;
        assert_eq!(bed.controller.probe_again(), Ok(()));
        bed.settle();
        assert_eq!(bed.back, Some(Back::Other));
        let Bed {
            controller,
            queues,
            memory,
            ..
        } = bed;
        controller.shutdown(queues).unwrap();
        rig.bus.free(memory);
        assert_eq!(rig.bus.outstanding(), outstanding, "{fault:?}");
        rig.obeyed();
    }
}

#[test]
fn one_that_never_can_be_used_is_not_waited_for() {
    let default = Config::default;
    for config in [
        Config {
            nvm_commands: false,
            ..default()
        },
        Config {
            page_shift_min: 1,
            ..default()
        },
        Config {
            entry_sizes: 0x77,
            ..default()
        },
    ] {
        let rig = Rig::new(config);
        let reason = rig.start().unwrap_err();
        let outstanding = rig.bus.outstanding();
        let absent = Controller::absent(rig.disk.clone(), &rig.clock, &*rig.bus, OPTIONS, reason);
        assert_eq!(absent.err(), Some(reason));
        assert_eq!(rig.bus.outstanding(), outstanding);
    }
}

/// As many commands as the queue takes, and how many were answered.
fn fill(bed: &mut Bed<'_>) -> usize {
    let segments = bed.segments();
    let mut tag = 100;
    let full = loop {
        let read = command(Op::Read, 1, 9, 0, &segments[..1]);
        match bed.queues[0].submit(&read, Tag(tag)) {
            Ok(()) => tag += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, SubmitError::Full);
    bed.queues[0].commit();
    bed.turn();
    assert!(bed.answers.iter().all(|(_, result)| result.is_ok()));
    std::mem::take(&mut bed.answers).len()
}

#[test]
fn one_that_comes_back_with_shorter_queues_is_given_no_more_than_they_hold() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    assert_eq!(fill(&mut bed), 15);
    // What is in flight would have no place.
    rig.disk.hang();
    bed.submit(0, Op::Write, 1);
    rig.disk.arm(Fault::Shorter);
    rig.disk.die();
    bed.pass(SECOND);
    bed.settle();
    let lost = bed.lost.take().expect("not with these queues");
    assert_eq!(lost.reason, Error::Changed("size of queues"));
    assert!(lost.disabled);
    bed.fail_all();
    assert_eq!(std::mem::take(&mut bed.answers).len(), 1);
    assert_eq!(bed.controller.probe_again(), Ok(()));
    bed.settle();
    assert_eq!((bed.back.take(), bed.lost), (Some(Back::Same), None));
    for _ in 0..20 {
        assert_eq!(fill(&mut bed), 3);
    }
    // A reset changes nothing about it, nor is it for good.
    rig.disk.hang();
    bed.submit(0, Op::Write, 1);
    rig.disk.die();
    bed.pass(SECOND);
    bed.settle();
    assert_eq!(bed.answers, [(1, Ok(()))]);
    bed.answers.clear();
    assert_eq!(fill(&mut bed), 3);
    rig.disk.repair();
    lose(&mut bed, true);
    bed.fail_all();
    rig.disk.come_back();
    assert_eq!(bed.controller.probe_again(), Ok(()));
    bed.settle();
    assert_eq!(fill(&mut bed), 15);
    assert_eq!(fill(&mut bed), 15);
    rig.obeyed();
}

#[test]
fn one_that_grants_fewer_queues_than_before_works_on_if_the_cores_need_no_more() {
    for (queues, works_on) in [(1, true), (2, false)] {
        let rig = Rig::new(Config {
            queues: 2,
            ..Config::default()
        });
        let mut bed = Bed::new(&rig, queues);
        rig.disk.arm(Fault::Fewer);
        rig.disk.die();
        bed.pass(SECOND);
        bed.settle();
        let lost = bed.lost.take().map(|lost| lost.reason);
        let few = Error::FewerQueues {
            granted: 1,
            needed: 2,
        };
        assert_eq!(lost, (!works_on).then_some(few));
        if works_on {
            works(&mut bed);
        }
        rig.obeyed();
    }
}

/// Goes on for half a minute with commands to namespace 2, each of which is answered at once.
fn undisturbed(bed: &mut Bed<'_>) {
    for tag in 0..300 {
        bed.submit_to(1, Op::Write, 2, 9, 1000 + tag);
        bed.turn();
        let answer = bed
            .answers
            .iter()
            .position(|(other, _)| *other == 1000 + tag);
        let answer = answer.expect("an answer at once");
        assert_eq!(bed.answers.remove(answer).1, Ok(()));
        bed.pass(SECOND / 10);
    }
}

#[test]
fn a_namespace_comes_and_goes_and_another_does_not_notice() {
    let rig = two_namespaces();
    let mut bed = Bed::new(&rig, 2);
    for _ in 0..2 {
        rig.disk.resize(3, 64);
        undisturbed(&mut bed);
        assert_eq!(bed.changes, [Change::Added(3)]);
        bed.submit_to(0, Op::Read, 3, 9, 5);
        bed.turn();
        assert_eq!(bed.answers, [(5, Ok(()))]);
        (bed.answers, bed.changes) = (Vec::new(), Vec::new());
        rig.disk.resize(3, 0);
        undisturbed(&mut bed);
        let reason = Removal::Gone;
        assert_eq!(bed.changes, [Change::Removed { id: 3, reason }]);
        bed.changes.clear();
    }
    assert_eq!((rig.disk.resets(), bed.lost), (0, None));
    rig.obeyed();
}

#[test]
fn a_namespace_with_other_blocks_gets_nothing_of_what_was_meant_for_the_old_ones() {
    // Each second reset, and each status, is one after which what is in flight would be tried again.
    for with_reset in [false, true] {
        let rig = two_namespaces();
        let mut bed = Bed::new(&rig, 2);
        bed.closes = false;
        // The second time it waits to be tried again.
        for _ in 0..2 {
            rig.disk.arm(Fault::FailIo(1, Status::NOT_READY.0));
        }
        rig.disk.arm(Fault::SwallowIo(1));
        // One is with the controller, one waits.
        bed.submit_to(0, Op::Write, 1, 9, 1);
        bed.submit_to(0, Op::Write, 1, 9, 2);
        bed.turn();
        if with_reset {
            rig.disk.die();
        }
        rig.disk.reformat(1, 12);
        for _ in 0..100 {
            bed.pass(1_000_000);
        }
        let removed = Change::Removed {
            id: 1,
            reason: Removal::Formatted(12),
        };
        assert_eq!(bed.changes, [removed]);
        bed.closes = true;
        bed.settle();
        undisturbed(&mut bed);
        assert_eq!(bed.changes, [removed, Change::Added(1)]);
        assert_eq!(rig.disk.resets(), u64::from(with_reset));
        // What comes now is for the new blocks, and is tried again like any other.
        let _ = rig.disk.take_accesses();
        for _ in 0..2 {
            rig.disk.arm(Fault::FailIo(1, Status::NOT_READY.0));
        }
        bed.submit_to(0, Op::Write, 1, 12, 3);
        for _ in 0..3 {
            bed.pass(SECOND / 5);
        }
        bed.turn();
        let new = bed.answers.iter().find(|(tag, _)| *tag == 3);
        assert_eq!(new, Some(&(3, Ok(()))));
        // The one that was swallowed is still late, and is not done on the new blocks.
        while bed.answers.len() < 3 {
            bed.pass(SECOND);
            assert!(bed.now < 1000 * SECOND, "no end of it");
        }
        bed.settle();
        let aborted = Err(IoError::Aborted);
        let old = |tag: u32| {
            bed.answers
                .iter()
                .find(|(other, _)| *other == tag)
                .unwrap()
                .1
        };
        assert!(old(1).is_err() && old(2) == aborted, "{:?}", bed.answers);
        let to_first = rig.disk.take_accesses();
        let blocks: Vec<u64> = to_first
            .iter()
            .filter(|a| a.namespace == 1)
            .map(|a| a.block)
            .collect();
        assert_eq!(blocks, [3]);
        rig.obeyed();
    }
}

#[test]
fn the_subsystem_is_reset_in_the_end_if_no_other_uses_it() {
    for cmic in [0, 1, 2, 4] {
        for faults in [
            &[Fault::NeverReady][..],
            &[Fault::NeverIdle],
            &[Fault::FatalWhenEnabled],
            &[Fault::Deaf, Fault::NoAbort],
        ] {
            let rig = Rig::new(Config {
                timeout: 1,
                cmic,
                write_cache: false,
                subsystem_reset: true,
                ..Config::default()
            });
            let mut bed = Bed::new(&rig, 2);
            rig.disk.hang();
            bed.submit(0, Op::Write, 1);
            bed.submit(1, Op::Write, 2);
            faults.iter().for_each(|fault| rig.disk.arm(*fault));
            rig.disk.die();
            for tag in 0..400 {
                if bed.lost.is_some() || rig.disk.subsystem_resets() > 0 {
                    break;
                }
                // Always something that is not answered.
                let segments = bed.segments();
                let read = command(Op::Read, 1, 9, 0, &segments[..1]);
                if bed.queues[0].in_flight() == 0
                    && bed.queues[0].submit(&read, Tag(9 + tag)).is_ok()
                {
                    bed.queues[0].commit();
                }
                bed.pass(SECOND);
            }
            bed.settle();
            if cmic == 0 {
                assert_eq!(
                    (rig.disk.subsystem_resets(), bed.lost),
                    (1, None),
                    "{faults:?}"
                );
                works(&mut bed);
            } else {
                assert!(rig.disk.subsystem_resets() == 0 && bed.lost.is_some());
            }
            rig.obeyed();
        }
    }
}

#[test]
fn a_subsystem_reset_is_a_loss_of_power_for_a_write_cache() {
    for write_cache in [false, true] {
        let rig = Rig::new(Config {
            timeout: 1,
            write_cache,
            subsystem_reset: true,
            ..Config::default()
        });
        let mut bed = Bed::new(&rig, 1);
        bed.submit(0, Op::Write, 1);
        bed.turn();
        bed.answers.clear();
        rig.disk.hang();
        bed.submit(0, Op::Flush, 2);
        rig.disk.arm(Fault::NeverIdle);
        rig.disk.die();
        loses_its_cache(&mut bed, write_cache);
        assert_eq!(rig.disk.subsystem_resets(), 1);
        assert_eq!(bed.answers, [(2, Ok(()))]);
        works(&mut bed);
        rig.obeyed();
    }
}

/// Passes until the controller works again: before the first answer it is reported that its cache may
/// be lost, if it has one.
fn loses_its_cache(bed: &mut Bed<'_>, write_cache: bool) {
    bed.pass(SECOND);
    while bed.answers.is_empty() {
        let reported = bed.cache_losses;
        assert!(bed.now < 100 * SECOND, "no end of it");
        bed.pass(1_000_000);
        assert!(!write_cache || bed.answers.is_empty() || reported == 1);
    }
    bed.settle();
    assert_eq!((bed.lost, bed.back), (None, None));
    assert_eq!(bed.cache_losses, usize::from(write_cache));
}

#[test]
fn attempts_to_bring_a_controller_up_do_not_reset_its_subsystem() {
    for fault in [Fault::NeverIdle, Fault::NeverReady] {
        let rig = Rig::new(Config {
            timeout: 1,
            write_cache: false,
            subsystem_reset: true,
            ..Config::default()
        });
        let mut bed = Bed::new(&rig, 1);
        rig.disk.vanish();
        bed.pass(SECOND);
        bed.lost.take().expect("it is lost");
        bed.fail_all();
        rig.disk.come_back();
        for _ in 0..3 {
            // It answers, and fails after it has said who it is.
            rig.disk.arm(Fault::FailAdmin(0x09, 0x06));
            rig.disk.arm(fault);
            assert_eq!(bed.controller.probe_again(), Ok(()));
            bed.settle();
            assert!(bed.lost.take().is_some_and(|lost| lost.again));
            assert_eq!(rig.disk.subsystem_resets(), 0, "{fault:?}");
        }
        rig.disk.repair();
        assert_eq!(bed.controller.probe_again(), Ok(()));
        bed.settle();
        assert_eq!(bed.back, Some(Back::Same));
        works(&mut bed);
        // Once it works, that is the last resort again.
        rig.disk.arm(Fault::NeverIdle);
        rig.disk.die();
        bed.pass(SECOND);
        bed.settle();
        assert_eq!((rig.disk.subsystem_resets(), bed.lost), (1, None));
        works(&mut bed);
        rig.obeyed();
    }
}

#[test]
fn a_lost_controller_that_is_probed_does_not_hold_up_a_shutdown() {
    for fault in [Fault::NeverReady, Fault::NeverIdle] {
        // A minute and more, by CAP.TO.
        let rig = Rig::new(Config {
            timeout: 160,
            ..Config::default()
        });
        let mut bed = Bed::new(&rig, 1);
        lose(&mut bed, true);
        bed.fail_all();
        rig.disk.come_back();
        rig.disk.arm(Fault::FailAdmin(0x09, 0x06));
        rig.disk.arm(fault);
        assert_eq!(bed.controller.probe_again(), Ok(()));
        for _ in 0..10 {
            assert!(bed.pass(1_000_000).soon, "still waits for it");
        }
        let (since, bed) = (rig.clock.now_ns(), bed);
        let Bed {
            controller, queues, ..
        } = bed;
        assert!(controller.shutdown(queues).is_err());
        assert!(rig.clock.now_ns() - since < 5 * SECOND, "{fault:?}");
        // What it may still reach is kept.
        let kept = rig.bus.outstanding() > 4;
        assert_eq!(kept, fault == Fault::NeverIdle);
        rig.obeyed();
    }
}

#[test]
fn a_controller_that_says_nothing_of_changes_is_looked_at_on_request() {
    let rig = two_namespaces();
    // Asynchronous Event Request.
    rig.disk.arm(Fault::FailAdmin(0x0c, 0x4002));
    let mut bed = Bed::new(&rig, 1);
    rig.disk.resize(3, 64);
    rig.disk.resize(2, 4096);
    rig.disk.reformat(1, 12);
    rest(&mut bed);
    assert_eq!(bed.changes, []);
    bed.controller.rescan();
    rest(&mut bed);
    let removed = Change::Removed {
        id: 1,
        reason: Removal::Formatted(12),
    };
    let resized = Change::Resized {
        id: 2,
        sectors: 4096,
    };
    assert_eq!(
        bed.changes,
        [removed, resized, Change::Added(3), Change::Added(1)]
    );
    bed.controller.rescan();
    rest(&mut bed);
    assert_eq!((bed.changes.len(), rig.disk.resets()), (4, 0));
    rig.obeyed();
}

/// Goes on for half a minute.
fn rest(bed: &mut Bed<'_>) {
    for _ in 0..30 {
        bed.pass(SECOND);
    }
}

#[test]
fn power_that_is_back_before_anything_was_noticed_is_noticed() {
    for write_cache in [false, true] {
        let rig = Rig::new(Config {
            write_cache,
            ..Config::default()
        });
        let mut bed = Bed::new(&rig, 2);
        bed.submit(0, Op::Write, 1);
        bed.turn();
        bed.answers.clear();
        rig.disk.vanish();
        rig.disk.come_back();
        bed.settle();
        // With a cache it may have lost what was written, which must not go unnoticed.
        let reason = bed.lost.take().map(|lost| lost.reason);
        assert_eq!(reason, write_cache.then_some(Error::Restarted));
        if write_cache {
            bed.fail_all();
            assert_eq!(bed.controller.probe_again(), Ok(()));
            bed.settle();
            assert_eq!(bed.back, Some(Back::Same));
        }
        works(&mut bed);
        rig.obeyed();
    }
}

#[test]
fn one_that_resets_itself_again_and_again_is_given_up() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    rig.disk.arm(Fault::Deaf);
    bed.submit(0, Op::Write, 1);
    let mut resets = 0;
    while bed.lost.is_none() {
        rig.disk.vanish();
        rig.disk.come_back();
        bed.pass(SECOND);
        bed.settle();
        resets += 1;
        assert!(resets < 10, "no end of it");
    }
    let lost = bed.lost.take().unwrap();
    assert_eq!((lost.reason, lost.disabled), (Error::Restarted, true));
    rig.obeyed();
}

#[test]
fn one_that_does_not_answer_after_it_was_disabled_is_waited_for() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    rig.disk.hang();
    bed.submit(0, Op::Write, 1);
    rig.disk.die();
    while rig.disk.resets() == 0 {
        bed.controller.attend();
        bed.queues[0].tick(1_000_000_000);
    }
    rig.disk.vanish();
    bed.queues[0].tick(1_000_000_000);
    assert_eq!(bed.controller.attend().lost, None);
    rig.disk.come_back();
    bed.settle();
    assert_eq!(bed.answers, [(1, Ok(()))]);
}

#[test]
fn power_that_is_away_during_a_reset_is_noticed() {
    // While a core has yet to follow, while it is disabled, and while it is enabled.
    for fault in [None, Some(Fault::NeverIdle), Some(Fault::NeverReady)] {
        let rig = Rig::new(Config {
            timeout: 4,
            write_cache: true,
            ..Config::default()
        });
        let mut bed = Bed::new(&rig, 1);
        bed.submit(0, Op::Write, 1);
        bed.turn();
        rig.disk.hang();
        rig.disk.die();
        if let Some(fault) = fault {
            rig.disk.arm(fault);
            bed.pass(SECOND);
            bed.pass(5_000_000);
        } else {
            bed.controller.attend();
        }
        rig.disk.vanish();
        rig.disk.come_back();
        rig.disk.repair();
        bed.settle();
        assert!(bed.lost.is_none());
        assert_eq!(bed.cache_losses, 1, "{fault:?}");
    }
}

/// A driver that comes after this one, should it end then, must find it.
#[test]
fn a_loss_of_power_is_reported_before_the_controller_forgets_that_it_had_one() {
    let rig = Rig::new(Config {
        write_cache: true,
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 1);
    bed.submit(0, Op::Write, 1);
    bed.turn();
    rig.disk.hang();
    rig.disk.die();
    bed.controller.attend();
    rig.disk.vanish();
    rig.disk.come_back();
    let mut reported = 0;
    for _ in 0..100 {
        bed.queues[0].tick(1_000_000_000);
        bed.queues[0].poll(|_, _| {});
        if bed.controller.attend().cache_lost {
            let (disk, memory) = (rig.disk.clone(), &*rig.bus);
            let next = Controller::start_again(disk, &rig.clock, memory, OPTIONS);
            assert_eq!(next.err(), Some(Error::Restarted));
            reported += 1;
        }
    }
    assert_eq!(reported, 1);
    assert!(!bed.controller.is_lost());
}
