//! Targets: which volume a guest's `target=` names, and who may have it.
//!
//! libxl checks nothing of a target on another domain's disk, so that two guests are given
//! the same blocks is noticed only here, whatever names the blocks go by.

mod change;
mod error;
mod list;
mod logical;
mod piece;
mod redescribe;
mod spelling;
#[cfg(test)]
mod tests;
mod twin;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::mem;

use crate::{Access, Unit, Volume};
pub use error::TargetError;
use piece::Piece;
pub use redescribe::{MayGrow, Redescribed};
use spelling::{spelling, unescape};

/// Which volume of a [`Targets`] table. It is that volume's for as long as any holder has it, or as
/// it can be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeId(usize);

/// What a place of the table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TargetKind {
    /// A whole disk.
    Disk,
    /// A partition of the disk at this place.
    PartitionOf(usize),
    /// A logical volume.
    Logical,
    /// What was taken out, and stays for those who have it.
    Closed,
}

/// A volume, and what is known of it besides.
#[derive(Debug)]
struct TargetEntry {
    volume: Volume,
    kind: TargetKind,
    /// What its blocks are on; nothing once it is closed.
    pieces: Vec<Piece>,
    /// Whether its partition table, or that of the disk that it is a part of, may have been written
    /// since it was read; of a logical volume, any table or metadata that it depends on.
    stale: bool,
    /// Whether what a partition holds, which may be LVM's metadata, may have been written since then.
    written: bool,
    /// Why it is not what its table or metadata have by now, as long as a guest has it open.
    kept: Option<String>,
}

impl TargetEntry {
    fn new(volume: Volume, kind: TargetKind, pieces: Vec<Piece>) -> Self {
        Self {
            volume,
            kind,
            pieces,
            stale: false,
            written: false,
            kept: None,
        }
    }

    /// A whole disk, all of which is its own whatever its size.
    fn disk(volume: Volume, medium: u64) -> Self {
        Self::new(volume, TargetKind::Disk, Vec::from([Piece::whole(medium)]))
    }

    /// A partition of the disk at this place.
    fn partition(volume: Volume, disk: usize, medium: u64) -> Self {
        let piece = Piece::of(&volume, medium);
        Self::new(volume, TargetKind::PartitionOf(disk), Vec::from([piece]))
    }

    /// The medium of a disk or a partition.
    fn medium(&self) -> Option<u64> {
        self.pieces.first().map(|piece| piece.medium)
    }

    /// Its place is free for another one.
    fn vacate(&mut self) {
        self.kind = TargetKind::Closed;
        (self.volume.name, self.volume.aliases) = Default::default();
        (self.pieces, self.kept) = (Vec::new(), None);
    }

    fn is_disk(&self) -> bool {
        self.kind == TargetKind::Disk
    }

    /// Whether it is all or a part of `unit` of a disk that is there, or has a part of it.
    fn is_on(&self, disk: usize, unit: Unit) -> bool {
        self.kind != TargetKind::Closed && self.volume.is_on_unit(disk, unit)
    }
}

/// A volume in use, from [`Targets::claim`] to [`Targets::release`].
#[derive(Debug)]
struct TargetClaim<H> {
    volume: usize,
    holder: H,
    access: Access,
    /// It is shown with smaller sectors than the disk has blocks.
    sectors: bool,
}

/// All volumes, and who has them. `H` names a holder, and is printed for people.
#[derive(Debug)]
pub struct Targets<H> {
    /// Disks, each followed by its partitions, then logical volumes.
    entries: Vec<TargetEntry>,
    /// How many numbers of media have been given out.
    media: u64,
    claims: Vec<TargetClaim<H>>,
    /// Disks, or controllers with all their disks, that cannot be served: name and reason.
    failed: Vec<FailedTarget>,
    /// Controllers that are lost.
    lost: Vec<LostDisk>,
    /// Where each controller is plugged in.
    places: Vec<u32>,
}

