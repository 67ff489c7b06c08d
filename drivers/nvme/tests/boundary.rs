//! Boundaries that a namespace reports (NOIOB): no command crosses one that it need not. The
//! controller notes each that does as a violation.

mod common;

use common::{OPTIONS, Rig, command};
use proptest::prelude::*;
use spindle_block::{Budget, DiskOptions, DiskQueue, IoError, Op, Tag};
use spindle_nvme::Status;
use spindle_testkit::nvme::{Config, Fault, NamespaceConfig, Quirk};
use spindle_testkit::queue::{complete, complete_in_parts, drain, pages};

fn config(boundary: u16, shift: u8) -> Config {
    Config {
        quirks: [Quirk::Boundary(1, boundary)].into(),
        namespaces: vec![
            NamespaceConfig::new(1, 1 << 20 >> shift, shift),
            NamespaceConfig::new(2, 1 << 20 >> shift, shift),
        ],
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 128 }))]

    /// Whatever the boundary, the size and the start, and be it whole or in parts; the block counts
    /// from the beginning of the namespace, also where the volume begins elsewhere.
    #[test]
    fn no_command_crosses_a_boundary_that_it_need_not(
        boundary in 0..300u16,
        four_k: bool,
        start in 0..64u64,
        block in 0..900u64,
        count in 1..65usize,
        mdts in 0..6u8,
        parts in prop::option::of((1..6usize, 1..40u32)),
    ) {
        let shift = if four_k { 12 } else { 9 };
        let rig = Rig::new(Config { mdts, ..config(boundary, shift) });
        let (controller, mut queue) = rig.running(DiskOptions { depth: 128, ..OPTIONS });
        let memory = rig.memory(64);
        let fill: Vec<u8> = (0..memory.len()).map(|i| (i / 512) as u8 ^ i as u8).collect();
        memory.write_bytes(0, &fill);
        let segments = &pages(&memory)[..count];
        let block = (start + block) % ((1 << 20 >> shift) - ((count as u64 * 4096) >> shift));
        let write = command(Op::Write, 1, shift, block, segments);
        let result = match parts {
            None => complete(&mut queue, &write),
            Some((commands, pages)) => {
                let budget = Budget { commands, bytes: pages << 12 };
                complete_in_parts(&mut queue, &write, budget)
            }
        };
        prop_assert_eq!(result, Ok(Ok(())));
        let at = (block << shift) as usize;
        prop_assert!(rig.disk.contents(1)[at..at + count * 4096] == fill[..count * 4096]);
        controller.shutdown([queue]).unwrap();
        rig.obeyed();
    }
}

#[test]
fn a_page_that_lies_across_a_boundary_is_two_commands_and_one_answer() {
    let rig = Rig::new(config(33, 9));
    let (_controller, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    let segments = pages(&memory);
    let mut commands = |unit, block| {
        let before = rig.disk.commands();
        let read = command(Op::Read, unit, 9, block, &segments);
        queue.submit(&read, Tag(1)).unwrap();
        queue.commit();
        assert_eq!(drain(&mut queue), [(1, Ok(()))]);
        rig.disk.commands() - before
    };
    assert_eq!(commands(1, 25), 1);
    assert_eq!(commands(1, 26), 2);
    assert_eq!(commands(1, 33), 1);
    assert_eq!(commands(1, 65), 2);
    assert_eq!(commands(2, 26), 1, "the other has none");
    rig.disk.arm(Fault::FailIo(
        2,
        Status::UNRECOVERED_READ.0 | Status::DO_NOT_RETRY,
    ));
    let read = command(Op::Read, 1, 9, 26, &segments);
    assert_eq!(complete(&mut queue, &read), Ok(Err(IoError::Medium)));
    rig.obeyed();
}

#[test]
fn a_boundary_of_less_than_16_kib_is_ignored() {
    let rig = Rig::new(config(8, 9));
    let (_controller, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(16);
    let segments = pages(&memory);
    let read = command(Op::Read, 1, 9, 4, &segments);
    assert_eq!(complete(&mut queue, &read), Ok(Ok(())));
    assert_eq!(rig.disk.commands(), 1);
}

#[test]
fn a_queue_too_short_for_the_parts_crosses_the_boundary() {
    let rig = Rig::new(config(32, 9));
    let (_controller, mut queue) = rig.running(DiskOptions {
        depth: 2,
        ..OPTIONS
    });
    let memory = rig.memory(1);
    let segments = pages(&memory);
    let read = command(Op::Read, 1, 9, 28, &segments);
    assert_eq!(complete(&mut queue, &read), Ok(Ok(())));
    assert_eq!(rig.disk.commands(), 1);
}
