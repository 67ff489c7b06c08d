//! What control keeps for the life after a death of the kernel: its records, and the journals of rings.
//!
//! A device is on record from the moment all cores serve its rings, before its frontend hears of that,
//! until its connection is about to end. Records of a former life stay until it is decided what
//! becomes of each device, so that a death meanwhile changes nothing.

use alloc::vec::Vec;

use log::{info, warn};
use spindle_blkif::Member;
use spindle_blkif::stats::RingSnapshot;
use spindle_block::{Targets, Volume};
use spindle_kept::{
    DeviceRecord, Journal, JournalPages, JournalPlace, JournalRooms, Kept, LimitRecord,
    QueueRecord, Records,
};
use spindle_xen::grant::GrantRef;
use spindle_xen::xenbus::{
    Abi, DeviceId, FormerConnection, FormerDevice, QueueParams, Refusal, RingLayout,
};
use spindle_xen::{DomId, Errno};

use crate::rings::Outfit;

/// A ring that was at work at two deaths within this time is left out.
const POISON_NS: u64 = 60_000_000_000;

/// What outlives the kernel, and what ended its last life.
#[derive(Debug)]
pub struct Keep {
    /// Kept memory.
    pub kept: Kept,
    /// The ring that was at work when the last life ended, if one was.
    pub blame: Option<Suspect>,
    /// The last life may have stood still for long before it ended: guests may have given up what they had
    /// asked for, and lost the disk that they had.
    pub stood_still: bool,
}

/// A ring that was at work at a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The first page of its journal.
    pub journal: u32,
    /// When that was, in ns of the clock that all lives share.
    pub at_ns: u64,
}

/// What is kept.
#[derive(Debug)]
pub(crate) struct Keeper {
    kept: Kept,
    records: Records,
    rooms: JournalRooms,
    /// Records of a former life that nothing has come of yet.
    waiting: Vec<DeviceRecord>,
}

impl Keeper {
    /// Takes up what the former lives have left; gives the devices that they have served.
    pub(crate) fn new(keep: Keep) -> (Self, Vec<FormerDevice>) {
        let Keep { kept, blame, .. } = keep;
        let mut keeper = Self {
            kept,
            records: kept.records(),
            rooms: JournalRooms::new(kept.pages()),
            waiting: Vec::new(),
        };
        let read = keeper.records.read();
        if read.damaged > 0 {
            warn!("{} records of devices are damaged or missing", read.damaged);
        }
        keeper.records.limits = read.limits;
        let mut former = Vec::new();
        for mut record in read.devices {
            let id = id_of(&record);
            match keeper.examine(&mut record, blame) {
                Ok(connection) => {
                    former.push((id, Ok(connection)));
                    keeper.waiting.push(record);
                }
                Err(refusal) => {
                    warn!("{id}: cannot be taken up: {refusal}");
                    former.push((id, Err(refusal)));
                }
            }
        }
        if kept.life() > 1 {
            let (life, count) = (kept.life(), keeper.waiting.len());
            info!("life {life} of the kernel: {count} devices to take up");
            // The blame must be there if this life ends while it takes them up.
            keeper.write(core::iter::empty());
        }
        (keeper, former)
    }

    /// Whether the kernel has lived before in this domain.
    pub(crate) const fn has_lived(&self) -> bool {
        self.kept.life() > 1
    }

    pub(crate) const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether a record can be used, and the connection that it is of. Its journals are taken then.
    fn examine(
        &mut self,
        record: &mut DeviceRecord,
        blame: Option<Suspect>,
    ) -> Result<FormerConnection, Refusal> {
        let refuse = |text: &'static str| Err(Refusal::new(Errno::EIO, text));
        let places: Vec<_> = record.queues.iter().map(|queue| queue.journal).collect();
        let at_work = |blame: &Suspect| {
            let firsts = places.iter().flatten().map(|place| place.first);
            firsts.into_iter().any(|first| first == blame.journal)
        };
        if let Some(blame) = blame.filter(at_work) {
            let before = record.at_work_ns;
            if before != 0 && blame.at_ns.saturating_sub(before) <= POISON_NS {
                return refuse(
                    "one of its rings was being served at two deaths of the driver domain's kernel \
                     within a minute",
                );
            }
            record.at_work_ns = blame.at_ns;
        }
        let sound =
            !record.queues.is_empty() && record.queues.iter().all(|queue| !queue.refs.is_empty());
        if !sound {
            return refuse("its record has no rings");
        }
        for (number, place) in places.iter().enumerate() {
            if place.is_none_or(|place| !self.rooms.claim(place)) {
                places[..number]
                    .iter()
                    .flatten()
                    .for_each(|place| self.rooms.free(*place));
                return refuse("its record names journals that cannot be");
            }
        }
        Ok(FormerConnection {
            layout: layout_of(record),
            sectors: record.sectors,
        })
    }

    /// The record of a device that waits to be taken up.
    pub(crate) fn former(&self, id: DeviceId) -> Option<&DeviceRecord> {
        self.waiting.iter().find(|record| id_of(record) == id)
    }

    /// A device that was to be taken up is served, so that its journals are its rings'.
    pub(crate) fn take(&mut self, id: DeviceId) -> Option<DeviceRecord> {
        let at = self.waiting.iter().position(|record| id_of(record) == id)?;
        Some(self.waiting.remove(at))
    }