/// A controller that is lost.
#[derive(Debug)]
struct LostDisk {
    disk: usize,
    name: String,
    reason: String,
    /// It may still carry out what it was given.
    may_write: bool,
}

/// What cannot be served, and why.
#[derive(Debug)]
struct FailedTarget {
    name: String,
    reason: String,
    /// The volume that had this name when it was closed, if it was there before.
    closed: Option<String>,
    /// It is a logical volume, as its metadata was read last.
    logical: bool,
}

impl<H> Default for Targets<H> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            media: 0,
            claims: Vec::new(),
            failed: Vec::new(),
            lost: Vec::new(),
            places: Vec::new(),
        }
    }
}

impl<H: Copy + PartialEq + Display> Targets<H> {
    /// The table of whole disks with their partitions, all free.
    #[must_use]
    pub fn new(disks: impl IntoIterator<Item = (Volume, Vec<Volume>)>) -> Self {
        let mut targets = Self::default();
        for (disk, partitions) in disks {
            let at = targets.entries.len();
            let medium = targets.medium(&disk);
            let part = |volume| TargetEntry::partition(volume, at, medium);
            targets.entries.push(TargetEntry::disk(disk, medium));
            targets.entries.extend(partitions.into_iter().map(part));
        }
        targets
    }

    /// What the blocks of a disk are on that is not in the table yet: the same as those of a disk
    /// that is the same namespace, behind another controller of a subsystem, such as a second port
    /// or a virtual function.
    fn medium(&mut self, disk: &Volume) -> u64 {
        let twin = self.entries.iter().find(|entry| {
            let other = &entry.volume;
            entry.is_disk() && other.disk != disk.disk && twin::are_one(other, disk)
        });
        let medium = twin.and_then(TargetEntry::medium);
        medium.unwrap_or_else(|| self.fresh_medium())
    }

    fn fresh_medium(&mut self) -> u64 {
        self.media += 1;
        self.media
    }

