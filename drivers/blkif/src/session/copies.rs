//! The grant copies of a request's chunk, put into the core's batch: those of whole pages, as most large
//! requests have, in one go.

use spindle_block::Segment;
use spindle_hw::PAGE_SIZE;
use spindle_xen::DomId;
use spindle_xen::grant::{CopyEnd, CopyOp, GrantRef};

use super::{Session, tag};
use crate::batch::CopyBatch;

impl Session {
    /// Adds what copies a request's chunk between its pages and its buffers; there must be room for twice as
    /// many operations as it has segments.
    pub(super) fn push_copies(
        &self,
        ring: u16,
        index: u16,
        copies: &mut CopyBatch,
        op: impl Fn(CopyEnd, u64, u16) -> CopyOp,
    ) {
        let (domain, tag) = (self.domain, tag(ring, index));
        if let Some((words, pieces)) = self.whole_pages(index) {
            copies.push_all(tag, page_copies(domain, words, pieces, op));
            return;
        }
        self.each_copy(index, |segment, offset, bus, len| {
            let granted = CopyEnd::granted(domain, GrantRef(segment.gref), offset);
            copies.push(op(granted, bus, len), tag);
        });
    }

    /// The segments and the buffers of a chunk whose segments are whole pages, so that each has a buffer
    /// to itself. A request whose ends are inside blocks may have such buffers without such segments.
    fn whole_pages(&self, index: u16) -> Option<(&[u64], &[Segment])> {
        let slot = &self.slots[usize::from(index)];
        if self.unaligned.is_some() || !slot.is_whole_pages() {
            return None;
        }
        let (words, pieces) = slot.parts(&self.arena);
        let done = slot.progress.done() as usize / PAGE_SIZE;
        Some((words.get(done..)?, pieces))
    }
}

/// An operation for each page that has a buffer.
fn page_copies<'a>(
    domain: DomId,
    words: &'a [u64],
    pieces: &'a [Segment],
    op: impl Fn(CopyEnd, u64, u16) -> CopyOp + 'a,
) -> impl Iterator<Item = CopyOp> + 'a {
    words.iter().zip(pieces).map(move |(&word, piece)| {
        let granted = CopyEnd::granted(domain, GrantRef(word as u32), 0);
        op(granted, piece.bus(), PAGE_SIZE as u16)
    })
}
