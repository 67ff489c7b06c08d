//! A disk of a volume fails, or is lost, or may write to memory yet, or has another part removed.

use std::sync::Arc;

use proptest::prelude::*;
use spindle_blkif::RingId;
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_blkif::pacer::PollTime;
use spindle_blkif::stats::CoreStats;
use spindle_blkif::worker::{Link, Order, Worker};
use spindle_block::{IoError, SubmitError, Unit};
use spindle_testkit::blkfront::{Answer, Blkfront, GuestPage, fill};

use super::common::{COPIED, How, MAPPED, PERSISTENT, Rig, assert_all};
use super::{BUFFERS, four_pages, rig, visits};

const HOWS: [How; 3] = [PERSISTENT, MAPPED, COPIED];

fn bytes(page: &GuestPage) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    page.memory.read_bytes(0, &mut bytes);
    bytes
}

/// Which of the requests were answered with an error, in the order of their numbers.
fn failed(mut answers: Vec<Answer>) -> Vec<bool> {
    answers.sort_by_key(|answer| answer.id);
    let failed = |answer: &Answer| answer.status != RspStatus::OKAY;
    answers.iter().map(failed).collect()
}

/// A request for the first disk, one for the second, and one for both.
fn three(front: &mut Blkfront<'_>, op: Operation, pages: &[GuestPage]) {
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    front.push(op, 16, &segments[..2]);
    front.push(op, 8, &segments[2..3]);
    front.push(op, 4, &segments[3..5]);
    front.publish();
}

/// A ring on two disks by turns, and pages for its requests.
fn attached(how: How) -> (Rig, RingId, Blkfront<'static>, Vec<GuestPage>) {
    let mut rig = rig(256);
    four_pages(&mut rig);
    let (ring, front) = rig.attach(1, how);
    let pages = five(&front);
    (rig, ring, front, pages)
}

