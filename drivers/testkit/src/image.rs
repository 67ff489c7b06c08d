//! A disk in a byte vector, for whatever only reads blocks.

use spindle_block::{Blocks, ReadError};

/// The disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// What is on it.
    pub bytes: Vec<u8>,
    /// log2 of the block size.
    pub block_shift: u8,
}

impl Blocks for Image {
    fn block_shift(&self) -> u8 {
        self.block_shift
    }

    fn count(&self) -> u64 {
        (self.bytes.len() >> self.block_shift) as u64
    }

    fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let range = usize::try_from(first).ok().and_then(|first| {
            let start = first.checked_mul(1 << self.block_shift)?;
            Some(start..start.checked_add(out.len())?)
        });
        let from = range.and_then(|range| self.bytes.get(range));
        out.copy_from_slice(from.ok_or(ReadError::Range)?);
        Ok(())
    }
}
