//! Looking after the disks as they work: failures, what comes and goes, other sizes, their own
//! account of their health.
//!
//! What was made for a unit must not reach another one that takes its place, and a core that hears
//! late of a lost disk would stop its queue on one that is back. So a controller goes on only once
//! every core has carried out what was ordered ([`Disks::ordered`]).

use alloc::string::String;
use alloc::vec::Vec;

use log::{Level, error, info, log, warn};
use spindle_block::{
    ControllerBack, DiskEvents, LostController, Unit, UnitChange, Volume, VolumeId,
};
use spindle_status::path;

use super::{Disks, Ordered};
use crate::cores::{CoreId, Given};

/// For how long the cores are waited for at the pace of a reset. A core that sleeps looks by itself
/// after 2 to 4 s, and is woken long before that.
const PROMPT_NS: u64 = 1_000_000_000;
/// How many numbers are tried for a controller in the place of another one: more than there are names
/// of disks that are known.
const MOST_NUMBERS: usize = 1 << 16;
/// When the log has it that a core is late.
const WARN_NS: u64 = 30_000_000_000;
/// How often a controller is brought up again by itself though it could not be kept from memory when it
/// was lost: each time costs the memory that it had been given.
const MOST_LOOSE: u32 = 4;

impl Ordered {
    /// `core` has not done it yet: whether that takes long.
    fn is_late(&mut self, disk: &str, core: CoreId, now: u64) -> bool {
        let waited = now.saturating_sub(self.since);
        if waited >= WARN_NS && !core::mem::replace(&mut self.warned, true) {
            warn!(
                "disk {disk}: ring core {core} has not answered for 30 s; what has changed on the \
                 disk, or the disk itself if it was lost, is not served before it does"
            );
        }
        waited >= PROMPT_NS
    }
}

/// What control has to do for the disks.
#[derive(Debug, Default)]
pub(crate) struct Care {
    /// Have every core take a turn.
    pub(crate) wake: bool,
    /// Come back within milliseconds.
    pub(crate) soon: bool,
    /// Come back within a tenth of a second: a core is waited for that is late.
    pub(crate) late: bool,
    /// Disks on which every command fails from now on.
    pub(crate) lost: Vec<usize>,
    /// The same, of disks that may still write to memory.
    pub(crate) loose: Vec<usize>,
    /// Disks that are lost, as all cores with a queue there know by now.
    pub(crate) heard: Vec<usize>,
    /// Disks that are back, perhaps with queues of another depth.
    pub(crate) back: Vec<usize>,
    /// Disks that go on, and may have lost what was in their write caches.
    pub(crate) forgot: Vec<usize>,
    /// Volumes of another size, and that in sectors of 512 bytes.
    pub(crate) resized: Vec<(VolumeId, u64)>,
    /// Partitions and logical volumes that have grown, and that guests have open.
    pub(crate) grown: Vec<VolumeId>,
    /// Parts of disks that are no longer what they were.
    pub(crate) removed: Vec<Removed>,
    /// There are other disks than before.
    pub(crate) listed: bool,
    /// How disks are, by their own account: paths in xenstore, and what is to stand there.
    pub(crate) health: Vec<(String, String)>,
    /// Paths in xenstore of accounts that do not hold any longer.
    pub(crate) withdrawn: Vec<String>,
}

/// A part of a disk that is no longer what it was.
#[derive(Debug)]
pub(crate) struct Removed {
    pub(crate) disk: usize,
    pub(crate) unit: Unit,
    /// Its volumes, and the names that they had.
    pub(crate) volumes: Vec<(VolumeId, String)>,
    /// Why, for those who have it.
    pub(crate) reason: String,
}

