//! What there is and who has it, in text for people and tools in dom0.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use super::{TargetKind, Targets, VolumeId};
use crate::{Access, Volume};

/// Bytes of a text: xenstored's default quota for a node is 2048, names and permissions included.
const MAX_BYTES: usize = 1792;

impl<H: Copy + PartialEq + Display> Targets<H> {
    /// For each whole disk, its number, its name, and a line for it and for each of its partitions: name,
    /// sectors of 512 bytes, block size, its [`Targets::mode`], who has it (`-`, or `5/51712:w` and so
    /// on with commas between), then its aliases. Bytes that would break a line or a word are written
    /// `\xNN`. What is too long for a xenstore node loses aliases first, then partitions.
    pub fn lists(&self) -> impl Iterator<Item = (VolumeId, &str, String)> {
        let disks = self.entries.iter().enumerate();
        let disks = disks.filter(|(_, entry)| entry.is_disk());
        disks.map(|(index, entry)| (VolumeId(index), &*entry.volume.name, self.list(index)))
    }

    /// What can be done with a volume: `r` or `w`, or `-` as long as its controller is lost.
    #[must_use]
    pub fn mode(&self, volume: &Volume) -> char {
        match volume.read_only {
            _ if self.lost(volume.disk).is_some() => '-',
            true => 'r',
            false => 'w',
        }
    }

    fn list(&self, disk: usize) -> String {
        let is_part = |index: usize| self.entries[index].kind == TargetKind::PartitionOf(disk);
        let belongs = |index: &usize| *index == disk || is_part(*index);
        let family: Vec<usize> = (0..self.entries.len()).filter(belongs).collect();
        let full: Vec<String> = family.iter().map(|&i| self.line(i, true)).collect();
        if full.iter().map(|line| line.len() + 1).sum::<usize>() <= MAX_BYTES {
            return full.join("\n");
        }
        let mut text = self.line(disk, false);
        for (shown, &index) in family.iter().enumerate().skip(1) {
            let line = self.line(index, false);
            if text.len() + line.len() + 32 > MAX_BYTES {
                let left = family.len() - shown;
                return format!("{text}\n... {left} partitions more");
            }
            text = format!("{text}\n{line}");
        }
        text
    }

    fn line(&self, index: usize, aliases: bool) -> String {
        let volume = &self.entries[index].volume;
        let Volume { name, sectors, .. } = volume;
        let mode = self.mode(volume);
        let claims = self.claims.iter().filter(|claim| claim.volume == index);
        let holders: Vec<String> = claims
            .map(|claim| {
                let how = match claim.access {
                    Access::Read => "r",
                    Access::Write => "w",
                    Access::SharedWrite => "w!",
                };
                format!("{}:{how}", claim.holder)
            })
            .collect();
        let holders = match holders[..] {
            [] => "-".to_string(),
            _ => holders.join(","),
        };
        let mut line = format!(
            "{name} {sectors} {} {mode} {holders}",
            1 << volume.block_shift
        );
        for alias in volume.aliases.iter().filter(|_| aliases) {
            line.push(' ');
            line += &word(alias);
        }
        line
    }
}

/// A name that may come from a disk, as one harmless word.
fn word(name: &str) -> String {
    let mut word = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b'\\' {
            word.push(char::from(byte));
        } else {
            word += &format!("\\x{byte:02x}");
        }
    }
    word
}
