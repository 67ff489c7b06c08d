//! A RAM disk behind the disk interface.

use spindle_block::{
    DiskQueue, IoError, IoResult, Op, RamDisk, RamQueue, Segment, SubmitError, Tag,
};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_testkit::mem::FakeBus;
use spindle_testkit::queue::{command, complete, discard, drain, fail_all, pages};

#[test]
fn what_was_written_is_read_back_across_a_chunk_border() {
    let bus = FakeBus::new();
    let disk = RamDisk::new(2 << 20, &bus).unwrap();
    let mut queue = disk.queue(4, &bus);
    let memory = bus.alloc(1).unwrap();
    let bytes: Vec<u8> = (0..2048).map(|i| (i % 251) as u8).collect();
    memory.write_bytes(0, &bytes);
    let border = (1 << 20) / 512 - 2;
    let from = [Segment::new(memory.bus(), 2048)];
    let to = [Segment::new(memory.bus() + 2048, 2048)];
    queue
        .submit(&command(Op::Write, border, &from), Tag(1))
        .unwrap();
    queue
        .submit(&command(Op::Read, border, &to), Tag(2))
        .unwrap();
    assert_eq!(drain(&mut queue), [(1, Ok(())), (2, Ok(()))]);
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
    let good = [Segment::new(memory.bus(), 512)];
    let nowhere = [Segment::new(4096, 512)];
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
    let expected = [(1, Err(IoError::Range)), (2, Err(IoError::Transfer))];
    assert_eq!(drain(&mut queue), expected);
    assert_eq!(queue.in_flight(), 0);
}

/// Polls until nothing is in flight; gives what was done, and in how many polls.
fn finish(queue: &mut RamQueue<&FakeBus>) -> (Vec<(u32, IoResult)>, usize) {
    let mut done = Vec::new();
    for polls in 0..1000 {
        if queue.in_flight() == 0 {
            assert!(!queue.is_working());
            return (done, polls);
        }
        done.extend(drain(queue));
    }
    panic!("it does not end");
}

/// Fills a disk of `mib` MiB with a byte that is not zero, by a queue of its own.
fn filled(bus: &FakeBus, mib: u64) -> (RamDisk, RamQueue<&FakeBus>, SharedPages) {
    let disk = RamDisk::new(mib << 20, bus).unwrap();
    let mut queue = disk.queue(4, bus);
    let page = bus.alloc(1).unwrap();
    page.write_bytes(0, &[0xa5; 4096]);
    for block in (0..mib << 11).step_by(8) {
        let write = complete(&mut queue, &command(Op::Write, block, &pages(&page)));
        assert_eq!(write, Ok(Ok(())));
    }
    (disk, queue, page)
}

/// Whether a block is all zeroes, or as it was filled.
fn is_zero(queue: &mut RamQueue<&FakeBus>, page: &SharedPages, block: u64) -> bool {
    let to = [Segment::new(page.bus(), 512)];
    let read = complete(queue, &command(Op::Read, block, &to));
    assert_eq!(read, Ok(Ok(())));
    let mut bytes = [1; 512];
    page.read_bytes(0, &mut bytes);
    assert!(bytes == [0; 512] || bytes == [0xa5; 512]);
    bytes == [0; 512]
}

#[test]
fn what_was_discarded_reads_as_zeroes_and_nothing_else_does() {
    let bus = FakeBus::new();
    let (disk, mut queue, page) = filled(&bus, 2);
    let offered = disk.volume("ram0", 0).discard.unwrap();
    assert_eq!((offered.granularity, offered.alignment), (512, 0));
    assert!(offered.secure);
    let border = (1 << 20) / 512;
    for (op, first, count) in [
        (Op::Discard, 3, 1),
        (Op::SecureDiscard, border - 2, 5),
        (Op::Discard, 4000, 96),
    ] {
        let erased = complete(&mut queue, &discard(op, first, count));
        assert_eq!(erased, Ok(Ok(())));
        let mut zero = |block| is_zero(&mut queue, &page, block);
        assert!(!zero(first - 1));
        assert!((first..first + count).all(&mut zero));
        assert!(first + count == 4096 || !zero(first + count));
    }
}

#[test]
fn a_large_discard_is_done_in_pieces_and_others_do_not_wait_for_it() {
    let bus = FakeBus::new();
    let (_, mut queue, page) = filled(&bus, 1);
    let all = discard(Op::SecureDiscard, 0, 2048);
    queue.submit(&all, Tag(1)).unwrap();
    queue.submit(&discard(Op::Discard, 0, 1), Tag(2)).unwrap();
    assert_eq!(queue.poll(|_, _| panic!("so soon")), 0);
    assert!(queue.is_working());
    let to = [Segment::new(page.bus(), 512)];
    // A piece has been zeroed by now, the end of the disk has not.
    for (tag, block, byte) in [(Tag(3), 0, 0), (Tag(4), 2047, 0xa5)] {
        queue.submit(&command(Op::Read, block, &to), tag).unwrap();
        assert_eq!(drain(&mut queue), [(tag.0, Ok(()))]);
        let mut bytes = [1; 512];
        page.read_bytes(0, &mut bytes);
        assert_eq!(bytes, [byte; 512]);
    }
    assert_eq!(queue.in_flight(), 2);
    let (done, polls) = finish(&mut queue);
    assert_eq!(done, [(1, Ok(())), (2, Ok(()))]);
    assert_eq!(polls, 4 - 3 + 1, "a quarter of a MiB in each");
    assert!((0..2048).all(|block| is_zero(&mut queue, &page, block)));
}

#[test]
fn discards_count_as_in_flight_and_fail_with_the_disk() {
    let bus = FakeBus::new();
    let (_, mut queue, _) = filled(&bus, 1);
    let past_the_end = [
        (2047, 2),
        (2048, 1),
        (u64::MAX, 1),
        (0, u64::MAX),
        (1 << 55, 0),
    ];
    for (first, count) in past_the_end {
        let answer = complete(&mut queue, &discard(Op::Discard, first, count));
        assert_eq!(answer, Ok(Err(IoError::Range)));
    }
    for tag in 0..4 {
        queue
            .submit(&discard(Op::Discard, 0, 2048), Tag(tag))
            .unwrap();
    }
    let full = queue.submit(&discard(Op::Discard, 0, 1), Tag(4));
    assert_eq!(full, Err(SubmitError::Full));
    queue.poll(|_, _| panic!("so soon"));
    let done = fail_all(&mut queue);
    assert_eq!(done, [0, 1, 2, 3].map(|tag| (tag, Err(IoError::Aborted))));
    assert_eq!((queue.in_flight(), queue.is_working()), (0, false));
    let after = queue.submit(&discard(Op::Discard, 0, 1), Tag(5));
    assert_eq!(after, Err(SubmitError::Gone));
}

#[test]
fn too_little_memory_leaves_nothing_behind() {
    let bus = FakeBus::new();
    bus.set_limit(300);
    assert!(RamDisk::new(2 << 20, &bus).is_none());
    assert_eq!(bus.outstanding(), 0);
}

#[test]
fn more_than_can_even_be_counted_in_memory_is_refused() {
    let bus = FakeBus::new();
    bus.set_limit(300);
    // A mistyped option asks for it.
    for bytes in [u64::MAX, 16_000_000_000 << 30] {
        assert!(RamDisk::new(bytes, &bus).is_none());
        assert_eq!(bus.outstanding(), 0);
    }
}
