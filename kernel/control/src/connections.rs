//! Connections: the rings of a device's frontend, from xenbus's request to the cores and back.
//!
//! A connection stands when all its rings are attached. It has ended when all of them have been
//! given back and unmapped; until then nothing of it is forgotten.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use log::{error, info};
use spindle_blkif::worker::{Order, Report};
use spindle_blkif::{Gate, RingGrowth, RingId, RingShare, RingStats};
use spindle_block::Targets;
use spindle_kept::{DeviceRecord, QueueRecord};
use spindle_xen::xenbus::{Abi, Backend, ConnectRequest, DeviceId, Generation, Refusal};
use spindle_xen::{DomId, Errno};

use crate::cores::{CoreId, Cores};
use crate::devices::{AttachedDevice, Devices, OpenDisk};
use crate::early::to_record;
use crate::hypervisor::Hypervisor;
use crate::keeper::identity;
use crate::rings::{Mapped, RingMemory};
use crate::worker::CoreWorker;

/// A ring of a device, and where it is.
#[derive(Debug)]
pub(crate) struct DeviceRing {
    token: u64,
    core: CoreId,
    phase: RingPhase,
    mapped: Mapped,
    stats: Arc<RingStats>,
    /// The share that it is to have once its core has answered.
    share: Option<Box<RingShare>>,
    /// What its volume has grown to, likewise.
    pub(crate) growth: Option<Box<RingGrowth>>,
}

/// How far a ring has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RingPhase {
    /// Its core has been sent it and has not answered.
    Attaching {
        /// The size that its disk has got since, in sectors of 512 bytes.
        resized: Option<u64>,
    },
    /// Its core serves it.
    Attached(RingId),
    /// Its core has been asked for it.
    Detaching(RingId),
}

impl DeviceRing {
    /// Its volume has another size, in sectors of 512 bytes: passes that on to its core. A ring that
    /// is being detached takes no further request.
    pub(crate) fn resize<H: Hypervisor, W: CoreWorker>(
        &mut self,
        sectors: u64,
        cores: &mut Cores<H, W>,
    ) {
        match &mut self.phase {
            RingPhase::Attaching { resized } => *resized = Some(sectors),
            &mut RingPhase::Attached(ring) => {
                cores.order(self.core, Order::Resize { ring, sectors });
            }
            RingPhase::Detaching(_) => {}
        }
    }

    /// Its core.
    pub(crate) fn core(&self) -> CoreId {
        self.core
    }

    /// Its volume has grown to one with another map: passes that on to its core.
    pub(crate) fn grow<H: Hypervisor, W: CoreWorker>(
        &mut self,
        growth: Box<RingGrowth>,
        cores: &mut Cores<H, W>,
    ) {
        match self.phase {
            RingPhase::Attaching { .. } => self.growth = Some(growth),
            RingPhase::Attached(ring) => cores.order(self.core, Order::Grow { ring, growth }),
            RingPhase::Detaching(_) => {}
        }
    }

    /// It gets another share of its disk: passes that on to its core.
    pub(crate) fn share<H: Hypervisor, W: CoreWorker>(
        &mut self,
        share: Box<RingShare>,
        cores: &mut Cores<H, W>,
    ) {
        match self.phase {
            RingPhase::Attaching { .. } => self.share = Some(share),
            RingPhase::Attached(ring) => cores.order(self.core, Order::Share { ring, share }),
            RingPhase::Detaching(_) => {}
        }
    }

    /// Whether its place on `core` is, or was, `place`.
    fn is_at(&self, core: CoreId, place: RingId) -> bool {
        let at = match self.phase {
            RingPhase::Attaching { .. } => None,
            RingPhase::Attached(at) | RingPhase::Detaching(at) => Some(at),
        };
        self.core == core && at == Some(place)
    }
}

/// How far the connection of a device's frontend has got.
#[derive(Clone, Debug)]
pub(crate) enum ConnectionPhase {
    /// There is none.
    Unconnected,
    /// Not all cores have answered, and xenbus waits for the outcome.
    Connecting,
    /// It stands, and xenbus knows.
    Connected,
    /// It cannot stand. Xenbus gets the reason when its cores have given all rings back.
    Refused(Refusal),
    /// Xenbus has ended it, and hears of it when its cores have given all rings back.
    Disconnecting,
}

