//! A worker of the kernel's kind: its types fit together, and what it is lent is what it uses.

use std::sync::Arc;

use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Next, Order, Report};
use spindle_blkif::{Attachment, Config, Counted, Gate, Session};
use spindle_block::{Command, DiskQueue, Op, RamDisk, SubmitError, Tag, Unit};
use spindle_control::CoreWorker;
use spindle_datapath::{Core, Events, Grants, Queue, RingWorker};
use spindle_hw::DmaAlloc;
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, journal};
use spindle_xen::DomId;
use spindle_xen::event::Port;

const PORT: Port = Port(5);

#[test]
fn a_write_for_a_disk_without_a_queue_is_copied_refused_and_told_of() {
    let bus: &'static FakeBus = Box::leak(Box::new(FakeBus::new()));
    let grants: &'static FakeGrants<'static> = Box::leak(Box::new(FakeGrants::new(bus)));
    let events: &'static FakeEvents = Box::leak(Box::default());
    let buffers = bus.alloc(64).unwrap();
    let mut front = Blkfront::new(grants, DomId(1), 1, 0);
    let attachment = Attachment {
        domain: DomId(1),
        port: PORT,
        volume: RamDisk::new(1 << 20, bus).unwrap().volume("ram0", 0),
        abi: Abi::Native,
        start: 0,
        window: None,
        persistent: false,
        indirect_segments: 0,
        gate: Gate::members(1).remove(0),
        claims: None,
        losses: Default::default(),
        journal: journal(&front.ring()),
    };
    let session = Session::new(front.ring(), attachment).unwrap();
    let stats = Arc::<CoreStats>::default();
    let lent: Grants = Box::new(grants);
    let lent = Counted::new(lent, Arc::clone(&stats));
    let told: Events = Box::new(events);
    let core = Core::new(Config::default(), vec![Queue::None], lent, told, buffers).unwrap();
    let link = Arc::new(Link::default());
    let mut worker = RingWorker::new(core, Arc::clone(&link), PollTime::Always, stats.clone());

    assert!(!worker.has_orders());
    assert_eq!(worker.ports().count(), 0);
    let session = Box::new(session);
    link.orders
        .put(Order::Attach { token: 1, session })
        .unwrap();
    assert!(worker.has_orders());
    worker.turn(0);
    assert!(!worker.has_orders());
    let attached = link.reports.take();
    assert!(matches!(attached, Some(Report::Attached { token: 1, .. })));
    assert_eq!(worker.ports().collect::<Vec<_>>(), [PORT]);

    let page = front.page(false);
    front.push(Operation::WRITE, 0, &[page.segment(0, 7)]);
    front.publish();
    assert_eq!(worker.turn(1000), Next::Turn);
    let answers: Vec<_> = front.answers().iter().map(|answer| answer.status).collect();
    assert_eq!(answers, [RspStatus::ERROR]);
    assert_eq!(events.sent(PORT), 1);
    assert_eq!(stats.snapshot().grant_calls, 1);
    assert!(worker.listen());
    // What comes between the last look and the request for an event is not slept through.
    front.push(Operation::WRITE, 0, &[page.segment(0, 7)]);
    front.publish();
    assert!(!worker.listen());
    assert_eq!(format!("{worker:?}"), "RingWorker { .. }");
}

#[test]
fn no_queue_takes_nothing_and_holds_nothing() {
    let mut queue = Queue::None;
    let flush = Command {
        op: Op::Flush,
        unit: Unit(1),
        block_shift: 9,
        block: 0,
        blocks: 0,
        segments: &[],
    };
    assert_eq!(queue.submit(&flush, Tag(1)), Err(SubmitError::Gone));
    queue.commit();
    queue.tick(1);
    queue.fail_all(|_, _| unreachable!("nothing was taken"));
    assert_eq!(queue.poll(|_, _| unreachable!("nothing was taken")), 0);
    assert_eq!(queue.in_flight(), 0);
}
