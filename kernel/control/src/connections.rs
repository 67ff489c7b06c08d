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
use spindle_blkif::{Gate, RingId, RingStats};
use spindle_block::Targets;
use spindle_xen::xenbus::{Backend, ConnectRequest, DeviceId, Generation, Refusal};
use spindle_xen::{DomId, Errno};

use crate::cores::{CoreId, Cores};
use crate::devices::{AttachedDevice, Devices};
use crate::hypervisor::Hypervisor;
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
    fn is_ending(&self) -> bool {
        matches!(
            self.phase,
            ConnectionPhase::Refused(_) | ConnectionPhase::Disconnecting
        )
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
        self.list[at].generation = request.generation;
        self.list[at].phase = ConnectionPhase::Connecting;
        // A member that is not handed on keeps no other waiting.
        let rings = u16::try_from(layout.queues.len()).unwrap_or(u16::MAX);
        for (queue, gate) in layout.queues.iter().zip(Gate::members(rings)) {
            let Some(core) = cores.place(disk.volume.disk) else {
                let text = "no ring core has a queue on this disk";
                self.list[at].phase = ConnectionPhase::Refused(Refusal::new(Errno::ENODEV, text));
                break;
            };
            gate.set_wake(cores.wake(core));
            let taken = self.taken(id.frontend);
            let disk = disk.clone();
            let (rings, segments) = (self.rings, cores.segments());
            let share = rings.check_share(queue, layout, segments, &disk, taken);
            let open = |()| rings.open(id.frontend, queue, disk, layout, segments, gate);
            match share.and_then(open) {
                Ok((session, mapped)) => {
                    let token = self.next_token;
                    self.next_token += 1;
                    let stats = session.stats();
                    self.list[at].rings.push(DeviceRing {
                        token,
                        core,
                        phase: RingPhase::Attaching { resized: None },
                        mapped,
                        stats,
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
                }
            }
            Report::Refused {
                token,
                error,
                session,
            } => {
                let rings = self.rings;
                if let Some((device, ring)) = self.take_ring(|r| r.token == token) {
                    rings.close(&ring.mapped, session.dismantle(rings.hypervisor.grants()));
                    let refusal = Refusal::new(Errno::ENOSPC, error.to_string());
                    if matches!(device.phase, ConnectionPhase::Connecting) {
                        device.phase = ConnectionPhase::Refused(refusal);
                    }
                    cores.vacate(core);
                }
            }
            Report::Detached {
                ring: place,
                remains,
            } => {
                let rings = self.rings;
                if let Some((_, ring)) = self.take_ring(|r| r.is_at(core, place)) {
                    rings.close(&ring.mapped, *remains);
                    cores.vacate(core);
                }
            }
            Report::Halted { ring: place, halt } => {
                if let Some((device, _)) = self.position(|r| r.is_at(core, place)) {
                    let AttachedDevice { id, generation, .. } = self.list[device];
                    error!("{id}: ring halted: {halt}");
                    let text = format!("ring halted: {halt}");
                    backend.failed(id, generation, Refusal::new(Errno::EINVAL, text));
                }
            }
            Report::Stopped(_) | Report::Read(_) => {}
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
            let (id, generation) = (device.id, device.generation);
            match device.take_outcome() {
                None => continue,
                Some(Outcome::Connected) => backend.connected(id, generation, Ok(())),
                Some(Outcome::Refused(why)) => backend.connected(id, generation, Err(why)),
                Some(Outcome::Disconnected) => {
                    info!("{id}: disconnected");
                    backend.disconnected(id, generation);
                }
            }
            reported = true;
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

#[cfg(test)]
mod tests {
    use alloc::vec;

    use spindle_config::DataPath;

    use super::*;
    use crate::devices::OpenDisk;
    use crate::rings::RingMapper;

    const DEVICE: DeviceId = DeviceId {
        frontend: DomId(5),
        device: 51712,
    };

    fn one(phase: ConnectionPhase) -> Devices<()> {
        Devices {
            rings: RingMapper {
                hypervisor: (),
                path: DataPath::Copy,
            },
            list: vec![AttachedDevice {
                id: DEVICE,
                disk: OpenDisk::Removed(Refusal::new(Errno::ENODEV, "no matter")),
                generation: Generation(1),
                rings: Vec::new(),
                phase,
            }],
            next_token: 0,
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
