//! A request, from the private copy of its ring slot to something a disk can be asked.
//!
//! Only the copy is looked at; the slot may change under us as it likes.

use spindle_block::{Enclosing, Extent, Op, Volume};

use crate::abi::{
    DISCARD_SECURE, MAX_SEGMENTS, Operation, RawSegment, RspStatus, SECTORS_PER_PAGE,
};
use crate::ring::RawRequest;

/// Why a request is answered without asking the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// An operation that was not offered.
    #[error("unsupported operation")]
    Unsupported,
    /// An indirect request for anything but reading or writing.
    #[error("bad operation in an indirect request")]
    Inner,
    /// No segments where there must be, or too many.
    #[error("bad number of segments")]
    SegmentCount,
    /// A segment ends before it starts, or beyond its page.
    #[error("bad sectors in a segment")]
    SegmentSectors,
    /// Not inside the volume, or not on the disk's block boundaries.
    #[error("out of range or misaligned")]
    Range,
    /// A write to a volume that is read-only.
    #[error("write to a read-only volume")]
    ReadOnly,
}

impl Reject {
    /// What the frontend is told.
    #[must_use]
    pub const fn status(self) -> RspStatus {
        match self {
            Self::Unsupported => RspStatus::EOPNOTSUPP,
            _ => RspStatus::ERROR,
        }
    }
}

/// A request that is fit for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// First block on the unit, in the disk's blocks.
    pub block: u64,
    /// Length of a transfer, in 512-byte sectors.
    pub sectors: u32,
    /// Length of a discard, in the disk's blocks.
    pub blocks: u64,
    /// Segments that count.
    pub segments: u16,
    /// Whether every segment is a whole number of the disk's blocks, so that the disk can take
    /// the pieces as they lie.
    pub whole_blocks: bool,
}

impl Request {
    /// Validates the private copy of a request that moves data to or from the segments in its
    /// slot, which `body` begins with, against the extent of the volume it is for.
    ///
    /// # Errors
    /// See [`Reject`].
    #[inline(always)]
    pub fn transfer(
        op: Op,
        raw: &RawRequest,
        body: &[u64],
        extent: &Extent,
    ) -> Result<Self, Reject> {
        if extent.read_only && op.writes() {
            return Err(Reject::ReadOnly);
        }
        let (sectors, all) = match (raw.detail(), body) {
            // Most requests are for one page, which is whole blocks if the request is.
            (1, [word, ..]) => (length(*word)?, 0),
            _ => lengths(raw.detail(), body)?,
        };
        let block = extent
            .locate(raw.sector, u64::from(sectors))
            .ok_or(Reject::Range)?;
        Ok(Self {
            op,
            block,
            sectors,
            blocks: 0,
            segments: raw.detail().into(),
            whole_blocks: extent.are_blocks(all.into()),
        })
    }

    /// As [`Request::transfer`] for one that may begin and end inside blocks: the request for the
    /// whole blocks, and how much of them is not its own.
    ///
    /// # Errors
    /// See [`Reject`].
    pub fn enclosed(
        op: Op,
        raw: &RawRequest,
        body: &[u64],
        extent: &Extent,
    ) -> Result<(Self, Enclosing), Reject> {
        let words = words(raw.detail(), body)?;
        let (around, sectors) = enclosed(raw.sector, words, extent)?;
        let request = Self {
            op,
            block: around.block,
            sectors: sectors + u32::from(around.head) + u32::from(around.tail),
            blocks: 0,
            segments: raw.detail().into(),
            whole_blocks: false,
        };
        Ok((request, around))
    }

    /// Validates the private copy of a `BLKIF_OP_FLUSH_DISKCACHE`.
    ///
    /// # Errors
    /// If it has data: that would be a barrier under another name.
    pub fn flush(raw: &RawRequest) -> Result<Self, Reject> {
        if raw.detail() != 0 {
            return Err(Reject::SegmentCount);
        }
        Ok(Self {
            op: Op::Flush,
            block: 0,
            sectors: 0,
            blocks: 0,
            segments: 0,
            whole_blocks: true,
        })
    }

    /// Validates the private copy of a `BLKIF_OP_DISCARD` (`struct blkif_request_discard`). The
    /// request for a secure one counts only where the volume has them, as the header says. It is for so
    /// many `sectors`, as the first word of its body says. If it may be `unaligned`, the whole blocks of it are discarded, of which there may be none.
    ///
    /// # Errors
    /// See [`Reject`].
    pub fn discard(
        raw: &RawRequest,
        sectors: u64,
        volume: &Volume,
        unaligned: bool,
    ) -> Result<Self, Reject> {
        let offered = volume.discard.ok_or(Reject::Unsupported)?;
        if volume.read_only {
            return Err(Reject::ReadOnly);
        }
        let (block, blocks) = if unaligned {
            volume.extent().within(raw.sector, sectors)
        } else {
            let block = volume.locate(raw.sector, sectors);
            block.map(|block| (block, sectors / volume.sectors_per_block()))
        }
        .ok_or(Reject::Range)?;
        let secure = offered.secure && raw.detail() & DISCARD_SECURE != 0;
        Ok(Self {
            op: if secure {
                Op::SecureDiscard
            } else {
                Op::Discard
            },
            block,
            sectors: 0,
            blocks,
            segments: 0,
            whole_blocks: true,
        })
    }
}

