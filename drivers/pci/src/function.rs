//! What a function says it is.

use core::fmt;

use spindle_hw::Ports;

use crate::config::register;
use crate::{Address, Bus};

/// Class code: base class, subclass and programming interface (PCI Code and ID Assignment).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Class(pub u32);

impl Class {
    /// An NVM Express I/O controller (NVMe 1.4, 2.1.5).
    pub const NVME: Self = Self(0x01_08_02);
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Class({:06x})", self.0)
    }
}

/// Base class and subclass of a PCI-to-PCI bridge.
const BRIDGE_CLASS: u32 = 0x06_04;

/// A function found on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// What kind of device it is.
    pub class: Class,
    /// Revision ID.
    pub revision: u8,
    /// Layout of the header, without the multi-function bit: 0 for a device, 1 for a bridge.
    pub header: u8,
}

impl<P: Ports> Bus<P> {
    /// The function at `at`, and whether its device has others than 0; `None` if none is there.
    pub(crate) fn function(&self, at: Address) -> Option<(Function, bool)> {
        let id = self.read32(at, register::ID);
        // All ones: no answer. A vendor of 0 is what some hosts give for a device held in reset.
        if matches!(id & 0xffff, 0xffff | 0) {
            return None;
        }
        let class = self.read32(at, register::CLASS);
        // Only function 0 tells of others, and only bridges are not laid out as devices are.
        let header = if at.function() == 0 || class >> 16 == BRIDGE_CLASS {
            self.header(at)
        } else {
            0
        };
        let function = Function {
            address: at,
            vendor: id as u16,
            device: (id >> 16) as u16,
            class: Class(class >> 8),
            revision: class as u8,
            header: header & 0x7f,
        };
        Some((function, header & 0x80 != 0))
    }

    /// The header type at `at`, with the multi-function bit; all ones if no function is there.
    pub(crate) fn header(&self, at: Address) -> u8 {
        (self.read32(at, register::HEADER_TYPE) >> 16) as u8
    }
}
