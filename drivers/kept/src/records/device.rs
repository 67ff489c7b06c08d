//! The record of a device that is connected: enough to find its frontend, its rings and its disk again,
//! and to see that they are still the same.

use alloc::string::String;
use alloc::vec::Vec;

use super::wire::{Reader, Writer};

/// Where a ring's journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalPlace {
    /// Its first page, reckoned from [`JOURNALS`](crate::layout::JOURNALS).
    pub first: u32,
    /// Its pages.
    pub pages: u32,
}

/// A ring of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRecord {
    /// Grant references of its pages, in order.
    pub refs: Vec<u32>,
    /// The frontend's end of the event channel.
    pub event_channel: u32,
    /// The core that had it, counted from 1.
    pub core: u16,
    /// Its journal. A ring without one cannot be adopted.
    pub journal: Option<JournalPlace>,
    /// What it has counted, in the order of the counters.
    pub counters: Vec<u64>,
}

/// A device with its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// The frontend's domain.
    pub domain: u16,
    /// The device's number there.
    pub device: u32,
    /// The name of its volume, for people.
    pub volume: String,
    /// What tells that volume from others: model, serial number, place on the disk, block size.
    pub identity: u64,
    /// Its size in sectors of 512 bytes, as the frontend was shown it last.
    pub sectors: u64,
    /// Whether requests lie in the rings as 32-bit x86 lays them out.
    pub x86_32: bool,
    /// Whether the frontend keeps its grants from request to request.
    pub persistent: bool,
    /// Whether the frontend counts in blocks of the disk's size.
    pub large_sectors: bool,
    /// When one of its rings was at work at a death, in ns of the system's time; 0 if none ever was.
    pub at_work_ns: u64,
    /// Its rings, in the frontend's order.
    pub queues: Vec<QueueRecord>,
    /// Whether its disk has lost what it had in its cache, and the frontend has not been shown that.
    pub lossy: bool,
    /// What its disk was opened by; `None` if that is not on record. It has a record of its own.
    pub opening: Option<OpeningRecord>,
}

/// What a toolstack has given a device, by its disk line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpeningRecord {
    /// The target.
    pub target: String,
    /// Whether it may only be read.
    pub read_only: bool,
    /// Whether others may write to it, too.
    pub shared: bool,
    /// Whether the frontend may discard.
    pub discard: bool,
    /// Whether it is shown with sectors of 512 bytes, whatever its blocks.
    pub in_sectors: bool,
    /// Its limits, in words.
    pub limits: String,
}

const X86_32: u8 = 1;
const PERSISTENT: u8 = 1 << 1;
const LARGE_SECTORS: u8 = 1 << 2;
const LOSSY: u8 = 1 << 3;

const READ_ONLY: u8 = 1;
const SHARED: u8 = 1 << 1;
const DISCARD: u8 = 1 << 2;
const IN_SECTORS: u8 = 1 << 3;

const fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

impl OpeningRecord {
    /// That of the device with this number in this domain.
    pub(super) fn write(&self, domain: u16, device: u32, to: &mut Writer) {
        to.u16(domain);
        to.u32(device);
        to.text(self.target.as_bytes());
        to.u8(flag(self.read_only, READ_ONLY)
            | flag(self.shared, SHARED)
            | flag(self.discard, DISCARD)
            | flag(self.in_sectors, IN_SECTORS));
        to.text(self.limits.as_bytes());
    }

    /// Reads version 1, with the domain and the device; `None` if that is not what it is.
    pub(super) fn read_1(from: &mut Reader<'_>) -> Option<(u16, u32, Self)> {
        let (domain, device) = (from.u16()?, from.u32()?);
        let target = String::from(core::str::from_utf8(from.text()?).ok()?);
        let flags = from.u8()?;
        let limits = String::from(core::str::from_utf8(from.text()?).ok()?);
        let known = flags & !(READ_ONLY | SHARED | DISCARD | IN_SECTORS) == 0;
        let opening = Self {
            target,
            read_only: flags & READ_ONLY != 0,
            shared: flags & SHARED != 0,
            discard: flags & DISCARD != 0,
            in_sectors: flags & IN_SECTORS != 0,
            limits,
        };
        (known && from.is_at_end()).then_some((domain, device, opening))
    }
}

impl DeviceRecord {
    pub(super) fn write(&self, to: &mut Writer) {
        to.u16(self.domain);
        to.u32(self.device);
        to.text(self.volume.as_bytes());
        to.u64(self.identity);
        to.u64(self.sectors);
        to.u8(flag(self.x86_32, X86_32)
            | flag(self.persistent, PERSISTENT)
            | flag(self.large_sectors, LARGE_SECTORS)
            | flag(self.lossy, LOSSY));
        to.u64(self.at_work_ns);
        to.u16(self.queues.len() as u16);
        for queue in &self.queues {
            to.u16(queue.refs.len() as u16);
            queue.refs.iter().for_each(|gref| to.u32(*gref));
            to.u32(queue.event_channel);
            to.u16(queue.core);
            // No journal has no pages.
            let none = JournalPlace { first: 0, pages: 0 };
            let journal = queue.journal.unwrap_or(none);
            to.u32(journal.first);
            to.u32(journal.pages);
            to.u16(queue.counters.len() as u16);
            queue.counters.iter().for_each(|counter| to.u64(*counter));
        }
    }

    /// Reads version 1; `None` if that is not what it is.
    pub(super) fn read_1(from: &mut Reader<'_>) -> Option<Self> {
        let (domain, device) = (from.u16()?, from.u32()?);
        let volume = String::from(core::str::from_utf8(from.text()?).ok()?);
        let (identity, sectors) = (from.u64()?, from.u64()?);
        let flags = from.u8()?;
        if flags & !(X86_32 | PERSISTENT | LARGE_SECTORS | LOSSY) != 0 {
            return None;
        }
        let at_work_ns = from.u64()?;
        let mut queues = Vec::new();
        for _ in 0..from.u16()? {
            let mut refs = Vec::new();
            for _ in 0..from.u16()? {
                refs.push(from.u32()?);
            }
            let (event_channel, core) = (from.u32()?, from.u16()?);
            let (first, pages) = (from.u32()?, from.u32()?);
            let mut counters = Vec::new();
            for _ in 0..from.u16()? {
                counters.push(from.u64()?);
            }
            queues.push(QueueRecord {
                refs,
                event_channel,
                core,
                journal: (pages > 0).then_some(JournalPlace { first, pages }),
                counters,
            });
        }
        from.is_at_end().then_some(Self {
            domain,
            device,
            volume,
            identity,
            sectors,
            x86_32: flags & X86_32 != 0,
            persistent: flags & PERSISTENT != 0,
            large_sectors: flags & LARGE_SECTORS != 0,
            at_work_ns,
            queues,
            lossy: flags & LOSSY != 0,
            opening: None,
        })
    }
}
