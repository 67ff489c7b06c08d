//! Commands and controllers that do not answer: aborts, resets, replay, and the end.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use common::bed::{Bed, LIMIT, SECOND};
use common::{OPTIONS, Rig, command, discard};
use spindle_block::{
    BlockReader, Blocks, DiskOptions, DiskQueue, IoError, Op, PATIENCE_NS, SubmitError, Tag,
};
use spindle_hw::Clock;
use spindle_nvme::{Change, Error, Lost, NamespaceError, Removal, Status};
use spindle_testkit::nvme::{Config, DiscardConfig, Fault, NamespaceConfig, Quirk, Quirks};
use spindle_testkit::queue::pages;

#[test]
fn a_command_that_is_aborted_is_tried_once_more() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    rig.disk.arm(Fault::SwallowIo(1));
    bed.submit(0, Op::Write, 1);
    bed.pass(LIMIT);
    assert_eq!(bed.answers, []);
    bed.pass(SECOND);
    bed.turn();
    assert_eq!(bed.answers, [(1, Ok(()))]);
    assert_eq!(rig.disk.resets(), 0);
    // Aborted again and again, it fails.
    for _ in 0..3 {
        rig.disk.arm(Fault::SwallowIo(1));
    }
    bed.submit(0, Op::Write, 2);
    for _ in 0..8 {
        bed.pass(LIMIT);
    }
    assert_eq!(bed.answers[1..], [(2, Err(IoError::Aborted))]);
    assert_eq!(rig.disk.resets(), 0);
    let repairs = bed.controller.repairs();
    assert_eq!((repairs.resets, repairs.aborts), (0, 4));
    rig.obeyed();
}

#[test]
fn a_queue_that_was_stopped_rings_no_doorbell_for_what_it_took_before() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    // Taken, and not committed when control resets the controller.
    let segments = bed.segments();
    let write = command(Op::Write, 1, 9, 8, &segments[..1]);
    bed.queues[0].submit(&write, Tag(1)).unwrap();
    rig.disk.die();
    // Control asks for a stop, and the core follows.
    bed.pass(SECOND);
    bed.turn();
    let refused = bed.queues[0].submit(&write, Tag(2));
    assert_eq!(refused, Err(SubmitError::Full), "it has stopped");
    let before = rig.disk.doorbells();
    bed.queues[0].commit();
    assert_eq!(rig.disk.doorbells(), before);
    bed.settle();
    assert_eq!(rig.disk.resets(), 1);
    assert_eq!(bed.answers, [(1, Ok(()))]);
    rig.obeyed();
}

#[test]
fn what_may_pass_is_tried_five_times_more_and_the_rest_fails_at_once() {
    // Internal error, transfer error, power loss, sanitize in progress, interrupted, transport
    // error, not ready, write fault, read error, path error, inaccessible, in transition.
    for status in [
        0x06, 0x04, 0x05, 0x1d, 0x21, 0x22, 0x82, 0x280, 0x281, 0x300, 0x302, 0x303,
    ] {
        for (times, passes) in [(1, true), (5, true), (6, false)] {
            let rig = Rig::new(Config::default());
            let mut bed = Bed::new(&rig, 1);
            for _ in 0..times {
                rig.disk.arm(Fault::FailIo(1, status));
            }
            bed.submit(0, Op::Write, 1);
            for _ in 0..20 {
                bed.pass(SECOND);
            }
            let answer = if passes {
                Ok(())
            } else {
                Status(status).result()
            };
            assert_eq!(bed.answers, [(1, answer)], "{status:#x} {times} times");
            assert_eq!(rig.disk.commands(), times.min(5) + 1);
            rig.obeyed();
        }
    }
    // Do Not Retry, or nothing that another try would change; or a format in progress, after which
    // blocks may be larger than the memory that was given for them.
    for status in [
        0x4006, 0x4281, 0x01, 0x02, 0x13, 0x20, 0x80, 0x81, 0x84, 0x182, 0x286, 0x301, 0x4303,
    ] {
        let rig = Rig::new(Config::default());
        let mut bed = Bed::new(&rig, 1);
        rig.disk.arm(Fault::FailIo(1, status));
        bed.submit(0, Op::Write, 1);
        bed.turn();
        assert_eq!(bed.answers, [(1, Status(status).result())]);
        assert_eq!(rig.disk.commands(), 1);
    }
}

