//! Bytes: what a guest writes is what it reads, on every path, and nothing else is touched.

mod common;

use common::{COPIED, How, MAPPED, PERSISTENT, Rig, Sizes, assert_all};
use proptest::prelude::*;
use spindle_blkif::Config;
use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_testkit::blkfront::{GuestPage, fill};

/// A request in the making: write or read, sector, and first and last sector of each page.
type Plan = (bool, u64, Vec<(u8, u8)>);

fn plan() -> impl Strategy<Value = Plan> {
    let segment = (0u8..8, 0u8..8).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let segments = prop::collection::vec(segment, 1..=11);
    (any::<bool>(), 0u64..1900, segments)
}

fn bytes(page: &GuestPage) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    page.memory.read_bytes(0, &mut bytes);
    bytes
}

/// Runs batches of requests against a byte-for-byte model of disk and guest memory.
fn agrees_with_the_model(sizes: &Sizes, how: How, scattered: bool, batches: &[Vec<Plan>]) {
    let mut rig = Rig::sized(sizes);
    let (ring, mut front) = rig.attach(3, how);
    if scattered {
        rig.disk().scattered_above = 1 << 40;
    }
    let pages: Vec<_> = (0..96).map(|_| front.page(false)).collect();
    let mut disk = vec![0u8; 1 << 20];
    let mut seed = 0;
    for batch in batches {
        let mut free = pages.iter();
        let mut model = Vec::new();
        let mut count = 0;
        for (write, sector, plan) in batch {
            let mine: Vec<_> = free.by_ref().take(plan.len()).collect();
            if mine.len() < plan.len() {
                break;
            }
            let mut at = *sector as usize * 512;
            for (page, &(first, last)) in mine.iter().zip(plan) {
                seed += 1;
                fill(&page.memory, seed);
                let mut want = bytes(page);
                let range = usize::from(first) * 512..(usize::from(last) + 1) * 512;
                let len = range.len();
                if *write {
                    disk[at..at + len].copy_from_slice(&want[range]);
                } else {
                    want[range].copy_from_slice(&disk[at..at + len]);
                }
                at += len;
                model.push((*page, want));
            }
            let segments: Vec<_> = mine
                .iter()
                .zip(plan)
                .map(|(page, &(first, last))| page.segment(first, last))
                .collect();
            let operation = if *write {
                Operation::WRITE
            } else {
                Operation::READ
            };
            front.push(operation, *sector, &segments);
            count += 1;
        }
        front.publish();
        let answers = rig.settle(&mut front);
        assert_all(&answers, count, RspStatus::OKAY);
        for (page, want) in model {
            assert!(bytes(page) == want, "guest memory differs from the model");
        }
    }
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn persistent_grants_move_the_right_bytes(
        batches in prop::collection::vec(prop::collection::vec(plan(), 1..24), 1..6),
    ) {
        agrees_with_the_model(&Sizes::default(), PERSISTENT, false, &batches);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn grants_mapped_for_each_request_move_the_right_bytes(
        batches in prop::collection::vec(prop::collection::vec(plan(), 1..24), 1..6),
        frames in prop_oneof![Just(512), 1usize..40],
    ) {
        let how = How { frames: Some(frames), ..MAPPED };
        agrees_with_the_model(&Sizes::default(), how, false, &batches);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn grant_copy_moves_the_right_bytes(
        batches in prop::collection::vec(prop::collection::vec(plan(), 1..24), 1..6),
    ) {
        agrees_with_the_model(&Sizes::default(), COPIED, false, &batches);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn a_32_bit_guest_moves_the_right_bytes(
        batches in prop::collection::vec(prop::collection::vec(plan(), 1..24), 1..6),
        persistent: bool,
    ) {
        let how = if persistent { PERSISTENT } else { COPIED };
        let how = How { abi: Abi::X86_32, ..how };
        agrees_with_the_model(&Sizes::default(), how, false, &batches);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn everything_tiny_still_moves_the_right_bytes(
        batches in prop::collection::vec(prop::collection::vec(plan(), 1..24), 1..6),
        frames in 1usize..40,
        scattered: bool,
        packed: bool,
    ) {
        let config = Config { budget: 3, map_batch: 11, copy_batch: 22, rings: 1, segments: 11 };
        let sizes = Sizes { depth: 2, buffers: 11, config, ..Sizes::default() };
        let abi = if packed { Abi::X86_32 } else { Abi::Native };
        let how = How { frames: Some(frames), abi, ..PERSISTENT };
        agrees_with_the_model(&sizes, how, scattered, &batches);
    }
}

#[test]
fn a_warm_cache_needs_no_hypercall_and_one_doorbell_a_visit() {
    let mut rig = Rig::new();
    let (ring, mut front) = rig.attach(3, PERSISTENT);
    let pages: Vec<_> = (0..32).map(|_| front.page(false)).collect();
    let round = |rig: &mut Rig, front: &mut spindle_testkit::blkfront::Blkfront<'_>| {
        for (sector, page) in pages.iter().enumerate() {
            front.push(Operation::WRITE, 8 * sector as u64, &[page.segment(0, 7)]);
        }
        front.publish();
        front.arm(1);
        let answers = rig.settle(front);
        assert_all(&answers, 32, RspStatus::OKAY);
    };
    round(&mut rig, &mut front);
    let cold = rig.grants.counts();
    assert_eq!((cold.map_calls, cold.maps, cold.calls()), (1, 32, 1));
    let (commits, sent) = (
        rig.disk().commits,
        rig.events.sent(spindle_xen::event::Port(3)),
    );
    round(&mut rig, &mut front);
    assert_eq!(rig.grants.counts(), cold);
    assert_eq!(rig.disk().commits, commits + 1);
    assert_eq!(rig.events.sent(spindle_xen::event::Port(3)), sent + 1);
    let stats = rig.detach(ring).stats.snapshot();
    assert_eq!(
        (stats.writes, stats.sectors_written, stats.batches.0[6]),
        (64, 512, 2)
    );
    assert_eq!(
        (stats.grants_mapped, stats.copied_requests, stats.errors),
        (32, 0, 0)
    );
    assert_eq!(stats.in_flight_peak, 32);
    rig.assert_nothing_leaked();
}

#[test]
fn a_batch_of_copies_is_one_hypercall_and_the_disk_sees_no_holes() {
    let mut rig = Rig::new();
    let (_, mut front) = rig.attach(3, COPIED);
    let pages: Vec<_> = (0..16).map(|_| front.page(false)).collect();
    for (i, page) in pages.chunks(2).enumerate() {
        let segments = [page[0].segment(1, 5), page[1].segment(2, 6)];
        front.push(Operation::WRITE, 16 * i as u64, &segments);
    }
    front.publish();
    assert_all(&rig.settle(&mut front), 8, RspStatus::OKAY);
    let writes = rig.grants.counts();
    // 2560 + 2560 bytes: the second piece is split where the first buffer page ends.
    assert_eq!(
        (writes.calls(), writes.copy_calls, writes.copies),
        (1, 1, 24)
    );
    assert!(
        rig.disk()
            .submitted
            .iter()
            .all(|&(_, _, pieces)| pieces == 2)
    );
    for (i, page) in pages.chunks(2).enumerate() {
        let segments = [page[0].segment(0, 4), page[1].segment(0, 4)];
        front.push(Operation::READ, 16 * i as u64, &segments);
    }
    front.publish();
    assert_all(&rig.settle(&mut front), 8, RspStatus::OKAY);
    assert_eq!(rig.grants.counts().copy_calls, 2);
}

#[test]
fn pieces_smaller_than_the_disks_blocks_are_copied_and_whole_ones_are_not() {
    let mut rig = Rig::new();
    rig.volume.block_shift = 12;
    let (_, mut front) = rig.attach(3, PERSISTENT);
    let pages = [front.page(false), front.page(false)];
    front.push(
        Operation::WRITE,
        8,
        &[pages[0].segment(0, 3), pages[1].segment(4, 7)],
    );
    front.push(Operation::WRITE, 16, &[pages[0].segment(0, 7)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 2, RspStatus::OKAY);
    let counts = rig.grants.counts();
    assert_eq!((counts.copies, counts.maps), (2, 1));
}

#[test]
fn read_only_grants_can_be_written_to_the_disk_and_not_read_into() {
    for how in [PERSISTENT, COPIED] {
        let mut rig = Rig::new();
        let (ring, mut front) = rig.attach(3, how);
        let page = front.page(true);
        front.push(Operation::WRITE, 0, &[page.segment(0, 7)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        front.push(Operation::READ, 0, &[page.segment(0, 7)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::ERROR);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}
