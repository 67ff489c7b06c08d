//! Cutting a command's memory into runs that one request can describe.
//!
//! virtio asks nothing of addresses: pieces that follow each other in memory are joined, and a
//! run ends where the device takes no more pieces, or where a block ends before that.

use spindle_block::Segment;
use spindle_hw::PAGE_SIZE;

/// A block needs more pieces than one request may have, or a piece of memory is not as
/// [`Segment`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scattered;

/// What one request may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Pieces, at least 1.
    pub(crate) pieces: usize,
    /// Bytes of a piece, at least a page.
    pub(crate) piece: u32,
}

/// The most bytes of one request: joined pieces must not add up to more than can be counted.
const MAX_BYTES: u32 = 16 << 20;

/// The memory of one request, whose pieces went to `put`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) pieces: usize,
    pub(crate) bytes: u32,
}

/// The runs of a command, first to last.
#[derive(Clone, Debug)]
pub(crate) struct Runs<'a> {
    place: Place<'a>,
    limits: Limits,
    block_mask: u32,
    /// Where a run ends, with its last whole block.
    most: u32,
}

/// How far a command's memory has been cut.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    segments: &'a [Segment],
    /// Bytes of the first segment that are behind.
    taken: u32,
}

/// The last place in a run where a block ends.
#[derive(Clone, Copy, Debug)]
struct BlockEnd<'a> {
    run: Run,
    /// The last piece, up to there.
    last: (u64, u32),
    place: Place<'a>,
}

impl Place<'_> {
    /// The place `bytes` further on, at most the rest of the first segment.
    fn after(self, bytes: u32) -> Self {
        let taken = self.taken + bytes;
        match self.segments {
            [first, rest @ ..] if taken == first.bytes() => Self {
                segments: rest,
                taken: 0,
            },
            segments => Self { segments, taken },
        }
    }
}

impl<'a> Runs<'a> {
    /// Runs within `limits` that end where blocks of `1 << block_shift` bytes end.
    pub(crate) fn new(segments: &'a [Segment], limits: Limits, block_shift: u8) -> Self {
        Self {
            place: Place { segments, taken: 0 },
            limits,
            block_mask: (1 << (block_shift & 31)) - 1,
            most: MAX_BYTES,
        }
    }

    /// The same with runs of no more than `bytes` bytes, or than takes a block and a page.
    pub(crate) fn within(mut self, bytes: u32) -> Self {
        self.most = bytes.clamp(PAGE_SIZE as u32, MAX_BYTES);
        self
    }

    /// The same without the first `bytes` bytes.
    pub(crate) fn skip(mut self, mut bytes: u64) -> Self {
        while bytes > 0
            && let Some(segment) = self.place.segments.first()
        {
            let rest = segment.bytes().saturating_sub(self.place.taken);
            let step = bytes.min(rest.into());
            self.place = self.place.after(step as u32);
            bytes -= step;
            if step == 0 {
                break;
            }
        }
        self
    }

    /// Whether there is no further run.
    pub(crate) fn is_empty(&self) -> bool {
        self.place.segments.is_empty()
    }

