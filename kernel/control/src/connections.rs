//! Connections: the rings of each frontend, from xenbus's request to the cores and back.
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
use spindle_xen::xenbus::{Backend, ConnectRequest, DeviceId, Generation, Refusal};
use spindle_xen::{DomId, Errno};

use crate::cores::Cores;
use crate::hypervisor::Hypervisor;
use crate::rings::{Mapped, Rings, Served, Taken};
use crate::worker::CoreWorker;

/// A ring and where it is.
#[derive(Debug)]
struct Ring {
    token: u64,
    core: usize,
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

impl Ring {
    /// Whether its place on `core` is, or was, `place`.
    fn is_at(&self, core: usize, place: RingId) -> bool {
        let at = match self.phase {
            RingPhase::Attaching { .. } => None,
            RingPhase::Attached(at) | RingPhase::Detaching(at) => Some(at),
        };
        self.core == core && at == Some(place)
    }
}

/// How far a connection has got.
#[derive(Debug)]
enum Phase {
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

/// A frontend's rings.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) device: DeviceId,
    generation: Generation,
    rings: Vec<Ring>,
    phase: Phase,
}

impl Connection {
    /// The counters of its rings.
    pub(crate) fn stats(&self) -> impl Iterator<Item = &RingStats> {
        self.rings.iter().map(|ring| &*ring.stats)
    }

    /// Whether its rings are to be given back.
    fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Refused(_) | Phase::Disconnecting)
    }

    /// What xenbus is to hear of it now, if anything.
    fn outcome(&mut self) -> Option<Outcome> {
        let is_attached = |ring: &Ring| matches!(ring.phase, RingPhase::Attached(_));
        match &self.phase {
            Phase::Connecting if self.rings.iter().all(is_attached) => {
                self.phase = Phase::Connected;
                Some(Outcome::Connected)
            }
            Phase::Refused(refusal) if self.rings.is_empty() => {
                Some(Outcome::Refused(refusal.clone()))
            }
            Phase::Disconnecting if self.rings.is_empty() => Some(Outcome::Disconnected),
            _ => None,
        }
    }
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Connections<H> {
    rings: Rings<H>,
    list: Vec<Connection>,
    next_token: u64,
}

impl<H> Connections<H> {
    /// Starts to end a connection; false if there is no such one. Xenbus waits for the end from now
    /// on and for nothing else, so that one that cannot stand is no exception: its refusal would be
    /// taken for the answer to something else.
    pub(crate) fn disconnect(&mut self, device: DeviceId, of: Generation) -> bool {
        let mut list = self.list.iter_mut();
        let found = list.find(|c| c.device == device && c.generation == of);
        let Some(connection) = found else {
            return false;
        };
        connection.phase = Phase::Disconnecting;
        true
    }
}

impl<H: Hypervisor> Connections<H> {
    /// None yet.
    pub(crate) fn new(rings: Rings<H>) -> Self {
        Self {
            rings,
            list: Vec::new(),
            next_token: 0,
        }
    }