/// What xenbus hears of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It stands.
    Connected,
    /// It could not be made, and nothing of it is left.
    Refused(Refusal),
    /// It has been ended as xenbus asked, and nothing of it is left.
    Disconnected,
}

impl AttachedDevice {
    /// The counters of its rings.
    pub(crate) fn stats(&self) -> impl Iterator<Item = &RingStats> {
        self.rings.iter().map(|ring| &*ring.stats)
    }

    /// Whether its rings are to be given back.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(
            self.phase,
            ConnectionPhase::Refused(_) | ConnectionPhase::Disconnecting
        )
    }

    /// The record of it, if it is to be taken up after a death of the kernel.
    pub(crate) fn record(&self, targets: &Targets<DeviceId>) -> Option<DeviceRecord> {
        let (ConnectionPhase::Connected, Some(layout)) = (&self.phase, &self.layout) else {
            return None;
        };
        let OpenDisk::There { volume, losses, .. } = &self.disk else {
            return None;
        };
        let volume = targets.volume(*volume);
        let queues = layout.queues.iter().zip(&self.rings);
        let queues = queues.map(|(queue, ring)| QueueRecord {
            refs: queue.refs.iter().map(|gref| gref.0).collect(),
            event_channel: queue.event_channel,
            core: ring.core.number(),
            journal: Some(ring.mapped.journal),
            counters: ring.stats.snapshot().values().collect(),
        });
        Some(DeviceRecord {
            domain: self.id.frontend.0,
            device: self.id.device,
            volume: volume.name.clone(),
            identity: identity(volume, self.shown, targets),
            sectors: self.shown,
            x86_32: layout.abi == Abi::X86_32,
            persistent: layout.persistent,
            large_sectors: layout.large_sectors,
            at_work_ns: self.at_work_ns,
            queues: queues.collect(),
            lossy: losses.are_owed(),
            opening: Some(to_record(&self.asked)),
        })
    }

    /// Takes over what a former life knew of it besides its rings.
    fn take_over(&mut self, former: &DeviceRecord) {
        self.shown = former.sectors;
        self.at_work_ns = former.at_work_ns;
    }

    /// Whether there is a connection, and it is this one.
    fn is_connected(&self, generation: Generation) -> bool {
        !matches!(self.phase, ConnectionPhase::Unconnected) && self.generation == generation
    }

    /// What xenbus is to hear of its connection now, if anything, which is taken for said.
    fn take_outcome(&mut self) -> Option<Outcome> {
        let is_attached = |ring: &DeviceRing| matches!(ring.phase, RingPhase::Attached(_));
        let (outcome, next) = match &self.phase {
            ConnectionPhase::Connecting if self.rings.iter().all(is_attached) => {
                (Outcome::Connected, ConnectionPhase::Connected)
            }
            ConnectionPhase::Refused(refusal) if self.rings.is_empty() => (
                Outcome::Refused(refusal.clone()),
                ConnectionPhase::Unconnected,
            ),
            ConnectionPhase::Disconnecting if self.rings.is_empty() => {
                (Outcome::Disconnected, ConnectionPhase::Unconnected)
            }
            _ => return None,
        };
        self.phase = next;
        Some(outcome)
    }
}

impl<H> Devices<H> {
    /// Starts to end a connection; false if there is no such one. Xenbus waits for the end from now
    /// on and for nothing else, so that one that cannot stand is no exception: its refusal would be
    /// taken for the answer to something else.
    pub(crate) fn disconnect(&mut self, device: DeviceId, of: Generation) -> bool {
        let mut list = self.list.iter_mut();
        let Some(device) = list.find(|d| d.id == device && d.is_connected(of)) else {
            return false;
        };
        device.phase = ConnectionPhase::Disconnecting;
        self.changed = true;
        true
    }
}

