//! Grants that are mapped for each request and unmapped before its answer is there.

mod common;

use common::{How, MAPPED, Rig, assert_all};
use spindle_blkif::abi::{Operation, RspStatus};
use spindle_block::IoError;
use spindle_testkit::grants::{Call, Fault};
use spindle_xen::DomId;
use spindle_xen::grant::Status;

#[test]
fn a_guest_can_end_access_as_soon_as_it_has_its_answer() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, MAPPED);
    for round in 0..3 {
        let pages: Vec<_> = (0..8).map(|_| front.page(false)).collect();
        for (n, page) in pages.iter().enumerate() {
            let operation = Operation(n as u8 % 2);
            front.push(operation, 8 * n as u64, &[page.segment(0, 7)]);
        }
        rig.disk().results.push_back(Err(IoError::Medium));
        front.publish();
        for _ in 0..10 {
            rig.core.visit(0);
            if !front.answers().is_empty() {
                break;
            }
        }
        assert_eq!(front.outstanding(), 0);
        for page in pages {
            assert!(rig.grants.revoke(DomId(1), page.gref), "still mapped");
        }
        let counts = rig.grants.counts();
        assert_eq!(
            (counts.map_calls, counts.unmap_calls),
            (round + 1, round + 1)
        );
        assert_eq!((counts.maps, counts.copies), (8 * (round + 1), 0));
    }
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn a_page_in_several_requests_is_mapped_for_each() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, MAPPED);
    let page = front.page(false);
    for sector in 0..4 {
        front.push(Operation::WRITE, 8 * sector, &[page.segment(0, 7)]);
    }
    front.publish();
    rig.core.visit(0);
    front.push(Operation::WRITE, 32, &[page.segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 5, RspStatus::OKAY);
    assert_eq!(rig.grants.outstanding(), 0);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn what_may_only_be_read_is_mapped_for_that_and_never_read_into() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, MAPPED);
    let page = front.page(true);
    front.push(Operation::WRITE, 0, &[page.segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
    assert_eq!(rig.grants.counts().copies, 0);
    front.push(Operation::READ, 0, &[page.segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::ERROR);
    // One page in a write and a read at once is mapped for each.
    let both = front.page(false);
    let before = rig.grants.counts().copies;
    front.push(Operation::WRITE, 8, &[both.segment(0, 7)]);
    front.push(Operation::READ, 16, &[both.segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 2, RspStatus::OKAY);
    assert_eq!(rig.grants.counts().copies, before);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn maps_that_fail_fall_back_to_copying_and_leave_nothing_mapped() {
    for how in [
        MAPPED,
        How {
            frames: Some(1),
            ..MAPPED
        },
    ] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, how);
        let pages = [front.page(false), front.page(false), front.page(false)];
        let segments = pages.each_ref().map(|page| page.segment(0, 7));
        let fault = Fault::Operation(Status::GENERAL_ERROR);
        rig.grants.inject(Call::Map, 1, fault);
        front.push(Operation::READ, 0, &segments);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        assert_eq!(rig.grants.outstanding(), 0);
        let stats = rig.detach(ring).stats.snapshot();
        assert_eq!(stats.copied_requests, 1);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_frame_that_cannot_be_unmapped_is_never_used_again() {
    let mut rig = Rig::new();
    let how = How {
        frames: Some(4),
        ..MAPPED
    };
    let (ring, mut front) = rig.attach(1, how);
    let page = front.page(false);
    let fault = Fault::Operation(Status::GENERAL_ERROR);
    rig.grants.inject(Call::Unmap, 0, fault);
    for _ in 0..6 {
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
    }
    let left = rig.detach(ring);
    assert_eq!(left.window.unwrap().unusable(), 1);
    assert_eq!(left.stats.snapshot().frames_lost, 1);
}

#[test]
fn indirect_requests_are_mapped_too_and_their_lists_copied() {
    let config = spindle_blkif::Config {
        segments: 64,
        ..spindle_blkif::Config::default()
    };
    let mut rig = Rig::sized(&common::Sizes {
        config,
        ..common::Sizes::default()
    });
    let how = How {
        indirect: 64,
        ..MAPPED
    };
    let (ring, mut front) = rig.attach(1, how);
    let pages: Vec<_> = (0..40).map(|_| front.page(false)).collect();
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    let list = front.list(&segments);
    front.push_indirect(Operation::WRITE, 0, list.gref, 40);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
    let counts = rig.grants.counts();
    assert_eq!((counts.copies, counts.maps, counts.unmap_calls), (1, 40, 1));
    assert!(rig.grants.revoke(DomId(1), list.gref));
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn pages_that_the_disk_works_on_stay_mapped_though_it_refuses_the_rest() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, MAPPED);
    let pages: Vec<_> = (0..4).map(|_| front.page(false)).collect();
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    front.push(Operation::READ, 0, &segments);
    front.publish();
    let disk = rig.disk();
    (disk.most_pieces, disk.scattered_rest, disk.hold) = (2, true, true);
    for _ in 0..10 {
        rig.core.visit(0);
    }
    assert_eq!(rig.disk().submitted.len(), 1);
    assert_eq!(rig.grants.outstanding(), 4, "the disk has two of them");
    // Then all of it is copied.
    let disk = rig.disk();
    (disk.most_pieces, disk.hold) = (usize::MAX, false);
    assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
    assert_eq!(rig.disk().submitted.len(), 2);
    assert_eq!(rig.grants.counts().copies, 4);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}
