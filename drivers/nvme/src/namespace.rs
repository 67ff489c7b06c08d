//! Namespaces: which of them can be served, and as what.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use spindle_block::{Unit, Volume};

use crate::Identity;
use crate::identify::IdentifyNamespace;

/// Why a namespace is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// Formatted with metadata in or beside each block.
    #[error("formatted with {0} bytes of metadata per block; format it without")]
    Metadata(u16),
    /// Blocks neither of 512 nor of 4096 bytes.
    #[error("block size 2^{0} bytes is neither 512 nor 4096")]
    BlockSize(u8),
    /// More bytes than can be counted.
    #[error("size of {blocks:#x} blocks is not plausible")]
    Size {
        /// Blocks as the controller says.
        blocks: u64,
    },
}

/// A namespace that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Namespace identifier.
    pub id: u32,
    /// Blocks.
    pub blocks: u64,
    /// log2 of the block size in bytes: 9 or 12.
    pub block_shift: u8,
    /// log2 of the preferred write granularity in bytes; at least `block_shift`.
    pub physical_block_shift: u8,
    /// Whether it is write-protected.
    pub read_only: bool,
}

/// NSFEAT bit 4: NPWG and its companions are given.
const HAS_GRANULARITY: u8 = 1 << 4;

impl Namespace {
    /// Reads what Identify said of namespace `id`; `None` if it is not active, which shows as a
    /// page of zeroes.
    pub(crate) fn parse(id: u32, data: &IdentifyNamespace) -> Result<Option<Self>, NamespaceError> {
        let blocks = data.blocks.get();
        if blocks == 0 {
            return Ok(None);
        }
        // Bits 6:5 extend the number where there are more than 16 formats, and are 0 elsewhere.
        let number = data.format & 0xf | (data.format >> 5 & 3) << 4;
        let format = data.formats[usize::from(number)];
        if format.metadata.get() != 0 {
            return Err(NamespaceError::Metadata(format.metadata.get()));
        }
        let shift = format.block_shift;
        if !matches!(shift, 9 | 12) {
            return Err(NamespaceError::BlockSize(shift));
        }
        if blocks > i64::MAX as u64 >> shift {
            return Err(NamespaceError::Size { blocks });
        }
        let granularity = u32::from(data.write_granularity.get()) + 1;
        let physical = if data.features & HAS_GRANULARITY != 0 && granularity.is_power_of_two() {
            shift + granularity.trailing_zeros() as u8
        } else {
            shift
        };
        Ok(Some(Self {
            id,
            blocks,
            block_shift: shift,
            physical_block_shift: physical,
            read_only: data.attributes & 1 != 0,
        }))
    }

    /// The namespace as a volume of disk `disk`, controller `controller` by name.
    pub(crate) fn volume(&self, identity: &Identity, disk: usize, controller: usize) -> Volume {
        Volume {
            name: format!("nvme{controller}n{}", self.id),
            aliases: Vec::new(),
            disk,
            unit: Unit(self.id),
            start: 0,
            sectors: self.blocks << (self.block_shift - 9),
            block_shift: self.block_shift,
            physical_block_shift: self.physical_block_shift,
            read_only: self.read_only,
            write_cache: identity.write_cache,
            discard: None,
            description: self.describe(identity),
        }
    }

    fn describe(&self, identity: &Identity) -> String {
        let Identity {
            model,
            serial,
            firmware,
            ..
        } = identity;
        format!(
            "{model}, serial {serial}, firmware {firmware}, namespace {}",
            self.id
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::blank;
    use alloc::boxed::Box;

    fn page(blocks: u64, shift: u8) -> Box<IdentifyNamespace> {
        let mut page = blank::<IdentifyNamespace>().unwrap();
        page.blocks.set(blocks);
        page.formats[0].block_shift = shift;
        page
    }

    #[test]
    fn plain_formats_are_taken_and_others_refused_with_the_reason() {
        let parse = |page: &IdentifyNamespace| Namespace::parse(1, page);
        assert_eq!(parse(&page(0, 9)), Ok(None));
        assert_eq!(parse(&page(8, 9)).unwrap().unwrap().block_shift, 9);
        assert_eq!(parse(&page(8, 12)).unwrap().unwrap().block_shift, 12);
        assert_eq!(parse(&page(8, 13)), Err(NamespaceError::BlockSize(13)));
        assert_eq!(parse(&page(8, 255)), Err(NamespaceError::BlockSize(255)));
        let huge = u64::MAX >> 8;
        assert_eq!(
            parse(&page(huge, 9)),
            Err(NamespaceError::Size { blocks: huge })
        );
        let mut with_metadata = page(8, 9);
        with_metadata.formats[0].metadata.set(8);
        assert_eq!(parse(&with_metadata), Err(NamespaceError::Metadata(8)));
    }

    #[test]
    fn the_format_in_use_is_the_one_that_counts() {
        let mut page = page(8, 9);
        page.formats[0x2f].block_shift = 12;
        page.format = 0x4f;
        assert_eq!(Namespace::parse(1, &page).unwrap().unwrap().block_shift, 12);
    }

    #[test]
    fn the_physical_block_is_the_write_granularity_if_that_is_given() {
        let mut page = page(8, 9);
        page.write_granularity.set(7);
        let shift = |page: &IdentifyNamespace| {
            Namespace::parse(1, page)
                .unwrap()
                .unwrap()
                .physical_block_shift
        };
        assert_eq!(shift(&page), 9);
        page.features = 0x10;
        assert_eq!(shift(&page), 12);
        page.write_granularity.set(6);
        assert_eq!(shift(&page), 9, "7 blocks are no power of two");
    }
}
