//! A disk of 4096-byte blocks that is shown with 512-byte sectors: every byte against a model of
//! sectors, whatever is under way at once on however many rings, cores and guests.

mod common;

use std::sync::Arc;

use common::{COPIED, How, MAPPED, PERSISTENT, Rig, Sizes, TestDisk, assert_all};
use proptest::prelude::*;
use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_blkif::claims::Span;
use spindle_blkif::{Attachment, Claims, Config, Gate, RingCore, RingId, Session, Window};
use spindle_block::{Discard, IoError, Op, RamDisk};
use spindle_hw::DmaAlloc;
use spindle_testkit::blkfront::{Blkfront, GuestPage, fill};
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, journal};
use spindle_xen::DomId;
use spindle_xen::event::Port;

/// A disk of 1 MiB in blocks of a page.
fn rig() -> Rig {
    shown(Rig::new())
}

fn shown(mut rig: Rig) -> Rig {
    rig.volume.block_shift = 12;
    rig.claims = Some(Arc::new(Claims::new().unwrap()));
    rig
}

fn bytes(page: &GuestPage) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    page.memory.read_bytes(0, &mut bytes);
    bytes
}

/// Asserts that all blocks of the disk can be claimed alone where it matters.
fn assert_nothing_claimed(rig: &Rig) {
    let all = Span {
        block: 0,
        blocks: 256,
        first_alone: true,
        last_alone: true,
    };
    assert!(rig.claims.as_ref().unwrap().claim(&all), "a claim is left");
}

/// Writes or reads `sectors` of the disk by requests of a page, in turn.
fn whole(rig: &mut Rig, front: &mut Blkfront<'_>, page: &GuestPage, write: bool) -> Vec<u8> {
    let mut disk = Vec::new();
    for block in 0..256 {
        let operation = if write {
            fill(&page.memory, 1000 + block);
            Operation::WRITE
        } else {
            Operation::READ
        };
        front.push(operation, 8 * block, &[page.segment(0, 7)]);
        front.publish();
        assert_all(&rig.settle(front), 1, RspStatus::OKAY);
        disk.extend(bytes(page));
    }
    disk
}

