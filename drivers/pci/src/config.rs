//! Configuration space by mechanism #1: an address port and a data port.

use core::cell::Cell;

use spindle_hw::Ports;

use crate::Address;

/// Port of the address register of configuration mechanism #1.
pub const CONFIG_ADDRESS: u16 = 0xcf8;
/// Port of the data register of configuration mechanism #1.
pub const CONFIG_DATA: u16 = 0xcfc;

/// Offsets in the configuration header (PCI Local Bus 3.0, 6.1).
pub(crate) mod register {
    pub(crate) const ID: u8 = 0x00;
    pub(crate) const COMMAND: u8 = 0x04;
    pub(crate) const CLASS: u8 = 0x08;
    pub(crate) const HEADER_TYPE: u8 = 0x0c;
    pub(crate) const BAR0: u8 = 0x10;
    /// Primary, secondary and subordinate bus number of a bridge.
    pub(crate) const BUS_NUMBERS: u8 = 0x18;
    pub(crate) const CAPABILITIES: u8 = 0x34;
}

/// Bits of the command register (PCI Local Bus 3.0, 6.2.2).
pub(crate) mod command {
    pub(crate) const MEMORY: u32 = 1 << 1;
    pub(crate) const BUS_MASTER: u32 = 1 << 2;
    pub(crate) const INTX_DISABLE: u32 = 1 << 10;
    /// The command half of the doubleword that also holds the status register.
    pub(crate) const MASK: u32 = 0xffff;
}

/// All the PCI buses behind one pair of configuration ports.
///
/// The two ports are one shared register, of which this knows what it wrote last: there must be one
/// of it only, used from one core.
#[derive(Debug)]
pub struct Bus<P> {
    ports: P,
    /// What the address port holds. Each access to a port costs a trip to the device model, so
    /// that it is written only when another address is wanted.
    selected: Cell<u32>,
}

impl<P: Ports> Bus<P> {
    /// The buses reached through `ports`.
    pub const fn new(ports: P) -> Self {
        Self {
            ports,
            // Not an address: bit 31 is clear.
            selected: Cell::new(0),
        }
    }

    fn select(&self, at: Address, offset: u8) {
        let address = at.select(offset);
        if self.selected.replace(address) != address {
            self.ports.out32(CONFIG_ADDRESS, address);
        }
    }

    /// Reads the configuration doubleword that holds `offset`; all ones if no function
    /// is there.
    #[must_use]
    pub fn read32(&self, at: Address, offset: u8) -> u32 {
        self.select(at, offset);
        self.ports.in32(CONFIG_DATA)
    }

    /// Writes the configuration doubleword that holds `offset`.
    pub fn write32(&self, at: Address, offset: u8, value: u32) {
        self.select(at, offset);
        self.ports.out32(CONFIG_DATA, value);
    }

    /// Sets the command register. The status half is written as zeroes, which leaves its
    /// write-one-to-clear bits alone.
    pub(crate) fn set_command(&self, at: Address, value: u32) {
        self.write32(at, register::COMMAND, value & command::MASK);
    }
}
