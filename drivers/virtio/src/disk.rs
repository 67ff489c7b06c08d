//! A device: its queues, its health, its size, and its end. For the control core.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use spindle_block::{Command, DiskOptions, IoResult, Op, Tag, Unit, Volume};
use spindle_hw::{Clock, DmaAlloc, NarrowRegisters};
use virtio_drivers::transport::{DeviceStatus, Transport};

use crate::bring_up::{Stage, is_acknowledged};
use crate::config::{self, Features, Geometry};
use crate::engine::{Engine, Reports};
use crate::handover::Handover;
use crate::request::kind;
use crate::revival::Identity;
use crate::{BlockQueue, Error, PciTransport, volume};

/// How long a reset may take; the specification names no limit.
pub(crate) const RESET_LIMIT: Duration = Duration::from_secs(5);
/// How long the last flush may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);
/// The last flush, beside whatever is still in flight: no ring has so high a tag, and what is read for the
/// control core has the one above.
const LAST_FLUSH: Tag = Tag(u32::MAX - 1);

/// A device that is brought up, or can be.
///
/// Its queues' memory goes back to `memory` only when the device cannot reach it any longer. A
/// device that is dropped rather than shut down keeps its memory for good.
#[derive(Debug)]
pub struct Disk<R, C, M> {
    pub(crate) transport: PciTransport<R>,
    pub(crate) clock: C,
    pub(crate) memory: M,
    pub(crate) options: DiskOptions,
    pub(crate) features: Features,
    pub(crate) geometry: Geometry,
    pub(crate) serial: String,
    /// Whether it has given one, now or an earlier time.
    pub(crate) named: bool,
    /// By the numbers of the virtqueues.
    pub(crate) places: Vec<Place>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) stage: Stage,
}

/// A virtqueue, which a core may have.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// There is one: here, or with a core.
    pub(crate) made: bool,
    /// A core has a [`BlockQueue`] for it.
    pub(crate) held: bool,
    pub(crate) handover: Arc<Handover>,
}

impl Place {
    /// Whether a core has the virtqueue itself.
    pub(crate) fn is_with_core(&self) -> bool {
        self.made && !self.handover.is_kept()
    }
}

impl<R: NarrowRegisters, C: Clock, M: DmaAlloc> Disk<R, C, M> {
    /// A device that is not touched before [`Disk::bring_up`]. Its queues get 4 to 1024 entries.
    pub fn new(transport: PciTransport<R>, clock: C, memory: M, options: DiskOptions) -> Self {
        Self {
            transport,
            clock,
            memory,
            options,
            features: Features::empty(),
            geometry: Geometry::default(),
            serial: String::new(),
            named: false,
            places: Vec::new(),
            reports: Arc::default(),
            stage: Stage::Off,
        }
    }

    /// Resets the device behind `transport` and brings it up.
    ///
    /// # Errors
    /// As [`Disk::bring_up`].
    pub fn start(
        transport: PciTransport<R>,
        clock: C,
        memory: M,
        options: DiskOptions,
    ) -> Result<Self, Error> {
        let mut disk = Self::new(transport, clock, memory, options);
        disk.bring_up()?;
        Ok(disk)
    }

    /// Serial number, empty if there is none; printable, without spaces.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Virtqueues that are set up.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.places.iter().filter(|place| place.made).count() as u16
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
            return Err(Error::Late(self.options.timeout));
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

    /// Whether it was brought up, and has not been given up since.
    pub(crate) fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// By what the disk is known again, if it is running.
    pub(crate) fn identity(&self) -> Option<Identity> {
        matches!(self.stage, Stage::Up | Stage::Running)
            .then(|| Identity::of(&self.geometry, self.features, &self.serial))
    }

    /// The device is lost: no core takes a queue any longer.
    pub(crate) fn give_up(&mut self) {
        self.stage = Stage::Off;
        let places = self.places.iter();
        places.for_each(|place| place.handover.withdraw());
    }

