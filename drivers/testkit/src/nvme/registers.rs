//! Registers and doorbells (3.1).

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use spindle_hw::Registers;

use super::ring::{Area, Ring};
use super::{FakeNvme, Fault, Quirk, Shared, Store};

/// What is behind the registers.
#[derive(Debug, Default)]
pub(super) struct Control {
    cc: u32,
    ready: bool,
    pub(super) fatal: bool,
    shutdown: u32,
    /// Reads of CSTS until it follows CC.
    delay: u32,
    /// Reads of CSTS until it is to be seen at all.
    blind: u32,
    masked: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    pub(super) admin: Option<Ring>,
    /// Event requests that wait, by their identifiers.
    pub(super) requests: VecDeque<u16>,
    /// Events that wait.
    pub(super) events: VecDeque<u32>,
    /// Asynchronous Event Configuration.
    pub(super) event_mask: u32,
    /// ACRE of Host Behavior Support.
    pub(super) delays_told: bool,
    /// The Changed Namespace List.
    pub(super) changed: Vec<u32>,
    /// Critical Warning of the SMART log.
    pub(super) critical: u8,
}

impl Control {
    /// Answers event requests, as far as there are events.
    pub(super) fn send_events(&mut self) {
        let Some(ring) = self.admin.as_mut() else {
            return;
        };
        while !self.events.is_empty()
            && let Some(cid) = self.requests.pop_front()
        {
            let event = self.events.pop_front().unwrap_or(0);
            ring.post(cid, 0, event);
        }
    }
}

const ENABLE: u32 = 1;
const DOORBELLS: usize = 0x1000;

impl Shared {
    fn cap(&self) -> u64 {
        let config = &self.config;
        u64::from(self.entries() - 1)
            | 1 << 16
            | u64::from(config.timeout) << 24
            | u64::from(config.doorbell_shift) << 32
            | u64::from(config.subsystem_reset) << 36
            | u64::from(config.nvm_commands) << 37
            | u64::from(config.page_shift_min) << 48
            | 4 << 52
            | u64::from(self.ready_timeout().is_some()) << 59
    }

    fn ready_timeout(&self) -> Option<u16> {
        self.config.quirks.find(|quirk| match quirk {
            Quirk::ReadyTimeout(units) => Some(units),
            _ => None,
        })
    }

    fn read_status(&self, control: &mut Control) -> u32 {
        if control.blind > 0 {
            control.blind -= 1;
            return u32::MAX;
        }
        if control.delay > 0 {
            control.delay -= 1;
        } else {
            self.follow(control);
        }
        let fatal = control.fatal || self.crashed.load(Ordering::Acquire);
        u32::from(control.ready) | u32::from(fatal) << 1 | control.shutdown << 2
    }

    /// Lets CSTS follow CC.
    fn follow(&self, control: &mut Control) {
        let enabled = control.cc & ENABLE != 0;
        if enabled && !control.ready && !self.has(Fault::NeverReady) {
            if self.has(Fault::FatalWhenEnabled) {
                control.fatal = true;
            } else {
                self.start(control);
            }
        }
        if !enabled && control.ready && !self.has(Fault::NeverIdle) {
            self.stop(control);
        }
        if control.cc >> 14 & 3 != 0 && control.shutdown == 1 && !self.has(Fault::NeverShutDown) {
            control.shutdown = 2;
            self.stores.iter().for_each(Store::flush);
        }
    }

    fn start(&self, control: &mut Control) {
        if control.cc & 0x00ff_fff0 & !(3 << 14) != 0x0046_0000 {
            self.violation(format!("CC is {:#x}", control.cc));
        }
        if control.masked != u32::MAX {
            self.violation("interrupts are not masked");
        }
        let entries = |shift: u32| (control.aqa >> shift & 0xfff) as usize + 1;
        let areas = (
            Area::new(&self.bus, control.asq, entries(0) * 64),
            Area::new(&self.bus, control.acq, entries(16) * 16),
        );
        let aligned = control.asq.is_multiple_of(4096) && control.acq.is_multiple_of(4096);
        match areas {
            (Some(submission), Some(completion)) if aligned => {
                if !completion.is_clear() {
                    self.violation("the admin completion queue is not clear");
                }
                self.renew_limits();
                control.admin = Some(Ring::new(submission, completion));
                control.ready = true;
            }
            _ => {
                self.violation("admin queues are not in memory");
                control.fatal = true;
            }
        }
    }

    fn stop(&self, control: &mut Control) {
        control.ready = false;
        control.fatal = false;
        control.shutdown = 0;
        control.requests.clear();
        control.delays_told = false;
        self.stuck.lock().unwrap().clear();
        self.hung.store(false, Ordering::Release);
        self.crashed.store(false, Ordering::Release);
        self.resets.fetch_add(1, Ordering::AcqRel);
        self.renew_queues();
        self.forget_lent();
        if let Some(ring) = control.admin.take() {
            self.check_memory(&ring);
        }
        for queue in &self.queues {
            let queue = std::mem::take(&mut *queue.lock().unwrap());
            if let Some(ring) = queue.ring {
                self.check_memory(&ring);
            }
        }
    }

