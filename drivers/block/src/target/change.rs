//! Disks that are taken out of the table, and others that come into it, while guests have some.
//!
//! What is taken out stays for those who have it, under no name: their claims refer to it, and are
//! released as any other. It meets no other volume from then on, since nothing of it is reached.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::mem;

use super::piece::{Piece, meet};
use super::redescribe::{MayGrow, Redescribed};
use super::{FailedTarget, TargetEntry, TargetKind, Targets, VolumeId};
use crate::{Access, Unit, Volume};

/// How many names of what was closed are remembered, the newest: there are as many as disks care to
/// come up with.
const MOST_CLOSED: usize = 128;

impl<H: Copy + PartialEq + Display> Targets<H> {
    /// Takes the disk that is `unit` of disk number `disk` out, with its partitions and the logical volumes
    /// that have a part of it; from now on who
    /// asks for one of them, by whatever name, gets the reason. Gives those volumes and the names that
    /// they had, whose holders are to be closed. `reason` is for people.
    pub fn close(&mut self, disk: usize, unit: Unit, reason: &str) -> Vec<(VolumeId, String)> {
        let mut closed = Vec::new();
        for index in 0..self.entries.len() {
            if !self.entries[index].is_on(disk, unit) {
                continue;
            }
            let entry = &mut self.entries[index];
            // It is no disk of its own any longer, and never a part of another one.
            (entry.kind, entry.volume.sectors) = (TargetKind::Closed, 0);
            (entry.pieces, entry.kept) = (Vec::new(), None);
            let name = mem::take(&mut entry.volume.name);
            let mut known = mem::take(&mut entry.volume.aliases);
            known.push(name.clone());
            for known in known {
                self.failed.retain(|failed| failed.name != known);
                self.failed.push(FailedTarget {
                    name: known,
                    reason: reason.to_string(),
                    closed: Some(name.clone()),
                    logical: false,
                });
            }
            closed.push((VolumeId(index), name));
        }
        self.forget_oldest();
        closed
    }

    fn forget_oldest(&mut self) {
        let closed = self.failed.iter().filter(|failed| failed.closed.is_some());
        let mut surplus = closed.count().saturating_sub(MOST_CLOSED);
        self.failed.retain(|failed| {
            let keep = surplus == 0 || failed.closed.is_none();
            surplus -= usize::from(!keep);
            keep
        });
    }

    /// Takes in a disk that has come, without partitions. Nothing is said any longer of a disk that had
    /// one of its names before, by that or any other name of what it follows.
    pub fn add(&mut self, disk: Volume) {
        let medium = self.medium(&disk);
        self.put(TargetEntry::disk(disk, medium));
    }

    /// The partition table of the disk that is `unit` of disk number `disk` is about to be read, and the
    /// metadata on it. All that [`Targets::claim`] gives out from now on counts for what
    /// [`Targets::divide`] takes in; of what guests have by now, that which one has for writing alone.
    ///
    /// # Errors
    /// Why that is of no use: there is no such disk, or a guest may be writing the table, that is, has the
    /// whole disk for writing and has not agreed to share it.
    pub fn begin_table(&mut self, disk: usize, unit: Unit) -> Result<(), String> {
        let at = self.whole(disk, unit).ok_or("it has gone")?;
        let medium = self.entries[at].medium();
        let mut writers = self
            .claims
            .iter()
            .filter(|claim| claim.access == Access::Write);
        let all = writers.find(|claim| {
            let entry = &self.entries[claim.volume];
            entry.is_disk() && entry.medium() == medium
        });
        if let Some(claim) = all {
            let holder = claim.holder;
            return Err(format!("{holder} has all of it for writing"));
        }
        self.entries[at].stale = false;
        for index in 0..self.entries.len() {
            let written = self.claims.iter().any(|claim| {
                let of_part = self.entries[claim.volume].kind != TargetKind::Logical;
                of_part && claim.access == Access::Write && self.overlap(claim.volume, index)
            });
            let entry = &mut self.entries[index];
            if entry.kind == TargetKind::PartitionOf(at) {
                entry.written &= written;
            }
        }
        Ok(())
    }

