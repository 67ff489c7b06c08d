//! How a page is found that a segment asks for.
//!
//! What a frontend uses together it has mostly granted in a row, and had mapped in a row. So a page is
//! expected in a frame that is as far from that of the page found last as their references are apart,
//! whichever way a request goes through them. One comparison with the frame's name tells whether it is
//! that, and the segment a good one for a whole page. All else is found by the table.

use spindle_block::Segment;

use super::{GrantCache, Missing, NO_FRAME, part_of};

/// What counts of a segment's word: reference and sectors.
const SEGMENT: u64 = (1 << 48) - 1;

/// Table places looked at before giving up. It bounds what a frontend that picks colliding
/// references can cost; its further references are copied instead of mapped.
pub(super) const PROBES: usize = 32;

impl GrantCache {
    /// The bus address of the page that `gref` grants, if it is mapped or about to be. It stays as
    /// long as the caller marks it before any page is given up, or until the next turn.
    #[inline(always)]
    pub fn find(&mut self, gref: u32) -> Option<u64> {
        let index = self.frame(gref)?;
        self.frames.get_mut(index)?.used = self.turn;
        Some(self.window.bus(index))
    }

    /// As [`GrantCache::find`].
    ///
    /// # Errors
    /// If the page is not in the cache, with what [`GrantCache::reserve`] needs.
    #[inline(never)]
    pub fn find_or_miss(&mut self, gref: u32) -> Result<u64, Missing> {
        self.find(gref).ok_or_else(|| self.missing(gref))
    }

    /// The page that a segment asks for, `word`, if it asks for all of it and that is in the cache.
    #[inline(always)]
    pub(crate) fn find_page(&mut self, word: u64) -> Option<Segment> {
        match self.find_expected(word) {
            None => self.find_elsewhere(word),
            page => page,
        }
    }

    /// The same where it is expected.
    #[inline(always)]
    fn find_expected(&mut self, word: u64) -> Option<Segment> {
        let index = (word as u32).wrapping_add(self.ahead);
        let frame = self.frames.get_mut(index as usize)?;
        if frame.name() != word & SEGMENT {
            return None;
        }
        frame.used = self.turn;
        Some(self.first.pages_on(index))
    }

    /// The same wherever the page is; the next ones are expected to be where that leads.
    #[inline(never)]
    fn find_elsewhere(&mut self, word: u64) -> Option<Segment> {
        self.find_anew(word as u32)?;
        self.find_expected(word)
    }

    /// As [`GrantCache::find`], with the same consequence.
    #[inline(never)]
    pub(crate) fn find_anew(&mut self, gref: u32) -> Option<u64> {
        let index = self.frame(gref)?;
        self.ahead = (index as u32).wrapping_sub(gref);
        self.frames.get_mut(index)?.used = self.turn;
        Some(self.window.bus(index))
    }

    /// The pages that segments ask for, `words`, up to the first that does not ask for all of one, or for one
    /// that is not in the cache; says how many there are. Their memory goes to `memory`.
    #[inline]
    pub(crate) fn find_pages(&mut self, words: &[u64], memory: &mut [Segment]) -> usize {
        let mut found = self.find_row(words, memory);
        while let (Some(words @ [word, ..]), Some(memory)) =
            (words.get(found..), memory.get_mut(found..))
            && self.find_anew(*word as u32).is_some()
        {
            match self.find_row(words, memory) {
                // It asks for a part.
                0 => break,
                more => found += more,
            }
        }
        found
    }

    /// As [`GrantCache::find`] for the pages of segments that passed validation, `words`; their memory
    /// goes to `memory`. False if any is not in the cache.
    #[inline]
    pub(crate) fn find_all(&mut self, words: &[u64], memory: &mut [Segment]) -> bool {
        let found = self.find_pages(words, memory);
        let all = found == words.len() || self.find_parts(words, memory, found);
        if all {
            self.note_uses(words.len() as u32);
        }
        all
    }

