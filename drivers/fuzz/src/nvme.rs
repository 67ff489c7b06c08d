//! A controller that says and does anything, under the driver's bring-up, data path and end.

mod liar;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use liar::Liar;
use spindle_block::{Command, DiskOptions, DiskQueue, Op, Segment, Tag, Unit};
use spindle_hw::{Clock, DmaAlloc};
use spindle_nvme::Controller;
use spindle_testkit::mem::FakeBus;

/// A clock that also moves when it is read, as real ones do.
#[derive(Default)]
pub(crate) struct Busy(Cell<u64>);

impl Clock for Busy {
    fn now_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1_000_000);
        self.0.get()
    }

    fn relax(&self) {
        self.0.set(self.0.get() + 50_000_000);
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    Submit {
        op: u8,
        block: u64,
        pages: u8,
        torn: u8,
    },
    Commit,
    /// A completion where the driver expects the next one.
    Post {
        cid: u16,
        status: u16,
    },
    /// The same for a command that may be in flight.
    Finish(u8),
    /// A word anywhere in the completion queue.
    Word(u16, u32),
    Poll,
    Tick(u16),
    Attend,
    FailAll,
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let options = DiskOptions {
        queues: input.arbitrary().unwrap_or(0),
        depth: input.arbitrary::<u16>().unwrap_or(0) % 80,
        ..DiskOptions::default()
    };
    let lies = usize::from(input.arbitrary::<u8>().unwrap_or(0)) * 4;
    let lies = input.bytes(lies.min(input.len())).unwrap_or_default();
    let bus = Arc::new(FakeBus::new());
    let memory = bus.alloc(8).expect("the bus has memory");
    let liar = Liar::new(&bus, lies);
    let Ok(mut controller) = Controller::start(liar.clone(), Busy::default(), &*bus, options)
    else {
        return;
    };
    assert!(controller.queues() >= 1 && controller.queues() <= options.queues.max(1));
    for volume in controller.volumes(0, 0) {
        assert!(matches!(volume.block_shift, 9 | 12));
        assert!(volume.sectors > 0 && volume.sectors <= i64::MAX as u64 >> 9);
        assert!(volume.physical_block_shift >= volume.block_shift);
        assert!(volume.description.is_ascii());
        assert!(volume.aliases.iter().all(|name| !name.contains(['/', ' '])));
    }
    let Ok(mut queue) = controller.create_queue(liar.clone()) else {
        let _ = controller.shutdown(Vec::<spindle_nvme::QueuePair<Liar<'_>>>::new());
        return;
    };
    let mut awaited = BTreeSet::new();
    let (mut gone, mut lost, mut now) = (false, false, 0);
    for tag in 0..200 {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else {
            break;
        };
        match step {
            Step::Submit {
                op,
                block,
                pages,
                torn,
            } => {
                let ops = [
                    Op::Read,
                    Op::Write,
                    Op::Flush,
                    Op::WriteThrough,
                    Op::Discard,
                ];
                let op = ops[usize::from(op) % ops.len()];
                let mut segments = Vec::new();
                if !matches!(op, Op::Flush | Op::Discard) {
                    segments.extend((0..u64::from(pages % 8) + 1).map(|page| Segment {
                        bus: memory.bus() + page * 4096,
                        len: 4096,
                    }));
                    // Holes in the memory, in whole sectors.
                    let sectors = 1 + u32::from(torn) % 8;
                    segments[0].len = sectors * 512;
                }
                let command = Command {
                    op,
                    unit: Unit(1),
                    block_shift: 9,
                    block: block >> 9,
                    blocks: if op == Op::Discard { block << 3 } else { 0 },
                    segments: &segments,
                };
                if queue.submit(&command, Tag(tag)).is_ok() {
                    assert!(!gone, "taken by a queue that was given up");
                    awaited.insert(tag);
                }
            }
            Step::Commit => queue.commit(),
            Step::Post { cid, status } => liar.post_io(cid, status),
            Step::Finish(cid) => liar.post_io(u16::from(cid) % 80, 0),
            Step::Word(at, word) => liar.scribble(at, word),
            Step::Poll => {
                let mut count = 0;
                let told = queue.poll(|tag, _| {
                    assert!(awaited.remove(&tag.0), "{tag:?} ended twice");
                    count += 1;
                });
                assert_eq!(told, count);
            }
            Step::Tick(seconds) => {
                now += u64::from(seconds) * 1_000_000_000;
                queue.tick(now);
            }
            Step::Attend => {
                let attention = controller.attend();
                lost |= attention.lost.is_some();
                assert!(!(lost && attention.soon), "nothing is left to do");
            }
            Step::FailAll => {
                queue.fail_all(|tag, _| assert!(awaited.remove(&tag.0)));
                assert!(awaited.is_empty(), "forgotten: {awaited:?}");
                gone = true;
            }
        }
        assert_eq!(queue.in_flight(), awaited.len());
    }
    queue.fail_all(|tag, _| assert!(awaited.remove(&tag.0)));
    assert!(awaited.is_empty(), "forgotten: {awaited:?}");
    if controller.shutdown([queue]).is_ok() {
        assert_eq!(bus.outstanding(), memory.len() / 4096, "memory lost");
    }
}
