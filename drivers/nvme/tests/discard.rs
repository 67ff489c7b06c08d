//! Discards, and writes that wait for the medium.

mod common;

use common::{OPTIONS, Rig, command, discard};
use proptest::prelude::*;
use spindle_block::{Budget, DiskOptions, DiskQueue, IoError, Op, SubmitError, Tag};
use spindle_testkit::nvme::{Config, DiscardConfig, Fault, NamespaceConfig};
use spindle_testkit::queue::{complete, complete_in_parts, drain, pages};

fn with_limits(ranges: u8, range_blocks: u32, total_blocks: u64) -> Config {
    Config {
        discards: Some(DiscardConfig {
            ranges,
            range_blocks,
            total_blocks,
        }),
        namespaces: vec![NamespaceConfig::new(1, 256, 9)],
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    /// Whatever the controller's limits, exactly the blocks asked for are freed, as far as eight
    /// commands reach, and it is answered once.
    #[test]
    fn a_discard_frees_its_blocks_and_no_others(
        ranges in 0..4u8, range_blocks in 0..40u32, total in 0..100u64,
        block in 0..256u64, blocks in 1..256u64, depth in 3..40u16,
        // At once, or in parts of so many commands.
        parts in prop::option::of(1..9usize),
    ) {
        let rig = Rig::new(with_limits(ranges, range_blocks, total));
        let (controller, mut queue) = rig.running(DiskOptions { depth, ..OPTIONS });
        let memory = rig.memory(32);
        memory.write_bytes(0, &[0xa5; 256 * 512]);
        for half in 0..2 {
            let segments = &pages(&memory)[16 * half..][..16];
            let fill = command(Op::Write, 1, 9, 128 * half as u64, segments);
            prop_assert_eq!(complete(&mut queue, &fill), Ok(Ok(())));
        }
        let blocks = blocks.min(256 - block);
        let discard = discard(1, 9, block, blocks);
        let result = match parts {
            None => complete(&mut queue, &discard),
            Some(commands) => {
                complete_in_parts(&mut queue, &discard, Budget { commands, bytes: 1 })
            }
        };
        prop_assert_eq!(result, Ok(Ok(())));
        let no_limit = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        let of_ranges = no_limit(range_blocks.into())
            .saturating_mul(no_limit(ranges.into()).min(64));
        let commands = match parts {
            None => 8.min(queue.capacity() as u64),
            Some(_) => 8,
        };
        let reach = of_ranges.min(no_limit(total)).saturating_mul(commands);
        let freed = block..block + blocks.min(reach);
        let contents = rig.disk.contents(1);
        for at in 0..256 {
            let expected = if freed.contains(&at) { 0 } else { 0xa5 };
            prop_assert_eq!(contents[at as usize * 512], expected, "block {}", at);
        }
        controller.shutdown([queue]).unwrap();
        rig.obeyed();
    }
}

#[test]
fn the_largest_discard_is_one_command_where_there_are_no_limits() {
    let rig = Rig::new(Config {
        namespaces: vec![NamespaceConfig::new(1, 1 << 37, 9).null()],
        ..with_limits(0, 0, 0)
    });
    let (_controller, mut queue) = rig.running(OPTIONS);
    let before = rig.disk.commands();
    let all = discard(1, 9, 0, 1 << 37);
    assert_eq!(complete(&mut queue, &all), Ok(Ok(())));
    assert_eq!(rig.disk.commands() - before, 1);
    rig.obeyed();
}

#[test]
fn a_discard_that_finds_no_room_waits_and_one_of_nothing_is_refused() {
    let rig = Rig::new(Config {
        manual: true,
        ..with_limits(1, 10, 0)
    });
    let (_controller, mut queue) = rig.running(DiskOptions {
        depth: 4,
        ..OPTIONS
    });
    let two_parts = discard(1, 9, 0, 20);
    assert_eq!(queue.submit(&two_parts, Tag(1)), Ok(()));
    assert_eq!(queue.submit(&two_parts, Tag(2)), Err(SubmitError::Full));
    let nothing = discard(1, 9, 0, 0);
    assert_eq!(queue.submit(&nothing, Tag(3)), Err(SubmitError::Scattered));
    queue.commit();
    assert_eq!(rig.disk.run(), 2);
    assert_eq!(drain(&mut queue), [(1, Ok(()))]);
    assert_eq!(queue.submit(&two_parts, Tag(2)), Ok(()));
    queue.fail_all(|_, _| {});
    assert_eq!(queue.submit(&two_parts, Tag(3)), Err(SubmitError::Gone));
}

#[test]
fn failed_and_unknown_discards_are_told_apart() {
    let rig = Rig::new(with_limits(0, 0, 0));
    let (controller, mut queue) = rig.running(OPTIONS);
    let beyond = complete(&mut queue, &discard(1, 9, 255, 2));
    assert_eq!(beyond, Ok(Err(IoError::Range)));
    rig.disk.arm(Fault::FailIo(9, 0x4281));
    let failed = complete(&mut queue, &discard(1, 9, 0, 1));
    assert_eq!(failed, Ok(Err(IoError::Medium)));
    let secure = command(Op::SecureDiscard, 1, 9, 0, &[]);
    let refused = queue.submit(&secure, Tag(1));
    assert_eq!(refused, Err(SubmitError::Unsupported));
    controller.shutdown([queue]).unwrap();
    let rig = Rig::new(Config {
        discards: None,
        ..with_limits(0, 0, 0)
    });
    let (controller, mut queue) = rig.running(OPTIONS);
    assert_eq!(controller.volumes(0, 0)[0].discard, None);
    let refused = queue.submit(&discard(1, 9, 0, 1), Tag(1));
    assert_eq!(refused, Err(SubmitError::Unsupported));
}

#[test]
fn a_volume_says_how_it_is_discarded_best() {
    let mut namespaces = vec![
        NamespaceConfig::new(1, 256, 9),
        NamespaceConfig::new(2, 256, 12),
    ];
    namespaces[1].granularity = Some(0);
    namespaces[1].discard_granularity = 15;
    let rig = Rig::new(Config {
        namespaces,
        ..Config::default()
    });
    let controller = rig.start().unwrap();
    let granularity = |at: usize| controller.volumes(0, 0)[at].discard.unwrap().granularity;
    assert_eq!((granularity(0), granularity(1)), (512, 64 << 10));
}

#[test]
fn a_write_through_outlives_a_power_cut_and_its_neighbours_do_not() {
    let rig = Rig::new(Config::default());
    let (controller, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(3);
    memory.write_bytes(0, &[7; 3 * 4096]);
    let segments = pages(&memory);
    let page = command(Op::WriteThrough, 1, 9, 8, &segments[..1]);
    let list = command(Op::WriteThrough, 1, 9, 32, &segments);
    let plain = command(Op::Write, 1, 9, 0, &segments[..1]);
    for write in [page, list, plain] {
        assert_eq!(complete(&mut queue, &write), Ok(Ok(())));
    }
    rig.disk.power_cut();
    let contents = rig.disk.contents(1);
    assert_eq!(contents[..4096], [0; 4096]);
    assert_eq!(contents[8 * 512..][..4096], [7; 4096]);
    assert_eq!(contents[32 * 512..][..3 * 4096], [7; 3 * 4096]);
    controller.shutdown([queue]).unwrap();
    rig.obeyed();
}
