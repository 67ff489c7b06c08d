//! What control knows of the devices that are connected, for the life after a death of the kernel.
//!
//! All records are written anew at each change, into the one of two banks that does not count;
//! then one store makes it count. A death while writing leaves the former records. Each record has
//! its kind, version, length and checksum of its own, so that damage costs the record it is in and
//! no other: what does not check is left out and counted.

mod device;
mod limits;
mod lines;
mod wire;

use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Release};

use spindle_hw::SharedPages;

use crate::layout::{BANK_BYTES, BANKS, WRITING_AT};
pub use device::{DeviceRecord, JournalPlace, OpeningRecord, QueueRecord};
pub use limits::LimitRecord;
use lines::{Bank, Found};
use wire::{Reader, Writer};

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RecordKind(u16);

impl RecordKind {
    /// How many others there are: the first one.
    const HEAD: Self = Self(1);
    const DEVICE: Self = Self(2);
    const LIMITS: Self = Self(3);
    const OPENING: Self = Self(4);
}

/// The version in which each record is written.
const VERSION: u16 = 1;

/// The records that a former life has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormerRecords {
    /// Devices that were connected.
    pub devices: Vec<DeviceRecord>,
    /// Limits that were set while the kernel ran. A kernel that does not know them reads the rest.
    pub limits: Vec<LimitRecord>,
    /// Records that there were, or may have been, and that cannot be used.
    pub damaged: usize,
}

/// Where records are written.
#[derive(Debug)]
pub struct Records {
    pages: &'static SharedPages,
    /// Limits that are written with the devices.
    pub limits: Vec<LimitRecord>,
}

impl Records {
    /// The records in `pages`, whose life has begun ([`begin`](crate::layout::begin)).
    #[must_use]
    pub const fn new(pages: &'static SharedPages) -> Self {
        Self {
            pages,
            limits: Vec::new(),
        }
    }

    fn bank(&self, writing: u64) -> Bank<'_> {
        let at = BANKS + (writing & 1) as usize * BANK_BYTES;
        Bank::new(self.pages, at, writing)
    }

    /// Writes what counts from now on, with [`Records::limits`]; gives how many devices there was no room for.
    pub fn write<'a>(&mut self, devices: impl Iterator<Item = &'a DeviceRecord> + Clone) -> usize {
        let word = self.pages.u64_at(WRITING_AT);
        let writing = word.load(Acquire).wrapping_add(1);
        let mut bank = self.bank(writing);
        bank.clear();
        let mut body = Writer::default();
        body.u32(devices.clone().count() as u32);
        bank.add(RecordKind::HEAD.0, VERSION, body.bytes());
        let mut left_out = 0;
        for device in devices.clone() {
            let mut body = Writer::default();
            device.write(&mut body);
            left_out += usize::from(!bank.add(RecordKind::DEVICE.0, VERSION, body.bytes()));
        }
        let openings = devices.filter_map(|it| Some((it, it.opening.as_ref()?)));
        for (device, opening) in openings {
            let mut body = Writer::default();
            opening.write(device.domain, device.device, &mut body);
            // Those without room for theirs wait until xenstore has been asked.
            bank.add(RecordKind::OPENING.0, VERSION, body.bytes());
        }
        for limits in &self.limits {
            let mut body = Writer::default();
            limits.write(&mut body);
            // Devices come first: those without room for theirs go on with what their disk lines say.
            bank.add(RecordKind::LIMITS.0, VERSION, body.bytes());
        }
        word.store(writing, Release);
        left_out
    }

    /// What was written last, as far as it checks.
    #[must_use]
    pub fn read(&self) -> FormerRecords {
        let writing = self.pages.u64_at(WRITING_AT).load(Acquire);
        let mut former = FormerRecords::default();
        if writing == 0 {
            return former;
        }
        let (mut expected, mut damaged) = (None, 0);
        for found in self.bank(writing).records() {
            let Found::Sound {
                kind,
                version,
                body,
            } = found
            else {
                damaged += 1;
                continue;
            };
            let mut body = Reader::new(&body);
            match (RecordKind(kind), version) {
                (RecordKind::HEAD, 1) => expected = body.u32(),
                (RecordKind::DEVICE, 1) => match DeviceRecord::read_1(&mut body) {
                    Some(device) => former.devices.push(device),
                    None => damaged += 1,
                },
                (RecordKind::LIMITS, 1) => match LimitRecord::read_1(&mut body) {
                    Some(limits) => former.limits.push(limits),
                    None => damaged += 1,
                },
                (RecordKind::OPENING, 1) => match OpeningRecord::read_1(&mut body) {
                    Some((domain, device, opening)) => {
                        let of =
                            |it: &&mut DeviceRecord| (it.domain, it.device) == (domain, device);
                        if let Some(device) = former.devices.iter_mut().find(of) {
                            device.opening = Some(opening);
                        }
                    }
                    None => damaged += 1,
                },
                // Of a version that this one does not know.
                _ => damaged += 1,
            }
        }
        former.damaged = match expected {
            Some(count) => (count as usize).saturating_sub(former.devices.len()),
            // Without the head there is at least that one.
            None => damaged.max(1),
        };
        former
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::layout::{FIXED_PAGES, begin};

    /// What is found after `write` has put records into the bank that counts, that of writing 1.
    fn found(write: impl FnOnce(&Records)) -> FormerRecords {
        let pages = Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0)));
        assert_eq!(begin(pages, false), Ok(1));
        let records = Records::new(pages);
        write(&records);
        pages.u64_at(WRITING_AT).store(1, Release);
        records.read()
    }

    /// As a kernel of a later version may leave them, before one of this version is started again.
    #[test]
    fn records_that_cannot_be_read_are_counted_with_or_without_a_head() {
        let device = RecordKind::DEVICE.0;
        // The last one is of this version, and too short.
        let strange = [
            (device, VERSION + 1),
            (RecordKind::LIMITS.0 + 1, VERSION),
            (device, VERSION),
        ];
        for (kind, version) in strange {
            for head in [true, false] {
                let former = found(|records| {
                    let mut bank = records.bank(1);
                    let count = 3u32.to_le_bytes();
                    assert!(!head || bank.add(RecordKind::HEAD.0, VERSION, &count));
                    assert!((0..3).all(|_| bank.add(kind, version, &[1, 2, 3])));
                });
                assert_eq!((former.devices.len(), former.damaged), (0, 3));
            }
        }
        // What an earlier writing has left is damaged, and no head either.
        let former = found(|records| {
            let mut bank = records.bank(3);
            assert!(bank.add(RecordKind::HEAD.0, VERSION, &1u32.to_le_bytes()));
            assert!((0..3).all(|_| bank.add(device, VERSION, &[1, 2, 3])));
        });
        assert_eq!((former.devices.len(), former.damaged), (0, 4));
        // Of what has nothing there may have been anything.
        assert_eq!(found(|_| ()).damaged, 1);
    }
}
