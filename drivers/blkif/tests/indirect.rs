//! Indirect requests: lists of segments on granted pages.

mod common;

use common::{COPIED, How, PERSISTENT, Rig, Sizes, assert_all};
use proptest::prelude::*;
use spindle_blkif::Config;
use spindle_blkif::abi::{Abi, Operation, RawSegment, RspStatus};
use spindle_blkif::ring_core::RingError;
use spindle_block::{IoError, Op};
use spindle_testkit::blkfront::{Blkfront, GuestPage, fill};
use spindle_xen::DomId;
use spindle_xen::grant::GrantRef;

/// A core whose buffers hold the largest request, and no more.
fn roomy() -> Rig {
    Rig::sized(&Sizes {
        buffers: 256,
        config: Config {
            segments: 256,
            ..Config::default()
        },
        ..Sizes::default()
    })
}

const KEPT: How = How {
    indirect: 256,
    ..PERSISTENT
};
const MOVED: How = How {
    indirect: 256,
    ..COPIED
};

fn pages(front: &Blkfront<'_>, count: usize) -> Vec<GuestPage> {
    (0..count).map(|_| front.page(false)).collect()
}

fn whole(pages: &[GuestPage]) -> Vec<RawSegment> {
    pages.iter().map(|page| page.segment(0, 7)).collect()
}

fn bytes(page: &GuestPage) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    page.memory.read_bytes(0, &mut bytes);
    bytes
}

#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn the_largest_request_moves_the_right_bytes_on_every_path() {
    for how in [KEPT, MOVED] {
        for abi in [Abi::Native, Abi::X86_32] {
            let mut rig = roomy();
            // The volume is 1 MiB: all of it in one request.
            let (ring, mut front) = rig.attach(1, How { abi, ..how });
            let (out, back) = (pages(&front, 256), pages(&front, 256));
            for (seed, page) in out.iter().enumerate() {
                fill(&page.memory, 7 + seed as u64);
            }
            for (op, pages) in [(Operation::WRITE, &out), (Operation::READ, &back)] {
                let list = front.list(&whole(pages));
                front.push_indirect(op, 0, list.gref, 256);
                front.publish();
                assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
            }
            for (out, back) in out.iter().zip(&back) {
                assert!(bytes(out) == bytes(back));
            }
            let stats = rig.detach(ring).stats.snapshot();
            let counted = [
                stats.reads,
                stats.writes,
                stats.sectors_read,
                stats.sectors_written,
            ];
            assert_eq!(counted, [1, 1, 2048, 2048]);
            rig.assert_nothing_leaked();
        }
    }
}

