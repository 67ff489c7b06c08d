//! The queue that is any disk's: each call reaches the disk behind it, and none is reached where
//! there is none.
// UNSAFETY: a RAM disk's queue of the kernel's kind reaches memory by address. Here it may reach
// none.
#![expect(unsafe_code)]

use spindle_block::{Budget, DiskQueue, IoError, Op, Part, RamDisk, Segment, SubmitError, Tag};
use spindle_datapath::Queue;
use spindle_hw::IdentityMap;
use spindle_testkit::mem::FakeBus;
use spindle_testkit::queue::{command, complete, discard, drain};

const MIB: u64 = 1 << 20;

/// As a part of a command, this is what a queue without parts of its own makes of it.
const BUDGET: Budget = Budget {
    commands: 1,
    bytes: 4096,
};

/// A RAM disk of one MiB, with a queue for two commands.
fn ram() -> Queue {
    let disk = RamDisk::new(MIB, &FakeBus::new()).unwrap();
    // SAFETY: there is no window that would have to be memory.
    let no_memory = unsafe { IdentityMap::new(&[]) };
    Queue::Ram(disk.queue(2, no_memory))
}

#[test]
fn a_ram_disk_takes_commands_until_it_is_full_and_answers_them() {
    let mut queue = ram();
    assert_eq!(queue.depth(), 2);
    assert_eq!((queue.in_flight(), queue.is_working()), (0, false));
    let flush = command(Op::Flush, 0, &[]);
    assert_eq!(queue.requests(&flush), Ok(1));
    queue.submit(&flush, Tag(3)).unwrap();
    let nowhere = [Segment::new(4096, 1024)];
    let read = command(Op::Read, 0, &nowhere);
    let part = queue.submit_part(&read, 0, BUDGET, Tag(4));
    let taken = Part {
        blocks: 2,
        commands: 1,
    };
    assert_eq!(part, Ok(taken));
    assert_eq!(queue.in_flight(), 2);
    assert_eq!(queue.submit(&flush, Tag(5)), Err(SubmitError::Full));
    let full = queue.submit_part(&flush, 0, BUDGET, Tag(5));
    assert_eq!(full, Err(SubmitError::Full));
    queue.commit();
    let mut done = Vec::new();
    assert_eq!(queue.poll(|tag, result| done.push((tag, result))), 2);
    let expected = [(Tag(3), Ok(())), (Tag(4), Err(IoError::Transfer))];
    assert_eq!(done, expected);
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn a_ram_disk_works_on_a_discard_while_it_is_polled_and_can_be_given_up() {
    let mut queue = ram();
    let all = discard(Op::Discard, 0, MIB / 512);
    assert_eq!(complete(&mut queue, &all), Ok(Ok(())));
    queue.submit(&all, Tag(1)).unwrap();
    queue.tick(1);
    assert!(queue.is_working());
    assert_eq!(drain(&mut queue), []);
    let mut done = Vec::new();
    queue.fail_all(|tag, result| done.push((tag, result)));
    assert_eq!(done, [(Tag(1), Err(IoError::Aborted))]);
    assert!(!queue.is_working());
    assert_eq!(queue.depth(), 0, "it takes none any more");
    assert_eq!(queue.submit(&all, Tag(2)), Err(SubmitError::Gone));
}

#[test]
fn where_there_is_no_queue_every_way_to_submit_says_so() {
    let mut queue = Queue::None;
    let flush = command(Op::Flush, 0, &[]);
    assert_eq!(queue.requests(&flush), Err(SubmitError::Gone));
    let part = queue.submit_part(&flush, 0, BUDGET, Tag(1));
    assert_eq!(part, Err(SubmitError::Gone));
    assert_eq!((queue.depth(), queue.is_working()), (0, false));
}