impl<Q> Disks<Q> {
    /// Looks after every disk. `behind` gives a core that has not carried out what was given, of those
    /// with a queue on a disk.
    pub(crate) fn attend(
        &mut self,
        now: u64,
        behind: impl Fn(usize, &Given) -> Option<CoreId>,
    ) -> Care {
        let mut care = Care::default();
        for number in 0..self.disks.len() {
            let disk = &mut self.disks[number];
            let mut late = false;
            if let Some(ordered) = &mut disk.given {
                match behind(number, &ordered.given) {
                    None => {
                        disk.given = None;
                        disk.controller.closed();
                        if self.targets.lost(number).is_some() {
                            // A core may have answered something since the loss was noted, for a ring
                            // that it gave back before it knew.
                            care.heard.push(number);
                            // It goes on in the next round, when that loss is noted.
                            care.soon = true;
                            continue;
                        }
                    }
                    Some(core) => late = ordered.is_late(disk.controller.name(), core, now),
                }
            }
            let may_probe = disk.loose < MOST_LOOSE || disk.asked;
            if disk.given.is_none() && !disk.probing && may_probe && disk.retry.take_due(now) {
                disk.asked = false;
                disk.probing = disk.controller.probe_again().is_ok();
                if !disk.probing {
                    disk.retry.lost(now);
                }
            }
            care.soon |= disk.given.is_some() && !late;
            care.late |= late;
            let mut events = disk.controller.attend();
            // It may ask for the cores, and for control, as long as it waits for the one.
            events.soon &= !late;
            self.take_up(number, events, now, &mut care);
        }
        self.go_on_inspecting(now, &mut care);
        care
    }

    /// The cores were ordered what followed from [`Disks::attend`], and `given` is all of that.
    pub(crate) fn ordered(&mut self, now: u64, given: impl Fn() -> Given) {
        for disk in &mut self.disks {
            if core::mem::take(&mut disk.ordering) {
                let before = disk.given.as_ref();
                disk.given = Some(Ordered {
                    given: given(),
                    since: before.map_or(now, |before| before.since),
                    warned: before.is_some_and(|before| before.warned),
                });
            }
        }
    }

    fn take_up(&mut self, number: usize, events: DiskEvents, now: u64, care: &mut Care) {
        care.wake |= events.wake;
        care.soon |= events.soon;
        if let Some(back) = events.back {
            self.come_back(number, back, now, care);
            care.listed = true;
        }
        let name = String::from(self.disks[number].controller.name());
        if let Some(page) = events.inspected {
            self.take_page(number, page);
        }
        if let Some(health) = events.health {
            care.health.push((path::health(&name), health));
        }
        for change in events.changes {
            match change {
                UnitChange::Resized { unit, sectors } => {
                    let is_it = |v: &&Volume| (v.disk, v.unit) == (number, unit);
                    if let Some(volume) = self.targets.disks().find(is_it) {
                        log_size(volume, sectors);
                    }
                    let resized = self.targets.resize(number, unit, sectors);
                    care.resized.extend(resized.map(|volume| (volume, sectors)));
                }
                UnitChange::Removed { unit, reason } => {
                    let volumes = self.targets.close(number, unit, &reason);
                    let names: Vec<_> = volumes.iter().map(|(_, name)| &**name).collect();
                    let names = names.join(", ");
                    warn!("disk {name}: {names}: closed for those who have it: {reason}");
                    care.removed.push(Removed {
                        disk: number,
                        unit,
                        volumes,
                        reason,
                    });
                    self.drop_tables(number, unit);
                    self.physical.set(number, unit, Vec::new());
                    self.disks[number].ordering = true;
                    (care.listed, care.soon) = (true, true);
                }
                UnitChange::Added(unit) => {
                    self.take_in(number, unit);
                    care.listed = true;
                }
            }
        }
        if events.cache_lost {
            warn!(
                "disk {name}: what was written and not flushed may be lost: a flush fails for that"
            );
            care.forgot.push(number);
        }
        if let Some(lost) = events.lost {
            self.lose(number, &name, lost, now, care);
        }
    }

