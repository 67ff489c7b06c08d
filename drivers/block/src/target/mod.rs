//! Targets: which volume a guest's `target=` names, and who may have it.
//!
//! libxl checks nothing of a target on another domain's disk, so that two guests are given
//! the same blocks is noticed only here, whatever names the blocks go by.

mod change;
mod error;
mod list;
#[cfg(test)]
mod tests;
mod twin;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::Volume;
pub use error::TargetError;

/// How a device is to use a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read it; others may not write.
    Read,
    /// Write it; others may not have it.
    Write,
    /// Write it, whoever else has it: the guests have agreed on how (xl's `w!`).
    SharedWrite,
}

/// A volume in use, from [`Targets::claim`] to [`Targets::release`].
#[derive(Debug)]
struct Claim {
    volume: usize,
    holder: String,
    usage: Use,
    /// It is shown with smaller sectors than the disk has blocks.
    sectors: bool,
}

/// All volumes, and who has them.
#[derive(Debug, Default)]
pub struct Targets {
    /// Disks, each followed by its partitions.
    volumes: Vec<Volume>,
    /// For each volume, the disk it is a partition of.
    disks: Vec<Option<usize>>,
    /// For each volume, what its blocks are on: a number that no other disk has had, or that of
    /// another disk that reaches the same namespace through a controller of its own.
    media: Vec<u64>,
    /// How many of those numbers have been given out.
    numbered: u64,
    /// For each volume, whether its partition table may have been written since it was read.
    stale: Vec<bool>,
    claims: Vec<Claim>,
    /// Disks, or controllers with all their disks, that cannot be served: name and reason.
    failed: Vec<Failed>,
}

/// What cannot be served, and why.
#[derive(Debug)]
struct Failed {
    name: String,
    reason: String,
    /// The volume that had this name when it was closed, if it was there before.
    closed: Option<String>,
}

impl Targets {
    /// The table of whole disks with their partitions, all free.
    #[must_use]
    pub fn new(disks: impl IntoIterator<Item = (Volume, Vec<Volume>)>) -> Self {
        let mut targets = Self::default();
        for (disk, partitions) in disks {
            let at = targets.volumes.len();
            let medium = targets.medium(&disk);
            targets.media.extend(vec![medium; 1 + partitions.len()]);
            targets.disks.push(None);
            targets.disks.extend(partitions.iter().map(|_| Some(at)));
            targets.volumes.push(disk);
            targets.volumes.extend(partitions);
        }
        targets.stale = vec![false; targets.volumes.len()];
        targets
    }

    /// The disk that is the same namespace as `disk`, behind another controller of a subsystem: a
    /// second port, or a virtual function.
    fn twin(&self, disk: &Volume) -> Option<usize> {
        (0..self.volumes.len()).find(|&index| {
            let other = &self.volumes[index];
            self.disks[index].is_none() && other.disk != disk.disk && twin::are_one(other, disk)
        })
    }

    /// What the blocks of a disk are on that is not in the table yet.
    fn medium(&mut self, disk: &Volume) -> u64 {
        match self.twin(disk) {
            Some(twin) => self.media[twin],
            None => self.fresh_medium(),
        }
    }