fn five(front: &Blkfront<'_>) -> Vec<GuestPage> {
    (0..5).map(|_| front.page(false)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]

    /// Whichever piece fails, in whichever order disks answer: its request fails, once, and no other.
    #[test]
    fn a_piece_that_fails_fails_its_request_alone(
        how in prop::sample::select(HOWS.to_vec()),
        disk in 0..2usize,
        fails in 0..4usize,
        held in 0..2usize,
        refuse: bool,
        most_pieces in prop_oneof![Just(usize::MAX), Just(1)],
    ) {
        let (mut rig, ring, mut front, pages) = attached(how);
        rig.nth(disk).most_pieces = most_pieces;
        rig.nth(held).hold = true;
        rig.nth(disk).results.extend((0..fails).map(|_| Ok(())));
        rig.nth(disk).results.push_back(Err(IoError::Medium));
        three(&mut front, Operation::WRITE, &pages);
        visits(&mut rig);
        if refuse {
            rig.nth(disk).refuse = Some(SubmitError::Gone);
            rig.nth(held).hold = false;
        }
        rig.nth(held).hold = false;
        let failed = failed(rig.settle(&mut front));
        prop_assert_eq!(failed.len(), 3);
        prop_assert!(failed.iter().filter(|&&failed| failed).count() <= 1 || refuse);
        prop_assert!(!failed[1 - disk], "it has nothing on that disk");
        rig.nth(disk).refuse = None;
        rig.nth(disk).results.clear();
        front.push(Operation::READ, 0, &[pages[0].segment(0, 7)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_disk_that_is_lost_fails_what_has_a_piece_on_it_and_nothing_else() {
    for how in HOWS {
        let (mut rig, ring, mut front, pages) = attached(how);
        (rig.nth(0).hold, rig.nth(1).hold) = (true, true);
        three(&mut front, Operation::READ, &pages);
        visits(&mut rig);
        rig.core.fail_disk(1);
        visits(&mut rig);
        // That of both is still with the other disk, which may write to its pages.
        assert_eq!(failed(front.answers()), [true]);
        rig.nth(0).hold = false;
        assert_eq!(failed(rig.settle(&mut front)), [false, true]);
        three(&mut front, Operation::WRITE, &pages);
        assert_eq!(failed(rig.settle(&mut front)), [false, true, true]);
        // What its cache held may be gone.
        front.push(Operation::FLUSH, 0, &[]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::ERROR);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

/// One that is back has what it had on its medium, and its guest must not take that for all.
#[test]
fn a_flush_fails_once_after_a_disk_of_the_volume_was_lost() {
    let mut rig = rig(256);
    four_pages(&mut rig);
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    rig.nth(1).back = true;
    rig.core.fail_disk(1);
    for status in [RspStatus::ERROR, RspStatus::OKAY] {
        front.push(Operation::FLUSH, 0, &[]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, status);
    }
    rig.detach(ring);
}

/// No page is unmapped that a disk that works is about to write to, and none is given back that one may
/// write to that does not.
#[test]
fn a_disk_is_cut_off_when_no_other_has_anything_of_its_volumes() {
    for how in HOWS {
        let mut rig = rig(3);
        four_pages(&mut rig);
        let (ring, mut front) = rig.attach(1, how);
        let (plain_ring, mut plain) = {
            rig.volume = super::disks(&rig, 9).swap_remove(1);
            rig.attach(2, how)
        };
        let pages = five(&front);
        let page = plain.page(false);
        for (seed, page) in (1..).zip(&pages) {
            fill(&page.memory, seed);
        }
        let written = bytes(&pages[4]);
        front.push(Operation::WRITE, 0, &[pages[4].segment(0, 7)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        (rig.nth(0).hold, rig.nth(1).hold) = (true, true);
        // They take all three places of the first disk, so that what comes for it then waits.
        three(&mut front, Operation::READ, &pages);
        plain.push(Operation::READ, 0, &[page.segment(0, 7)]);
        plain.publish();
        visits(&mut rig);
        front.push(Operation::READ, 0, &[pages[0].segment(0, 7)]);
        front.push(Operation::READ, 0, &[pages[2].segment(0, 7)]);
        front.publish();
        visits(&mut rig);
        let before = (rig.grants.outstanding(), rig.core.free_buffers());
        assert!(!rig.core.cut_off(1));
        visits(&mut rig);
        assert!(rig.core.is_cutting() && !rig.core.attend_cut_off());
        assert_eq!((rig.grants.outstanding(), rig.core.free_buffers()), before);
        assert_all(&front.answers(), 0, RspStatus::OKAY);
        assert_all(&plain.answers(), 0, RspStatus::OKAY);
        let sent = rig.nth(0).submitted.len();
        rig.nth(0).hold = false;
        visits(&mut rig);
        assert!(rig.core.attend_cut_off() && !rig.core.is_cutting());
        assert_eq!(
            rig.nth(0).submitted.len(),
            sent,
            "it was given more meanwhile"
        );
        assert_eq!(
            rig.grants.outstanding(),
            0,
            "the disk reaches pages of a guest"
        );
        let mut answers = front.answers();
        answers.extend(rig.settle(&mut front));
        // The two that had no place on the first disk yet are done there now.
        assert_eq!(failed(answers), [false, true, true, false, false]);
        assert_all(&rig.settle(&mut plain), 1, RspStatus::ERROR);
        assert!(bytes(&pages[0]) == written, "what was written there");
        assert!(bytes(&pages[2]) == written, "also by way of buffers");
        let lost = BUFFERS - rig.core.free_buffers();
        assert_eq!(lost > 0, how.frames.is_none());
        three(&mut front, Operation::WRITE, &pages);
        assert_eq!(failed(rig.settle(&mut front)), [false, true, true]);
        rig.detach(ring);
        rig.detach(plain_ring);
        assert_eq!(rig.grants.outstanding(), 0);
        assert_eq!(BUFFERS - rig.core.free_buffers(), lost);
    }
}

/// Nor does one wait for another that is to be cut off, too.
#[test]
fn two_disks_are_cut_off_at_once() {
    for how in HOWS {
        let (mut rig, ring, mut front, pages) = attached(how);
        (rig.nth(0).hold, rig.nth(1).hold) = (true, true);
        three(&mut front, Operation::READ, &pages);
        visits(&mut rig);
        assert!(!rig.core.cut_off(1));
        assert!(rig.core.cut_off(0));
        assert_eq!(rig.grants.outstanding(), 0);
        assert_all(&rig.settle(&mut front), 3, RspStatus::ERROR);
        rig.detach(ring);
        let lost = BUFFERS - rig.core.free_buffers();
        assert_eq!(lost, if how.frames.is_none() { 5 } else { 0 });
    }
}

/// Control takes an order for carried out by this, and then has the disk brought up again.
#[test]
fn an_order_to_cut_a_disk_off_counts_as_carried_out_when_it_is() {
    let (mut rig, _, mut front, pages) = attached(PERSISTENT);
    (rig.nth(0).hold, rig.nth(1).hold) = (true, true);
    three(&mut front, Operation::READ, &pages);
    let grants = rig.grants;
    let link = Arc::new(Link::default());
    let stats = Arc::<CoreStats>::default();
    let mut worker = Worker::new(rig.core, link.clone(), PollTime::For(1000), stats);
    let mut now = 0;
    let mut turns = |worker: &mut Worker<_, _, _>| {
        for _ in 0..10 {
            now += 100;
            worker.turn(now);
        }
    };
    turns(&mut worker);
    link.orders.put(Order::Begin(2)).unwrap();
    turns(&mut worker);
    assert_eq!(link.done(), 1);
    for order in [Order::CutOff(1), Order::Renew(2)] {
        link.orders.put(order).unwrap();
        turns(&mut worker);
        assert_eq!((link.done(), link.orders.is_full()), (1, false));
        assert!(grants.outstanding() > 0);
    }
    link.orders.put(Order::FailDisk(0)).unwrap();
    turns(&mut worker);
    assert_eq!((link.done(), grants.outstanding()), (4, 0));
    assert_all(&front.answers(), 3, RspStatus::ERROR);
}

#[test]
fn a_volume_of_which_a_part_is_removed_is_reached_no_more() {
    for how in HOWS {
        let (mut rig, ring, mut front, pages) = attached(how);
        rig.nth(0).hold = true;
        three(&mut front, Operation::READ, &pages);
        visits(&mut rig);
        rig.core.remove(1, Unit(0));
        let sent = [0, 1].map(|disk| rig.nth(disk).submitted.len());
        front.push(Operation::READ, 0, &[pages[0].segment(0, 7)]);
        front.push(Operation::FLUSH, 0, &[]);
        front.publish();
        visits(&mut rig);
        rig.nth(0).hold = false;
        let failed = failed(rig.settle(&mut front));
        assert_eq!(failed[failed.len() - 2..], [true, true]);
        assert_eq!([0, 1].map(|disk| rig.nth(disk).submitted.len()), sent);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_ring_waits_until_all_of_its_disks_may_be_used() {
    let mut rig = rig(256);
    four_pages(&mut rig);
    rig.core.hold();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let pages = five(&front);
    three(&mut front, Operation::READ, &pages);
    for disk in [2, 0] {
        rig.core.begin(disk);
        visits(&mut rig);
        assert!(rig.nth(0).submitted.is_empty());
    }
    rig.core.begin(1);
    assert_all(&rig.settle(&mut front), 3, RspStatus::OKAY);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}
