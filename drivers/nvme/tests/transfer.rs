//! Reads and writes of every shape against a plain copy of the disk.

mod common;

use common::{OPTIONS, Rig, command};
use proptest::prelude::*;
use spindle_block::{Budget, DiskOptions, DiskQueue, IoError, Op, Part, Segment, SubmitError, Tag};
use spindle_hw::SharedPages;
use spindle_nvme::Status;
use spindle_testkit::nvme::{Config, Fault, NamespaceConfig};
use spindle_testkit::queue::{complete, complete_in_parts, drain, pages};

fn config() -> Config {
    Config {
        namespaces: vec![
            NamespaceConfig::new(1, 2048, 9),
            NamespaceConfig::new(2, 256, 12),
        ],
        ..Config::default()
    }
}

#[derive(Clone, Debug)]
struct Transfer {
    write: bool,
    four_k: bool,
    block: u64,
    /// Where each piece lies: kind, page, first sector, sectors.
    pieces: Vec<(u8, u64, u64, u64)>,
    seed: u8,
}

fn transfers() -> impl Strategy<Value = Vec<Transfer>> {
    let piece = (0..4u8, 0..32u64, 0..8u64, 1..=8u64);
    let pieces = prop::collection::vec(piece, 1..24);
    let transfer = (any::<bool>(), any::<bool>(), 0..200u64, pieces, any::<u8>());
    let transfer = transfer.prop_map(|(write, four_k, block, pieces, seed)| Transfer {
        write,
        four_k,
        block,
        pieces,
        seed,
    });
    prop::collection::vec(transfer, 1..12)
}

/// Lays pieces out in `memory`, never twice in the same place.
fn lay_out(memory: &SharedPages, transfer: &Transfer) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut used = vec![false; memory.len() / 512];
    let mut at = 0;
    for &(kind, page, first, count) in &transfer.pieces {
        let start = match kind {
            0 => at,
            1 => page * 8,
            _ => page * 8 + first,
        };
        let count = if kind == 1 {
            8
        } else {
            count.min(8 - start % 8)
        };
        let places = start as usize..(start + count) as usize;
        if places.end > used.len() || used[places.clone()].iter().any(|&u| u) {
            continue;
        }
        used[places].fill(true);
        at = start + count;
        segments.push(Segment::new(
            memory.bus() + start * 512,
            (count * 512) as u32,
        ));
    }
    // A whole number of blocks, so that only torn blocks are refused.
    let total: u32 = segments.iter().map(|s| s.bytes()).sum();
    let mut extra = if transfer.four_k { total % 4096 } else { 0 };
    while extra > 0 {
        let last = segments.last_mut().unwrap();
        if last.bytes() <= extra {
            extra -= last.bytes();
            segments.pop();
        } else {
            *last = Segment::new(last.bus(), last.bytes() - extra);
            extra = 0;
        }
    }
    segments
}