    /// The next run. Its pieces go to `put` as index, address and length; one may come again,
    /// with another length, and those beyond the run's number do not count.
    pub(crate) fn next(
        &mut self,
        mut put: impl FnMut(usize, u64, u32),
    ) -> Option<Result<Run, Scattered>> {
        self.place.segments.first()?;
        let mut place = self.place;
        let (mut pieces, mut bytes) = (0, 0);
        // The piece that is being made.
        let (mut start, mut len) = (0u64, 0u32);
        let mut end: Option<BlockEnd<'a>> = None;
        while let Some(segment) = place.segments.first()
            && bytes < self.most
        {
            let left = segment.bytes().saturating_sub(place.taken);
            if left == 0 {
                return Some(Err(Scattered));
            }
            let bus = segment.bus().wrapping_add(place.taken.into());
            let adjacent = start.wrapping_add(len.into()) == bus && len < self.limits.piece;
            if pieces == 0 || !adjacent {
                if pieces == self.limits.pieces {
                    break;
                }
                pieces += 1;
                (start, len) = (bus, 0);
            }
            let took = left.min(self.limits.piece - len);
            let before = bytes;
            len += took;
            bytes += took;
            put(pieces - 1, start, len);
            let boundary = bytes & !self.block_mask;
            if boundary > before {
                let beyond = bytes - boundary;
                end = Some(BlockEnd {
                    run: Run {
                        pieces,
                        bytes: boundary,
                    },
                    last: (start, len - beyond),
                    place: place.after(took - beyond),
                });
            }
            place = place.after(took);
        }
        let end = match end {
            Some(end) if bytes == end.run.bytes || !place.segments.is_empty() => end,
            // The memory ends inside a block, or the pieces do.
            _ => return Some(Err(Scattered)),
        };
        put(end.run.pieces - 1, end.last.0, end.last.1);
        self.place = end.place;
        Some(Ok(end.run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const LIMITS: Limits = Limits {
        pieces: 4,
        piece: 8192,
    };

    fn segments(pieces: &[(u64, u32)]) -> Vec<Segment> {
        let segment = |&(bus, len)| Segment::new(bus, len);
        pieces.iter().map(segment).collect()
    }

    /// Every run as its pieces.
    fn cut(
        segments: &[Segment],
        limits: Limits,
        shift: u8,
    ) -> Result<Vec<Vec<(u64, u32)>>, Scattered> {
        let mut runs = Runs::new(segments, limits, shift);
        let mut all = Vec::new();
        loop {
            let mut pieces = Vec::new();
            let next = runs.next(|index, bus, len| {
                pieces.resize(pieces.len().max(index + 1), (0, 0));
                pieces[index] = (bus, len);
            });
            let Some(run) = next.transpose()? else {
                return Ok(all);
            };
            pieces.truncate(run.pieces);
            let sum: u32 = pieces.iter().map(|(_, len)| len).sum();
            assert_eq!(sum, run.bytes);
            all.push(pieces);
        }
    }

    #[test]
    fn adjacent_pieces_are_joined_up_to_the_limit() {
        let memory = segments(&[(0x1000, 4096), (0x2000, 4096), (0x3000, 512), (0x9000, 512)]);
        let runs = cut(&memory, LIMITS, 9).unwrap();
        assert_eq!(runs, [[(0x1000, 8192), (0x3000, 512), (0x9000, 512)]]);
    }

    #[test]
    fn more_pieces_than_fit_are_cut_at_the_last_block_end() {
        let halves: Vec<_> = (0..10).map(|i| (0x1_0000 * (i + 1), 2048)).collect();
        let runs = cut(&segments(&halves), LIMITS, 12).unwrap();
        assert_eq!(runs.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let thirds = segments(&[
            (0x1000, 2048),
            (0x8000, 1024),
            (0xa000, 4096),
            (0xc000, 1024),
        ]);
        let limits = Limits {
            pieces: 3,
            ..LIMITS
        };
        let runs = cut(&thirds, limits, 12).unwrap();
        assert_eq!(
            runs,
            [
                [(0x1000, 2048), (0x8000, 1024), (0xa000, 1024)].to_vec(),
                [(0xa400, 3072), (0xc000, 1024)].to_vec()
            ],
            "the third piece is cut where the block ends"
        );
    }

    #[test]
    fn torn_blocks_are_refused() {
        let refused = |pieces: &[(u64, u32)], shift| {
            assert_eq!(cut(&segments(pieces), LIMITS, shift), Err(Scattered));
        };
        refused(&[(0x1000, 512), (0x2000, 256)], 9);
        let eighths: Vec<_> = (1..9).map(|i| (0x1000 * i, 512)).collect();
        refused(&eighths, 12);
    }
}
