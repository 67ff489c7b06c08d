//! A null disk behind the disk interfaces.

use spindle_block::{
    BlockController, DiskQueue, IoError, NullController, NullQueue, Op, Segment, SubmitError, Tag,
};
use spindle_hw::DmaAlloc;
use spindle_testkit::mem::FakeBus;
use spindle_testkit::queue::{command, complete, discard, drain, fail_all, pages};

type Queue<'a> = NullQueue<&'a FakeBus>;

fn disk(bus: &FakeBus, bytes: u64) -> Box<dyn BlockController<Queue<'_>> + '_> {
    Box::new(NullController::new("null3".into(), bytes, bus, bus).unwrap())
}

#[test]
fn reads_give_zeroes_whatever_was_written() {
    let bus = FakeBus::new();
    let mut disk = disk(&bus, 1 << 40);
    assert_eq!(disk.name(), "null3");
    assert_eq!(disk.volumes(1)[0].sectors, 1 << 31);
    assert_eq!(bus.outstanding(), 1, "one page, however large it is");
    let mut queue = disk.create_queue().unwrap();
    let memory = bus.alloc(3).unwrap();
    memory.write_bytes(0, &[0x5a; 3 * 4096]);
    let segments = pages(&memory);
    let last = (1 << 31) - 16;
    for op in [Op::Write, Op::WriteThrough, Op::Read] {
        let command = command(op, last, &segments[..2]);
        assert_eq!(complete(&mut queue, &command), Ok(Ok(())), "{op:?}");
    }
    let mut back = [1; 3 * 4096];
    memory.read_bytes(0, &mut back);
    assert!(back[..2 * 4096] == [0; 2 * 4096], "what was read");
    assert!(back[2 * 4096..] == [0x5a; 4096], "and no more");
    for op in [Op::Discard, Op::SecureDiscard] {
        assert_eq!(complete(&mut queue, &discard(op, 0, 1 << 31)), Ok(Ok(())));
    }
    assert_eq!(
        complete(&mut queue, &command(Op::Flush, 0, &[])),
        Ok(Ok(()))
    );
    disk.shutdown(vec![queue]).unwrap();
}

#[test]
fn what_is_beyond_the_end_or_no_memory_fails_alone() {
    let bus = FakeBus::new();
    let mut queue = disk(&bus, 8191).create_queue().unwrap();
    let memory = bus.alloc(1).unwrap();
    let sector = |bus| [Segment::new(bus, 512)];
    let good = sector(memory.bus());
    for (block, result) in [
        (14, Ok(())),
        (15, Err(IoError::Range)),
        (u64::MAX, Err(IoError::Range)),
    ] {
        for op in [Op::Read, Op::Write] {
            let answer = complete(&mut queue, &command(op, block, &good));
            assert_eq!(answer, Ok(result), "{op:?} {block}");
        }
    }
    let nowhere = sector(1 << 50);
    let read = command(Op::Read, 0, &nowhere);
    assert_eq!(complete(&mut queue, &read), Ok(Err(IoError::Transfer)));
    let beyond = complete(&mut queue, &discard(Op::Discard, 8, 8));
    assert_eq!(beyond, Ok(Err(IoError::Range)));
}

#[test]
fn it_takes_as_many_commands_as_it_says_and_answers_each_once() {
    let bus = FakeBus::new();
    let mut queue = disk(&bus, 1 << 20).create_queue().unwrap();
    let flush = command(Op::Flush, 0, &[]);
    let depth = queue.depth();
    for tag in 0..depth as u32 {
        queue.submit(&flush, Tag(tag)).unwrap();
    }
    assert_eq!(queue.submit(&flush, Tag(0)), Err(SubmitError::Full));
    assert_eq!(queue.in_flight(), depth);
    let done = drain(&mut queue);
    assert!(done.iter().map(|d| d.0).eq(0..depth as u32));
    assert_eq!((queue.in_flight(), drain(&mut queue)), (0, vec![]));
    queue.submit(&flush, Tag(9)).unwrap();
    assert_eq!(fail_all(&mut queue), [(9, Ok(()))]);
    assert_eq!(queue.submit(&flush, Tag(1)), Err(SubmitError::Gone));
}
