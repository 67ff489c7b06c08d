//! The control core's loop: xenbus, the rings' coming and going, shutdown. With one vCPU the same
//! loop also turns the ring core.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use log::{error, info, warn};
use spindle_blkif::{Config as CoreConfig, RingCore, RingId};
use spindle_block::{TargetError, Use, Volume};
use spindle_hw::{Clock, DmaAlloc};
use spindle_xen::Errno;
use spindle_xen::event::{Notify, Port};
use spindle_xen::store::Ring as StoreRing;
use spindle_xen::xenbus::{
    Access, Action, Backend, ConnectRequest, DeviceId, DiskFacts, Generation, Offer, Refusal,
    ShutdownKind,
};

use crate::disks::{Disks, Queue};
use crate::mm::Memory;
use crate::rings::{Mapped, Rings};
use crate::xen::{Events, Grants, sched, time::CoreClock};

/// How long the guests get to let go of their disks when we are told to shut down.
const SHUTDOWN_NS: u64 = 8_000_000_000;
/// How often the disks are asked whether they are well.
const HEALTH_NS: u64 = 1_000_000_000;
/// Buffer pages for grant copy: a sixteenth of what is free, within these bounds.
const BUFFERS: (u64, u64) = (128, 1024);

/// What the whole domain offers to frontends.
const OFFER: Offer = Offer {
    max_queues: 1,
    max_ring_page_order: 0,
    max_indirect_segments: 0,
    persistent: true,
};

/// A device whose disk is open.
#[derive(Debug)]
struct Opened {
    device: DeviceId,
    volume: Volume,
}

/// A ring that a core serves.
#[derive(Debug)]
struct Connection {
    device: DeviceId,
    generation: Generation,
    ring: RingId,
    mapped: Mapped,
    draining: bool,
}

/// The control core's state.
#[derive(Debug)]
pub(crate) struct Control {
    clock: &'static CoreClock,
    events: Events,
    store: StoreRing,
    store_port: Port,
    backend: Backend,
    disks: Disks,
    rings: Rings,
    core: RingCore<Queue, Grants, Events>,
    opened: Vec<Opened>,
    connections: Vec<Connection>,
    /// Whether the backend has something to do besides what xenstored may send.
    pump_due: bool,
    health_at: u64,
    failed: Vec<usize>,
    shutdown: Option<ShutdownKind>,
}

/// Where the store's ring is and how to tell xenstored.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) ring: StoreRing,
    pub(crate) port: Port,
}

impl Control {
    /// Sets up the ring core and the backend, and says hello in xenstore.
    ///
    /// # Errors
    /// With the reason, if there is not the memory for it or a disk gives no queue.
    pub(crate) fn new(
        memory: &Memory,
        clock: &'static CoreClock,
        rings: Rings,
        store: Store,
        mut disks: Disks,
    ) -> Result<Self, alloc::string::String> {
        let pages = (memory.dma.free_bytes() / 4096 / 16).clamp(BUFFERS.0, BUFFERS.1);
        let buffers = memory
            .dma
            .alloc(pages as usize)
            .ok_or("no memory for buffers")?;
        let queues = disks.queues()?;
        let Rings { grants, events, .. } = rings;
        let core = RingCore::new(CoreConfig::default(), queues, grants, events, buffers)
            .map_err(|error| error.to_string())?;
        let mut backend = Backend::new(OFFER);
        let version = format!("{} {}", env!("CARGO_PKG_VERSION"), env!("SPINDLE_GIT"));
        backend.publish("data/spindle/version", version);
        backend.publish("data/spindle/disks", disks.list());
        backend.publish("data/spindle/ready", "1");
        Ok(Self {
            clock,
            events,
            store: store.ring,
            store_port: store.port,
            backend,
            disks,
            rings,
            core,
            opened: Vec::new(),
            connections: Vec::new(),
            pump_due: true,
            health_at: 0,
            failed: Vec::new(),
            shutdown: None,
        })
    }