#[test]
fn a_frontend_that_keeps_its_lists_needs_no_hypercall_for_them() {
    let mut rig = roomy();
    let (ring, mut front) = rig.attach(1, KEPT);
    let pages = pages(&front, 32);
    let list = front.list(&whole(&pages));
    let mut calls = Vec::new();
    for _ in 0..3 {
        for sector in 0..4 {
            front.push_indirect(Operation::READ, 256 * sector, list.gref, 32);
        }
        front.publish();
        assert_all(&rig.settle(&mut front), 4, RspStatus::OKAY);
        calls.push(rig.grants.counts().calls());
    }
    assert_eq!(calls[1], calls[0], "all is mapped");
    assert_eq!(calls[2], calls[0], "all is mapped");
    assert_eq!(rig.grants.counts().maps, 33);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn lists_that_are_not_kept_are_copied_together() {
    let mut rig = roomy();
    let (ring, mut front) = rig.attach(1, MOVED);
    let pages = pages(&front, 16);
    let list = front.list(&whole(&pages));
    for sector in 0..8 {
        front.push_indirect(Operation::READ, 128 * sector, list.gref, 16);
    }
    front.publish();
    assert_all(&rig.settle(&mut front), 8, RspStatus::OKAY);
    // One hypercall for the lists and one for the data.
    let counts = rig.grants.counts();
    assert_eq!((counts.calls(), counts.copies), (2, 8 + 8 * 16));
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn a_list_that_changes_after_it_was_read_changes_nothing() {
    for how in [KEPT, MOVED] {
        let mut rig = roomy();
        let (ring, mut front) = rig.attach(1, how);
        let (good, evil) = (pages(&front, 12), pages(&front, 1));
        fill(&good[0].memory, 5);
        let list = front.list(&whole(&good));
        rig.disk().hold = true;
        front.push_indirect(Operation::WRITE, 0, list.gref, 12);
        front.push_indirect(Operation::READ, 96, list.gref, 12);
        front.publish();
        for _ in 0..4 {
            rig.core.visit(0);
        }
        let wild = [evil[0].segment(0, 200); 12];
        list.memory
            .write_bytes(0, zerocopy::IntoBytes::as_bytes(&wild[..]));
        rig.disk().hold = false;
        assert_all(&rig.settle(&mut front), 2, RspStatus::OKAY);
        assert_eq!(bytes(&evil[0]), [0; 4096]);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn bad_lists_and_bad_requests_are_refused() {
    for how in [KEPT, MOVED] {
        let mut rig = roomy();
        let (ring, mut front) = rig.attach(1, how);
        let pages = pages(&front, 16);
        let good = front.list(&whole(&pages)).gref;
        let mut segments = whole(&pages);
        segments[15] = pages[15].segment(5, 4);
        let backwards = front.list(&segments).gref;
        segments[15] = pages[15].segment(0, 8);
        let beyond = front.list(&segments).gref;
        segments[15] = RawSegment {
            gref: 9999,
            ..pages[0].segment(0, 7)
        };
        let unknown = front.list(&segments).gref;
        let nowhere = GrantRef(4711);
        for (op, sector, list, count) in [
            (Operation::READ, 0, good, 0),
            (Operation::READ, 0, good, 257),
            (Operation::READ, 0, good, u16::MAX),
            (Operation::FLUSH, 0, good, 16),
            (Operation::INDIRECT, 0, good, 16),
            (Operation::READ, 1921, good, 16),
            (Operation::READ, u64::MAX - 3, good, 16),
            (Operation::READ, 0, backwards, 16),
            (Operation::WRITE, 0, beyond, 16),
            (Operation::WRITE, 0, unknown, 16),
            (Operation::READ, 0, nowhere, 16),
        ] {
            front.push_indirect(op, sector, list, count);
            front.publish();
            assert_all(&rig.settle(&mut front), 1, RspStatus::ERROR);
        }
        assert!(rig.disk().submitted.is_empty());
        front.push_indirect(Operation::READ, 0, good, 16);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn where_they_are_not_offered_they_are_unsupported() {
    let mut rig = Rig::new();
    let (_, mut front) = rig.attach(1, PERSISTENT);
    let list = front.list(&whole(&pages(&front, 12)));
    front.push_indirect(Operation::READ, 0, list.gref, 12);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::EOPNOTSUPP);
}

#[test]
fn a_core_refuses_rings_whose_requests_it_could_never_copy() {
    let mut rig = Rig::new();
    let (session, _) = rig.session(1, MOVED);
    let (error, session) = rig.core.attach(session).unwrap_err();
    assert_eq!(error, RingError::Segments);
    assert_eq!(session.most_segments(), 256);
}

#[test]
fn large_requests_wait_for_room_and_leave_in_order() {
    for how in [KEPT, MOVED] {
        let mut rig = roomy();
        let (first, mut front) = rig.attach(
            1,
            How {
                ring_pages: 2,
                ..how
            },
        );
        let (second, mut other) = rig.attach(
            2,
            How {
                ring_pages: 1,
                ..how
            },
        );
        let data = pages(&front, 256);
        let list = front.list(&whole(&data));
        let other_data = pages(&other, 40);
        let other_list = other.list(&whole(&other_data));
        for n in 0..64 {
            // Large ones and small ones by turns, twice as much as there is room for.
            front.push_indirect(
                Operation::READ,
                0,
                list.gref,
                if n % 3 == 0 { 256 } else { 12 },
            );
        }
        front.publish();
        for _ in 0..32 {
            other.push_indirect(Operation::WRITE, 0, other_list.gref, 40);
        }
        other.publish();
        let answers = rig.settle(&mut front);
        assert_all(&answers, 64, RspStatus::OKAY);
        let ids: Vec<_> = answers.iter().map(|answer| answer.id).collect();
        assert_eq!(ids, (1..=64).collect::<Vec<_>>());
        assert_all(&other.answers(), 32, RspStatus::OKAY);
        assert!(rig.detach(first).stats.snapshot().out_of_room > 0);
        rig.detach(second);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_list_that_is_mapped_after_all_leaves_the_line_for_buffers() {
    for busy in [false, true] {
        let mut rig = roomy();
        let (first, mut mover) = rig.attach(1, MOVED);
        let deep = How {
            ring_pages: 4,
            ..KEPT
        };
        let (second, mut keeper) = rig.attach(2, deep);
        let data = pages(&mover, 256);
        let list = mover.list(&whole(&data));
        rig.disk().hold = true;
        mover.push_indirect(Operation::READ, 0, list.gref, 256);
        mover.publish();
        for _ in 0..2 {
            rig.core.visit(0);
        }
        // It got no more than its part; another ring takes the rest.
        let (third, mut other) = rig.attach(3, MOVED);
        let other_list = other.list(&whole(&pages(&other, 256)));
        other.push_indirect(Operation::READ, 0, other_list.gref, 256);
        other.publish();
        for _ in 0..2 {
            rig.core.visit(0);
        }
        assert_eq!(rig.core.free_buffers(), 0);
        // This one's list would be copied, but is mapped before there are buffers again.
        let kept = keeper.list(&whole(&pages(&keeper, 40)));
        let mut moved = 0;
        for visit in 0..100 {
            // From then on it needs none, whatever it does, and holds nobody up.
            let more = match visit {
                _ if busy => keeper.free(),
                0 => 1,
                _ => 0,
            };
            for _ in 0..more {
                keeper.push_indirect(Operation::READ, 0, kept.gref, 40);
            }
            keeper.publish();
            rig.disk().hold = visit < 3;
            if mover.outstanding() == 0 {
                mover.push(Operation::READ, 0, &[data[0].segment(0, 7)]);
                mover.publish();
            }
            rig.core.visit(0);
            moved += mover.answers().len();
            keeper.answers();
        }
        assert!(moved > 20, "{moved}");
        assert_all(&other.answers(), 1, RspStatus::OKAY);
        rig.detach(first);
        rig.detach(second);
        rig.detach(third);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn pieces_smaller_than_a_block_are_gathered_and_errors_are_told() {
    let mut rig = roomy();
    rig.volume.block_shift = 12;
    let (ring, mut front) = rig.attach(1, KEPT);
    let pages = pages(&front, 32);
    for (seed, page) in pages.iter().enumerate() {
        fill(&page.memory, seed as u64);
    }
    let halves: Vec<_> = pages.iter().map(|page| page.segment(2, 5)).collect();
    let list = front.list(&halves);
    front.push_indirect(Operation::WRITE, 8, list.gref, 32);
    front.push_indirect(Operation::WRITE, 8, list.gref, 31);
    front.publish();
    let answers = rig.settle(&mut front);
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert!(statuses.contains(&RspStatus::ERROR) && statuses.contains(&RspStatus::OKAY));
    assert_eq!(rig.disk().submitted, [(Op::Write, 1, 16)]);
    let back = front.page(false);
    front.push(Operation::READ, 8, &[back.segment(0, 7)]);
    rig.disk().results = [Ok(()), Err(IoError::Medium)].into();
    front.push_indirect(Operation::READ, 8, list.gref, 32);
    front.publish();
    assert_eq!(rig.settle(&mut front).len(), 2);
    let expected = [&bytes(&pages[0])[1024..3072], &bytes(&pages[1])[1024..3072]].concat();
    assert!(bytes(&back) == expected);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    /// A neighbour's rubbish in lists and requests: everything is answered, nothing leaks.
    #[test]
    fn rubbish_lists_are_answered_and_leave_no_trace(
        requests in prop::collection::vec(
            (0u8..3, 0u64..2100, 0usize..4, prop_oneof![0u16..40, any::<u16>()]),
            1..32,
        ),
        lists in prop::array::uniform4(prop::collection::vec((0u32..40, 0u8..9, 0u8..9), 0..40)),
        kept: bool,
        frames in 1usize..40,
    ) {
        let mut rig = Rig::sized(&Sizes {
            buffers: 32,
            depth: 3,
            config: Config { segments: 32, ..Config::default() },
            ..Sizes::default()
        });
        let frames = kept.then_some(frames);
        let (ring, mut front) = rig.attach(1, How { frames, indirect: 32, ..PERSISTENT });
        let _data = pages(&front, 16);
        let lists = lists.map(|list| {
            let segment = |&(gref, first_sect, last_sect): &_| RawSegment {
                gref, first_sect, last_sect, pad: 0xffff,
            };
            front.list(&list.iter().map(segment).collect::<Vec<_>>())
        });
        for &(op, sector, list, count) in &requests {
            front.push_indirect(Operation(op), sector, lists[list].gref, count);
        }
        front.publish();
        prop_assert_eq!(rig.settle(&mut front).len(), requests.len());
        prop_assert!(rig.grants.revoke(DomId(1), GrantRef(4000)));
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}
