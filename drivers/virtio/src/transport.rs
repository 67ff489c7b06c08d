//! The registers of a modern PCI device as a `virtio_drivers` transport (4.1.4).

use spindle_hw::NarrowRegisters;
use virtio_drivers::PhysAddr;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Region;
use crate::layout::Layout;

/// `struct virtio_pci_common_cfg` (4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURE: usize = 0x0c;
    pub(super) const DEVICE_STATUS: usize = 0x14;
    pub(super) const CONFIG_GENERATION: usize = 0x15;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: usize = 0x1e;
    pub(super) const QUEUE_DESC: usize = 0x20;
    pub(super) const QUEUE_DRIVER: usize = 0x28;
    pub(super) const QUEUE_DEVICE: usize = 0x30;
}

/// A virtio block device behind PCI registers. For the control core.
#[derive(Debug)]
pub struct PciTransport<R> {
    layout: Layout,
    common: R,
    notify: R,
    device: R,
}

impl<R: NarrowRegisters> PciTransport<R> {
    /// The device whose registers are as `layout` says; `bar` gives a handle to the registers of
    /// a BAR by its number.
    ///
    /// # Errors
    /// What `bar` says.
    pub fn new<E>(layout: Layout, mut bar: impl FnMut(u8) -> Result<R, E>) -> Result<Self, E> {
        Ok(Self {
            layout,
            common: bar(layout.common.bar)?,
            notify: bar(layout.notify.bar)?,
            device: bar(layout.device.bar)?,
        })
    }

    /// Where in the BAR of the notification registers `queue` is notified (4.1.4.4); `None` if
    /// that is outside them.
    pub(crate) fn doorbell(&self, queue: u16) -> Option<usize> {
        self.select(queue);
        let step = self
            .common
            .read16(offset(self.layout.common, common::QUEUE_NOTIFY_OFF));
        let at = u64::from(step) * u64::from(self.layout.notify_multiplier);
        let Region { offset, len, .. } = self.layout.notify;
        if at + size_of::<u16>() as u64 > len.into() {
            return None;
        }
        usize::try_from(u64::from(offset) + at).ok()
    }

    fn select(&self, queue: u16) {
        let at = offset(self.layout.common, common::QUEUE_SELECT);
        self.common.write16(at, queue);
    }

    fn common(&self, register: usize) -> usize {
        offset(self.layout.common, register)
    }

    /// Where in its BAR the device configuration from `offset` to `offset + len` is.
    fn configuration(&self, offset: usize, len: usize) -> virtio_drivers::Result<usize> {
        let Region {
            offset: start,
            len: have,
            ..
        } = self.layout.device;
        match offset.checked_add(len) {
            Some(end) if end <= have as usize => Ok(start as usize + offset),
            _ => Err(virtio_drivers::Error::ConfigSpaceTooSmall),
        }
    }
}

fn offset(region: Region, register: usize) -> usize {
    region.offset as usize + register
}

/// The width in which to access a field of which `left` bytes are to come (4.1.3.1: fields of 64
/// bits are two of 32).
fn width(left: usize) -> usize {
    match left {
        1 => 1,
        2 | 3 => 2,
        _ => 4,
    }
}

impl<R: NarrowRegisters> Transport for PciTransport<R> {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn read_device_features(&mut self) -> u64 {
        let word = |select| {
            let at = self.common(common::DEVICE_FEATURE_SELECT);
            self.common.write32(at, select);
            let at = self.common(common::DEVICE_FEATURE);
            u64::from(self.common.read32(at))
        };
        word(0) | word(1) << 32
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        for (select, word) in [driver_features as u32, (driver_features >> 32) as u32]
            .into_iter()
            .enumerate()
        {
            let at = self.common(common::DRIVER_FEATURE_SELECT);
            self.common.write32(at, select as u32);
            let at = self.common(common::DRIVER_FEATURE);
            self.common.write32(at, word);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        let at = self.common(common::QUEUE_SIZE);
        self.common.read16(at).into()
    }

    fn notify(&mut self, queue: u16) {
        if let Some(at) = self.doorbell(queue) {
            self.notify.write16(at, queue);
        }
    }

    fn get_status(&self) -> DeviceStatus {
        let status = self.common.read8(self.common(common::DEVICE_STATUS));
        DeviceStatus::from_bits_retain(status.into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let at = self.common(common::DEVICE_STATUS);
        self.common.write8(at, status.bits() as u8);
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {
        // Only the legacy interface of MMIO devices has such a register.
    }

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.select(queue);
        let at = self.common(common::QUEUE_SIZE);
        self.common.write16(at, size as u16);
        for (register, address) in [
            (common::QUEUE_DESC, descriptors),
            (common::QUEUE_DRIVER, driver_area),
            (common::QUEUE_DEVICE, device_area),
        ] {
            self.common.write64(self.common(register), address);
        }
        let at = self.common(common::QUEUE_ENABLE);
        self.common.write16(at, 1);
    }

    fn queue_unset(&mut self, _queue: u16) {
        // Over PCI only a reset of the whole device takes a queue back (4.1.4.3.2).
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.common.read16(self.common(common::QUEUE_ENABLE)) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // Interrupts are off: nothing is ever pending.
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        let at = self.common(common::CONFIG_GENERATION);
        self.common.read8(at).into()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<T> {
        let mut value = T::new_zeroed();
        let mut at = self.configuration(offset, size_of::<T>())?;
        let mut rest = value.as_mut_bytes();
        while !rest.is_empty() {
            let (field, after) = rest.split_at_mut(width(rest.len()));
            match field.len() {
                1 => field.copy_from_slice(&self.device.read8(at).to_le_bytes()),
                2 => field.copy_from_slice(&self.device.read16(at).to_le_bytes()),
                _ => field.copy_from_slice(&self.device.read32(at).to_le_bytes()),
            }
            at += field.len();
            rest = after;
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        let mut at = self.configuration(offset, size_of::<T>())?;
        let mut rest = value.as_bytes();
        while !rest.is_empty() {
            let (field, after) = rest.split_at(width(rest.len()));
            match *field {
                [a] => self.device.write8(at, a),
                [a, b] => self.device.write16(at, u16::from_le_bytes([a, b])),
                [a, b, c, d] => self.device.write32(at, u32::from_le_bytes([a, b, c, d])),
                _ => {}
            }
            at += field.len();
            rest = after;
        }
        Ok(())
    }
}
