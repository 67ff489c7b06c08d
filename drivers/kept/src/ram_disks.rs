//! Where the memory of RAM disks is, so that the next life finds them with what they hold.
//!
//! Each disk has a place of its own in the page, with a checksum over the disk's number, too: damage
//! costs the disk that it is in, and no disk is taken for another one. A record is written when its
//! disk is made, and not again as long as that lives, so that no death can catch it half-written once
//! a guest uses the disk.

use core::ops::Range;
use core::sync::atomic::Ordering::Release;

use spindle_hw::{PAGE_SIZE, SharedPages};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// RAM disks that can be on record: those numbered below.
pub const RAM_DISKS: usize = 16;
/// Runs of pages that one can consist of.
pub const RAM_RUNS: usize = 14;

/// With the version in it.
const MAGIC: u64 = u64::from_le_bytes(*b"RamDisk\x01");
const RECORD: usize = PAGE_SIZE / RAM_DISKS;

/// A RAM disk, as another life can find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamRecord {
    /// N of `ramN`.
    pub number: u8,
    /// The life that has made it, all zeroes.
    pub life: u64,
    /// Where its memory is, in order: guest addresses of whole pages.
    pub runs: heapless::Vec<Range<u64>, RAM_RUNS>,
}

impl RamRecord {
    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }
}

/// A [`RamRecord`] in memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawRamRecord {
    /// Of the disk's number and all that follows.
    checksum: u64,
    magic: u64,
    life: u64,
    reserved: u64,
    /// First page number and pages; those behind the last one have none.
    runs: [[u64; 2]; RAM_RUNS],
}
const _: () = assert!(size_of::<RawRamRecord>() == RECORD);

impl RawRamRecord {
    fn sum(&self, number: u8) -> u64 {
        let bytes = self.as_bytes().iter().skip(size_of::<u64>());
        crate::fnv([number].into_iter().chain(bytes.copied()))
    }
}

/// The page of these records.
#[derive(Debug)]
pub struct RamRecords {
    page: SharedPages,
}

impl RamRecords {
    /// Takes up the page at the start of a life. Without `again` nothing in it is of this domain.
    #[must_use]
    pub fn begin(page: SharedPages, again: bool) -> Self {
        if !again {
            page.zero(0, PAGE_SIZE);
        }
        Self { page }
    }

    /// The RAM disk with this number; `None` if there was none, or its record does not check.
    #[must_use]
    pub fn read(&self, number: u8) -> Option<RamRecord> {
        let mut raw = RawRamRecord::new_zeroed();
        self.page.read_bytes(place(number)?, raw.as_mut_bytes());
        if raw.magic != MAGIC || raw.checksum != raw.sum(number) {
            return None;
        }
        let mut runs = heapless::Vec::new();
        for [first, pages] in raw.runs.into_iter().take_while(|[_, pages]| *pages > 0) {
            let start = first.checked_mul(PAGE_SIZE as u64)?;
            let end = start.checked_add(pages.checked_mul(PAGE_SIZE as u64)?)?;
            runs.push(start..end).ok()?;
        }
        Some(RamRecord {
            number,
            life: raw.life,
            runs,
        })
    }

    /// Puts a disk on record. False, with nothing on record, if there is no place for its number.
    pub fn write(&self, record: &RamRecord) -> bool {
        let Some(at) = place(record.number) else {
            return false;
        };
        let mut raw = RawRamRecord::new_zeroed();
        raw.magic = MAGIC;
        raw.life = record.life;
        for (to, run) in raw.runs.iter_mut().zip(&record.runs) {
            let page = PAGE_SIZE as u64;
            *to = [run.start / page, (run.end - run.start) / page];
        }
        raw.checksum = raw.sum(record.number);
        self.remove(record.number);
        let sum = size_of::<u64>();
        self.page.write_bytes(at + sum, &raw.as_bytes()[sum..]);
        // All else is there when the checksum is.
        self.page.u64_at(at).store(raw.checksum, Release);
        true
    }

    /// Takes a disk off the record, before its memory is used for anything else.
    pub fn remove(&self, number: u8) {
        if let Some(at) = place(number) {
            // The checksum first, which is wrong then for whatever is there.
            self.page.u64_at(at).store(0, Release);
            self.page.zero(at, RECORD);
        }
    }
}

/// Where the record of a disk is, in bytes.
fn place(number: u8) -> Option<usize> {
    (usize::from(number) < RAM_DISKS).then(|| usize::from(number) * RECORD)
}

#[cfg(test)]
// A run is a range, and some disks have one.
#[expect(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn record(number: u8, runs: &[Range<u64>]) -> RamRecord {
        let runs = heapless::Vec::from_slice(runs).unwrap();
        RamRecord {
            number,
            life: 7,
            runs,
        }
    }

    #[test]
    fn disks_are_found_again_each_by_its_number() {
        let page = SharedPages::host(1, 0);
        let records = RamRecords::begin(page.alias(), false);
        let most: std::vec::Vec<_> = (1..=RAM_RUNS as u64)
            .map(|n| n << 20..(n << 20) + 4096)
            .collect();
        let all = [
            record(0, &[0x10_0000..0x20_0000, 0x1_0000_0000..0x2_0000_0000]),
            record(3, &[]),
            record(15, &most),
        ];
        assert!(all.iter().all(|one| records.write(one)));
        assert!(!records.write(&record(16, &[])));
        let records = RamRecords::begin(page.alias(), true);
        for one in &all {
            assert_eq!(records.read(one.number).as_ref(), Some(one));
        }
        assert_eq!(all[0].bytes(), (1 << 20) + (1 << 32));
        for none in [1, 2, 14, 16, 255] {
            assert_eq!(records.read(none), None);
        }
        records.remove(3);
        records.remove(16);
        assert_eq!(records.read(3), None);
        assert_eq!(records.read(15).as_ref(), Some(&all[2]));
        let records = RamRecords::begin(page, false);
        assert_eq!(records.read(15), None);
    }

    #[test]
    fn any_byte_that_differs_costs_the_disk_that_it_is_in_and_no_other() {
        let page = SharedPages::host(1, 0);
        let records = RamRecords::begin(page.alias(), false);
        let (one, other) = (record(1, &[0..4096]), record(2, &[8192..12288]));
        assert!(records.write(&one) && records.write(&other));
        for at in RECORD..2 * RECORD {
            page.u8_at(at).fetch_xor(1, Release);
            assert_eq!(records.read(1), None, "byte {at}");
            assert_eq!(records.read(2).as_ref(), Some(&other));
            page.u8_at(at).fetch_xor(1, Release);
        }
        assert_eq!(records.read(1), Some(one));
    }

    #[test]
    fn a_record_in_the_place_of_another_disk_or_with_addresses_that_cannot_be_is_none() {
        let page = SharedPages::host(1, 0);
        let records = RamRecords::begin(page.alias(), false);
        assert!(records.write(&record(1, &[0..4096])));
        let mut bytes = [0; RECORD];
        page.read_bytes(RECORD, &mut bytes);
        page.write_bytes(4 * RECORD, &bytes);
        assert_eq!(records.read(4), None);
        for run in [[u64::MAX, 1], [1, u64::MAX], [(1 << 52) - 1, 1]] {
            let mut raw = RawRamRecord::read_from_bytes(&bytes).unwrap();
            raw.runs[0] = run;
            raw.checksum = raw.sum(1);
            page.write_bytes(RECORD, raw.as_bytes());
            assert_eq!(records.read(1), None, "{run:?}");
        }
    }
}
