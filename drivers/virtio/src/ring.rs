//! A split virtqueue (2.7): descriptors, the ring of requests offered and the ring of requests
//! used, in memory that the device reaches as well.
//!
//! Nothing is read back but what the device is to write. Notifications of the driver are off for
//! good; those of the device are asked for only where it wants them.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use spindle_hw::{DmaAlloc, PAGE_SIZE, SharedPages};

/// Bytes of a descriptor: address, length, flags, number of the next (2.7.5).
pub(crate) const DESCRIPTOR: usize = 16;

/// What a descriptor is, beside a piece of memory.
pub(crate) mod flag {
    /// Another one follows.
    pub(crate) const NEXT: u16 = 1;
    /// The device writes to it.
    pub(crate) const WRITE: u16 = 2;
    /// The memory holds descriptors.
    pub(crate) const INDIRECT: u16 = 4;
}

/// In the flags of the available ring: the driver does not want to be notified (2.7.6).
const NO_INTERRUPT: u16 = 1;
/// In the flags of the used ring: the device does not want to be notified (2.7.8).
const NO_NOTIFY: u16 = 1;

/// Where the entries of both rings begin, after flags and index.
const ENTRIES: usize = 4;
/// Bytes of an entry of the used ring: number, length.
const USED: usize = 8;

/// A piece of memory in a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) bus: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    /// Writes it as number `index` of a table.
    #[inline]
    pub(crate) fn store(self, table: &SharedPages, index: usize) {
        let [address, rest]: &[AtomicU64; 2] = table.u64s_at(index * DESCRIPTOR);
        address.store(self.bus, Ordering::Relaxed);
        let (flags, next) = (u64::from(self.flags), u64::from(self.next));
        rest.store(
            u64::from(self.len) | flags << 32 | next << 48,
            Ordering::Relaxed,
        );
    }
}

/// The three parts of a virtqueue and how far both sides have come.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The descriptor table, followed by the available ring.
    pub(crate) driver: SharedPages,
    /// The used ring, in pages of its own.
    pub(crate) used: SharedPages,
    size: u16,
    /// Requests offered; wraps around.
    offered: u16,
    /// The same as the device knows it.
    told: u16,
    /// Entries of the used ring looked at; wraps around.
    seen: u16,
}

impl Ring {
    /// A ring of `size` entries, a power of two.
    pub(crate) fn new(size: u16, memory: &impl DmaAlloc) -> Option<Self> {
        let entries = usize::from(size);
        // Behind the entries there is a 16-bit word for a feature that is not used here.
        let driver = entries * DESCRIPTOR + ENTRIES + entries * size_of::<u16>() + 2;
        let used = ENTRIES + entries * USED + 2;
        let driver = memory.alloc(driver.div_ceil(PAGE_SIZE))?;
        let Some(used) = memory.alloc(used.div_ceil(PAGE_SIZE)) else {
            memory.free(driver);
            return None;
        };
        let ring = Self {
            driver,
            used,
            size,
            offered: 0,
            told: 0,
            seen: 0,
        };
        let flags = ring.driver.u16_at(ring.available());
        flags.store(NO_INTERRUPT, Ordering::Relaxed);
        Some(ring)
    }

    /// Entries in each part.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Bus addresses of the descriptor table, the available ring and the used ring.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        let available = self.driver.bus() + self.available() as u64;
        [self.driver.bus(), available, self.used.bus()]
    }

    fn available(&self) -> usize {
        usize::from(self.size) * DESCRIPTOR
    }

    fn entry(&self, counter: u16) -> usize {
        usize::from(counter & (self.size - 1))
    }

    /// Offers the request that begins with descriptor `head`; the device does not see it before
    /// [`Self::publish`].
    #[inline]
    pub(crate) fn offer(&mut self, head: u16) {
        let at = self.available() + ENTRIES + self.entry(self.offered) * size_of::<u16>();
        self.driver.u16_at(at).store(head, Ordering::Relaxed);
        self.offered = self.offered.wrapping_add(1);
    }

    /// Shows the device all that was offered; true if it has to be notified.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if self.told == self.offered {
            return false;
        }
        self.told = self.offered;
        // Requests before the index that makes the device read them.
        let index = self.driver.u16_at(self.available() + 2);
        index.store(self.offered, Ordering::Release);
        // The index before the device's wish, or each side might take the other to be awake
        // (2.7.13.4).
        fence(Ordering::SeqCst);
        self.used.u16_at(0).load(Ordering::Relaxed) & NO_NOTIFY == 0
    }

    /// Whether there is a next entry in the used ring.
    #[inline]
    pub(crate) fn has_used(&self) -> bool {
        self.used.u16_at(2).load(Ordering::Acquire) != self.seen
    }

    /// The number in the next entry of the used ring, if there is one.
    #[inline]
    pub(crate) fn next_used(&mut self) -> Option<u32> {
        if !self.has_used() {
            return None;
        }
        let at = ENTRIES + self.entry(self.seen) * USED;
        self.seen = self.seen.wrapping_add(1);
        Some(self.used.u32_at(at).load(Ordering::Relaxed))
    }

    /// Gives the memory back, which the device must not reach any longer.
    pub(crate) fn free(self, memory: &impl DmaAlloc) {
        memory.free(self.driver);
        memory.free(self.used);
    }
}
