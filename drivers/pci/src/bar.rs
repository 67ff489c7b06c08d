//! Base address registers: how large they are, where they go, and switching a function on.

use alloc::vec::Vec;
use core::ops::Range;

use spindle_hw::{PAGE_SIZE, Ports};

use crate::config::{command, register};
use crate::{Address, Bus};

/// Why a function could not be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// Nobody answers.
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
    /// The window has no room left.
    #[error("{at}: no room for the {size:#x} bytes of BAR {index}")]
    NoRoom {
        /// Where.
        at: Address,
        /// Number of the register.
        index: u8,
        /// Bytes asked for.
        size: u64,
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

/// Guest-physical addresses for BARs to be placed in, from the bottom up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    next: u64,
    end: u64,
}

impl Window {
    /// Where Xen leaves room for PCI memory in a container with a device model.
    pub const HVM: Self = Self {
        next: 0xf000_0000,
        end: 0xfc00_0000,
    };

    /// A window of free addresses.
    #[must_use]
    pub const fn new(range: Range<u64>) -> Self {
        Self {
            next: range.start,
            end: range.end,
        }
    }

    /// Takes `size` bytes, a power of two, aligned to their size and to pages.
    fn take(&mut self, size: u64) -> Option<u64> {
        let size = size.max(PAGE_SIZE as u64);
        let start = self.next.checked_next_multiple_of(size)?;
        let end = start.checked_add(size)?;
        if end > self.end {
            return None;
        }
        self.next = end;
        Some(start)
    }
}

/// Who decides where the BARs are.
#[derive(Debug)]
pub enum Placement<'a> {
    /// Somebody has done it (firmware, the toolstack): take the addresses as they stand.
    Keep,
    /// Nobody has, whatever the registers show: assign from this window.
    Assign(&'a mut Window),
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
const REGISTERS: u8 = 6;

impl<P: Ports> Bus<P> {
    /// Places the memory BARs of the function at `at` and lets it decode memory and master the
    /// bus, with its interrupt pin off. I/O BARs stay off.
    ///
    /// Memory decoding is off while BARs change, so that nothing is mapped in passing at an
    /// address that was never meant.
    ///
    /// # Errors
    /// See [`PciError`]; the function is then left switched off.
    pub fn enable(
        &self,
        at: Address,
        mut placement: Placement<'_>,
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
        let mut bars = self.memory_bars(at, keep)?;
        for bar in &mut bars {
            match &mut placement {
                Placement::Keep if bar.address == 0 => {
                    let index = bar.index;
                    return Err(PciError::Unassigned { at, index });
                }
                Placement::Keep => {}
                Placement::Assign(window) => {
                    bar.address = window.take(bar.size).ok_or(PciError::NoRoom {
                        at,
                        index: bar.index,
                        size: bar.size,
                    })?;
                    self.set_bar(at, bar)?;
                }
            }
        }
        self.set_command(
            at,
            command::MEMORY | command::BUS_MASTER | command::INTX_DISABLE,
        );
        Ok(bars)
    }

    /// Switches the function at `at` off: no decoding, no bus mastering, no interrupt pin.
    pub fn disable(&self, at: Address) {
        self.set_command(at, command::INTX_DISABLE);
    }

    /// Sizes every memory BAR. Decoding must be off; the registers get back what they held only
    /// to `keep` it.
    fn memory_bars(&self, at: Address, keep: bool) -> Result<Vec<MemoryBar>, PciError> {
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
            let mask = u64::from(high_mask) << 32 | u64::from(low_mask) & !FLAGS;
            let size = mask.wrapping_neg();
            if !size.is_power_of_two() || size < 16 || wide && here + 1 == REGISTERS {
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
}

const fn bar_offset(index: u8) -> u8 {
    register::BAR0 + 4 * index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_aligns_to_the_size_and_ends() {
        let mut window = Window::new(0xf000_1000..0xf000_8000);
        assert_eq!(window.take(0x10), Some(0xf000_1000));
        assert_eq!(window.take(0x4000), Some(0xf000_4000));
        assert_eq!(window.take(0x10), None);
        assert_eq!(Window::new(u64::MAX - 10..u64::MAX).take(4096), None);
    }
}