    /// Those there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.list.iter()
    }

    /// Maps a frontend's rings and hands them to the cores. The backend hears of the outcome by
    /// [`Connections::settle`].
    pub(crate) fn connect<W: CoreWorker>(
        &mut self,
        request: &ConnectRequest,
        disk: &Served,
        cores: &mut Cores<H, W>,
    ) {
        let ConnectRequest {
            device,
            generation,
            layout,
        } = request;
        let mut connection = Connection {
            device: *device,
            generation: *generation,
            rings: Vec::new(),
            phase: Phase::Connecting,
        };
        // A member that is not handed on keeps no other waiting.
        let rings = u16::try_from(layout.queues.len()).unwrap_or(u16::MAX);
        for (queue, gate) in layout.queues.iter().zip(Gate::members(rings)) {
            let Some(core) = cores.place(disk.volume.disk) else {
                let text = "no ring core has a queue on this disk";
                connection.phase = Phase::Refused(Refusal::new(Errno::ENODEV, text));
                break;
            };
            gate.set_wake(cores.wake(core));
            let taken = self.taken(device.frontend, &connection);
            let disk = disk.clone();
            let (rings, segments) = (self.rings, cores.segments());
            let share = rings.check_share(queue, layout, segments, &disk, taken);
            let open = |()| rings.open(device.frontend, queue, disk, layout, segments, gate);
            match share.and_then(open) {
                Ok((session, mapped)) => {
                    let token = self.next_token;
                    self.next_token += 1;
                    let stats = session.stats();
                    connection.rings.push(Ring {
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
                    connection.phase = Phase::Refused(refusal);
                    break;
                }
            }
        }
        if matches!(connection.phase, Phase::Connecting) {
            let pages = layout.queues.first().map_or(0, |queue| queue.refs.len());
            let (path, kept) = (self.rings.path, layout.persistent);
            let path = if kept && path.offers_persistent() {
                "persistent grants"
            } else if path.maps(kept) {
                "grants mapped for each request"
            } else {
                "grant copy"
            };
            let on: Vec<_> = connection
                .rings
                .iter()
                .map(|r| (r.core + 1).to_string())
                .collect();
            let (count, on) = (on.len(), on.join(", "));
            info!("{device}: {count} rings of {pages} pages on cores {on}, {path}");
        }
        self.list.push(connection);
    }

    /// What rings take of memory, those of `connection`, a guest's new one, among them.
    fn taken(&self, guest: DomId, connection: &Connection) -> Taken {
        let bytes = |connection: &Connection| -> usize {
            connection.rings.iter().map(|ring| ring.mapped.bytes).sum()
        };
        let new = bytes(connection);
        let mut taken = Taken {
            by_guest: new,
            by_all: new,
        };
        for connection in &self.list {
            let bytes = bytes(connection);
            taken.by_all += bytes;
            if connection.device.frontend == guest {
                taken.by_guest += bytes;
            }
        }
        taken
    }

    /// The disk of `device` has another size, in sectors of 512 bytes: passes that on to the cores
    /// of its rings. A ring that is being detached takes no further request.
    pub(crate) fn resize<W: CoreWorker>(
        &mut self,
        device: DeviceId,
        sectors: u64,
        cores: &mut Cores<H, W>,
    ) {
        let connections = self.list.iter_mut().filter(|c| c.device == device);
        for ring in connections.flat_map(|connection| &mut connection.rings) {
            match &mut ring.phase {
                RingPhase::Attaching { resized } => *resized = Some(sectors),
                &mut RingPhase::Attached(at) => {
                    cores.order(ring.core, Order::Resize { ring: at, sectors });
                }
                RingPhase::Detaching(_) => {}
            }
        }
    }

    /// Notes what a core reported.
    pub(crate) fn reported<W: CoreWorker>(
        &mut self,
        core: usize,
        report: Report<W::Queue>,
        backend: &mut Backend,
        cores: &mut Cores<H, W>,
    ) {
        match report {
            Report::Attached { token, ring } => {
                if let Some((connection, at)) = self.position(|r| r.token == token) {
                    let attached = &mut self.list[connection].rings[at];
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
                if let Some((connection, ring)) = self.remove(|r| r.token == token) {
                    rings.close(&ring.mapped, &session.dismantle(rings.hypervisor.grants()));
                    let refusal = Refusal::new(Errno::ENOSPC, error.to_string());
                    if matches!(connection.phase, Phase::Connecting) {
                        connection.phase = Phase::Refused(refusal);
                    }
                    cores.vacate(core);
                }
            }
            Report::Detached {
                ring: place,
                remains,
            } => {
                let rings = self.rings;
                if let Some((_, ring)) = self.remove(|r| r.is_at(core, place)) {
                    rings.close(&ring.mapped, &remains);
                    cores.vacate(core);
                }
            }
            Report::Halted { ring: place, halt } => {
                if let Some((connection, _)) = self.position(|r| r.is_at(core, place)) {
                    let Connection {
                        device, generation, ..
                    } = self.list[connection];
                    error!("{device}: ring halted: {halt}");
                    let text = format!("ring halted: {halt}");
                    backend.failed(device, generation, Refusal::new(Errno::EINVAL, text));
                }
            }
            Report::Stopped(_) => {}
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
        self.list.retain_mut(|connection| {
            if connection.is_ending() {
                for ring in &mut connection.rings {
                    if let RingPhase::Attached(place) = ring.phase {
                        ring.phase = RingPhase::Detaching(place);
                        cores.order(ring.core, Order::Detach(place));
                    }
                }
            }
            let Some(outcome) = connection.outcome() else {
                return true;
            };
            reported = true;
            let (device, generation) = (connection.device, connection.generation);
            match outcome {
                Outcome::Connected => {
                    backend.connected(device, generation, Ok(()));
                    return true;
                }
                Outcome::Refused(refusal) => backend.connected(device, generation, Err(refusal)),
                Outcome::Disconnected => {
                    info!("{device}: disconnected");
                    backend.disconnected(device, generation);
                }
            }
            false
        });
        reported
    }

    /// Which ring of which connection.
    fn position(&self, which: impl Fn(&Ring) -> bool) -> Option<(usize, usize)> {
        let mut list = self.list.iter().enumerate();
        list.find_map(|(i, connection)| Some((i, connection.rings.iter().position(&which)?)))
    }

    fn remove(&mut self, which: impl Fn(&Ring) -> bool) -> Option<(&mut Connection, Ring)> {
        let (connection, ring) = self.position(which)?;
        let connection = &mut self.list[connection];
        let ring = connection.rings.swap_remove(ring);
        Some((connection, ring))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use spindle_config::DataPath;

    use super::*;

    const DEVICE: DeviceId = DeviceId {
        frontend: DomId(5),
        device: 51712,
    };

    fn one(phase: Phase) -> Connections<()> {
        Connections {
            rings: Rings {
                hypervisor: (),
                path: DataPath::Copy,
            },
            list: vec![Connection {
                device: DEVICE,
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
            (Phase::Connecting, Some(Outcome::Connected)),
            (Phase::Connected, None),
            (Phase::Refused(refusal), refused),
            (Phase::Disconnecting, Some(Outcome::Disconnected)),
        ] {
            let mut connections = one(phase);
            assert!(!connections.disconnect(DEVICE, Generation(2)));
            assert_eq!(connections.list[0].outcome(), without);
            assert!(connections.disconnect(DEVICE, Generation(1)));
            assert!(connections.list[0].is_ending());
            let outcome = connections.list[0].outcome();
            assert_eq!(outcome, Some(Outcome::Disconnected));
        }
    }
}