    /// The same up to the first that is not where it is expected. Most are in one frame after the other.
    /// Nothing is called in this, nor is there anything else, so that all that it needs stays at hand.
    #[inline(never)]
    fn find_row(&mut self, words: &[u64], memory: &mut [Segment]) -> usize {
        let (turn, ahead, first) = (self.turn, self.ahead, self.first);
        let frames = &mut self.frames[..];
        let start = words
            .first()
            .map_or(0, |&word| word as u32)
            .wrapping_add(ahead);
        let row = frames.get_mut(start as usize..).unwrap_or_default();
        let mut page = first.pages_on(start);
        let mut found = 0;
        for ((&word, piece), frame) in words.iter().zip(&mut *memory).zip(row) {
            if frame.name() != word & SEGMENT {
                break;
            }
            frame.used = turn;
            *piece = page;
            page = page.pages_on(1);
            found += 1;
        }
        for (&word, piece) in words.iter().zip(memory).skip(found) {
            let index = (word as u32).wrapping_add(ahead);
            let Some(frame) = frames.get_mut(index as usize) else {
                break;
            };
            if frame.name() != word & SEGMENT {
                break;
            }
            frame.used = turn;
            *piece = first.pages_on(index);
            found += 1;
        }
        found
    }

    /// The same from the one at `from` on, whatever they ask for.
    #[inline(never)]
    fn find_parts(&mut self, words: &[u64], memory: &mut [Segment], from: usize) -> bool {
        for (&word, piece) in words.iter().zip(memory).skip(from) {
            let Some(page) = self.find_anew(word as u32) else {
                return false;
            };
            *piece = part_of(page, word);
        }
        true
    }

    /// The frame that the table leads to for `gref`, if it leads anywhere: most are where they are looked
    /// for first.
    #[inline(always)]
    fn frame(&self, gref: u32) -> Option<usize> {
        let index = usize::from(*self.table.get(self.home(gref))?);
        if self.frames.get(index)?.gref == gref {
            return Some(index);
        }
        self.probe(gref).ok().map(|(_, index)| index)
    }

    /// What is known of a reference that is not in the cache: most would be where they are looked for
    /// first.
    fn missing(&self, gref: u32) -> Missing {
        let home = self.home(gref);
        let place = if self.table.get(home) == Some(&NO_FRAME) {
            Some(home)
        } else {
            self.probe(gref)
                .map_or_else(|place| place, |(place, _)| Some(place))
        };
        Missing { gref, place }
    }

    /// The place in the table that leads to `gref`, and the frame that it leads to; or else the
    /// place that it would have, if there is one near enough.
    #[inline(never)]
    fn probe(&self, gref: u32) -> Result<(usize, usize), Option<usize>> {
        let mask = self.table.len() - 1;
        let home = self.home(gref);
        // A number that the compiler does not know: it would write the loop out, which is seldom gone
        // round twice.
        let most = PROBES.min(self.frames.len() + 1);
        for at in home..home + most {
            let index = usize::from(self.table[at & mask]);
            match self.frames.get(index) {
                Some(frame) if frame.gref == gref => return Ok((at & mask, index)),
                Some(_) => {}
                None => return Err(Some(at & mask)),
            }
        }
        Err(None)
    }

    #[inline]
    pub(super) fn home(&self, gref: u32) -> usize {
        home(gref, self.shift)
    }
}

