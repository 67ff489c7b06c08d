//! A disk with a GUID partition table, right or wrong at will.

use bytemuck::{bytes_of, cast_slice};
pub use gpt_disk_types;
use gpt_disk_types::{
    BlockSize, GptHeader, GptPartitionEntry, GptPartitionEntryArray, GptPartitionType, Guid, LbaLe,
    MasterBootRecord, U32Le,
};

/// Entries in a table, as every tool makes them.
const ENTRIES: usize = 128;

/// The table, to be changed before it is written to an image.
#[derive(Clone, Debug)]
pub struct Gpt {
    /// log2 of the block size.
    pub block_shift: u8,
    /// Blocks on the disk.
    pub blocks: u64,
    /// The first block's record.
    pub record: MasterBootRecord,
    /// The header in block 1.
    pub primary: GptHeader,
    /// The header in the last block.
    pub backup: GptHeader,
    /// The entries of both.
    pub entries: Vec<GptPartitionEntry>,
}

impl Gpt {
    /// An empty table on a disk of `blocks` blocks, at least 80.
    #[must_use]
    pub fn new(block_shift: u8, blocks: u64) -> Self {
        let length = (ENTRIES * size_of::<GptPartitionEntry>()).div_ceil(1 << block_shift) as u64;
        let primary = GptHeader {
            my_lba: LbaLe::from_u64(1),
            alternate_lba: LbaLe::from_u64(blocks - 1),
            first_usable_lba: LbaLe::from_u64(2 + length),
            last_usable_lba: LbaLe::from_u64(blocks - 2 - length),
            disk_guid: guid(0xff),
            partition_entry_lba: LbaLe::from_u64(2),
            number_of_partition_entries: U32Le::from_u32(ENTRIES as u32),
            ..GptHeader::default()
        };
        let backup = GptHeader {
            my_lba: primary.alternate_lba,
            alternate_lba: primary.my_lba,
            partition_entry_lba: LbaLe::from_u64(blocks - 1 - length),
            ..primary
        };
        Self {
            block_shift,
            blocks,
            record: MasterBootRecord::protective_mbr(blocks),
            primary,
            backup,
            entries: vec![GptPartitionEntry::default(); ENTRIES],
        }
    }

    /// Puts a partition of the given first and last block into entry `number`, from 1. Its GUID
    /// repeats the number's digits.
    #[must_use]
    pub fn with(mut self, number: u8, first: u64, last: u64, label: &str) -> Self {
        self.entries[usize::from(number) - 1] = GptPartitionEntry {
            partition_type_guid: GptPartitionType::BASIC_DATA,
            unique_partition_guid: guid(number),
            starting_lba: LbaLe::from_u64(first),
            ending_lba: LbaLe::from_u64(last),
            name: label.parse().expect("at most 35 characters"),
            ..GptPartitionEntry::default()
        };
        self
    }

    /// Makes all checksums right.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        let bytes: &[u8] = cast_slice(&self.entries);
        for header in [&mut self.primary, &mut self.backup] {
            if let Ok(layout) = header.get_partition_entry_array_layout() {
                let mut storage = bytes.to_vec();
                let size = BlockSize::BS_512;
                if let Ok(array) = GptPartitionEntryArray::new(layout, size, &mut storage) {
                    header.partition_entry_array_crc32 = array.calculate_crc32();
                }
            }
            header.update_header_crc32();
        }
        self
    }

    /// The disk: everything in its place as far as that is on the disk at all.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; (self.blocks as usize) << self.block_shift];
        let mut put = |block: u64, bytes: &[u8]| {
            let at = usize::try_from(block)
                .ok()
                .and_then(|block| block.checked_mul(1 << self.block_shift));
            let room = at.and_then(|at| image.get_mut(at..));
            for (to, from) in room.into_iter().flatten().zip(bytes) {
                *to = *from;
            }
        };
        let entries: &[u8] = cast_slice(&self.entries);
        for (header, block) in [(&self.backup, self.blocks - 1), (&self.primary, 1)] {
            put(header.partition_entry_lba.to_u64(), entries);
            put(block, bytes_of(header));
        }
        put(0, bytes_of(&self.record));
        image
    }
}

/// A GUID of the same byte all over.
fn guid(byte: u8) -> Guid {
    Guid::from_bytes([byte; 16])
}
