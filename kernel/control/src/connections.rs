//! Connections: the rings of each frontend, from xenbus's wish to the cores and back.
//!
//! A connection stands when all its rings are attached. It has ended when all of them have been
//! given back and let go; until then nothing of it is forgotten.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

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
    /// Its place there, once attached.
    place: Option<RingId>,
    /// A new size of its disk, in sectors, to be told once it is attached.
    resized: Option<u64>,
    mapped: Mapped,
    stats: Arc<RingStats>,
    leaving: bool,
}

impl Ring {
    /// Tells its core of a new size, as soon as the core has it.
    fn tell_size<H: Hypervisor, W: CoreWorker>(&mut self, cores: &mut Cores<H, W>) {
        if let Some(ring) = self.place
            && let Some(sectors) = self.resized.take()
        {
            cores.order(self.core, Order::Resize { ring, sectors });
        }
    }
}

/// A frontend's rings.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) device: DeviceId,
    generation: Generation,
    rings: Vec<Ring>,
    /// Xenbus has not been told yet whether it stands.
    pending: bool,
    /// Why it shall not stand.
    refusal: Option<Refusal>,
    /// It is to end.
    ending: bool,
}

impl Connection {
    /// The counters of its rings.
    pub(crate) fn stats(&self) -> impl Iterator<Item = &RingStats> {
        self.rings.iter().map(|ring| &*ring.stats)
    }
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Connections<H> {
    rings: Rings<H>,
    list: Vec<Connection>,
    next_token: u64,
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
            pending: true,
            refusal: None,
            ending: false,
        };
        // A member that is not handed on holds nobody up.
        let rings = u16::try_from(layout.queues.len()).unwrap_or(u16::MAX);
        for (queue, gate) in layout.queues.iter().zip(Gate::members(rings)) {
            let Some(core) = cores.place(disk.volume.disk) else {
                let text = "no ring core has a queue on this disk";
                connection.refusal = Some(Refusal::new(Errno::ENODEV, text));
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
                    let (place, resized, leaving) = (None, None, false);
                    connection.rings.push(Ring {
                        token,
                        core,
                        place,
                        resized,
                        mapped,
                        stats,
                        leaving,
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
                    connection.refusal = Some(refusal);
                    break;
                }
            }
        }
        if connection.refusal.is_none() {
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

    /// Starts to end a connection; false if there is no such one.
    pub(crate) fn disconnect(&mut self, device: DeviceId, of: Generation) -> bool {
        let mut list = self.list.iter_mut();
        let found = list.find(|c| c.device == device && c.generation == of);
        found.map(|connection| connection.ending = true).is_some()
    }

    /// The disk of `device` has another size, in sectors of 512 bytes: tells its rings' cores.
    pub(crate) fn resize<W: CoreWorker>(
        &mut self,
        device: DeviceId,
        sectors: u64,
        cores: &mut Cores<H, W>,
    ) {
        for connection in self.list.iter_mut().filter(|c| c.device == device) {
            for ring in &mut connection.rings {
                ring.resized = Some(sectors);
                ring.tell_size(cores);
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
                    attached.place = Some(ring);
                    attached.tell_size(cores);
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
                    connection.refusal.get_or_insert(refusal);
                    cores.vacate(core);
                }
            }
            Report::Detached {
                ring: place,
                remains,
            } => {
                let rings = self.rings;
                let at = |r: &Ring| r.core == core && r.place == Some(place);
                if let Some((_, ring)) = self.remove(at) {
                    rings.close(&ring.mapped, &remains);
                    cores.vacate(core);
                }
            }
            Report::Halted { ring: place, halt } => {
                let at = |r: &Ring| r.core == core && r.place == Some(place);
                if let Some((connection, _)) = self.position(at) {
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

    /// Tells the backend of connections that stand, cannot stand, or have ended, and asks cores
    /// for the rings of those that are to end. True if the backend was told anything.
    pub(crate) fn settle<W: CoreWorker>(
        &mut self,
        backend: &mut Backend,
        cores: &mut Cores<H, W>,
    ) -> bool {
        let mut told = false;
        self.list.retain_mut(|connection| {
            let (device, generation) = (connection.device, connection.generation);
            if connection.ending || connection.refusal.is_some() {
                for ring in &mut connection.rings {
                    if let (Some(place), false) = (ring.place, ring.leaving) {
                        ring.leaving = true;
                        cores.order(ring.core, Order::Detach(place));
                    }
                }
                if !connection.rings.is_empty() {
                    return true;
                }
                told = true;
                match connection.refusal.take() {
                    Some(refusal) if connection.pending => {
                        backend.connected(device, generation, Err(refusal));
                    }
                    _ => {
                        info!("{device}: disconnected");
                        backend.disconnected(device, generation);
                    }
                }
                return false;
            }
            if connection.pending && connection.rings.iter().all(|ring| ring.place.is_some()) {
                connection.pending = false;
                told = true;
                backend.connected(device, generation, Ok(()));
            }
            true
        });
        told
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
