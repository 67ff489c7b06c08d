//! Looking after the disks as they work: failures, other sizes, their own account of their health.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use log::{Level, error, log, warn};
use spindle_block::{Unit, Volume};
use spindle_nvme::{Attention, Change};

use super::{Disk, Disks};

/// What control has to do for the disks.
#[derive(Debug, Default)]
pub(crate) struct Care {
    /// Have every core take a turn.
    pub(crate) wake: bool,
    /// Come back within milliseconds.
    pub(crate) soon: bool,
    /// Disks on which every command fails from now on.
    pub(crate) lost: Vec<usize>,
    /// The same, of disks that may still write to memory.
    pub(crate) loose: Vec<usize>,
    /// Volumes of another size: name, and sectors of 512 bytes.
    pub(crate) resized: Vec<(String, u64)>,
    /// How disks are, by their own account: paths in xenstore, and what is to stand there.
    pub(crate) health: Vec<(String, String)>,
}

impl Disks {
    /// Looks after every disk.
    pub(crate) fn attend(&mut self) -> Care {
        let mut care = Care::default();
        for index in 0..self.disks.len() {
            match self.disks.get_mut(index) {
                Some(Disk::Nvme(disk)) => {
                    let attention = disk.attend(&self.pci);
                    self.take_up(index, attention, &mut care);
                }
                Some(Disk::Virtio(disk)) if !self.lost.contains(&index) => {
                    if let Some(reason) = disk.failure(&self.pci) {
                        say_lost(index, &reason);
                        self.lost.push(index);
                        care.lost.push(index);
                    } else if let Some(sectors) = disk.resized() {
                        let volume = self.whole(index, 0);
                        care.resized.extend(volume.map(|v| sized(v, sectors)));
                    }
                }
                _ => {}
            }
        }
        care
    }

    fn take_up(&mut self, disk: usize, attention: Attention, care: &mut Care) {
        care.wake |= attention.wake;
        care.soon |= attention.soon;
        if let Some((health, name)) = attention.health.zip(self.controller_name(disk)) {
            let path = format!("data/spindle/disk/{name}");
            care.health.push((path, health.to_string()));
        }
        for change in attention.changes {
            match change {
                Change::Resized { id, sectors } => {
                    if let Some(volume) = self.whole(disk, id) {
                        care.resized.push(sized(volume, sectors));
                    }
                }
                Change::Removed(id) => {
                    if let Some(volume) = self.whole(disk, id) {
                        care.resized.push(sized(volume, 0));
                    }
                }
                Change::Added(id) => {
                    warn!("nvme: namespace {id} is new; it is served after a restart");
                }
            }
        }
        if let Some(lost) = attention.lost {
            say_lost(disk, &lost.reason);
            self.lost.push(disk);
            if lost.disabled {
                care.lost.push(disk);
            } else {
                warn!("disk {disk} may still write to memory: what it was given is taken from it");
                care.loose.push(disk);
            }
        }
    }

    /// The volume that is all of `unit`.
    fn whole(&self, disk: usize, unit: u32) -> Option<&Volume> {
        let volumes = self.targets.volumes();
        let is_it = |v: &&Volume| (v.disk, v.unit, v.start) == (disk, Unit(unit), 0);
        volumes.iter().find(is_it)
    }

    /// The name of a disk's controller: `nvme0` of `nvme0n1`.
    fn controller_name(&self, disk: usize) -> Option<&str> {
        let mut volumes = self.targets.volumes().iter();
        let volume = volumes.find(|volume| volume.disk == disk)?;
        Some(volume.name.rsplit_once('n')?.0)
    }

    /// Asks the disks how they are; the answers come with [`Disks::attend`].
    pub(crate) fn ask_health(&mut self) {
        for disk in &mut self.disks {
            if let Disk::Nvme(disk) = disk {
                disk.ask_health();
            }
        }
    }
}

/// What to note of a volume of another size.
#[inline(never)]
fn sized(volume: &Volume, sectors: u64) -> (String, u64) {
    let (level, how) = match sectors {
        0 => (Level::Error, "nothing is left of it, "),
        _ if sectors < volume.sectors => (Level::Warn, "it has shrunk, "),
        _ => (Level::Info, ""),
    };
    let (name, mib) = (&volume.name, sectors >> 11);
    log!(level, "disk {name}: {how}{mib} MiB from now on");
    (name.clone(), sectors)
}

fn say_lost(disk: usize, reason: &dyn Display) {
    error!("disk {disk} is lost: {reason}; all requests to it fail from now on");
}
