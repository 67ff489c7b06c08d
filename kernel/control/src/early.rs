//! Connections of a former life that are served from their records alone, before xenstore has been asked.
//!
//! A look at a device takes two round trips to xenstored, with a few dozen requests, while its guest waits.
//! What a former life had on record it had seen in xenstore, so that a life which goes on with that does
//! what the former one would have done, had it not heard of anything since. When xenstore has been asked,
//! it is compared:
//!
//! | in xenstore | what follows |
//! | --- | --- |
//! | the same disk line and the same rings | nothing: the connection is the one that is served |
//! | anything else | the rings are given back, as at any disconnect, and what is there is dealt with then |
//!
//! Such a device waits on record all the time, so that a death in between changes nothing. Its rings are
//! mapped before what the former life had mapped is undone: no frontend can have taken a page back. A record
//! says what is needed for that only as long as its rings are mapped, and a life that follows one which may
//! have stood still for long asks xenstore first: a guest may have given its requests up by then.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;

use log::warn;
use spindle_block::{Access, Targets};
use spindle_kept::OpeningRecord;
use spindle_limits::IoLimits;
use spindle_xen::Errno;
use spindle_xen::xenbus::{
    Backend, ConnectRequest, DeviceId, DiskFacts, DiskRequest, Generation, Refusal,
};

use crate::connections::{ConnectionPhase, no_record};
use crate::cores::Cores;
use crate::devices::{Devices, facts};
use crate::disks::Disks;
use crate::hypervisor::Hypervisor;
use crate::keeper::layout_of;
use crate::worker::CoreWorker;

/// How far a device has got for which xenstore has not been read yet.
#[derive(Debug, Default)]
pub(crate) struct Early {
    /// Xenbus knows that its disk is open.
    opened: bool,
    /// Its rings are being given back.
    ends: bool,
    /// Then its disk is closed.
    pub(crate) closes: bool,
    /// Then xenbus has given this connection up, and waits for the end.
    pub(crate) disconnected: Option<Generation>,
    /// Then the frontend has other rings.
    pub(crate) connect: Option<Box<ConnectRequest>>,
}

/// What a disk was opened by, as it is kept.
pub(crate) fn to_record(asked: &DiskRequest) -> OpeningRecord {
    OpeningRecord {
        target: asked.target.clone(),
        read_only: asked.access == Access::Read,
        shared: asked.access == Access::SharedWrite,
        discard: asked.discard,
        in_sectors: asked.sectors,
        limits: asked.limits.to_string(),
    }
}

/// The same; `None` if another version has written what this one does not know.
pub(crate) fn of_record(kept: &OpeningRecord) -> Option<DiskRequest> {
    let mut limits = IoLimits::default();
    limits.set_all(&kept.limits).ok()?;
    Some(DiskRequest {
        target: kept.target.clone(),
        access: match (kept.read_only, kept.shared) {
            (true, false) => Access::Read,
            (false, false) => Access::Write,
            (false, true) => Access::SharedWrite,
            (true, true) => return None,
        },
        discard: kept.discard,
        sectors: kept.in_sectors,
        limits: limits.into(),
    })
}

impl<H: Hypervisor> Devices<H> {
    /// Serves a device from its record, if all that is needed is there. If not, it is dealt with when xenstore
    /// has been asked.
    #[inline(never)]
    pub(crate) fn take_up<W: CoreWorker>(
        &mut self,
        id: DeviceId,
        disks: &mut Disks<W::Queue>,
        cores: &mut Cores<H, W>,
    ) {
        let Some(record) = self.keeper.former(id) else {
            return;
        };
        let Some(asked) = record.opening.as_ref().and_then(of_record) else {
            return;
        };
        let request = ConnectRequest {
            device: id,
            generation: Generation(0),
            layout: layout_of(record),
            former: true,
        };
        if self.open(id, &asked, disks, cores).is_err() {
            return;
        }
        let connected = self.connect(&request, &disks.targets, cores);
        match self.list.iter_mut().find(|device| device.id == id) {
            Some(device) if connected.is_ok() => device.early = Some(Early::default()),
            _ => {
                self.list.retain(|device| device.id != id);
                disks.targets.release(id);
            }
        }
    }

    /// Has the records say what must hold before anything is unmapped: that of a device whose rings are
    /// going to be is worth nothing without xenstore from then on.
    pub(crate) fn keep_before_unmapping(&mut self, targets: &Targets<DeviceId>) {
        let Self { keeper, list, .. } = self;
        let is_served = |id: DeviceId| {
            let mut list = list.iter().filter(|device| device.id == id);
            list.any(|device| device.early.is_some() && !device.is_ending())
        };
        self.changed |= keeper.wait_for_xenstore(|id| !is_served(id));
        self.keep(targets);
    }

