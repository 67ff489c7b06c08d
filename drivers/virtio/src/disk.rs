//! A device: bring-up, its queues, its size, and its end. For the control core.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use spindle_block::{Command, DiskOptions, IoResult, Op, Tag, Unit, Volume};
use spindle_hw::{Clock, DmaAlloc, NarrowRegisters};
use virtio_drivers::transport::{DeviceStatus, Transport};

use crate::config::{self, Features, Geometry};
use crate::engine::{Engine, MIN_ENTRIES, Patience, Reports};
use crate::request::kind;
use crate::{BlockQueue, Error, PciTransport, volume};

/// How long a reset may take; the specification names no limit.
const RESET_LIMIT: Duration = Duration::from_secs(5);
/// How long the first request may take.
const ID_LIMIT: Duration = Duration::from_secs(5);
/// How long the last flush may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// A running device.
///
/// Its queues' memory goes back to `memory` only when the device cannot reach it any longer. A
/// device that is dropped rather than shut down keeps its memory for ever.
#[derive(Debug)]
pub struct Disk<R, C, M> {
    transport: PciTransport<R>,
    clock: C,
    memory: M,
    features: Features,
    geometry: Geometry,
    serial: String,
    queues: Vec<Place>,
    timeout: Duration,
    reports: Arc<Reports>,
}

/// A virtqueue that the device knows.
#[derive(Debug)]
struct Place {
    /// Where it is notified.
    doorbell: usize,
    /// `None` when a core has it.
    engine: Option<Engine>,
}

impl<R: NarrowRegisters, C: Clock, M: DmaAlloc> Disk<R, C, M> {
    /// Resets the device behind `transport` and brings it up (3.1.1). Its queues get 4 to 1024
    /// entries.
    ///
    /// # Errors
    /// See [`Error`]. The device is then reset if it can be, and the memory given back if it
    /// could be.
    pub fn start(
        mut transport: PciTransport<R>,
        clock: C,
        memory: M,
        options: DiskOptions,
    ) -> Result<Self, Error> {
        reset(&mut transport, &clock)?;
        let features = match negotiate(&mut transport) {
            Ok(features) => features,
            Err(error) => {
                // The first error is the one that tells what happened.
                let _ = reset(&mut transport, &clock);
                return Err(error);
            }
        };
        let mut disk = Self {
            transport,
            clock,
            memory,
            features,
            geometry: Geometry::default(),
            serial: String::new(),
            queues: Vec::new(),
            timeout: options.timeout,
            reports: Arc::default(),
        };
        match disk.bring_up(options) {
            Ok(()) => Ok(disk),
            Err(error) => {
                let _ = disk.reset_and_free(Vec::new());
                Err(error)
            }
        }
    }

