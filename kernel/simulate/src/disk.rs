//! A disk's own time: when it carries out what was submitted, what goes wrong with it, and when it goes
//! away and comes back.

use spindle_testkit::nvme::{FakeNvme, Fault};
use spindle_testkit::virtio::{FakeVirtio, Fault as VirtioFault};

use crate::chance::Chance;
use crate::faults::Kind;

/// NVMe opcodes: flush, write, read.
const OPCODES: [u8; 3] = [0, 1, 2];
/// Types of virtio requests: in, out, flush, discard.
const REQUESTS: [u32; 4] = [0, 1, 4, 11];
/// Statuses after which a command is to be sent again: an internal error, an interrupted command, a
/// namespace that is not ready.
const TRANSIENT: [u16; 3] = [0x06, 0x21, 0x82];
/// Write fault, and an unrecovered read error.
const MEDIA: [u16; 2] = [0x280, 0x281];
/// How long it takes until a disk that can do nothing looks for work again.
const REST_NS: u64 = 50_000_000;
/// A command identifier that no queue of this depth has.
const NO_COMMAND: u16 = 0xfff0;

#[derive(Clone, Debug)]
pub(crate) enum Model {
    Nvme(FakeNvme),
    Virtio(FakeVirtio),
}

#[derive(Debug)]
pub(crate) struct Disk {
    model: Model,
    /// When each queue is worked on next.
    due: Vec<u64>,
    /// How often doorbells had been rung when queues that have nothing to do were last looked at; `None`
    /// if one has come to that since.
    rung: Option<u64>,
    /// Nothing is carried out until then.
    slow_until: u64,
    /// When it is put in again, and when it was pulled out.
    away: Option<(u64, u64)>,
    /// It has been pulled out once.
    was_away: bool,
    /// Its volumes, by number.
    pub(crate) volumes: Vec<usize>,
    chance: Chance,
}

impl Disk {
    pub(crate) fn new(model: Model, queues: usize, volumes: Vec<usize>, chance: Chance) -> Self {
        Self {
            model,
            due: vec![u64::MAX; queues],
            rung: None,
            slow_until: 0,
            away: None,
            was_away: false,
            volumes,
            chance,
        }
    }

    /// As [`Disk::is_waiting`], of one that works.
    fn has_new(&self, queue: usize) -> bool {
        match &self.model {
            Model::Nvme(model) => model.waiting(queue as u16 + 1) > 0,
            Model::Virtio(model) => model.has_new(queue as u16),
        }
    }

    fn is_waiting(&self, queue: usize) -> bool {
        match &self.model {
            Model::Nvme(model) => model.waiting(queue as u16 + 1) > 0,
            Model::Virtio(model) => model.is_waiting(queue as u16),
        }
    }

    /// Whether there may be work in a queue that had none.
    fn is_called(&mut self) -> bool {
        match &self.model {
            Model::Nvme(model) => {
                let rung = Some(model.doorbells());
                std::mem::replace(&mut self.rung, rung) != rung
            }
            Model::Virtio(model) => model.is_live(),
        }
    }

    /// Plans the work on what has been submitted.
    pub(crate) fn plan(&mut self, now: u64) {
        if !self.is_called() {
            return;
        }
        for queue in 0..self.due.len() {
            if self.due[queue] == u64::MAX && self.has_new(queue) {
                let took = match self.chance.one_in(40) {
                    true => self.chance.scale(1_000_000..300_000_000),
                    false => self.chance.scale(2_000..2_000_000),
                };
                self.due[queue] = (now + took).max(self.slow_until);
            }
        }
    }

    /// When it does something next.
    pub(crate) fn next(&self) -> u64 {
        let back = self.away.map_or(u64::MAX, |(until, _)| until);
        self.due.iter().copied().min().unwrap_or(u64::MAX).min(back)
    }