    /// Runs until the toolstack asks for a shutdown; then everything is closed and off.
    pub(crate) fn run(mut self) -> ShutdownKind {
        let kind = loop {
            let now = self.clock.now_ns();
            if let Some(kind) = self.pump(now) {
                break kind;
            }
            let work = self.core.visit();
            if work.fault {
                self.report_faults();
            }
            self.finish_drained();
            if now >= self.health_at {
                self.look_at_disks(now);
            }
            if work.is_idle() && !self.pump_due {
                self.sleep();
            }
        };
        for connection in &self.connections {
            warn!(
                "{}: still connected at shutdown; cut off",
                connection.device
            );
        }
        self.disks.shutdown(self.core.into_queues());
        kind
    }

    /// Lets the backend do what is due. Gives the kind of shutdown once that is through.
    fn pump(&mut self, now: u64) -> Option<ShutdownKind> {
        let due = self.backend.next_deadline().is_some_and(|at| at <= now);
        if !(self.events.take_pending(self.store_port) || self.pump_due || due) {
            return None;
        }
        self.pump_due = false;
        while let Some(action) = self.backend.pump(&mut self.store, now) {
            match action {
                Action::Open {
                    device,
                    params,
                    access,
                } => {
                    let result = self.open(device, &params, access);
                    self.backend.opened(device, result);
                }
                Action::Connect(request) => self.connect(&request),
                Action::Disconnect { device, generation } => self.disconnect(device, generation),
                Action::Close { device } => self.close(device),
                Action::ShutdownRequested(kind) => {
                    info!("shutdown requested: {kind:?}");
                    self.shutdown = Some(kind);
                    self.backend.shutdown(now, now + SHUTDOWN_NS);
                }
                Action::ShutDown { clean } => {
                    if !clean {
                        warn!("some guests did not let go of their disks in time");
                    }
                    return self.shutdown;
                }
                Action::StoreLost => {
                    // The rings need no xenstore; what is attached goes on.
                    error!("xenstore is lost: no disk can be attached or detached any more");
                }
            }
        }
        if self.store.take_notify() {
            self.events.notify(self.store_port);
        }
        None
    }

    fn open(
        &mut self,
        device: DeviceId,
        params: &str,
        access: Access,
    ) -> Result<DiskFacts, Refusal> {
        let usage = match access {
            Access::ReadOnly => Use::Read,
            Access::ReadWrite => Use::Write,
            Access::SharedReadWrite => Use::SharedWrite,
        };
        let claim = self.disks.targets.claim(params, usage, &device.to_string());
        let volume = claim.map_err(|error| {
            let errno = match error {
                TargetError::Unknown { .. } => Errno::ENOENT,
                TargetError::InUse { .. } => Errno::EBUSY,
                TargetError::ReadOnly(_) => Errno::EROFS,
            };
            Refusal::new(errno, error.to_string())
        })?;
        let mut volume = volume.clone();
        volume.read_only |= access == Access::ReadOnly;
        let facts = DiskFacts {
            sectors: volume.sectors,
            sector_size: 1 << volume.block_shift,
            physical_sector_size: 1 << volume.physical_block_shift,
            read_only: volume.read_only,
            // Also answered where there is no cache to write out: then at once.
            flush: true,
            barrier: false,
            discard: None,
        };
        info!(
            "{device}: {} for {}",
            volume.name,
            if facts.read_only {
                "reading"
            } else {
                "writing"
            }
        );
        self.opened.retain(|opened| opened.device != device);
        self.opened.push(Opened { device, volume });
        Ok(facts)
    }

    fn close(&mut self, device: DeviceId) {
        self.opened.retain(|opened| opened.device != device);
        self.disks.targets.release(&device.to_string());
        info!("{device}: closed");
    }

