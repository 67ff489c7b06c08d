//! The control side of an NVMe controller as every disk has it.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Debug;
use core::time::Duration;

use spindle_block::{
    BlockController, BusMaster, ControllerBack, DiskEvents, Inspection, LostController,
    SpuriousCompletions, Unit, UnitChange, Unreachable, Volume,
};
use spindle_hw::{Clock, DmaAlloc, Registers};

use crate::{Back, Change, Controller, Error, HealthLog, QueuePair, Repairs};

/// A controller with a number, a handle to its registers for each queue, and the way to keep it
/// from memory.
#[derive(Debug)]
pub struct NvmeDisk<R, C, M, B> {
    name: String,
    number: usize,
    controller: Controller<R, C, M>,
    registers: R,
    share: fn(&R) -> R,
    bus: B,
    /// It was lost, and may still carry out what it was given.
    may_write: bool,
    /// It was found to be pulled out since then, in these words, which is to be reported.
    pulled_out: Option<String>,
    /// The health log that came last.
    health: Option<HealthLog>,
    spurious: SpuriousCompletions,
    /// What was reported last of what was done about it.
    repairs: Repairs,
}

impl<R, C, M, B> NvmeDisk<R, C, M, B> {
    /// Names `controller` after its number: `nvme0`. `share` makes another handle to the same
    /// `registers`; `bus` is used once the controller is lost.
    pub fn new(
        number: usize,
        controller: Controller<R, C, M>,
        registers: R,
        share: fn(&R) -> R,
        bus: B,
    ) -> Self {
        Self {
            name: format!("nvme{number}"),
            number,
            controller,
            registers,
            share,
            bus,
            may_write: false,
            pulled_out: None,
            health: None,
            spurious: SpuriousCompletions::default(),
            repairs: Repairs::default(),
        }
    }
}

impl<R, C, M, B, Q> BlockController<Q> for NvmeDisk<R, C, M, B>
where
    R: Registers + Debug,
    C: Clock + Debug,
    M: DmaAlloc + Debug,
    B: BusMaster,
    Q: From<QueuePair<R>> + TryInto<QueuePair<R>>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn volumes(&self, disk: usize) -> Vec<Volume> {
        self.controller.volumes(disk, self.number)
    }

    fn place(&self) -> u32 {
        self.bus.place()
    }

    fn refused(&self) -> Vec<(String, String)> {
        let refused = self.controller.refused().iter();
        let named = refused.map(|(id, why)| (format!("{}n{id}", self.name), why.to_string()));
        named.collect()
    }

    fn create_queue(&mut self) -> Result<Q, String> {
        let queue = self.controller.create_queue((self.share)(&self.registers));
        queue.map(Q::from).map_err(|error| error.to_string())
    }

    fn attend(&mut self) -> DiskEvents {
        let attention = self.controller.attend();
        let lost = attention.lost.map(|lost| {
            let is_off = self.bus.disable();
            // One that is gone has lost its power as a rule. A disk with another port may yet
            // write what it had fetched, which takes moments, not the time of a failover.
            let stopped = lost.disabled || is_off && lost.reason == Error::Gone;
            self.may_write = !stopped && (!lost.again || self.may_write);
            LostController {
                reason: lost.reason.to_string(),
                disabled: is_off || lost.disabled,
                stopped,
                again: lost.again,
            }
        });
        let pulled_out = self.pulled_out.take().map(|reason| LostController {
            reason,
            disabled: true,
            stopped: true,
            again: true,
        });
        if attention.quiet {
            self.bus.enable();
        }
        let change = |change| match change {
            Change::Resized { id, sectors } => UnitChange::Resized {
                unit: Unit(id),
                sectors,
            },
            Change::Removed { id, reason } => UnitChange::Removed {
                unit: Unit(id),
                reason: reason.to_string(),
            },
            Change::Added(id) => UnitChange::Added(Unit(id)),
        };
        let (health, before) = (
            attention.health,
            self.spurious.update(self.controller.spurious()),
        );
        if before == Some(0) {
            log::warn!("disk {}: a completion for no command: ignored", self.name);
        }
        self.health = health.or(self.health);
        let repairs = self.controller.repairs();
        let repaired = core::mem::replace(&mut self.repairs, repairs) != repairs;
        let news = health.is_some() || before.is_some() || repaired;
        DiskEvents {
            wake: attention.wake,
            soon: attention.soon,
            changes: attention.changes.into_iter().map(change).collect(),
            health: news.then(|| match &self.health {
                Some(health) => format!("{health} {repairs} {}", self.spurious),
                None => format!("{repairs} {}", self.spurious),
            }),
            inspected: attention
                .inspected
                .map(|page| page.map_err(|status| status.to_string())),
            lost: lost.or(pulled_out),
            cache_lost: attention.cache_lost,
            back: attention.back.map(|back| match back {
                Back::Same => ControllerBack::Same,
                Back::Other => ControllerBack::Other,
            }),
        }
    }

    fn closed(&mut self) {
        self.controller.closed();
    }

    fn rescan(&mut self) {
        self.controller.rescan();
    }

    fn probe_again(&mut self) -> Result<(), String> {
        if !self.controller.is_lost() {
            return Err("it is not lost".into());
        }
        let probed = self.bus.restore().and_then(|()| {
            self.controller.probe_again().map_err(|error| {
                self.bus.disable();
                Unreachable {
                    reason: error.to_string(),
                    absent: error == Error::Gone,
                }
            })
        });
        probed.map_err(|Unreachable { reason, absent }| {
            // What it had not finished went with its power. Once it is said, its twins are free.
            if absent && core::mem::take(&mut self.may_write) {
                self.pulled_out = Some(reason.clone());
            }
            reason
        })
    }

    fn number(&self) -> usize {
        self.number
    }

    fn name_of(&self, number: usize) -> String {
        format!("nvme{number}")
    }

    fn rename(&mut self, number: usize) {
        self.name = format!("nvme{number}");
        self.number = number;
    }

    fn ask_health(&mut self) {
        self.controller.ask_health();
    }

    fn inspect(&mut self, wanted: Inspection) -> Option<bool> {
        Some(self.controller.inspect(wanted))
    }

    fn stand_by(&mut self, within: Option<Duration>) -> Option<Result<Vec<u64>, &'static str>> {
        let Some(within) = within else {
            let may = self.controller.may_stand_by();
            return Some(may.map(|()| Vec::new()));
        };
        let standing = self.controller.stand_by(within);
        Some(standing.map(|standing| standing.words()))
    }

    fn shutdown(self: Box<Self>, queues: Vec<Q>) -> Result<(), String> {
        let pairs = queues.into_iter().filter_map(|queue| queue.try_into().ok());
        let ended = self.controller.shutdown(pairs);
        ended.map_err(|error| error.to_string())
    }
}
