//! Bringing a device up (3.1.1), the first time and each time after it was lost, in steps that do not
//! wait for it: reset, features, configuration, virtqueues, serial number.
//!
//! Queues' memory is freed only once the device has said that it is reset. What a device that does not
//! do so may still reach is kept for good.

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use core::time::Duration;

use spindle_block::IoError;
use spindle_hw::{Clock, DmaAlloc, NarrowRegisters};
use virtio_drivers::transport::{DeviceStatus, Transport};

use crate::config::{Features, Geometry};
use crate::disk::{Disk, Place, RESET_LIMIT};
use crate::engine::{Engine, MIN_ENTRIES, Patience};
use crate::request::kind;
use crate::{Error, volume};

/// How long the first request may take.
const ID_LIMIT: Duration = Duration::from_secs(5);

/// How far a device has come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It was not brought up, or was lost.
    Off,
    /// Until its status reads as 0; since when, in nanoseconds.
    Resetting(u64),
    /// It is reset.
    Reset,
    /// It was asked for its serial number, by the request in a slot of the first queue.
    Asking {
        /// When, in nanoseconds.
        since: u64,
        slot: u16,
    },
    /// It is up, and no core has a queue yet.
    Up,
    /// It works.
    Running,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to come.
    Busy,
    /// It is reset: whatever it did before, it reaches no memory until the next step.
    Quiet,
    /// It is up. [`Disk::run`] gives the cores their queues.
    Up,
}

impl<R: NarrowRegisters, C: Clock, M: DmaAlloc> Disk<R, C, M> {
    /// Brings the device up and waits for it.
    ///
    /// # Errors
    /// See [`Error`]. The device is then reset if it can be, and the memory given back if it
    /// could be; it may be tried again.
    pub fn bring_up(&mut self) -> Result<(), Error> {
        self.begin()?;
        loop {
            match self.advance() {
                Ok(Progress::Up) => break,
                Ok(_) => self.clock.relax(),
                Err(error) => {
                    // The first error is the one that says what happened.
                    let _ = self.reset_and_free();
                    self.stage = Stage::Off;
                    return Err(error);
                }
            }
        }
        self.run();
        Ok(())
    }

    /// As [`Self::bring_up`], for a driver that comes after another one, whose users went on, and
    /// which has left the device at work or by [`stop`](crate::stop). A device that has been without
    /// power since then may have lost what it had answered them, and is left as it is: it is to begin
    /// as [`VirtioDisk::not_started`](crate::VirtioDisk::not_started), so that they hear of that before it
    /// serves, and so that the next driver finds it like that if this one ends before.
    ///
    /// # Errors
    /// As [`Self::bring_up`]; [`Error::Restarted`] if it was without power.
    pub fn bring_up_again(&mut self) -> Result<(), Error> {
        match self.is_acknowledged() {
            true => self.bring_up(),
            false => Err(Error::Restarted),
        }
    }

    /// Whether the device is still as a driver has left it. One that was plugged in or reset since has
    /// not been acknowledged by any (2.1).
    pub(crate) fn is_acknowledged(&self) -> bool {
        is_acknowledged(self.transport.get_status())
    }

