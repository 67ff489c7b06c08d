//! Volumes that grow while requests are under way, to blocks that need another map.

use spindle_blkif::RingGrowth;
use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_block::{Stretch, Volume};
use spindle_testkit::blkfront::{Blkfront, GuestPage, fill};

use super::common::{COPIED, MAPPED, PERSISTENT, Rig, assert_all};
use super::{assemble, disks, rig, stretch};

fn growth(rig: &Rig, volume: &Volume, front: &Blkfront<'_>) -> RingGrowth {
    let map = volume.map.as_ref().expect("it is in several pieces");
    let pages = front.ring().len() / 4096;
    let shape = (pages, Abi::Native, 32);
    assert_eq!(rig.volume.block_shift, volume.block_shift);
    RingGrowth::new(map, volume.sectors, volume.discard, shape).unwrap()
}

fn contents(page: &GuestPage) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    page.memory.read_bytes(0, &mut bytes);
    bytes
}

/// What a guest reads there that has a disk to itself.
fn read_raw(rig: &mut Rig, disk: &Volume, sector: u64) -> Vec<u8> {
    rig.volume = disk.clone();
    let (ring, mut front) = rig.attach(2, PERSISTENT);
    let page = front.page(false);
    front.push(Operation::READ, sector, &[page.segment(0, 7)]);
    front.publish();
    rig.visit_until_idle(1000);
    assert_all(&front.answers(), 1, RspStatus::OKAY);
    rig.detach(ring);
    contents(&page)
}

#[test]
fn a_ring_goes_on_with_the_new_map_once_it_has_answered_all_that_it_had_taken() {
    let first = stretch(64, 0, &[(0, 128)]);
    let spread = [first.clone(), stretch(64, 0, &[(1, 64)])];
    let more = [&spread[..], &[stretch(64, 8, &[(2, 0), (1, 256)])]].concat();
    let cases: [(&[Stretch], &[Stretch]); 2] = [(&[first], &spread), (&spread, &more)];
    for how in [PERSISTENT, MAPPED, COPIED] {
        for (before, after) in cases {
            let mut rig = rig(64);
            let disks = disks(&rig, 9);
            let assembled = |stretches: &[Stretch]| {
                Volume::assembled("vg/lv".into(), stretches, &disks).unwrap()
            };
            rig.volume = assembled(before);
            let (ring, mut front) = rig.attach(1, how);
            let (pages, end) = ([front.page(false), front.page(false)], rig.volume.sectors);
            rig.nth(0).hold = true;
            front.push(Operation::READ, 0, &[pages[0].segment(0, 7)]);
            front.publish();
            rig.core.visit(0);
            rig.core.begin_growth(ring);
            assert!(!rig.core.can_grow(ring), "a disk has a request");
            // What comes meanwhile waits.
            fill(&pages[1].memory, 7);
            front.push(Operation::WRITE, end, &[pages[1].segment(0, 7)]);
            front.publish();
            for _ in 0..10 {
                rig.core.visit(0);
            }
            assert_eq!(front.answers().len(), 0);
            rig.nth(0).hold = false;
            rig.visit_until_idle(1000);
            assert_all(&front.answers(), 1, RspStatus::OKAY);
            assert!(rig.core.can_grow(ring));
            let growth = growth(&rig, &assembled(after), &front);
            rig.core.grow(ring, growth);
            rig.visit_until_idle(1000);
            assert_all(&front.answers(), 1, RspStatus::OKAY);
            // And what was there is where it was.
            front.push(Operation::FLUSH, 0, &[]);
            front.push(Operation::READ, end - 8, &[pages[0].segment(0, 7)]);
            front.push(Operation::READ, end, &[pages[0].segment(0, 7)]);
            front.publish();
            rig.visit_until_idle(1000);
            assert_all(&front.answers(), 3, RspStatus::OKAY);
            front.push(Operation::READ, after_end(after), &[pages[0].segment(0, 7)]);
            front.publish();
            rig.visit_until_idle(1000);
            assert_all(&front.answers(), 1, RspStatus::ERROR);
            rig.detach(ring);
            let run = after.last().unwrap().runs[0];
            let there = read_raw(&mut rig, &disks[run.volume], run.sector);
            assert!(there == contents(&pages[1]), "another place was written");
            rig.assert_nothing_leaked();
        }
    }
}

fn after_end(stretches: &[Stretch]) -> u64 {
    stretches.iter().map(|stretch| stretch.sectors).sum()
}

/// A ring that leaves, or whose disk has gone, does not come back with another volume.
#[test]
fn a_ring_whose_disk_has_gone_reaches_nothing_when_it_grows() {
    let mut rig = rig(64);
    assemble(&mut rig, 9, &[stretch(64, 8, &[(0, 0), (1, 0)])]);
    let unit = rig.volume.unit;
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let grown = [stretch(64, 8, &[(0, 0), (1, 0)]), stretch(64, 0, &[(2, 0)])];
    let grown = Volume::assembled("vg/lv".into(), &grown, &disks(&rig, 9)).unwrap();
    rig.core.begin_growth(ring);
    rig.core.remove(0, unit);
    let growth = growth(&rig, &grown, &front);
    rig.core.grow(ring, growth);
    let page = front.page(false);
    for sector in [0, 64] {
        front.push(Operation::READ, sector, &[page.segment(0, 7)]);
    }
    front.publish();
    rig.visit_until_idle(1000);
    assert_all(&front.answers(), 2, RspStatus::ERROR);
    rig.detach(ring);
}