    /// Whether it is served from its record, or its rings are being given back that were.
    pub(crate) fn is_early(&self, id: DeviceId) -> bool {
        let mut early = self.list.iter().filter(|device| device.early.is_some());
        early.any(|device| device.id == id)
    }

    /// Xenbus asks for its disk, by what xenstore says: gives what xenbus is to know of that. Limits stay those
    /// on record.
    ///
    /// # Errors
    /// If it is another one, or gone. The rings are given back then.
    #[inline(never)]
    pub(crate) fn open_early<W: CoreWorker>(
        &mut self,
        id: DeviceId,
        asked: &DiskRequest,
        targets: &Targets<DeviceId>,
        cores: &Cores<H, W>,
    ) -> Result<DiskFacts, Refusal> {
        let mut list = self.list.iter_mut();
        let Some(device) = list.find(|device| device.id == id) else {
            return Err(no_record());
        };
        let of = |it: &DiskRequest| (it.access, it.discard, it.sectors);
        let known = &device.asked;
        let served = if known.target == asked.target && of(known) == of(asked) {
            device.disk.served(targets)
        } else {
            let (has, had) = (&asked.target, &known.target);
            let text =
                format!("{has} is not the disk that {had} was before, or not for the same use");
            Err(Refusal::new(Errno::ENODEV, text))
        };
        match (served, &mut device.early) {
            (Ok(served), Some(early)) => {
                early.opened = true;
                Ok(facts(served, cores))
            }
            (served, _) => {
                self.close_early(id);
                Err(served.err().unwrap_or_else(no_record))
            }
        }
    }

    /// Whether its rings are being given back.
    pub(crate) fn is_leaving_early(&self, id: DeviceId) -> bool {
        let mut list = self.list.iter().filter(|device| device.id == id);
        let early = list.next().and_then(|device| device.early.as_ref());
        early.is_some_and(|early| early.ends)
    }

    /// Xenbus asks for a connection: true if it is the one that is served, or has failed meanwhile. Xenbus
    /// hears of the outcome as of any other from now on. If it is another one, that follows when these rings
    /// are given back.
    #[inline(never)]
    pub(crate) fn confirm(&mut self, request: &ConnectRequest) -> bool {
        let mut list = self.list.iter_mut();
        let Some(device) = list.find(|device| device.id == request.device) else {
            return false;
        };
        let Some(early) = &device.early else {
            return false;
        };
        let same = request.former && device.layout.as_ref() == Some(&request.layout);
        if same && !early.ends {
            device.generation = request.generation;
            device.early = None;
        } else if let Some(early) = self.end_early(request.device) {
            early.connect = Some(Box::new(request.clone()));
        }
        true
    }

    /// Xenbus gives a connection up that waits for these rings to be given back; false if there is none.
    pub(crate) fn disconnect_early(&mut self, id: DeviceId, of: Generation) -> bool {
        let early = self.end_early(id);
        let is_early = early.is_some();
        if let Some(early) = early {
            (early.connect, early.disconnected) = (None, Some(of));
        }
        is_early
    }

    /// Its disk is to be closed, as soon as its rings are given back; false if it is not such a device.
    pub(crate) fn close_early(&mut self, id: DeviceId) -> bool {
        let early = self.end_early(id);
        let is_early = early.is_some();
        if let Some(early) = early {
            early.closes = true;
        }
        is_early
    }

    #[inline(never)]
    fn end_early(&mut self, id: DeviceId) -> Option<&mut Early> {
        let mut list = self.list.iter_mut();
        let device = list.find(|device| device.id == id)?;
        let early = device.early.as_mut()?;
        if !early.ends {
            warn!("{id}: is not what it was before: its rings are given back");
        }
        early.ends = true;
        device.phase = ConnectionPhase::Disconnecting;
        Some(early)
    }

    /// Has the rings given back of those that xenbus has seen something else of. Gives one whose rings are,
    /// and what is to be done about it.
    #[inline(never)]
    pub(crate) fn attend_early(&mut self, backend: &Backend) -> Option<(DeviceId, Early)> {
        let at = self.list.iter().position(|device| {
            device.early.as_ref().is_some_and(|early| {
                !early.ends && backend.has_decided(device.id)
                    || early.ends && device.rings.is_empty()
            })
        })?;
        let id = self.list[at].id;
        let early = self.end_early(id)?;
        // Xenbus closes what it has opened.
        early.closes |= !early.opened;
        let device = &mut self.list[at];
        if !device.rings.is_empty() {
            return Some((id, Early::default()));
        }
        device.phase = ConnectionPhase::Unconnected;
        let early = device.early.take()?;
        self.drop_former(id);
        Some((id, early))
    }
}
