//! A request, from the private copy of its ring slot to something a disk can be asked.
//!
//! Only the copy is looked at; the slot may change under us as it likes.

use spindle_block::{Op, Volume};

use crate::abi::{MAX_SEGMENTS, Operation, RawSegment, RspStatus, SECTORS_PER_PAGE};
use crate::ring::{Body, RawRequest};

/// Why a request is answered without asking the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// An operation that was not offered.
    #[error("unsupported operation")]
    Unsupported,
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
    /// Length in 512-byte sectors; 0 for a flush.
    pub sectors: u32,
    /// Segments that count.
    pub segments: u8,
    /// Whether every segment is a whole number of the disk's blocks, so that the disk can take
    /// the pieces as they lie.
    pub whole_blocks: bool,
}

impl Request {
    /// Validates a private copy against the volume it is for.
    ///
    /// # Errors
    /// See [`Reject`].
    #[inline(always)]
    pub fn decode(raw: &RawRequest, body: &Body, volume: &Volume) -> Result<Self, Reject> {
        let op = match raw.operation {
            Operation::READ => Op::Read,
            Operation::WRITE => Op::Write,
            _ => return Self::without_data(raw),
        };
        if volume.read_only && op == Op::Write {
            return Err(Reject::ReadOnly);
        }
        let (sectors, all) = match (raw.detail, body) {
            // Most requests are for one page, which is whole blocks if the request is.
            (1, [word, ..]) => (length(*word)?, 0),
            _ => lengths(raw.detail, body)?,
        };
        let block = volume
            .locate(raw.sector, u64::from(sectors))
            .ok_or(Reject::Range)?;
        Ok(Self {
            op,
            block,
            sectors,
            segments: raw.detail,
            whole_blocks: u64::from(all) & (volume.sectors_per_block() - 1) == 0,
        })
    }

    /// What is neither a read nor a write.
    #[inline(never)]
    fn without_data(raw: &RawRequest) -> Result<Self, Reject> {
        if raw.operation != Operation::FLUSH {
            return Err(Reject::Unsupported);
        }
        // Data with a flush would be a barrier under another name, which was not offered.
        if raw.detail != 0 {
            return Err(Reject::SegmentCount);
        }
        Ok(Self {
            op: Op::Flush,
            block: 0,
            sectors: 0,
            segments: 0,
            whole_blocks: true,
        })
    }
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

/// Sectors of `count` segments: their sum, and all of them or-ed together.
fn lengths(count: u8, body: &Body) -> Result<(u32, u32), Reject> {
    let count = usize::from(count);
    if count == 0 || count > MAX_SEGMENTS {
        return Err(Reject::SegmentCount);
    }
    let (mut sum, mut all) = (0, 0);
    for &word in &body[..count] {
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
    use spindle_block::Unit;

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
        }
    }

    fn raw(operation: Operation, detail: u8, sector: u64) -> RawRequest {
        RawRequest {
            operation,
            detail,
            detail2: 0,
            id: 1,
            sector,
        }
    }

    fn segment(first: u8, last: u8) -> u64 {
        7 | u64::from(first) << 32 | u64::from(last) << 40
    }

    #[test]
    fn what_was_not_offered_is_unsupported_and_not_an_error() {
        let volume = volume(100, 9, false);
        for operation in [
            Operation::WRITE_BARRIER,
            Operation(4),
            Operation::DISCARD,
            Operation::INDIRECT,
            Operation(255),
        ] {
            let got = Request::decode(&raw(operation, 1, 0), &[0; 11], &volume);
            assert_eq!(got, Err(Reject::Unsupported));
            assert_eq!(got.unwrap_err().status(), RspStatus::EOPNOTSUPP);
        }
    }

    #[test]
    fn writes_to_a_read_only_volume_are_refused_and_reads_are_not() {
        let volume = volume(100, 9, true);
        let read = Request::decode(&raw(Operation::READ, 1, 0), &[0; 11], &volume);
        assert!(read.is_ok());
        let write = Request::decode(&raw(Operation::WRITE, 1, 0), &[0; 11], &volume);
        assert_eq!(write, Err(Reject::ReadOnly));
        assert_eq!(Reject::ReadOnly.status(), RspStatus::ERROR);
    }

    #[test]
    fn a_flush_carries_no_data() {
        let volume = volume(100, 9, true);
        let flush = Request::decode(&raw(Operation::FLUSH, 0, u64::MAX), &[0; 11], &volume);
        assert_eq!(flush.unwrap().op, Op::Flush);
        let data = Request::decode(&raw(Operation::FLUSH, 1, 0), &[0; 11], &volume);
        assert_eq!(data, Err(Reject::SegmentCount));
    }

    #[test]
    fn pieces_smaller_than_a_block_are_marked() {
        let volume = volume(800, 12, false);
        let mut body = [0; 11];
        body[0] = segment(0, 3);
        body[1] = segment(4, 7);
        let request = Request::decode(&raw(Operation::READ, 2, 16), &body, &volume).unwrap();
        assert_eq!((request.block, request.sectors), (1002, 8));
        assert!(!request.whole_blocks);
        body[0] = segment(0, 7);
        let request = Request::decode(&raw(Operation::READ, 1, 16), &body, &volume).unwrap();
        assert!(request.whole_blocks);
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
            let operation = if write { Operation::WRITE } else { Operation::READ };
            let got = Request::decode(&raw(operation, count, sector), &body, &volume);
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
