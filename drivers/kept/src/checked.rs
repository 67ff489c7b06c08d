//! Records with a checksum before them: the notes of an update and of deaths are written by one life and
//! read by another, and one that was cut off or damaged in between is none.

use spindle_hw::SharedPages;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::fnv;

/// Bytes of a record of this type with its checksum.
pub(crate) const fn checked_len<T>() -> usize {
    size_of::<u64>() + size_of::<T>()
}

/// Writes the record behind its checksum, which stands at `at`.
pub(crate) fn write<T: IntoBytes + Immutable>(pages: &SharedPages, at: usize, record: &T) {
    pages.write_bytes(at + size_of::<u64>(), record.as_bytes());
    pages.write_bytes(at, sum(record).as_bytes());
}

/// The record whose checksum stands at `at`, if that is right.
pub(crate) fn read<T: FromBytes + IntoBytes + Immutable>(
    pages: &SharedPages,
    at: usize,
) -> Option<T> {
    let (mut checksum, mut record) = (0_u64, T::new_zeroed());
    pages.read_bytes(at, checksum.as_mut_bytes());
    pages.read_bytes(at + size_of::<u64>(), record.as_mut_bytes());
    (checksum == sum(&record)).then_some(record)
}

fn sum<T: IntoBytes + Immutable>(record: &T) -> u64 {
    fnv(record.as_bytes().iter().copied())
}