impl<H: Hypervisor> Devices<H> {
    /// Maps a frontend's rings and hands them to the cores. The backend hears of the outcome by
    /// [`Devices::settle`].
    ///
    /// # Errors
    /// If the device has no disk that could be served; the backend has not heard of that.
    pub(crate) fn connect<W: CoreWorker>(
        &mut self,
        request: &ConnectRequest,
        targets: &Targets<DeviceId>,
        cores: &mut Cores<H, W>,
    ) -> Result<(), Refusal> {
        let (id, layout) = (request.device, &request.layout);
        let mut devices = self.list.iter();
        let Some(at) = devices.position(|device| device.id == id) else {
            return Err(Refusal::new(Errno::EINVAL, "its disk is not open"));
        };
        let disk = self.list[at].disk.served(targets)?;
        // Whatever rings it has now: all of a device count in one.
        if self.keeper.former(id).is_some_and(|former| former.lossy) {
            disk.losses.note();
        }
        let former = match request.former {
            true => Some(self.keeper.former(id).cloned().ok_or_else(no_record)?),
            false => None,
        };
        if !request.former && self.keeper.drop_former(id) {
            self.changed = true;
        }
        if let Some(former) = &former {
            self.list[at].take_over(former);
        }
        self.list[at].layout = Some(layout.clone());
        self.list[at].generation = request.generation;
        self.list[at].phase = ConnectionPhase::Connecting;
        // A member that is not handed on keeps no other waiting.
        let rings = u16::try_from(layout.queues.len()).unwrap_or(u16::MAX);
        let members = layout.queues.iter().zip(Gate::members(rings));
        for (number, (queue, gate)) in members.enumerate() {
            let Some(core) = cores.place(&disk.volume) else {
                let text = match disk.volume.map {
                    None => "no ring core has a queue on this disk",
                    Some(_) => "no ring core has a queue on each of its disks",
                };
                self.list[at].phase = ConnectionPhase::Refused(Refusal::new(Errno::ENODEV, text));
                break;
            };
            gate.set_wake(cores.wake(core));
            let taken = self.taken(id.frontend);
            let disk = disk.clone();
            let (rings, segments) = (self.rings, cores.segments());
            let share = rings.check_share(queue, layout, segments, &disk, taken);
            let before = former.as_ref().map(|former| &former.queues[number]);
            let keeper = &mut self.keeper;
            let outfit = share.and_then(|()| keeper.outfit(queue.refs.len(), gate, before));
            let open = |outfit| rings.open(id.frontend, queue, disk, layout, segments, outfit);
            let place = outfit.as_ref().ok().map(|outfit| outfit.place);
            match outfit.and_then(open) {
                Ok((mut session, mapped)) => {
                    session.set_device(id.device);
                    if let Some(share) = self.shares.of(&self.list[at].limits) {
                        session.set_share(share);
                    }
                    if former.is_some() {
                        let (number, count) = (number + 1, session.redo());
                        info!("{id}: ring {number} is taken up, {count} requests to do again");
                    }
                    let token = self.next_token;
                    self.next_token += 1;
                    let stats = session.stats();
                    self.list[at].rings.push(DeviceRing {
                        token,
                        core,
                        phase: RingPhase::Attaching { resized: None },
                        mapped,
                        stats,
                        share: None,
                        growth: None,
                    });
                    cores.order(
                        core,
                        Order::Attach {
                            token,
                            session: Box::new(session),
                        },
                    );
                }
                Err(refusal) => {
                    if let Some(place) = place {
                        self.keeper.free_of(id, place);
                    }
                    cores.vacate(core);
                    self.list[at].phase = ConnectionPhase::Refused(refusal);
                    break;
                }
            }
        }
        let device = &self.list[at];
        if matches!(device.phase, ConnectionPhase::Connecting) {
            let pages = layout.queues.first().map_or(0, |queue| queue.refs.len());
            let (path, kept) = (self.rings.path, layout.persistent);
            let path = if kept && path.offers_persistent() {
                "persistent grants"
            } else if path.maps(kept) {
                "grants mapped for each request"
            } else {
                "grant copy"
            };
            let on = device.rings.iter().map(|r| r.core.to_string());
            let on: Vec<_> = on.collect();
            let (count, on) = (on.len(), on.join(", "));
            info!("{id}: {count} rings of {pages} pages on cores {on}, {path}");
        }
        Ok(())
    }