    /// A device that was to be taken up cannot be: its journals are free. True if there was one.
    pub(crate) fn drop_former(&mut self, id: DeviceId) -> bool {
        let record = self.take(id);
        let queues = record.iter().flat_map(|record| &record.queues);
        queues
            .filter_map(|queue| queue.journal)
            .for_each(|place| self.rooms.free(place));
        record.is_some()
    }

    /// Those that wait and for which `unmaps` is true are not served by a later life before xenstore has
    /// been asked: their frontends may take their rings back. True if that has to be written.
    pub(crate) fn wait_for_xenstore(&mut self, unmaps: impl Fn(DeviceId) -> bool) -> bool {
        let mut changed = false;
        for record in &mut self.waiting {
            if record.opening.is_some() && unmaps(id_of(record)) {
                record.opening = None;
                changed = true;
            }
        }
        changed
    }

    /// Devices that wait to be taken up, with their records.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (DeviceId, &DeviceRecord)> {
        self.waiting.iter().map(|record| (id_of(record), record))
    }

    /// Disks have lost what was in their write caches: those of the devices that wait to be taken up for
    /// which `has_lost` is true. They are to hear of that.
    pub(crate) fn note_loss(&mut self, has_lost: impl Fn(&DeviceRecord) -> bool) {
        for record in &mut self.waiting {
            record.lossy |= has_lost(record);
        }
    }

    /// What a ring of so many pages is given: a journal of its own, or that of `before`, which it was in
    /// a former life.
    ///
    /// # Errors
    /// If there is no room for a journal.
    pub(crate) fn outfit(
        &mut self,
        pages: usize,
        gate: Member,
        before: Option<&QueueRecord>,
    ) -> Result<Outfit, Refusal> {
        let count = u32::try_from(Journal::pages_for(pages)).unwrap_or(u32::MAX);
        let place = match before {
            Some(before) => before.journal,
            None => self.rooms.take(count),
        };
        let journal = place.and_then(|place| Some((place, self.kept.journal(place)?)));
        let Some((place, pages)) = journal else {
            let text = "no kept memory left for the ring's journal; raise memory= of the driver \
                        domain, or have fewer or smaller rings (queues=, ring_order=)";
            return Err(Refusal::new(Errno::ENOMEM, text));
        };
        let first = place.first;
        Ok(Outfit {
            gate,
            place,
            journal: JournalPages { pages, first },
            former: before.map(|it| RingSnapshot::from_values(it.counters.iter().copied())),
        })
    }

    /// A ring of this device does not need its journal any more. As long as the device may be taken up
    /// by another life, that stays.
    pub(crate) fn free_of(&mut self, id: DeviceId, place: JournalPlace) {
        let former = self.former(id);
        let mut queues = former.into_iter().flat_map(|record| &record.queues);
        if !queues.any(|queue| queue.journal == Some(place)) {
            self.rooms.free(place);
        }
    }

    /// The limits that are on record.
    pub(crate) fn limits(&self) -> &[LimitRecord] {
        &self.records.limits
    }

    /// Puts other limits on record, with the next writing.
    pub(crate) fn keep_limits(&mut self, limits: Vec<LimitRecord>) {
        self.records.limits = limits;
    }

    /// Writes the records of `devices`, and of those that wait.
    pub(crate) fn write(&mut self, devices: impl Iterator<Item = DeviceRecord>) {
        let devices: Vec<_> = devices.collect();
        let left_out = self.records.write(devices.iter().chain(&self.waiting));
        if left_out > 0 {
            warn!("{left_out} devices have no room in kept memory: a death would end them");
        }
    }
}

/// The device that a record is of.
fn id_of(record: &DeviceRecord) -> DeviceId {
    DeviceId {
        frontend: DomId(record.domain),
        device: record.device,
    }
}

/// The rings that a record is of.
pub(crate) fn layout_of(record: &DeviceRecord) -> RingLayout {
    let queues = record.queues.iter().map(|queue| QueueParams {
        refs: queue.refs.iter().copied().map(GrantRef).collect(),
        event_channel: queue.event_channel,
    });
    RingLayout {
        queues: queues.collect(),
        abi: if record.x86_32 {
            Abi::X86_32
        } else {
            Abi::Native
        },
        persistent: record.persistent,
        large_sectors: record.large_sectors,
    }
}

/// Whether a volume is the one that a device had which is on record.
pub(crate) fn is_of(volume: &Volume, record: &DeviceRecord, targets: &Targets<DeviceId>) -> bool {
    identity(volume, record.sectors, targets) == record.identity
}

/// What tells a volume that was shown with so many `sectors` from others: the disk's own names and
/// description, where that is plugged in, and which blocks these are; the name that it has here, if it has
/// none of its own. One that has grown is still the same, one that lies elsewhere is not. Serial numbers
/// alone do not tell disks apart: emulated ones have none, or all the same.
pub(crate) fn identity(volume: &Volume, sectors: u64, targets: &Targets<DeviceId>) -> u64 {
    let plugged = |disk| targets.place(disk);
    let own = volume.aliases.is_empty() || plugged(volume.disk) == 0;
    let names = volume.aliases.iter().chain(own.then_some(&volume.name));
    let names = names.chain([&volume.description]);
    let text = names.flat_map(|name| name.bytes().chain([0]));
    let place = volume.placement(sectors, plugged).into_iter();
    spindle_kept::fnv(text.chain(place.flat_map(u64::to_le_bytes)))
}
