//! Devices: what control knows of each from the opening of its disk to the close, in one record.
//! `connections` has what happens to its rings meanwhile.

use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use log::{error, info};
use spindle_blkif::{Claims, Losses};
use spindle_block::{Access, Discard, SECTOR_SIZE, TargetError, Targets, Volume, VolumeId};
use spindle_kept::DeviceRecord;
use spindle_xen::Errno;
use spindle_xen::xenbus::{
    Backend, DeviceId, DiskFacts, DiskRequest, Generation, Refusal, RingLayout,
};

use crate::connections::{ConnectionPhase, DeviceRing};
use crate::cores::Cores;
use crate::disks::{Disks, Removed};
use crate::early::Early;
use crate::hypervisor::Hypervisor;
use crate::keeper::{Keeper, is_of};
use crate::rings::{RingMapper, Served};
use crate::shares::{DeviceLimits, Shares};
use crate::worker::CoreWorker;

/// A device whose disk is open.
#[derive(Debug)]
pub(crate) struct AttachedDevice {
    pub(crate) id: DeviceId,
    pub(crate) disk: OpenDisk,
    /// That of its connection, or of the last one.
    pub(crate) generation: Generation,
    pub(crate) rings: Vec<DeviceRing>,
    pub(crate) phase: ConnectionPhase,
    /// The frontend's rings, as long as there are any.
    pub(crate) layout: Option<RingLayout>,
    /// The size that the frontend was shown when it connected, in sectors of 512 bytes.
    pub(crate) shown: u64,
    /// See [`DeviceRecord::at_work_ns`](spindle_kept::DeviceRecord::at_work_ns).
    pub(crate) at_work_ns: u64,
    pub(crate) limits: DeviceLimits,
    /// What its disk was opened by.
    pub(crate) asked: DiskRequest,
    /// It is served from its record, or was, and xenbus has not asked for that.
    pub(crate) early: Option<Early>,
}

/// What a device has.
#[derive(Debug)]
pub(crate) enum OpenDisk {
    /// A volume, as the device is shown it.
    There {
        volume: VolumeId,
        read_only: bool,
        discard: bool,
        /// See [`Served::claims`].
        claims: Option<Arc<Claims>>,
        /// See [`Served::losses`].
        losses: Arc<Losses>,
    },
    /// Its volume is no longer what it was, for this reason.
    Removed(Refusal),
}

impl OpenDisk {
    pub(crate) fn has(&self, id: VolumeId) -> bool {
        matches!(self, Self::There { volume, .. } if *volume == id)
    }

    /// What its rings serve.
    ///
    /// # Errors
    /// If there is nothing to serve any longer.
    pub(crate) fn served(&self, targets: &Targets<DeviceId>) -> Result<Served, Refusal> {
        match self {
            Self::There {
                volume,
                read_only,
                discard,
                claims,
                losses,
            } => {
                let volume = targets.volume(*volume);
                let read_only = volume.read_only || *read_only;
                Ok(Served {
                    volume: Volume {
                        read_only,
                        discard: volume.discard.filter(|_| *discard && !read_only),
                        ..volume.clone()
                    },
                    claims: claims.clone(),
                    losses: losses.clone(),
                })
            }
            Self::Removed(why) => Err(why.clone()),
        }
    }
}

/// All devices whose disks are open.
#[derive(Debug)]
pub(crate) struct Devices<H> {
    pub(crate) rings: RingMapper<H>,
    pub(crate) list: Vec<AttachedDevice>,
    pub(crate) next_token: u64,
    pub(crate) keeper: Keeper,
    pub(crate) shares: Shares,
    /// The records are to be written anew.
    pub(crate) changed: bool,
}

impl<H: Hypervisor> Devices<H> {
    /// None yet.
    pub(crate) fn new(rings: RingMapper<H>, keeper: Keeper, shares: Shares) -> Self {
        Self {
            rings,
            shares,
            list: Vec::new(),
            next_token: 0,
            keeper,
            changed: false,
        }
    }

    /// Writes the records if anything in them has changed.
    pub(crate) fn keep(&mut self, targets: &Targets<DeviceId>) {
        if mem::take(&mut self.changed) {
            let list = self.list.iter();
            self.keeper
                .write(list.filter_map(|device| device.record(targets)));
        }
    }

    /// Whether a former life of the kernel has served this device, and it is to be taken up.
    pub(crate) fn is_former(&self, id: DeviceId) -> bool {
        self.keeper.former(id).is_some()
    }

    /// Whether any device is to be taken up yet: not those that have gone meanwhile.
    pub(crate) fn have_former(&self, backend: &Backend) -> bool {
        let mut waiting = self.keeper.waiting();
        waiting.any(|(id, _)| backend.may_take_up(id))
    }

