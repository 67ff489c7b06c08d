//! Rings of every size in both layouts, filled to the last slot and gone round more than once;
//! and the 32-bit layout byte by byte, as the header has it and not as our structures do.

mod common;

use common::{COPIED, How, INDIRECT, PERSISTENT, Rig, assert_all};
use spindle_blkif::abi::{Abi, Operation, RspStatus};
use spindle_block::Op;
use spindle_testkit::blkfront::{Blkfront, GuestPage};

/// Pages of a ring, and its slots by `__RING_SIZE` of Xen's `io/ring.h`: the largest power of two
/// of unions of 112 bytes (x86_64) or 108 bytes (i386) behind a header of 64.
const SIZES: [(usize, u32); 5] = [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)];

/// Fills `page` with what no other has.
fn mark(page: &GuestPage, number: u64) {
    let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    page.memory.write_bytes(0, &word.to_le_bytes().repeat(512));
}

fn sector(page: &GuestPage) -> [u8; 512] {
    let mut bytes = [0; 512];
    page.memory.read_bytes(0, &mut bytes);
    bytes
}

#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn a_ring_of_any_size_carries_as_many_requests_as_it_has_slots() {
    for (ring_pages, slots) in SIZES {
        for abi in [Abi::Native, Abi::X86_32] {
            for path in [PERSISTENT, COPIED] {
                let mut rig = Rig::new();
                // The indices wrap in the second round.
                let start = 0u32.wrapping_sub(slots + 3);
                let how = How {
                    ring_pages,
                    abi,
                    start,
                    ..path
                };
                let (ring, mut front) = rig.attach(1, how);
                assert_eq!(front.free(), slots);
                let data: Vec<_> = (0..slots).map(|_| front.page(false)).collect();
                for round in 0..3 {
                    for (n, page) in (0..).zip(&data) {
                        mark(page, 1000 * round + n);
                        front.push(Operation::WRITE, n, &[page.segment(0, 0)]);
                    }
                    assert_eq!(front.free(), 0, "the ring is full");
                    front.publish();
                    assert_all(&rig.settle(&mut front), slots as usize, RspStatus::OKAY);
                    let written: Vec<_> = data.iter().map(sector).collect();
                    for (n, page) in (0..).zip(&data) {
                        mark(page, u64::MAX - n);
                        front.push(Operation::READ, n, &[page.segment(0, 0)]);
                    }
                    front.publish();
                    assert_all(&rig.settle(&mut front), slots as usize, RspStatus::OKAY);
                    let read: Vec<_> = data.iter().map(sector).collect();
                    assert!(read == written, "{ring_pages} pages, {abi:?}");
                }
                let stats = rig.detach(ring).stats.snapshot();
                assert!(stats.in_flight_peak <= slots.into());
                let each = 3 * u64::from(slots);
                let counted = [
                    stats.reads,
                    stats.writes,
                    stats.sectors_read,
                    stats.sectors_written,
                ];
                assert_eq!((counted, stats.errors), ([each; 4], 0));
                rig.assert_nothing_leaked();
            }
        }
    }
}

