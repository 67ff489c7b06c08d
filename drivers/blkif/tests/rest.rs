//! A core rests only once it has done all that it can: all requests to a lost disk are answered
//! before, also those that wait in a ring, and though another disk has commands to be waited for.

mod common;

use std::sync::Arc;

use common::{COPIED, How, MAPPED, PERSISTENT, Rig, Sizes, TestDisk};
use proptest::prelude::*;
use spindle_blkif::Config;
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::worker::{Link, Next, Order, Worker};
use spindle_testkit::blkfront::Blkfront;
use spindle_testkit::grants::{FakeEvents, FakeGrants};

/// A frontend and what it asks for.
#[derive(Clone, Debug)]
struct Guest {
    /// Which of [`HOWS`].
    how: usize,
    /// Which disk it has.
    disk: usize,
    segments: usize,
    requests: usize,
}

const HOWS: [How; 3] = [COPIED, PERSISTENT, MAPPED];

fn guest() -> impl Strategy<Value = Guest> {
    let segments = prop::sample::select(vec![1usize, 2, 5, 11]);
    (0..3usize, 0..2usize, segments, 1..=32usize).prop_map(|(how, disk, segments, requests)| {
        Guest {
            how,
            disk,
            segments,
            requests,
        }
    })
}

fn push(front: &mut Blkfront<'static>, guest: &Guest, write: bool) {
    let pages: Vec<_> = (0..guest.segments).map(|_| front.page(false)).collect();
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    let operation = if write {
        Operation::WRITE
    } else {
        Operation::READ
    };
    for _ in 0..guest.requests {
        front.push(operation, 0, &segments);
    }
    front.publish();
}

/// Takes turns until the core rests: false if it does not in all that time.
fn turn_until_rest(
    worker: &mut Worker<TestDisk, &'static FakeGrants<'static>, &'static FakeEvents>,
    now: &mut u64,
) -> bool {
    for _ in 0..1000 {
        *now += 100;
        match worker.turn(*now) {
            Next::Turn => {}
            Next::Rest(_) if !worker.listen() => {}
            Next::Rest(_) | Next::Nap(_) => return !worker.has_orders(),
            Next::Stop => return false,
        }
    }
    false
}

proptest! {
    #[test]
    fn a_core_rests_over_nothing_that_a_lost_disk_has_left(
        guests in prop::collection::vec(guest(), 1..5),
        write: bool,
        before in 0..6usize,
        depth in prop::sample::select(vec![1usize, 4, 16, 64, 256]),
        buffers in prop::sample::select(vec![11usize, 16, 64]),
        copy_batch in prop::sample::select(vec![22usize, 40, 704]),
        poll in prop::sample::select(vec![0u64, 1000]),
    ) {
        let config = Config { copy_batch, rings: 8, ..Config::default() };
        let mut rig = Rig::sized(&Sizes { disks: 2, apart: false, depth, buffers, config });
        for disk in 0..2 {
            rig.core.queue_mut(disk).unwrap().hold = true;
        }
        let mut fronts = vec![];
        for (dom, guest) in (1..).zip(&guests) {
            rig.volume.disk = guest.disk;
            // Those with the other disk hold no buffers, or the others wait for these.
            let how = if guest.disk == 0 { HOWS[guest.how] } else { PERSISTENT };
            fronts.push(rig.attach(dom, how).1);
        }
        let link = Arc::new(Link::default());
        let poll = PollTime::For(poll);
        let mut worker = Worker::new(rig.core, link.clone(), poll, Arc::default());
        for (front, guest) in fronts.iter_mut().zip(&guests) {
            push(front, guest, write);
        }
        let mut now = 0;
        for _ in 0..before {
            now += 100;
            worker.turn(now);
        }
        link.orders.put(Order::FailDisk(0)).unwrap();
        prop_assert!(turn_until_rest(&mut worker, &mut now), "it never rests");
        for (front, guest) in fronts.iter_mut().zip(&guests).filter(|(_, guest)| guest.disk == 0) {
            let answers = front.answers();
            prop_assert_eq!(answers.len(), guest.requests, "{:?}", guest);
            prop_assert!(answers.iter().all(|answer| answer.status == RspStatus::ERROR));
        }
    }
}
