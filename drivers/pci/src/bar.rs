//! Base address registers: how large they are, where they go, and switching a function on.

use alloc::vec::Vec;

use spindle_hw::Ports;

use crate::config::{command, register};
use crate::{Address, BarWindow, Bus, Function};

/// Why a function could not be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// No function answers at the address.
    #[error("{0}: no such device")]
    Absent(Address),
    /// Not a device header: a bridge has other registers here.
    #[error("{at}: header type {header} is not a device's")]
    NotADevice {
        /// Where.
        at: Address,
        /// The header type found.
        header: u8,
    },
    /// A size that no memory register can have.
    #[error("{at}: BAR {index} has impossible size mask {mask:#x}")]
    BadSize {
        /// Where.
        at: Address,
        /// Number of the register.
        index: u8,
        /// What it held after all ones were written.
        mask: u64,
    },
    /// The window has no room left that the register can address.
    #[error("{at}: no room for the {size:#x} bytes of the {width}-bit BAR {index}")]
    NoRoom {
        /// Where.
        at: Address,
        /// Number of the register.
        index: u8,
        /// Bytes asked for.
        size: u64,
        /// Bits of the register: one of 32 reaches nothing above 4 GiB.
        width: u8,
    },
    /// The register did not take the address.
    #[error("{at}: BAR {index} reads {read:#x} after {wrote:#x} was written")]
    NotTaken {
        /// Where.
        at: Address,
        /// Number of the register.
        index: u8,
        /// The address written.
        wrote: u64,
        /// The address read back.
        read: u64,
    },
    /// The address was to be kept, but there is none.
    #[error("{at}: BAR {index} has no address")]
    Unassigned {
        /// Where.
        at: Address,
        /// Number of the register.
        index: u8,
    },
}

/// Who decides where the BARs are.
#[derive(Debug)]
pub enum Placement<'a> {
    /// Firmware or the toolstack has placed them: take the addresses as they stand.
    Keep,
    /// They are not placed, whatever the registers show: assign addresses from this window.
    Assign(&'a mut BarWindow),
}

/// A block of device memory in the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBar {
    /// Number of the (first) register, 0 to 5.
    pub index: u8,
    /// Guest-physical address.
    pub address: u64,
    /// Bytes, a power of two.
    pub size: u64,
    /// Whether the register is 64 bits wide and takes two places.
    pub wide: bool,
    /// Whether reads have no side effects.
    pub prefetchable: bool,
}

const IO_SPACE: u32 = 1;
const TYPE_MASK: u32 = 0b110;
const TYPE_64: u32 = 0b100;
const PREFETCHABLE: u32 = 0b1000;
const FLAGS: u64 = 0xf;
pub(crate) const REGISTERS: u8 = 6;

impl<P: Ports> Bus<P> {
    /// Places the memory BARs of the function at `at` and lets it decode memory and master the
    /// bus, with its interrupt pin off. I/O BARs stay off.
    ///
    /// # Errors
    /// See [`PciError`]; the function is then left switched off.
    pub fn enable(
        &self,
        at: Address,
        placement: Placement<'_>,
    ) -> Result<Vec<MemoryBar>, PciError> {
        self.enable_only(at, placement, |_| true)
    }

    /// The same for those memory BARs only whose number is `needed`, which alone are returned.
    ///
    /// When BARs are assigned, the others are left with an address from which nothing is decoded:
    /// a controller's memory buffer of many GiB then takes no addresses, and the device model does
    /// not spend time and page tables on mapping it.
    ///
    /// Memory decoding is off while BARs change, so that nothing is mapped in passing at an
    /// address that was never meant.
    ///
    /// # Errors
    /// See [`PciError`]; the function is then left switched off.
    pub fn enable_only(
        &self,
        at: Address,
        mut placement: Placement<'_>,
        needed: impl Fn(u8) -> bool,
    ) -> Result<Vec<MemoryBar>, PciError> {
        match self.header(at) {
            u8::MAX => return Err(PciError::Absent(at)),
            header if header & 0x7f != 0 => {
                let header = header & 0x7f;
                return Err(PciError::NotADevice { at, header });
            }
            _ => {}
        }
        self.disable(at);
        let keep = matches!(placement, Placement::Keep);
        let mut bars = self.memory_bars(at, keep, needed)?;
        for bar in &mut bars {
            match &mut placement {
                Placement::Keep if bar.address == 0 => {
                    let index = bar.index;
                    return Err(PciError::Unassigned { at, index });
                }
                Placement::Keep => {}
                Placement::Assign(window) => {
                    bar.address = window.take(bar.size, bar.wide).ok_or(PciError::NoRoom {
                        at,
                        index: bar.index,
                        size: bar.size,
                        width: if bar.wide { 64 } else { 32 },
                    })?;
                    self.set_bar(at, bar)?;
                }
            }
        }

        // Until here nothing was decoded, whatever the registers held, and an error leaves it so. The
        // interrupt pin stays off: completions are polled for, and no handler is there for it.
        self.master(at);
        Ok(bars)
    }

