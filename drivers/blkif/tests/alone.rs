//! A ring that is awake alone is served without a whole visit; nothing else is forgotten for that, however
//! busy it is.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use common::{PERSISTENT, Rig};
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Next, Order, Report, Worker};
use spindle_blkif::{Config, RingCore, Session};
use spindle_block::{Command, DiskQueue, IoResult, SubmitError, Tag};
use spindle_hw::DmaAlloc;
use spindle_testkit::blkfront::{Blkfront, GuestPage};
use spindle_testkit::grants::{FakeEvents, FakeGrants};

/// From turn to turn, in nanoseconds.
const STEP: u64 = 100;

/// A disk that answers at the next poll, and counts the calls of its queue.
#[derive(Debug, Default)]
struct QuickQueue {
    counts: Rc<Counts>,
    tags: Vec<Tag>,
}

#[derive(Debug, Default)]
struct Counts {
    submitted: Cell<u32>,
    commits: Cell<u32>,
    ticks: Cell<u32>,
}

fn more(counter: &Cell<u32>) {
    counter.set(counter.get() + 1);
}

impl DiskQueue for QuickQueue {
    fn submit(&mut self, _: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        more(&self.counts.submitted);
        self.tags.push(tag);
        Ok(())
    }

    fn commit(&mut self) {
        more(&self.counts.commits);
    }

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        self.tags.drain(..).map(|tag| done(tag, Ok(()))).count()
    }

    fn in_flight(&self) -> usize {
        self.tags.len()
    }

    fn tick(&mut self, _: u64) {
        more(&self.counts.ticks);
    }

    fn fail_all(&mut self, _: impl FnMut(Tag, IoResult)) {}
}

struct Desk {
    rig: Rig,
    worker: Worker<QuickQueue, &'static FakeGrants<'static>, &'static FakeEvents>,
    link: Arc<Link<QuickQueue>>,
    stats: Arc<CoreStats>,
    counts: Rc<Counts>,
    now: u64,
}

impl Desk {
    fn new() -> Self {
        let rig = Rig::new();
        let queue = QuickQueue::default();
        let counts = Rc::clone(&queue.counts);
        let buffers = rig.bus.alloc(32).unwrap();
        let config = Config::default();
        let core = RingCore::new(config, vec![queue], rig.grants, rig.events, buffers).unwrap();
        let (link, stats) = (Arc::<Link<_>>::default(), Arc::<CoreStats>::default());
        let (ours, counted) = (Arc::clone(&link), Arc::clone(&stats));
        let worker = Worker::new(core, ours, PollTime::Always, counted);
        let now = 1_000_000;
        Self {
            rig,
            worker,
            link,
            stats,
            counts,
            now,
        }
    }

    fn attach(&mut self) -> Blkfront<'static> {
        let (session, front) = self.rig.session(1, PERSISTENT);
        let session: Box<Session> = Box::new(session);
        self.link
            .orders
            .put(Order::Attach { token: 7, session })
            .unwrap();
        self.turn();
        let report = self.link.reports.take();
        assert!(matches!(report, Some(Report::Attached { .. })));
        front
    }

    fn turn(&mut self) {
        self.now += STEP;
        assert_eq!(self.worker.turn(self.now), Next::Turn);
    }

    /// One request and its answer, each in one turn.
    fn request(&mut self, front: &mut Blkfront<'static>, page: &GuestPage) {
        let submitted = self.counts.submitted.get();
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        front.publish();
        self.turn();
        assert_eq!(self.counts.submitted.get(), submitted + 1, "in one turn");
        self.turn();
        let answers = front.answers();
        assert_eq!(answers.len(), 1, "in one turn");
        assert_eq!(answers[0].status, RspStatus::OKAY);
    }
}

#[test]
fn time_orders_and_counters_go_on_as_long_as_every_turn_finds_work() {
    let mut desk = Desk::new();
    let mut front = desk.attach();
    let page = front.page(false);
    let before = desk.stats.snapshot();
    let (ticks, began) = (desk.counts.ticks.get(), desk.now);
    for _ in 0..2000 {
        desk.request(&mut front, &page);
    }
    let due = ((desk.now - began) / 17_000) as u32;
    assert!(desk.counts.ticks.get() - ticks >= due, "as often as ever");
    for _ in 0..20 {
        let done = desk.link.done();
        desk.link.orders.put(Order::Renew(0)).unwrap();
        desk.request(&mut front, &page);
        assert_eq!(desk.link.done(), done + 1);
        (0..200).for_each(|_| desk.request(&mut front, &page));
    }
    assert_eq!(desk.counts.commits.get(), desk.counts.submitted.get());
    let turns = (desk.now - began) / STEP;
    // Turns that follow each other are counted together, by the first that is another one.
    let ended = desk.now;
    desk.now += 17_000;
    desk.turn();
    let after = desk.stats.snapshot();
    assert_eq!(after.polls_busy - before.polls_busy, turns);
    assert!(after.busy_ns - before.busy_ns + STEP >= ended - began);
}

#[test]
fn what_does_not_go_straight_to_the_disk_is_no_later() {
    let mut desk = Desk::new();
    let mut front = desk.attach();
    let page = front.page(false);
    for _ in 0..40 {
        desk.request(&mut front, &page);
        // To be mapped.
        let other = front.page(false);
        desk.request(&mut front, &other);
        front.push(Operation::FLUSH, 0, &[]);
        front.publish();
        desk.turn();
        desk.turn();
        assert_eq!(front.answers().len(), 1);
    }
}

#[test]
fn another_ring_that_wakes_is_found_in_time_and_served_as_well() {
    let mut desk = Desk::new();
    let (mut busy, mut other) = (desk.attach(), desk.attach());
    let pages = [busy.page(false), other.page(false)];
    desk.request(&mut other, &pages[1]);
    for _ in 0..20 {
        // It has nothing left to be done, and falls asleep.
        (0..3).for_each(|_| desk.turn());
        desk.now += 2_000_000_000;
        for _ in 0..300 {
            desk.request(&mut busy, &pages[0]);
        }
        other.push(Operation::READ, 0, &[pages[1].segment(0, 7)]);
        other.publish();
        let began = desk.now;
        while other.answers().is_empty() {
            busy.push(Operation::READ, 0, &[pages[0].segment(0, 7)]);
            busy.publish();
            desk.turn();
            desk.turn();
            assert_eq!(busy.answers().len(), 1);
            let waited = desk.now - began;
            assert!(waited < 131_072 + 16_384 + 10 * STEP, "{waited}");
        }
    }
}
