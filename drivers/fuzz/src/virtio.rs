//! A virtio disk that says and does anything, under the driver's bring-up, data path and end.

mod liar;

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use liar::Liar;
use spindle_block::{Command, DiskOptions, DiskQueue, Op, Unit};
use spindle_hw::DmaAlloc;
use spindle_pci::{BarWindow, Bus, Placement};
use spindle_testkit::mem::FakeBus;
use spindle_testkit::pci::FakePci;
use spindle_testkit::virtio::{Config, FakeVirtio, Fault};
use spindle_virtio::{Disk, Layout, PciTransport};

use crate::audit::{Audited, Busy, pieces};
use crate::steps;

#[derive(Arbitrary, Debug)]
enum Step {
    Submit {
        op: u8,
        block: u64,
        pieces: u8,
        len: u16,
    },
    Commit,
    Poll,
    /// The next request of this type is never answered.
    Swallow(u8),
    /// The next request of this type ends with this status.
    Fail(u8, u8),
    /// A used entry out of nowhere.
    Post(u32, u32),
    /// The same for a request that may be in flight.
    Finish(u8),
    /// Used entries that are not there.
    Skip(u16),
    Resize(u64),
    Look,
    Tick(u64),
    FailAll,
}

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let options = DiskOptions {
        queues: input.arbitrary::<u16>().unwrap_or(0) % 4,
        depth: input.arbitrary::<u16>().unwrap_or(0) % 80,
        ..DiskOptions::default()
    };
    let bus = Arc::new(FakeBus::new());
    let memory = bus.alloc(8).expect("the bus has memory");
    let device = FakeVirtio::new(bus.clone(), Config::default());
    let mut function = device.function();
    // The capabilities, with some words of the fuzzer's.
    let words = input.arbitrary::<u8>().unwrap_or(0) % 4;
    for _ in 0..words {
        let at = 0x34 + usize::from(input.arbitrary::<u8>().unwrap_or(0) % 26) * 4;
        function = function.with(at, input.arbitrary().unwrap_or(0));
    }
    let pci = FakePci::new();
    pci.insert((0, 5, 0), function);
    let pci = Bus::new(pci);
    let at = pci.scan()[0].address;
    let mut window = BarWindow::HVM;
    let Ok(bars) = pci.enable(at, Placement::Assign(&mut window)) else {
        return;
    };
    let Ok(layout) = Layout::find(&pci, at, &bars) else {
        return;
    };
    let lies = usize::from(input.arbitrary::<u8>().unwrap_or(0));
    let lies = input.bytes(lies.min(input.len())).unwrap_or_default();
    let liar = Liar::new(device.clone(), lies);
    let transport = PciTransport::new(layout, |_| Ok::<_, ()>(liar.clone()));
    let transport = transport.expect("no BAR is refused");
    let Ok(mut disk) = Disk::start(transport, Busy::default(), &*bus, options) else {
        return;
    };
    assert!(disk.queues() >= 1 && disk.queues() <= options.queues.max(1));
    let volume = disk.volume(0, 0);
    assert!(matches!(volume.block_shift, 9 | 12));
    assert!(volume.sectors <= i64::MAX as u64 >> 9);
    assert!(volume.physical_block_shift >= volume.block_shift);
    assert!(volume.aliases.iter().all(|name| !name.contains(['/', ' '])));
    let block = 1u32 << volume.block_shift;
    let whole = |discard: spindle_block::Discard| discard.granularity.is_multiple_of(block);
    assert!(volume.discard.is_none_or(whole));

    let queue = disk.create_queue(liar.clone()).expect("there is a queue");
    let mut books = Audited::new(queue);
    for (tag, step) in steps(&mut input, 200) {
        match step {
            Step::Submit {
                op,
                block,
                pieces: count,
                len,
            } => {
                let ops = [
                    Op::Read,
                    Op::Write,
                    Op::WriteThrough,
                    Op::Flush,
                    Op::Discard,
                    Op::SecureDiscard,
                ];
                let op = ops[usize::from(op) % ops.len()];
                let mut segments = Vec::new();
                if matches!(op, Op::Read | Op::Write | Op::WriteThrough) {
                    segments = pieces(&memory, count, u32::from(len) % 4096 + 1);
                }
                let command = Command {
                    op,
                    unit: Unit(0),
                    block_shift: volume.block_shift,
                    block,
                    blocks: if segments.is_empty() { block } else { 0 },
                    segments: &segments,
                };
                books.submit(&command, tag);
            }
            Step::Commit => books.queue.commit(),
            Step::Poll => books.poll(),
            Step::Swallow(kind) => device.arm(Fault::Swallow((kind % 16).into())),
            Step::Fail(kind, status) => device.arm(Fault::Fail((kind % 16).into(), status)),
            Step::Post(id, len) => device.post(0, id, len),
            Step::Finish(id) => device.post(0, u32::from(id) % 80, 1),
            Step::Skip(entries) => device.skip(0, entries),
            Step::Resize(sectors) => device.resize(sectors),
            Step::Look => {
                let _ = disk.health();
                if let Ok(Some(sectors)) = disk.resized() {
                    assert_eq!(disk.volume(0, 0).sectors, sectors);
                }
            }
            Step::Tick(now_ns) => books.queue.tick(now_ns),
            Step::FailAll => books.fail_all(),
        }
        books.check();
    }
    books.fail_all();
    // It was given up, so that it cannot be flushed; but it can be reset, if it plays along.
    let _ = disk.shutdown([books.queue]);
    let honest = words == 0 && lies.is_empty();
    assert!(
        !honest || bus.outstanding() == memory.len() / 4096,
        "memory lost"
    );
}
