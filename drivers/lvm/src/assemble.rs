//! Putting together what was found on all disks: the newest generation of each group, and where its
//! physical volumes are.

use alloc::vec::Vec;

use crate::{FoundPv, Group, Reason};

const ABSENT: Reason = "a physical volume under it is not there";
const TWICE: Reason = "a physical volume under it is there twice";
const SMALL: Reason = "a physical volume under it is smaller than its metadata has it";
const META: Reason = "a physical volume under it has data where its metadata is";
const CLAIMED: Reason = "a physical volume under it is also in another group";
const NAMESAKE: Reason = "two groups have the name of its group";
const TORN: Reason = "it has two versions of its metadata with one number";

/// A group and its disks.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// Its newest metadata. Volumes that cannot be served have the reason.
    pub group: Group,
    /// For each of its physical volumes, which of those found it is; `None` where volumes on it are
    /// refused.
    pub places: Vec<Option<usize>>,
}

/// The groups of some physical volumes that were found.
#[must_use]
pub fn assemble(found: &[FoundPv]) -> Vec<Assembled> {
    let mut groups: Vec<Group> = Vec::new();
    for group in found.iter().filter_map(|pv| pv.group.as_ref()) {
        match groups.iter_mut().find(|other| other.uuid == group.uuid) {
            None => groups.push(group.clone()),
            Some(other) if other.seqno < group.seqno => *other = group.clone(),
            Some(other) if other.seqno == group.seqno && other.checksum != group.checksum => {
                other.refused = Some(TORN);
            }
            Some(_) => {}
        }
    }
    let other_than = |group: &Group| {
        let uuid = group.uuid;
        groups.iter().filter(move |other| other.uuid != uuid)
    };
    let mut assembled: Vec<Assembled> = Vec::new();
    for group in &groups {
        let mut group = group.clone();
        if other_than(&group).any(|other| other.name == group.name) {
            group.refused = Some(NAMESAKE);
        }
        for pv in &mut group.physical {
            let mut others = groups.iter().filter(|other| other.uuid != group.uuid);
            let elsewhere = others.any(|other| other.physical.iter().any(|it| it.uuid == pv.uuid));
            if elsewhere {
                pv.refused = Some(CLAIMED);
            }
        }
        assembled.push(place(group, found));
    }
    assembled
}

/// Finds the physical volumes of a group, and refuses what lies on those that cannot be used.
fn place(mut group: Group, found: &[FoundPv]) -> Assembled {
    let mut places = Vec::with_capacity(group.physical.len());
    for pv in &mut group.physical {
        let mut same = (0..).zip(found).filter(|(_, it)| it.uuid == pv.uuid);
        let (one, another) = (same.next(), same.next());
        let end = pv.start + pv.extents * group.extent_size;
        let reason = match one {
            None => Some(ABSENT),
            Some(_) if another.is_some() => Some(TWICE),
            Some((_, it)) if it.sectors < end => Some(SMALL),
            Some((_, it)) => {
                let mut reserved = it.reserved.iter();
                let meets = reserved.any(|own| own.start < end && pv.start < own.end);
                (meets && pv.extents > 0).then_some(META)
            }
        };
        pv.refused = pv.refused.or(reason);
        let usable = one.filter(|_| pv.refused.is_none());
        places.push(usable.map(|(index, _)| index));
    }
    for volume in &mut group.logical {
        let mut areas = volume.segments.iter().flat_map(|segment| &segment.areas);
        let reason = group.refused;
        let reason = reason.or_else(|| areas.find_map(|area| group.physical[area.pv].refused));
        if let Some(reason) = reason {
            volume.refuse(reason);
        }
    }
    Assembled { group, places }
}
