//! One guest against its neighbours on the same core and the same NVMe queue pair: what each kind of
//! request costs the others.

#[path = "common/on_nvme.rs"]
mod on_nvme;

use on_nvme::OnNvme;
use spindle_blkif::Config;
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_block::DiskQueue;
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::nvme::{self, Fault};

struct Bench(OnNvme);

impl Bench {
    fn new() -> Self {
        // As kernel/src/ring_cores.rs sets it up.
        let config = Config {
            rings: 256,
            segments: 256,
            ..Config::default()
        };
        let mut bench = Self(OnNvme::new(nvme::Config::default(), config, 256));
        let queue = bench.0.core.queue_mut(0).unwrap();
        assert_eq!(queue.capacity(), 255, "the kernel's own depth");
        bench
    }

    fn attach(&mut self, dom: u16, pages: usize) -> Blkfront<'static> {
        self.attach_as(dom, pages, true)
    }

    fn attach_as(&mut self, dom: u16, pages: usize, persistent: bool) -> Blkfront<'static> {
        self.0.attach(dom, pages, persistent, 256)
    }

    /// A visit of the core, then the disk does all that it was given.
    fn turn(&mut self) {
        self.0.visit(1_000_000);
        self.0.disk.run();
    }

    fn in_flight(&mut self) -> usize {
        self.0.core.queue_mut(0).unwrap().in_flight()
    }
}

/// How many turns of a millisecond a neighbour's one-page read takes, at most 20,000.
fn turns_for_neighbour(hostile_large: bool) -> u32 {
    let mut bench = Bench::new();
    let mut slow = bench.attach(1, 1);
    let mut evil = bench.attach(1, 1);
    let mut good = bench.attach(2, 1);
    let page = good.page(false);
    let segment = [page.segment(0, 7)];
    // Warm: the neighbour's page and the hostile ring's are mapped.
    good.push(Operation::READ, 0, &segment);
    good.publish();
    let evil_page = evil.page(false);
    evil.push(Operation::READ, 0, &[evil_page.segment(0, 7)]);
    evil.publish();
    for _ in 0..4 {
        bench.turn();
    }
    assert_eq!((good.answers().len(), evil.answers().len()), (1, 1));
    // The guest's first ring: one command that takes the disk long (a discard).
    bench.0.disk.arm(Fault::SwallowIo(9));
    slow.push_discard(0, 2048, false);
    slow.publish();
    bench.turn();
    assert_eq!(bench.in_flight(), 1);
    // Its second ring: one read of 255 pieces of 512 bytes.
    if hostile_large {
        let piece = evil_page.segment(1, 1);
        let list = evil.list(&[piece; 255]);
        evil.push_indirect(Operation::READ, 0, list.gref, 255);
        evil.publish();
        for _ in 0..4 {
            bench.turn();
        }
    }
    good.push(Operation::READ, 0, &segment);
    good.publish();
    for turn in 1..=20_000 {
        bench.turn();
        let answers = good.answers();
        if let [answer] = answers[..] {
            assert_eq!(answer.status, RspStatus::OKAY);
            return turn;
        }
        assert!(bench.in_flight() <= 2, "the queue is all but empty");
    }
    20_000
}

#[test]
fn control_a_slow_discard_alone_holds_nobody_up() {
    assert!(turns_for_neighbour(false) <= 3);
}

#[test]
fn a_large_scattered_request_does_not_stop_the_core_until_its_queue_is_empty() {
    let turns = turns_for_neighbour(true);
    assert!(
        turns <= 100,
        "a neighbour's read waited {turns} turns of 1 ms with 254 of 255 places free"
    );
}