    /// Lets a function decode memory again where `bars` were when it was enabled, without mastering the
    /// bus: it was switched off, or power was taken from it, or it was replaced by another one that is
    /// driven in the same way, which `is_one` says of it. What drives it stops it before it calls
    /// [`Bus::master`].
    ///
    /// # Errors
    /// See [`PciError`]; the function is then left switched off.
    pub fn restore(
        &self,
        at: Address,
        is_one: fn(&Function) -> bool,
        bars: &[MemoryBar],
    ) -> Result<(), PciError> {
        match self.function(at) {
            Some((function, _)) if is_one(&function) => {}
            _ => return Err(PciError::Absent(at)),
        }
        self.disable(at);
        // Those that are not needed decode nothing after that, as when it was enabled.
        let is_needed = |index| bars.iter().any(|bar| bar.index == index);
        let found = self.memory_bars(at, false, is_needed)?;
        for bar in bars {
            let shape = |bar: &MemoryBar| (bar.index, bar.size, bar.wide);
            if !found.iter().any(|other| shape(other) == shape(bar)) {
                return Err(PciError::Absent(at));
            }
            self.set_bar(at, bar)?;
        }
        self.set_command(at, command::MEMORY | command::INTX_DISABLE);
        Ok(())
    }

    /// Lets a function whose BARs are in place ([`Bus::restore`]) decode memory and master the bus.
    pub fn master(&self, at: Address) {
        self.set_command(
            at,
            command::MEMORY | command::BUS_MASTER | command::INTX_DISABLE,
        );
    }

    /// Switches the function at `at` off: no decoding, no bus mastering, no interrupt pin.
    pub fn disable(&self, at: Address) {
        self.set_command(at, command::INTX_DISABLE);
    }

    /// Sizes every memory BAR, and gives those that are `needed`. Decoding must be off; the
    /// registers get back what they held only to `keep` it. Otherwise all address bits are left
    /// set: the BAR ends where the address space does, and no bridge or device model maps it.
    fn memory_bars(
        &self,
        at: Address,
        keep: bool,
        needed: impl Fn(u8) -> bool,
    ) -> Result<Vec<MemoryBar>, PciError> {
        let mut bars = Vec::new();
        let mut index = 0;
        while index < REGISTERS {
            let here = index;
            index += 1;
            let low = self.read32(at, bar_offset(here));
            if low & IO_SPACE != 0 {
                continue;
            }
            let low_mask = self.probe(at, here, low, keep);
            if low_mask == 0 {
                continue;
            }
            let wide = low_mask & TYPE_MASK == TYPE_64;
            let (high, high_mask) = if wide && index < REGISTERS {
                index += 1;
                let high = if keep {
                    self.read32(at, bar_offset(here + 1))
                } else {
                    0
                };
                (high, self.probe(at, here + 1, high, keep))
            } else {
                (0, u32::MAX)
            };
            if !needed(here) {
                continue;
            }
            let mask = u64::from(high_mask) << 32 | u64::from(low_mask) & !FLAGS;
            let size = mask.wrapping_neg();
            if !size.is_power_of_two() || wide && here + 1 == REGISTERS {
                return Err(PciError::BadSize {
                    at,
                    index: here,
                    mask,
                });
            }
            bars.push(MemoryBar {
                index: here,
                address: u64::from(high) << 32 | u64::from(low) & !FLAGS,
                size,
                wide,
                prefetchable: low_mask & PREFETCHABLE != 0,
            });
        }
        Ok(bars)
    }

    /// What register `index` holds after all ones were written (PCI Local Bus 3.0, 6.2.5.1); to
    /// `keep` it, `value` is put back.
    fn probe(&self, at: Address, index: u8, value: u32, keep: bool) -> u32 {
        let offset = bar_offset(index);
        self.write32(at, offset, u32::MAX);
        let mask = self.read32(at, offset);
        if keep {
            self.write32(at, offset, value);
        }
        mask
    }

    fn set_bar(&self, at: Address, bar: &MemoryBar) -> Result<(), PciError> {
        let low = bar_offset(bar.index);
        let high = bar_offset(bar.index + 1);
        self.write32(at, low, bar.address as u32);
        let mut read = u64::from(self.read32(at, low)) & !FLAGS;
        if bar.wide {
            self.write32(at, high, (bar.address >> 32) as u32);
            read |= u64::from(self.read32(at, high)) << 32;
        }
        if read != bar.address {
            return Err(PciError::NotTaken {
                at,
                index: bar.index,
                wrote: bar.address,
                read,
            });
        }
        Ok(())
    }

    /// Where the registers say that `bar` is.
    pub(crate) fn address_of(&self, at: Address, bar: &MemoryBar) -> u64 {
        let low = u64::from(self.read32(at, bar_offset(bar.index))) & !FLAGS;
        let high = match bar.wide {
            true => self.read32(at, bar_offset(bar.index + 1)),
            false => 0,
        };
        u64::from(high) << 32 | low
    }
}

const fn bar_offset(index: u8) -> u8 {
    register::BAR0 + 4 * index
}