fn torn(segments: &[Segment], block: u32) -> bool {
    let mut position = 0;
    segments.windows(2).any(|pair| {
        position += pair[0].bytes();
        let end = pair[0].bus() + u64::from(pair[0].bytes());
        let joins = if end.is_multiple_of(4096) {
            pair[1].bus().is_multiple_of(4096)
        } else {
            end == pair[1].bus()
        };
        !joins && !position.is_multiple_of(block)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 128 }))]

    /// Whatever the shape, a transfer moves exactly its bytes, or is refused and moves none.
    #[test]
    fn any_transfer_moves_its_bytes(
        transfers in transfers(),
        mdts in 0..5u8,
        out_of_order: bool,
        // At once, or in parts of so many commands and pages.
        parts in prop::option::of((1..4usize, 1..16u32)),
    ) {
        let rig = Rig::new(Config { mdts, out_of_order, ..config() });
        let (controller, mut queue) = rig.running(DiskOptions { depth: 32, ..OPTIONS });
        let memory = rig.memory(32);
        let mut disks = [vec![0u8; 1 << 20], vec![0u8; 1 << 20]];
        let mut refused = 0;
        for transfer in &transfers {
            let segments = lay_out(&memory, transfer);
            if segments.is_empty() {
                continue;
            }
            let shift = if transfer.four_k { 12 } else { 9 };
            let total: usize = segments.iter().map(|s| s.bytes() as usize).sum();
            // What lies where the segments do not is not to change.
            let fill: Vec<u8> = (0..memory.len())
                .map(|i| (i as u8).wrapping_mul(transfer.seed | 1) ^ (i >> 8) as u8)
                .collect();
            memory.write_bytes(0, &fill);
            let op = if transfer.write { Op::Write } else { Op::Read };
            let unit = if transfer.four_k { 2 } else { 1 };
            let command = command(op, unit, shift, transfer.block, &segments);
            let result = match parts {
                None => complete(&mut queue, &command),
                Some((commands, pages)) => {
                    let budget = Budget { commands, bytes: pages << 12 };
                    complete_in_parts(&mut queue, &command, budget)
                }
            };
            let mut expected = fill;
            let disk = &mut disks[unit as usize - 1];
            let mut at = (transfer.block as usize) << shift;
            let fits = at + total <= disk.len();
            let torn = torn(&segments, 1 << shift);
            match result {
                Err(SubmitError::Scattered) => {
                    prop_assert!(torn);
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
                Ok(result) => {
                    prop_assert!(!torn);
                    prop_assert_eq!(result, if fits { Ok(()) } else { Err(IoError::Range) });
                }
            }
            if fits && !torn {
                for segment in &segments {
                    let start = (segment.bus() - memory.bus()) as usize;
                    let here = start..start + segment.bytes() as usize;
                    let there = at..at + segment.bytes() as usize;
                    if transfer.write {
                        disk[there].copy_from_slice(&expected[here]);
                    } else {
                        expected[here].copy_from_slice(&disk[there]);
                    }
                    at += segment.bytes() as usize;
                }
                let mut now = vec![0; memory.len()];
                memory.read_bytes(0, &mut now);
                prop_assert!(now == expected, "memory differs");
            }
            if !fits {
                // Part of it may have been done: start afresh.
                disks[unit as usize - 1] = rig.disk.contents(unit);
            }
        }
        prop_assert!(refused <= transfers.len());
        prop_assert!(rig.disk.contents(1) == disks[0], "disk 1 differs");
        prop_assert!(rig.disk.contents(2) == disks[1], "disk 2 differs");
        prop_assert_eq!(queue.spurious(), 0);
        controller.shutdown([queue]).unwrap();
        rig.obeyed();
    }
}

