//! PRP rules by name, and a property: runs cover the memory exactly, in order.

use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// A run with its list written out.
type Plan = (u64, Second, u32, Vec<u64>);

fn plan(segments: &[(u64, u32)], limit: u32, shift: u8) -> Result<Vec<Plan>, Scattered> {
    let segments: Vec<Segment> = segments
        .iter()
        .map(|&(bus, len)| Segment::new(bus, len))
        .collect();
    let mut runs = Runs::new(&segments, limit, shift);
    let mut plans = Vec::new();
    loop {
        let mut list = Vec::new();
        let run = runs.next(&mut |index, pages| {
            assert_eq!(index, list.len());
            list.extend(pages.iter().map(|page| page.bus()));
        });
        match run {
            None => return Ok(plans),
            Some(Err(scattered)) => return Err(scattered),
            Some(Ok(run)) => plans.push((run.prp1, run.second, run.bytes, list)),
        }
    }
}

const BIG: u32 = 512 << 10;

#[test]
fn a_page_or_less_uses_prp1_only() {
    let expected = vec![(0x1000, Second::None, 4096, vec![])];
    assert_eq!(plan(&[(0x1000, 4096)], BIG, 9), Ok(expected));
    let expected = vec![(0x1e00, Second::None, 512, vec![])];
    assert_eq!(plan(&[(0x1e00, 512)], BIG, 9), Ok(expected));
}

#[test]
fn a_simple_segment_is_one_that_makes_one_run() {
    for bus in [0x1000, 0x1002, 0x1200, 0x1800, 0x1e00] {
        for len in [2, 256, 512, 1024, 2048, 4096] {
            for shift in [9, 12] {
                let one = vec![(bus, Second::None, len, vec![])];
                let simple = plan(&[(bus, len)], 4096, shift) == Ok(one);
                let length = one_page(Segment::new(bus, len), shift, UNALIGNED);
                assert_eq!(length, simple.then(|| (len >> shift) - 1));
            }
        }
    }
}

#[test]
fn two_pages_put_the_second_into_prp2() {
    let segments = [(0x1200, 0xe00), (0x9000, 0x200)];
    let expected = vec![(0x1200, Second::Page(0x9000), 4096, vec![])];
    assert_eq!(plan(&segments, BIG, 9), Ok(expected));
}

#[test]
fn three_pages_make_a_list_that_starts_with_the_second() {
    let segments = [(0x1000, 4096), (0x5000, 4096), (0x3000, 4096)];
    let expected = vec![(0x1000, Second::List, 3 * 4096, vec![0x5000, 0x3000])];
    assert_eq!(plan(&segments, BIG, 9), Ok(expected));
}

#[test]
fn contiguous_pieces_of_a_page_share_an_entry() {
    let segments = [
        (0x1000, 512),
        (0x1200, 512),
        (0x1400, 0xc00),
        (0x2000, 512),
        (0x2200, 512),
    ];
    let expected = vec![(0x1000, Second::Page(0x2000), 4096 + 1024, vec![])];
    assert_eq!(plan(&segments, BIG, 9), Ok(expected));
}

#[test]
fn a_piece_that_ends_or_starts_inside_a_page_begins_a_new_command() {
    let ends_inside = [(0x1000, 512), (0x5000, 4096)];
    let starts_inside = [(0x1000, 4096), (0x5200, 512)];
    for segments in [ends_inside, starts_inside] {
        let plans = plan(&segments, BIG, 9).unwrap();
        assert_eq!(plans.len(), 2);
        assert_eq!((plans[0].0, plans[0].2), segments[0]);
        assert_eq!((plans[1].0, plans[1].2), segments[1]);
    }
}

#[test]
fn a_block_is_never_torn() {
    assert_eq!(
        plan(&[(0x1000, 2048), (0x5000, 2048)], BIG, 12),
        Err(Scattered)
    );
    assert_eq!(plan(&[(0x1000, 512)], BIG, 12), Err(Scattered));
    assert_eq!(
        plan(&[(0x1000, 256), (0x5000, 256)], BIG, 9),
        Err(Scattered)
    );
    assert!(plan(&[(0x1800, 2048), (0x5000, 2048)], BIG, 12).is_ok());
}

#[test]
fn pieces_that_break_the_contract_are_refused() {
    assert_eq!(plan(&[(0x1200, 4096)], BIG, 9), Err(Scattered));
    assert_eq!(
        plan(&[(0x1000, 4096), (0x2200, 4096)], BIG, 9),
        Err(Scattered)
    );
    assert_eq!(plan(&[(0x1002, 512)], BIG, 9), Err(Scattered));
    assert_eq!(plan(&[((1 << 52) - 1, 4096)], BIG, 9), Err(Scattered));
}