#[test]
fn the_controller_says_when_to_try_again() {
    let rig = Rig::new(Config {
        retry_delays: [3, 70, 0],
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 1);
    for (tag, delay, ms) in [(1, 1, 300), (2, 2, 7_000), (3, 3, 0)] {
        rig.disk
            .arm(Fault::FailIo(1, Status::NOT_READY.0 | delay << 11));
        bed.submit(0, Op::Write, tag);
        bed.turn();
        let mut waited = 0;
        while bed.answers.len() < tag as usize {
            bed.pass(20_000_000);
            waited += 20;
            assert!(waited < 10_000);
        }
        assert!((ms..=ms + 100).contains(&waited), "{waited} ms, not {ms}");
        bed.turn();
        assert_eq!(bed.answers.last(), Some(&(tag, Ok(()))));
    }
    // It waits, and is not late.
    assert_eq!(rig.disk.resets(), 0);
    // The feature that lets it say so is set at each start.
    assert!(rig.disk.delays_told());
    rig.disk.die();
    bed.pass(SECOND);
    bed.settle();
    assert!(rig.disk.delays_told() && rig.disk.resets() == 1);
    rig.obeyed();
}

#[test]
fn a_table_can_be_read_though_the_namespace_is_not_ready_at_first() {
    let rig = Rig::new(Config::default());
    let (controller, mut queue) = rig.running(OPTIONS);
    let volume = controller.volumes(0, 0).remove(0);
    // As often as it is tried again.
    for _ in 0..5 {
        rig.disk.arm(Fault::FailIo(2, Status::NOT_READY.0));
    }
    let limit = PATIENCE_NS;
    let mut reader = BlockReader::new(&mut queue, &volume, &rig.clock, &*rig.bus, limit).unwrap();
    assert!(reader.read(1, &mut [0; 512]).is_ok());
}

#[test]
fn the_first_command_of_a_queue_is_held_as_long_as_the_controller_says() {
    for uptime in [1, 600, 1500] {
        let rig = Rig::new(Config {
            retry_delays: [3, 0, 0],
            ..Config::default()
        });
        rig.clock.advance(uptime * SECOND);
        let (controller, mut queue) = rig.running(OPTIONS);
        let volume = controller.volumes(0, 0).remove(0);
        let status = Status::NOT_READY.0 | 1 << 11;
        rig.disk.arm(Fault::FailIo(2, status));
        let (clock, bus) = (&rig.clock, &*rig.bus);
        let mut reader = BlockReader::new(&mut queue, &volume, clock, bus, PATIENCE_NS).unwrap();
        let start = rig.clock.now_ns();
        assert!(reader.read(1, &mut [0; 512]).is_ok(), "after {uptime} s");
        let took = (rig.clock.now_ns() - start) / 1_000_000;
        assert!((280..400).contains(&took), "{took} ms after {uptime} s");
    }
}

#[test]
fn nothing_of_a_namespace_that_is_gone_is_submitted_again() {
    let config = || Config {
        namespaces: vec![
            NamespaceConfig::new(1, 2048, 9),
            NamespaceConfig::new(2, 2048, 9),
        ],
        // Five seconds.
        retry_delays: [50, 0, 0],
        ..Config::default()
    };
    // What is held for a later try, while the one namespace is formatted.
    let rig = Rig::new(config());
    let mut bed = Bed::new(&rig, 1);
    let segments = bed.segments();
    for unit in [1, 2] {
        rig.disk
            .arm(Fault::FailIo(1, Status::NOT_READY.0 | 1 << 11));
        let write = command(Op::Write, unit, 9, 0, &segments[..1]);
        bed.queues[0].submit(&write, Tag(unit)).unwrap();
        bed.queues[0].commit();
    }
    bed.turn();
    rig.disk.format(1, 0x80 | 50);
    let reason = Removal::Unfit(NamespaceError::Formatting(50));
    let removed = Change::Removed { id: 1, reason };
    assert_eq!(bed.pass(20_000_000).changes, [removed]);
    rig.disk.format(1, 0);
    bed.pass(20_000_000);
    bed.turn();
    assert_eq!(bed.answers, [(1, Err(IoError::Aborted))]);
    for _ in 0..100 {
        bed.pass(100_000_000);
    }
    assert_eq!(bed.answers[1..], [(2, Ok(()))]);
    assert_eq!(rig.disk.commands(), 3);
    rig.obeyed();
    // What was in flight before a reset.
    let rig = Rig::new(config());
    let mut bed = Bed::new(&rig, 1);
    rig.disk.hang();
    for unit in [1, 2] {
        let write = command(Op::Write, unit, 9, 0, &segments[..1]);
        bed.queues[0].submit(&write, Tag(unit)).unwrap();
        bed.queues[0].commit();
    }
    rig.disk.die();
    bed.pass(SECOND);
    rig.disk.format(1, 0x80 | 50);
    bed.settle();
    bed.turn();
    bed.answers.sort_unstable_by_key(|(tag, _)| *tag);
    assert_eq!(bed.answers, [(1, Err(IoError::Aborted)), (2, Ok(()))]);
    assert_eq!((rig.disk.commands(), bed.queues[0].in_flight()), (1, 0));
    rig.obeyed();
}

/// Namespaces 1 and 2, of which one has a block that the controller cannot do.
fn with(quirk: Quirk) -> Rig {
    Rig::new(Config {
        namespaces: vec![
            NamespaceConfig::new(1, 2048, 9),
            NamespaceConfig::new(2, 2048, 9),
        ],
        quirks: Quirks::from([quirk]),
        ..Config::default()
    })
}

#[test]
fn a_command_that_is_never_answered_fails_alone() {
    for others_at_work in [true, false] {
        let rig = with(Quirk::Poison(8));
        let mut bed = Bed::new(&rig, 2);
        for round in 1..=3 {
            bed.submit(0, Op::Read, 1);
            let mut tag = 100;
            let mut seconds = 0;
            while !bed.answers.iter().any(|(tag, _)| *tag == 1) {
                assert!(seconds < 250, "no end of it");
                seconds += 1;
                bed.pass(SECOND);
                let segments = bed.segments();
                let read = command(Op::Read, 2, 9, 0, &segments[1..2]);
                if others_at_work && bed.queues[1].submit(&read, Tag(tag)).is_ok() {
                    bed.queues[1].commit();
                    tag += 1;
                }
            }
            bed.settle();
            let (failed, well): (Vec<_>, Vec<_>) = bed
                .answers
                .drain(..)
                .partition(|(_, result)| result.is_err());
            assert_eq!(failed, [(1, Err(IoError::Aborted))]);
            assert!(well.len() > 150 || !others_at_work);
            assert_eq!((bed.lost, rig.disk.resets()), (None, 3 * round));
            // Its own queue works on.
            bed.submit(0, Op::Write, 3);
            bed.turn();
            assert_eq!(bed.answers, [(3, Ok(()))]);
            bed.answers.clear();
            bed.pass(SECOND);
        }
        rig.obeyed();
    }
}

#[test]
fn a_command_that_makes_the_controller_fail_fails_alone() {
    // In which queue it is, and what is there before and after it, or on the other queue.
    for poisoned in [0, 1] {
        for order in [[8, 1, 2, 3], [1, 8, 2, 3], [1, 2, 3, 8]] {
            let rig = Rig::new(Config {
                manual: true,
                quirks: Quirks::from([Quirk::Crash(64)]),
                ..Config::default()
            });
            let mut bed = Bed::new(&rig, 2);
            for tag in order {
                bed.submit(poisoned, Op::Read, tag);
                bed.submit(1 - poisoned, Op::Write, tag + 10);
            }
            for _ in 0..60 {
                // First one queue, then the other, and what follows in the order of the doorbells.
                rig.disk.run();
                bed.pass(SECOND);
                for _ in 0..20 {
                    rig.disk.run();
                    bed.pass(20_000_000);
                }
            }
            bed.answers.sort_unstable_by_key(|(tag, _)| *tag);
            let all = [1, 2, 3, 8, 11, 12, 13, 18];
            let expected = all.map(|tag| match tag {
                8 => (tag, Err(IoError::Aborted)),
                _ => (tag, Ok(())),
            });
            assert_eq!(bed.answers, expected, "{order:?} on {poisoned}");
            assert_eq!((bed.lost, rig.disk.resets()), (None, 3));
            rig.obeyed();
        }
    }
}

#[test]
fn a_core_that_sleeps_after_its_late_command_has_ended_causes_no_reset() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    rig.disk.arm(Fault::SwallowIo(1));
    bed.submit(0, Op::Write, 1);
    bed.pass(LIMIT);
    bed.turn();
    bed.turn();
    assert_eq!(bed.answers, [(1, Ok(()))]);
    for _ in 0..5 {
        rig.clock.advance(LIMIT);
        assert!(!bed.controller.attend().soon);
    }
    assert_eq!(rig.disk.resets(), 0);
}