    /// What rings take of memory, those of `guest` and all.
    fn taken(&self, guest: DomId) -> RingMemory {
        let mut taken = RingMemory {
            by_guest: 0,
            by_all: 0,
        };
        for device in &self.list {
            let bytes: usize = device.rings.iter().map(|ring| ring.mapped.bytes).sum();
            taken.by_all += bytes;
            if device.id.frontend == guest {
                taken.by_guest += bytes;
            }
        }
        taken
    }

    /// Notes what a core reported.
    pub(crate) fn reported<W: CoreWorker>(
        &mut self,
        core: CoreId,
        report: Report<W::Queue>,
        backend: &mut Backend,
        cores: &mut Cores<H, W>,
    ) {
        match report {
            Report::Attached { token, ring } => {
                if let Some((device, at)) = self.position(|r| r.token == token) {
                    let attached = &mut self.list[device].rings[at];
                    let was = mem::replace(&mut attached.phase, RingPhase::Attached(ring));
                    if let RingPhase::Attaching {
                        resized: Some(sectors),
                    } = was
                    {
                        cores.order(core, Order::Resize { ring, sectors });
                    }
                    if let Some(growth) = attached.growth.take() {
                        cores.order(core, Order::Grow { ring, growth });
                    }
                    if let Some(share) = attached.share.take() {
                        cores.order(core, Order::Share { ring, share });
                    }
                }
            }
            Report::Refused {
                token,
                error,
                session,
            } => {
                let rings = self.rings;
                if let Some((device, ring)) = self.take_ring(|r| r.token == token) {
                    rings.close(&ring.mapped, &session.dismantle(&rings.grants()));
                    let id = device.id;
                    let refusal = Refusal::new(Errno::ENOSPC, error.to_string());
                    if matches!(device.phase, ConnectionPhase::Connecting) {
                        device.phase = ConnectionPhase::Refused(refusal);
                    }
                    self.keeper.free_of(id, ring.mapped.journal);
                    cores.vacate(core);
                }
            }
            Report::Detached {
                ring: place,
                remains,
            } => {
                let rings = self.rings;
                if let Some((device, ring)) = self.take_ring(|r| r.is_at(core, place)) {
                    rings.close(&ring.mapped, &remains);
                    let id = device.id;
                    self.keeper.free_of(id, ring.mapped.journal);
                    cores.vacate(core);
                }
            }
            Report::Halted { ring: place, halt } => {
                if let Some((device, _)) = self.position(|r| r.is_at(core, place)) {
                    let device = &mut self.list[device];
                    let AttachedDevice { id, generation, .. } = *device;
                    error!("{id}: ring halted: {halt}");
                    let text = format!("ring halted: {halt}");
                    let refusal = Refusal::new(Errno::EINVAL, text);
                    match device.phase {
                        // Xenbus has not asked for it yet.
                        ConnectionPhase::Connecting if device.early.is_some() => {
                            device.phase = ConnectionPhase::Refused(refusal);
                        }
                        _ if device.early.is_some() => {}
                        _ => backend.failed(id, generation, refusal),
                    }
                }
            }
            Report::Stopped(_) | Report::Access(_) | Report::Drained => {}
        }
    }

    /// Reports to the backend which connections stand, cannot stand, or have ended, and asks cores
    /// for the rings of those that are to end. True if anything was reported.
    pub(crate) fn settle<W: CoreWorker>(
        &mut self,
        backend: &mut Backend,
        cores: &mut Cores<H, W>,
    ) -> bool {
        let mut reported = false;
        for device in &mut self.list {
            if device.is_ending() {
                for ring in &mut device.rings {
                    if let RingPhase::Attached(place) = ring.phase {
                        ring.phase = RingPhase::Detaching(place);
                        cores.order(ring.core, Order::Detach(place));
                    }
                }
            }
            if device.early.is_some() {
                continue;
            }
            let (id, generation) = (device.id, device.generation);
            match device.take_outcome() {
                None => continue,
                Some(Outcome::Connected) => {
                    self.keeper.take(id);
                    backend.connected(id, generation, Ok(()));
                }
                Some(Outcome::Refused(why)) => {
                    self.keeper.drop_former(id);
                    backend.connected(id, generation, Err(why));
                }
                Some(Outcome::Disconnected) => {
                    info!("{id}: disconnected");
                    self.keeper.drop_former(id);
                    backend.disconnected(id, generation);
                }
            }
            reported = true;
            self.changed = true;
        }
        reported
    }

