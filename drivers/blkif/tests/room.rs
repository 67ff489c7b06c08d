//! More requests of several pages at once than a ring has room for: what finds none stays in the ring, or
//! in the journal of a former life, until others are done.

mod common;

use common::{COPIED, How, PERSISTENT, Rig, Sizes, assert_all};
use spindle_blkif::abi::{Abi, Operation, RawSegment, RspStatus};
use spindle_blkif::ring::BackRing;
use spindle_blkif::stats::RingSnapshot;
use spindle_blkif::{Config, Session};
use spindle_kept::journal::Journal;
use spindle_testkit::blkfront::{Blkfront, GuestPage};

/// A ring of 512 requests, which are more than there is room for if they have 11 pages each.
const KEPT: How = How {
    ring_pages: 16,
    indirect: 256,
    ..PERSISTENT
};
const MOVED: How = How {
    ring_pages: 16,
    indirect: 256,
    ..COPIED
};

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

fn whole(front: &Blkfront<'_>, count: usize) -> Vec<RawSegment> {
    let pages: Vec<GuestPage> = (0..count).map(|_| front.page(false)).collect();
    pages.iter().map(|page| page.segment(0, 7)).collect()
}

#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn what_finds_no_room_stays_in_the_ring_and_is_served_in_its_turn() {
    for how in [KEPT, MOVED] {
        for abi in [Abi::Native, Abi::X86_32] {
            let mut rig = roomy();
            let (ring, mut front) = rig.attach(1, How { abi, ..how });
            let segments = whole(&front, 256);
            let list = front.list(&segments);
            rig.disk().hold = true;
            let mut asked = Vec::new();
            while front.free() > 0 {
                asked.push(match asked.len() % 4 {
                    0 => front.push_indirect(Operation::READ, 0, list.gref, 256),
                    1 => front.push(Operation::READ, 0, &segments[..1]),
                    _ => front.push(Operation::READ, 0, &segments[..11]),
                });
            }
            front.publish();
            for _ in 0..4 {
                rig.core.visit(0);
            }
            rig.disk().hold = false;
            let mut answers = rig.settle(&mut front);
            assert_all(&answers, asked.len(), RspStatus::OKAY);
            answers.sort_by_key(|answer| answer.id);
            assert!(answers.iter().map(|answer| answer.id).eq(asked));
            let stats = rig.detach(ring).stats.snapshot();
            assert!(stats.out_of_room > 0);
            assert!(stats.in_flight_peak < 64, "{}", stats.in_flight_peak);
            rig.assert_nothing_leaked();
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn what_a_former_life_had_more_room_for_is_done_again_bit_by_bit() {
    for how in [KEPT, MOVED] {
        let mut rig = roomy();
        let (attachment, mut front) = rig.attachment(1, &how);
        let segments = whole(&front, 11);
        for _ in 0..400 {
            front.push(Operation::READ, 0, &segments);
        }
        front.publish();
        // A kernel that took them all, and died.
        let journal = Journal::begin(attachment.journal.pages.alias(), 512, 0);
        let mut former = BackRing::new(front.ring(), journal.unwrap(), Abi::Native, 0);
        assert_eq!(former.pending(), Ok(400));
        for _ in 0..400 {
            let place = former.next_place().unwrap();
            former.take(place);
            former.take_rest(place, &mut [0; 10]);
        }
        former.note_taken();
        let session = Session::adopt(front.ring(), attachment, &RingSnapshot::default());
        let ring = rig.core.attach(session.unwrap()).unwrap();
        front.push(Operation::READ, 0, &segments);
        front.publish();
        assert_all(&rig.settle(&mut front), 401, RspStatus::OKAY);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}
