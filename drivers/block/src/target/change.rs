//! Disks that are taken out of the table, and others that come into it, while guests have some.
//!
//! What is taken out stays for those who have it, under no name: their claims refer to it, and are
//! released as any other. It meets no other volume from then on, since nothing of it is reached.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::mem;

use super::{FailedTarget, TargetEntry, TargetKind, Targets, VolumeId};
use crate::{Unit, Volume};

/// How many names of what was closed are remembered, the newest: there are as many as disks care to
/// come up with.
const MOST_CLOSED: usize = 128;

impl<H: Copy + PartialEq + Display> Targets<H> {
    /// Takes the disk that is `unit` of disk number `disk` out, with its partitions; from now on who
    /// asks for one of them, by whatever name, gets the reason. Gives those volumes and the names that
    /// they had, whose holders are to be closed. `reason` is for people.
    pub fn close(&mut self, disk: usize, unit: Unit, reason: &str) -> Vec<(VolumeId, String)> {
        let mut closed = Vec::new();
        for index in 0..self.entries.len() {
            if !self.entries[index].is_on(disk, unit) {
                continue;
            }
            let medium = self.fresh_medium();
            let entry = &mut self.entries[index];
            // It is no disk of its own any longer, and never a part of another one.
            (entry.kind, entry.medium, entry.volume.sectors) = (TargetKind::Closed, medium, 0);
            let name = mem::take(&mut entry.volume.name);
            let mut known = mem::take(&mut entry.volume.aliases);
            known.push(name.clone());
            for known in known {
                self.failed.retain(|failed| failed.name != known);
                self.failed.push(FailedTarget {
                    name: known,
                    reason: reason.to_string(),
                    closed: Some(name.clone()),
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
        let is_its = |name: &String| *name == disk.name || disk.aliases.contains(name);
        let follows = |failed: &FailedTarget| failed.closed.as_ref() == Some(&disk.name);
        self.failed
            .retain(|failed| !is_its(&failed.name) && !follows(failed));
        let medium = self.medium(&disk);
        let entry = TargetEntry::new(disk, TargetKind::Disk, medium);
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
        let mut all = names.chain(self.failed.iter().map(|failed| &failed.name));
        all.any(|other| super::belongs(other, name))
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec;

    use super::*;
    use crate::{Access, TargetError};

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
}