/// An indirect request whose list of segments has not been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// What to do: read or write.
    pub op: Op,
    /// Segments in the list.
    pub segments: u16,
}

impl List {
    /// Validates what is in the slot of a `BLKIF_OP_INDIRECT` (`struct blkif_request_indirect`),
    /// of which at most `most` segments were offered. All else is for [`listed`].
    ///
    /// # Errors
    /// See [`Reject`].
    pub fn new(raw: &RawRequest, volume: &Volume, most: u16) -> Result<Self, Reject> {
        let op = match Operation(raw.detail()) {
            _ if most == 0 => return Err(Reject::Unsupported),
            Operation::READ => Op::Read,
            Operation::WRITE => Op::Write,
            _ => return Err(Reject::Inner),
        };
        if volume.read_only && op == Op::Write {
            return Err(Reject::ReadOnly);
        }
        if !(1..=most).contains(&raw.detail2()) {
            return Err(Reject::SegmentCount);
        }
        let segments = raw.detail2();
        Ok(Self { op, segments })
    }
}

/// A segment that moves nothing, whatever its grant.
pub(crate) const NO_SECTORS: u64 = 1 << 32;

/// Where the first and the last sector of a segment are in its word.
const SECTORS: u64 = 0xffff << 32;

/// Those of a whole page.
pub(crate) const WHOLE_PAGE: u64 = (SECTORS_PER_PAGE as u64 - 1) << 40;

/// Whether a segment asks for a whole page.
#[inline]
pub(crate) const fn is_whole_page(word: u64) -> bool {
    word & SECTORS == WHOLE_PAGE
}

/// Sectors of one segment.
#[inline(always)]
fn length(word: u64) -> Result<u32, Reject> {
    let segment = RawSegment::from_word(word);
    if segment.first_sect > segment.last_sect || segment.last_sect >= SECTORS_PER_PAGE {
        return Err(Reject::SegmentSectors);
    }
    Ok(u32::from(segment.last_sect - segment.first_sect) + 1)
}

/// Offset in the page and length of a segment that passed validation, in bytes.
#[inline]
pub(crate) fn extent(segment: RawSegment) -> (u32, u32) {
    let first = u32::from(segment.first_sect);
    let last = u32::from(segment.last_sect);
    (first * 512, (last + 1).wrapping_sub(first) * 512)
}

/// Validates the private copy of an indirect request's list of segments, from `sector` of the
/// volume on: first block, sectors, and whether every segment is whole blocks.
///
/// # Errors
/// See [`Reject`].
pub fn listed(sector: u64, words: &[u64], volume: &Volume) -> Result<(u64, u32, bool), Reject> {
    let (sectors, all) = sum(words)?;
    let extent = volume.extent();
    let block = extent.locate(sector, sectors.into()).ok_or(Reject::Range)?;
    Ok((block, sectors, extent.are_blocks(all.into())))
}

/// The blocks around what a list of segments moves from `sector` of the volume on, and how many
/// sectors that is.
///
/// # Errors
/// See [`Reject`].
pub(crate) fn enclosed(
    sector: u64,
    words: &[u64],
    extent: &Extent,
) -> Result<(Enclosing, u32), Reject> {
    let (sectors, _) = sum(words)?;
    let around = extent.enclose(sector, sectors.into());
    Ok((around.ok_or(Reject::Range)?, sectors))
}

/// Sectors of `count` segments: their sum, and all of them or-ed together.
fn lengths(count: u8, body: &[u64]) -> Result<(u32, u32), Reject> {
    sum(words(count, body)?)
}

fn words(count: u8, body: &[u64]) -> Result<&[u64], Reject> {
    let count = usize::from(count);
    if count == 0 || count > MAX_SEGMENTS {
        return Err(Reject::SegmentCount);
    }
    body.get(..count).ok_or(Reject::SegmentCount)
}

