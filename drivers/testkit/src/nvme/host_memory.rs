//! The host memory buffer (8.9): what the controller has been given, which it writes to with every
//! command, and finds unchanged with the next.

use spindle_hw::PAGE_SIZE;
use spindle_nvme::Status;

use super::Shared;
use super::ring::Entry;

/// What a controller asks for, in pages of 4 KiB.
#[derive(Clone, Copy, Debug)]
pub struct HostMemoryConfig {
    /// HMPRE: how much it would like.
    pub preferred: u32,
    /// HMMIN: the least that is of use.
    pub least: u32,
    /// HMMINDS: the least in one piece, 0 for any.
    pub piece: u32,
    /// HMMAXD: the most pieces, 0 for any number.
    pub pieces: u16,
}

/// What it has.
#[derive(Debug, Default)]
pub(super) struct Lent {
    /// Bus addresses, and bytes.
    pieces: Vec<(u64, usize)>,
    /// What stands at both ends of each piece; 0 if it has not written yet.
    stamp: u64,
}

impl Shared {
    /// What it says in Identify Controller: offsets and bytes.
    pub(super) fn host_memory_wanted(&self) -> Vec<(usize, Vec<u8>)> {
        let Some(config) = self.config.host_memory else {
            return Vec::new();
        };
        vec![
            (272, config.preferred.to_le_bytes().into()),
            (276, config.least.to_le_bytes().into()),
            (332, config.piece.to_le_bytes().into()),
            (336, config.pieces.to_le_bytes().into()),
        ]
    }

    /// Set Features for the buffer (5.21.1.13).
    pub(super) fn set_host_memory(&self, entry: Entry) -> Result<u32, Status> {
        let config = self.config.host_memory.ok_or(Status::INVALID_FIELD)?;
        let mut lent = self.lent.lock().unwrap();
        if entry.dword(11) & 1 == 0 {
            self.check_lent(&lent);
            *lent = Lent::default();
            return Ok(0);
        }
        if entry.dword(11) & 2 != 0 {
            self.violation("memory is returned whose use was never ended");
        }
        if !lent.pieces.is_empty() {
            // Command Sequence Error.
            return Err(Status(0x0c));
        }
        let list = u64::from(entry.dword(13)) | u64::from(entry.dword(14)) << 32;
        let count = entry.dword(15);
        let many = config.pieces != 0 && count > config.pieces.into();
        if !list.is_multiple_of(16) || count == 0 || many {
            self.violation(format!("a list of {count} pieces of memory at {list:#x}"));
            return Err(Status::INVALID_FIELD);
        }
        let mut pieces = Vec::new();
        let mut pages = 0;
        for number in 0..u64::from(count) {
            let mut words = [[0; 8]; 2];
            let at = list + 16 * number;
            if !self.bus.read(at, words.as_flattened_mut()) {
                return Err(Status::DATA_TRANSFER);
            }
            let [address, size] = words.map(u64::from_le_bytes);
            let aligned = address.is_multiple_of(PAGE_SIZE as u64);
            if !aligned || size == 0 || size < config.piece.into() || size >> 32 != 0 {
                self.violation(format!("a piece of {size} pages at {address:#x}"));
                return Err(Status::INVALID_FIELD);
            }
            pages += size;
            pieces.push((address, size as usize * PAGE_SIZE));
        }
        if pages != entry.dword(12).into() || pages < config.least.into() {
            self.violation(format!("{pages} pages of memory"));
            return Err(Status::INVALID_FIELD);
        }
        *lent = Lent { pieces, stamp: 0 };
        self.check_lent(&lent);
        Ok(0)
    }

    /// Works with the buffer.
    pub(super) fn use_lent(&self) {
        if self.config.host_memory.is_none() {
            return;
        }
        let mut lent = self.lent.lock().unwrap();
        self.check_lent(&lent);
        lent.stamp += 1;
        for end in ends(&lent) {
            let _ = self.bus.write(end, &lent.stamp.to_le_bytes());
        }
    }

    /// The controller is reset. Gives whether it had a buffer.
    pub(super) fn forget_lent(&self) -> bool {
        let mut lent = self.lent.lock().unwrap();
        self.check_lent(&lent);
        !std::mem::take(&mut *lent).pieces.is_empty()
    }

    /// Bytes that it has.
    pub(super) fn lent_bytes(&self) -> Vec<usize> {
        let lent = self.lent.lock().unwrap();
        lent.pieces.iter().map(|(_, bytes)| *bytes).collect()
    }

    /// All of it is memory, and nothing else has written to it.
    fn check_lent(&self, lent: &Lent) {
        for &(address, bytes) in &lent.pieces {
            if self.bus.at(address, bytes, |_, _| ()).is_none() {
                self.violation("memory that the controller works with was freed");
            }
        }
        for end in ends(lent).filter(|_| lent.stamp > 0) {
            let mut stamp = [0; 8];
            if self.bus.read(end, &mut stamp) && u64::from_le_bytes(stamp) != lent.stamp {
                self.violation("something else uses memory that the controller works with");
            }
        }
    }
}

/// The first and the last word of each piece.
fn ends(lent: &Lent) -> impl Iterator<Item = u64> + '_ {
    let pieces = lent.pieces.iter();
    pieces.flat_map(|&(address, bytes)| [address, address + bytes as u64 - 8])
}
