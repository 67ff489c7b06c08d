//! The list of capabilities of a function.

use spindle_hw::Ports;

use crate::config::register;
use crate::{Address, Bus};

/// What a capability describes (PCI Code and ID Assignment, 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CapabilityId(pub u8);

impl CapabilityId {
    /// Power management.
    pub const POWER: Self = Self(0x01);
    /// Message signalled interrupts.
    pub const MSI: Self = Self(0x05);
    /// Vendor-specific; virtio describes its registers with these.
    pub const VENDOR: Self = Self(0x09);
    /// PCI Express.
    pub const EXPRESS: Self = Self(0x10);
    /// Message signalled interrupts, extended.
    pub const MSI_X: Self = Self(0x11);
}

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub id: CapabilityId,
    /// Where in configuration space it starts.
    pub offset: u8,
}

/// The capabilities of one function, in the order of its list.
#[derive(Debug)]
pub struct CapabilityList<'a, P> {
    bus: &'a Bus<P>,
    at: Address,
    next: u8,
    /// How many more may come: the 48 doublewords behind the header hold no more, so a list
    /// that runs in circles ends here.
    left: u8,
}

/// Bit of the status register (upper half) that says there is a list.
const HAS_LIST: u32 = 1 << (16 + 4);

impl<P: Ports> Bus<P> {
    /// The capabilities of the function at `at` (PCI Local Bus 3.0, 6.7).
    #[must_use]
    pub fn capabilities(&self, at: Address) -> CapabilityList<'_, P> {
        let status = self.read32(at, register::COMMAND);
        let next = if status & HAS_LIST != 0 && status != u32::MAX {
            self.read32(at, register::CAPABILITIES) as u8
        } else {
            0
        };
        CapabilityList {
            bus: self,
            at,
            next,
            left: 48,
        }
    }
}

impl<P: Ports> Iterator for CapabilityList<'_, P> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        let offset = self.next & 0xfc;
        if offset < 0x40 {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let header = self.bus.read32(self.at, offset);
        self.next = (header >> 8) as u8;
        Some(Capability {
            id: CapabilityId(header as u8),
            offset,
        })
    }
}
