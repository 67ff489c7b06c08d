//! Discards: cutting a run of blocks into what Dataset Management commands can describe (6.7).

use crate::identify::NvmLimits;

/// log2 of the bytes of a range.
pub(crate) const RANGE_SHIFT: u32 = 4;
/// Ranges that one command can hold: NR has 8 bits.
const MAX_RANGES: u32 = 256;
/// Commands that one discard is cut into at most, so that it does not take the queue from others.
/// What lies beyond is left alone, which a discard allows: it is advice. Without limits of its
/// own a controller takes more in one command than any disk has.
pub(crate) const MAX_COMMANDS: u64 = 8;

/// What a controller takes in one Dataset Management command; all of it at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiscardLimits {
    /// Ranges.
    ranges: u32,
    /// Blocks in one range.
    range_blocks: u32,
    /// Blocks in all ranges together.
    total_blocks: u64,
}

impl Default for DiscardLimits {
    /// None but those of the format.
    fn default() -> Self {
        Self {
            ranges: MAX_RANGES,
            range_blocks: u32::MAX,
            total_blocks: u64::MAX,
        }
    }
}

impl DiscardLimits {
    /// The limits that the controller tells.
    pub(crate) fn new(told: &NvmLimits) -> Self {
        let none = Self::default();
        Self {
            ranges: match told.ranges {
                0 => none.ranges,
                ranges => ranges.into(),
            },
            range_blocks: match told.range_blocks.get() {
                0 => none.range_blocks,
                blocks => blocks,
            },
            total_blocks: match told.total_blocks.get() {
                0 => none.total_blocks,
                blocks => blocks,
            },
        }
    }

    /// Ranges, blocks in one range, blocks in all ranges together.
    pub(crate) fn numbers(self) -> (u32, u32, u64) {
        (self.ranges, self.range_blocks, self.total_blocks)
    }

    /// What [`Self::numbers`] gave; `None` for no ranges.
    pub(crate) fn of_numbers(ranges: u32, range_blocks: u32, total_blocks: u64) -> Option<Self> {
        (ranges > 0).then_some(Self {
            ranges,
            range_blocks,
            total_blocks,
        })
    }

    /// Whether all that is within these limits is within `other` as well.
    pub(crate) fn are_within(self, other: Self) -> bool {
        self.ranges <= other.ranges
            && self.range_blocks <= other.range_blocks
            && self.total_blocks <= other.total_blocks
    }

    /// The same with room for `bytes` bytes of ranges, at least for one.
    pub(crate) fn within(self, bytes: usize) -> Self {
        let ranges = u32::try_from(bytes >> RANGE_SHIFT).unwrap_or(u32::MAX);
        Self {
            ranges: self.ranges.min(ranges).max(1),
            ..self
        }
    }

    /// The most blocks in one command.
    pub(crate) fn command_blocks(self) -> u64 {
        let ranges = u64::from(self.ranges) * u64::from(self.range_blocks);
        ranges.min(self.total_blocks)
    }

    /// The lengths of the ranges of a command over `blocks` blocks, no more than
    /// [`Self::command_blocks`].
    pub(crate) fn ranges(self, blocks: u64) -> impl Iterator<Item = u32> {
        let mut left = blocks.min(self.command_blocks());
        core::iter::from_fn(move || {
            let len = left.min(self.range_blocks.into());
            left -= len;
            (len > 0).then_some(len as u32)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::blank;
    use alloc::vec::Vec;

    fn limits(ranges: u8, range_blocks: u32, total_blocks: u64) -> DiscardLimits {
        let mut told = blank::<NvmLimits>().unwrap();
        told.ranges = ranges;
        told.range_blocks.set(range_blocks);
        told.total_blocks.set(total_blocks);
        DiscardLimits::new(&told)
    }

    #[test]
    fn zeroes_mean_no_limit_but_that_of_the_format() {
        assert_eq!(limits(0, 0, 0), DiscardLimits::default());
        let all = DiscardLimits::default().within(1024);
        assert_eq!(all.command_blocks(), 64 * u64::from(u32::MAX));
        let lens: Vec<_> = all.ranges(u64::from(u32::MAX) + 5).collect();
        assert_eq!(lens, [u32::MAX, 5]);
    }

    #[test]
    fn ranges_keep_to_each_limit() {
        let three = limits(3, 100, 0);
        assert_eq!(three.command_blocks(), 300);
        assert_eq!(three.ranges(250).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(three.ranges(1000).count(), 3);
        let total = limits(0, 100, 120);
        assert_eq!(total.ranges(1000).collect::<Vec<_>>(), [100, 20]);
        assert_eq!(limits(9, 10, 0).within(16).command_blocks(), 10);
        assert_eq!(limits(9, 10, 0).within(0).command_blocks(), 10);
        assert_eq!(three.ranges(0).count(), 0);
    }
}