#[test]
fn what_was_not_committed_before_a_reset_is_submitted_after_it() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    let segments = bed.segments();
    let write = command(Op::Write, 1, 9, 0, &segments[..1]);
    bed.queues[0].submit(&write, Tag(1)).unwrap();
    rig.disk.die();
    bed.pass(SECOND);
    bed.turn();
    bed.queues[0].commit();
    bed.settle();
    assert_eq!(bed.answers, [(1, Ok(()))]);
    rig.obeyed();
}

#[test]
fn a_queue_that_waits_for_the_end_of_a_reset_tells_of_no_late_command() {
    let rig = Rig::new(Config {
        delay: 0,
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 1);
    rig.disk.hang();
    bed.submit(0, Op::Read, 1);
    rig.disk.die();
    // Each answer takes some seconds, and all of them longer than a command may take.
    rig.disk.hold_admin();
    let mut seconds = 0;
    while bed.pass(10 * SECOND).soon {
        rig.disk.run_admin();
        seconds += 10;
        assert!(seconds < 600, "no end of it");
    }
    assert!(seconds * SECOND > LIMIT);
    // Control comes by once more before the core does. An abort would not be answered now, and the
    // next one could not be asked for.
    bed.controller.attend();
    bed.turn();
    bed.turn();
    assert_eq!(bed.answers, [(1, Ok(()))]);
    rig.disk.arm(Fault::SwallowIo(2));
    bed.submit(0, Op::Read, 2);
    for _ in 0..5 {
        bed.pass(LIMIT / 5);
    }
    for _ in 0..5 {
        bed.pass(SECOND);
    }
    assert_eq!(rig.disk.resets(), 1);
    rig.obeyed();
}

#[test]
fn nothing_is_aborted_in_time() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    rig.disk.arm(Fault::SwallowIo(1));
    bed.submit(0, Op::Write, 1);
    for _ in 0..29 {
        bed.pass(SECOND);
    }
    assert_eq!(bed.answers, []);
    // A core that itself stood still finds the answers that came meanwhile first.
    let mut bed = Bed::new(&rig, 1);
    bed.submit(0, Op::Read, 2);
    bed.pass(1000 * SECOND);
    bed.pass(SECOND);
    assert_eq!(bed.answers, [(2, Ok(()))]);
    assert_eq!(rig.disk.resets(), 1, "the one of the second bring-up");
}