#[test]
fn a_transfer_beyond_mdts_becomes_several_commands_and_one_answer() {
    let rig = Rig::new(Config {
        mdts: 2,
        ..config()
    });
    let (controller, mut queue) = rig.running(OPTIONS);
    assert_eq!(controller.identity().max_transfer, 16 << 10);
    let memory = rig.memory(16);
    let segments = pages(&memory);
    queue
        .submit(&command(Op::Write, 1, 9, 0, &segments), Tag(1))
        .unwrap();
    assert_eq!(rig.disk.commands(), 0, "nothing before the commit");
    queue.commit();
    queue.commit();
    assert_eq!(rig.disk.commands(), 4);
    assert_eq!(rig.disk.doorbells(), 1);
    assert_eq!(queue.in_flight(), 1);
    assert_eq!(drain(&mut queue), [(1, Ok(()))]);
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn a_command_is_taken_whole_or_not_at_all() {
    let rig = Rig::new(Config {
        mdts: 1,
        manual: true,
        ..config()
    });
    let (_controller, mut queue) = rig.running(DiskOptions {
        depth: 8,
        ..OPTIONS
    });
    let memory = rig.memory(16);
    let segments = pages(&memory);
    let four_parts = command(Op::Read, 1, 9, 0, &segments[..8]);
    let three_parts = command(Op::Read, 1, 9, 0, &segments[..6]);
    assert_eq!(queue.submit(&four_parts, Tag(1)), Ok(()));
    assert_eq!(queue.submit(&four_parts, Tag(2)), Err(SubmitError::Full));
    assert_eq!(queue.submit(&three_parts, Tag(3)), Ok(()));
    assert_eq!(
        queue.submit(&command(Op::Flush, 1, 9, 0, &[]), Tag(4)),
        Err(SubmitError::Full)
    );
    queue.commit();
    assert_eq!(rig.disk.run(), 7);
    assert_eq!(drain(&mut queue), [(1, Ok(())), (3, Ok(()))]);
    assert_eq!(
        queue.submit(&command(Op::Read, 1, 9, 0, &segments), Tag(5)),
        Err(SubmitError::Scattered),
        "eight parts never fit seven places"
    );
    assert_eq!(queue.submit(&four_parts, Tag(6)), Ok(()));
    rig.obeyed();
}

#[test]
fn a_command_of_more_requests_than_places_goes_in_parts() {
    let rig = Rig::new(Config {
        mdts: 1,
        manual: true,
        ..config()
    });
    let (_controller, mut queue) = rig.running(DiskOptions {
        depth: 8,
        ..OPTIONS
    });
    let memory = rig.memory(16);
    let segments = pages(&memory);
    let eight = command(Op::Write, 1, 9, 0, &segments);
    assert_eq!((queue.requests(&eight), queue.depth()), (Ok(8), 7));
    let all = Budget {
        commands: usize::MAX,
        bytes: u32::MAX,
    };
    let flush = command(Op::Flush, 1, 9, 0, &[]);
    for _ in 0..6 {
        queue.submit(&flush, Tag(9)).unwrap();
    }
    // One place is free, and one command is what it takes.
    let one = Part {
        blocks: 16,
        commands: 1,
    };
    assert_eq!(queue.submit_part(&eight, 0, all, Tag(1)), Ok(one));
    assert_eq!(
        queue.submit_part(&eight, 16, all, Tag(1)),
        Err(SubmitError::Full)
    );
    queue.commit();
    rig.disk.run();
    assert_eq!(drain(&mut queue).len(), 7);
    let two = Budget {
        commands: 9,
        bytes: 12 << 10,
    };
    let part = |blocks, commands| Ok(Part { blocks, commands });
    assert_eq!(queue.submit_part(&eight, 16, two, Tag(1)), part(32, 2));
    assert_eq!(queue.submit_part(&eight, 48, all, Tag(2)), part(80, 5));
    queue.commit();
    rig.disk.run();
    assert_eq!(drain(&mut queue), [(1, Ok(())), (2, Ok(()))]);
    let beyond = queue.submit_part(&eight, 128, all, Tag(1));
    assert_eq!(beyond, Err(SubmitError::Scattered));
    rig.obeyed();
}

#[test]
fn a_transfer_without_memory_is_refused() {
    let rig = Rig::new(config());
    let (_controller, mut queue) = rig.running(OPTIONS);
    let refused = queue.submit(&command(Op::Read, 1, 9, 0, &[]), Tag(1));
    assert_eq!(refused, Err(SubmitError::Scattered));
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn queues_wrap_and_identifiers_come_round_many_times() {
    let rig = Rig::new(Config {
        namespaces: vec![NamespaceConfig::new(1, 1 << 30, 9).null()],
        out_of_order: true,
        ..config()
    });
    let (controller, mut queue) = rig.running(OPTIONS);
    let segment = [Segment::new(0x10_0000, 4096)];
    let mut next = 0u32;
    let mut answered = 0u64;
    let mut sum = 0u64;
    while answered < 200_000 {
        // Batches of every size, so that the wrap falls on every place of a batch.
        for _ in 0..1 + next % 15 {
            let read = command(Op::Read, 1, 9, next.into(), &segment);
            if queue.submit(&read, Tag(next)).is_ok() {
                next += 1;
            }
        }
        queue.commit();
        answered += queue.poll(|tag, result| {
            assert_eq!(result, Ok(()));
            sum += u64::from(tag.0);
        }) as u64;
    }
    assert_eq!(answered, next.into());
    assert_eq!(sum, u64::from(next) * u64::from(next - 1) / 2);
    assert_eq!((queue.spurious(), queue.in_flight()), (0, 0));
    controller.shutdown([queue]).unwrap();
    rig.obeyed();
}

#[test]
fn two_queues_work_side_by_side() {
    let rig = Rig::new(config());
    let mut controller = rig.start().unwrap();
    let mut first = controller.create_queue(rig.disk.clone()).unwrap();
    let mut second = controller.create_queue(rig.disk.clone()).unwrap();
    let memory = rig.memory(2);
    memory.write_bytes(0, &[0x5a; 4096]);
    let segments = pages(&memory);
    let write = command(Op::Write, 1, 9, 8, &segments[..1]);
    assert_eq!(complete(&mut first, &write), Ok(Ok(())));
    let read = command(Op::Read, 1, 9, 8, &segments[1..]);
    assert_eq!(complete(&mut second, &read), Ok(Ok(())));
    let mut back = [0; 4096];
    memory.read_bytes(4096, &mut back);
    assert_eq!(back, [0x5a; 4096]);
    controller.shutdown([second, first]).unwrap();
    assert_eq!(rig.bus.outstanding(), 2);
    rig.obeyed();
}

#[test]
fn a_part_that_fails_fails_the_command_once() {
    let rig = Rig::new(Config {
        mdts: 1,
        ..config()
    });
    let (_controller, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(8);
    let segments = pages(&memory);
    let read = command(Op::Read, 1, 9, 0, &segments);
    rig.disk.arm(Fault::FailIo(
        2,
        Status::UNRECOVERED_READ.0 | Status::DO_NOT_RETRY,
    ));
    assert_eq!(complete(&mut queue, &read), Ok(Err(IoError::Medium)));
    assert_eq!(complete(&mut queue, &read), Ok(Ok(())));
}

#[test]
fn what_the_disk_refuses_comes_back_as_the_right_error() {
    let mut namespaces = config().namespaces;
    namespaces[1].read_only = true;
    let rig = Rig::new(Config {
        namespaces,
        ..config()
    });
    let (_controller, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    let segments = pages(&memory);
    let mut outcome = |op, unit, shift, block, segments: &[Segment]| {
        complete(&mut queue, &command(op, unit, shift, block, segments)).unwrap()
    };
    let range = Err(IoError::Range);
    assert_eq!(outcome(Op::Read, 1, 9, 2048, &segments), range);
    assert_eq!(outcome(Op::Read, 1, 9, u64::MAX, &segments), range);
    let read_only = Err(IoError::ReadOnly);
    assert_eq!(outcome(Op::Write, 2, 12, 0, &segments), read_only);
    let unknown = outcome(Op::Read, 9, 9, 0, &segments);
    assert_eq!(unknown, Err(IoError::Device(0x400b)));
    let nowhere = [Segment::new(0x1000, 512)];
    // It might be there a little later.
    let read = command(Op::Read, 1, 9, 0, &nowhere);
    queue.submit(&read, Tag(1)).unwrap();
    queue.commit();
    let mut answers = Vec::new();
    for second in 0..20 {
        queue.poll(|tag, result| answers.push((tag.0, result)));
        queue.tick(second * 1_000_000_000);
    }
    assert_eq!(answers, [(1, Err(IoError::Transfer))]);
    assert_eq!(rig.disk.commands(), 4 + 6);
}

/// Whoever divides requests does not have to know which can be.
#[test]
fn a_flush_is_one_part_and_is_one() {
    let rig = Rig::new(Config {
        write_cache: true,
        ..Config::default()
    });
    let (controller, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    memory.write_bytes(0, &[7; 4096]);
    let segments = pages(&memory);
    let write = command(Op::Write, 1, 9, 8, &segments);
    assert_eq!(complete(&mut queue, &write), Ok(Ok(())));
    let flush = command(Op::Flush, 1, 9, 0, &[]);
    assert_eq!(queue.requests(&flush), Ok(1));
    let budget = Budget {
        commands: 1,
        bytes: 0,
    };
    let part = queue.submit_part(&flush, 0, budget, Tag(9)).unwrap();
    assert_eq!((part.blocks, part.commands), (0, 1));
    queue.commit();
    assert_eq!(drain(&mut queue), [(9, Ok(()))]);
    rig.disk.power_cut();
    assert_eq!(rig.disk.contents(1)[8 * 512..16 * 512], [7; 4096]);
    controller.shutdown([queue]).unwrap();
    rig.obeyed();
}

#[test]
fn flushed_writes_outlive_a_power_cut_and_others_do_not() {
    let rig = Rig::new(config());
    let (controller, mut queue) = rig.running(OPTIONS);
    let memory = rig.memory(1);
    memory.write_bytes(0, &[1; 4096]);
    let segments = pages(&memory);
    let write = |block| command(Op::Write, 1, 9, block, &segments);
    let flush = command(Op::Flush, 1, 9, 0, &[]);
    assert_eq!(complete(&mut queue, &write(0)), Ok(Ok(())));
    assert_eq!(complete(&mut queue, &flush), Ok(Ok(())));
    assert_eq!(complete(&mut queue, &write(8)), Ok(Ok(())));
    rig.disk.power_cut();
    let contents = rig.disk.contents(1);
    assert_eq!(contents[..4096], [1; 4096]);
    assert_eq!(contents[4096..8192], [0; 4096]);
    // A normal shutdown is as good as a flush.
    assert_eq!(complete(&mut queue, &write(8)), Ok(Ok(())));
    controller.shutdown([queue]).unwrap();
    rig.disk.power_cut();
    assert_eq!(rig.disk.contents(1)[4096..8192], [1; 4096]);
}

#[test]
fn whole_pages_in_any_order_go_where_they_belong() {
    let rig = Rig::new(config());
    let (_controller, mut queue) = rig.running(OPTIONS);
    let mut page = [0; 4096];
    for (unit, shift) in [(1, 9), (2, 12)] {
        for count in [2, 3, 8, 9, 10, 17, 64, 127, 128, 129] {
            let (from, to) = (rig.memory(count), rig.memory(count));
            for at in 0..count {
                from.write_bytes(at * 4096, &[at as u8 ^ 0x5a; 4096]);
            }
            // Neither side has them in the order in which they are on the disk.
            let (mut source, mut target) = (pages(&from), pages(&to));
            source.reverse();
            target.rotate_left(1);
            let write = command(Op::Write, unit, shift, 8, &source);
            assert_eq!(complete(&mut queue, &write), Ok(Ok(())));
            let one = rig.memory(1);
            for at in 0..count {
                // One page alone takes another way.
                let block = 8 + ((at as u64 * 4096) >> shift);
                let alone = pages(&one);
                let read = command(Op::Read, unit, shift, block, &alone);
                assert_eq!(complete(&mut queue, &read), Ok(Ok(())));
                one.read_bytes(0, &mut page);
                assert_eq!(
                    page,
                    [(count - 1 - at) as u8 ^ 0x5a; 4096],
                    "{at} of {count}"
                );
            }
            let read = command(Op::Read, unit, shift, 8, &target);
            assert_eq!(complete(&mut queue, &read), Ok(Ok(())));
            for at in 0..count {
                to.read_bytes((at + 1) % count * 4096, &mut page);
                assert_eq!(
                    page,
                    [(count - 1 - at) as u8 ^ 0x5a; 4096],
                    "{at} of {count}"
                );
            }
        }
    }
    rig.obeyed();
}
