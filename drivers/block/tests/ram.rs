//! A RAM disk behind the disk interface.

use spindle_block::{Command, DiskQueue, IoError, Op, RamDisk, Segment, SubmitError, Tag, Unit};
use spindle_hw::DmaAlloc;
use spindle_testkit::mem::FakeBus;

fn command(op: Op, block: u64, segments: &[Segment]) -> Command<'_> {
    Command {
        op,
        unit: Unit(0),
        block_shift: 9,
        block,
        blocks: 0,
        segments,
    }
}

#[test]
fn what_was_written_is_read_back_across_a_chunk_border() {
    let bus = FakeBus::new();
    let disk = RamDisk::new(2 << 20, &bus).unwrap();
    let mut queue = disk.queue(4, &bus);
    let memory = bus.alloc(1).unwrap();
    let bytes: Vec<u8> = (0..2048).map(|i| (i % 251) as u8).collect();
    memory.write_bytes(0, &bytes);
    let border = (1 << 20) / 512 - 2;
    let from = [Segment {
        bus: memory.bus(),
        len: 2048,
    }];
    let to = [Segment {
        bus: memory.bus() + 2048,
        len: 2048,
    }];
    queue
        .submit(&command(Op::Write, border, &from), Tag(1))
        .unwrap();
    queue
        .submit(&command(Op::Read, border, &to), Tag(2))
        .unwrap();
    let mut done = Vec::new();
    assert_eq!(queue.poll(|tag, result| done.push((tag, result))), 2);
    assert_eq!(done, [(Tag(1), Ok(())), (Tag(2), Ok(()))]);
    let mut back = vec![0; 2048];
    memory.read_bytes(2048, &mut back);
    assert_eq!(back, bytes);
}

#[test]
fn a_command_past_the_end_or_into_no_memory_fails_alone() {
    let bus = FakeBus::new();
    let disk = RamDisk::new(1, &bus).unwrap();
    let volume = disk.volume("ram0", 0);
    assert_eq!(volume.sectors, 2048);
    let mut queue = disk.queue(2, &bus);
    let memory = bus.alloc(1).unwrap();
    let good = [Segment {
        bus: memory.bus(),
        len: 512,
    }];
    let nowhere = [Segment {
        bus: 4096,
        len: 512,
    }];
    queue
        .submit(&command(Op::Read, volume.sectors, &good), Tag(1))
        .unwrap();
    queue
        .submit(&command(Op::Read, 0, &nowhere), Tag(2))
        .unwrap();
    assert_eq!(
        queue.submit(&command(Op::Flush, 0, &[]), Tag(3)),
        Err(SubmitError::Full)
    );
    let mut done = Vec::new();
    queue.poll(|tag, result| done.push((tag, result)));
    assert_eq!(
        done,
        [
            (Tag(1), Err(IoError::Range)),
            (Tag(2), Err(IoError::Transfer))
        ]
    );
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn too_little_memory_leaves_nothing_behind() {
    let bus = FakeBus::new();
    bus.set_limit(300);
    assert!(RamDisk::new(2 << 20, &bus).is_none());
    assert_eq!(bus.outstanding(), 0);
}