#[test]
fn a_lost_completion_ends_in_a_reset_and_the_command_is_done_again() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    bed.memory.write_bytes(0, &[0x77; 4096]);
    rig.disk.arm(Fault::LoseIo(1));
    bed.submit(0, Op::Write, 3);
    bed.submit(0, Op::Read, 4);
    bed.wait();
    assert_eq!(bed.answers, [(4, Ok(())), (3, Ok(()))]);
    assert_eq!((rig.disk.resets(), bed.lost), (1, None));
    let contents = rig.disk.contents(1);
    assert!(contents[3 * 4096..][..4096].iter().all(|&b| b == 0x77));
    // Both queues work on, the idle one too.
    bed.submit(0, Op::Flush, 5);
    bed.submit(1, Op::Write, 6);
    bed.turn();
    assert_eq!(bed.answers[2..], [(5, Ok(())), (6, Ok(()))]);
    rig.obeyed();
}

#[test]
fn what_is_in_flight_is_answered_after_the_reset_only() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    rig.disk.hang();
    for tag in 0..8 {
        bed.submit(tag as usize % 2, Op::Write, tag);
    }
    bed.pass(LIMIT);
    assert!(bed.pass(LIMIT).wake);
    // The cores have not seen it yet: nothing happens to the controller before they have.
    for _ in 0..10 {
        assert!(bed.controller.attend().wake);
    }
    assert_eq!(rig.disk.resets(), 0);
    bed.turn();
    let segments = bed.segments();
    let read = command(Op::Read, 1, 9, 0, &segments[..1]);
    assert_eq!(bed.queues[0].submit(&read, Tag(9)), Err(SubmitError::Full));
    bed.settle();
    let mut tags: Vec<_> = bed.answers.iter().map(|(tag, _)| *tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..8).collect::<Vec<_>>());
    assert!(bed.answers.iter().all(|(_, result)| result.is_ok()));
    assert_eq!((rig.disk.resets(), bed.lost), (1, None));
    assert_eq!(bed.queues[0].submit(&read, Tag(9)), Ok(()));
    rig.obeyed();
}

#[test]
fn completions_of_before_the_reset_are_not_taken_after_it() {
    let rig = Rig::new(Config {
        manual: true,
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 1);
    bed.submit(0, Op::Write, 1);
    bed.wait();
    assert_eq!(rig.disk.resets(), 1);
    // The identifiers that the command may have had in its life so far but the last.
    for cid in 0..48 {
        rig.disk.post(1, cid, 0);
        bed.turn();
    }
    assert_eq!(bed.answers.len(), 1, "only the identifier in use counts");
    let rig = Rig::new(Config {
        manual: true,
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 1);
    bed.submit(0, Op::Write, 1);
    bed.wait();
    // The first use of the slot that the first command takes, and the second.
    rig.disk.post(1, 16, 0);
    bed.turn();
    assert_eq!((bed.answers.len(), bed.queues[0].spurious()), (0, 1));
    rig.disk.run();
    bed.turn();
    assert_eq!(bed.answers, [(1, Ok(()))]);
}

#[test]
fn a_fatal_status_is_answered_by_a_reset() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    rig.disk.hang();
    rig.disk.die();
    bed.submit(0, Op::Write, 1);
    bed.pass(SECOND);
    bed.settle();
    assert_eq!(bed.answers, [(1, Ok(()))]);
    assert_eq!((rig.disk.resets(), bed.lost), (1, None));
    rig.obeyed();
}

#[test]
fn a_controller_that_goes_on_failing_is_given_up_and_says_so() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    rig.disk.arm(Fault::Deaf);
    rig.disk.arm(Fault::NoAbort);
    bed.submit(0, Op::Write, 1);
    bed.submit(1, Op::Read, 2);
    let mut waits = 0;
    while bed.answers.len() < 2 {
        bed.wait();
        waits += 1;
        assert!(waits < 10, "silence");
    }
    // One after the other, each after it was tried alone.
    let aborted = Err(IoError::Aborted);
    assert_eq!(bed.answers, [(1, aborted), (2, aborted)]);
    bed.answers.clear();
    assert_eq!((rig.disk.resets(), bed.lost), (4, None));
    bed.submit(0, Op::Write, 1);
    bed.submit(1, Op::Read, 2);
    while bed.lost.is_none() {
        bed.wait();
        waits += 1;
        assert!(waits < 10, "silence");
    }
    assert_eq!(rig.disk.resets(), 5, "and off in the end");
    let lost = bed.lost.unwrap();
    assert!(lost.disabled && matches!(lost.reason, Error::Hung { .. }));
    bed.turn();
    assert_eq!(bed.answers, [], "kept until they are given up");
    let segments = bed.segments();
    let read = command(Op::Read, 1, 9, 0, &segments[..1]);
    assert_eq!(bed.queues[1].submit(&read, Tag(3)), Err(SubmitError::Gone));
    for queue in &mut bed.queues {
        queue.fail_all(|tag, result| bed.answers.push((tag.0, result)));
    }
    assert_eq!(bed.answers, [(1, aborted), (2, aborted)]);
    bed.settle();
    assert_eq!(rig.disk.resets(), 5);
    let Bed {
        controller, queues, ..
    } = bed;
    assert!(controller.shutdown(queues).is_err());
    assert_eq!(
        rig.bus.outstanding(),
        4,
        "all memory is back but the test's"
    );
    rig.obeyed();
}