    /// A device that a former life has served cannot be taken up.
    pub(crate) fn drop_former(&mut self, id: DeviceId) {
        self.changed |= self.keeper.drop_former(id);
    }

    /// Gives up those that were to be taken up, and whose disk nothing has asked for: they are gone.
    pub(crate) fn drop_silent(&mut self) {
        let silent: Vec<_> = self.unopened().map(|(id, _)| id).collect();
        silent.into_iter().for_each(|id| self.drop_former(id));
    }

    /// Those that are to be taken up, and whose disk is not open yet.
    pub(crate) fn unopened(&self) -> impl Iterator<Item = (DeviceId, &DeviceRecord)> {
        let is_open = |id: DeviceId| self.list.iter().any(|device| device.id == id);
        self.keeper.waiting().filter(move |(id, _)| !is_open(*id))
    }

    /// Whether another device than `id` that a former life has served may yet open the disk that
    /// `target` is on, or a part of it: it comes before all who have nothing under way there.
    pub(crate) fn is_awaited(
        &self,
        id: DeviceId,
        target: &str,
        targets: &Targets<DeviceId>,
        backend: &Backend,
    ) -> bool {
        let Ok(wanted) = targets.named(target) else {
            return false;
        };
        let wanted = targets.volume(wanted);
        let is_there = |record: &DeviceRecord| {
            let mut unknown = true;
            let mut volumes = targets.volumes().filter(|it| is_of(it, record, targets));
            let is_known = volumes.any(|volume| {
                unknown = false;
                let mut units = wanted.units();
                units.any(|(disk, unit)| volume.is_on_unit(disk, unit))
            });
            is_known || unknown && targets.is_named_like(&record.volume, wanted)
        };
        let mut others = self.unopened().filter(|(other, _)| *other != id);
        others.any(|(other, record)| is_there(record) && backend.may_take_up(other))
    }

    /// Those with a connection, however far it has got.
    pub(crate) fn connected(&self) -> impl Iterator<Item = &AttachedDevice> {
        let is_connected =
            |device: &&AttachedDevice| !matches!(device.phase, ConnectionPhase::Unconnected);
        self.list.iter().filter(is_connected)
    }

    /// Claims the volume that a device is to have.
    ///
    /// # Errors
    /// Why it cannot be had; nothing is claimed then.
    pub(crate) fn open<W: CoreWorker>(
        &mut self,
        id: DeviceId,
        request: &DiskRequest,
        disks: &mut Disks<W::Queue>,
        cores: &Cores<H, W>,
    ) -> Result<DiskFacts, Refusal> {
        let target = &request.target;
        // Whoever has a disk that is lost is not what keeps others from it.
        if let Ok(volume) = disks.targets.named(target) {
            let volume = disks.targets.volume(volume);
            if let Some(reason) = volume.disks().find_map(|disk| disks.lost(disk)) {
                let text = format!("{} is lost: {reason}", volume.name);
                return Err(Refusal::new(Errno::EIO, text));
            }
        }
        let targets = &mut disks.targets;
        let claim = if request.sectors {
            targets.claim_512e(target, request.access, id)
        } else {
            targets.claim(target, request.access, id)
        };
        let volume = claim.map_err(|error| refusal_of(&error))?;
        let in_parts = request.sectors && targets.volume(volume).sectors_per_block() > 1;
        let claims = in_parts.then(|| self.claims_on(id, volume)).transpose();
        let disk = OpenDisk::There {
            volume,
            read_only: request.access == Access::Read,
            discard: request.discard,
            claims: claims.inspect_err(|_| targets.release(id))?,
            losses: Arc::default(),
        };
        if let Some(former) = self.keeper.former(id)
            && !is_of(targets.volume(volume), former, targets)
        {
            let name = &targets.volume(volume).name;
            let text = format!("{name} is not the disk that {} was before", former.volume);
            targets.release(id);
            return Err(Refusal::new(Errno::ENODEV, text));
        }
        let facts = facts(disk.served(targets)?, cores);
        let what = if facts.read_only {
            "reading"
        } else {
            "writing"
        };
        info!("{id}: {} for {what}", targets.volume(volume).name);
        self.list.retain(|device| device.id != id);
        if !self.is_former(id) {
            self.forget_limits(id);
        }
        let now_ns = self.rings.hypervisor.now_ns();
        let limits = self.shares.limits(id, (*request.limits).clone(), now_ns);
        self.list.push(AttachedDevice {
            id,
            disk,
            generation: Generation(0),
            rings: Vec::new(),
            phase: ConnectionPhase::Unconnected,
            layout: None,
            shown: facts.sectors,
            at_work_ns: 0,
            limits,
            asked: request.clone(),
            early: None,
        });
        Ok(facts)
    }

