//! Where a function sits: bus, device, function.

use core::fmt;

/// A function's place in PCI segment 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    bus: u8,
    /// Device in bits 7:3, function in bits 2:0, as configuration cycles carry them.
    devfn: u8,
}

impl Address {
    /// Function `function` (0 to 7) of device `device` (0 to 31) on `bus`; `None` if a number is
    /// out of its range.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self {
            bus,
            devfn: device << 3 | function,
        })
    }

    /// Bus, device and function in one number, from the highest bits down. 0 is the host bridge.
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be_bytes([self.bus, self.devfn])
    }

    /// The bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device number on the bus, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// The function number in the device, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }

    /// What to write to port 0xCF8 to select the doubleword at `offset` (PCI Local Bus 3.0,
    /// 3.2.2.3.2).
    pub(crate) const fn select(self, offset: u8) -> u32 {
        u32::from_be_bytes([1 << 7, self.bus, self.devfn, offset & 0xfc])
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "0000:{:02x}:{:02x}.{}",
            self.bus(),
            self.device(),
            self.function()
        )
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_address_prints_as_lspci_does_and_selects_its_own_registers() {
        let at = Address::new(2, 0x1f, 3).unwrap();
        assert_eq!(at.to_string(), "0000:02:1f.3");
        assert_eq!(at.select(0x13), 0x8002_fb10);
        assert_eq!(Address::new(0, 32, 0), None);
        assert_eq!(Address::new(0, 0, 8), None);
    }
}
