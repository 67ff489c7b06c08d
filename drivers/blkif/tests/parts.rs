//! Requests that go to the disk in parts and through the buffers in chunks move the same bytes as
//! those that go whole, beside others that do the same.

mod common;

use common::{How, Rig, Sizes, assert_all};
use proptest::prelude::*;
use spindle_blkif::Config;
use spindle_blkif::abi::{Abi, Operation, RawSegment, RspStatus};
use spindle_block::{IoError, SubmitError};
use spindle_testkit::blkfront::{Blkfront, GuestPage, fill};

const LARGEST: usize = 256;
/// Sectors of each guest's part of the disk: more pages than a third of the buffers.
const PART: u64 = 680;

fn how(persistent: bool) -> How {
    How {
        frames: persistent.then_some(1024),
        ring_pages: 1,
        start: 0,
        abi: Abi::Native,
        persistent,
        indirect: LARGEST as u16,
    }
}

fn rig() -> Rig {
    Rig::sized(&Sizes {
        buffers: LARGEST,
        config: Config {
            segments: LARGEST,
            ..Config::default()
        },
        ..Sizes::default()
    })
}

/// Cuts `sectors` sectors into segments of pages, whose lengths `lens` gives by turns.
fn cut(front: &Blkfront<'_>, lens: &[u8], sectors: u64) -> (Vec<GuestPage>, Vec<RawSegment>) {
    let (mut pages, mut segments) = (Vec::new(), Vec::new());
    let mut left = sectors;
    for &len in lens.iter().cycle() {
        if left == 0 || segments.len() == LARGEST {
            break;
        }
        let len = u64::from(len).min(left) as u8;
        let page = front.page(false);
        segments.push(page.segment(8 - len, 7));
        pages.push(page);
        left -= u64::from(len);
    }
    (pages, segments)
}

/// The bytes that segments are for.
fn bytes(pages: &[GuestPage], segments: &[RawSegment]) -> Vec<u8> {
    let mut all = Vec::new();
    for (page, segment) in pages.iter().zip(segments) {
        let mut whole = [0; 4096];
        page.memory.read_bytes(0, &mut whole);
        let (first, last) = (segment.first_sect, segment.last_sect);
        all.extend(&whole[usize::from(first) * 512..usize::from(last + 1) * 512]);
    }
    all
}

fn sectors(segments: &[RawSegment]) -> u64 {
    let len = |s: &RawSegment| u64::from(s.last_sect - s.first_sect) + 1;
    segments.iter().map(len).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 48 }))]

    #[test]
    fn what_was_written_is_read_back(
        kinds in prop::array::uniform3(any::<bool>()),
        write_lens in prop::collection::vec(1..=8u8, 1..6),
        read_lens in prop::collection::vec(1..=8u8, 1..6),
        most_pieces in prop_oneof![Just(usize::MAX), 1..80usize],
    ) {
        let mut rig = rig();
        rig.disk().most_pieces = most_pieces;
        rig.disk().record = false;
        let mut guests: Vec<_> = (1..)
            .zip(kinds)
            .map(|(dom, persistent)| rig.attach(dom, how(persistent)))
            .collect();
        let mut written = Vec::new();
        for (at, (_, front)) in (0..).zip(&mut guests) {
            let (pages, segments) = cut(front, &write_lens, PART);
            for (seed, page) in (1..).zip(&pages) {
                fill(&page.memory, seed * 1000 + at);
            }
            let list = front.list(&segments);
            let count = segments.len() as u16;
            front.push_indirect(Operation::WRITE, at * PART, list.gref, count);
            front.publish();
            written.push(bytes(&pages, &segments));
        }
        rig.visit_until_idle(100_000);
        let mut read = Vec::new();
        for ((at, (_, front)), written) in (0..).zip(&mut guests).zip(&written) {
            assert_all(&front.answers(), 1, RspStatus::OKAY);
            let (pages, segments) = cut(front, &read_lens, (written.len() / 512) as u64);
            let list = front.list(&segments);
            let count = segments.len() as u16;
            front.push_indirect(Operation::READ, at * PART, list.gref, count);
            front.publish();
            read.push((pages, segments));
        }
        rig.visit_until_idle(100_000);
        for (((ring, mut front), written), (pages, segments)) in
            guests.into_iter().zip(written).zip(read)
        {
            assert_all(&front.answers(), 1, RspStatus::OKAY);
            let len = sectors(&segments) as usize * 512;
            prop_assert!(bytes(&pages, &segments) == written[..len], "other bytes");
            rig.detach(ring);
        }
        prop_assert!(rig.disk().largest <= most_pieces);
        rig.assert_nothing_leaked();
    }

    /// A part that fails fails its request once, when nothing of it is with the disk any longer.
    #[test]
    fn a_part_that_fails_ends_its_request(
        persistent: bool,
        fails in 0..12usize,
        most_pieces in 1..20usize,
        gone: bool,
    ) {
        let mut rig = rig();
        rig.disk().most_pieces = most_pieces;
        let (ring, mut front) = rig.attach(1, how(persistent));
        let (other_ring, mut other) = rig.attach(2, how(persistent));
        let (pages, segments) = cut(&front, &[8], PART);
        let list = front.list(&segments);
        front.push_indirect(Operation::READ, 0, list.gref, segments.len() as u16);
        front.push(Operation::READ, 0, &[pages[0].segment(0, 7)]);
        front.publish();
        let page = other.page(false);
        other.push(Operation::READ, 0, &[page.segment(0, 7)]);
        other.publish();
        rig.disk().results.extend((0..fails).map(|_| Ok(())));
        rig.disk().results.push_back(Err(IoError::Medium));
        if gone {
            rig.core.visit(0);
            rig.disk().refuse = Some(SubmitError::Gone);
        }
        rig.visit_until_idle(100_000);
        let answers = front.answers();
        prop_assert_eq!(answers.len(), 2);
        let failed = answers.iter().filter(|a| a.status == RspStatus::ERROR).count();
        prop_assert!(failed <= 1 || gone);
        prop_assert_eq!(other.answers().len(), 1);
        rig.disk().refuse = None;
        rig.detach(ring);
        rig.detach(other_ring);
        rig.assert_nothing_leaked();
    }
}

/// The rest of a request that has failed is not sent: its disk may be one that takes seconds for each
/// answer.
#[test]
fn of_a_request_of_which_a_part_has_failed_no_more_is_sent() {
    for persistent in [false, true] {
        let mut rig = rig();
        (rig.disk().most_pieces, rig.disk().most_parts) = (4, 2);
        let (ring, mut front) = rig.attach(1, how(persistent));
        let (_pages, segments) = cut(&front, &[8], PART);
        let list = front.list(&segments);
        front.push_indirect(Operation::READ, 0, list.gref, segments.len() as u16);
        front.publish();
        rig.disk().results = [Ok(()), Err(IoError::Medium)].into();
        rig.visit_until_idle(100_000);
        assert_all(&front.answers(), 1, RspStatus::ERROR);
        let sent = rig.disk().submitted.len();
        assert!((2..=4).contains(&sent), "{sent} of {} parts", PART / 32);
        rig.detach(ring);
        rig.assert_nothing_leaked();
    }
}
