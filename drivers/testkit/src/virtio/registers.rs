//! The registers in BAR 4, where QEMU has them, and the PCI function around it (4.1.4).

use spindle_hw::{NarrowRegisters, Registers};

use super::{Config, FakeVirtio, Fault, Shared, feature};
use crate::pci::FakeFunction;

const COMMON: usize = 0x0000;
const ISR: usize = 0x1000;
const DEVICE: usize = 0x2000;
const NOTIFY: usize = 0x3000;
const BAR: usize = 0x4000;

const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;

/// What is behind the registers that all queues share.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) sectors: u64,
    pub(super) generation: u8,
    pub(super) vanished: bool,
    pub(super) broken: bool,
    pub(super) held: bool,
    pub(super) notifications: u64,
    pub(super) requests: Vec<u32>,
    pub(super) features: u64,
    status: u8,
    /// Reads of the status until a reset shows.
    resetting: u32,
    device_select: u32,
    driver_select: u32,
    queue: u16,
}

impl Control {
    pub(super) fn new(sectors: u64) -> Self {
        Self {
            sectors,
            ..Self::default()
        }
    }

    /// Forgets all but what the device is like and what it has counted.
    pub(super) fn power_on(&mut self) {
        *self = Self {
            notifications: self.notifications,
            requests: std::mem::take(&mut self.requests),
            ..Self::new(self.sectors)
        };
    }

    /// Gives the disk another size.
    pub(super) fn resize(&mut self, sectors: u64) {
        self.sectors = sectors;
        self.generation = self.generation.wrapping_add(1);
    }

    /// Whether the driver may use queues.
    pub(super) fn live(&self) -> bool {
        self.status & DRIVER_OK != 0 && !self.broken && !self.vanished
    }
}

/// The function: identity, BAR 4, and the capabilities that point into it.
pub(super) fn function(config: &Config) -> FakeFunction {
    let mut function = FakeFunction::device(0x1af4, 0x1042, 0x01_00_00)
        .memory64(4, 0xc000_0000, BAR as u64)
        .with(0x04, 1 << 20)
        .with(0x34, 0x40);
    let parts = [
        // The second "common" is worse than the first, and must not count.
        (0x40, 1u32, COMMON, 0x38),
        (0x50, 3, ISR, 1),
        (0x60, 4, DEVICE, 0x60),
        (0x70, 2, NOTIFY, 0x1000),
        (0x84, 1, 0x800, 0x38),
    ];
    for (index, (at, kind, offset, len)) in parts.into_iter().enumerate() {
        let next = parts.get(index + 1).map_or(0, |part| part.0 as u32);
        let size = if kind == 2 { 20 } else { 16 };
        function = function
            .with(at, 0x09 | next << 8 | size << 16 | kind << 24)
            .with(at + 4, 4)
            .with(at + 8, offset as u32)
            .with(at + 12, len);
        if kind == 2 {
            function = function.with(at + 16, config.multiplier);
        }
    }
    function
}

impl Shared {
    fn read(&self, offset: usize, width: usize) -> u64 {
        let mut control = self.control.lock().unwrap();
        if control.vanished || offset + width > BAR {
            return u64::MAX;
        }
        match offset {
            DEVICE..NOTIFY => {
                let bytes = self.configuration(&control);
                let field = bytes.get(offset - DEVICE..offset - DEVICE + width);
                let field = field.unwrap_or(&[0; 8][..width]);
                let mut word = [0; 8];
                word[..width].copy_from_slice(field);
                let torn = |fault| match fault {
                    Fault::Torn(sectors) if offset == DEVICE => Some(sectors),
                    _ => None,
                };
                if let Some(sectors) = self.once(torn) {
                    control.resize(sectors);
                }
                u64::from_le_bytes(word)
            }
            0x04 => match control.device_select {
                0 => self.config().features & u64::from(u32::MAX),
                1 => self.config().features >> 32,
                _ => 0,
            },
            0x12 => self.config().queues.into(),
            0x14 => {
                if control.resetting > 0 {
                    control.resetting -= 1;
                    if control.resetting == 0 {
                        control.status = 0;
                    }
                }
                (control.status | if control.broken { NEEDS_RESET } else { 0 }).into()
            }
            0x15 => {
                if self.has(Fault::Restless) {
                    control.generation = control.generation.wrapping_add(1);
                }
                control.generation.into()
            }
            0x18 | 0x1c => {
                let Some(queue) = self.queues.get(usize::from(control.queue)) else {
                    return 0;
                };
                let queue = queue.lock().unwrap();
                match offset {
                    0x1c => queue.enabled.into(),
                    _ if queue.size == 0 => self.config().entries.into(),
                    _ => queue.size.into(),
                }
            }
            0x1e => control.queue.into(),
            _ => 0,
        }
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let mut control = self.control.lock().unwrap();
        if control.vanished || offset + width > BAR {
            return;
        }
        let expected = match offset {
            0x00 | 0x08 | 0x0c | 0x20..0x38 => 4,
            0x14 => 1,
            NOTIFY..BAR | 0x16..0x20 => 2,
            _ => {
                self.violation(format!("wrote {value:#x} at {offset:#x}"));
                return;
            }
        };
        if width != expected {
            self.violation(format!("wrote {width} bytes at {offset:#x}"));
        }
        match offset {
            0x00 => control.device_select = value as u32,
            0x08 => control.driver_select = value as u32,
            0x0c => {
                let shift = 32 * control.driver_select.min(1);
                let mask = u64::from(u32::MAX) << shift;
                control.features = control.features & !mask | value << shift;
            }
            0x14 => self.set_status(&mut control, value as u8),
            0x16 => control.queue = value as u16,
            NOTIFY..BAR => {
                let queue = value as u16;
                let step = queue as usize * self.config().multiplier as usize;
                // Without steps all queues share the first address (4.1.4.4.1).
                if offset - NOTIFY != step || queue >= self.config().queues {
                    self.violation(format!("notified queue {queue} at {offset:#x}"));
                    return;
                }
                if !control.live() {
                    self.violation(format!(
                        "notified queue {queue} of a device that is not live"
                    ));
                    return;
                }
                control.notifications += 1;
                let held = control.held;
                drop(control);
                if !held {
                    self.run(queue.into(), usize::MAX);
                }
            }
            _ => {
                if control.status & DRIVER_OK != 0 {
                    self.violation("set a queue up on a live device");
                }
                let Some(queue) = self.queues.get(usize::from(control.queue)) else {
                    self.violation(format!(
                        "set up queue {} of {}",
                        control.queue,
                        self.config().queues
                    ));
                    return;
                };
                let wrong = queue
                    .lock()
                    .unwrap()
                    .set(offset, value as u32, self.config().entries);
                if let Some(wrong) = wrong {
                    self.violation(wrong);
                }
            }
        }
    }

