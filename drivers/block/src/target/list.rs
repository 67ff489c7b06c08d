//! What there is and who has it, in text for people and tools in dom0.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use spindle_status::targets::{HolderWord, TargetLine, TargetMode};
use spindle_status::words::as_word;

use super::piece::meet;
use super::{TargetClaim, TargetEntry, TargetKind, Targets, VolumeId};
use crate::{Access, Volume};

/// Bytes of a page: xenstored's default quota for a node is 2048, names and permissions included.
const MAX_BYTES: usize = 1792;
/// Of these, what is kept for the line that says how many volumes are left out.
const NOTE: usize = 32;
/// The most pages of a disk, as the domain has no more than so many nodes.
const MAX_PAGES: usize = 32;
/// As long as there are no more of them volumes have their other names.
const ALIAS_PAGES: usize = 8;

impl<H: Copy + PartialEq + Display> Targets<H> {
    /// For each whole disk, its number, its name, and pages with a line for it, for each of its partitions, and
    /// for each logical volume that begins on it: name,
    /// sectors of 512 bytes, block size, its [`Targets::mode`], who has it (`-`, or `5/51712:w` and so
    /// on with commas between), then its aliases. Bytes that would break a line or a word are written
    /// `\xNN`. A page fits into a xenstore node. What would be too many pages loses aliases first, then volumes.
    pub fn lists(&self) -> impl Iterator<Item = (VolumeId, &str, Vec<String>)> {
        let disks = self.entries.iter().enumerate();
        let disks = disks.filter(|(_, entry)| entry.is_disk());
        disks.map(|(index, entry)| (VolumeId(index), &*entry.volume.name, self.list(index)))
    }

    /// Who has the volume of this name open.
    #[must_use]
    pub fn holder(&self, name: &str) -> Option<H> {
        let has = |claim: &&TargetClaim<H>| self.entries[claim.volume].volume.name == name;
        self.claims.iter().find(has).map(|claim| claim.holder)
    }

    /// Who has a disk or a partition for writing alone that this volume has blocks of.
    #[must_use]
    pub fn writer(&self, volume: &Volume) -> Option<H> {
        let mut entries = self.entries.iter();
        let own = entries.find(|entry| entry.volume.name == volume.name)?;
        let mut claims = self.claims.iter();
        let writer = claims.find(|claim| {
            let entry = &self.entries[claim.volume];
            claim.access == Access::Write
                && entry.kind != TargetKind::Logical
                && meet(&entry.pieces, &own.pieces)
        });
        writer.map(|claim| claim.holder)
    }

    /// What can be done with a volume.
    #[must_use]
    pub fn mode(&self, volume: &Volume) -> TargetMode {
        match volume.read_only {
            _ if self.is_lost(volume) => TargetMode::Lost,
            true => TargetMode::Read,
            false => TargetMode::Write,
        }
    }

    fn list(&self, disk: usize) -> Vec<String> {
        let whole = &self.entries[disk].volume;
        let is_part = |entry: &TargetEntry| entry.kind == TargetKind::PartitionOf(disk);
        let begins_there = |entry: &TargetEntry| {
            let begin = (entry.volume.disk, entry.volume.unit);
            entry.kind == TargetKind::Logical && begin == (whole.disk, whole.unit)
        };
        let all = |is_it: &dyn Fn(&TargetEntry) -> bool| -> Vec<usize> {
            let entries = (0..).zip(&self.entries);
            let of_it = entries.filter(|(_, entry)| is_it(entry));
            of_it.map(|(index, _)| index).collect()
        };
        let family = [Vec::from([disk]), all(&is_part), all(&begins_there)].concat();
        let (full, left) = self.pages(&family, true, ALIAS_PAGES);
        if left == 0 {
            return full;
        }
        let (mut pages, left) = self.pages(&family, false, MAX_PAGES);
        if left > 0
            && let Some(last) = pages.last_mut()
        {
            *last += &format!("\n... {left} volumes more");
        }
        pages
    }

    /// The lines of these on so many pages, and for how many there is no room.
    fn pages(&self, family: &[usize], aliases: bool, most: usize) -> (Vec<String>, usize) {
        let mut pages: Vec<String> = Vec::new();
        for (shown, &index) in family.iter().enumerate() {
            let mut line = self.line(index, aliases);
            if line.len() > MAX_BYTES - NOTE {
                line = self.line(index, false);
            }
            let full = pages.len() == most;
            match pages.last_mut() {
                Some(page) if page.len() + 1 + line.len() <= MAX_BYTES - NOTE => {
                    page.push('\n');
                    *page += &line;
                }
                _ if full => return (pages, family.len() - shown),
                _ => pages.push(line),
            }
        }
        (pages, 0)
    }

    fn line(&self, index: usize, aliases: bool) -> String {
        let volume = &self.entries[index].volume;
        let claims = self.claims.iter().filter(|claim| claim.volume == index);
        let holders: Vec<String> = claims
            .map(|claim| {
                let how = match claim.access {
                    Access::Read => HolderWord::READ,
                    Access::Write => HolderWord::WRITE,
                    Access::SharedWrite => HolderWord::SHARED_WRITE,
                };
                format!("{}:{how}", claim.holder)
            })
            .collect();
        let holders = match holders[..] {
            [] => HolderWord::NONE.to_string(),
            _ => holders.join(","),
        };
        let mut rest = holders;
        for alias in volume.aliases.iter().filter(|_| aliases) {
            rest.push(' ');
            rest += &as_word(alias);
        }
        let line = TargetLine {
            name: &volume.name,
            sectors: volume.sectors,
            block: 1 << volume.block_shift,
            mode: self.mode(volume),
            rest: &rest,
        };
        line.to_string()
    }
}
