//! A ring core on a null disk: what guests get of the disk that stores nothing.

use std::sync::Arc;

use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Order, Report, Worker};
use spindle_blkif::{Attachment, Config, Gate, RingCore, Session, Window};
use spindle_block::{BlockController, NullController, NullQueue};
use spindle_hw::DmaAlloc;
use spindle_testkit::blkfront::{Blkfront, GuestPage, fill};
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, journal};
use spindle_xen::DomId;
use spindle_xen::event::Port;

type Queue = NullQueue<&'static FakeBus>;

fn bytes(page: &GuestPage) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    page.memory.read_bytes(0, &mut bytes);
    bytes
}

/// Writes, reads back, discards and flushes, with data copied or by persistent grants. The buffers
/// have other data in them at first; the ring core cleans those that it copies from, so that it is
/// with persistent grants that the zeroes show to come from the disk.
fn serves_zeroes(persistent: bool) {
    let bus: &'static FakeBus = Box::leak(Box::new(FakeBus::new()));
    let grants: &'static FakeGrants<'static> = Box::leak(Box::new(FakeGrants::new(bus)));
    let events: &'static FakeEvents = Box::leak(Box::default());
    let disk = NullController::new("null0".into(), 1 << 20, bus, bus).unwrap();
    let mut disk: Box<dyn BlockController<Queue>> = Box::new(disk);
    let buffers = bus.alloc(64).unwrap();
    buffers.write_bytes(0, &[0x5a; 64 * 4096]);
    let queue = disk.create_queue().unwrap();
    let core = RingCore::new(Config::default(), vec![queue], grants, events, buffers).unwrap();
    let link = Arc::new(Link::default());
    let stats = Arc::<CoreStats>::default();
    let mut worker = Worker::new(core, link.clone(), PollTime::Always, stats);
    for domain in [1, 2] {
        let mut front = Blkfront::new(grants, DomId(domain), 1, 0);
        let attachment = Attachment {
            domain: DomId(domain),
            port: Port(domain.into()),
            volume: disk.volumes(0).remove(0),
            abi: Abi::Native,
            start: 0,
            window: persistent.then(|| Window::new(u64::from(domain) << 40, 64).unwrap()),
            persistent,
            indirect_segments: 0,
            gate: Gate::members(1).remove(0),
            claims: None,
            losses: Default::default(),
            journal: journal(&front.ring()),
        };
        let session = Box::new(Session::new(front.ring(), attachment).unwrap());
        let token = domain.into();
        link.orders.put(Order::Attach { token, session }).unwrap();
        let mut now = 0;
        let mut turns = || {
            for _ in 0..8 {
                now += 100;
                worker.turn(now);
            }
        };
        turns();
        assert!(matches!(link.reports.take(), Some(Report::Attached { .. })));
        let secret = front.page(false);
        fill(&secret.memory, 7);
        let read = front.page(false);
        fill(&read.memory, 8);
        let before = bytes(&read);
        front.push(Operation::WRITE, 8, &[secret.segment(0, 7)]);
        front.publish();
        turns();
        front.push(Operation::READ, 8, &[read.segment(2, 5)]);
        front.push(Operation::FLUSH, 0, &[]);
        front.push_discard(0, 2048, true);
        front.publish();
        turns();
        let statuses: Vec<_> = front.answers().iter().map(|a| a.status).collect();
        assert_eq!(statuses, [RspStatus::OKAY; 4]);
        let after = bytes(&read);
        assert!(
            after[1024..3072] == [0; 2048],
            "zeroes where it was read to"
        );
        assert!(after[..1024] == before[..1024] && after[3072..] == before[3072..]);
        // One sector too many.
        front.push(Operation::READ, 2041, &[read.segment(0, 7)]);
        front.publish();
        turns();
        let statuses: Vec<_> = front.answers().iter().map(|a| a.status).collect();
        assert_eq!(statuses, [RspStatus::ERROR]);
    }
}

#[test]
fn reads_of_a_null_disk_give_zeroes_by_grant_copy() {
    serves_zeroes(false);
}

#[test]
fn reads_of_a_null_disk_give_zeroes_by_persistent_grants() {
    serves_zeroes(true);
}