    fn set_status(&self, control: &mut Control, value: u8) {
        if value == 0 {
            if !self.has(Fault::NeverResets) {
                match self.config().delay {
                    0 => control.status = 0,
                    _ if control.status == 0 => {}
                    delay => control.resetting = delay,
                }
                control.features = 0;
                control.broken = false;
                self.forget_queues();
            }
            return;
        }
        if control.resetting > 0 {
            self.violation("went on before the reset had ended");
        }
        let mut value = value;
        if value & FEATURES_OK != 0 && control.status & FEATURES_OK == 0 {
            let offered = control.features & !self.config().features == 0;
            let platform = feature::ACCESS_PLATFORM & self.config().features;
            if self.has(Fault::RefusesFeatures) {
                value &= !FEATURES_OK;
            } else if !offered || control.features & platform != platform {
                self.violation(format!("chose features {:#x}", control.features));
                value &= !FEATURES_OK;
            }
        }
        if value & DRIVER_OK != 0 && control.status & FEATURES_OK == 0 {
            self.violation("went live before the features were settled");
        }
        control.status = value;
    }

    /// `struct virtio_blk_config` (5.2.4). Fields of features that were not chosen hold rubbish.
    fn configuration(&self, control: &Control) -> Vec<u8> {
        let config = self.config();
        let mut bytes = vec![0xee; 0x60];
        let mut put = |wanted: u64, at: usize, field: &[u8]| {
            if wanted & control.features == wanted {
                bytes[at..at + field.len()].copy_from_slice(field);
            }
        };
        put(0, 0, &control.sectors.to_le_bytes());
        put(feature::SIZE_MAX, 8, &config.size_max.to_le_bytes());
        put(feature::SEG_MAX, 12, &config.seg_max.to_le_bytes());
        put(feature::BLK_SIZE, 20, &config.block_size.to_le_bytes());
        put(feature::TOPOLOGY, 24, &[config.physical_exponent, 0]);
        put(feature::MQ, 34, &config.queues.to_le_bytes());
        let most = config.max_discard.to_le_bytes();
        let alignment = config.discard_alignment.to_le_bytes();
        put(
            feature::DISCARD,
            36,
            &[most, [1, 0, 0, 0], alignment].concat(),
        );
        put(
            feature::WRITE_ZEROES,
            48,
            &[most, [1, 0, 0, 0], [1, 0, 0, 0]].concat(),
        );
        put(
            feature::SECURE_ERASE,
            60,
            &[most, [1, 0, 0, 0], alignment].concat(),
        );
        bytes
    }
}

impl Registers for FakeVirtio {
    fn len(&self) -> usize {
        BAR
    }

    fn read32(&self, offset: usize) -> u32 {
        self.0.read(offset, 4) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.0.write(offset, 4, value.into());
    }
}

impl NarrowRegisters for FakeVirtio {
    fn read8(&self, offset: usize) -> u8 {
        self.0.read(offset, 1) as u8
    }

    fn read16(&self, offset: usize) -> u16 {
        self.0.read(offset, 2) as u16
    }

    fn write8(&self, offset: usize, value: u8) {
        self.0.write(offset, 1, value.into());
    }

    fn write16(&self, offset: usize, value: u16) {
        self.0.write(offset, 2, value.into());
    }
}