    /// Gives a core a virtqueue, with a handle of its own to the BAR of the notification
    /// registers. If the device is not up, the queue takes no commands before it is.
    ///
    /// # Errors
    /// [`Error::NoQueue`] if all are in use.
    pub fn create_queue<Q: NarrowRegisters>(
        &mut self,
        registers: Q,
    ) -> Result<BlockQueue<Q>, Error> {
        let running = self.is_running();
        let have = self.queues();
        // It is not known yet how many a device has that has never been up.
        if !running && self.places.len() < self.options.queues.max(1).into() {
            self.places.push(Place::default());
        }
        for (number, place) in (0..).zip(&mut self.places) {
            if place.held || running && !place.made {
                continue;
            }
            place.held = true;
            let engine = running.then(|| place.handover.take()).flatten();
            let depth = engine.as_ref().map(Engine::capacity);
            let depth = depth.unwrap_or(self.options.depth.into());
            let handover = Arc::clone(&place.handover);
            return Ok(BlockQueue::new(engine, handover, number, depth, registers));
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
        for BlockQueue { engine, number, .. } in queues {
            if let Some((place, engine)) = self.places.get(usize::from(number)).zip(engine) {
                place.handover.keep(engine);
            }
        }
        let written_out = match self.is_running() {
            true if self.features.contains(Features::FLUSH) => self.write_out(),
            true => Ok(()),
            false => Err(Error::Lost),
        };
        written_out.and(self.reset_and_free())
    }

    /// Flushes, by the first queue that can.
    fn write_out(&mut self) -> Result<(), Error> {
        self.health()?;
        for (number, place) in (0..).zip(&self.places) {
            let Some(mut engine) = place.handover.take() else {
                continue;
            };
            let usable = !engine.is_abandoned();
            let flushed = usable.then(|| {
                let (transport, shift) = (&mut self.transport, self.geometry.block_shift);
                flush(&mut engine, number, transport, &self.clock, shift)
            });
            place.handover.keep(engine);
            if let Some(flushed) = flushed {
                return flushed;
            }
        }
        Err(Error::Flush)
    }

    pub(crate) fn reset_and_free(&mut self) -> Result<(), Error> {
        reset(&mut self.transport, &self.clock)?;
        self.free_queues();
        Ok(())
    }

    /// Gives the memory of all queues back, of which the device reaches none any longer.
    pub(crate) fn free_queues(&mut self) {
        for place in &mut self.places {
            if let Some(engine) = place.handover.take() {
                engine.free(&self.memory);
                place.made = false;
            }
        }
    }
}

/// Makes the device forget everything (2.4.1), whoever has driven it; afterwards it touches no memory.
/// For a driver that finds it as an earlier one has left it, before it uses any memory that was the
/// earlier one's. By its status it is still known afterwards whether it has had power all the time
/// ([`Disk::bring_up_again`]).
///
/// # Errors
/// [`Error::NoReset`], [`Error::Gone`]: it may still touch memory.
pub fn stop(transport: &mut impl Transport, clock: &impl Clock) -> Result<(), Error> {
    let acknowledged = is_acknowledged(transport.get_status());
    reset(transport, clock)?;
    if acknowledged {
        transport.set_status(DeviceStatus::ACKNOWLEDGE);
    }
    Ok(())
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

/// Has the device write out its cache.
fn flush(
    engine: &mut Engine,
    queue: u16,
    transport: &mut impl Transport,
    clock: &impl Clock,
    block_shift: u8,
) -> Result<(), Error> {
    let flush = Command {
        op: Op::Flush,
        unit: Unit(0),
        block_shift,
        block: 0,
        blocks: 0,
        segments: &[],
    };
    engine
        .submit(&flush, LAST_FLUSH)
        .map_err(|_| Error::Flush)?;
    let start = clock.now_ns();
    let mut flushed: Option<IoResult> = None;
    loop {
        if engine.publish() {
            transport.notify(queue);
        }
        let waited = u128::from(clock.now_ns().saturating_sub(start));
        engine.poll(|tag, result| flushed = flushed.or((tag == LAST_FLUSH).then_some(result)));
        // Nothing else is waited for: what is still in flight may be a request that is never answered.
        if let Some(result) = flushed {
            return result.map_err(|_| Error::Flush);
        }
        if waited > FLUSH_LIMIT.as_nanos() {
            return Err(Error::Timeout {
                kind: kind::FLUSH,
                limit: FLUSH_LIMIT,
            });
        }
        clock.relax();
    }
}
