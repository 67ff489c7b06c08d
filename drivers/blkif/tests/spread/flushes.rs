//! Flushes, barriers and discards of a volume on several disks.

use spindle_blkif::RingId;
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_block::{IoError, Op, SubmitError};
use spindle_testkit::blkfront::Blkfront;

use super::common::{COPIED, PERSISTENT, Rig, assert_all};
use super::{DISKS, assemble, rig, stretch, visits};

/// A page on each disk.
fn three(depth: usize) -> (Rig, RingId, Blkfront<'static>) {
    let mut rig = rig(depth);
    let stretches = [0, 1, 2].map(|disk| stretch(8, 0, &[(disk, 80)]));
    assemble(&mut rig, 9, &stretches);
    let (ring, front) = rig.attach(1, PERSISTENT);
    (rig, ring, front)
}

fn ops(rig: &mut Rig) -> [Vec<Op>; DISKS] {
    [0, 1, 2].map(|disk| {
        let submitted = std::mem::take(&mut rig.nth(disk).submitted);
        submitted.into_iter().map(|(op, ..)| op).collect()
    })
}

#[test]
fn a_flush_goes_to_each_disk_with_a_cache_at_once_and_ends_with_the_last() {
    let (mut rig, ring, mut front) = three(256);
    (rig.nth(1).hold, rig.nth(2).hold) = (true, true);
    front.push(Operation::FLUSH, 0, &[]);
    front.publish();
    visits(&mut rig);
    assert_eq!(ops(&mut rig), [vec![], vec![Op::Flush], vec![Op::Flush]]);
    rig.nth(1).hold = false;
    visits(&mut rig);
    assert_all(&front.answers(), 0, RspStatus::OKAY);
    rig.nth(2).hold = false;
    assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
    rig.detach(ring);
}

#[test]
fn the_worst_of_several_disks_counts() {
    let (unknown, bad) = (Err(IoError::Unsupported), Err(IoError::Medium));
    for (results, status) in [
        ([Ok(()), Ok(())], RspStatus::OKAY),
        ([Ok(()), bad], RspStatus::ERROR),
        ([bad, Ok(())], RspStatus::ERROR),
        ([unknown, Ok(())], RspStatus::EOPNOTSUPP),
        ([Ok(()), unknown], RspStatus::EOPNOTSUPP),
        ([unknown, bad], RspStatus::ERROR),
        ([bad, unknown], RspStatus::ERROR),
    ] {
        let (mut rig, ring, mut front) = three(256);
        for (disk, result) in (1..).zip(results) {
            rig.nth(disk).results.push_back(result);
        }
        front.push(Operation::FLUSH, 0, &[]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, status);
        rig.detach(ring);
    }
}

/// What is answered before it is on all disks would be taken for durable.
#[test]
fn a_flush_that_came_when_another_had_begun_is_not_answered_with_it() {
    let (mut rig, ring, mut front) = three(1);
    let (other_ring, mut other) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    // The queue of the last disk has no place, so that the first flush is on its way for long.
    rig.nth(2).hold = true;
    front.push(Operation::READ, 16, &[page.segment(0, 7)]);
    front.push(Operation::FLUSH, 0, &[]);
    front.publish();
    visits(&mut rig);
    assert_eq!(ops(&mut rig), [vec![], vec![Op::Flush], vec![Op::Read]]);
    other.push(Operation::FLUSH, 0, &[]);
    other.publish();
    visits(&mut rig);
    rig.nth(2).hold = false;
    assert_all(&rig.settle(&mut front), 2, RspStatus::OKAY);
    assert_all(&rig.settle(&mut other), 1, RspStatus::OKAY);
    let flushes = [vec![], vec![Op::Flush], vec![Op::Flush; 2]];
    assert_eq!(ops(&mut rig), flushes);
    rig.detach(ring);
    rig.detach(other_ring);
}