    /// Whether two volumes have a sector in common, or would if their disk had another size.
    fn overlap(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.entries[one], &self.entries[other]);
        piece::meet(&one.pieces, &other.pieces)
    }

    /// The disk that is the same as `disk`, behind another controller, if there is one before it.
    #[must_use]
    pub fn same_as(&self, disk: &Volume) -> Option<&Volume> {
        let is_it = |entry: &TargetEntry| entry.volume.name == disk.name;
        let at = self.entries.iter().position(is_it)?;
        let (before, medium) = (&self.entries[..at], self.entries[at].medium());
        let same = before.iter().find(|e| e.is_disk() && e.medium() == medium);
        same.map(|entry| &entry.volume)
    }

    /// Notes that the disk `name` (`vda`), or all those of controller `name` (`nvme0`), are not
    /// there for the given reason, which is what is said to those who ask for one.
    pub fn note_failed(&mut self, name: String, reason: String) {
        self.failed.push(FailedTarget {
            name,
            reason,
            closed: None,
            logical: false,
        });
    }

    /// Why who asks for exactly this name is refused, if there is nothing of that name.
    #[must_use]
    pub fn refusal(&self, name: &str) -> Option<&str> {
        let mut failed = self.failed.iter();
        let failed = failed.find(|failed| failed.name == name)?;
        Some(&failed.reason)
    }

    /// Notes where each controller is plugged in ([`BlockController::place`](crate::BlockController::place)).
    pub fn set_places(&mut self, places: Vec<u32>) {
        self.places = places;
    }

    /// Where the controller with number `disk` is plugged in; 0 if that is not known.
    #[must_use]
    pub fn place(&self, disk: usize) -> u32 {
        self.places.get(disk).copied().unwrap_or(0)
    }

    /// Notes that the controller with number `disk`, which goes by `name`, is lost, for a reason that
    /// who asks for a part of it is given. A name that several disks have which are the same goes to one
    /// that is not lost; but none of them is given out as long as this one `may_write`, that is, carry
    /// out late what it was given.
    pub fn set_lost(&mut self, disk: usize, name: String, reason: String, may_write: bool) {
        self.set_found(disk, &name);
        self.lost.push(LostDisk {
            disk,
            name,
            reason,
            may_write,
        });
    }

    /// The controller with number `disk`, which goes by `name`, works: nothing that was noted of it by
    /// [`Targets::set_lost`] or [`Targets::note_failed`] counts any longer.
    pub fn set_found(&mut self, disk: usize, name: &str) {
        self.lost.retain(|lost| lost.disk != disk);
        self.failed
            .retain(|failed| failed.name != name || failed.closed.is_some());
    }

    /// Why the controller with number `disk` is lost, if it is.
    #[must_use]
    pub fn lost(&self, disk: usize) -> Option<&str> {
        let mut lost = self.lost.iter();
        let lost = lost.find(|lost| lost.disk == disk)?;
        Some(&lost.reason)
    }

    /// Whether any of a volume's blocks is on a disk whose controller is lost.
    pub(super) fn is_lost(&self, volume: &Volume) -> bool {
        self.lost.iter().any(|lost| volume.is_on(lost.disk))
    }

    /// Whether the controller with number `disk` is lost and may carry out late what it was given.
    #[must_use]
    pub fn may_write(&self, disk: usize) -> bool {
        let mut lost = self.lost.iter();
        lost.any(|lost| lost.disk == disk && lost.may_write)
    }

    /// A controller that may write to `medium` though it is lost.
    fn writer_of(&self, medium: u64) -> Option<&LostDisk> {
        let has = |disk: usize| {
            let mut entries = self.entries.iter();
            let is_it =
                |entry: &TargetEntry| (entry.medium(), entry.volume.disk) == (Some(medium), disk);
            entries.any(|entry| entry.is_disk() && is_it(entry))
        };
        let mut lost = self.lost.iter();
        lost.find(|lost| lost.may_write && has(lost.disk))
    }

    /// Whether a lost controller may still write to `unit` of the disk with number `disk`, by another way.
    #[must_use]
    pub fn awaits_writer(&self, disk: usize, unit: Unit) -> bool {
        let mut disks = self.entries.iter().filter(|entry| entry.is_disk());
        let entry = disks.find(|entry| entry.is_on(disk, unit));
        let medium = entry.and_then(TargetEntry::medium);
        medium.is_some_and(|medium| self.writer_of(medium).is_some())
    }

    /// Whole disks.
    pub fn disks(&self) -> impl Iterator<Item = &Volume> {
        let disks = self.entries.iter().filter(|entry| entry.is_disk());
        disks.map(|entry| &entry.volume)
    }

    /// All volumes that are there: disks, partitions and logical volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        let there = |entry: &&TargetEntry| entry.kind != TargetKind::Closed;
        self.entries.iter().filter(there).map(|entry| &entry.volume)
    }

    /// The volume with this number. One that was taken out has no name and no sectors.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> &Volume {
        &self.entries[id.0].volume
    }

    /// The volume that `target` names, as [`Targets::claim`] finds it.
    ///
    /// # Errors
    /// None or several have the name.
    pub fn named(&self, target: &str) -> Result<VolumeId, TargetError> {
        self.find(target).map(VolumeId)
    }

    /// Whether a volume of this `name`, which need not be there, is the disk that `volume` is on, or a
    /// part of it.
    #[must_use]
    pub fn is_named_like(&self, name: &str, volume: &Volume) -> bool {
        let mut disks = self.disks();
        let disk = disks.find(|disk| (disk.disk, disk.unit) == (volume.disk, volume.unit));
        disk.is_some_and(|disk| belongs(name, &disk.name))
    }

    /// Gives `holder` the volume that `target` names: a name, or an alias that only one volume
    /// has; with or without `/dev/`, and by the links of `/dev/disk` as well. Whatever `holder`
    /// had before is released.
    ///
    /// Volumes that share a block are in each other's way as if they were one. Once a whole disk
    /// is given out for writing, its partitions are refused: its holder may have moved them. So are
    /// logical volumes, of which any disk or partition was given out for writing.
    ///
    /// # Errors
    /// See [`TargetError`]; nothing is claimed or released then.
    pub fn claim(
        &mut self,
        target: &str,
        access: Access,
        holder: H,
    ) -> Result<VolumeId, TargetError> {
        self.claim_as(target, access, holder, false)
    }

    /// As [`Targets::claim`], for one who is shown sectors of 512 bytes whatever the disk's blocks.
    /// Where blocks are larger, others who write to the same blocks do so by the same name and are
    /// shown the same, or not at all: a part of a block is written by reading and writing back the
    /// rest of it, which others must wait for.
    ///
    /// # Errors
    /// As [`Targets::claim`].
    pub fn claim_512e(
        &mut self,
        target: &str,
        access: Access,
        holder: H,
    ) -> Result<VolumeId, TargetError> {
        self.claim_as(target, access, holder, true)
    }

    fn claim_as(
        &mut self,
        target: &str,
        access: Access,
        holder: H,
        sectors: bool,
    ) -> Result<VolumeId, TargetError> {
        let index = self.find(target)?;
        let TargetEntry {
            volume,
            kind,
            pieces,
            stale,
            kept,
            ..
        } = &self.entries[index];
        let sectors = sectors && volume.sectors_per_block() > 1;
        let name = || volume.name.clone();
        if volume.sectors == 0 {
            return Err(TargetError::Empty(name()));
        }
        if access != Access::Read && volume.read_only {
            return Err(TargetError::ReadOnly(name()));
        }
        if let Some(reason) = kept {
            let reason = reason.clone();
            return Err(TargetError::Kept {
                name: name(),
                reason,
            });
        }
        if let TargetKind::PartitionOf(disk) = *kind {
            let disk = &self.entries[disk].volume;
            if end(volume) > end(disk) {
                return Err(TargetError::Beyond(name()));
            }
            if *stale {
                let disk = disk.name.clone();
                return Err(TargetError::Stale { name: name(), disk });
            }
        }
        if *kind == TargetKind::Logical {
            if self.is_beyond(volume) {
                return Err(TargetError::Beyond(name()));
            }
            if *stale {
                return Err(TargetError::Relocated(name()));
            }
        }
        let mut media = pieces.iter().map(|piece| piece.medium);
        if let Some(lost) = media.find_map(|medium| self.writer_of(medium)) {
            return Err(TargetError::MayChange {
                name: name(),
                lost: lost.name.clone(),
            });
        }
        let conflict = |claim: &&TargetClaim<H>| {
            self.overlap(claim.volume, index)
                && claim.holder != holder
                && self.excludes(claim, access)
        };
        if let Some(claim) = self.claims.iter().find(conflict) {
            let held = self.entries[claim.volume].volume.name.clone();
            return Err(TargetError::InUse {
                name: name(),
                holder: claim.holder.to_string(),
                held: (claim.volume != index).then_some(held),
            });
        }
        let mixed = |claim: &&TargetClaim<H>| {
            self.overlap(claim.volume, index)
                && claim.holder != holder
                && access != Access::Read
                && claim.access != Access::Read
                && (sectors || claim.sectors)
                && (sectors, index) != (claim.sectors, claim.volume)
        };
        if let Some(claim) = self.claims.iter().find(mixed) {
            return Err(TargetError::Mixed {
                name: name(),
                holder: claim.holder.to_string(),
                held: self.entries[claim.volume].volume.name.clone(),
            });
        }
        self.release(holder);
        self.claims.push(TargetClaim {
            volume: index,
            holder,
            access,
            sectors,
        });
        if access != Access::Read {
            self.note_written(index);
        }
        Ok(VolumeId(index))
    }

    /// Whether who has this keeps those from it who want to have it, or a part of it, with `access`. What
    /// is not where its table has it by now is no part of what those have agreed on who share.
    fn excludes(&self, claim: &TargetClaim<H>, access: Access) -> bool {
        match access {
            _ if self.entries[claim.volume].kept.is_some() => true,
            Access::Read => claim.access != Access::Read,
            Access::Write => true,
            Access::SharedWrite => false,
        }
    }

    /// Takes back whatever `holder` has.
    pub fn release(&mut self, holder: H) {
        self.claims.retain(|claim| claim.holder != holder);
    }

    /// All of `unit` of disk number `disk` has `sectors` now, in 512-byte units. Partitions stay as they
    /// are; of a disk that has shrunk, those beyond its end are not given out any more. Gives the
    /// volume; `None` if there is no such disk, or if that is the size it had.
    pub fn resize(&mut self, disk: usize, unit: Unit, sectors: u64) -> Option<VolumeId> {
        let mut entries = self.entries.iter_mut();
        let at = entries.position(|entry| entry.is_disk() && entry.is_on(disk, unit))?;
        let was = mem::replace(&mut self.entries[at].volume.sectors, sectors);
        (was != sectors).then_some(VolumeId(at))
    }

    /// Why there is no such volume.
    fn unknown(&self, target: &str, wanted: &str) -> TargetError {
        let failed = self.failed.iter().map(|it| (&it.name, &it.reason));
        let lost = self.lost.iter().map(|it| (&it.name, &it.reason));
        let mut out_of_use = failed.chain(lost);
        if let Some((name, reason)) = out_of_use.find(|(name, _)| belongs(wanted, name)) {
            return TargetError::Failed {
                wanted: target.to_string(),
                name: name.clone(),
                reason: reason.clone(),
            };
        }
        TargetError::Unknown {
            wanted: target.to_string(),
            have: self
                .entries
                .iter()
                .filter(|entry| entry.kind != TargetKind::Closed)
                .map(|entry| entry.volume.name.clone())
                .collect(),
        }
    }

    /// Which volume `target` names. A name is preferred to an alias, which is a matter of what is
    /// written on the disks.
    fn find(&self, target: &str) -> Result<usize, TargetError> {
        let wanted = spelling(target);
        // One that has gone has no name.
        let there = |entry: &TargetEntry| entry.kind != TargetKind::Closed;
        let has_name = |entry: &TargetEntry| there(entry) && entry.volume.name == wanted;
        if let Some(index) = self.entries.iter().position(has_name) {
            return Ok(index);
        }
        let plain = unescape(&wanted);
        let is_wanted = |alias: &String| *alias == wanted || *alias == plain;
        let aliased =
            |(_, entry): &(usize, &TargetEntry)| entry.volume.aliases.iter().any(is_wanted);
        let found: Vec<_> = self.entries.iter().enumerate().filter(aliased).collect();
        match found[..] {
            [(index, _)] => Ok(index),
            // The same blocks, whichever way.
            [(index, first), ref others @ ..]
                if others.iter().all(|(_, other)| other.pieces == first.pieces) =>
            {
                let works = |entry: &TargetEntry| !self.is_lost(&entry.volume);
                let working = found.iter().find(|(_, entry)| works(entry));
                Ok(working.map_or(index, |(index, _)| *index))
            }
            [] => Err(self.unknown(target, &wanted)),
            _ => Err(TargetError::Ambiguous {
                wanted: target.to_string(),
                have: found.iter().map(|(_, e)| e.volume.name.clone()).collect(),
            }),
        }
    }
}

/// Whether `wanted` is the disk `name` or part of it, or belongs to the controller of that name.
fn belongs(wanted: &str, name: &str) -> bool {
    let Some(rest) = wanted.strip_prefix(name) else {
        return false;
    };
    // nvme1 is no part of nvme12n1, nor vda of vdab; and a logical volume, with its group's name before,
    // is a part of none.
    match rest.bytes().next() {
        None => true,
        Some(_) if wanted.contains('/') => false,
        Some(next) if name.ends_with(|c: char| c.is_ascii_digit()) => !next.is_ascii_digit(),
        Some(next) => next.is_ascii_digit(),
    }
}

/// The first block after a volume.
fn end(volume: &Volume) -> u64 {
    volume.start + volume.sectors / volume.sectors_per_block()
}