    /// Forgets all but what is on the medium and what a driver did wrong.
    pub(super) fn power_on(&self, control: &mut Control) {
        let critical = control.critical;
        *control = Control::default();
        control.critical = critical;
        self.stuck.lock().unwrap().clear();
        for broken in [&self.hung, &self.crashed, &self.admin_held] {
            broken.store(false, Ordering::Release);
        }
        self.renew_queues();
        self.forget_lent();
        for queue in &self.queues {
            *queue.lock().unwrap() = super::Queue::default();
        }
        self.stores.iter().for_each(Store::power_cut);
    }

    /// Checks that queues still have their memory when they end.
    pub(super) fn check_memory(&self, ring: &Ring) {
        if !ring.submission.is_there(&self.bus) || !ring.completion.is_there(&self.bus) {
            self.violation("queue memory was freed before the queue");
        }
    }

    fn write_cc(&self, control: &mut Control, value: u32) {
        let changed = control.cc ^ value;
        control.cc = value;
        if changed & ENABLE != 0 {
            // One that has failed before it was ready has nothing else to forget.
            control.fatal &= control.ready;
            control.delay = self.config.delay;
            let blind = self.config.quirks.find(|quirk| match quirk {
                Quirk::BlindAfterChange(reads) => Some(reads),
                _ => None,
            });
            control.blind = blind.unwrap_or(0);
        }
        if changed & 3 << 14 != 0 && value >> 14 & 3 != 0 {
            control.shutdown = 1;
            if self.forget_lent() {
                self.violation("shut down while it works with the host's memory");
            }
            control.delay = self.config.delay;
        }
    }

    fn doorbell(&self, offset: usize, value: u32) {
        let stride = 4 << self.config.doorbell_shift;
        let (number, rest) = ((offset - DOORBELLS) / stride, (offset - DOORBELLS) % stride);
        let (id, completion) = (number / 2, number % 2 == 1);
        if rest != 0 {
            return self.violation("write between doorbells");
        }
        if id == 0 {
            let mut control = self.control.lock().unwrap();
            let Some(ring) = control.admin.as_mut() else {
                return self.violation("admin doorbell while disabled");
            };
            if !self.ring(ring, completion, value) {
                return;
            }
            if completion || self.hung.load(Ordering::Acquire) {
                return;
            }
            if !self.admin_held.load(Ordering::Acquire) {
                self.run_admin(&mut control, usize::MAX);
            }
            return;
        }
        let Some(queue) = self.queues.get(id - 1) else {
            return self.violation("doorbell of no queue");
        };
        let mut queue = queue.lock().unwrap();
        let Some(ring) = queue.ring.as_mut() else {
            return self.violation("doorbell of a queue that was not made");
        };
        if !completion {
            self.doorbells.fetch_add(1, Ordering::Relaxed);
        }
        if self.ring(ring, completion, value) && !self.config.manual {
            self.run_io(id as u16, &mut queue, usize::MAX);
        }
    }

    fn ring(&self, ring: &mut Ring, completion: bool, value: u32) -> bool {
        let valid = if completion {
            ring.set_completion_head(value)
        } else {
            ring.set_tail(value)
        };
        if !valid {
            self.violation(format!("doorbell value {value} is no index"));
        }
        valid
    }
}

impl Registers for FakeNvme {
    fn len(&self) -> usize {
        0x4000
    }

    fn read32(&self, offset: usize) -> u32 {
        let shared = &*self.0;
        shared.register_accesses.fetch_add(1, Ordering::Relaxed);
        if shared.vanished.load(Ordering::Acquire) {
            return u32::MAX;
        }
        let mut control = shared.control.lock().unwrap();
        match offset {
            0x00 => shared.cap() as u32,
            0x04 => (shared.cap() >> 32) as u32,
            0x08 => shared.config.version,
            0x0c | 0x10 => control.masked,
            0x14 => control.cc,
            0x1c => shared.read_status(&mut control),
            0x24 => control.aqa,
            0x28 => control.asq as u32,
            0x2c => (control.asq >> 32) as u32,
            0x30 => control.acq as u32,
            0x34 => (control.acq >> 32) as u32,
            0x68 => shared.ready_timeout().unwrap_or(0).into(),
            _ => 0,
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        let shared = &*self.0;
        if shared.vanished.load(Ordering::Acquire) {
            return;
        }
        if offset >= DOORBELLS {
            return shared.doorbell(offset, value);
        }
        shared.register_accesses.fetch_add(1, Ordering::Relaxed);
        let mut control = shared.control.lock().unwrap();
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x0c => control.masked |= value,
            0x10 => control.masked &= !value,
            0x14 => shared.write_cc(&mut control, value),
            0x20 if shared.config.subsystem_reset && value == 0x4e56_4d65 => {
                shared.power_on(&mut control);
                shared.repair();
                shared.subsystem_resets.fetch_add(1, Ordering::AcqRel);
            }
            0x24 => control.aqa = value,
            0x28 => control.asq = low(control.asq),
            0x2c => control.asq = high(control.asq),
            0x30 => control.acq = low(control.acq),
            0x34 => control.acq = high(control.acq),
            _ => shared.violation(format!("write to register {offset:#x}")),
        }
    }
}
