//! The data path on a device that behaves.

mod common;

use common::{OPTIONS, Rig, contents, fill, scattered};
use spindle_block::{DiskOptions, DiskQueue, IoError, Op, Segment, SubmitError, Tag};
use spindle_testkit::queue::{command, complete, discard, drain};
use spindle_testkit::virtio::{Config, Fault, feature};

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

#[test]
fn data_goes_to_the_disk_and_back() {
    let rig = Rig::new(Config::default());
    let (_disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(8);
    let data = fill(&memory, 1);
    let pages = scattered(&memory);
    let write = command(Op::Write, 16, &pages);
    assert_eq!(complete(&mut queue, &write), Ok(Ok(())));
    let expected: Vec<u8> = data.chunks(4096).rev().flatten().copied().collect();
    let start = 16 * 512;
    assert_eq!(rig.device.contents()[start..start + data.len()], expected);
    memory.zero(0, memory.len());
    assert_eq!(
        complete(&mut queue, &command(Op::Read, 16, &pages)),
        Ok(Ok(()))
    );
    assert_eq!(contents(&memory), data);
    rig.obeyed();
}

#[test]
fn the_same_holds_without_indirect_descriptors_and_with_little_else() {
    let rig = Rig::new(config(|c| {
        c.features = feature::VERSION_1 | feature::ACCESS_PLATFORM | feature::SEG_MAX;
        c.seg_max = 3;
        c.entries = 32;
    }));
    let options = DiskOptions {
        queues: 1,
        depth: 256,
        ..OPTIONS
    };
    let (_disk, mut queue) = rig.running(options);
    assert_eq!(queue.capacity(), 6, "five descriptors each");
    let memory = rig.memory(16);
    let data = fill(&memory, 2);
    let pages = scattered(&memory);
    assert_eq!(
        complete(&mut queue, &command(Op::Write, 0, &pages)),
        Ok(Ok(()))
    );
    memory.zero(0, memory.len());
    assert_eq!(
        complete(&mut queue, &command(Op::Read, 0, &pages)),
        Ok(Ok(()))
    );
    assert_eq!(contents(&memory), data);
    // 16 pages make six requests of three; a seventh request would never fit.
    assert_eq!(rig.device.requests().iter().filter(|&&k| k == 1).count(), 6);
    let more = rig.memory(19);
    let refused = complete(&mut queue, &command(Op::Write, 0, &scattered(&more)));
    assert_eq!(refused, Err(SubmitError::Scattered));
    rig.obeyed();
}

#[test]
fn a_batch_is_one_notification_and_none_if_the_device_is_awake() {
    let rig = Rig::new(Config::default());
    let (_disk, mut queue) = rig.running(OPTIONS);
    rig.device.hold();
    let memory = rig.memory(1);
    let page = scattered(&memory);
    let before = rig.device.notifications();
    for tag in 0..8 {
        queue
            .submit(&command(Op::Read, 0, &page), Tag(tag))
            .unwrap();
    }
    assert_eq!(rig.device.run(), 0, "nothing is told before commit");
    queue.commit();
    queue.commit();
    assert_eq!(rig.device.notifications(), before + 1);
    assert!(!queue.is_stirred(), "a poll would find nothing");
    assert_eq!(rig.device.run(), 8);
    assert!(queue.is_stirred());
    rig.device.want_notifications(0, false);
    queue.submit(&command(Op::Read, 0, &page), Tag(8)).unwrap();
    queue.commit();
    assert_eq!(rig.device.notifications(), before + 1);
    assert_eq!(rig.device.run(), 1);
    assert_eq!(drain(&mut queue).len(), 9);
    assert!(!queue.is_stirred());
    rig.obeyed();
}

#[test]
fn requests_complete_in_any_order() {
    let rig = Rig::new(config(|c| c.out_of_order = true));
    let (_disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(4);
    fill(&memory, 4);
    let pages = scattered(&memory);
    for (tag, page) in (0..).zip(&pages) {
        let write = command(Op::Write, u64::from(tag) * 8, core::slice::from_ref(page));
        queue.submit(&write, Tag(tag)).unwrap();
    }
    queue.commit();
    let done: Vec<_> = drain(&mut queue).into_iter().map(|(tag, _)| tag).collect();
    assert_eq!(done, [3, 2, 1, 0]);
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn a_full_queue_says_so_and_takes_more_after_a_poll() {
    let rig = Rig::new(Config::default());
    let (_disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    let page = scattered(&memory);
    let read = command(Op::Read, 0, &page);
    for round in 0..100 {
        for tag in 0..16 {
            queue.submit(&read, Tag(tag)).unwrap();
        }
        assert_eq!(queue.submit(&read, Tag(16)), Err(SubmitError::Full));
        assert_eq!(
            queue.submit(&command(Op::Flush, 0, &[]), Tag(16)),
            Err(SubmitError::Full)
        );
        queue.commit();
        assert_eq!(drain(&mut queue).len(), 16, "round {round}");
    }
    rig.obeyed();
}

#[test]
fn more_than_one_request_takes_comes_back_once_with_the_first_error() {
    let rig = Rig::new(config(|c| {
        c.seg_max = 2;
        c.features |= feature::SIZE_MAX;
        c.size_max = 4096;
    }));
    let (_disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(6);
    let pages = scattered(&memory);
    assert_eq!(
        complete(&mut queue, &command(Op::Write, 0, &pages)),
        Ok(Ok(()))
    );
    assert_eq!(rig.device.requests(), [8, 1, 1, 1]);
    rig.device.arm(Fault::Fail(1, 1));
    let failed = complete(&mut queue, &command(Op::Write, 0, &pages));
    assert_eq!(failed, Ok(Err(IoError::Medium)));
    rig.obeyed();
}

#[test]
fn blocks_of_4_kib_may_lie_in_pieces() {
    let rig = Rig::new(config(|c| c.block_size = 4096));
    let (_disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(3);
    let data = fill(&memory, 9);
    let piece = |at: u64, len| Segment::new(memory.bus() + at, len);
    let pieces = [piece(8192, 512), piece(4096, 3072), piece(512, 512)];
    let mut write = command(Op::Write, 2, &pieces);
    write.block_shift = 12;
    assert_eq!(complete(&mut queue, &write), Ok(Ok(())));
    let expected = [&data[8192..8704], &data[4096..7168], &data[512..1024]].concat();
    assert_eq!(rig.device.contents()[8192..12288], expected);
    let mut torn = command(Op::Write, 2, &pieces[..2]);
    torn.block_shift = 12;
    assert_eq!(complete(&mut queue, &torn), Err(SubmitError::Scattered));
    rig.obeyed();
}

#[test]
fn what_was_flushed_survives_a_power_cut() {
    let rig = Rig::new(Config::default());
    let (_disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    let data = fill(&memory, 5);
    let page = scattered(&memory);
    assert_eq!(
        complete(&mut queue, &command(Op::Write, 0, &page)),
        Ok(Ok(()))
    );
    assert_eq!(
        complete(&mut queue, &command(Op::Flush, 0, &[])),
        Ok(Ok(()))
    );
    assert_eq!(
        complete(&mut queue, &command(Op::Write, 8, &page)),
        Ok(Ok(()))
    );
    let through = command(Op::WriteThrough, 16, &page);
    rig.device.power_cut();
    assert_eq!(rig.device.contents()[..4096], data);
    assert_eq!(rig.device.contents()[4096..8192], [0; 4096]);
    assert_eq!(complete(&mut queue, &through), Ok(Ok(())));
    rig.device.power_cut();
    assert_eq!(rig.device.contents()[8192..12288], data);
    rig.device.arm(Fault::Fail(4, 1));
    assert_eq!(complete(&mut queue, &through), Ok(Err(IoError::Medium)));
    rig.obeyed();
}

#[test]
fn a_long_discard_goes_on_until_all_is_given_up() {
    let rig = Rig::new(Config::default());
    let (_disk, mut queue) = rig.running(OPTIONS);
    assert_eq!(
        complete(&mut queue, &discard(Op::Discard, 8, 1000)),
        Ok(Ok(()))
    );
    let disk = rig.device.contents();
    assert!(disk[..4096].iter().all(|&b| b == 0));
    assert!(disk[4096..1008 * 512].iter().all(|&b| b == 0xd1));
    assert!(disk[1008 * 512..].iter().all(|&b| b == 0));
    assert_eq!(rig.device.requests(), [8, 11, 11, 11, 11]);
    let secure = discard(Op::SecureDiscard, 0, 8);
    assert_eq!(complete(&mut queue, &secure), Ok(Ok(())));
    assert!(rig.device.contents()[..4096].iter().all(|&b| b == 0x5e));
    rig.device.arm(Fault::Fail(11, 2));
    let failed = complete(&mut queue, &discard(Op::Discard, 0, 1000));
    assert_eq!(failed, Ok(Err(IoError::Unsupported)));
    rig.obeyed();
}

#[test]
fn where_blocks_cannot_be_discarded_zeroes_do() {
    let rig = Rig::new(config(|c| {
        c.features &= !(feature::DISCARD | feature::SECURE_ERASE)
    }));
    let (disk, mut queue) = rig.running(OPTIONS);
    assert!(!disk.volume(0, 0).discard.unwrap().secure);
    let memory = rig.memory(1);
    fill(&memory, 6);
    let page = scattered(&memory);
    assert_eq!(
        complete(&mut queue, &command(Op::Write, 0, &page)),
        Ok(Ok(()))
    );
    assert_eq!(
        complete(&mut queue, &discard(Op::Discard, 0, 8)),
        Ok(Ok(()))
    );
    assert_eq!(rig.device.contents()[..4096], [0; 4096]);
    let secure = complete(&mut queue, &discard(Op::SecureDiscard, 0, 8));
    assert_eq!(secure, Err(SubmitError::Unsupported));
    rig.obeyed();
}

#[test]
fn beyond_the_end_is_an_error_of_that_command_alone() {
    let rig = Rig::new(Config::default());
    let (_disk, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    let page = scattered(&memory);
    for block in [2041, u64::MAX, u64::MAX >> 9] {
        let result = complete(&mut queue, &command(Op::Read, block, &page));
        assert_eq!(result, Ok(Err(IoError::Medium)));
    }
    assert_eq!(
        complete(&mut queue, &command(Op::Read, 2040, &page)),
        Ok(Ok(()))
    );
}
