//! Any requests over any maps, against a model of the volume's sectors and of every disk's.

use proptest::prelude::*;
use proptest::sample::Index;
use spindle_blkif::abi::{Operation, RawSegment, RspStatus};
use spindle_block::{Command, DiskQueue, Op, Segment, Stretch, Tag, Unit};
use spindle_hw::{DmaAlloc, SharedPages};
use spindle_testkit::blkfront::{Blkfront, GuestPage, fill};

use super::common::{COPIED, How, MAPPED, PERSISTENT, Rig, assert_all};
use super::{DISKS, assemble, indirect, rig, stretch};

const SECTOR: usize = 512;

/// One request of a batch.
#[derive(Clone, Debug)]
enum Ask {
    Read(Index, Vec<u8>),
    Write(Index, Vec<u8>),
    Discard(Index, Index),
    Flush,
    Barrier(Index, Vec<u8>),
}

fn ask() -> impl Strategy<Value = Ask> {
    let lens = || prop::collection::vec(prop_oneof![1..=8u8, Just(8)], 1..32);
    prop_oneof![
        4 => (any::<Index>(), lens()).prop_map(|(at, lens)| Ask::Read(at, lens)),
        4 => (any::<Index>(), lens()).prop_map(|(at, lens)| Ask::Write(at, lens)),
        1 => any::<(Index, Index)>().prop_map(|(at, len)| Ask::Discard(at, len)),
        1 => Just(Ask::Flush),
        1 => (any::<Index>(), prop::collection::vec(1..=8u8, 1..11))
            .prop_map(|(at, lens)| Ask::Barrier(at, lens)),
    ]
}

/// Stretches that do not meet, of at most a quarter of the disks, in blocks of so many sectors.
fn stretches(per_block: u64) -> impl Strategy<Value = Vec<Stretch>> {
    let most = if per_block > 1 { 5u64 } else { 20 };
    let one = (1..=DISKS, 1..most, 1u64..6, 0..DISKS, 0u64..3);
    prop::collection::vec(one, 2..7).prop_map(move |all| {
        let mut used = [0; DISKS];
        let all = all.into_iter().map(|(runs, chunk, rows, first, gap)| {
            let share = chunk * rows * per_block;
            let place = |at: usize| {
                let disk = (first + at) % DISKS;
                let sector = used[disk] + gap * per_block;
                used[disk] = sector + share;
                (disk, sector)
            };
            let places: Vec<_> = (0..runs).map(place).collect();
            stretch(share * runs as u64, chunk * per_block, &places)
        });
        all.collect()
    })
}

/// Where each sector of the volume is.
fn places(stretches: &[Stretch]) -> Vec<(usize, usize)> {
    let mut places = Vec::new();
    for stretch in stretches {
        let runs = stretch.runs.len() as u64;
        let chunk = if runs == 1 {
            stretch.sectors
        } else {
            stretch.chunk
        };
        for sector in 0..stretch.sectors {
            let (at, row) = (sector / chunk % runs, sector / chunk / runs);
            let run = stretch.runs[at as usize];
            let there = run.sector + row * chunk + sector % chunk;
            places.push((run.volume, there as usize));
        }
    }
    places
}

/// Moves a whole disk to memory or back, past the core.
fn copy(rig: &mut Rig, disk: usize, op: Op, pages: &SharedPages) {
    let segments: Vec<_> = (0..pages.len() as u64 / 4096)
        .map(|page| Segment::new(pages.bus() + page * 4096, 4096))
        .collect();
    let queue = rig.nth(disk);
    queue.record = false;
    let command = Command {
        op,
        unit: Unit(0),
        block_shift: 9,
        block: 0,
        blocks: 0,
        segments: &segments,
    };
    let most = std::mem::replace(&mut queue.most_pieces, usize::MAX);
    queue.submit(&command, Tag(7)).unwrap();
    queue.poll(|_, result| result.unwrap());
    queue.most_pieces = most;
}

fn contents(rig: &mut Rig, disk: usize) -> Vec<u8> {
    let pages = rig.bus.alloc(256).unwrap();
    copy(rig, disk, Op::Read, &pages);
    let mut bytes = vec![0; 1 << 20];
    pages.read_bytes(0, &mut bytes);
    bytes
}

/// Segments of such lengths, at the ends of pages of their own.
fn segments(front: &Blkfront<'_>, lens: &[u8], most: usize) -> (Vec<GuestPage>, Vec<RawSegment>) {
    let mut left = most;
    let mut all = Vec::new();
    for &len in lens {
        let len = usize::from(len).min(left);
        if len == 0 {
            break;
        }
        left -= len;
        let page = front.page(false);
        let segment = page.segment(8 - len as u8, 7);
        all.push((page, segment));
    }
    all.into_iter().unzip()
}

fn bytes(pages: &[GuestPage], segments: &[RawSegment]) -> Vec<u8> {
    let mut all = Vec::new();
    for (page, segment) in pages.iter().zip(segments) {
        let mut whole = [0; 4096];
        page.memory.read_bytes(0, &mut whole);
        let (first, last) = (segment.first_sect, segment.last_sect);
        all.extend(&whole[usize::from(first) * SECTOR..usize::from(last + 1) * SECTOR]);
    }
    all
}

