//! Looking after the disks as they work: failures, other sizes, their own account of their health.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use log::{Level, error, log, warn};
use spindle_block::{DiskEvents, Unit, UnitChange, Volume};

use super::Disks;

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

impl<Q> Disks<Q> {
    /// Looks after every disk.
    pub(crate) fn attend(&mut self) -> Care {
        let mut care = Care::default();
        for disk in 0..self.controllers.len() {
            let events = self.controllers[disk].attend();
            self.take_up(disk, events, &mut care);
        }
        care
    }

    fn take_up(&mut self, disk: usize, events: DiskEvents, care: &mut Care) {
        let name = self.controllers[disk].name();
        care.wake |= events.wake;
        care.soon |= events.soon;
        if let Some(health) = events.health {
            care.health
                .push((format!("data/spindle/disk/{name}"), health));
        }
        for change in events.changes {
            let (unit, sectors) = match change {
                UnitChange::Resized { unit, sectors } => (unit, sectors),
                UnitChange::Removed { unit, reason } => {
                    let Unit(id) = unit;
                    warn!("disk {name}: unit {id} is closed: {reason}");
                    (unit, 0)
                }
                UnitChange::Added(Unit(id)) => {
                    warn!("disk {name}: unit {id} is new; it is served after a restart");
                    continue;
                }
            };
            let volume = self.whole(disk, unit);
            care.resized.extend(volume.map(|v| sized(v, sectors)));
        }
        if let Some(lost) = events.lost {
            let reason = lost.reason;
            error!("disk {name} is lost: {reason}; all requests to it fail from now on");
            if lost.disabled {
                care.lost.push(disk);
            } else {
                warn!("disk {name} may still write to memory: what it was given is taken from it");
                care.loose.push(disk);
            }
            self.lost.push(disk);
        }
    }

    /// The volume that is all of `unit`.
    fn whole(&self, disk: usize, unit: Unit) -> Option<&Volume> {
        let volumes = self.targets.volumes();
        let is_it = |v: &&Volume| (v.disk, v.unit, v.start) == (disk, unit, 0);
        volumes.iter().find(is_it)
    }

    /// Asks the disks how they are; the answers come with [`Disks::attend`].
    pub(crate) fn ask_health(&mut self) {
        for controller in &mut self.controllers {
            controller.ask_health();
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
