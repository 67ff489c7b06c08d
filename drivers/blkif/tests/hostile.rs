//! Frontends that break the rules hurt nobody but themselves.

mod common;

use common::{COPIED, How, PERSISTENT, Rig, Sizes, assert_all};
use proptest::prelude::*;
use spindle_blkif::abi::{Abi, NativeRequest, Operation, RawSegment, RspStatus};
use spindle_blkif::ring::Halt;
use spindle_testkit::blkfront::{Blkfront, answered};
use zerocopy::FromBytes;

#[test]
fn a_ring_with_too_many_requests_is_halted_once_and_its_neighbour_carries_on() {
    for bad in [33, u32::MAX, 0x8000_0000] {
        let mut rig = Rig::new();
        let (evil_ring, mut evil) = rig.attach(1, PERSISTENT);
        let (good_ring, mut good) = rig.attach(2, PERSISTENT);
        evil.set_req_prod(bad);
        let page = good.page(false);
        good.push(Operation::READ, 0, &[page.segment(0, 7)]);
        good.publish();
        assert!(rig.core.visit(0).fault);
        let halt = Halt::Overflow {
            req_prod: bad,
            req_cons: 0,
            rsp_prod: 0,
        };
        assert_eq!(rig.core.next_fault(), Some((evil_ring, halt)));
        assert_eq!(rig.core.next_fault(), None);
        // Good behaviour afterwards does not bring it back.
        evil.set_req_prod(1);
        assert!(!rig.core.visit(0).fault);
        assert_all(&rig.settle(&mut good), 1, RspStatus::OKAY);
        assert!(evil.answers().is_empty());
        assert!(rig.core.arm(), "a halted ring keeps nobody awake");
        rig.detach(evil_ring);
        rig.detach(good_ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn what_was_in_flight_when_a_ring_is_halted_is_still_answered() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(1, COPIED);
    let page = front.page(false);
    rig.disk().hold = true;
    front.push(Operation::READ, 0, &[page.segment(0, 7)]);
    front.publish();
    rig.core.visit(0);
    front.set_req_prod(100);
    rig.core.visit(0);
    assert!(rig.core.next_fault().is_some());
    rig.disk().hold = false;
    assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn a_slot_changed_after_it_was_taken_changes_nothing() {
    for how in [PERSISTENT, COPIED] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(1, how);
        let page = front.page(false);
        rig.disk().hold = true;
        let id = front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        front.publish();
        rig.core.visit(0);
        let evil = NativeRequest {
            operation: Operation::WRITE,
            nr_segments: 200,
            id: 666,
            sector_number: u64::MAX,
            segments: [RawSegment {
                gref: 1,
                first_sect: 200,
                last_sect: 3,
                pad: 9,
            }; 11],
            ..NativeRequest::default()
        };
        front.overwrite(0, &evil);
        rig.disk().hold = false;
        let answers = rig.settle(&mut front);
        assert_all(&answers, 1, RspStatus::OKAY);
        assert_eq!(answers[0].id, id);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_guest_that_never_uses_a_grant_twice_causes_one_unmap_a_visit_at_most() {
    let mut rig = Rig::new();
    let frames = Some(32);
    let (ring, mut front) = rig.attach(
        1,
        How {
            frames,
            ..PERSISTENT
        },
    );
    for _ in 0..20 {
        for _ in 0..32 {
            let page = front.page(false);
            front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        }
        front.publish();
        let before = rig.grants.counts();
        rig.core.visit(0);
        let after = rig.grants.counts();
        assert!(after.unmap_calls - before.unmap_calls <= 1);
        assert!(after.map_calls - before.map_calls <= 1);
        assert_all(&rig.settle(&mut front), 32, RspStatus::OKAY);
    }
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn one_page_in_every_segment_is_mapped_once_and_unpinned_as_often() {
    let mut rig = Rig::new();
    let frames = Some(1);
    let (ring, mut front) = rig.attach(
        1,
        How {
            frames,
            ..PERSISTENT
        },
    );
    let page = front.page(false);
    for _ in 0..32 {
        front.push(Operation::WRITE, 0, &[page.segment(0, 7); 11]);
    }
    front.publish();
    assert_all(&rig.settle(&mut front), 32, RspStatus::OKAY);
    assert_eq!(rig.grants.counts().maps, 1);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

/// Any 112 bytes, but likely enough to get past the first check.
fn slot() -> impl Strategy<Value = NativeRequest> {
    let gref = prop_oneof![0u32..24, any::<u32>()];
    let segment = (gref, 0u8..9, 0u8..9).prop_map(|(gref, first, last)| RawSegment {
        gref,
        first_sect: first.min(last),
        last_sect: last,
        pad: 0xffff,
    });
    let sane = (
        0u8..7,
        0u8..13,
        any::<u64>(),
        prop_oneof![0u64..2100, any::<u64>()],
        prop::array::uniform11(segment),
    )
        .prop_map(
            |(operation, nr_segments, id, sector_number, segments)| NativeRequest {
                operation: Operation(operation),
                nr_segments,
                id: id % 4,
                sector_number,
                segments,
                ..NativeRequest::default()
            },
        );
    let wild = prop::collection::vec(any::<u8>(), 112)
        .prop_map(|bytes| NativeRequest::read_from_bytes(&bytes).unwrap());
    prop_oneof![3 => sane, 1 => wild]
}

fn well_served(rig: &mut Rig, good: &mut Blkfront<'_>, sector: u64, seed: u64) {
    let (out, back) = (good.page(false), good.page(false));
    spindle_testkit::blkfront::fill(&out.memory, seed);
    for (operation, page) in [(Operation::WRITE, &out), (Operation::READ, &back)] {
        good.push(operation, sector, &[page.segment(0, 7)]);
        good.publish();
        assert_all(&rig.settle(good), 1, RspStatus::OKAY);
    }
    let (mut a, mut b) = ([0; 4096], [0; 4096]);
    out.memory.read_bytes(0, &mut a);
    back.memory.read_bytes(0, &mut b);
    assert_eq!(a, b);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    /// Rubbish in every field, through tiny and ordinary cores: everything is answered, the
    /// neighbour's data is right, nothing leaks.
    #[test]
    fn rubbish_is_answered_and_leaves_no_trace(
        batches in prop::collection::vec(prop::collection::vec(slot(), 1..32), 1..6),
        persistent: bool,
        tiny: bool,
        packed: bool,
        end in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
    ) {
        let mut sizes = Sizes::default();
        if tiny {
            sizes.buffers = 11;
            sizes.depth = 2;
        }
        let mut rig = Rig::sized(&sizes);
        let how = if persistent { How { frames: Some(9), ..PERSISTENT } } else { COPIED };
        let abi = if packed { Abi::X86_32 } else { Abi::Native };
        let how = How { abi, ..how };
        let (evil_ring, mut evil) = rig.attach(1, how);
        let (good_ring, mut good) = rig.attach(2, PERSISTENT);
        for i in 0..16 {
            let _ = evil.page(i % 5 == 0);
        }
        // The neighbour has a part of the disk to itself, as another volume would.
        rig.volume.sectors = 1024;
        for (turn, batch) in batches.iter().enumerate() {
            for request in batch {
                let mut request = *request;
                // Numbers may repeat, but not with another operation: the fake guest checks that.
                request.id = request.id << 8 | u64::from(answered(&request).0);
                if request.sector_number < 4096 {
                    request.sector_number |= 1024;
                }
                evil.push_raw(&request);
            }
            evil.publish();
            well_served(&mut rig, &mut good, 8, turn as u64);
            prop_assert_eq!(rig.settle(&mut evil).len(), batch.len());
            prop_assert_eq!(evil.outstanding(), 0);
        }
        if let Some(end) = end {
            evil.set_req_prod(end);
        }
        well_served(&mut rig, &mut good, 8, 99);
        rig.detach(evil_ring);
        rig.detach(good_ring);
        rig.assert_nothing_leaked();
    }
}
