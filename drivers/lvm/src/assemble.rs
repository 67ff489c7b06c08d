//! Putting together what was found on all disks: the newest generation of each group, and where its
//! physical volumes are.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::{FoundPv, Group, LvmUuid, Reason};

const ABSENT: Reason = "a physical volume under it is not there";
const TWICE: Reason = "a physical volume under it is there twice";
const SMALL: Reason = "a physical volume under it is smaller than its metadata has it";
const META: Reason = "a physical volume under it has data where its metadata is";
const CLAIMED: Reason = "a physical volume under it is also in another group";
const NAMESAKE: Reason = "two groups have the name of its group";
const TORN: Reason = "it has two versions of its metadata with one number";
const STRANGER: Reason = "its newest metadata is only on disks that the older one does not know";

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
pub fn assemble(found: &[&FoundPv]) -> Vec<Assembled> {
    let mut groups: Vec<(&Arc<Group>, Option<Reason>)> = Vec::new();
    for group in found.iter().filter_map(|pv| pv.group.as_ref()) {
        match groups
            .iter_mut()
            .find(|(other, _)| other.uuid == group.uuid)
        {
            None => groups.push((group, None)),
            Some(other) if other.0.seqno < group.seqno => *other = (group, None),
            Some((other, torn)) if other.seqno == group.seqno && *other != group => {
                *torn = Some(TORN);
            }
            Some(_) => {}
        }
    }
    let mut assembled: Vec<Assembled> = Vec::with_capacity(groups.len());
    for (group, torn) in &groups {
        let stranger = is_strange(group, found).then_some(STRANGER);
        let others = groups.iter().filter(|(other, _)| other.uuid != group.uuid);
        let namesake = others.clone().any(|(other, _)| other.name == group.name);
        let namesake = namesake.then_some(NAMESAKE);
        let mut group = Group::clone(group);
        group.refused = namesake.or(*torn).or(stranger).or(group.refused);
        for pv in &mut group.physical {
            let mut others = others.clone();
            if others.any(|(other, _)| has(other, &pv.uuid)) {
                pv.refused = Some(CLAIMED);
            }
        }
        assembled.push(place(group, found));
    }
    assembled
}

fn has(group: &Group, uuid: &LvmUuid) -> bool {
    group.physical.iter().any(|pv| pv.uuid == *uuid)
}

/// Whether a physical volume of the group has older metadata, in which none is a member that has this.
/// Whoever once had a disk of a group and is given it, or knows the identifiers, could otherwise say
/// what is where on the group's other disks.
fn is_strange(group: &Group, found: &[&FoundPv]) -> bool {
    let own = |pv: &&&FoundPv| pv.group.as_ref().is_some_and(|it| it.uuid == group.uuid);
    found.iter().filter(own).any(|pv| {
        let Some(older) = pv.group.as_ref().filter(|it| it.seqno < group.seqno) else {
            return false;
        };
        let mut holders = found.iter().filter(own).filter(|holder| {
            let held = holder.group.as_ref();
            held.is_some_and(|it| it.seqno == group.seqno)
        });
        has(group, &pv.uuid) && !holders.any(|holder| has(older, &holder.uuid))
    })
}

/// Finds the physical volumes of a group, and refuses what lies on those that cannot be used.
fn place(mut group: Group, found: &[&FoundPv]) -> Assembled {
    let mut places = Vec::with_capacity(group.physical.len());
    for pv in &mut group.physical {
        let mut same = (0..).zip(found).filter(|(_, it)| it.uuid == pv.uuid);
        let (one, another) = (same.next(), same.next());
        let end = pv.start + pv.extents * group.extent_size;
        let reason = match one {
            None => Some(ABSENT),
            Some(_) if another.is_some() => Some(TWICE),
            Some((_, it)) if it.refused.is_some() => it.refused,
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