#[test]
fn a_controller_that_answers_nothing_is_given_up_however_many_commands_fail_one_by_one() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    rig.disk.arm(Fault::Deaf);
    rig.disk.arm(Fault::NoAbort);
    // A command more every second, so that each is to blame at its own time.
    for tag in 0..1000 {
        let segments = bed.segments();
        let read = command(Op::Read, 2, 9, 0, &segments[1..2]);
        if bed.queues[0].submit(&read, Tag(tag)).is_ok() {
            bed.queues[0].commit();
        }
        bed.pass(SECOND);
        if bed.lost.is_some() {
            break;
        }
    }
    let resets = rig.disk.resets();
    assert!(bed.lost.is_some() && resets <= 6, "{resets} resets");
    assert!(bed.answers.iter().all(|(_, result)| result.is_err()));
}

#[test]
fn failures_far_apart_do_not_add_up() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    for tag in 0..6 {
        rig.disk.arm(Fault::LoseIo(2));
        bed.submit(0, Op::Read, tag);
        bed.wait();
        assert_eq!(bed.answers.len(), tag as usize + 1);
        bed.pass(3600 * SECOND);
    }
    assert_eq!((rig.disk.resets(), bed.lost), (6, None));
}

/// Ends with the controller lost, for the reason given.
fn lost_by(fault: Fault) -> Lost {
    // Half a second for CSTS.RDY, which are 500 turns here.
    let rig = Rig::new(Config {
        timeout: 1,
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 1);
    bed.submit(0, Op::Read, 1);
    rig.disk.die();
    rig.disk.arm(fault);
    bed.pass(SECOND);
    bed.settle();
    rig.obeyed();
    bed.lost.expect("an end")
}

#[test]
fn a_controller_that_does_not_come_back_is_lost() {
    let limit = Duration::from_millis(500);
    let lost = lost_by(Fault::NeverReady);
    assert_eq!((lost.reason, lost.disabled), (Error::NotReady(limit), true));
    let lost = lost_by(Fault::FatalWhenEnabled);
    assert_eq!((lost.reason, lost.disabled), (Error::Fatal, true));
    let lost = lost_by(Fault::NeverIdle);
    let expected = (Error::NotDisabled(limit), false);
    assert_eq!((lost.reason, lost.disabled), expected, "it may still write");
}

#[test]
fn a_status_of_all_ones_after_a_change_is_waited_through() {
    // Some have half a second for the change by CAP.TO and two seconds of silence.
    let rig = Rig::new(Config {
        timeout: 1,
        write_cache: true,
        quirks: Quirks::from([Quirk::BlindAfterChange(2000)]),
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 1);
    rig.disk.hang();
    bed.submit(0, Op::Write, 1);
    rig.disk.die();
    bed.pass(SECOND);
    bed.settle();
    assert_eq!((&bed.answers[..], bed.lost), (&[(1, Ok(()))][..], None));
    assert_eq!(bed.cache_losses, 0);
    // Another one finds it running, as after firmware that used it.
    std::mem::forget(bed);
    let mut bed = Bed::new(&rig, 1);
    bed.submit(0, Op::Write, 1);
    bed.turn();
    assert_eq!(bed.answers, [(1, Ok(()))]);
    rig.obeyed();
    // One that was pulled out in the middle is lost in the end, and may still write.
    rig.disk.die();
    bed.pass(SECOND);
    bed.pass(SECOND);
    rig.disk.vanish();
    bed.settle();
    let lost = bed.lost.expect("an end");
    assert_eq!((lost.reason, lost.disabled), (Error::Gone, false));
    // Nor is it waited for at the end.
    let before = rig.clock.now_ns();
    let Bed {
        controller, queues, ..
    } = bed;
    assert_eq!(controller.shutdown(queues), Err(Error::Gone));
    assert!(rig.clock.now_ns() - before < SECOND);
}

#[test]
fn bring_up_that_fails_once_is_tried_again() {
    for fault in [
        Fault::FailAdmin(0x06, 0x06),
        Fault::FailAdmin(0x05, 0x06),
        Fault::FailAdmin(0x01, 0x06),
        Fault::SwallowAdmin(0x09),
    ] {
        let rig = Rig::new(Config::default());
        let mut bed = Bed::new(&rig, 2);
        rig.disk.hang();
        rig.disk.die();
        rig.disk.arm(fault);
        bed.submit(1, Op::Write, 1);
        bed.pass(SECOND);
        bed.settle();
        assert_eq!((&bed.answers[..], bed.lost), (&[(1, Ok(()))][..], None));
        assert_eq!(rig.disk.resets(), 2, "{fault:?}");
        rig.obeyed();
    }
}

#[test]
fn another_controller_is_known_for_one_even_if_its_bring_up_takes_two_resets() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 1);
    rig.disk.hang();
    bed.submit(0, Op::Write, 1);
    rig.disk.die();
    rig.disk.arm(Fault::OtherSerial);
    rig.disk.arm(Fault::SwallowIdentify(6));
    bed.pass(SECOND);
    bed.settle();
    let reason = bed.lost.map(|lost| lost.reason);
    assert_eq!(reason, Some(Error::Changed("identity")));
    assert_eq!(bed.answers, [], "it has written nothing");
}