    fn fresh_medium(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    /// Whether two volumes have a sector in common, or would if their disk had another size: all of
    /// it belongs to the whole disk, whatever its size is now.
    fn overlap(&self, one: usize, other: usize) -> bool {
        let range = |index: usize| {
            let volume = &self.volumes[index];
            let start = volume.start.saturating_mul(volume.sectors_per_block());
            start..start.saturating_add(volume.sectors)
        };
        let (first, second) = (range(one), range(other));
        let whole = self.disks[one].is_none() || self.disks[other].is_none();
        let meet = first.start < second.end && second.start < first.end;
        self.media[one] == self.media[other] && (whole || meet)
    }

    /// The disk that is the same as `disk`, behind another controller, if there is one before it.
    #[must_use]
    pub fn same_as(&self, disk: &Volume) -> Option<&Volume> {
        let at = self.volumes.iter().position(|v| v.name == disk.name)?;
        let before = self
            .volumes
            .iter()
            .zip(&self.media)
            .zip(&self.disks)
            .take(at);
        let mut same =
            before.filter(|((_, medium), whole)| **medium == self.media[at] && whole.is_none());
        same.next().map(|((volume, _), _)| volume)
    }

    /// Notes that the disk `name` (`vda`), or all those of controller `name` (`nvme0`), are not
    /// there for the given reason, which is what is said to those who ask for one.
    pub fn note_failed(&mut self, name: String, reason: String) {
        self.failed.push(Failed {
            name,
            reason,
            closed: None,
        });
    }

    /// Whole disks and partitions.
    #[must_use]
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// Whole disks.
    pub fn disks(&self) -> impl Iterator<Item = &Volume> {
        let volumes = self.volumes.iter().zip(&self.disks);
        volumes.filter_map(|(volume, disk)| disk.is_none().then_some(volume))
    }

    /// The volume that `target` names, as [`Targets::claim`] finds it.
    ///
    /// # Errors
    /// None or several have the name.
    pub fn named(&self, target: &str) -> Result<&Volume, TargetError> {
        self.find(target).map(|index| &self.volumes[index])
    }

    /// Gives `holder` the volume that `target` names: a name, or an alias that only one volume
    /// has; with or without `/dev/`, and by the links of `/dev/disk` as well. Whatever `holder`
    /// had before is released.
    ///
    /// Volumes that share a block are in each other's way as if they were one. Once a whole disk
    /// is given out for writing, its partitions are refused: its holder may have moved them.
    ///
    /// # Errors
    /// See [`TargetError`]; nothing is claimed or released then.
    pub fn claim(
        &mut self,
        target: &str,
        usage: Use,
        holder: &str,
    ) -> Result<&Volume, TargetError> {
        self.claim_as(target, usage, holder, false)
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
        usage: Use,
        holder: &str,
    ) -> Result<&Volume, TargetError> {
        self.claim_as(target, usage, holder, true)
    }

    fn claim_as(
        &mut self,
        target: &str,
        usage: Use,
        holder: &str,
        sectors: bool,
    ) -> Result<&Volume, TargetError> {
        let index = self.find(target)?;
        let volume = &self.volumes[index];
        let sectors = sectors && volume.sectors_per_block() > 1;
        let name = || volume.name.clone();
        if volume.sectors == 0 {
            return Err(TargetError::Empty(name()));
        }
        if usage != Use::Read && volume.read_only {
            return Err(TargetError::ReadOnly(name()));
        }
        if let Some(disk) = self.disks[index].map(|disk| &self.volumes[disk]) {
            if end(volume) > end(disk) {
                return Err(TargetError::Beyond(name()));
            }
            if self.stale[index] {
                let disk = disk.name.clone();
                return Err(TargetError::Stale { name: name(), disk });
            }
        }
        let conflict = |claim: &&Claim| {
            let exclusive = usage == Use::Write || claim.usage != Use::Read;
            self.overlap(claim.volume, index)
                && claim.holder != holder
                && usage != Use::SharedWrite
                && exclusive
        };
        if let Some(claim) = self.claims.iter().find(conflict) {
            let held = self.volumes[claim.volume].name.clone();
            return Err(TargetError::InUse {
                name: name(),
                holder: claim.holder.clone(),
                held: (claim.volume != index).then_some(held),
            });
        }
        let mixed = |claim: &&Claim| {
            self.overlap(claim.volume, index)
                && claim.holder != holder
                && usage != Use::Read
                && claim.usage != Use::Read
                && (sectors || claim.sectors)
                && (sectors, index) != (claim.sectors, claim.volume)
        };
        if let Some(claim) = self.claims.iter().find(mixed) {
            return Err(TargetError::Mixed {
                name: name(),
                holder: claim.holder.clone(),
                held: self.volumes[claim.volume].name.clone(),
            });
        }
        self.release(holder);
        self.claims.push(Claim {
            volume: index,
            holder: holder.to_string(),
            usage,
            sectors,
        });
        if usage != Use::Read {
            let whole = self.disks[index].is_none();
            let all = self.disks.iter().zip(&self.media).zip(&mut self.stale);
            for ((disk, medium), stale) in all {
                *stale |= whole && disk.is_some() && *medium == self.media[index];
            }
        }
        Ok(&self.volumes[index])
    }

    /// Takes back whatever `holder` has.
    pub fn release(&mut self, holder: &str) {
        self.claims.retain(|claim| claim.holder != holder);
    }

    /// The whole disk `name` has `sectors` now, in 512-byte units. Partitions stay as they are; of
    /// a disk that has shrunk, those beyond its end are not given out any more. False if there
    /// is no such disk, or if that is the size it had.
    pub fn resize(&mut self, name: &str, sectors: u64) -> bool {
        let mut volumes = self.volumes.iter_mut().zip(&self.disks);
        let disk = volumes.find(|(volume, disk)| disk.is_none() && volume.name == name);
        match disk {
            Some((volume, _)) if volume.sectors != sectors => {
                volume.sectors = sectors;
                true
            }
            _ => false,
        }
    }

    /// Why there is no such volume.
    fn unknown(&self, target: &str, wanted: &str) -> TargetError {
        let mut failed = self.failed.iter();
        if let Some(failed) = failed.find(|failed| belongs(wanted, &failed.name)) {
            return TargetError::Failed {
                wanted: target.to_string(),
                name: failed.name.clone(),
                reason: failed.reason.clone(),
            };
        }
        TargetError::Unknown {
            wanted: target.to_string(),
            have: self
                .volumes
                .iter()
                .filter(|volume| !volume.name.is_empty())
                .map(|volume| volume.name.clone())
                .collect(),
        }
    }

    /// Which volume `target` names. A name is preferred to an alias, which is a matter of what is
    /// written on the disks.
    fn find(&self, target: &str) -> Result<usize, TargetError> {
        let wanted = spelling(target);
        let named = self.volumes.iter().position(|volume| volume.name == wanted);
        // One that has gone has no name.
        if let Some(index) = named.filter(|_| !wanted.is_empty()) {
            return Ok(index);
        }
        let plain = unescape(&wanted);
        let is_wanted = |alias: &String| *alias == wanted || *alias == plain;
        let aliased = |(_, volume): &(usize, &Volume)| volume.aliases.iter().any(is_wanted);
        let found: Vec<_> = self.volumes.iter().enumerate().filter(aliased).collect();
        let names = |volumes: &mut dyn Iterator<Item = &Volume>| {
            volumes.map(|volume| volume.name.clone()).collect()
        };
        match found[..] {
            [(index, _)] => Ok(index),
            // The same blocks, whichever way.
            [(index, first), ref others @ ..]
                if others.iter().all(|&(other, volume)| {
                    let place = |v: &Volume| (v.start, v.sectors);
                    self.media[other] == self.media[index] && place(volume) == place(first)
                }) =>
            {
                Ok(index)
            }
            [] => Err(self.unknown(target, &wanted)),
            _ => Err(TargetError::Ambiguous {
                wanted: target.to_string(),
                have: names(&mut found.iter().map(|(_, volume)| *volume)),
            }),
        }
    }
}

/// Whether `wanted` is the disk `name` or part of it, or belongs to the controller of that name.
fn belongs(wanted: &str, name: &str) -> bool {
    let Some(rest) = wanted.strip_prefix(name) else {
        return false;
    };
    // nvme1 is no part of nvme12n1, nor vda of vdab.
    match rest.bytes().next() {
        None => true,
        Some(next) if name.ends_with(|c: char| c.is_ascii_digit()) => !next.is_ascii_digit(),
        Some(next) => next.is_ascii_digit(),
    }
}

/// A target as it stands in the table: without its directory, and UUIDs in small letters.
fn spelling(target: &str) -> String {
    for (directory, key) in [
        ("/dev/disk/by-partuuid/", "PARTUUID="),
        ("/dev/disk/by-partlabel/", "PARTLABEL="),
        ("/dev/disk/by-id/", ""),
        ("/dev/", ""),
    ] {
        if let Some(name) = target.strip_prefix(directory) {
            return spelling(&alloc::format!("{key}{name}"));
        }
    }
    match target.strip_prefix("PARTUUID=") {
        Some(uuid) => alloc::format!("PARTUUID={}", uuid.to_ascii_lowercase()),
        None => target.to_string(),
    }
}

/// A name that is written as udev and the list of targets write it, `my\x20data` for `my data`.
fn unescape(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut bytes = Vec::from(parts.next().unwrap_or_default());
    for part in parts {
        let code = part.split_at_checked(2);
        match code.and_then(|(hex, rest)| Some((u8::from_str_radix(hex, 16).ok()?, rest))) {
            Some((byte, rest)) => {
                bytes.push(byte);
                bytes.extend_from_slice(rest.as_bytes());
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_string())
}

/// The first block after a volume.
fn end(volume: &Volume) -> u64 {
    volume.start + volume.sectors / volume.sectors_per_block()
}