    fn lose(&mut self, number: usize, name: &str, lost: LostController, now: u64, care: &mut Care) {
        let reason = lost.reason;
        if !lost.again {
            error!("disk {name} is lost: {reason}; all requests to it fail until it is back");
        }
        if lost.disabled || lost.again {
            // What it was given before it was lost the first time has been taken from it then.
            care.lost.push(number);
        } else {
            warn!("disk {name} may still write to memory: what it was given is taken from it");
            care.loose.push(number);
            let loose = &mut self.disks[number].loose;
            *loose += 1;
            if *loose >= MOST_LOOSE {
                warn!(
                    "disk {name} was lost like that {loose} times: it is brought up again only when \
                     the disks are to be looked at again (spindlectl rescan)"
                );
            }
        }
        // One that was stopped since, or that came to nothing once more, is given nothing new.
        let stopped = lost.stopped || lost.again && !self.targets.may_write(number);
        self.targets.set_lost(number, name.into(), reason, !stopped);
        care.withdrawn.push(path::health(name));
        let disk = &mut self.disks[number];
        (disk.probing, disk.ordering) = (false, true);
        disk.retry.lost(now);
        (care.soon, care.listed) = (true, true);
    }

    /// A controller works again. Another one than before gets a number of its own, so that no name
    /// that a guest may ask for becomes that of another disk.
    fn come_back(&mut self, number: usize, back: ControllerBack, now: u64, care: &mut Care) {
        let disk = &mut self.disks[number];
        (disk.probing, disk.asked) = (false, false);
        disk.retry.back(now);
        care.back.push(number);
        let name = String::from(disk.controller.name());
        self.targets.set_found(number, &name);
        match back {
            ControllerBack::Same => info!("disk {name} is back, and works again"),
            ControllerBack::Other => {
                let number_of_new = self.next_number(number);
                let disk = &mut self.disks[number];
                disk.controller.rename(number_of_new);
                care.withdrawn.push(path::health(&name));
                let new = disk.controller.name();
                warn!("another disk is in the place of {name}: it is {new}");
            }
        }
    }

    /// A number that no controller of the kind of disk `number` has or has had.
    fn next_number(&mut self, number: usize) -> usize {
        let controller = &self.disks[number].controller;
        let kind = controller.name_of(0);
        let all = self.disks.iter().map(|disk| &disk.controller);
        let alike = all.filter(|other| other.name_of(0) == kind);
        let after = alike.map(|other| other.number().saturating_add(1));
        let least = after.fold(self.numbers, usize::max);
        let is_free = |number: &usize| !self.targets.knows(&controller.name_of(*number));
        let most = least.saturating_add(MOST_NUMBERS);
        let number = (least..most).find(is_free).unwrap_or(usize::MAX);
        self.numbers = number.saturating_add(1);
        number
    }

    /// A unit can be served that could not be before.
    fn take_in(&mut self, number: usize, unit: Unit) {
        let volumes = self.disks[number].controller.volumes(number);
        let Some(volume) = volumes.into_iter().find(|volume| volume.unit == unit) else {
            return;
        };
        let (name, mib, block) = (&volume.name, volume.sectors >> 11, 1 << volume.block_shift);
        let what = &volume.description;
        info!("disk {name} is new: {mib} MiB, blocks of {block} bytes: {what}");
        self.targets.add(volume.clone());
        self.look_for_partitions(volume);
    }

    /// Asks the disks how they are; the answers come with [`Disks::attend`].
    pub(crate) fn ask_health(&mut self) {
        for disk in &mut self.disks {
            disk.controller.ask_health();
        }
    }
}

/// Notes that a volume gets another size.
#[inline(never)]
fn log_size(volume: &Volume, sectors: u64) {
    let (level, how) = match sectors {
        0 => (Level::Error, "nothing is left of it, "),
        _ if sectors < volume.sectors => (Level::Warn, "it has shrunk, "),
        _ => (Level::Info, ""),
    };
    let (name, mib) = (&volume.name, sectors >> 11);
    log!(level, "disk {name}: {how}{mib} MiB from now on");
}