#[test]
fn a_health_log_that_never_comes_costs_nothing() {
    let rig = with(Quirk::SilentAdmin(0x02));
    let mut bed = Bed::new(&rig, 1);
    let mut asked = 0;
    for minute in 0..60 {
        asked += u32::from(bed.controller.ask_health());
        bed.pass(60 * SECOND);
        bed.submit(0, Op::Read, minute);
        bed.turn();
        assert_eq!(bed.answers.last(), Some(&(minute, Ok(()))));
    }
    assert_eq!((rig.disk.resets(), bed.lost, asked), (0, None, 1));
    // A reset is a new chance for it.
    rig.disk.die();
    bed.pass(SECOND);
    bed.settle();
    assert!(bed.controller.ask_health());
    rig.obeyed();
}

#[test]
fn control_waits_for_no_admin_command() {
    let rig = Rig::new(Config {
        namespaces: (1..=8)
            .map(|id| NamespaceConfig::new(id, 2048, 9))
            .collect(),
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 2);
    bed.submit(0, Op::Write, 1);
    bed.turn();
    rig.disk.hold_admin();
    let looked = |bed: &mut Bed<'_>, changes: &mut Vec<Change>| {
        let before = rig.clock.now_ns();
        let mut attention = bed.controller.attend();
        assert!(rig.clock.now_ns() - before <= 2_000_000, "control was kept");
        assert_eq!(attention.lost, None);
        changes.append(&mut attention.changes);
        attention.soon
    };
    // Each answer takes most of a minute, in a reset and in what an event brings about.
    let mut changes = Vec::new();
    for (blocks, reset) in [(4096, true), (8192, false)] {
        rig.disk.resize(3, blocks);
        if reset {
            bed.submit(0, Op::Write, 2);
            rig.disk.die();
        }
        let mut answers = 0;
        loop {
            bed.turn();
            let soon = looked(&mut bed, &mut changes);
            if !soon && answers > 0 {
                break;
            }
            rig.clock.advance(1_000_000);
            for _ in 0..10 {
                looked(&mut bed, &mut changes);
                bed.turn();
            }
            rig.clock.advance(50 * SECOND);
            rig.disk.run_admin();
            answers += 1;
            assert!(answers < 100, "no end of it");
        }
        let sectors = blocks;
        assert_eq!(changes.pop(), Some(Change::Resized { id: 3, sectors }));
        assert_eq!(changes, []);
        assert_eq!(rig.disk.resets(), 1);
    }
    bed.submit(1, Op::Write, 3);
    bed.turn();
    bed.answers.sort_unstable_by_key(|(tag, _)| *tag);
    assert_eq!(bed.answers, [1, 2, 3].map(|tag| (tag, Ok(()))));
    rig.obeyed();
}

#[test]
fn a_namespace_that_is_not_described_after_a_reset_stays_as_it_was() {
    for status in [0x06, 0x82, 0x4002] {
        let rig = Rig::new(Config::default());
        let mut bed = Bed::new(&rig, 1);
        for _ in 0..3 {
            rig.disk.arm(Fault::FailIdentify(0, status));
        }
        rig.disk.die();
        let mut changes = bed.pass(SECOND).changes;
        bed.settle();
        assert_eq!(bed.controller.namespaces()[0].blocks, 2048);
        bed.submit(0, Op::Write, 1);
        bed.turn();
        assert_eq!(bed.answers, [(1, Ok(()))]);
        // It has grown meanwhile, which is seen as soon as it is described again.
        rig.disk.arm(Fault::FailIdentify(0, status));
        rig.disk.resize(1, 4096);
        for _ in 0..40 {
            changes.append(&mut bed.pass(SECOND).changes);
        }
        let sectors = 4096;
        assert_eq!(changes, [Change::Resized { id: 1, sectors }]);
        assert_eq!((rig.disk.resets(), bed.lost), (1, None));
        rig.obeyed();
    }
}

#[test]
fn a_queue_that_nobody_has_any_longer_holds_up_no_reset() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    drop(bed.queues.pop());
    rig.disk.die();
    bed.pass(SECOND);
    bed.settle();
    assert_eq!((rig.disk.resets(), bed.lost), (1, None));
    bed.submit(0, Op::Write, 1);
    bed.turn();
    assert_eq!(bed.answers, [(1, Ok(()))]);
}

