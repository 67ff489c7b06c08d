//! Claims on the blocks of a disk that is shown with smaller sectors than it has blocks.
//!
//! A write that begins or ends inside a block reads that block, changes a part of it and writes it
//! back. What anybody else writes to the block meanwhile would be lost, so that such a write claims
//! the block alone, and one of whole blocks claims its blocks together with others of its kind: the
//! order of two writes that overlap is their guest's concern.
//!
//! The rings that may write to the same blocks share one table with a fixed number of cells, each
//! of which stands for all blocks of its number. A claim is had at once or not at all; a ring that
//! got none holds none, and tries again when it is visited next. Nothing is waited for or locked.
//! A block that is wanted alone takes no further claims until those on it are gone, or they might
//! never be: each cell stands for many blocks.

use alloc::boxed::Box;

use crate::abi::MAX_INDIRECT_SEGMENTS;
use crate::room::{NoRoom, room_for};
use crate::sync::{AtomicU32, Ordering};

/// Cells of a table. A model of few blocks has few.
const CELLS: usize = if cfg!(loom) { 4 } else { 1024 };

// No request has two blocks in one cell: it would stand in its own way.
const _: () = assert!(cfg!(loom) || CELLS > MAX_INDIRECT_SEGMENTS + 1);

/// Claimed alone.
const ALONE: u32 = 1 << 31;
/// A request wants the block alone and tries again. Below, the number of claims together with others.
const WANTED: u32 = 1 << 30;

/// A table of claims.
#[derive(Debug)]
pub struct Claims {
    cells: Box<[AtomicU32]>,
}

/// What a write claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first block on the unit.
    pub block: u64,
    /// How many; no more than a request has.
    pub blocks: u64,
    /// Whether the first block is wanted alone.
    pub first_alone: bool,
    /// Whether the last one is.
    pub last_alone: bool,
}

impl Span {
    /// Its blocks, counted from the first, in the order of their cells. Of all those that stand in
    /// each other's way the one that has the highest cell gets the rest, too.
    fn in_order(&self) -> impl Iterator<Item = u64> + use<> {
        let around = (CELLS as u64 - self.block % CELLS as u64).min(self.blocks);
        (around..self.blocks).chain(0..around)
    }

    fn is_alone(&self, at: u64) -> bool {
        at == 0 && self.first_alone || at + 1 == self.blocks && self.last_alone
    }
}

impl Claims {
    /// Without any claim.
    ///
    /// # Errors
    /// If there is no memory for it: 4 KiB.
    pub fn new() -> Result<Self, NoRoom> {
        let mut cells = room_for(CELLS)?;
        cells.resize_with(CELLS, || AtomicU32::new(0));
        Ok(Self {
            cells: cells.into(),
        })
    }

    /// Claims all of `span`; false if that cannot be had now. Whoever got that tries again until it
    /// is true.
    #[must_use]
    pub fn claim(&self, span: &Span) -> bool {
        debug_assert!(span.blocks <= self.cells.len() as u64);
        for (taken, at) in span.in_order().enumerate() {
            if !take(self.cell(span, at), span.is_alone(at)) {
                let taken = span.in_order().take(taken);
                taken.for_each(|at| give(self.cell(span, at), span.is_alone(at)));
                return false;
            }
        }
        true
    }

    /// Gives up what [`Claims::claim`] has got.
    pub fn release(&self, span: &Span) {
        for at in span.in_order() {
            give(self.cell(span, at), span.is_alone(at));
        }
    }

    fn cell(&self, span: &Span, at: u64) -> &AtomicU32 {
        &self.cells[(span.block.wrapping_add(at) % CELLS as u64) as usize]
    }
}

fn take(cell: &AtomicU32, alone: bool) -> bool {
    let mut seen = cell.load(Ordering::Relaxed);
    loop {
        let (next, taken) = match seen {
            0 | WANTED if alone => (ALONE, true),
            _ if alone && seen & (ALONE | WANTED) == 0 => (seen | WANTED, false),
            _ if !alone && seen & (ALONE | WANTED) == 0 => (seen + 1, true),
            _ => return false,
        };
        // Acquire: what those did who had it before is done.
        match cell.compare_exchange(seen, next, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return taken,
            Err(other) => seen = other,
        }
    }
}