    /// Where the writes to a volume that is shown with smaller sectors than its blocks claim these:
    /// the same for all who write to it.
    fn claims_on(&self, id: DeviceId, on: VolumeId) -> Result<Arc<Claims>, Refusal> {
        let mut others = self.list.iter().filter(|other| other.id != id);
        let known = others.find_map(|other| match &other.disk {
            OpenDisk::There { volume, claims, .. } if *volume == on => claims.clone(),
            _ => None,
        });
        let no_memory = |error| Refusal::new(Errno::ENOMEM, format!("{error}"));
        known.map_or_else(|| Claims::new().map(Arc::new).map_err(no_memory), Ok)
    }

    /// Forgets a device, whose connection xenbus has ended before.
    pub(crate) fn close(&mut self, id: DeviceId) {
        self.drop_former(id);
        self.forget_limits(id);
        self.list.retain(|device| device.id != id);
    }

    /// A volume has another size, in sectors of 512 bytes: passes that on to the rings that serve it,
    /// and to its frontends.
    pub(crate) fn resize<W: CoreWorker>(
        &mut self,
        volume: VolumeId,
        sectors: u64,
        backend: &mut Backend,
        cores: &mut Cores<H, W>,
    ) {
        for device in self.list.iter_mut().filter(|d| d.disk.has(volume)) {
            for ring in &mut device.rings {
                ring.resize(sectors, cores);
            }
            backend.resized(device.id, sectors);
        }
    }

    /// What is in a disk's write cache may be lost: notes that for all who have a part of it, also
    /// those without a ring now, or with one that is on its way to a core, and those that a former life
    /// has served. Of these, one whose volume is not known is taken for one of this disk: that has not
    /// come up yet.
    pub(crate) fn note_loss(&mut self, disk: usize, targets: &Targets<DeviceId>) {
        self.keeper.note_loss(|wanted| {
            let mut unknown = true;
            let mut volumes = targets.volumes().filter(|it| is_of(it, wanted, targets));
            volumes.any(|volume| {
                unknown = false;
                volume.is_on(disk)
            }) || unknown
        });
        self.changed = true;
        for device in &self.list {
            if let OpenDisk::There { volume, losses, .. } = &device.disk
                && targets.volume(*volume).is_on(disk)
            {
                losses.note();
            }
        }
    }

    /// A part of a disk is no longer what it was. Those who have it reach nothing from now on, and
    /// stay connected as on a lost disk, so that their guests get errors rather than no answer.
    pub(crate) fn remove(&mut self, removed: &Removed, backend: &mut Backend) {
        for AttachedDevice {
            id, disk, rings, ..
        } in &mut self.list
        {
            let mut volumes = removed.volumes.iter();
            let Some((_, name)) = volumes.find(|(volume, _)| disk.has(*volume)) else {
                continue;
            };
            let text = format!("{name} is closed: {}", removed.reason);
            error!("{id}: {text}");
            let refusal = Refusal::new(Errno::ENODEV, text);
            backend.emptied(*id, &refusal);
            // What they grow to may be there.
            rings.iter_mut().for_each(|ring| ring.growth = None);
            *disk = OpenDisk::Removed(refusal);
            self.changed = true;
        }
    }
}

/// What xenbus is to know of a disk.
pub(crate) fn facts<H: Hypervisor, W: CoreWorker>(
    served: Served,
    cores: &Cores<H, W>,
) -> DiskFacts {
    let Served { volume, claims, .. } = served;
    DiskFacts {
        sectors: volume.sectors,
        sector_size: match claims {
            Some(_) => SECTOR_SIZE as u32,
            None => 1 << volume.block_shift,
        },
        physical_sector_size: 1 << volume.physical_block_shift,
        read_only: volume.read_only,
        // Also answered where there is no cache to write out: then at once.
        flush: true,
        barrier: volume.write_cache,
        discard: volume.discard.map(|discard| Discard {
            // See `Session::new`.
            secure: discard.secure && claims.is_none(),
            ..discard
        }),
        queues: cores.serving(&volume) as u32,
    }
}

/// What a guest is refused with that cannot have a target.
fn refusal_of(error: &TargetError) -> Refusal {
    let errno = match error {
        TargetError::Unknown { .. } => Errno::ENOENT,
        TargetError::Empty(_) | TargetError::Failed { .. } => Errno::ENODEV,
        TargetError::Ambiguous { .. } | TargetError::Beyond(_) => Errno::EINVAL,
        TargetError::InUse { .. }
        | TargetError::Mixed { .. }
        | TargetError::Stale { .. }
        | TargetError::Relocated(_)
        | TargetError::Kept { .. }
        | TargetError::MayChange { .. } => Errno::EBUSY,
        TargetError::ReadOnly(_) => Errno::EROFS,
    };
    Refusal::new(errno, error.to_string())
}