#[test]
fn a_queue_that_is_held_and_never_ticks_holds_up_a_reset_for_seconds_only() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    rig.disk.hang();
    bed.submit(1, Op::Write, 1);
    bed.submit(0, Op::Write, 2);
    let mut still = bed.queues.pop().unwrap();
    let mut took = Vec::new();
    for resets in 1..=2 {
        rig.disk.die();
        let mut seconds = 0;
        while bed.pass(SECOND).soon && rig.disk.resets() < resets {
            seconds += 1;
            assert!(seconds < 100, "no end of it");
        }
        bed.settle();
        assert_eq!((rig.disk.resets(), bed.lost), (resets, None));
        took.push(seconds);
    }
    assert!((10..=12).contains(&(took[0] - took[1])), "{took:?} s");
    assert_eq!(bed.answers, [(2, Ok(()))]);
    bed.submit(0, Op::Write, 3);
    bed.turn();
    assert_eq!(bed.answers[1..], [(3, Ok(()))]);
    // Should its core come back, it has lost its queue and says so.
    let mut answers = Vec::new();
    still.poll(|tag, result| answers.push((tag.0, result)));
    assert_eq!(answers, []);
    still.tick(bed.now);
    assert_eq!(still.poll(|tag, result| answers.push((tag.0, result))), 1);
    assert_eq!(answers, [(1, Err(IoError::Aborted))]);
    let segments = bed.segments();
    let read = command(Op::Read, 1, 9, 0, &segments[..1]);
    assert_eq!(still.submit(&read, Tag(9)), Err(SubmitError::Gone));
    let Bed {
        controller, queues, ..
    } = bed;
    let queues = queues.into_iter().chain([still]);
    controller.shutdown(queues).unwrap();
    assert_eq!(rig.bus.outstanding(), 4, "all memory but the test's");
    rig.obeyed();
}

#[test]
fn what_is_late_on_a_queue_that_was_given_up_causes_no_more_resets() {
    let rig = Rig::new(Config::default());
    let mut bed = Bed::new(&rig, 2);
    rig.disk.arm(Fault::NoAbort);
    rig.disk.arm(Fault::SwallowIo(1));
    bed.submit(1, Op::Write, 1);
    // It tells of its late command, and stands still from then on.
    bed.pass(LIMIT);
    let still = bed.queues.pop().unwrap();
    for _ in 0..60 {
        bed.pass(SECOND);
    }
    bed.settle();
    assert_eq!((rig.disk.resets(), bed.lost), (1, None));
    for _ in 0..10 {
        bed.pass(LIMIT);
    }
    bed.settle();
    assert_eq!((rig.disk.resets(), bed.lost), (1, None));
    bed.submit(0, Op::Write, 2);
    bed.turn();
    assert_eq!(bed.answers, [(2, Ok(()))]);
    // Nor does one that nobody has any longer.
    drop(still);
    bed.pass(LIMIT);
    assert_eq!(rig.disk.resets(), 1);
    rig.obeyed();
}

#[test]
fn what_is_in_flight_on_a_queue_that_stands_still_is_kept_until_the_controller_is_off() {
    let rig = Rig::new(Config {
        timeout: 1,
        ..Config::default()
    });
    let mut bed = Bed::new(&rig, 2);
    rig.disk.arm(Fault::NeverIdle);
    rig.disk.hang();
    bed.submit(1, Op::Write, 1);
    let mut still = bed.queues.pop().unwrap();
    rig.disk.die();
    for _ in 0..20 {
        bed.pass(SECOND);
    }
    assert!(bed.lost.is_some_and(|lost| !lost.disabled));
    for _ in 0..3 {
        assert_eq!(
            still.poll(|tag, _| panic!("{tag:?} may still be written to")),
            0
        );
        still.tick(bed.now);
    }
}

#[test]
fn a_controller_can_be_shut_down_in_the_middle_of_a_reset() {
    for steps in 0..6 {
        let rig = Rig::new(Config::default());
        let mut bed = Bed::new(&rig, 1);
        rig.disk.die();
        for _ in 0..steps {
            bed.pass(1_000_000);
        }
        let Bed {
            controller, queues, ..
        } = bed;
        let _ = controller.shutdown(queues);
        assert_eq!(rig.bus.outstanding(), 4, "after {steps} steps");
        rig.obeyed();
    }
}

