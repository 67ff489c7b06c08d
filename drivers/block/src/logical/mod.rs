//! LVM2: from physical volumes on disks and partitions to logical volumes as [`Volume`]s.
//!
//! A guest that has a disk or a partition to itself may write labels and metadata there, as it may write
//! a partition table. So only whole disks without a table and partitions are looked at, never what is
//! inside another volume, and what is found there is believed no further than `spindle_lvm` goes. What
//! is kept of it is bounded.

mod edit;
mod look;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Display;

use spindle_lvm::{Assembled, FoundPv, Group, LogicalVolume, assemble};

use crate::{Run, Stretch, Targets, Unit, Volume};
pub use edit::{EditAccess, EditStep, VolumeEditor};
pub(crate) use look::physical_volume;

/// Volumes and areas of all groups that are kept, at most: each takes about 100 bytes.
const MOST_KEPT: usize = 4096;
/// Logical volumes that are served, and as many that are refused by name.
const MOST_NAMED: usize = 512;

/// A physical volume, and what it is on.
#[derive(Clone, Debug)]
pub struct LocatedPv {
    /// The name of the disk or partition.
    pub volume: String,
    /// What was found there.
    pub found: FoundPv,
}

/// The logical volumes of all disks.
#[derive(Debug, Default)]
pub struct LogicalVolumes {
    /// Those that can be served, whose groups have different names.
    pub volumes: Vec<Volume>,
    /// The names of others, and why they are refused.
    pub refused: Vec<(String, String)>,
    /// How many have not even been named.
    pub surplus: usize,
}

/// The physical volumes of all disks.
#[derive(Debug, Default)]
pub struct PhysicalVolumes(Vec<(usize, Unit, LocatedPv)>);

/// Bounds what is kept: the metadata of `new` is shared with the one of `kept` that has the same, or else
/// forgotten where there is no room.
pub(crate) fn bound<'a>(kept: impl Iterator<Item = &'a FoundPv>, new: &mut FoundPv) {
    let Some(group) = &new.group else {
        return;
    };
    let mut known: Vec<&Arc<Group>> = Vec::new();
    for other in kept.filter_map(|pv| pv.group.as_ref()) {
        if other == group {
            new.group = Some(Arc::clone(other));
            return;
        }
        if !known.iter().any(|it| Arc::ptr_eq(it, other)) {
            known.push(other);
        }
    }
    let all = known.into_iter().chain([group]);
    if all.map(weight).sum::<usize>() > MOST_KEPT {
        new.group = None;
        new.refused = Some("there is no room for the metadata of a physical volume under it");
    }
}

/// What a group takes: how many things of about 100 bytes.
fn weight(group: &Arc<Group>) -> usize {
    let segments = group.logical.iter().flat_map(|volume| &volume.segments);
    let areas: usize = segments.map(|segment| segment.areas.len()).sum();
    group.physical.len() + group.logical.len() + areas
}

impl PhysicalVolumes {
    /// Takes in what was found on `unit` of the disk with number `disk`, in place of what was found there
    /// before.
    pub fn set(&mut self, disk: usize, unit: Unit, found: Vec<LocatedPv>) {
        self.0.retain(|it| (it.0, it.1) != (disk, unit));
        for mut pv in found {
            bound(self.0.iter().map(|it| &it.2.found), &mut pv.found);
            self.0.push((disk, unit, pv));
        }
    }

    /// The logical volumes on disks and partitions that are among `targets`. Of disks that are one, the
    /// first counts. `None` if there is no memory for them.
    #[must_use]
    pub fn logical<H: Copy + PartialEq + Display>(
        &self,
        targets: &Targets<H>,
    ) -> Option<LogicalVolumes> {
        let (groups, places) = self.groups(targets, false)?;
        let mut all = LogicalVolumes::default();
        for assembled in groups {
            all.add(&assembled, &places);
        }
        Some(all)
    }

    /// The groups on disks and partitions that are among `targets`, and the volumes that
    /// [`Assembled::places`] counts. `None` if there is no memory for them. What a guest has for writing
    /// alone counts only if that is `written`: it could have the name or the identifiers of any group.
    fn groups<'t, H: Copy + PartialEq + Display>(
        &self,
        targets: &'t Targets<H>,
        written: bool,
    ) -> Option<(Vec<Assembled>, Vec<&'t Volume>)> {
        // A copy of what is kept, the maps, and the volumes themselves.
        let groups = self.0.iter().filter_map(|it| it.2.found.group.as_ref());
        let kept = groups.map(weight).sum::<usize>().min(MOST_KEPT);
        if !spindle_lvm::has_room(kept * 256 + kept.min(MOST_NAMED) * 1024) {
            return None;
        }
        let located = self.0.iter().filter_map(|(disk, unit, pv)| {
            let mut disks = targets.disks();
            let disk = disks.find(|it| (it.disk, it.unit) == (*disk, *unit))?;
            // A partition that is not where it was read is not where its guest has it.
            let mut volumes = targets
                .volumes()
                .filter(|volume| targets.is_current(volume));
            let volume = volumes.find(|volume| volume.name == pv.volume)?;
            let counts = written || targets.writer(volume).is_none();
            (counts && targets.same_as(disk).is_none()).then_some((&pv.found, volume))
        });
        let (found, places): (Vec<&FoundPv>, Vec<&Volume>) = located.unzip();
        Some((assemble(&found), places))
    }
}

impl LogicalVolumes {
    /// Adds those of a group; `places` are the volumes that [`Assembled::places`] counts.
    fn add(&mut self, assembled: &Assembled, places: &[&Volume]) {
        let group = &assembled.group;
        let under = assembled.places.iter().flatten();
        let under: Vec<Volume> = under.map(|place| places[*place].clone()).collect();
        for logical in group.logical.iter().filter(|logical| !logical.hidden) {
            let name = format!("{}/{}", group.name, logical.name);
            let volume = match logical.refused {
                Some(reason) => Err(reason.to_string()),
                None => build(&name, logical, assembled, &under),
            };
            match volume {
                Ok(volume) if self.volumes.len() < MOST_NAMED => self.volumes.push(volume),
                _ if self.refused.len() == MOST_NAMED => self.surplus += 1,
                Ok(_) => {
                    let reason = format!("only {MOST_NAMED} logical volumes are served");
                    self.refused.push((name, reason));
                }
                Err(reason) => self.refused.push((name, reason)),
            }
        }
    }
}

/// The logical volume on `under`, the group's physical volumes that have a place.
fn build(
    name: &str,
    logical: &LogicalVolume,
    assembled: &Assembled,
    under: &[Volume],
) -> Result<Volume, String> {
    let number = |pv: usize| {
        let before = assembled.places[..pv].iter().flatten();
        before.count()
    };
    let stretches = logical.segments.iter().map(|segment| Stretch {
        sectors: segment.sectors,
        chunk: segment.stripe,
        runs: segment
            .areas
            .iter()
            .map(|area| Run {
                volume: number(area.pv),
                sector: area.first,
            })
            .collect(),
    });
    let stretches: Vec<Stretch> = stretches.collect();
    let built = Volume::assembled(name.to_string(), &stretches, under);
    let mut volume = built.map_err(|error| error.to_string())?;
    volume.read_only |= logical.read_only;
    volume.aliases.push(format!("LVUUID={}", logical.uuid));
    volume.description = format!("logical volume of {}", assembled.group.name);
    Ok(volume)
}