    /// Takes in the partitions of the disk that is `unit` of disk number `disk`, in place of those that
    /// it had; `None` if it has gone. One that a guest has grows with its entry of the table if that moves
    /// no block of it, and stays as it is otherwise. If the disk was given out whole for writing since
    /// [`Targets::begin_table`], no further guest is given any of them.
    pub fn divide(
        &mut self,
        disk: usize,
        unit: Unit,
        partitions: Vec<Volume>,
        may_grow: MayGrow<'_>,
    ) -> Option<Redescribed> {
        let at = self.whole(disk, unit)?;
        let stale = self.entries[at].stale;
        let medium = self.entries[at].medium()?;
        let part = TargetKind::PartitionOf(at);
        let mut changed = Redescribed {
            any: !partitions.is_empty(),
            ..Redescribed::default()
        };
        // What was given out for writing since, in a table that may be the same.
        let parts = self.entries.iter().filter(|entry| entry.kind == part);
        let written = parts.filter(|entry| entry.written);
        let written: Vec<_> = written.flat_map(|entry| entry.pieces.clone()).collect();
        let mut kept = Vec::new();
        for index in 0..self.entries.len() {
            if self.entries[index].kind != part {
                continue;
            }
            changed.any = true;
            if !self.is_claimed(index) {
                self.entries[index].vacate();
                continue;
            }
            let name = self.entries[index].volume.name.clone();
            let new = partitions.iter().find(|new| new.name == name);
            let new = new.map(|new| (new.clone(), Vec::from([Piece::of(new, medium)])));
            let new = new.ok_or_else(|| "it was removed".to_string());
            self.redescribe(index, new, may_grow, &mut changed);
            self.entries[index].stale = stale;
            kept.push(name);
        }
        for partition in partitions {
            if kept.contains(&partition.name) {
                continue;
            }
            let mut entry = TargetEntry::partition(partition, at, medium);
            (entry.stale, entry.written) = (stale, meet(&entry.pieces, &written));
            self.put(entry);
        }
        Some(changed)
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        let is_part = |entry: &&TargetEntry| matches!(entry.kind, TargetKind::PartitionOf(_));
        self.entries.iter().filter(is_part).count()
    }

    /// How many of them are on this disk.
    #[must_use]
    pub fn partition_count_of(&self, disk: usize, unit: Unit) -> usize {
        let is_part = |entry: &&TargetEntry| matches!(entry.kind, TargetKind::PartitionOf(_));
        let parts = self.entries.iter().filter(is_part);
        parts.filter(|entry| entry.is_on(disk, unit)).count()
    }

    /// The place of a whole disk.
    pub(super) fn whole(&self, disk: usize, unit: Unit) -> Option<usize> {
        let mut entries = self.entries.iter();
        entries.position(|entry| entry.is_disk() && entry.is_on(disk, unit))
    }

    /// Puts a volume into the table.
    pub(super) fn put(&mut self, entry: TargetEntry) {
        let Volume { name, aliases, .. } = &entry.volume;
        let is_its = |other: &String| other == name || aliases.contains(other);
        let follows = |failed: &FailedTarget| failed.closed.as_ref() == Some(name);
        self.failed
            .retain(|failed| !is_its(&failed.name) && !follows(failed));
        let mut entries = self.entries.iter().enumerate();
        // One that has gone and that no guest has any longer leaves its place.
        match entries
            .position(|(index, entry)| entry.kind == TargetKind::Closed && !self.is_claimed(index))
        {
            Some(index) => self.entries[index] = entry,
            None => self.entries.push(entry),
        }
    }

    /// Whether a volume is named after the controller `name`, or one was that a guest may still ask
    /// for.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        let names = self.entries.iter().map(|entry| &entry.volume.name);
        let failed = self.failed.iter().map(|failed| &failed.name);
        let lost = self.lost.iter().map(|lost| &lost.name);
        let mut all = names.chain(failed).chain(lost);
        all.any(|other| super::belongs(other, name))
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec;

    use super::*;
    use crate::TargetError;

    fn volume(name: &str, disk: usize, unit: u32, start: u64) -> Volume {
        Volume {
            name: name.to_string(),
            aliases: vec![format!("nvme-{name}-alias")],
            disk,
            unit: Unit(unit),
            start,
            sectors: if start == 0 { 64 } else { 8 },
            block_shift: 9,
            physical_block_shift: 9,
            read_only: false,
            write_cache: false,
            discard: None,
            description: String::new(),
            map: None,
        }
    }