fn sum(words: &[u64]) -> Result<(u32, u32), Reject> {
    // Most are whole pages, all of them.
    let others = words.iter().fold(0, |all, word| all | (word ^ WHOLE_PAGE));
    if others & SECTORS == 0 {
        let page = u32::from(SECTORS_PER_PAGE);
        return Ok((words.len() as u32 * page, page));
    }
    let (mut sum, mut all) = (0, 0);
    for &word in words {
        let len = length(word)?;
        sum += len;
        all |= len;
    }
    Ok((sum, all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use spindle_block::{Discard, Unit};

    fn volume(sectors: u64, block_shift: u8, read_only: bool) -> Volume {
        Volume {
            name: String::new(),
            aliases: Vec::new(),
            disk: 0,
            unit: Unit(1),
            start: 1000,
            sectors,
            block_shift,
            physical_block_shift: 12,
            read_only,
            write_cache: true,
            discard: None,
            description: String::new(),
            map: None,
        }
    }

    fn raw(detail: u8, sector: u64) -> RawRequest {
        RawRequest::new(u32::from(detail) << 8, 0, sector)
    }

    fn segment(first: u8, last: u8) -> u64 {
        7 | u64::from(first) << 32 | u64::from(last) << 40
    }

    #[test]
    fn writes_to_a_read_only_volume_are_refused_and_reads_are_not() {
        let volume = volume(100, 9, true);
        let read = Request::transfer(Op::Read, &raw(1, 0), &[0; 11], &volume.extent());
        assert!(read.is_ok());
        let write = Request::transfer(Op::Write, &raw(1, 0), &[0; 11], &volume.extent());
        assert_eq!(write, Err(Reject::ReadOnly));
        assert_eq!(Reject::ReadOnly.status(), RspStatus::ERROR);
    }

    #[test]
    fn a_flush_carries_no_data() {
        assert_eq!(Request::flush(&raw(0, u64::MAX)).unwrap().op, Op::Flush);
        assert_eq!(Request::flush(&raw(1, 0)), Err(Reject::SegmentCount));
    }

    #[test]
    fn pieces_smaller_than_a_block_are_marked() {
        let volume = volume(800, 12, false);
        let mut body = [0; 11];
        body[0] = segment(0, 3);
        body[1] = segment(4, 7);
        let request = Request::transfer(Op::Read, &raw(2, 16), &body, &volume.extent()).unwrap();
        assert_eq!((request.block, request.sectors), (1002, 8));
        assert!(!request.whole_blocks);
        body[0] = segment(0, 7);
        let request = Request::transfer(Op::Read, &raw(1, 16), &body, &volume.extent()).unwrap();
        assert!(request.whole_blocks);
    }

    #[test]
    fn a_discard_is_for_whole_blocks_of_a_volume_that_takes_it() {
        let offered = Discard {
            granularity: 4096,
            alignment: 0,
            secure: false,
        };
        let with = |discard, read_only| Volume {
            discard,
            ..volume(256, 12, read_only)
        };
        let ask = |volume: &Volume, flags, sector, count| {
            Request::discard(&raw(flags, sector), count, volume, false)
        };
        let volume = with(Some(offered), false);
        let whole = ask(&volume, DISCARD_SECURE, 0, 256).unwrap();
        let what = (whole.op, whole.block, whole.blocks);
        assert_eq!(what, (Op::Discard, 1000, 32), "secure is not offered");
        assert_eq!(ask(&volume, 0, 8, 16).unwrap().block, 1001);
        for (sector, count) in [
            (0, 0),
            (0, 257),
            (4, 8),
            (0, 12),
            (248, 16),
            (u64::MAX - 7, 8),
            (8, u64::MAX),
        ] {
            assert_eq!(ask(&volume, 0, sector, count), Err(Reject::Range));
        }
        let secure = Discard {
            secure: true,
            ..offered
        };
        let volume = with(Some(secure), false);
        let op = |flags| ask(&volume, flags, 0, 8).unwrap().op;
        assert_eq!((op(0), op(0xfe)), (Op::Discard, Op::Discard));
        assert_eq!((op(1), op(0xff)), (Op::SecureDiscard, Op::SecureDiscard));
        let got = ask(&with(Some(offered), true), 0, 0, 8);
        assert_eq!(got, Err(Reject::ReadOnly));
        let got = ask(&with(None, true), 0, 0, 8).unwrap_err();
        assert_eq!(got.status(), RspStatus::EOPNOTSUPP);
    }

    proptest! {
        /// blkif.h: whatever is accepted lies inside the volume, on blocks, in 1..=11 good
        /// segments; whatever is not accepted breaks one of these rules.
        #[test]
        fn accepts_exactly_what_the_rules_allow(
            write: bool,
            count in 0u8..20,
            sector in prop_oneof![0u64..300, any::<u64>(), u64::MAX - 100..=u64::MAX],
            segments in prop::array::uniform11((0u8..10, 0u8..10)),
            shift in prop_oneof![Just(9u8), Just(12)],
        ) {
            let volume = volume(256, shift, false);
            let body = segments.map(|(first, last)| segment(first, last));
            let op = if write { Op::Write } else { Op::Read };
            let got = Request::transfer(op, &raw(count, sector), &body, &volume.extent());
            let used = segments.iter().take(count.into());
            let total: i128 = used.clone().map(|&(f, l)| i128::from(l) - i128::from(f) + 1).sum();
            let per_block = 1i128 << (shift - 9);
            let good = (1..=11).contains(&count)
                && used.clone().all(|&(f, l)| f <= l && l < 8)
                && i128::from(sector) + total <= 256
                && i128::from(sector) % per_block == 0
                && total % per_block == 0;
            prop_assert_eq!(got.is_ok(), good);
            if let Ok(request) = got {
                prop_assert_eq!(i128::from(request.sectors), total);
                prop_assert_eq!(request.block, 1000 + sector / per_block as u64);
            }
        }
    }
}
