//! A device that answers what nobody asked, twice, or not at all.

mod common;

use common::{OPTIONS, Rig, scattered};
use spindle_block::{DiskQueue, IoError, Op, SubmitError, Tag};
use spindle_testkit::queue::{command, complete, drain};
use spindle_testkit::virtio::{Config, Fault, feature};
use spindle_virtio::Error;

#[test]
fn used_entries_that_name_nothing_in_flight_are_counted_and_ignored() {
    for indirect in [feature::INDIRECT_DESC, 0] {
        let mut config = Config::default();
        config.features = config.features & !feature::INDIRECT_DESC | indirect;
        let rig = Rig::new(config);
        let (_disk, mut queue) = rig.running(OPTIONS);
        let memory = rig.memory(1);
        let page = scattered(&memory);
        rig.device.arm(Fault::Swallow(0));
        queue.submit(&command(Op::Read, 0, &page), Tag(1)).unwrap();
        queue.commit();
        // With room for one request after the other, the only one in flight is that of slot 0.
        for id in [1, 3, 15, 16, 255, 0x1_0000, u32::MAX] {
            rig.device.post(0, id, 0);
        }
        assert_eq!(drain(&mut queue), []);
        assert_eq!((queue.spurious(), queue.in_flight()), (7, 1));
        // The device never wrote a status.
        rig.device.post(0, 0, u32::MAX);
        rig.device.post(0, 0, 1);
        assert_eq!(drain(&mut queue), []);
        assert_eq!((queue.spurious(), queue.in_flight()), (9, 1));
    }
}

/// Its memory is given back with the answer, while the device would go on with it.
#[test]
fn a_used_entry_that_comes_twice_does_not_end_the_next_request() {
    let rig = Rig::new(Config::default());
    let (_disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    let page = scattered(&memory);
    let read = command(Op::Read, 0, &page);
    assert_eq!(complete(&mut queue, &read), Ok(Ok(())));
    rig.device.post(0, 0, 1);
    queue.submit(&read, Tag(2)).unwrap();
    assert_eq!(drain(&mut queue), []);
    assert_eq!((queue.spurious(), queue.in_flight()), (1, 1));
    queue.commit();
    rig.device.run();
    assert_eq!(drain(&mut queue), [(2, Ok(()))]);
}

#[test]
fn an_index_that_runs_away_keeps_a_poll_no_longer_than_one_turn() {
    let rig = Rig::new(Config::default());
    let (_disk, mut queue) = rig.running(OPTIONS);
    rig.device.skip(0, 1000);
    for turn in 1..=3 {
        assert_eq!(drain(&mut queue), []);
        assert_eq!(queue.spurious(), turn * 16);
    }
}

#[test]
fn an_unknown_status_is_told() {
    let rig = Rig::new(Config::default());
    let (_disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    let page = scattered(&memory);
    for (status, error) in [
        (1, IoError::Medium),
        (2, IoError::Unsupported),
        (3, IoError::Device(3)),
        (0xfe, IoError::Device(0xfe)),
    ] {
        rig.device.arm(Fault::Fail(1, status));
        let write = command(Op::Write, 0, &page);
        assert_eq!(complete(&mut queue, &write), Ok(Err(error)));
    }
}

#[test]
fn a_disk_given_up_answers_everything_once_and_takes_nothing() {
    let rig = Rig::new(Config::default());
    let (disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(4);
    let pages = scattered(&memory);
    rig.device.arm(Fault::Swallow(1));
    rig.device.arm(Fault::Swallow(4));
    queue
        .submit(&command(Op::Write, 0, &pages), Tag(1))
        .unwrap();
    queue.submit(&command(Op::Flush, 0, &[]), Tag(2)).unwrap();
    queue.commit();
    assert_eq!(drain(&mut queue), []);
    rig.device.die();
    let mut failed = Vec::new();
    queue.fail_all(|tag, result| failed.push((tag.0, result)));
    failed.sort_unstable_by_key(|(tag, _)| *tag);
    let aborted = Err(IoError::Aborted);
    assert_eq!(failed, [(1, aborted), (2, aborted)]);
    assert_eq!(queue.in_flight(), 0);
    rig.device.post(0, 0, 1);
    assert_eq!(drain(&mut queue), []);
    let refused = queue.submit(&command(Op::Flush, 0, &[]), Tag(3));
    assert_eq!(refused, Err(SubmitError::Gone));
    queue.commit();
    assert!(disk.shutdown([queue]).is_err(), "it could not be flushed");
    assert_eq!(rig.bus.outstanding(), 4, "but it was reset");
}

#[test]
fn a_command_without_an_answer_makes_the_device_count_as_failed() {
    let rig = Rig::new(Config::default());
    let (disk, mut queue) = rig.running(OPTIONS);
    let second = 1_000_000_000;
    let memory = rig.memory(1);
    let page = scattered(&memory);
    queue.tick(1000 * second);
    assert_eq!(
        complete(&mut queue, &command(Op::Read, 0, &page)),
        Ok(Ok(()))
    );
    rig.device.arm(Fault::Swallow(0));
    queue.tick(2000 * second);
    queue.submit(&command(Op::Read, 0, &page), Tag(1)).unwrap();
    queue.commit();
    for later in 0..=30 {
        queue.tick((2000 + later) * second);
        assert_eq!(disk.health(), Ok(()), "after {later} s");
    }
    queue.tick(2035 * second);
    let limit = core::time::Duration::from_secs(30);
    assert_eq!(disk.health(), Err(Error::Late(limit)));
}

#[test]
fn the_second_step_of_a_command_is_not_late_because_its_core_stood_still() {
    let rig = Rig::new(Config::default());
    let (disk, mut queue) = rig.running(OPTIONS);
    let second = 1_000_000_000;
    let memory = rig.memory(1);
    let page = scattered(&memory);
    queue.tick(2000 * second);
    rig.device.hold();
    let write = command(Op::WriteThrough, 0, &page);
    queue.submit(&write, Tag(1)).unwrap();
    queue.commit();
    rig.device.run();
    // A minute later, the core finds the write done and has the cache written out.
    assert_eq!(drain(&mut queue), []);
    for later in 60..=90 {
        queue.tick((2000 + later) * second);
        assert_eq!(disk.health(), Ok(()), "after {later} s");
    }
    queue.tick(2095 * second);
    let limit = core::time::Duration::from_secs(30);
    assert_eq!(disk.health(), Err(Error::Late(limit)));
}