    fn targets() -> Targets<&'static str> {
        Targets::new([
            (
                volume("nvme0n1", 0, 1, 0),
                vec![volume("nvme0n1p1", 0, 1, 8)],
            ),
            (volume("nvme0n2", 0, 2, 0), Vec::new()),
        ])
    }

    #[test]
    fn a_disk_that_is_closed_is_refused_with_the_reason_and_others_are_not() {
        let mut targets = targets();
        targets.claim("nvme0n1p1", Access::Write, "1/1").unwrap();
        targets.claim("nvme0n2", Access::Write, "2/1").unwrap();
        let closed = targets.close(0, Unit(1), "it was formatted");
        let names: Vec<_> = closed.into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["nvme0n1", "nvme0n1p1"]);
        for target in [
            "nvme0n1",
            "/dev/nvme0n1p1",
            "nvme-nvme0n1p1-alias",
            "nvme0n1p7",
        ] {
            let error = targets.claim(target, Access::Read, "3/1").unwrap_err();
            assert!(error.to_string().ends_with("it was formatted"), "{error}");
        }
        let in_use = targets.claim("nvme0n2", Access::Read, "3/1");
        assert!(matches!(in_use, Err(TargetError::InUse { .. })));
        let unknown = targets.claim("", Access::Read, "3/1").unwrap_err();
        assert!(unknown.to_string().ends_with("have nvme0n2"), "{unknown}");
        let disks: Vec<_> = targets.disks().map(|disk| &disk.name).collect();
        assert_eq!(disks, ["nvme0n2"]);
    }

    #[test]
    fn what_comes_in_its_place_is_free_whoever_has_the_old_one() {
        let mut targets = targets();
        targets.claim("nvme0n1", Access::Write, "1/1").unwrap();
        targets
            .claim("nvme0n1", Access::SharedWrite, "2/1")
            .unwrap();
        targets.close(0, Unit(1), "it was formatted");
        let mut new = volume("nvme0n1", 0, 1, 0);
        new.block_shift = 12;
        targets.add(new);
        let old = targets.claims[0].volume;
        assert_ne!(targets.resize(0, Unit(1), 64), Some(VolumeId(old)));
        let got = targets.claim("nvme0n1", Access::Write, "3/1").unwrap();
        let got = targets.volume(got);
        assert_eq!((got.block_shift, got.sectors), (12, 64));
        // Nor has the end of the old one any effect on it.
        targets.release("1/1");
        let in_use = targets.claim("nvme0n1", Access::Read, "1/1").unwrap_err();
        assert!(in_use.to_string().contains("3/1"), "{in_use}");
    }

    #[test]
    fn disks_that_come_and_go_leave_nothing_behind() {
        let mut targets = targets();
        for _ in 0..100 {
            targets.close(0, Unit(2), "gone");
            targets.add(volume("nvme0n2", 0, 2, 0));
            targets.claim("nvme0n2", Access::Write, "1/1").unwrap();
        }
        assert!(targets.entries.len() <= 4);
        assert!(targets.failed.is_empty());
    }

    #[test]
    fn a_disk_that_always_has_other_names_leaves_few_behind() {
        let mut targets = targets();
        targets.note_failed("nvme7".to_string(), "dead".to_string());
        for round in 0..100 {
            targets.close(0, Unit(2), "gone");
            let mut new = volume("nvme0n2", 0, 2, 0);
            new.aliases = vec![format!("nvme-uuid.{round}")];
            targets.add(new);
        }
        assert_eq!(targets.failed.len(), 1, "what never worked");
        // Nor do disks that follow each other by names of their own.
        for round in 0..400 {
            targets.close(0, Unit(2), "gone");
            targets.add(volume(&format!("nvme{}n2", 10 + round), 0, 2, 0));
        }
        assert_eq!(targets.failed.len(), 1 + MOST_CLOSED);
        for (target, why) in [("nvme7n1", "dead"), ("nvme408n2", "gone")] {
            let error = targets.claim(target, Access::Read, "1/1").unwrap_err();
            assert!(error.to_string().ends_with(why), "{error}");
        }
    }

    #[test]
    fn another_disk_in_the_place_of_a_twin_is_not_that_of_the_twin() {
        let twin = |name: &str, disk| {
            let mut volume = volume(name, disk, 1, 0);
            volume.aliases = vec!["nvme-model_serial_1".to_string()];
            (volume, Vec::new())
        };
        let mut targets = Targets::new([twin("nvme0n1", 0), twin("nvme1n1", 1)]);
        targets.close(0, Unit(1), "another disk is in its place");
        targets.add(volume("nvme2n1", 0, 1, 0));
        targets.claim("nvme1n1", Access::Write, "1/1").unwrap();
        targets.claim("nvme2n1", Access::Write, "2/1").unwrap();
        // The first is back behind yet another controller, and is what it was.
        targets.add(twin("nvme3n1", 3).0);
        let in_use = targets.claim("nvme3n1", Access::Write, "3/1").unwrap_err();
        assert!(in_use.to_string().contains("1/1"), "{in_use}");
    }

    #[test]
    fn a_name_is_known_as_long_as_a_guest_may_ask_for_it() {
        let mut targets = targets();
        let known =
            |targets: &Targets<&str>| ["nvme0", "nvme1", "nvme2"].map(|name| targets.knows(name));
        assert_eq!(known(&targets), [true, false, false]);
        targets.close(0, Unit(1), "replaced");
        targets.close(0, Unit(2), "replaced");
        assert_eq!(known(&targets), [true, false, false], "the old names");
        targets.add(volume("nvme1n1", 0, 1, 0));
        targets.note_failed("nvme2".to_string(), "dead".to_string());
        assert_eq!(known(&targets), [true, true, true]);
        assert!(!targets.knows("vda"));
        targets.add(volume("vdab", 0, 1, 0));
        assert!(!targets.knows("vda"));
        targets.add(volume("vda", 0, 1, 0));
        assert!(targets.knows("vda"));
    }

    fn part(number: u64, start: u64) -> Volume {
        let mut part = volume(&format!("nvme0n2p{number}"), 0, 2, start);
        part.aliases.clear();
        part
    }

    #[test]
    fn a_disk_is_divided_anew_unless_a_guest_may_write_the_table() {
        let mut targets = targets();
        assert!(look(&mut targets, vec![part(1, 8), part(2, 16)]).any);
        assert_eq!(targets.partition_count(), 3);
        targets.claim("nvme0n2", Access::Read, "1/1").unwrap();
        assert_eq!(targets.begin_table(0, Unit(2)), Ok(()), "it may be read");
        look(&mut targets, vec![part(3, 8)]);
        assert_eq!(targets.partition_count(), 2);
        assert!(targets.named("nvme0n2p2").is_err());
        targets.claim("nvme0n2p3", Access::Read, "2/1").unwrap();
        // The other disk's are what they were.
        targets.claim("nvme0n1p1", Access::Write, "3/1").unwrap();
        assert!(targets.begin_table(0, Unit(7)).is_err());
        assert_eq!(targets.divide(0, Unit(7), Vec::new(), FREELY), None);
        targets.release("1/1");
        targets.release("2/1");
        targets.claim("nvme0n2", Access::Write, "1/1").unwrap();
        let refused = targets.begin_table(0, Unit(2)).unwrap_err();
        assert_eq!(refused, "1/1 has all of it for writing");
        // Who shares it may have changed it with the others' agreement.
        targets
            .claim("nvme0n2", Access::SharedWrite, "1/1")
            .unwrap();
        assert_eq!(targets.begin_table(0, Unit(2)), Ok(()));
        look(&mut targets, vec![part(3, 8), part(4, 16)]);
        let new = targets.claim("nvme0n2p4", Access::SharedWrite, "2/1");
        new.unwrap();
    }

    /// Those who have a volume are served whatever it becomes.
    const FREELY: MayGrow<'static> = &|_, _| Ok(());

    /// Reads the table of the second disk.
    fn look(targets: &mut Targets<&'static str>, partitions: Vec<Volume>) -> Redescribed {
        targets.begin_table(0, Unit(2)).unwrap();
        targets.divide(0, Unit(2), partitions, FREELY).unwrap()
    }

    #[test]
    fn a_partition_that_a_guest_has_grows_or_stays_what_it_was() {
        let sized = |number, start, sectors| Volume {
            sectors,
            ..part(number, start)
        };
        let mut targets = targets();
        look(&mut targets, vec![part(1, 8), part(2, 24)]);
        let id = targets.claim("nvme0n2p1", Access::Write, "1/1").unwrap();
        let changed = look(&mut targets, vec![sized(1, 8, 16), part(3, 40)]);
        assert_eq!((changed.grown, changed.kept), (vec![id], vec![]));
        assert_eq!(targets.volume(id).sectors, 16);
        assert!(targets.named("nvme0n2p2").is_err());
        // It may be had by others that way, and more of it is no others'.
        targets.claim("nvme0n2p3", Access::Write, "2/1").unwrap();
        let same = look(&mut targets, vec![sized(1, 8, 16), part(3, 40)]);
        assert_eq!((same.grown, same.kept), (vec![], vec![]));
        for (other, why) in [
            (vec![], "it was removed"),
            (vec![sized(1, 9, 16)], "it would lie elsewhere"),
            (vec![sized(1, 8, 8)], "it would be smaller"),
            (
                vec![sized(1, 8, 34), part(3, 40)],
                "2/1 has a part of what it would get, as nvme0n2p3",
            ),
        ] {
            let changed = look(&mut targets, other.clone());
            let kept = changed.kept.iter().find(|(name, _)| name == "nvme0n2p1");
            assert_eq!(kept.unwrap().1, why);
            assert_eq!(changed.grown, []);
            let volume = targets.volume(id);
            assert_eq!((volume.start, volume.sectors), (8, 16), "{why}");
            assert!(!targets.is_current(volume));
            // Not even who shares gets it, nor what lies there by now.
            let error = targets.claim("nvme0n2p1", Access::SharedWrite, "3/1");
            let error = error.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            // It is named once, and again if it is so again after a time.
            assert!(
                !look(&mut targets, other)
                    .kept
                    .iter()
                    .any(|it| it.0 == "nvme0n2p1")
            );
            let changed = look(&mut targets, vec![sized(1, 8, 16), part(3, 40)]);
            assert_eq!(changed.kept, []);
        }
        let taken = look(&mut targets, vec![part(2, 12), part(3, 40)]);
        assert_eq!(taken.kept.len(), 1);
        let in_use = targets.claim("nvme0n2p2", Access::SharedWrite, "3/1");
        assert!(
            matches!(in_use, Err(TargetError::InUse { .. })),
            "{in_use:?}"
        );
        targets.release("1/1");
        look(&mut targets, vec![part(2, 12), part(3, 40)]);
        targets.claim("nvme0n2p2", Access::Write, "3/1").unwrap();
        // Who serves it may refuse.
        let refusing: MayGrow<'_> = &|_, _| Err("a reason");
        let changed = targets.divide(0, Unit(2), vec![sized(2, 12, 9), part(3, 40)], refusing);
        assert_eq!(changed.unwrap().kept[0].1, "a reason");
    }

    #[test]
    fn a_table_that_may_have_been_written_while_it_was_read_divides_into_nothing_of_use() {
        let stale = |targets: &mut Targets<&'static str>| {
            let claimed = targets.claim("nvme0n2p1", Access::Read, "2/1");
            matches!(claimed, Err(TargetError::Stale { .. }))
        };
        let mut targets = targets();
        targets.begin_table(0, Unit(2)).unwrap();
        targets.claim("nvme0n2", Access::Write, "1/1").unwrap();
        targets.release("1/1");
        let divided = targets.divide(0, Unit(2), vec![part(1, 8)], FREELY);
        assert!(divided.unwrap().any);
        assert!(stale(&mut targets));
        look(&mut targets, vec![part(1, 8)]);
        assert!(!stale(&mut targets));
    }

    #[test]
    fn partitions_that_come_and_go_leave_nothing_behind() {
        let mut targets = targets();
        for _ in 0..100 {
            look(&mut targets, vec![part(1, 8), part(2, 16)]);
            targets.close(0, Unit(2), "gone");
            targets.add(volume("nvme0n2", 0, 2, 0));
            look(&mut targets, vec![part(1, 8), part(2, 16)]);
            assert!(targets.failed.is_empty());
        }
        assert!(targets.entries.len() <= 8, "{}", targets.entries.len());
    }
}