/// Cores on threads of their own, resets in between: each command is answered once, with success,
/// and the disk has what was written.
#[test]
fn resets_under_load_on_two_cores_lose_and_repeat_nothing() {
    const COMMANDS: u32 = if cfg!(miri) { 40 } else { 4000 };
    let rig = Rig::new(Config {
        delay: 0,
        mdts: 1,
        out_of_order: true,
        ..Config::default()
    });
    let mut controller = rig
        .start_with(DiskOptions {
            timeout: Duration::from_secs(3600),
            ..OPTIONS
        })
        .unwrap();
    let queues = [0, 1].map(|_| controller.create_queue(rig.disk.clone()).unwrap());
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let cores = queues.map(|mut queue| {
            let memory = rig.memory(8);
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || {
                let first = if queue.id() == 1 { 0 } else { 1024 };
                let mut awaited = BTreeMap::new();
                let mut next = 0;
                while next < COMMANDS || !awaited.is_empty() || !stop.load(SeqCst) {
                    queue.poll(|tag, result| {
                        assert_eq!(result, Ok(()));
                        assert!(awaited.remove(&tag.0).is_some(), "{tag:?} twice");
                        answered.fetch_add(1, SeqCst);
                    });
                    queue.tick(0);
                    let segments = pages(&memory);
                    // Three pages become two parts. Each command has its own blocks as long as
                    // it is in flight.
                    let block = first + u64::from(next % 32) * 24;
                    let write = command(Op::Write, 1, 9, block, &segments[..3]);
                    let taken = awaited.values().any(|&other| other == block);
                    if next < COMMANDS && !taken && queue.submit(&write, Tag(next)).is_ok() {
                        awaited.insert(next, block);
                        next += 1;
                    }
                    queue.commit();
                    std::thread::yield_now();
                }
                queue
            })
        });
        let mut resets = 0;
        while answered.load(SeqCst) < 2 * u64::from(COMMANDS) {
            let attention = controller.attend();
            assert_eq!(attention.lost, None);
            let enough = answered.load(SeqCst) >= u64::from(COMMANDS) / 4 * (resets + 1);
            if !attention.soon && enough && resets < 3 {
                if resets % 2 == 0 {
                    rig.disk.hang();
                }
                rig.disk.die();
                resets += 1;
            }
            std::thread::yield_now();
        }
        while controller.attend().soon {
            std::thread::yield_now();
        }
        stop.store(true, SeqCst);
        let queues = cores.map(|core| core.join().unwrap());
        assert!(queues.iter().all(|queue| queue.in_flight() == 0));
        assert_eq!(rig.disk.resets(), resets);
        assert!(resets > 0);
        controller.shutdown(queues).unwrap();
    });
    rig.obeyed();
}

#[test]
fn limits_of_discards_that_are_not_told_just_then_stay_as_they_were() {
    let limited = || {
        Rig::new(Config {
            discards: Some(DiscardConfig {
                ranges: 1,
                range_blocks: 8,
                total_blocks: 8,
            }),
            ..Config::default()
        })
    };
    let rig = limited();
    let mut bed = Bed::new(&rig, 1);
    rig.disk.arm(Fault::FailIdentify(6, 0x06));
    rig.disk.die();
    bed.pass(SECOND);
    bed.settle();
    assert_eq!((rig.disk.resets(), bed.lost), (1, None));
    assert!(bed.controller.volumes(0, 0)[0].discard.is_some());
    // Not known at the start either: they are not known to be none, so that no discard is sent.
    let rig = limited();
    for _ in 0..6 {
        rig.disk.arm(Fault::FailIdentify(6, 0x06));
    }
    let mut bed = Bed::new(&rig, 1);
    assert_eq!(bed.controller.volumes(0, 0)[0].discard, None);
    let refused = bed.queues[0].submit(&discard(1, 9, 0, 64), Tag(1));
    assert_eq!(refused, Err(SubmitError::Unsupported));
    rig.disk.die();
    bed.pass(SECOND);
    bed.settle();
    assert_eq!((rig.disk.resets(), bed.lost), (1, None));
    // A controller without such limits says so.
    let rig = limited();
    rig.disk.arm(Fault::FailIdentify(6, 0x4002));
    let bed = Bed::new(&rig, 1);
    assert!(bed.controller.volumes(0, 0)[0].discard.is_some());
}

#[test]
fn one_guest_s_commands_over_which_the_controller_fails_cost_no_other_command() {
    // A guest sends such a command as soon as the last one has failed. Others have commands in flight
    // all the time, on the same queue and on another one: in flight at many resets, each of them.
    for (bad, good) in [(0, 1), (1, 0)] {
        let rig = Rig::new(Config {
            manual: true,
            quirks: Quirks::from([Quirk::Crash(64)]),
            ..Config::default()
        });
        let mut bed = Bed::new(&rig, 2);
        let (mut tag, mut sent, mut done) = (100, 0, 0);
        for _ in 0..400 {
            if bed.queues.iter().all(|queue| queue.in_flight() < 8) {
                for queue in [bad, good, bad] {
                    let segments = bed.segments();
                    let write = command(Op::Write, 1, 9, 0, &segments[..1]);
                    if bed.queues[queue].submit(&write, Tag(tag)).is_ok() {
                        bed.queues[queue].commit();
                        tag += 1;
                    }
                }
                let segments = bed.segments();
                let read = command(Op::Read, 1, 9, 64, &segments[..1]);
                if sent < 10 && bed.queues[bad].submit(&read, Tag(sent)).is_ok() {
                    bed.queues[bad].commit();
                    sent += 1;
                }
            }
            // What the controller does in the time of a turn, and what control does in a second.
            rig.disk.run_at_most(2);
            bed.pass(20_000_000);
            bed.pass(SECOND / 10);
            for (tag, result) in bed.answers.drain(..) {
                if tag < 100 {
                    assert_eq!(result, Err(IoError::Aborted));
                    done += 1;
                } else {
                    assert_eq!(result, Ok(()), "command {tag} of another guest");
                }
            }
        }
        assert_eq!((sent, done), (10, 10));
        assert_eq!(bed.lost, None);
        rig.obeyed();
    }
}
