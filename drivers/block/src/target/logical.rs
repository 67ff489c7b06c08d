//! Logical volumes in the table: they depend on what stands on disks and partitions, and share blocks
//! with them.

use alloc::vec::Vec;
use core::fmt::Display;

use super::piece::{Piece, meet, runs};
use super::{FailedTarget, TargetEntry, TargetKind, Targets};
use crate::{LogicalVolumes, Volume};

impl<H: Copy + PartialEq + Display> Targets<H> {
    /// Takes in the logical volumes there are, in place of those that there were. One that a guest has
    /// stays as it is; if it is another one by now, or none, no further guest is given it. Who asks for
    /// one that is refused gets the reason. True if there were or are any.
    pub fn set_logical(&mut self, logical: LogicalVolumes) -> bool {
        let claimed = |index: usize| self.claims.iter().any(|claim| claim.volume == index);
        let (mut any, mut kept) = (!logical.volumes.is_empty(), Vec::new());
        let held: Vec<bool> = (0..self.entries.len()).map(claimed).collect();
        for (entry, held) in self.entries.iter_mut().zip(held) {
            if entry.kind != TargetKind::Logical {
                continue;
            }
            any = true;
            if held {
                let mut new = logical.volumes.iter();
                entry.stale |= !new.any(|new| *new == entry.volume);
                kept.push(entry.volume.name.clone());
            } else {
                // Its place is free for another one.
                entry.kind = TargetKind::Closed;
                (entry.volume.name, entry.volume.aliases) = Default::default();
                entry.pieces = Vec::new();
            }
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
        any
    }

    fn add_logical(&mut self, volume: Volume) {
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
        let pieces: Option<Vec<Piece>> = runs(&volume).into_iter().map(piece).collect();
        // A disk that has gone meanwhile takes its volumes along.
        let Some(pieces) = pieces else {
            return;
        };
        let changes = |entry: &TargetEntry| match entry.kind {
            TargetKind::Disk => entry.stale,
            TargetKind::PartitionOf(_) => entry.written,
            TargetKind::Logical | TargetKind::Closed => false,
        };
        let mut entries = self.entries.iter();
        let stale = entries.any(|entry| changes(entry) && meet(&entry.pieces, &pieces));
        let entry = TargetEntry::new(volume, TargetKind::Logical, pieces);
        self.put(TargetEntry { stale, ..entry });
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