    /// Begins to bring it up, whatever state it is in; [`Self::advance`] goes on.
    ///
    /// # Errors
    /// [`Error::Held`] if a core has a queue.
    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        if self.places.iter().any(Place::is_with_core) {
            return Err(Error::Held);
        }
        self.transport.set_status(DeviceStatus::empty());
        self.stage = Stage::Resetting(self.clock.now_ns());
        Ok(())
    }

    /// Takes the next step, if the device is as far.
    ///
    /// # Errors
    /// See [`Error`]. Nothing more comes of it then.
    pub(crate) fn advance(&mut self) -> Result<Progress, Error> {
        // Time first: a pause of this core between the two must not look like lateness.
        let now = self.clock.now_ns();
        let is_late = |since, limit: Duration| {
            let waited = u128::from(now.saturating_sub(since));
            waited > limit.as_nanos()
        };
        match self.stage {
            Stage::Resetting(since) => match self.transport.get_status().bits() {
                0 => {
                    self.stage = Stage::Reset;
                    return Ok(Progress::Quiet);
                }
                0xff => return Err(Error::Gone),
                _ if is_late(since, RESET_LIMIT) => return Err(Error::NoReset(RESET_LIMIT)),
                _ => {}
            },
            Stage::Reset => {
                self.free_queues();
                self.set_up()?;
                self.transport.finish_init();
                self.health()?;
                self.stage = match self.ask_serial() {
                    Some(slot) => Stage::Asking { since: now, slot },
                    None => Stage::Up,
                };
            }
            Stage::Asking { since, slot } => {
                self.health()?;
                if let Some(serial) = self.take_serial(slot)? {
                    self.named |= !serial.is_empty();
                    self.serial = serial;
                    self.stage = Stage::Up;
                } else if is_late(since, ID_LIMIT) {
                    return Err(Error::Timeout {
                        kind: kind::GET_ID,
                        limit: ID_LIMIT,
                    });
                }
            }
            Stage::Up => return Ok(Progress::Up),
            Stage::Off | Stage::Running => return Err(Error::Lost),
        }
        Ok(Progress::Busy)
    }

    /// Has the cores take their queues.
    pub(crate) fn run(&mut self) {
        self.stage = Stage::Running;
        let held = self.places.iter().filter(|place| place.held);
        held.for_each(|place| place.handover.offer());
    }

    /// Settles the features, reads the configuration, and sets up all virtqueues, which have to be
    /// there before the device goes live.
    fn set_up(&mut self) -> Result<(), Error> {
        self.serial.clear();
        self.reports.late.store(false, Ordering::Relaxed);
        self.features = negotiate(&mut self.transport)?;
        self.geometry = Geometry::read(&self.transport, self.features)?;
        let wanted = self.places.len().max(self.options.queues.max(1).into());
        let wanted = u16::try_from(wanted).unwrap_or(u16::MAX);
        for number in 0..self.geometry.queues.min(wanted) {
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
            self.make_queue(number, entries)?;
        }
        let made = self.places.iter().filter(|place| place.made).count();
        let held = self.places.iter().filter(|place| place.held).count();
        if made < held {
            return Err(Error::FewerQueues {
                have: made,
                needed: held,
            });
        }
        Ok(())
    }

    /// Makes virtqueue `number`, which may have up to `entries` entries.
    fn make_queue(&mut self, number: u16, entries: u32) -> Result<(), Error> {
        let depth = u32::from(self.options.depth.clamp(MIN_ENTRIES, 1024)).min(entries);
        let doorbell = self.transport.doorbell(number);
        let doorbell = doorbell.ok_or(Error::Doorbell(number))?;
        let patience = Patience {
            limit_ns: u64::try_from(self.options.timeout.as_nanos()).unwrap_or(u64::MAX),
            look_ns: 0,
            reports: Arc::clone(&self.reports),
        };
        let (size, geometry) = (1 << depth.ilog2(), &self.geometry);
        let memory = &self.memory;
        let engine = Engine::new(size, doorbell, self.features, geometry, patience, memory)?;
        let [descriptors, driver, device] = engine.addresses();
        let size = engine.size().into();
        let number_of_place = usize::from(number);
        if number_of_place == self.places.len() {
            self.places.push(Place::default());
        }
        let place = &mut self.places[number_of_place];
        place.made = true;
        place.handover.keep(engine);
        self.transport
            .queue_set(number, size, descriptors, driver, device);
        Ok(())
    }

    /// Asks for the serial number by the first queue.
    fn ask_serial(&mut self) -> Option<u16> {
        let handover = &self.places.first()?.handover;
        let mut engine = handover.take()?;
        let slot = engine.ask_id();
        if engine.publish() {
            self.transport.notify(0);
        }
        handover.keep(engine);
        slot
    }

    /// The answer, if it has come; empty if there is no serial number. A disk that has given one must
    /// give it once more, or it would be taken for another one.
    fn take_serial(&self, slot: u16) -> Result<Option<String>, Error> {
        let handover = self.places.first().map(|place| &place.handover);
        let taken = handover.and_then(|handover| Some((handover, handover.take()?)));
        let Some((handover, mut engine)) = taken else {
            return Ok(None);
        };
        let mut asked = Ok(());
        engine.poll(|_, result| asked = result);
        let answer = (engine.in_flight() == 0).then(|| match asked {
            Ok(()) => Ok(volume::serial(&engine.id(slot))),
            Err(error) if self.named && error != IoError::Unsupported => Err(Error::Serial(error)),
            Err(_) => Ok(String::new()),
        });
        handover.keep(engine);
        answer.transpose()
    }
}

/// Whether a driver has acknowledged a device with this status since it was last reset.
pub(crate) fn is_acknowledged(status: DeviceStatus) -> bool {
    status.bits() != 0xff && status.contains(DeviceStatus::ACKNOWLEDGE)
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