    fn bring_up(&mut self, options: DiskOptions) -> Result<(), Error> {
        self.geometry = Geometry::read(&self.transport, self.features)?;
        // All virtqueues have to be there before the device goes live.
        for number in 0..self.geometry.queues.min(options.queues.max(1)) {
            let entries = self.transport.max_queue_size(number);
            if entries < MIN_ENTRIES.into() {
                if number == 0 {
                    return Err(Error::QueueSize {
                        queue: number,
                        entries,
                    });
                }
                break;
            }
            let depth = u32::from(options.depth.clamp(MIN_ENTRIES, 1024)).min(entries);
            let doorbell = self.transport.doorbell(number);
            let doorbell = doorbell.ok_or(Error::Doorbell(number))?;
            let patience = Patience {
                limit_ns: u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX),
                look_ns: 0,
                reports: Arc::clone(&self.reports),
            };
            let size = 1 << depth.ilog2();
            let engine = Engine::new(size, self.features, &self.geometry, patience, &self.memory)?;
            let [descriptors, driver, device] = engine.addresses();
            let size = engine.size().into();
            self.queues.push(Place {
                doorbell,
                engine: Some(engine),
            });
            self.transport
                .queue_set(number, size, descriptors, driver, device);
        }
        self.transport.finish_init();
        self.health()?;
        self.serial = self.ask_serial()?;
        Ok(())
    }

    /// The serial number, empty if there is none.
    fn ask_serial(&mut self) -> Result<String, Error> {
        let Some(engine) = self
            .queues
            .first_mut()
            .and_then(|place| place.engine.as_mut())
        else {
            return Ok(String::new());
        };
        let Some(slot) = engine.ask_id() else {
            return Ok(String::new());
        };
        let asked = finish(
            engine,
            0,
            &mut self.transport,
            &self.clock,
            kind::GET_ID,
            ID_LIMIT,
        )?;
        // A device that does not know the request has no serial number.
        Ok(asked.map_or(String::new(), |()| volume::serial(&engine.id(slot))))
    }

    /// Serial number, empty if there is none; printable, without spaces.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Virtqueues that are set up.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    /// The whole of it as a volume of the kernel's disk `disk`, named after its number among the
    /// virtio disks: `vda`, `vdb`.
    #[must_use]
    pub fn volume(&self, disk: usize, number: usize) -> Volume {
        volume::describe(&self.geometry, self.features, &self.serial, disk, number)
    }

    /// Looks whether the device is still there and well.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::NeedsReset`] or [`Error::Late`]: each core should then call
    /// [`spindle_block::DiskQueue::fail_all`] and give its queues back.
    pub fn health(&self) -> Result<(), Error> {
        let status = self.transport.get_status();
        if status.bits() == u8::MAX.into() || !status.contains(DeviceStatus::DRIVER_OK) {
            return Err(Error::Gone);
        }
        if status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            return Err(Error::NeedsReset);
        }
        if self.reports.late.load(Ordering::Relaxed) {
            return Err(Error::Late(self.timeout));
        }
        Ok(())
    }

    /// Entries of used rings that named no request in flight, on all queues: counted and ignored.
    #[must_use]
    pub fn spurious(&self) -> u64 {
        self.reports.spurious.load(Ordering::Relaxed)
    }

    /// Reads the size again; gives the new one in sectors of 512 bytes if it has changed.
    ///
    /// # Errors
    /// The size is not plausible or does not settle; the old one counts on.
    pub fn resized(&mut self) -> Result<Option<u64>, Error> {
        let sectors = config::sectors(&self.transport, self.geometry.block_shift)?;
        let old = core::mem::replace(&mut self.geometry.sectors, sectors);
        Ok((sectors != old).then_some(sectors))
    }

    /// Gives a core a virtqueue, with a handle of its own to the BAR of the notification
    /// registers.
    ///
    /// # Errors
    /// [`Error::NoQueue`] if all are in use.
    pub fn create_queue<Q: NarrowRegisters>(
        &mut self,
        registers: Q,
    ) -> Result<BlockQueue<Q>, Error> {
        let have = self.queues();
        for (number, place) in (0..).zip(&mut self.queues) {
            if let Some(engine) = place.engine.take() {
                return Ok(BlockQueue::new(engine, number, registers, place.doorbell));
            }
        }
        Err(Error::NoQueue { have })
    }

    /// Ends it: has the device write out its cache, resets it, and gives the memory back.
    /// `queues` are all that were made.
    ///
    /// # Errors
    /// The first thing that went wrong; all the rest was done nevertheless, except that memory is
    /// kept if the device did not reset.
    pub fn shutdown<Q>(
        mut self,
        queues: impl IntoIterator<Item = BlockQueue<Q>>,
    ) -> Result<(), Error> {
        let unused = (0..).zip(&mut self.queues);
        let mut all: Vec<(u16, Engine)> = unused
            .filter_map(|(number, place)| Some((number, place.engine.take()?)))
            .collect();
        all.extend(queues.into_iter().map(|queue| (queue.number, queue.engine)));
        let written_out = if self.features.contains(Features::FLUSH) {
            self.write_out(&mut all)
        } else {
            Ok(())
        };
        let engines = all.into_iter().map(|(_, engine)| engine).collect();
        written_out.and(self.reset_and_free(engines))
    }

    /// Flushes, by the first queue that can.
    fn write_out(&mut self, queues: &mut [(u16, Engine)]) -> Result<(), Error> {
        self.health()?;
        let usable = queues.iter_mut().find(|(_, engine)| !engine.is_gone());
        let (number, engine) = usable.ok_or(Error::Flush)?;
        let flush = Command {
            op: Op::Flush,
            unit: Unit(0),
            block_shift: self.geometry.block_shift,
            block: 0,
            blocks: 0,
            segments: &[],
        };
        engine.submit(&flush, Tag(0)).map_err(|_| Error::Flush)?;
        let done = finish(
            engine,
            *number,
            &mut self.transport,
            &self.clock,
            kind::FLUSH,
            FLUSH_LIMIT,
        )?;
        done.map_err(|_| Error::Flush)
    }

    fn reset_and_free(mut self, engines: Vec<Engine>) -> Result<(), Error> {
        reset(&mut self.transport, &self.clock)?;
        let unused = self.queues.into_iter().filter_map(|place| place.engine);
        for engine in engines.into_iter().chain(unused) {
            engine.free(&self.memory);
        }
        Ok(())
    }
}

/// Makes the device forget everything (2.4.1); afterwards it touches no memory.
fn reset(transport: &mut impl Transport, clock: &impl Clock) -> Result<(), Error> {
    transport.set_status(DeviceStatus::empty());
    let start = clock.now_ns();
    loop {
        // Time first: a pause of this core between the two must not look like lateness.
        let waited = u128::from(clock.now_ns().saturating_sub(start));
        match transport.get_status().bits() {
            0 => return Ok(()),
            0xff => return Err(Error::Gone),
            _ if waited > RESET_LIMIT.as_nanos() => return Err(Error::NoReset(RESET_LIMIT)),
            _ => clock.relax(),
        }
    }
}

/// Settles the features with a device that was reset. `Transport::begin_init` neither waits for
/// the reset nor asks whether the device agrees.
fn negotiate(transport: &mut impl Transport) -> Result<Features, Error> {
    let found = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(found);
    let features = Features::from_bits_truncate(transport.read_device_features());
    if !features.contains(Features::VERSION_1) {
        return Err(Error::Legacy);
    }
    if !features.contains(Features::ACCESS_PLATFORM) {
        return Err(Error::BypassesIommu);
    }
    transport.write_driver_features(features.bits());
    let settled = found | DeviceStatus::FEATURES_OK;
    transport.set_status(settled);
    if !transport.get_status().contains(settled) {
        return Err(Error::FeaturesRefused(features.bits()));
    }
    Ok(features)
}

/// Waits until no command is in flight in a queue, of which the last was of type `kind`; gives how
/// that one ended.
fn finish(
    engine: &mut Engine,
    queue: u16,
    transport: &mut impl Transport,
    clock: &impl Clock,
    kind: u32,
    limit: Duration,
) -> Result<IoResult, Error> {
    let start = clock.now_ns();
    let mut last = Ok(());
    loop {
        if engine.publish() {
            transport.notify(queue);
        }
        let waited = u128::from(clock.now_ns().saturating_sub(start));
        engine.poll(|_, result| last = result);
        if engine.in_flight() == 0 {
            return Ok(last);
        }
        if waited > limit.as_nanos() {
            return Err(Error::Timeout { kind, limit });
        }
        clock.relax();
    }
}
