//! A look at all disks that an administrator asks for, and its answer.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use log::info;
use spindle_status::orders::Rescanned;

use super::{Disks, MAX_LIST};

/// When the answer is given though some disk is still being brought up.
const PATIENCE_NS: u64 = 30_000_000_000;

/// The looks so far, and the one that is under way.
#[derive(Debug, Default)]
pub(crate) struct Rescan {
    /// How many have been answered.
    answered: u64,
    /// By when the one that is under way is answered in any case.
    until: Option<u64>,
    /// Disks whose tables were not read since it was asked for, and why.
    unread: Vec<String>,
}

impl Rescan {
    /// The table of a disk is not read.
    pub(super) fn note(&mut self, disk: &str, reason: &dyn Display) {
        if self.until.is_some() {
            self.unread
                .push(format!("{disk}: its table was not read: {reason}"));
        }
    }
}

impl<Q> Disks<Q> {
    /// Looks at every disk again: one that is lost is probed, and the others are asked what they
    /// have. The answer comes by [`Disks::rescanned`].
    pub(crate) fn rescan(&mut self, now: u64) {
        info!("asked to look at the disks again");
        for (number, disk) in self.disks.iter_mut().enumerate() {
            disk.retry.ask(now);
            disk.asked = self.targets.lost(number).is_some();
            disk.controller.rescan();
        }
        self.look_for_all_partitions();
        // Who asks while an answer is due gets that one, and keeps none of those who asked before waiting.
        let until = &mut self.rescan.until;
        until.get_or_insert(now.saturating_add(PATIENCE_NS));
    }

    /// The answer to a request, once: how many were answered so far, and a line for each disk.
    /// `busy` tells whether a disk has still something under way.
    pub(crate) fn rescanned(&mut self, busy: bool, now: u64) -> Option<String> {
        self.rescan.until.take_if(|until| !busy || now >= *until)?;
        self.rescan.answered += 1;
        let disks = self.disks.iter().enumerate().map(|(number, disk)| {
            let name = disk.controller.name();
            match self.targets.lost(number) {
                Some(_) if disk.probing => format!("{name} is still being brought up"),
                Some(reason) => format!("{name} is lost: {reason}"),
                None => format!("{name} works"),
            }
        });
        let kept = self.targets.kept().map(|(volume, reason)| {
            let name = &volume.name;
            format!("{name}: stays what it was, since a guest has it open: {reason}")
        });
        let unread = core::mem::take(&mut self.rescan.unread);
        let mut room = MAX_LIST;
        let lines = disks.chain(unread).chain(kept).take_while(|line| {
            let left = room.checked_sub(line.len() + 1);
            room = left.unwrap_or(0);
            left.is_some()
        });
        let answer = Rescanned {
            number: self.rescan.answered,
            lines: lines.collect(),
        };
        Some(answer.to_string())
    }
}