#[test]
fn one_sector_is_written_into_its_block_and_read_out_of_it() {
    for how in [PERSISTENT, COPIED, MAPPED] {
        let mut rig = rig();
        let (ring, mut front) = rig.attach(1, how);
        let page = front.page(false);
        let mut disk = whole(&mut rig, &mut front, &page, true);
        rig.disk().submitted.clear();
        fill(&page.memory, 1);
        disk[13 * 512..14 * 512].copy_from_slice(&bytes(&page)[3 * 512..4 * 512]);
        front.push(Operation::WRITE, 13, &[page.segment(3, 3)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        let expected = [(Op::Read, 1, 1), (Op::Write, 1, 1)];
        assert_eq!(rig.disk().submitted, expected);
        let before = bytes(&page);
        front.push(Operation::READ, 13, &[page.segment(6, 6)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        let mut want = before;
        want[6 * 512..7 * 512].copy_from_slice(&disk[13 * 512..14 * 512]);
        assert!(bytes(&page) == want, "nothing else of the page is touched");
        assert!(whole(&mut rig, &mut front, &page, false) == disk);
        let stats = rig.detach(ring).stats.snapshot();
        assert_eq!(stats.sectors_written, 2048 + 1);
        assert_eq!(stats.sectors_read, 2048 + 1);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn of_a_long_write_the_blocks_at_its_ends_are_read_and_no_others() {
    let mut rig = rig();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let pages: Vec<_> = (0..11).map(|_| front.page(false)).collect();
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    front.push(Operation::WRITE, 8 * 4 + 3, &segments[..6]);
    // As many pages as a request has, in one block more than there is room for at once.
    front.push(Operation::WRITE, 8 * 20 + 3, &segments);
    // One end only.
    front.push(
        Operation::WRITE,
        8 * 40 + 4,
        &[pages[0].segment(0, 3), segments[1]],
    );
    front.push(
        Operation::WRITE,
        8 * 50,
        &[segments[0], pages[0].segment(0, 3)],
    );
    front.publish();
    assert_all(&rig.settle(&mut front), 4, RspStatus::OKAY);
    let mut done = core::mem::take(&mut rig.disk().submitted);
    done.sort_by_key(|&(op, block, _)| (op != Op::Read, block));
    let reads = [4, 10, 20, 31, 40, 51].map(|block| (Op::Read, block, 1));
    let writes = [(4, 7), (20, 11), (31, 1), (40, 2), (50, 2)];
    let writes = writes.map(|(block, pieces)| (Op::Write, block, pieces));
    assert_eq!(done, [&reads[..], &writes[..]].concat());
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

#[test]
fn whole_blocks_go_straight_between_disk_and_guest() {
    let mut rig = rig();
    let (_, mut front) = rig.attach(1, PERSISTENT);
    let pages: Vec<_> = (0..8).map(|_| front.page(false)).collect();
    let segments: Vec<_> = pages.iter().map(|page| page.segment(0, 7)).collect();
    for operation in [Operation::WRITE, Operation::READ] {
        front.push(operation, 8, &segments[..1]);
        front.push(operation, 16, &segments);
        front.publish();
        assert_all(&rig.settle(&mut front), 2, RspStatus::OKAY);
    }
    assert_eq!(rig.grants.counts().copies, 0);
    let expected = [
        (Op::Write, 1, 1),
        (Op::Write, 2, 8),
        (Op::Read, 1, 1),
        (Op::Read, 2, 8),
    ];
    assert_eq!(rig.disk().submitted, expected);
}

#[test]
fn a_block_that_cannot_be_read_fails_the_write_and_is_not_written() {
    let mut rig = rig();
    let (ring, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    rig.disk().results.push_back(Err(IoError::Medium));
    front.push(Operation::WRITE, 1, &[page.segment(0, 0)]);
    // Waits for the first, and is served when that has failed.
    front.push(Operation::WRITE, 2, &[page.segment(0, 0)]);
    front.publish();
    let answers = rig.settle(&mut front);
    let status: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(status, [RspStatus::ERROR, RspStatus::OKAY]);
    let expected = [(Op::Read, 0, 1), (Op::Read, 0, 1), (Op::Write, 0, 1)];
    assert_eq!(rig.disk().submitted, expected);
    rig.detach(ring);
    rig.assert_nothing_leaked();
}

/// A block of which two writes change a part is read, changed and written by one after the other:
/// whichever of its ends the parts are at, neither may see it as it was before the other.
#[test]
fn writes_to_parts_of_one_block_follow_each_other() {
    // Sectors of the page that is written, from the sector of the block that they go to.
    let (head, tail) = ((12, 4, 7), (8, 0, 3));
    let cases = [
        (tail, (8, 0, 5)),
        (head, (14, 6, 7)),
        (head, tail),
        (tail, head),
        // The second goes on into the next block, or begins in the one before.
        (tail, (10, 0, 7)),
        (head, (4, 0, 5)),
    ];
    for how in [PERSISTENT, COPIED, MAPPED] {
        for (first, second) in cases {
            let mut rig = rig();
            rig.disk().hold = true;
            let guests = [(1, first), (2, second)];
            let guests = guests.map(|(dom, (sector, from, to))| {
                let (ring, mut front) = rig.attach(dom, how);
                let page = front.page(false);
                fill(&page.memory, dom.into());
                front.push(Operation::WRITE, sector, &[page.segment(from, to)]);
                front.publish();
                (ring, front)
            });
            for _ in 0..10 {
                rig.core.visit(0);
            }
            let submitted = rig.disk().submitted.clone();
            let of_block = submitted.iter().filter(|(_, block, _)| *block == 1);
            assert!(of_block.count() <= 1, "{first:?} {second:?}: {submitted:?}");
            assert!(submitted.iter().all(|(op, ..)| *op == Op::Read));
            rig.disk().hold = false;
            for (ring, mut front) in guests {
                assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
                rig.detach(ring);
            }
            assert_nothing_claimed(&rig);
        }
    }
}

#[test]
fn a_disk_that_is_lost_in_the_middle_leaves_nothing_claimed() {
    let mut rig = rig();
    let (ring, mut front) = rig.attach(1, COPIED);
    let page = front.page(false);
    for sector in [1, 2, 8, 13] {
        front.push(Operation::WRITE, sector, &[page.segment(0, 0)]);
    }
    front.publish();
    rig.disk().hold = true;
    (0..3).for_each(|_| {
        rig.core.visit(0);
    });
    rig.core.cut_off(0);
    assert_all(&rig.settle(&mut front), 4, RspStatus::ERROR);
    rig.detach(ring);
    assert_nothing_claimed(&rig);
}

#[test]
fn a_discard_is_for_the_whole_blocks_of_it() {
    let mut rig = rig();
    rig.volume.discard = Some(Discard {
        granularity: 4096,
        alignment: 0,
        secure: true,
    });
    let (_, mut front) = rig.attach(1, PERSISTENT);
    front.push_discard(3, 30, false);
    front.push_discard(8, 16, true);
    front.push_discard(9, 14, false);
    front.push_discard(1, 1, true);
    front.publish();
    assert_all(&rig.settle(&mut front), 4, RspStatus::OKAY);
    // It cannot erase a part of a block, and does not say that it can.
    let expected = [(Op::Discard, 1, 0), (Op::Discard, 1, 0)];
    assert_eq!(rig.disk().submitted, expected);
    assert_eq!(rig.disk().discarded, [3, 2]);
    front.push_discard(2040, 9, false);
    front.push_discard(4, 0, false);
    front.publish();
    assert_all(&rig.settle(&mut front), 2, RspStatus::ERROR);
}

#[test]
fn a_barrier_of_a_part_of_a_block_is_written_through() {
    for (forced, last) in [(true, vec![]), (false, vec![(Op::Flush, 2, 0)])] {
        let mut rig = rig();
        rig.volume.write_cache = true;
        rig.disk().write_through = forced;
        let (ring, mut front) = rig.attach(1, PERSISTENT);
        let page = front.page(false);
        front.push(Operation::WRITE, 1, &[page.segment(0, 0)]);
        front.push(Operation::WRITE_BARRIER, 18, &[page.segment(1, 2)]);
        front.push(Operation::WRITE, 19, &[page.segment(0, 0)]);
        front.publish();
        assert_all(&rig.settle(&mut front), 3, RspStatus::OKAY);
        let mut expected = vec![
            (Op::Read, 0, 1),
            (Op::Write, 0, 1),
            (Op::Flush, 2, 0),
            (Op::Read, 2, 1),
        ];
        if forced {
            expected.push((Op::WriteThrough, 2, 1));
        } else {
            // It was refused; the block is read once more for the plain write.
            expected.extend([(Op::Read, 2, 1), (Op::Write, 2, 1)]);
        }
        expected.extend(last);
        expected.extend([(Op::Read, 2, 1), (Op::Write, 2, 1)]);
        assert_eq!(rig.disk().submitted, expected);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}

#[test]
fn a_volume_is_not_left_at_either_end() {
    let mut rig = rig();
    let (_, mut front) = rig.attach(1, PERSISTENT);
    let page = front.page(false);
    for sector in [2048, 2045, u64::MAX - 1] {
        front.push(Operation::WRITE, sector, &[page.segment(0, 3)]);
    }
    front.publish();
    assert_all(&rig.settle(&mut front), 3, RspStatus::ERROR);
    assert!(rig.disk().submitted.is_empty());
    rig.volume.read_only = true;
    let (_, mut front) = rig.attach(2, PERSISTENT);
    let page = front.page(false);
    front.push(Operation::WRITE, 1, &[page.segment(0, 3)]);
    front.publish();
    assert_all(&rig.settle(&mut front), 1, RspStatus::ERROR);
}

/// Rings of several guests on two cores that share one volume.
struct Many {
    bus: &'static FakeBus,
    grants: &'static FakeGrants<'static>,
    cores: [RingCore<TestDisk, &'static FakeGrants<'static>, &'static FakeEvents>; 2],
    rings: Vec<(usize, RingId, Blkfront<'static>)>,
}

const HOWS: [How; 4] = [
    PERSISTENT,
    COPIED,
    MAPPED,
    How {
        indirect: 64,
        ..PERSISTENT
    },
];

impl Many {
    /// Two guests with two rings each, which reach their data in different ways.
    fn new(sizes: &Sizes) -> Self {
        let bus: &FakeBus = Box::leak(Box::new(FakeBus::new()));
        let grants: &FakeGrants<'_> = Box::leak(Box::new(FakeGrants::new(bus)));
        let events: &FakeEvents = Box::leak(Box::default());
        let ram = RamDisk::new(1 << 20, bus).unwrap();
        let claims = Arc::new(Claims::new().unwrap());
        let mut cores = [0, 1].map(|_| {
            let queue = TestDisk::new(ram.queue(sizes.depth, bus));
            let buffers = bus.alloc(sizes.buffers).unwrap();
            RingCore::new(sizes.config, vec![queue], grants, events, buffers).unwrap()
        });
        let mut rings = Vec::new();
        for dom in [1, 2] {
            for gate in Gate::members(2) {
                let number = rings.len();
                let how = &HOWS[number];
                let front = Blkfront::with_abi(grants, DomId(dom), 1, 0, Abi::Native);
                let mut volume = ram.volume("ram0", 0);
                volume.block_shift = 12;
                volume.write_cache = true;
                let base = (1 << 40) + ((number as u64) << 32);
                let attachment = Attachment {
                    domain: DomId(dom),
                    port: Port(number as u32),
                    volume,
                    abi: Abi::Native,
                    start: 0,
                    window: how.frames.map(|frames| Window::new(base, frames).unwrap()),
                    persistent: how.persistent,
                    indirect_segments: how.indirect.min(sizes.config.segments as u16),
                    gate,
                    claims: Some(Arc::clone(&claims)),
                    losses: Default::default(),
                    journal: journal(&front.ring()),
                };
                let session = Session::new(front.ring(), attachment).unwrap();
                let core = number % 2;
                let id = cores[core].attach(session).unwrap();
                rings.push((core, id, front));
            }
        }
        Self {
            bus,
            grants,
            cores,
            rings,
        }
    }
}

/// A request of a script: on which ring, what, sectors that no other request has at that time.
#[derive(Clone, Debug)]
struct Step {
    ring: usize,
    /// 0 read, 1 write, 2 barrier, 3 discard, 4 flush.
    what: u8,
    /// Where, in sectors from the end of what was last asked for.
    gap: u64,
    segments: Vec<(u8, u8)>,
    /// Visits after it: which core, and whether its disk answers.
    visits: Vec<(usize, bool)>,
}

fn step() -> impl Strategy<Value = Step> {
    let segment = prop_oneof![
        3 => (0u8..8, 0u8..8).prop_map(|(a, b)| (a.min(b), a.max(b))),
        1 => Just((0, 7)),
    ];
    (
        0usize..4,
        prop_oneof![4 => Just(1u8), 2 => Just(0), 1 => 2u8..5],
        prop_oneof![4 => Just(0u64), 1 => 0u64..20],
        prop_oneof![
            3 => prop::collection::vec(segment.clone(), 1..4),
            1 => prop::collection::vec(segment, 8..=11),
        ],
        prop::collection::vec((0usize..2, any::<bool>()), 0..4),
    )
        .prop_map(|(ring, what, gap, segments, visits)| Step {
            ring,
            what,
            gap,
            segments,
            visits,
        })
}

/// Plays a script: neighbouring sectors, each written, read or discarded by one request at most
/// before all are answered, then another round. Nothing of what is not discarded may be lost.
fn agrees_with_sectors(sizes: &Sizes, start: u64, rounds: &[Vec<Step>]) {
    let mut many = Many::new(sizes);
    let mut disk = vec![0u8; 1 << 20];
    // Sectors that hold anything at all.
    let mut unknown = vec![false; 2048];
    let mut seed = 0;
    for round in rounds {
        let mut at = start;
        let mut expected = Vec::new();
        let mut counts = [0; 4];
        for step in round {
            let Step { ring, what, .. } = *step;
            let total: u64 = step
                .segments
                .iter()
                .map(|&(a, b)| u64::from(b - a) + 1)
                .sum();
            at += step.gap;
            if at + total > 2048 || many.rings[ring].2.free() == 0 {
                break;
            }
            let front = &mut many.rings[ring].2;
            let pages: Vec<_> = step.segments.iter().map(|_| front.page(false)).collect();
            let mut cursor = at as usize;
            for (page, &(first, last)) in pages.iter().zip(&step.segments) {
                seed += 1;
                fill(&page.memory, seed);
                let mut want = bytes(page);
                let range = usize::from(first) * 512..(usize::from(last) + 1) * 512;
                let sectors = range.len() / 512;
                let there = &mut disk[cursor * 512..cursor * 512 + range.len()];
                match what {
                    1 | 2 => {
                        there.copy_from_slice(&want[range]);
                        unknown[cursor..cursor + sectors].fill(false);
                    }
                    0 => want[range].copy_from_slice(there),
                    _ => {}
                }
                let known = !unknown[cursor..cursor + sectors].contains(&true);
                cursor += sectors;
                if what == 1 || known && what == 0 {
                    expected.push((page.memory.alias(), want));
                }
            }
            let segments: Vec<_> = pages
                .iter()
                .zip(&step.segments)
                .map(|(page, &(first, last))| page.segment(first, last))
                .collect();
            match what {
                0 | 1 if HOWS[ring].indirect > 0 && sizes.config.segments > 11 => {
                    let operation = [Operation::READ, Operation::WRITE][usize::from(what)];
                    let list = front.list(&segments);
                    front.push_indirect(operation, at, list.gref, segments.len() as u16);
                }
                0 => drop(front.push(Operation::READ, at, &segments)),
                1 => drop(front.push(Operation::WRITE, at, &segments)),
                2 => drop(front.push(Operation::WRITE_BARRIER, at, &segments)),
                3 => {
                    front.push_discard(at, total, seed % 2 == 0);
                    unknown[at as usize..cursor].fill(true);
                }
                _ => drop(front.push(Operation::FLUSH, 0, &[])),
            }
            front.publish();
            counts[ring] += 1;
            at += total;
            for &(core, answers) in &step.visits {
                many.cores[core].queue_mut(0).unwrap().hold = !answers;
                many.cores[core].visit(0);
            }
        }
        for core in &mut many.cores {
            core.queue_mut(0).unwrap().hold = false;
        }
        for left in (0..20_000).rev() {
            let [first, second] = &mut many.cores;
            if first.visit(0).is_idle() & second.visit(0).is_idle() {
                break;
            }
            assert!(left > 0, "requests never settle");
        }
        for ((_, _, front), count) in many.rings.iter_mut().zip(counts) {
            assert_all(&front.answers(), count, RspStatus::OKAY);
        }
        for (memory, want) in expected {
            let mut got = vec![0; 4096];
            memory.read_bytes(0, &mut got);
            assert!(got == want, "guest memory differs from the model");
        }
    }
    // All of the disk, whole blocks.
    let (core, _, front) = &mut many.rings[0];
    let page = front.page(false);
    for block in 0..256 {
        front.push(Operation::READ, 8 * block, &[page.segment(0, 7)]);
        front.publish();
        while !many.cores[*core].visit(0).is_idle() {}
        assert_all(&front.answers(), 1, RspStatus::OKAY);
        let got = bytes(&page);
        for sector in 0..8 {
            let at = 8 * block as usize + sector;
            let same = got[sector * 512..][..512] == disk[at * 512..][..512];
            assert!(same || unknown[at], "sector {at} differs from the model");
        }
    }
    for (core, id, _) in many.rings {
        many.cores[core].begin_detach(id);
        while !many.cores[core].is_drained(id) {
            many.cores[core].visit(0);
        }
        many.cores[core].detach(id).unwrap();
    }
    assert_eq!(many.grants.outstanding(), 0, "grants still mapped");
    for core in &many.cores {
        assert_eq!(core.free_buffers(), sizes.buffers, "buffers lost");
    }
    let _ = many.bus;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn nothing_is_lost_whatever_is_under_way_at_once(
        start in 0u64..1000,
        rounds in prop::collection::vec(prop::collection::vec(step(), 1..60), 1..4),
    ) {
        let config = Config { segments: 64, ..Config::default() };
        agrees_with_sectors(&Sizes { config, ..Sizes::default() }, start, &rounds);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn nothing_is_lost_where_everything_is_tiny(
        start in 0u64..1000,
        rounds in prop::collection::vec(prop::collection::vec(step(), 1..60), 1..4),
    ) {
        let config = Config { budget: 3, map_batch: 11, copy_batch: 22, rings: 4, segments: 11 };
        let sizes = Sizes { depth: 2, buffers: 11, config, ..Sizes::default() };
        agrees_with_sectors(&sizes, start, &rounds);
    }
}