#[test]
fn the_limit_cuts_inside_a_segment_when_the_start_is_not_on_a_page() {
    let segments = [(0x1200, 0xe00), (0x2000, 4096), (0x3000, 0x200)];
    let expected = vec![
        (0x1200, Second::Page(0x2000), 4096, vec![]),
        (0x2200, Second::Page(0x3000), 4096, vec![]),
    ];
    assert_eq!(plan(&segments, 4096, 9), Ok(expected));
}

#[test]
fn the_longest_list_fits_its_room() {
    let mut segments: Vec<_> = (0..129u64).map(|i| (i * 0x2000, 4096)).collect();
    segments[0] = (0x0e00, 512);
    segments[128].1 = 3584;
    let plans = plan(&segments, BIG, 9).unwrap();
    assert_eq!(plans.len(), 1);
    assert_eq!(plans[0].3.len(), 128);
    assert_eq!(plans[0].2, BIG);
}

/// Where the bytes of a plan are, page by page, as a controller would read it.
fn bytes_of(plan: &Plan) -> Vec<(u64, u32)> {
    let (prp1, second, bytes, list) = plan;
    let mut pages = vec![*prp1];
    match second {
        Second::None => {}
        Second::Page(page) => pages.push(*page),
        Second::List => pages.extend(list),
    }
    let mut left = *bytes;
    let pieces = pages
        .into_iter()
        .map(|page| {
            let len = left.min(4096 - (page & 4095) as u32);
            assert!(len > 0, "an entry too many");
            left -= len;
            (page, len)
        })
        .collect();
    assert_eq!(left, 0, "an entry missing");
    pieces
}

fn pieces() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let piece = (0..4u8, 0..8u64, 0..8u64, 1..=8u64);
    prop::collection::vec(piece, 1..40).prop_map(|choices| {
        let mut at = 0x10_0000u64;
        let mut pieces = Vec::new();
        for (kind, page, offset, sectors) in choices {
            let (page, offset) = match kind {
                // Go on where the last piece ended, take a whole page, or anything.
                0 => (at >> 12, at >> 9 & 7),
                1 => (0x200 + page, 0),
                _ => (0x300 + page, offset),
            };
            let sectors = if kind == 1 {
                8
            } else {
                sectors.min(8 - offset)
            };
            at = (page << 12) + ((offset + sectors) << 9);
            pieces.push(((page << 12) + (offset << 9), (sectors << 9) as u32));
        }
        pieces
    })
}

proptest! {
    /// 4.3: each byte goes where it was meant to go, only first and last entries are partial
    /// (`bytes_of` reads plans so), no run is over the limit, and memory is refused only if a
    /// block is torn.
    #[test]
    fn runs_cover_the_memory_in_order(pieces in pieces(), limit_pages in 1..10u32, four_k: bool) {
        let shift = if four_k { 12 } else { 9 };
        let total: u32 = pieces.iter().map(|p| p.1).sum();
        let mut position = 0;
        let mut torn = !total.is_multiple_of(1 << shift);
        for pair in pieces.windows(2) {
            position += pair[0].1;
            let end = pair[0].0 + u64::from(pair[0].1);
            let joins = if end.is_multiple_of(4096) { pair[1].0.is_multiple_of(4096) } else { end == pair[1].0 };
            torn |= !joins && !position.is_multiple_of(1 << shift);
        }
        match plan(&pieces, limit_pages * 4096, shift) {
            Err(Scattered) => prop_assert!(torn),
            Ok(plans) => {
                prop_assert!(!torn);
                let sectors = |list: &[(u64, u32)]| -> Vec<u64> {
                    list.iter()
                        .flat_map(|&(bus, len)| (0..u64::from(len) / 512).map(move |i| bus + i * 512))
                        .collect()
                };
                let covered: Vec<_> = plans.iter().flat_map(bytes_of).collect();
                prop_assert_eq!(sectors(&covered), sectors(&pieces));
                for plan in &plans {
                    prop_assert!(plan.2 <= limit_pages * 4096);
                    prop_assert!(plan.3.len() <= limit_pages as usize);
                }
            }
        }
    }
}

proptest! {
    /// However pieces are grouped to be looked at, as many are whole pages as one by one.
    #[test]
    fn whole_pages_are_counted_up_to_the_first_other_piece(
        whole in 0usize..40,
        other in prop_oneof![Just((0x1200u64, 512u32)), Just((0x1000, 2048)), Just((0x1200, 3584))],
        after in 0usize..20,
    ) {
        let page = |i: usize| Segment::new((i as u64 + 1) << 12, 4096);
        let mut segments: Vec<Segment> = (0..whole).map(page).collect();
        prop_assert_eq!(whole_pages(&segments), whole);
        let (bus, len) = other;
        segments.push(Segment::new(bus, len));
        segments.extend((0..after).map(page));
        prop_assert_eq!(whole_pages(&segments), whole);
    }
}
