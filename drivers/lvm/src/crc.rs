//! LVM's checksum: CRC-32 with the reversed polynomial 0xEDB88320, begun with a value of its own and
//! not inverted at the end.

const POLYNOMIAL: u32 = 0xedb8_8320;
const INITIAL: u32 = 0xf597_a6cf;

/// What four bits at the end of the remainder add to it.
const NIBBLES: [u32; 16] = {
    let mut table = [0; 16];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 4 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// The checksum of `bytes`.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(INITIAL, |crc, byte| {
        let crc = crc ^ u32::from(*byte);
        let crc = (crc >> 4) ^ NIBBLES[(crc & 15) as usize];
        (crc >> 4) ^ NIBBLES[(crc & 15) as usize]
    })
}
