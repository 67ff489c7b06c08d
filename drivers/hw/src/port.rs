//! x86 I/O ports: PCI configuration mechanism #1 and the hypervisor's debug console.

/// Access to I/O ports.
pub trait Ports {
    /// Reads a byte from `port`.
    fn in8(&self, port: u16) -> u8;
    /// Writes a byte to `port`.
    fn out8(&self, port: u16, value: u8);
    /// Reads a doubleword from `port`.
    fn in32(&self, port: u16) -> u32;
    /// Writes a doubleword to `port`.
    fn out32(&self, port: u16, value: u32);
}

/// The processor's own I/O ports. Only code at ring 0 can make one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub struct X86Ports(());

#[cfg(target_arch = "x86_64")]
impl X86Ports {
    /// Makes the accessor.
    ///
    /// # Safety
    /// The caller must run at ring 0 and must only let it be used for ports whose devices cannot
    /// be made to write to memory that Rust owns.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

#[cfg(target_arch = "x86_64")]
impl Ports for X86Ports {
    fn in8(&self, port: u16) -> u8 {
        let value;
        // SAFETY: `new` was promised ring 0 and harmless ports.
        unsafe {
            core::arch::asm!("in al, dx", in("dx") port, out("al") value,
                options(nostack, preserves_flags));
        }
        value
    }

    fn out8(&self, port: u16, value: u8) {
        // SAFETY: as in `in8`.
        unsafe {
            core::arch::asm!("out dx, al", in("dx") port, in("al") value,
                options(nostack, preserves_flags));
        }
    }

    fn in32(&self, port: u16) -> u32 {
        let value;
        // SAFETY: as in `in8`.
        unsafe {
            core::arch::asm!("in eax, dx", in("dx") port, out("eax") value,
                options(nostack, preserves_flags));
        }
        value
    }

    fn out32(&self, port: u16, value: u32) {
        // SAFETY: as in `in8`.
        unsafe {
            core::arch::asm!("out dx, eax", in("dx") port, in("eax") value,
                options(nostack, preserves_flags));
        }
    }
}
