//! Logical volumes in the table: they depend on what stands on disks and partitions, and share blocks
//! with them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use super::piece::{Piece, meet, runs};
use super::redescribe::{MayGrow, Redescribed};
use super::{FailedTarget, TargetEntry, TargetKind, Targets};
use crate::{LogicalVolumes, Volume};

impl<H: Copy + PartialEq + Display> Targets<H> {
    /// Takes in the logical volumes there are, in place of those that there were. One that a guest has
    /// grows with its description if that moves no block of it, and stays as it is otherwise. Who asks for
    /// one that is refused gets the reason.
    pub fn set_logical(&mut self, logical: LogicalVolumes, may_grow: MayGrow<'_>) -> Redescribed {
        let mut changed = Redescribed {
            any: !logical.volumes.is_empty(),
            ..Redescribed::default()
        };
        let mut kept = Vec::new();
        for index in 0..self.entries.len() {
            let held = self.is_claimed(index);
            let entry = &mut self.entries[index];
            if entry.kind != TargetKind::Logical {
                continue;
            }
            changed.any = true;
            if !held {
                entry.vacate();
                continue;
            }
            let (name, uuid) = (entry.volume.name.clone(), uuid_alias(&entry.volume));
            let new = self.described(&name, uuid.as_ref(), &logical);
            self.redescribe(index, new, may_grow, &mut changed);
            let entry = &self.entries[index];
            let stale = entry.kept.is_some() || self.may_have_moved(&entry.pieces);
            self.entries[index].stale = stale;
            kept.push(name);
        }
        self.failed.retain(|failed| !failed.logical);
        for volume in logical.volumes {
            if !kept.contains(&volume.name) {
                self.add_logical(volume);
            }
        }
        for (name, reason) in logical.refused {
            self.failed.push(FailedTarget {
                name,
                reason,
                closed: None,
                logical: true,
            });
        }
        changed
    }

    /// What became of the volume of this name and identifier.
    fn described(
        &self,
        name: &str,
        uuid: Option<&String>,
        logical: &LogicalVolumes,
    ) -> Result<(Volume, Vec<Piece>), String> {
        let mut volumes = logical.volumes.iter();
        if let Some(new) = volumes.find(|new| new.name == name) {
            if uuid_alias(new).as_ref() != uuid {
                return Err("another volume has its name now".to_string());
            }
            let pieces = self.pieces_of(new);
            let pieces = pieces.ok_or_else(|| "a disk under it has gone".to_string())?;
            return Ok((new.clone(), pieces));
        }
        let mut volumes = logical.volumes.iter();
        if let Some(new) = volumes.find(|new| uuid.is_some() && uuid_alias(new).as_ref() == uuid) {
            return Err(format!("it is named {} now", new.name));
        }
        let mut refused = logical.refused.iter();
        let reason = refused.find(|(refused, _)| refused == name);
        let reason = reason.map(|(_, reason)| reason.clone());
        Err(reason.unwrap_or_else(|| "it was removed".to_string()))
    }

    fn pieces_of(&self, volume: &Volume) -> Option<Vec<Piece>> {
        let piece = |(disk, unit, start, sectors)| {
            let medium = self.entries[self.whole(disk, unit)?].medium()?;
            let run = Volume {
                start,
                sectors,
                map: None,
                ..volume.clone()
            };
            Some(Piece::of(&run, medium))
        };
        runs(volume).into_iter().map(piece).collect()
    }

    fn add_logical(&mut self, volume: Volume) {
        // A disk that has gone meanwhile takes its volumes along.
        let Some(pieces) = self.pieces_of(&volume) else {
            return;
        };
        let stale = self.may_have_moved(&pieces);
        let entry = TargetEntry::new(volume, TargetKind::Logical, pieces);
        self.put(TargetEntry { stale, ..entry });
    }

    /// Whether what describes a logical volume with these pieces may have been written since it was read.
    fn may_have_moved(&self, pieces: &[Piece]) -> bool {
        let changes = |entry: &TargetEntry| match entry.kind {
            TargetKind::Disk => entry.stale,
            TargetKind::PartitionOf(_) => entry.written,
            TargetKind::Logical | TargetKind::Closed => false,
        };
        let mut entries = self.entries.iter();
        entries.any(|entry| changes(entry) && meet(&entry.pieces, pieces))
    }

    /// Whether a volume reaches beyond the end of one of its disks.
    pub(super) fn is_beyond(&self, volume: &Volume) -> bool {
        let per_block = volume.sectors_per_block();
        runs(volume)
            .into_iter()
            .any(|(disk, unit, first, sectors)| {
                let whole = self.whole(disk, unit).map(|at| &self.entries[at].volume);
                whole.is_none_or(|whole| first * per_block + sectors > whole.sectors)
            })
    }

    /// The volume at this place is given out for writing: notes what may not be where it was from then
    /// on.
    pub(super) fn note_written(&mut self, index: usize) {
        let TargetEntry { kind, pieces, .. } = &self.entries[index];
        let (kind, own) = (*kind, pieces.clone());
        for entry in &mut self.entries {
            let meets = meet(&entry.pieces, &own);
            match (kind, entry.kind) {
                (TargetKind::Disk, _) | (TargetKind::PartitionOf(_), TargetKind::Logical) => {
                    entry.stale |= meets;
                }
                (TargetKind::PartitionOf(_), TargetKind::PartitionOf(_)) => {
                    entry.written |= meets;
                }
                _ => {}
            }
        }
    }
}

/// The name by which a logical volume is the same whatever people call it.
fn uuid_alias(volume: &Volume) -> Option<String> {
    let mut aliases = volume.aliases.iter();
    aliases.find(|alias| alias.starts_with("LVUUID=")).cloned()
}