/// Commands of one guest's rings that are with the disk at once, and whether a neighbour's read gets
/// there nevertheless.
fn most_in_flight(rings: usize, push: impl Fn(&mut Blkfront<'static>)) -> (usize, u32) {
    let mut bench = Bench::new();
    let mut evil: Vec<_> = (0..rings).map(|_| bench.attach(1, 16)).collect();
    let mut good = bench.attach(2, 1);
    let page = good.page(false);
    good.push(Operation::READ, 0, &[page.segment(0, 7)]);
    good.publish();
    for _ in 0..4 {
        bench.turn();
    }
    assert_eq!(good.answers().len(), 1);
    for evil in &mut evil {
        while evil.free() > 0 {
            push(evil);
        }
        evil.publish();
    }
    let mut most = 0;
    for _ in 0..40 {
        bench.0.visit(1000);
        most = most.max(bench.in_flight());
    }
    // Does a neighbour's read still get to the disk?
    good.push(Operation::READ, 0, &[page.segment(0, 7)]);
    good.publish();
    for _ in 0..40 {
        bench.0.visit(1000);
    }
    let before = bench.in_flight();
    (most, u32::from(before > most))
}

#[test]
fn a_guest_has_one_discard_and_one_flush_with_the_disk_by_however_many_rings() {
    for rings in [1, 8] {
        let discards = most_in_flight(rings, |front| {
            front.push_discard(0, 2048, false);
        });
        let flushes = most_in_flight(rings, |front| {
            front.push(Operation::FLUSH, 0, &[]);
        });
        let both = most_in_flight(rings, |front| {
            front.push(Operation::FLUSH, 0, &[]);
            front.push_discard(0, 2048, false);
        });
        assert_eq!(
            [discards, flushes, both],
            [(1, 1), (1, 1), (2, 1)],
            "{rings}"
        );
    }
}

#[test]
fn amplification_of_one_request() {
    let mut bench = Bench::new();
    let mut evil = bench.attach(1, 1);
    let page = evil.page(false);
    evil.push(Operation::READ, 0, &[page.segment(0, 7)]);
    evil.publish();
    for _ in 0..4 {
        bench.turn();
    }
    evil.answers();
    let before = bench.0.disk.commands();
    let list = evil.list(&[page.segment(1, 1); 255]);
    evil.push_indirect(Operation::READ, 0, list.gref, 255);
    evil.publish();
    for _ in 0..10 {
        bench.turn();
    }
    assert_eq!(evil.answers().len(), 1);
    let commands = bench.0.disk.commands() - before;
    assert!(
        commands <= 16,
        "one request of 127.5 KiB became {commands} NVMe commands"
    );
}

#[test]
fn one_ring_with_two_requests_does_not_stop_the_core_either() {
    let mut bench = Bench::new();
    let mut evil = bench.attach(1, 1);
    let mut good = bench.attach(2, 1);
    let page = good.page(false);
    let evil_page = evil.page(false);
    good.push(Operation::READ, 0, &[page.segment(0, 7)]);
    good.publish();
    evil.push(Operation::READ, 0, &[evil_page.segment(0, 7)]);
    evil.publish();
    for _ in 0..4 {
        bench.turn();
    }
    assert_eq!((good.answers().len(), evil.answers().len()), (1, 1));
    bench.0.disk.arm(Fault::SwallowIo(9));
    let list = evil.list(&[evil_page.segment(1, 1); 255]);
    evil.push_discard(0, 2048, false);
    evil.push_indirect(Operation::READ, 0, list.gref, 255);
    evil.publish();
    for _ in 0..4 {
        bench.turn();
    }
    // The neighbour keeps 16 reads going, as a busy guest does.
    for i in 0..16 {
        good.push(Operation::READ, i * 8, &[page.segment(0, 7)]);
    }
    good.publish();
    for _ in 0..1000 {
        bench.turn();
    }
    let answers = good.answers().len();
    assert_eq!(answers, 16, "of 16 reads of a neighbour in 1,000 turns");
}

/// The same with the buffers of grant copy: frontends without persistent grants.
fn turns_for_copied_neighbour(hostile_large: bool) -> u32 {
    let mut bench = Bench::new();
    let mut slow = bench.attach_as(1, 1, false);
    let mut evil = bench.attach_as(1, 1, false);
    let mut good = bench.attach_as(2, 1, false);
    let page = good.page(false);
    // One page that the disk reads slowly.
    bench.0.disk.arm(Fault::SwallowIo(2));
    let slow_page = slow.page(false);
    slow.push(Operation::READ, 0, &[slow_page.segment(0, 7)]);
    slow.publish();
    bench.turn();
    bench.turn();
    assert_eq!(bench.in_flight(), 1);
    if hostile_large {
        let evil_page = evil.page(false);
        let list = evil.list(&[evil_page.segment(0, 7); 256]);
        evil.push_indirect(Operation::READ, 0, list.gref, 256);
        evil.publish();
        for _ in 0..4 {
            bench.turn();
        }
    }
    good.push(Operation::READ, 0, &[page.segment(0, 7)]);
    good.publish();
    for turn in 1..=20_000 {
        bench.turn();
        if good.answers().len() == 1 {
            return turn;
        }
    }
    20_000
}

#[test]
fn control_a_slow_copied_read_alone_holds_nobody_up() {
    assert!(turns_for_copied_neighbour(false) <= 4);
}

#[test]
fn a_request_for_all_buffers_does_not_stop_the_core_until_all_are_free() {
    let turns = turns_for_copied_neighbour(true);
    assert!(
        turns <= 100,
        "a neighbour's read waited {turns} turns of 1 ms"
    );
}