    /// Which ring of which device.
    fn position(&self, which: impl Fn(&DeviceRing) -> bool) -> Option<(usize, usize)> {
        let mut list = self.list.iter().enumerate();
        list.find_map(|(i, device)| Some((i, device.rings.iter().position(&which)?)))
    }

    fn take_ring(
        &mut self,
        which: impl Fn(&DeviceRing) -> bool,
    ) -> Option<(&mut AttachedDevice, DeviceRing)> {
        let (device, ring) = self.position(which)?;
        let device = &mut self.list[device];
        let ring = device.rings.swap_remove(ring);
        Some((device, ring))
    }
}

/// Xenbus takes a connection for one of a former life, and it is none.
pub(crate) fn no_record() -> Refusal {
    Refusal::new(Errno::EIO, "there is no record of the connection any more")
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use spindle_hw::SharedPages;
    use spindle_kept::Kept;
    use spindle_kept::layout::FIXED_PAGES;

    use spindle_block::Access;
    use spindle_config::DataPath;
    use spindle_xen::xenbus::DiskRequest;

    use super::*;
    use crate::keeper::{Keep, Keeper};
    use crate::rings::RingMapper;
    use crate::shares::{DeviceLimits, Shares};

    const DEVICE: DeviceId = DeviceId {
        frontend: DomId(5),
        device: 51712,
    };

    fn one(phase: ConnectionPhase) -> Devices<()> {
        let kept = Kept::open(Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0)))).unwrap();
        let (keeper, _) = Keeper::new(Keep {
            kept,
            blame: None,
            stood_still: false,
        });
        Devices {
            rings: RingMapper {
                hypervisor: (),
                path: DataPath::Copy,
                mappings: kept.mappings(),
            },
            list: vec![AttachedDevice {
                id: DEVICE,
                disk: OpenDisk::Removed(Refusal::new(Errno::ENODEV, "no matter")),
                generation: Generation(1),
                rings: Vec::new(),
                phase,
                layout: None,
                shown: 0,
                at_work_ns: 0,
                limits: DeviceLimits::default(),
                asked: DiskRequest {
                    target: "no matter".into(),
                    access: Access::Write,
                    discard: false,
                    sectors: false,
                    limits: Box::default(),
                },
                early: None,
            }],
            next_token: 0,
            keeper,
            shares: Shares::default(),
            changed: false,
        }
    }

    #[test]
    fn what_xenbus_ends_is_answered_by_its_end_however_far_it_had_got() {
        let refusal = Refusal::new(Errno::ENOSPC, "no place");
        let refused = Some(Outcome::Refused(refusal.clone()));
        for (phase, without) in [
            (ConnectionPhase::Connecting, Some(Outcome::Connected)),
            (ConnectionPhase::Connected, None),
            (ConnectionPhase::Refused(refusal), refused),
            (ConnectionPhase::Disconnecting, Some(Outcome::Disconnected)),
        ] {
            assert_eq!(one(phase.clone()).list[0].take_outcome(), without);
            let mut devices = one(phase);
            assert!(!devices.disconnect(DEVICE, Generation(2)));
            assert!(devices.disconnect(DEVICE, Generation(1)));
            assert!(devices.list[0].is_ending());
            let outcome = devices.list[0].take_outcome();
            assert_eq!(outcome, Some(Outcome::Disconnected));
            assert!(
                !devices.disconnect(DEVICE, Generation(1)),
                "it is said once"
            );
        }
    }
}