fn push(front: &mut Blkfront<'_>, op: Operation, sector: u64, segments: &[RawSegment]) -> u64 {
    if segments.len() <= 11 {
        return front.push(op, sector, segments);
    }
    let list = front.list(segments);
    front.push_indirect(op, sector, list.gref, segments.len() as u16)
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![Just(PERSISTENT), Just(MAPPED), Just(COPIED)].prop_map(indirect)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 24 }))]

    /// What is read is what was written, however it was cut, and nothing besides has changed on any disk.
    #[test]
    fn a_volume_is_its_sectors_wherever_they_are(
        (shift, stretches) in prop_oneof![3 => Just(9u8), 1 => Just(12)]
            .prop_flat_map(|shift| (Just(shift), stretches(1 << (shift - 9)))),
        how in how(),
        batches in prop::collection::vec(prop::collection::vec(ask(), 1..6), 1..6),
        depth in prop_oneof![1..5usize, Just(256)],
        most_pieces in prop_oneof![Just(usize::MAX), 1..9usize],
    ) {
        let mut rig = rig(depth);
        let mut disks = Vec::new();
        let random = rig.bus.alloc(256).unwrap();
        for disk in 0..DISKS {
            for page in 0..256u64 {
                let own = SharedPages::host(1, 0);
                fill(&own, page * 7 + disk as u64);
                let mut bytes = [0; 4096];
                own.read_bytes(0, &mut bytes);
                random.write_bytes(page as usize * 4096, &bytes);
            }
            copy(&mut rig, disk, Op::Write, &random);
            disks.push(contents(&mut rig, disk));
            rig.nth(disk).most_pieces = most_pieces;
        }
        let assembled = spindle_block::Volume::assembled(
            "vg/lv".into(), &stretches, &super::disks(&rig, shift)).unwrap();
        prop_assume!(assembled.map.is_some());
        assemble(&mut rig, shift, &stretches);
        let places = places(&stretches);
        let per_block = 1usize << (shift - 9);
        let (ring, mut front) = rig.attach(1, how);
        for (number, batch) in batches.into_iter().enumerate() {
            let mut used = vec![false; places.len()];
            let (mut reads, mut writes, mut pushed) = (Vec::new(), Vec::new(), 0);
            for ask in batch {
                // Requests at the same time are for sectors of their own, a discard for whole blocks.
                let mut claim = |at: usize, len: usize| {
                    let free = !used[at..at + len].contains(&true);
                    used[at..at + len].fill(true);
                    free
                };
                match ask {
                    Ask::Read(at, lens) => {
                        let at = at.index(places.len());
                        let (pages, segments) = segments(&front, &lens, places.len() - at);
                        let len = bytes(&pages, &segments).len() / SECTOR;
                        if claim(at, len) {
                            push(&mut front, Operation::READ, at as u64, &segments);
                            let model: Vec<u8> = (at..at + len)
                                .flat_map(|sector| {
                                    let (disk, there) = places[sector];
                                    disks[disk][there * SECTOR..][..SECTOR].to_vec()
                                })
                                .collect();
                            reads.push((pages, segments, model));
                            pushed += 1;
                        }
                    }
                    Ask::Write(at, lens) => {
                        let at = at.index(places.len());
                        let (pages, segments) = segments(&front, &lens, places.len() - at);
                        for (seed, page) in (1..).zip(&pages) {
                            fill(&page.memory, seed * 100 + number as u64);
                        }
                        let data = bytes(&pages, &segments);
                        if claim(at, data.len() / SECTOR) {
                            push(&mut front, Operation::WRITE, at as u64, &segments);
                            writes.push((at, data, pages));
                            pushed += 1;
                        }
                    }
                    Ask::Barrier(at, lens) => {
                        let at = at.index(places.len());
                        let (pages, segments) = segments(&front, &lens, places.len() - at);
                        for (seed, page) in (1..).zip(&pages) {
                            fill(&page.memory, seed * 100 + 50 + number as u64);
                        }
                        let data = bytes(&pages, &segments);
                        if claim(at, data.len() / SECTOR) {
                            front.push(Operation::WRITE_BARRIER, at as u64, &segments);
                            writes.push((at, data, pages));
                            pushed += 1;
                        }
                    }
                    Ask::Discard(at, len) => {
                        let blocks = places.len() / per_block;
                        let at = at.index(blocks);
                        let len = len.index(blocks - at) + 1;
                        let (at, len) = (at * per_block, len * per_block);
                        if claim(at, len) {
                            front.push_discard(at as u64, len as u64, false);
                            writes.push((at, vec![0; len * SECTOR], Vec::new()));
                            pushed += 1;
                        }
                    }
                    Ask::Flush => {
                        front.push(Operation::FLUSH, 0, &[]);
                        pushed += 1;
                    }
                }
            }
            front.publish();
            assert_all(&rig.settle(&mut front), pushed, RspStatus::OKAY);
            for (at, data, _) in writes {
                for (sector, data) in (at..).zip(data.chunks(SECTOR)) {
                    let (disk, there) = places[sector];
                    disks[disk][there * SECTOR..][..SECTOR].copy_from_slice(data);
                }
            }
            for (pages, segments, model) in reads {
                prop_assert!(bytes(&pages, &segments) == model, "other bytes are read");
            }
        }
        for (disk, model) in disks.iter().enumerate() {
            prop_assert!(contents(&mut rig, disk) == *model, "disk {} has other bytes", disk);
        }
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}
