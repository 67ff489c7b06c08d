//! No event is lost: frontends that look at their ring only when they are notified, on a core that
//! sleeps whenever it may, get every answer, and before long.

mod common;

use common::{PERSISTENT, Rig};
use proptest::prelude::*;
use spindle_blkif::abi::Operation;
use spindle_testkit::blkfront::{Blkfront, GuestPage};
use spindle_xen::event::Port;

/// The longest that an answer may lie unseen: events are held back for 8 ms at most.
const PATIENCE_NS: u64 = 9_000_000;

/// A frontend that works as Linux' does: its interrupt's handler takes all answers, asks for the
/// next event, and looks once more.
struct Driver {
    front: Blkfront<'static>,
    page: GuestPage,
    port: Port,
    seen: u64,
    /// Requests yet to be pushed.
    left: u32,
    depth: usize,
    answered: u32,
}

impl Driver {
    fn new(rig: &mut Rig, dom: u16, left: u32, depth: usize) -> Self {
        let (_, mut front) = rig.attach(dom, PERSISTENT);
        let page = front.page(false);
        front.arm(1);
        Self {
            front,
            page,
            port: Port(dom.into()),
            seen: 0,
            left,
            depth,
            answered: 0,
        }
    }

    fn has_event(&self, rig: &Rig) -> bool {
        rig.events.sent(self.port) > self.seen
    }

    fn handle(&mut self, rig: &Rig) {
        self.seen = rig.events.sent(self.port);
        loop {
            self.answered += self.front.answers().len() as u32;
            if !self.front.arm(1) {
                return;
            }
        }
    }

    /// Pushes at most `most` of what it has left; true if the core asked to be notified.
    fn submit(&mut self, most: usize) -> bool {
        let mut any = false;
        for _ in 0..most {
            if self.left == 0 || self.front.outstanding() >= self.depth {
                break;
            }
            self.front
                .push(Operation::READ, 0, &[self.page.segment(0, 7)]);
            self.left -= 1;
            any = true;
        }
        any && self.front.publish()
    }
}

/// Plays until all requests are answered, and panics if that takes too long. `bursts` are by how
/// many requests each frontend goes on when it goes on, `slow` how many turns it takes for that,
/// `gap` the time from turn to turn.
fn play(sizes: &[(u32, usize)], bursts: &[usize], slow: u64, gap: u64) {
    let mut rig = Rig::new();
    let mut drivers: Vec<_> = (1..)
        .zip(sizes)
        .map(|(dom, &(left, depth))| Driver::new(&mut rig, dom, left, depth))
        .collect();
    let (mut now, mut asleep, mut stuck) = (1_000_000_000, false, 0);
    let mut bursts = bursts.iter().copied().cycle();
    for turn in 0.. {
        now += gap;
        let mut moved = false;
        for driver in &mut drivers {
            if driver.has_event(&rig) {
                driver.handle(&rig);
                moved = true;
            }
            if turn % slow == 0 && driver.left > 0 {
                asleep &= !driver.submit(bursts.next().unwrap());
                moved = true;
            }
        }
        if !asleep {
            rig.core.visit(now);
            asleep = rig.core.arm();
        }
        if drivers
            .iter()
            .all(|d| d.left == 0 && d.front.outstanding() == 0)
        {
            return;
        }
        stuck = if moved { 0 } else { stuck + gap };
        let answered: Vec<_> = drivers.iter().map(|d| (d.answered, d.left)).collect();
        assert!(stuck < PATIENCE_NS, "asleep: {asleep}, {answered:?}");
    }
}

#[test]
fn a_frontend_that_is_behind_is_told_of_the_last_answers_too() {
    // It keeps 32 in flight, and has all but a few of them in its own hands when it stops.
    for last in 1..12 {
        play(&[(32 * 20 + last, 32)], &[32], 40, 10_000);
        play(&[(32 * 20 + last, 32)], &[32, 3, 1], 7, 1000);
    }
}

/// A ring that has had a deep queue for a while, so that events for it are held back; the time.
fn deep_and_busy() -> (Rig, Driver, u64) {
    let mut rig = Rig::new();
    let mut driver = Driver::new(&mut rig, 5, u32::MAX, 32);
    let mut now = 1_000_000_000;
    for _ in 0..20 {
        driver.submit(32);
        for _ in 0..2 {
            now += 50_000;
            rig.core.visit(now);
        }
        driver.handle(&rig);
    }
    (rig, driver, now)
}

#[test]
fn an_event_held_back_is_sent_in_time_though_nothing_else_happens() {
    let (mut rig, mut driver, mut now) = deep_and_busy();
    // With these few it is the one that is behind.
    driver.submit(4);
    now += 1000;
    rig.core.visit(now);
    now += 1000;
    rig.core.visit(now);
    assert!(!driver.has_event(&rig), "held back");
    // The core must not sleep over it without an end: it says so in both ways.
    assert!(!rig.core.arm());
    assert_eq!(rig.core.in_flight(), 4);
    let since = now;
    while !driver.has_event(&rig) {
        now += 10_000;
        rig.core.visit(now);
        assert!(now - since < PATIENCE_NS, "lost");
    }
    driver.handle(&rig);
    assert_eq!(driver.front.outstanding(), 0);
    assert!(rig.core.arm(), "and then it may sleep");
}

/// As when the ring is closed: nothing will be published there any more.
#[test]
fn an_event_held_back_is_sent_when_the_ring_is_halted() {
    let (mut rig, mut driver, mut now) = deep_and_busy();
    driver.submit(4);
    for _ in 0..2 {
        now += 1000;
        rig.core.visit(now);
    }
    assert!(!driver.has_event(&rig), "held back");
    // More requests than the ring has slots.
    driver
        .front
        .set_req_prod(driver.front.produced().wrapping_add(4000));
    for _ in 0..3 {
        now += 1000;
        rig.core.visit(now);
    }
    assert!(rig.core.next_fault().is_some());
    assert!(driver.has_event(&rig), "its answers are there");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 128 }))]

    #[test]
    fn frontends_that_wait_for_events_get_all_their_answers(
        sizes in prop::collection::vec((1u32..400, 1usize..33), 1..4),
        bursts in prop::collection::vec(1usize..33, 1..8),
        slow in 1u64..60,
        gap in prop_oneof![500u64..5_000, 5_000u64..200_000],
    ) {
        // It goes on again before it could be taken for one that waits.
        prop_assume!(slow * gap < PATIENCE_NS);
        play(&sizes, &bursts, slow, gap);
    }
}
