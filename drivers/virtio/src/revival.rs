//! A disk that was lost, or has never worked, is brought up once more: the same one, or another one in
//! its place.
//!
//! All that was in flight has failed by then, and every core has given its queue back. Each gets
//! another one once it is known whose it is: at once if the disk is the same, and of another disk only
//! when nothing more is submitted by those who had the first one.

use alloc::string::{String, ToString};
use core::fmt::Debug;

use spindle_block::{
    BusMaster, ControllerBack, DiskEvents, LostController, Unit, UnitChange, Unreachable,
};
use spindle_hw::{Clock, DmaAlloc, NarrowRegisters};

use crate::bring_up::Progress;
use crate::config::{Features, Geometry};
use crate::{Error, VirtioDisk};

/// How far a disk that was lost has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It works.
    Working,
    /// It is lost.
    Lost,
    /// It is being brought up.
    Reviving,
    /// Another one in its place is up, and those who had the first one are being kept from it.
    Closing {
        /// They submit nothing more.
        closed: bool,
    },
}

/// By what a disk is known again, and what must not change for those who use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    serial: String,
    sectors: u64,
    block_shift: u8,
    read_only: bool,
    /// Those who use it without one do not flush.
    write_cache: bool,
}

impl Identity {
    pub(crate) fn of(geometry: &Geometry, features: Features, serial: &str) -> Self {
        Self {
            serial: serial.to_string(),
            sectors: geometry.sectors,
            block_shift: geometry.block_shift,
            read_only: features.contains(Features::RO),
            write_cache: features.contains(Features::FLUSH),
        }
    }

    /// Whether `now` is the same disk. One without a serial number is known by its size, and only if
    /// it was never `away`: any other disk may have that size.
    fn is_same(&self, now: &Self, away: bool) -> bool {
        let known = !self.serial.is_empty() || !away && self.sectors == now.sectors;
        let sized_alike = Self {
            sectors: self.sectors,
            ..now.clone()
        };
        known && *self == sized_alike
    }
}

impl<R, C, M, B> VirtioDisk<R, C, M, B>
where
    R: NarrowRegisters + Debug,
    C: Clock + Debug,
    M: DmaAlloc + Debug,
    B: BusMaster,
{
    /// Begins to bring the device up that is there now.
    pub(crate) fn begin_revival(&mut self) -> Result<(), String> {
        if self.phase != Phase::Lost {
            return Err("it is not lost".into());
        }
        // The device that answers next may be another one.
        if let Err(Unreachable { reason, .. }) = self.bus.restore() {
            self.away = true;
            return Err(reason);
        }
        self.away |= !self.device.is_acknowledged();
        self.device.begin().map_err(|error| {
            self.bus.disable();
            error.to_string()
        })?;
        self.phase = Phase::Reviving;
        Ok(())
    }

    /// Takes the next step.
    pub(crate) fn revive(&mut self, events: &mut DiskEvents) -> Result<(), Error> {
        match self.device.advance()? {
            Progress::Busy => {}
            Progress::Quiet => self.bus.enable(),
            Progress::Up => self.meet(events),
        }
        events.soon = self.phase == Phase::Reviving;
        Ok(())
    }

    /// A device is up: finds out whether it is the one that was lost.
    fn meet(&mut self, events: &mut DiskEvents) {
        let (unit, now) = (Unit(0), self.device.identity());
        match self.known.take().zip(now) {
            Some((before, now)) if before.is_same(&now, self.away) => {
                if before.sectors != now.sectors {
                    let sectors = now.sectors;
                    events.changes.push(UnitChange::Resized { unit, sectors });
                }
                self.come_back(ControllerBack::Same, events);
            }
            Some(_) => {
                self.replaced = true;
                self.phase = Phase::Closing { closed: false };
                let reason = "another disk is in its place".into();
                events.changes.push(UnitChange::Removed { unit, reason });
            }
            // What was there was removed before, or there was none.
            None => self.arrive(events),
        }
    }

    /// Offers a disk that has not been offered yet.
    pub(crate) fn arrive(&mut self, events: &mut DiskEvents) {
        events.changes.push(UnitChange::Added(Unit(0)));
        let back = match core::mem::take(&mut self.replaced) {
            true => ControllerBack::Other,
            false => ControllerBack::Same,
        };
        self.come_back(back, events);
    }

    fn come_back(&mut self, back: ControllerBack, events: &mut DiskEvents) {
        self.device.run();
        self.phase = Phase::Working;
        (self.away, self.doubted) = (false, None);
        events.back = Some(back);
        // Cores that sleep take their queues when they are woken.
        events.wake = true;
    }

    /// The device has failed, or did not come up.
    pub(crate) fn lose(&mut self, reason: Error, events: &mut DiskEvents) {
        let again = self.phase != Phase::Working;
        if !again {
            self.known = self.device.identity();
        }
        self.away |= reason == Error::Gone;
        self.phase = Phase::Lost;
        self.device.give_up();
        events.soon = false;
        events.lost = Some(LostController {
            reason: reason.to_string(),
            disabled: self.bus.disable(),
            // No device has a disk in common with another one.
            stopped: true,
            again,
        });
    }
}
