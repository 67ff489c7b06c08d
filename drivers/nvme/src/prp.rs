//! Cutting a command's memory into runs that one NVMe command can describe (4.3).
//!
//! A PRP list names whole pages: only the first entry may start inside a page and only the last
//! may end inside one. Memory that lies otherwise is cut into several commands, which is possible
//! only where a block ends.

use spindle_block::{AllPages, Segment};
use spindle_hw::PAGE_SIZE;

/// A block would be torn between two commands, or a piece of memory is not as [`Segment`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scattered;

/// What goes into PRP2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    /// One page does it.
    None,
    /// The second of two pages.
    Page(u64),
    /// More pages than two: the address of the list.
    List,
}

/// The memory of one NVMe command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) prp1: u64,
    pub(crate) second: Second,
    pub(crate) bytes: u32,
}

/// The runs of a command, first to last.
#[derive(Clone, Debug)]
pub(crate) struct Runs<'a> {
    segments: &'a [Segment],
    /// Bytes of the first segment that the run before took.
    taken: u32,
    limit: u32,
    block_mask: u32,
    /// Bytes to the next boundary that a run ends at.
    edge: u32,
    /// Bytes from one boundary to the next.
    stride: u32,
}

/// Bits of a bus address that PRP1 must not have: it asks for doubleword alignment only (4.3).
pub(crate) const UNALIGNED: u64 = 3;

const OFFSET: u64 = PAGE_SIZE as u64 - 1;

/// Pieces of memory that are looked at together.
const GROUP: usize = 8;

/// How many blocks less one `segment` is, if it alone is the memory of a command, without a list or a cut:
/// most are, and [`Runs`] would make one run of it. Bus addresses with a bit of `special` are not
/// considered, nor are those of [`UNALIGNED`], which are among them.
#[inline(always)]
pub(crate) fn one_page(segment: Segment, block_shift: u8, special: u64) -> Option<u32> {
    let shift = block_shift & 31;
    if segment.is_page() && segment.bus() & special == 0 {
        // As most are: whole blocks, unless they are larger.
        return (PAGE_SIZE as u32 >> shift).checked_sub(1);
    }
    let blocks = segment.bytes() >> shift;
    let end = (segment.bus() & OFFSET) + u64::from(segment.bytes());
    let simple = end <= PAGE_SIZE as u64 && segment.bus() & special == 0;
    let rest = blocks.checked_sub(1)?;
    (simple && blocks << shift == segment.bytes()).then_some(rest)
}

/// How many pieces at the beginning of `segments` are whole pages.
#[inline(never)]
pub(crate) fn whole_pages(segments: &[Segment]) -> usize {
    let (groups, _) = segments.as_chunks::<GROUP>();
    let are_whole = |group: &&[Segment; GROUP]| {
        let mut pages = AllPages::default();
        group.iter().for_each(|&piece| pages.add(piece));
        pages.hold()
    };
    let grouped = groups.iter().take_while(are_whole).count() * GROUP;
    let rest = segments[grouped..].iter().take_while(|it| it.is_page());
    grouped + rest.count()
}

impl<'a> Runs<'a> {
    /// Runs of at most `limit` bytes, a multiple of the page size, that end where blocks of
    /// `1 << block_shift` bytes end.
    #[inline]
    pub(crate) fn new(segments: &'a [Segment], limit: u32, block_shift: u8) -> Self {
        Self {
            segments,
            taken: 0,
            limit,
            block_mask: (1 << (block_shift & 31)) - 1,
            edge: u32::MAX,
            stride: u32::MAX,
        }
    }

    /// The same, where what is left begins at `block` of a namespace with a boundary every `blocks`
    /// blocks, if that is not 0: no run crosses one.
    pub(crate) fn within(mut self, blocks: u32, block: u64) -> Self {
        if blocks == 0 {
            return self;
        }
        let span = u64::from(blocks);
        let past = match span.is_power_of_two() {
            true => block & (span - 1),
            false => block % span,
        };
        let bytes = |blocks: u64| blocks.saturating_mul(u64::from(self.block_mask) + 1);
        let limited = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        (self.edge, self.stride) = (limited(bytes(span - past)), limited(bytes(span)));
        self
    }

    /// How many runs there are, up to the first that there cannot be.
    pub(crate) fn count(mut self) -> usize {
        let mut count = 0;
        while let Some(Ok(_)) = self.next(&mut |_, _| {}) {
            count += 1;
        }
        count
    }