/// Everything that a frontend can ask reaches the disk as the same commands by either layout.
#[test]
fn both_layouts_carry_every_operation() {
    let play = |abi: Abi, path: How| {
        let mut rig = Rig::with_indirect();
        rig.volume.write_cache = true;
        let how = How {
            abi,
            indirect: INDIRECT,
            ..path
        };
        let (ring, mut front) = rig.attach(1, how);
        let data: Vec<_> = (0..20).map(|_| front.page(false)).collect();
        for (n, page) in (1..).zip(&data) {
            mark(page, n);
        }
        let segments: Vec<_> = data.iter().map(|page| page.segment(0, 7)).collect();
        let list = front.list(&segments);
        let asks: [&dyn Fn(&mut Blkfront<'_>) -> u64; 10] = [
            &|f| f.push(Operation::WRITE, 8, &segments[..1]),
            &|f| f.push(Operation::WRITE, 16, &segments[1..12]),
            &|f| f.push(Operation::WRITE, 201, &[data[12].segment(3, 5)]),
            &|f| f.push_indirect(Operation::WRITE, 256, list.gref, 20),
            &|f| f.push(Operation::WRITE_BARRIER, 512, &segments[13..15]),
            &|f| f.push(Operation::FLUSH, 0, &[]),
            &|f| f.push_discard(600, 16, false),
            &|f| f.push_discard(640, 8, true),
            &|f| f.push(Operation::READ, 201, &[data[13].segment(3, 5)]),
            &|f| f.push_indirect(Operation::READ, 256, list.gref, 19),
        ];
        for ask in asks {
            ask(&mut front);
            front.publish();
            assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
        }
        let commands = std::mem::take(&mut rig.disk().submitted);
        let discarded = rig.disk().discarded.clone();
        let mut contents = Vec::new();
        // All of the disk that was touched, read by itself.
        for n in (0..720).step_by(8) {
            front.push(Operation::READ, n, &[data[0].segment(0, 7)]);
            front.publish();
            assert_all(&rig.settle(&mut front), 1, RspStatus::OKAY);
            let mut bytes = [0; 4096];
            data[0].memory.read_bytes(0, &mut bytes);
            contents.extend(bytes);
        }
        rig.detach(ring);
        rig.assert_nothing_leaked();
        (commands, discarded, contents)
    };
    let first = play(Abi::Native, PERSISTENT);
    for (op, count) in [(Op::Discard, 1), (Op::SecureDiscard, 1), (Op::Read, 2)] {
        let found = first.0.iter().filter(|(o, ..)| *o == op).count();
        assert_eq!(found, count, "{op:?}");
    }
    assert!(first.0.iter().any(|(op, ..)| *op == Op::Flush));
    assert_eq!(first.1, [16, 8]);
    // Marks are where they were written: page 0 at sector 8, page 12 at sector 201.
    assert_eq!(
        first.2[8 * 512..][..8],
        (0x9e37_79b9_7f4a_7c15_u64 | 1).to_le_bytes()
    );
    for path in [PERSISTENT, COPIED] {
        let (native, small) = (play(Abi::Native, path), play(Abi::X86_32, path));
        assert_eq!(native.0, small.0);
        assert!(native == small && native.2 == first.2);
    }
}

/// A slot as an i386 compiler lays out `struct blkif_x86_32_request`, whose 64-bit words lie on
/// multiples of 4.
struct Slot([u8; 108]);

impl Slot {
    fn new(operation: u8, second: u8, id: u64, sector: u64) -> Self {
        let mut slot = Self([0xee; 108]);
        slot.put(0, &[operation, second]);
        slot.put(4, &id.to_le_bytes());
        slot.put(12, &sector.to_le_bytes());
        slot
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A segment at `at`.
    fn segment(&mut self, at: usize, page: &GuestPage, first: u8, last: u8) -> &mut Self {
        self.put(at, &page.gref.0.to_le_bytes());
        self.put(at + 4, &[first, last, 0xee, 0xee])
    }
}

#[test]
fn the_32_bit_layout_is_that_of_the_header() {
    const ID: u64 = 0x1122_3344_5566_7788;
    let mut rig = Rig::with_indirect();
    rig.volume.write_cache = true;
    let how = How {
        abi: Abi::X86_32,
        indirect: INDIRECT,
        ..PERSISTENT
    };
    let (_, front) = rig.attach(1, how);
    let data: Vec<_> = (0..12).map(|_| front.page(false)).collect();
    let list = front.page(false);
    for (n, page) in (0..).zip(&data) {
        mark(page, n);
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&page.gref.0.to_le_bytes());
        entry[5] = 7;
        list.memory.write_bytes(8 * n as usize, &entry);
    }
    // Operations by their numbers in io/blkif.h: 0 READ, 1 WRITE, 2 WRITE_BARRIER, 3 FLUSH,
    // 5 DISCARD, 6 INDIRECT.
    let mut write = Slot::new(1, 2, ID, 40);
    write
        .segment(20, &data[0], 0, 7)
        .segment(28, &data[1], 2, 2);
    let mut barrier = Slot::new(2, 1, ID + 1, 64);
    barrier.segment(20, &data[2], 0, 0);
    let flush = Slot::new(3, 0, ID + 2, 0);
    let mut discard = Slot::new(5, 0, ID + 3, 100);
    discard.put(20, &24u64.to_le_bytes());
    let mut secure = Slot::new(5, 1, ID + 4, 200);
    secure.put(20, &8u64.to_le_bytes());
    let mut indirect = Slot::new(6, 1, ID + 5, 256);
    indirect.put(2, &12u16.to_le_bytes());
    indirect.put(24, &list.gref.0.to_le_bytes());
    let mut read = Slot::new(0, 1, ID + 6, 48);
    read.segment(20, &data[11], 0, 0);
    let ring = front.ring();
    for (n, slot) in [write, barrier, flush, discard, secure, indirect, read]
        .iter()
        .enumerate()
    {
        ring.write_bytes(64 + 108 * n, &slot.0);
        // `req_prod` is the header's first word, `rsp_prod` its third.
        ring.write_bytes(0, &(n as u32 + 1).to_le_bytes());
        for _ in 0..20 {
            rig.core.visit(0);
        }
        let mut made = [0; 4];
        ring.read_bytes(8, &mut made);
        assert_eq!(u32::from_le_bytes(made), n as u32 + 1);
        let mut response = [0; 12];
        ring.read_bytes(64 + 108 * n, &mut response);
        let operation = [1, 2, 3, 5, 5, 1, 0][n];
        let mut expected = (ID + n as u64).to_le_bytes().to_vec();
        expected.extend([operation, 0, 0, 0]);
        // Of an indirect request it is what was done, as Linux' backend answers.
        assert_eq!(response, expected[..], "request {n}");
    }
    let disk = rig.disk();
    for (op, block, _) in &mut disk.submitted {
        // A flush is for the whole disk.
        *block = if *op == Op::Flush { 0 } else { *block };
    }
    let expected = [
        (Op::Write, 40, 2),
        (Op::Flush, 0, 0),
        (Op::WriteThrough, 64, 1),
        (Op::Flush, 0, 0),
        (Op::Discard, 100, 0),
        (Op::SecureDiscard, 200, 0),
        (Op::Write, 256, 12),
        (Op::Read, 48, 1),
    ];
    assert_eq!(disk.submitted, expected);
    assert_eq!(disk.discarded, [24, 8]);
    // Sector 48 is the ninth of the first write: the third sector of its second page.
    assert_eq!(
        sector(&data[11])[..8],
        0x9e37_79b9_7f4a_7c15_u64.to_le_bytes()
    );
}
