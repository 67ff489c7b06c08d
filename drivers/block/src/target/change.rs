//! Disks that are taken out of the table, and others that come into it, while guests have some.
//!
//! What is taken out stays for those who have it, under no name: their claims refer to it, and are
//! released as any other. It meets no other volume from then on, since nothing of it is reached.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::mem;

use super::piece::meet;
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
            entry.pieces = Vec::new();
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

    /// The partition table of the disk that is `unit` of disk number `disk` is about to be read; false if
    /// that is of no use: a guest has one of its partitions or a logical volume on it, or may be writing the
    /// table. All that
    /// [`Targets::claim`] gives out from now on counts for what [`Targets::divide`] takes in.
    pub fn begin_table(&mut self, disk: usize, unit: Unit) -> bool {
        let Some(at) = self.whole(disk, unit) else {
            return false;
        };
        let Some(medium) = self.entries[at].medium() else {
            return false;
        };
        let part = TargetKind::PartitionOf(at);
        let mut claims = self.claims.iter().map(|claim| {
            let entry = &self.entries[claim.volume];
            (entry, claim.access)
        });
        let in_use = claims.any(|(entry, access)| {
            let writes = entry.is_disk() && access != Access::Read;
            let matters = writes || entry.kind == TargetKind::Logical;
            entry.is_on_medium(medium) && matters || entry.kind == part
        });
        if !in_use {
            self.entries[at].stale = false;
            let parts = self.entries.iter_mut().filter(|entry| entry.kind == part);
            parts.for_each(|entry| entry.written = false);
        }
        !in_use
    }

    /// Takes in the partitions of the disk that is `unit` of disk number `disk`, in place of those that
    /// it had; false if it has gone or if a guest has one of those. If the disk was given out whole for
    /// writing since [`Targets::begin_table`], they are refused.
    pub fn divide(&mut self, disk: usize, unit: Unit, partitions: Vec<Volume>) -> bool {
        let Some(at) = self.whole(disk, unit) else {
            return false;
        };
        let stale = self.entries[at].stale;
        let Some(medium) = self.entries[at].medium() else {
            return false;
        };
        let part = TargetKind::PartitionOf(at);
        let mut claims = self.claims.iter().map(|claim| &self.entries[claim.volume]);
        let is_on_it = |entry: &TargetEntry| {
            entry.kind == part || entry.kind == TargetKind::Logical && entry.is_on_medium(medium)
        };
        if claims.any(is_on_it) {
            return false;
        }
        // What was given out for writing since, in a table that may be the same.
        let parts = self.entries.iter().filter(|entry| entry.kind == part);
        let written = parts.filter(|entry| entry.written);
        let written: Vec<_> = written.flat_map(|entry| entry.pieces.clone()).collect();
        for entry in self.entries.iter_mut().filter(|entry| entry.kind == part) {
            // Its place is free for another one.
            entry.kind = TargetKind::Closed;
            (entry.volume.name, entry.volume.aliases) = Default::default();
            entry.pieces = Vec::new();
        }
        for partition in partitions {
            let mut entry = TargetEntry::partition(partition, at, medium);
            (entry.stale, entry.written) = (stale, meet(&entry.pieces, &written));
            self.put(entry);
        }
        true
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
        let claimed = |index: usize| self.claims.iter().any(|claim| claim.volume == index);
        let mut entries = self.entries.iter().enumerate();
        // One that has gone and that no guest has any longer leaves its place.
        match entries.position(|(index, entry)| entry.kind == TargetKind::Closed && !claimed(index))
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
    fn a_disk_is_divided_anew_unless_a_guest_has_a_partition_or_may_write_the_table() {
        let mut targets = targets();
        assert!(targets.begin_table(0, Unit(2)));
        assert!(targets.divide(0, Unit(2), vec![part(1, 8), part(2, 16)]));
        assert_eq!(targets.partition_count(), 3);
        let claimed = targets.claim("nvme0n2p2", Access::Write, "1/1").unwrap();
        assert!(!targets.begin_table(0, Unit(2)));
        assert!(!targets.divide(0, Unit(2), vec![part(3, 8)]));
        assert_eq!(targets.volume(claimed).name, "nvme0n2p2");
        targets.release("1/1");
        targets.claim("nvme0n2", Access::Read, "1/1").unwrap();
        assert!(targets.begin_table(0, Unit(2)), "it may be read meanwhile");
        assert!(targets.divide(0, Unit(2), vec![part(3, 8)]));
        assert_eq!(targets.partition_count(), 2);
        assert!(targets.named("nvme0n2p2").is_err());
        targets.claim("nvme0n2p3", Access::Read, "2/1").unwrap();
        // The other disk's are what they were.
        targets.claim("nvme0n1p1", Access::Write, "3/1").unwrap();
        assert!(!targets.begin_table(0, Unit(7)) && !targets.divide(0, Unit(7), Vec::new()));
        targets.release("1/1");
        targets.release("2/1");
        targets.claim("nvme0n2", Access::Write, "1/1").unwrap();
        assert!(!targets.begin_table(0, Unit(2)));
    }

    #[test]
    fn a_table_that_may_have_been_written_while_it_was_read_divides_into_nothing_of_use() {
        let stale = |targets: &mut Targets<&'static str>| {
            let claimed = targets.claim("nvme0n2p1", Access::Read, "2/1");
            matches!(claimed, Err(TargetError::Stale { .. }))
        };
        let mut targets = targets();
        assert!(targets.begin_table(0, Unit(2)));
        targets.claim("nvme0n2", Access::Write, "1/1").unwrap();
        targets.release("1/1");
        assert!(targets.divide(0, Unit(2), vec![part(1, 8)]));
        assert!(stale(&mut targets));
        assert!(targets.begin_table(0, Unit(2)));
        assert!(targets.divide(0, Unit(2), vec![part(1, 8)]));
        assert!(!stale(&mut targets));
    }

    #[test]
    fn partitions_that_come_and_go_leave_nothing_behind() {
        let mut targets = targets();
        for _ in 0..100 {
            assert!(targets.begin_table(0, Unit(2)));
            assert!(targets.divide(0, Unit(2), vec![part(1, 8), part(2, 16)]));
            targets.close(0, Unit(2), "gone");
            targets.add(volume("nvme0n2", 0, 2, 0));
            assert!(targets.divide(0, Unit(2), vec![part(1, 8), part(2, 16)]));
            assert!(targets.failed.is_empty());
        }
        assert!(targets.entries.len() <= 8, "{}", targets.entries.len());
    }
}
