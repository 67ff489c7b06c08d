//! Turns that find nothing look at what can come from outside, and at nothing else; what comes is found
//! in the very next turn.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use common::{PERSISTENT, Rig};
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Next, Order, Report, Worker};
use spindle_blkif::{Config, RingCore};
use spindle_block::{Command, DiskQueue, IoResult, SubmitError, Tag};
use spindle_hw::DmaAlloc;
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::grants::{FakeEvents, FakeGrants};

/// A disk that answers when the test says so, and counts what it is asked.
#[derive(Debug, Default)]
struct Shown {
    answers: Cell<bool>,
    polls: Cell<u32>,
    ticks: Cell<u32>,
}

#[derive(Debug)]
struct SlowQueue {
    shown: Rc<Shown>,
    tags: Vec<Tag>,
}

impl DiskQueue for SlowQueue {
    fn submit(&mut self, _: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        self.tags.push(tag);
        Ok(())
    }

    fn commit(&mut self) {}

    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        self.shown.polls.set(self.shown.polls.get() + 1);
        if !self.shown.answers.get() {
            return 0;
        }
        self.tags.drain(..).map(|tag| done(tag, Ok(()))).count()
    }

    fn in_flight(&self) -> usize {
        self.tags.len()
    }

    fn is_stirred(&self) -> bool {
        self.shown.answers.get()
    }

    fn tick(&mut self, _: u64) {
        self.shown.ticks.set(self.shown.ticks.get() + 1);
    }

    fn fail_all(&mut self, _: impl FnMut(Tag, IoResult)) {}
}

struct Desk {
    worker: Worker<SlowQueue, &'static FakeGrants<'static>, &'static FakeEvents>,
    link: Arc<Link<SlowQueue>>,
    stats: Arc<CoreStats>,
    shown: Rc<Shown>,
    now: u64,
    /// Turns after the ring was attached.
    turns: u64,
}

impl Desk {
    fn new() -> (Self, Blkfront<'static>) {
        let mut rig = Rig::new();
        let shown = Rc::<Shown>::default();
        let queue = SlowQueue {
            shown: Rc::clone(&shown),
            tags: Vec::new(),
        };
        let (session, front) = rig.session(1, PERSISTENT);
        let buffers = rig.bus.alloc(32).unwrap();
        let config = Config::default();
        let core = RingCore::new(config, vec![queue], rig.grants, rig.events, buffers).unwrap();
        let (link, stats) = (Arc::<Link<_>>::default(), Arc::<CoreStats>::default());
        let poll = PollTime::Always;
        let worker = Worker::new(core, Arc::clone(&link), poll, Arc::clone(&stats));
        let mut desk = Self {
            worker,
            link,
            stats,
            shown,
            now: 1_000_000,
            turns: 0,
        };
        let session = Box::new(session);
        let order = Order::Attach { token: 7, session };
        desk.link.orders.put(order).unwrap();
        desk.turn();
        assert!(matches!(
            desk.link.reports.take(),
            Some(Report::Attached { token: 7, .. })
        ));
        (desk, front)
    }

    fn turn(&mut self) {
        self.now += 100;
        self.turns += 1;
        assert_eq!(self.worker.turn(self.now), Next::Turn);
    }

    /// So many turns of which none finds anything: how often the disk was polled in them.
    fn turns(&mut self, turns: u32) -> u32 {
        let before = self.shown.polls.get();
        (0..turns).for_each(|_| self.turn());
        self.shown.polls.get() - before
    }
}

#[test]
fn a_turn_visits_nothing_as_long_as_nothing_comes_and_what_comes_is_found_at_once() {
    let (mut desk, mut front) = Desk::new();
    let page = front.page(false);
    for round in 1..=20 {
        desk.turns(3);
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        front.publish();
        desk.turn();
        assert_eq!(front.answers().len(), 0);
        // The turn that finds nothing for the first time is a visit, before which it looks whether there is
        // little to do, and one that is due by the time.
        let looks = desk.turns(round * 5);
        assert!((1..=3).contains(&looks), "round {round}: {looks}");
        desk.shown.answers.set(true);
        desk.turn();
        let answers = front.answers();
        assert_eq!(answers.len(), 1, "round {round}");
        assert_eq!(answers[0].status, RspStatus::OKAY);
        desk.shown.answers.set(false);
    }
}

#[test]
fn an_order_is_carried_out_in_the_next_turn() {
    let (mut desk, _front) = Desk::new();
    desk.turns(50);
    desk.link.orders.put(Order::Renew(0)).unwrap();
    let done = desk.link.done();
    desk.turn();
    assert_eq!(desk.link.done(), done + 1);
}

#[test]
fn disks_are_told_the_time_and_turns_are_counted_however_quiet_it_is() {
    let (mut desk, mut front) = Desk::new();
    let page = front.page(false);
    front.push(Operation::READ, 0, &[page.segment(0, 7)]);
    front.publish();
    desk.turn();
    let (ticks, began) = (desk.shown.ticks.get(), desk.now);
    desk.turns(10_000);
    let due = ((desk.now - began) / 17_000) as u32;
    assert!(desk.shown.ticks.get() - ticks >= due, "as often as before");
    assert!(desk.shown.polls.get() < 150, "{}", desk.shown.polls.get());
    // All but those since the last visit, which are fewer than it takes for the next.
    let counted = desk.stats.snapshot();
    let turns = counted.polls_busy + counted.polls_idle;
    assert!(turns <= desk.turns && turns + 170 > desk.turns, "{turns}");
    let time = counted.busy_ns + counted.idle_ns;
    assert!(time + 17_000 + 1000 > desk.now - began, "{time}");
}