    /// The same without the first `bytes` bytes.
    pub(crate) fn skip(mut self, mut bytes: u64) -> Self {
        while bytes > 0
            && let Some(segment) = self.segments.first()
        {
            let rest = segment.bytes() - self.taken;
            if bytes < u64::from(rest) {
                self.taken += bytes as u32;
                break;
            }
            bytes -= u64::from(rest);
            self.segments = self.segments.get(1..).unwrap_or_default();
            self.taken = 0;
        }
        self
    }

    /// Whether there is no further run.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The rest of the first segment.
    #[inline]
    fn peek(&self) -> Option<Result<Segment, Scattered>> {
        let segment = self.segments.first()?;
        let (bus, len) = (
            segment.bus() + u64::from(self.taken),
            segment.bytes() - self.taken,
        );
        let end = (bus & OFFSET) + u64::from(len);
        if end > PAGE_SIZE as u64 {
            return Some(Err(Scattered));
        }
        Some(Ok(Segment::new(bus, len)))
    }

    /// The whole pages that come next, at most so many; none if a part of the first is taken.
    #[inline]
    fn whole_pages(&self, most: usize) -> &'a [Segment] {
        let segments = match self.segments.get(..most) {
            _ if self.taken > 0 => return &[],
            Some(segments) => segments,
            None => self.segments,
        };
        &segments[..whole_pages(segments)]
    }

    /// Takes up to `room` bytes of the first segment, whose rest is `rest`.
    #[inline]
    fn take(&mut self, rest: Segment, room: u32) -> u32 {
        if rest.bytes() <= room {
            self.segments = self.segments.get(1..).unwrap_or_default();
            self.taken = 0;
            rest.bytes()
        } else {
            self.taken += room;
            room
        }
    }

    /// The next run. The entries of its list, if it has one, went to `put`: the index of the first of
    /// some, and the pieces whose addresses they are. There are at most `limit / PAGE_SIZE` of them.
    #[inline(never)]
    pub(crate) fn next(
        &mut self,
        put: &mut dyn FnMut(usize, &[Segment]),
    ) -> Option<Result<Run, Scattered>> {
        let first = match self.peek()? {
            Ok(first) => first,
            Err(scattered) => return Some(Err(scattered)),
        };
        let limit = self.limit.min(self.edge);
        let prp1 = first.bus();
        let mut bytes = self.take(first, limit);
        let mut end = prp1.wrapping_add(bytes.into());
        let mut second = Second::None;
        let mut listed = 0;
        while bytes < limit
            && let Some(Ok(rest)) = self.peek()
        {
            let one = [rest];
            let (pages, took) = if rest.bus() & OFFSET == 0 && end & OFFSET == 0 {
                // Most long commands consist of whole pages, which are not looked at one by one.
                let most = ((limit - bytes) / PAGE_SIZE as u32) as usize;
                match self.whole_pages(most) {
                    [] => {
                        let took = self.take(rest, limit - bytes);
                        end = rest.bus().wrapping_add(took.into());
                        (&one[..], took)
                    }
                    pages => {
                        self.segments = &self.segments[pages.len()..];
                        end = 0;
                        (pages, pages.len() as u32 * PAGE_SIZE as u32)
                    }
                }
            } else if rest.bus() != end || end & OFFSET == 0 {
                break;
            } else {
                let took = self.take(rest, limit - bytes);
                end = rest.bus().wrapping_add(took.into());
                (&[][..], took)
            };
            bytes += took;
            match (second, pages) {
                (_, []) => {}
                (Second::None, &[page]) => second = Second::Page(page.bus()),
                (Second::Page(page), _) => {
                    put(0, &[Segment::page(page)]);
                    put(1, pages);
                    listed = 1 + pages.len();
                    second = Second::List;
                }
                _ => {
                    put(listed, pages);
                    listed += pages.len();
                    second = Second::List;
                }
            }
        }
        self.edge = match self.edge - bytes {
            0 => self.stride,
            left => left,
        };
        if prp1 & UNALIGNED != 0 || bytes & self.block_mask != 0 {
            return Some(Err(Scattered));
        }
        Some(Ok(Run {
            prp1,
            second,
            bytes,
        }))
    }
}

#[cfg(test)]
#[path = "prp_tests.rs"]
mod tests;
