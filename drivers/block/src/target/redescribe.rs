//! Volumes that guests have open, and that a table or metadata describes anew: they grow, or stay what they
//! were.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use super::piece::{Piece, meet};
use super::{TargetKind, Targets, VolumeId};
use crate::{Access, Volume};

/// Whether those who have a volume open can be served one that has more blocks, or why not.
pub type MayGrow<'a> = &'a dyn Fn(VolumeId, &Volume) -> Result<(), &'static str>;

/// What a table or metadata has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Redescribed {
    /// There were or are any volumes of the kind.
    pub any: bool,
    /// Volumes that have grown and that guests have open.
    pub grown: Vec<VolumeId>,
    /// The names of others that stay what they were, and why: what was not known before.
    pub kept: Vec<(String, String)>,
}

impl Redescribed {
    /// Adds what another table has changed.
    pub fn add(&mut self, other: Self) {
        self.any |= other.any;
        self.grown.extend(other.grown);
        self.kept.extend(other.kept);
    }
}

impl<H: Copy + PartialEq + Display> Targets<H> {
    /// Whether any guest has the volume at this place.
    pub(super) fn is_claimed(&self, index: usize) -> bool {
        self.claims.iter().any(|claim| claim.volume == index)
    }

    /// The volume at this place is open, and described anew, or there is a reason why there is none any
    /// longer. It takes the new description if no block moves by that; or else it stays what it was, and
    /// no further guest is given it.
    pub(super) fn redescribe(
        &mut self,
        index: usize,
        new: Result<(Volume, Vec<Piece>), String>,
        may_grow: MayGrow<'_>,
        changed: &mut Redescribed,
    ) {
        let taken = new.and_then(|(new, pieces)| {
            let grows = self.entries[index].volume.growth(&new);
            let grows = grows.map_err(|error| error.to_string())?;
            if grows {
                self.check_free(index, &pieces)?;
                let mut claims = self.claims.iter().filter(|claim| claim.volume == index);
                let scattered = self.entries[index].volume.map.is_none() && new.map.is_some();
                // What they claim of it are blocks of its disk.
                if scattered && claims.any(|claim| claim.sectors) {
                    return Err("it would be in pieces, and is open with 512e:".to_string());
                }
                may_grow(VolumeId(index), &new).map_err(ToString::to_string)?;
            }
            Ok((new, pieces, grows))
        });
        let entry = &mut self.entries[index];
        let kept = match taken {
            Ok((new, pieces, grows)) => {
                (entry.volume, entry.pieces) = (new, pieces);
                if grows {
                    changed.grown.push(VolumeId(index));
                }
                None
            }
            Err(reason) => Some(reason),
        };
        if let Some(reason) = kept.as_ref().filter(|_| kept != entry.kept) {
            let name = entry.volume.name.clone();
            changed.kept.push((name, reason.clone()));
        }
        entry.kept = kept;
    }

    /// Whether those who have the volume at this place could have these pieces besides, as far as others
    /// have any of them.
    fn check_free(&self, index: usize, pieces: &[Piece]) -> Result<(), String> {
        let own = &self.entries[index];
        for claim in &self.claims {
            let other = &self.entries[claim.volume];
            let is_new = claim.volume != index
                && meet(&other.pieces, pieces)
                && !meet(&other.pieces, &own.pieces);
            // Who has a disk in common with others has agreed to what is on it.
            let whole = other.is_disk()
                || own.kind == TargetKind::Logical && other.kind != TargetKind::Logical;
            let agreed = claim.access == Access::SharedWrite && whole && other.kept.is_none();
            let mut owners = self.claims.iter().filter(|owner| owner.volume == index);
            if is_new && !agreed && owners.any(|owner| self.excludes(claim, owner.access)) {
                let (holder, name) = (claim.holder, &other.volume.name);
                return Err(alloc::format!(
                    "{holder} has a part of what it would get, as {name}"
                ));
            }
        }
        Ok(())
    }

    /// What is open and not what its table or metadata have by now: names and reasons.
    pub fn kept(&self) -> impl Iterator<Item = (&Volume, &str)> {
        let there = self
            .entries
            .iter()
            .filter(|entry| entry.kind != TargetKind::Closed);
        there.filter_map(|entry| Some((&entry.volume, entry.kept.as_deref()?)))
    }

    /// Whether a volume is described by its table as it is.
    #[must_use]
    pub fn is_current(&self, volume: &Volume) -> bool {
        !self.kept().any(|(kept, _)| kept.name == volume.name)
    }
}
