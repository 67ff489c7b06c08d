//! Device registers: the trait that drivers use and its implementation over mapped memory.

use core::ptr::NonNull;

/// A block of device registers, addressed by byte offset.
///
/// An offset that is misaligned or beyond [`Registers::len`] is the driver's own mistake: reads
/// give all ones, as an empty bus does, and writes are dropped.
pub trait Registers {
    /// Size of the block in bytes.
    fn len(&self) -> usize;

    /// Whether the block is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the 32-bit register at `offset`.
    fn read32(&self, offset: usize) -> u32;

    /// Writes the 32-bit register at `offset`.
    fn write32(&self, offset: usize, value: u32);

    /// Reads a 64-bit register as two 32-bit halves, low first, which every controller accepts.
    fn read64(&self, offset: usize) -> u64 {
        u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32
    }

    /// Writes a 64-bit register as two 32-bit halves, low first.
    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

/// Registers of which some are 8 or 16 bits wide and must be accessed as wide as they are.
///
/// Misaligned and out-of-range offsets behave as with [`Registers`].
pub trait NarrowRegisters: Registers {
    /// Reads the 8-bit register at `offset`.
    fn read8(&self, offset: usize) -> u8;

    /// Reads the 16-bit register at `offset`.
    fn read16(&self, offset: usize) -> u16;

    /// Writes the 8-bit register at `offset`.
    fn write8(&self, offset: usize, value: u8);

    /// Writes the 16-bit register at `offset`.
    fn write16(&self, offset: usize, value: u16);
}

/// What a register may be read as: an unsigned integer.
trait RegisterWord: Copy {}
impl RegisterWord for u8 {}
impl RegisterWord for u16 {}
impl RegisterWord for u32 {}

/// Registers mapped into memory, uncached.
#[derive(Debug)]
pub struct Mmio {
    base: NonNull<u32>,
    len: usize,
}

// SAFETY: a register block has no thread affinity; volatile accesses from any core are sound,
// and ordering between cores is the driver's concern, not a memory-safety one.
unsafe impl Send for Mmio {}
// SAFETY: as above; every access is a single volatile load or store of device memory.
unsafe impl Sync for Mmio {}

impl Mmio {
    /// Takes over the register block of `len` bytes mapped at `base`.
    ///
    /// # Safety
    /// `base..base + len` must stay mapped as uncached device memory for as long as the value
    /// lives, must be 8-byte aligned, and must not be covered by any Rust reference.
    pub const unsafe fn new(base: NonNull<u32>, len: usize) -> Self {
        Self { base, len }
    }

    /// A second handle to the same registers, for a queue's doorbells on another core.
    #[must_use]
    pub const fn share(&self) -> Self {
        Self {
            base: self.base,
            len: self.len,
        }
    }

    /// Whether there is a register of type `T` at `offset`.
    #[inline(always)]
    fn has<T: RegisterWord>(&self, offset: usize) -> bool {
        let size = size_of::<T>();
        let last = self.len.checked_sub(size);
        offset.is_multiple_of(size) && last.is_some_and(|last| offset <= last)
    }

    #[inline]
    fn read<T: RegisterWord>(&self, offset: usize) -> Option<T> {
        if !self.has::<T>(offset) {
            return None;
        }
        // SAFETY: the address is aligned and inside the block that `new` was promised, and any bits
        // make a `RegisterWord`.
        Some(unsafe { self.base.byte_add(offset).cast::<T>().read_volatile() })
    }

    #[inline]
    fn write<T: RegisterWord>(&self, offset: usize, value: T) {
        if self.has::<T>(offset) {
            // SAFETY: the address is aligned and inside the block that `new` was promised.
            unsafe { self.base.byte_add(offset).cast::<T>().write_volatile(value) };
        }
    }
}

impl Registers for Mmio {
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset).unwrap_or(u32::MAX)
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value);
    }
}

impl NarrowRegisters for Mmio {
    fn read8(&self, offset: usize) -> u8 {
        self.read(offset).unwrap_or(u8::MAX)
    }

    fn read16(&self, offset: usize) -> u16 {
        self.read(offset).unwrap_or(u16::MAX)
    }

    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, value);
    }

    #[inline]
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_beyond_the_block_give_all_ones_and_writes_are_dropped() {
        let mut memory = [1u32, 2, 3, 4];
        // SAFETY: `memory` outlives `mmio` and is not used while it lives.
        let mmio = unsafe { Mmio::new(NonNull::new(memory.as_mut_ptr()).unwrap(), 12) };
        assert_eq!(mmio.read32(8), 3);
        assert_eq!(mmio.read32(12), u32::MAX);
        assert_eq!(mmio.read32(2), u32::MAX);
        mmio.write32(12, 9);
        mmio.write32(usize::MAX, 9);
        mmio.write64(0, 0x0000_0007_0000_0006);
        assert_eq!(mmio.read64(0), 0x0000_0007_0000_0006);
        assert_eq!(memory, [6, 7, 3, 4]);
    }

    #[test]
    fn narrow_registers_are_reached_at_their_own_width() {
        let mut memory = [0x0403_0201u32, 0];
        // SAFETY: `memory` outlives `mmio` and is not used while it lives.
        let mmio = unsafe { Mmio::new(NonNull::new(memory.as_mut_ptr()).unwrap(), 8) };
        assert_eq!((mmio.read8(1), mmio.read16(2)), (2, 0x0403));
        assert_eq!((mmio.read8(8), mmio.read16(1)), (u8::MAX, u16::MAX));
        mmio.write8(7, 9);
        mmio.write16(4, 0x0a0b);
        mmio.write16(7, 1);
        assert_eq!(memory, [0x0403_0201, 0x0900_0a0b]);
    }
}