/// The place of a table where `gref` is looked for first.
#[inline(always)]
fn home(gref: u32, shift: u32) -> usize {
    (gref.wrapping_mul(0x9e37_79b1) >> (shift & 31)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use spindle_xen::grant::{CopyOp, GrantOps, MapOp, Status, UnmapOp};
    use spindle_xen::{DomId, Errno};

    use crate::request::{WHOLE_PAGE, is_whole_page};
    use crate::window::Window;

    const BASE: u64 = 1 << 40;

    /// Grants of which everything goes well.
    struct Willing;

    impl GrantOps for Willing {
        fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
            for op in ops {
                (op.handle, op.status) = (1, Status::OKAY);
            }
            Ok(())
        }

        fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
            ops.iter_mut().for_each(|op| op.status = Status::OKAY);
            Ok(())
        }

        fn copy(&self, _ops: &mut [CopyOp]) -> Result<(), Errno> {
            Err(Errno::EINVAL)
        }

        fn read(&self, _at: u64, _words: &mut [u64]) -> bool {
            false
        }
    }

    fn cache(frames: usize) -> GrantCache {
        GrantCache::new(DomId(1), Window::new(BASE, frames).unwrap()).unwrap()
    }

    /// Has the page mapped.
    fn keep(cache: &mut GrantCache, gref: u32) -> u64 {
        let missing = cache.find_or_miss(gref).unwrap_err();
        let (bus, mut op) = cache.reserve(missing).unwrap();
        Willing.map(core::slice::from_mut(&mut op)).unwrap();
        assert!(cache.record(&op));
        bus
    }

    fn whole(gref: u32) -> u64 {
        WHOLE_PAGE | u64::from(gref) | 0xabcd << 48
    }

    #[test]
    fn a_page_that_was_given_up_is_not_found_where_it_was() {
        let mut cache = cache(4);
        for gref in 0..4 {
            cache.next_turn();
            keep(&mut cache, gref);
        }
        assert_eq!(cache.find_page(whole(0)), Some(Segment::page(BASE)));
        cache.trim(&Willing, 0);
        cache.find_page(whole(2)).unwrap();
        let (unmapped, _) = cache.trim(&Willing, 1);
        assert_eq!(unmapped, 3);
        for gref in [0, 1, 3] {
            assert_eq!(cache.find_page(whole(gref)), None);
            assert_eq!(cache.find_pages(&[whole(gref)], &mut [Segment::page(0)]), 0);
        }
        // Nor is a frame that holds nothing taken for a sector of the page that no reference names.
        assert_eq!(cache.find_page(0), None);
        assert!(cache.find_page(whole(2)).is_some());
    }

    #[test]
    fn a_page_mapped_for_one_request_is_not_found() {
        let mut cache = cache(4);
        let (bus, mut op) = cache.map_once(7, false).unwrap();
        Willing.map(core::slice::from_mut(&mut op)).unwrap();
        assert!(cache.record(&op));
        for word in [whole(7), 7] {
            cache.ahead = 0u32.wrapping_sub(7);
            assert_eq!(cache.find_page(word), None);
        }
        cache.let_go(bus);
        assert_eq!(cache.find_page(whole(7)), None);
    }

    proptest! {
        /// In whichever order segments name pages, and whatever those before them were, what is found is what
        /// was mapped for the reference, up to the first that is not for a whole page that is mapped.
        #[test]
        fn segments_lead_to_the_pages_that_were_mapped_for_them(
            mapped in prop::collection::vec(0u32..60, 1..48),
            asked in prop::collection::vec((0u32..60, 1u32..8, 0usize..9), 1..12),
            part in 0usize..60,
        ) {
            let mut cache = cache(48);
            let mut pages = alloc::collections::BTreeMap::new();
            for gref in mapped {
                pages.entry(gref).or_insert_with(|| keep(&mut cache, gref));
            }
            // Runs in either direction, and from all over the place.
            let mut words: Vec<u64> = Vec::new();
            for (first, step, count) in asked {
                let step = [1, u32::MAX, 3, 0, 17, 1, u32::MAX, 1][step as usize];
                words.extend((0..count as u32).map(|n| whole(first.wrapping_add(n.wrapping_mul(step)))));
            }
            if let Some(word) = words.get_mut(part) {
                *word ^= 1 << 40;
            }
            let page = |word: &u64| pages.get(&(*word as u32)).filter(|_| is_whole_page(*word));
            let expected: Vec<_> = words.iter().map_while(page).map(|&bus| Segment::page(bus)).collect();
            let mut memory = alloc::vec![Segment::page(0); words.len()];
            let found = cache.find_pages(&words, &mut memory);
            prop_assert_eq!(&memory[..found], &expected[..]);
            for word in &words {
                let whole = page(word).map(|&bus| Segment::page(bus));
                prop_assert_eq!(cache.find_page(*word), whole);
            }
        }
    }
}