    /// Whether it has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.away.is_none() && self.due.iter().all(|due| *due == u64::MAX)
    }

    /// Carries out a part of what is due on a queue.
    pub(crate) fn work(&mut self, now: u64) {
        let Some(queue) = self.due.iter().position(|due| *due <= now) else {
            return;
        };
        (self.due[queue], self.rung) = (u64::MAX, None);
        let most = self.chance.scale(1..16) as usize;
        let done = match &self.model {
            Model::Nvme(model) => model.run_queue(queue as u16 + 1, most),
            Model::Virtio(model) => model.run_queue(queue as u16, most),
        };
        if done == 0 {
            // It hangs or is away: look seldom.
            self.due[queue] = now + REST_NS;
        }
    }

    /// It can do nothing now: looks again later.
    pub(crate) fn rest(&mut self, now: u64) {
        let due = self.due.iter_mut().filter(|due| **due <= now);
        due.for_each(|due| *due = now + REST_NS);
    }

    /// Puts it in again if it is time; gives when it was pulled out.
    pub(crate) fn come_back(&mut self, now: u64) -> Option<u64> {
        let (_, since) = self.away.filter(|(until, _)| *until <= now)?;
        self.away = None;
        match &self.model {
            Model::Nvme(model) => model.come_back(),
            Model::Virtio(model) => {
                model.come_back();
                model.hold();
            }
        }
        Some(since)
    }

    /// Has it go wrong; false if it cannot in that way, or not now.
    pub(crate) fn fail(&mut self, kind: Kind, now: u64) -> bool {
        if self.away.is_some() {
            return false;
        }
        let chance = &mut self.chance;
        match (kind, &self.model) {
            (Kind::MediaError, Model::Nvme(model)) => {
                let write = chance.index(2);
                model.arm(Fault::FailIo(OPCODES[2 - write], MEDIA[1 - write]));
            }
            (Kind::MediaError, Model::Virtio(model)) => {
                model.arm(VirtioFault::Fail(chance.pick(&REQUESTS), 1));
            }
            (Kind::Transient, Model::Nvme(model)) => {
                let status = chance.pick(&TRANSIENT);
                model.arm(Fault::FailIo(chance.pick(&OPCODES), status));
            }
            (Kind::LostCompletion, Model::Nvme(model)) => {
                model.arm(Fault::LoseIo(chance.pick(&OPCODES)));
            }
            (Kind::Stuck, Model::Nvme(model)) => model.arm(Fault::SwallowIo(chance.pick(&OPCODES))),
            (Kind::Stuck, Model::Virtio(model)) => {
                model.arm(VirtioFault::Swallow(chance.pick(&REQUESTS)));
            }
            (Kind::Late, _) => {
                self.slow_until = now + chance.scale(100_000_000..40_000_000_000);
                let until = self.slow_until;
                let later = |due: &mut u64| *due = (*due).max(until);
                self.due
                    .iter_mut()
                    .filter(|d| **d != u64::MAX)
                    .for_each(later);
            }
            (Kind::Spurious, Model::Nvme(model)) => {
                let queue = chance.index(self.due.len()) as u16;
                if model.waiting(queue + 1) > 0 {
                    return false;
                }
                model.post(queue + 1, NO_COMMAND, 0);
            }
            (Kind::Spurious, Model::Virtio(model)) => {
                model.post(chance.index(self.due.len()) as u16, NO_COMMAND.into(), 1);
            }
            (Kind::Fatal, Model::Nvme(model)) => model.die(),
            (Kind::Fatal, Model::Virtio(model)) => model.die(),
            (Kind::Hung, Model::Nvme(model)) => model.hang(),
            (Kind::Removed, model) => {
                match model {
                    Model::Nvme(model) => model.vanish(),
                    Model::Virtio(model) => model.vanish(),
                }
                let until = now + chance.scale(50_000_000..200_000_000_000);
                (self.away, self.was_away) = (Some((until, now)), true);
            }
            _ => return false,
        }
        true
    }

    /// If it is away, it is put in again now.
    pub(crate) fn hurry(&mut self, now: u64) {
        if let Some((until, _)) = &mut self.away {
            *until = now;
        }
    }

    /// Nothing goes wrong with it from now on.
    pub(crate) fn repair(&mut self, now: u64) {
        self.slow_until = 0;
        self.due.iter_mut().for_each(|due| *due = (*due).min(now));
        self.hurry(now);
        match &self.model {
            Model::Nvme(model) => model.repair(),
            Model::Virtio(model) => {
                for kind in REQUESTS {
                    model.repair(VirtioFault::Fail(kind, 1));
                    model.repair(VirtioFault::Swallow(kind));
                }
            }
        }
    }

    /// Whether one that looks for disks now finds it: the model of the bus has no place for a virtio
    /// device that comes later.
    pub(crate) fn can_be_found(&self) -> bool {
        self.away.is_none() || matches!(self.model, Model::Nvme(_))
    }

    /// The kernel has died: some of what was submitted is still carried out, until the next life
    /// disables the device, if it masters the bus. It answers at once then.
    pub(crate) fn outlive(&mut self, masters: bool, now: u64) {
        let works = masters && self.away.is_none();
        for queue in 0..self.due.len() {
            if self.chance.one_in(2) && self.is_waiting(queue) && works {
                self.due[queue] = now;
                self.work(now);
            }
        }
        self.release();
    }

    /// The next life has begun, and submits to new queues.
    pub(crate) fn begin_anew(&mut self, now: u64) {
        self.due.fill(u64::MAX);
        self.rung = None;
        if let Model::Virtio(model) = &self.model {
            model.hold();
        }
        self.plan(now);
    }

    /// From now on it works at once, as it must where control waits for it: at the shutdown.
    pub(crate) fn release(&self) {
        if let Model::Virtio(model) = &self.model {
            model.release();
        }
    }

    /// What the driver has done that it must not.
    pub(crate) fn judge(&self) -> Result<(), String> {
        match &self.model {
            Model::Nvme(model) => {
                if model.strays() > 0 {
                    return Err("an NVMe command meets memory that is not there".into());
                }
                // One that was put in again has no queues, which cores do not know before control does.
                none(&model.violations(), |violation| {
                    !(self.was_away && violation == "doorbell of a queue that was not made")
                })
            }
            // A device that has just failed is notified until that is noticed.
            Model::Virtio(model) => none(&model.violations(), |violation| {
                !violation.starts_with("notified queue")
            }),
        }
    }
}

fn none(violations: &[String], counts: impl Fn(&str) -> bool) -> Result<(), String> {
    match violations.iter().find(|violation| counts(violation)) {
        Some(violation) => Err(format!("a driver breaks the rules: {violation}")),
        None => Ok(()),
    }
}