    fn connect(&mut self, request: &ConnectRequest) {
        let (device, generation) = (request.device, request.generation);
        let result = self.try_connect(request);
        self.backend.connected(device, generation, result);
        self.pump_due = true;
    }

    fn try_connect(&mut self, request: &ConnectRequest) -> Result<(), Refusal> {
        let device = request.device;
        let ours = |what: &'static str| Refusal::new(Errno::EINVAL, what);
        let opened = self.opened.iter().find(|opened| opened.device == device);
        let volume = opened
            .ok_or_else(|| ours("its disk is not open"))?
            .volume
            .clone();
        let layout = &request.layout;
        let [queue] = &layout.queues[..] else {
            return Err(ours("one queue was offered"));
        };
        let rings = self.rings;
        let (session, mapped) = rings.open(
            device.frontend,
            queue,
            volume,
            layout.protocol,
            layout.persistent,
        )?;
        let ring = match self.core.attach(session) {
            Ok(ring) => ring,
            Err((error, session)) => {
                rings.close(&mapped, &session.dismantle(&rings.grants));
                return Err(Refusal::new(Errno::ENOSPC, error.to_string()));
            }
        };
        let path = if layout.persistent {
            "persistent grants"
        } else {
            "grant copy"
        };
        info!(
            "{device}: connected, {} page ring, {path}",
            queue.refs.len()
        );
        let generation = request.generation;
        self.connections.push(Connection {
            device,
            generation,
            ring,
            mapped,
            draining: false,
        });
        Ok(())
    }

    fn disconnect(&mut self, device: DeviceId, generation: Generation) {
        let mut connections = self.connections.iter_mut();
        match connections.find(|c| c.device == device && c.generation == generation) {
            Some(connection) => {
                connection.draining = true;
                self.core.begin_detach(connection.ring);
            }
            None => self.backend.disconnected(device, generation),
        }
        self.pump_due = true;
    }

    /// Lets go of the rings that have nothing in flight any more.
    fn finish_drained(&mut self) {
        let core = &self.core;
        let drained = |c: &mut Connection| c.draining && core.is_drained(c.ring);
        let drained: Vec<Connection> = self.connections.extract_if(.., drained).collect();
        for connection in drained {
            match self.core.detach(connection.ring) {
                Ok(detached) => self.rings.close(&connection.mapped, &detached),
                Err(error) => error!("{}: {error}", connection.device),
            }
            info!("{}: disconnected", connection.device);
            self.backend
                .disconnected(connection.device, connection.generation);
            self.pump_due = true;
        }
    }

    fn report_faults(&mut self) {
        while let Some((ring, halt)) = self.core.next_fault() {
            let connection = self.connections.iter().find(|c| c.ring == ring);
            if let Some(Connection {
                device, generation, ..
            }) = connection
            {
                error!("{device}: ring halted: {halt}");
                let text = format!("ring halted: {halt}");
                self.backend
                    .failed(*device, *generation, Refusal::new(Errno::EINVAL, text));
                self.pump_due = true;
            }
        }
    }

    fn look_at_disks(&mut self, now: u64) {
        self.health_at = now + HEALTH_NS;
        while let Some((disk, reason)) = self.disks.failed(&self.failed) {
            error!("disk {disk} is lost: {reason}; all requests to it fail from now on");
            self.failed.push(disk);
            self.core.fail_disk(disk);
        }
    }

    /// Sleeps until there is something to do, unless there is already.
    fn sleep(&mut self) {
        let mut ports: heapless::Vec<Port, { sched::POLL_MAX }> = heapless::Vec::new();
        let rings = self.core.sessions().map(|(_, session)| session.port());
        for port in [self.store_port].into_iter().chain(rings) {
            if port != self.store_port {
                self.events.take_pending(port);
            }
            if ports.push(port).is_err() {
                return;
            }
        }
        if self.core.arm() {
            // An error means that a port just went away: look again.
            let _ = sched::poll(&ports, self.backend.next_deadline().unwrap_or(0));
        }
    }
}
