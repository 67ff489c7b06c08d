//! Rings on several disks beside others, and queues that are full.

use proptest::prelude::*;
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_block::DiskQueue;
use spindle_testkit::blkfront::{Blkfront, GuestPage};

use super::common::{COPIED, MAPPED, PERSISTENT, Rig, assert_all};
use super::{assemble, disks, indirect, rig, stretch};

/// Asks for so many large reads of `sectors` sectors in all, and for a flush.
fn flood(front: &mut Blkfront<'_>, pages: &[GuestPage], requests: u64, sectors: u64) {
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    for number in 0..requests {
        let list = front.list(&segments);
        let at = number * 256 % (sectors - 255);
        front.push_indirect(Operation::READ, at, list.gref, 32);
    }
    front.publish();
}

fn pages(front: &Blkfront<'_>) -> Vec<GuestPage> {
    (0..32).map(|_| front.page(false)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 32 }))]

    /// However few places the queues have, no two rings wait for each other.
    #[test]
    fn rings_on_several_disks_and_on_one_all_get_on(
        depth in prop_oneof![1..4usize, 16..40usize],
        hows in prop::array::uniform4(prop::sample::select(vec![PERSISTENT, MAPPED, COPIED])),
        chunk in prop_oneof![Just(1u64), Just(8), Just(24)],
        requests in 1..12u64,
    ) {
        let mut rig = rig(depth);
        let rows = 960 / chunk / 2;
        let forth = [stretch(rows * chunk * 2, chunk, &[(0, 0), (1, 0)])];
        let back = [stretch(rows * chunk * 2, chunk, &[(1, 960), (0, 960)])];
        let mut all = Vec::new();
        for (dom, how) in (1u16..).zip(hows) {
            match dom {
                1 => assemble(&mut rig, 9, &forth),
                2 => assemble(&mut rig, 9, &back),
                _ => rig.volume = disks(&rig, 9).swap_remove(usize::from(dom) - 3),
            }
            let (ring, front) = rig.attach(dom, indirect(how));
            let pages = pages(&front);
            all.push((ring, front, pages));
        }
        for _ in 0..3 {
            for (_, front, pages) in &mut all {
                flood(front, pages, requests, 900);
                front.push(Operation::FLUSH, 0, &[]);
                front.publish();
            }
            rig.visit_until_idle(100_000);
            for (_, front, _) in &mut all {
                assert_all(&front.answers(), requests as usize + 1, RspStatus::OKAY);
            }
        }
        for (ring, ..) in all {
            rig.detach(ring);
        }
        rig.assert_nothing_leaked();
    }
}

/// Each disk is shared for itself: one with rivals is not flooded, and there is room for their next
/// request, and what goes to the other is nothing to them.
#[test]
fn a_disk_is_shared_with_rings_that_are_on_that_one_alone() {
    let mut rig = rig(256);
    assemble(&mut rig, 9, &[stretch(1920, 8, &[(0, 0), (1, 0)])]);
    let (_, mut front) = rig.attach(1, indirect(PERSISTENT));
    let front_pages = pages(&front);
    rig.volume = disks(&rig, 9).swap_remove(1);
    let (_, mut other) = rig.attach(2, PERSISTENT);
    let other_pages = pages(&other);
    let one = [other_pages[0].segment(0, 7)];
    // Both are known to have work; the pages are mapped.
    flood(&mut front, &front_pages, 1, 900);
    other.push(Operation::READ, 0, &one);
    other.publish();
    rig.visit_until_idle(100_000);
    let mut now = 1000;
    let with = |rig: &mut Rig, now: &mut u64| {
        (0..20).for_each(|_| {
            *now += 1000;
            let _ = rig.core.visit(*now);
        });
        [0, 1].map(|disk| rig.nth(disk).in_flight())
    };
    (rig.nth(0).hold, rig.nth(1).hold) = (true, true);
    other.push(Operation::READ, 0, &one);
    other.publish();
    with(&mut rig, &mut now);
    flood(&mut front, &front_pages, 16, 900);
    let [alone, shared] = with(&mut rig, &mut now);
    assert!(shared < 128, "{shared} commands beside a rival");
    assert!(alone <= 256);
    for more in 1..4 {
        other.push(Operation::READ, 0, &one);
        other.publish();
        assert_eq!(
            with(&mut rig, &mut now)[1],
            shared + more,
            "no room for a rival's next"
        );
    }
    (rig.nth(0).hold, rig.nth(1).hold) = (false, false);
    for _ in 0..20 {
        with(&mut rig, &mut now);
    }
    assert_eq!(with(&mut rig, &mut now), [0, 0]);
    assert_all(&front.answers(), 17, RspStatus::OKAY);
    assert_all(&other.answers(), 5, RspStatus::OKAY);
}

/// A request of as many pieces as it has sectors takes no more than others.
#[test]
fn pieces_of_a_sector_each_wait_for_places_and_all_arrive() {
    for how in [PERSISTENT, MAPPED, COPIED] {
        let mut rig = rig(3);
        let runs: Vec<_> = (0..256).map(|at| (at as usize % 3, at / 3 * 2)).collect();
        let stretches: Vec<_> = runs.iter().map(|&run| stretch(1, 0, &[run])).collect();
        assemble(&mut rig, 9, &stretches);
        let (ring, mut front) = rig.attach(1, indirect(how));
        let pages = pages(&front);
        flood(&mut front, &pages, 2, 256);
        assert_all(&rig.settle(&mut front), 2, RspStatus::OKAY);
        let commands: usize = [0, 1, 2]
            .map(|disk| rig.nth(disk).submitted.len())
            .iter()
            .sum();
        assert_eq!(commands, 512);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}