/// Release: see `take`.
fn give(cell: &AtomicU32, alone: bool) {
    if alone {
        // No one else changes it meanwhile.
        cell.store(0, Ordering::Release);
    } else {
        cell.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn span(block: u64, blocks: u64, first_alone: bool, last_alone: bool) -> Span {
        Span {
            block,
            blocks,
            first_alone,
            last_alone,
        }
    }

    /// What is unlike all others of the cell that a block is in.
    const ROUND: u64 = CELLS as u64;

    #[test]
    fn a_block_is_had_alone_or_with_others_and_what_is_not_had_in_full_is_not_had() {
        let claims = Claims::new().unwrap();
        let whole = span(ROUND - 2, 4, false, false);
        assert!(claims.claim(&whole) && claims.claim(&whole));
        let inside = span(ROUND + 1, 3, true, true);
        assert!(!claims.claim(&inside));
        let behind = span(ROUND + 2, 2, true, true);
        assert!(claims.claim(&behind), "nothing of the other was kept");
        claims.release(&behind);
        claims.release(&whole);
        assert!(!claims.claim(&inside), "once more is there");
        claims.release(&whole);
        assert!(claims.claim(&inside));
        assert!(!claims.claim(&span(1, 1, false, false)), "the same cell");
        assert!(claims.claim(&span(2, 1, false, false)), "between its ends");
    }

    #[test]
    fn who_wants_a_block_alone_gets_it_before_any_further_claim_and_not_twice() {
        let claims = Claims::new().unwrap();
        let (whole, part) = (span(7, 1, false, false), span(7, 1, true, false));
        assert!(claims.claim(&whole));
        assert!(!claims.claim(&part));
        assert!(!claims.claim(&whole), "wanted");
        claims.release(&whole);
        assert!(!claims.claim(&whole), "still wanted");
        assert!(claims.claim(&part));
        assert!(!claims.claim(&part) && !claims.claim(&whole));
        claims.release(&part);
        assert!(claims.claim(&whole), "not wanted any more");
    }

    /// Three that go after each other's ends, each of which is wanted already.
    #[test]
    fn those_that_want_each_others_blocks_all_get_them_in_the_end() {
        let spans = [
            span(0, 12, false, true),
            span(5, 12, true, false),
            span(11, 10, true, true),
        ];
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let claims = Claims::new().unwrap();
            let all = span(0, 24, false, false);
            assert!(claims.claim(&all));
            assert!(spans.iter().all(|span| !claims.claim(span)));
            claims.release(&all);
            let mut left: Vec<_> = order.into();
            for _ in 0..6 {
                left.retain(|&at| {
                    let had = claims.claim(&spans[at]);
                    if had {
                        claims.release(&spans[at]);
                    }
                    !had
                });
            }
            assert!(left.is_empty(), "{order:?}: {left:?}");
        }
    }

    proptest! {
        /// Whoever is in whatever order: nobody has a block together with one who has it alone, and
        /// all get their turn.
        #[test]
        fn claims_are_apart_and_had_in_the_end(
            wanted in prop::collection::vec(
                (0u64..3 * ROUND, 1u64..=257, any::<bool>(), any::<bool>()), 1..12),
            turns in prop::collection::vec(0usize..12, 0..200),
        ) {
            let claims = Claims::new().unwrap();
            let spans: Vec<_> = wanted.iter().map(|&(b, n, f, l)| span(b, n, f, l)).collect();
            let mut held: Vec<usize> = Vec::new();
            let mut done = 0;
            let mut left: Vec<usize> = (0..spans.len()).collect();
            // What is left after the random turns goes round by round.
            let rest = (0..40 * spans.len()).map(|turn| turn % 12);
            for turn in turns.into_iter().chain(rest) {
                if turn % 3 == 0 && !held.is_empty() {
                    claims.release(&spans[held.remove(0)]);
                    done += 1;
                } else if !left.is_empty() {
                    let at = turn % left.len();
                    let mine = spans[left[at]];
                    if !claims.claim(&mine) {
                        continue;
                    }
                    for other in held.iter().map(|&other| spans[other]) {
                        for i in 0..mine.blocks {
                            let same = |j: &u64| {
                                (mine.block + i) % ROUND == (other.block + j) % ROUND
                            };
                            for j in (0..other.blocks).filter(same) {
                                prop_assert!(!mine.is_alone(i) && !other.is_alone(j));
                            }
                        }
                    }
                    held.push(left.remove(at));
                }
            }
            for at in held.drain(..) {
                claims.release(&spans[at]);
                done += 1;
            }
            while let Some(at) = left.pop() {
                prop_assert!(claims.claim(&spans[at]), "no claim is left");
                claims.release(&spans[at]);
                done += 1;
            }
            prop_assert_eq!(done, spans.len());
            let clean = |cell: &AtomicU32| cell.load(Ordering::Relaxed) & !WANTED == 0;
            prop_assert!(claims.cells.iter().all(clean));
        }
    }
}
