//! A controller that says and does anything, under the driver's bring-up, data path and end.

mod liar;

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use liar::Liar;
use spindle_block::{Command, DiskOptions, DiskQueue, Op, Unit};
use spindle_hw::DmaAlloc;
use spindle_nvme::Controller;
use spindle_testkit::mem::FakeBus;

use crate::audit::{Audited, Busy, pieces};
use crate::steps;

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
    const LENT: usize = 64 << 10;
    if let Ok(bytes) = controller.lend(LENT as u64) {
        assert!(bytes <= LENT);
    }
    let Ok(queue) = controller.create_queue(liar.clone()) else {
        let _ = controller.shutdown(Vec::<spindle_nvme::QueuePair<Liar<'_>>>::new());
        return;
    };
    let mut books = Audited::new(queue);
    let (mut lost, mut now) = (false, 0);
    for (tag, step) in steps(&mut input, 200) {
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
                    // In whole sectors.
                    segments = pieces(&memory, pages, (1 + u32::from(torn) % 8) * 512);
                }
                let command = Command {
                    op,
                    unit: Unit(1),
                    block_shift: 9,
                    block: block >> 9,
                    blocks: if op == Op::Discard { block << 3 } else { 0 },
                    segments: &segments,
                };
                books.submit(&command, tag);
            }
            Step::Commit => books.queue.commit(),
            Step::Post { cid, status } => liar.post_io(cid, status),
            Step::Finish(cid) => liar.post_io(u16::from(cid) % 80, 0),
            Step::Word(at, word) => liar.scribble(at, word),
            Step::Poll => books.poll(),
            Step::Tick(seconds) => {
                now += u64::from(seconds) * 1_000_000_000;
                books.queue.tick(now);
            }
            Step::Attend => {
                let attention = controller.attend();
                lost |= attention.lost.is_some();
                assert!(!(lost && attention.soon), "nothing is left to do");
            }
            Step::FailAll => books.fail_all(),
        }
        books.check();
    }
    books.fail_all();
    if controller.shutdown([books.queue]).is_ok() {
        assert_eq!(bus.outstanding(), memory.len() / 4096, "memory lost");
    }
}
