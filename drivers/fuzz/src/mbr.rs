//! A hostile MBR partition table: records anywhere on a small disk, that name each other and what they like.

use spindle_testkit::image::Image;

use crate::partitions::check;

/// Blocks of the disk.
const BLOCKS: usize = 200;
/// Bytes that make an entry: block, place in its record, type, boot indicator, first block, blocks.
const ENTRY: usize = 12;

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let Some((large, data)) = data.split_first() else {
        return;
    };
    let block_shift = if large & 1 == 0 { 9 } else { 12 };
    let mut bytes = vec![0; BLOCKS << block_shift];
    for entry in data.chunks_exact(ENTRY) {
        let at = (usize::from(entry[0]) % BLOCKS) << block_shift;
        let record = &mut bytes[at..at + 512];
        record[510..].copy_from_slice(&[0x55, 0xaa]);
        let place = 446 + 16 * usize::from(entry[1] % 4);
        record[place] = entry[3];
        record[place + 4] = entry[2];
        record[place + 8..place + 16].copy_from_slice(&entry[4..]);
    }
    check(Image { bytes, block_shift }, 0);
}