#[test]
fn flushes_that_wait_for_one_are_answered_by_the_next() {
    let (mut rig, ring, mut front) = three(256);
    let (other_ring, mut other) = rig.attach(1, PERSISTENT);
    let (third_ring, mut third) = rig.attach(2, PERSISTENT);
    rig.nth(1).hold = true;
    front.push(Operation::FLUSH, 0, &[]);
    front.publish();
    rig.core.visit(0);
    for front in [&mut front, &mut other] {
        for _ in 0..3 {
            front.push(Operation::FLUSH, 0, &[]);
        }
        front.publish();
    }
    third.push(Operation::FLUSH, 0, &[]);
    third.publish();
    visits(&mut rig);
    rig.nth(1).hold = false;
    assert_all(&rig.settle(&mut front), 4, RspStatus::OKAY);
    rig.settle(&mut other);
    // One for those of the guest that waited, of both rings, and one of the other guest.
    let flushes = [vec![], vec![Op::Flush; 3], vec![Op::Flush; 3]];
    assert_eq!(ops(&mut rig), flushes);
    assert_all(&third.answers(), 1, RspStatus::OKAY);
    for ring in [ring, other_ring, third_ring] {
        rig.detach(ring);
    }
}

/// Though both are on the same disks.
#[test]
fn a_flush_of_one_volume_is_none_of_another() {
    let (mut rig, ring, mut front) = three(256);
    let stretches = [0, 1, 2].map(|disk| stretch(8, 0, &[(disk, 160)]));
    assemble(&mut rig, 9, &stretches);
    let (other_ring, mut other) = rig.attach(1, PERSISTENT);
    rig.nth(1).hold = true;
    for front in [&mut front, &mut other] {
        front.push(Operation::FLUSH, 0, &[]);
        front.publish();
    }
    visits(&mut rig);
    assert_eq!(ops(&mut rig)[1], [Op::Flush; 2]);
    rig.nth(1).hold = false;
    assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
    assert_all(&rig.settle(&mut other), 1, RspStatus::OKAY);
    rig.detach(ring);
    rig.detach(other_ring);
}

#[test]
fn a_barrier_writes_through_the_caches_that_there_are() {
    for how in [PERSISTENT, COPIED] {
        for write_through in [true, false] {
            let (mut rig, ring, _) = three(256);
            rig.detach(ring);
            let (ring, mut front) = rig.attach(1, how);
            rig.nth(2).write_through = write_through;
            let page = front.page(false);
            let segments = [page.segment(0, 7); 3];
            front.push(Operation::WRITE_BARRIER, 0, &segments);
            front.publish();
            assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
            let through = [Op::Flush, Op::WriteThrough];
            if write_through {
                let expected = [vec![Op::Write], through.to_vec(), through.to_vec()];
                assert_eq!(ops(&mut rig), expected);
            } else {
                // Written again, into the caches, once a disk does not know how to write through one.
                let [plain, first, second] = ops(&mut rig);
                assert_eq!(plain, [Op::Write, Op::Write]);
                assert_eq!(first[..2], through);
                assert_eq!(first[2..], [Op::Write, Op::Flush]);
                assert_eq!(second, [Op::Flush, Op::Write, Op::Flush]);
            }
            rig.detach(ring);
            rig.assert_nothing_leaked();
        }
    }
}

/// However small the stripes are, a discard is a command for each.
#[test]
fn a_discard_of_stripes_is_a_command_for_each_disk() {
    let mut rig = rig(256);
    assemble(&mut rig, 9, &[stretch(1200, 8, &[(0, 80), (1, 0), (2, 8)])]);
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    front.push_discard(8, 1100, false);
    front.push_discard(0, 8, false);
    front.publish();
    assert_all(&rig.settle(&mut front), 2, RspStatus::OKAY);
    let discarded = [0, 1, 2].map(|disk| rig.nth(disk).discarded.clone());
    assert_eq!(discarded, [vec![364, 8], vec![368], vec![368]]);
    rig.nth(1).discards = false;
    front.push_discard(0, 1200, false);
    front.push_discard(0, 8, false);
    front.publish();
    let answers: Vec<_> = rig
        .settle(&mut front)
        .into_iter()
        .map(|a| a.status)
        .collect();
    assert!(answers.contains(&RspStatus::EOPNOTSUPP) && answers.contains(&RspStatus::OKAY));
    rig.nth(1).refuse = Some(SubmitError::Gone);
    front.push_discard(0, 1200, false);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::ERROR);
    rig.detach(ring);
}
