//! Rings that have had nothing to do for long cost a core nothing, and are found again in time: by the
//! core that polls, without an event; by the core that is about to rest, at once; by a barrier.

mod common;

use common::{PERSISTENT, Rig, Sizes, assert_all};
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_blkif::{Config, Gate, Session};
use spindle_testkit::blkfront::{Blkfront, GuestPage};

/// Within this time and a visit a ring is found that was asleep.
const FOUND_NS: u64 = 1 << 17;
const SECOND_NS: u64 = 1_000_000_000;

struct Guest {
    front: Blkfront<'static>,
    page: GuestPage,
}

impl Guest {
    fn new(front: Blkfront<'static>) -> Self {
        let page = front.page(false);
        Self { front, page }
    }

    fn ask(&mut self, operation: Operation) {
        self.front.push(operation, 0, &[self.page.segment(0, 7)]);
        self.front.publish();
    }
}

/// A core with so many rings that have all been used, and then were still for seconds.
fn asleep(rings: u16) -> (Rig, Vec<Guest>, u64) {
    let sizes = Sizes {
        config: Config {
            rings: rings.into(),
            ..Config::default()
        },
        ..Sizes::default()
    };
    let mut rig = Rig::sized(&sizes);
    let mut guests: Vec<_> = (1..=rings)
        .map(|dom| Guest::new(rig.attach(dom, PERSISTENT).1))
        .collect();
    let now = all_fall_asleep(&mut rig, &mut guests);
    (rig, guests, now)
}

/// Has all be used and then be still: gives the time.
fn all_fall_asleep(rig: &mut Rig, guests: &mut [Guest]) -> u64 {
    let mut now = SECOND_NS;
    guests
        .iter_mut()
        .for_each(|guest| guest.ask(Operation::READ));
    for _ in 0..20 {
        now += 1000;
        rig.core.visit(now);
    }
    for guest in &mut *guests {
        assert_all(&guest.front.answers(), 1, RspStatus::OKAY);
    }
    now += 2 * SECOND_NS;
    for _ in 0..=guests.len() {
        now += 1000;
        rig.core.visit(now);
    }
    assert_eq!(rig.core.waits().count(), 0, "all are asleep");
    now
}

#[test]
fn a_core_that_polls_finds_a_request_in_time_without_an_event() {
    for step in [150, 5_000, FOUND_NS, 7 * FOUND_NS] {
        let (mut rig, mut guests, mut now) = asleep(60);
        for guest in [0, 37, 59] {
            let asked = now;
            guests[guest].ask(Operation::READ);
            let answers = loop {
                now += step;
                rig.core.visit(now);
                let answers = guests[guest].front.answers();
                if !answers.is_empty() {
                    break answers;
                }
                assert!(
                    now < asked + FOUND_NS + FOUND_NS / 60 + 4 * step,
                    "{guest} {step}"
                );
            };
            assert_all(&answers, 1, RspStatus::OKAY);
        }
    }
}

#[test]
fn a_ring_in_use_is_found_by_every_visit() {
    let (mut rig, mut guests, mut now) = asleep(50);
    // Once it is awake, each request is taken by the visit after it.
    now += FOUND_NS;
    guests[7].ask(Operation::READ);
    rig.core.visit(now);
    for _ in 0..100 {
        rig.core.visit(now);
        assert_all(&guests[7].front.answers(), 1, RspStatus::OKAY);
        now += SECOND_NS / 1000;
        guests[7].ask(Operation::READ);
        assert_eq!(rig.core.visit(now).taken, 1);
    }
}

#[test]
fn a_core_that_is_about_to_rest_finds_a_request_of_any_ring() {
    let (mut rig, mut guests, now) = asleep(60);
    assert!(rig.core.listen(), "there is none");
    guests[55].ask(Operation::READ);
    // The event ends the rest: no time has to go by.
    assert_eq!(rig.core.visit(now).taken, 1);
    rig.core.visit(now);
    assert_all(&guests[55].front.answers(), 1, RspStatus::OKAY);
    guests[12].ask(Operation::READ);
    assert!(!rig.core.listen());
    assert_eq!(rig.core.visit(now).taken, 1);
}

#[test]
fn a_barrier_drains_the_rings_of_its_device_that_are_asleep() {
    let mut rig = Rig::new();
    rig.volume.write_cache = true;
    let members = Gate::members(2).into_iter().enumerate();
    let mut guests: Vec<_> = members
        .map(|(dom, gate)| {
            let (mut attachment, front) = rig.attachment(dom as u16 + 1, &PERSISTENT);
            attachment.gate = gate;
            let session = Session::new(front.ring(), attachment).unwrap();
            rig.core.attach(session).unwrap();
            Guest::new(front)
        })
        .collect();
    let mut now = all_fall_asleep(&mut rig, &mut guests);
    guests[0].ask(Operation::WRITE_BARRIER);
    for _ in 0..2 * FOUND_NS / 1000 {
        now += 1000;
        rig.core.visit(now);
    }
    assert_all(&guests[0].front.answers(), 1, RspStatus::OKAY);
}

#[test]
fn a_ring_that_is_asleep_can_be_detached_and_its_place_taken() {
    let (mut rig, mut guests, mut now) = asleep(3);
    rig.detach(spindle_blkif::RingId(1));
    let (ring, front) = rig.attach(9, PERSISTENT);
    assert_eq!(ring.0, 1);
    guests[1] = Guest::new(front);
    for guest in &mut guests {
        guest.ask(Operation::READ);
    }
    for _ in 0..4 {
        now += FOUND_NS;
        rig.core.visit(now);
    }
    for guest in &mut guests {
        assert_all(&guest.front.answers(), 1, RspStatus::OKAY);
    }
}
