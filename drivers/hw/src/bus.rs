//! Memory as devices address it: allocation for DMA, and access to memory known only by its bus
//! address.

use core::ops::Range;
use core::ptr::NonNull;

use crate::{PAGE_SIZE, SharedPages};

/// Where drivers get memory that a device can reach.
pub trait DmaAlloc {
    /// `pages` zeroed pages in one run, or `None` if there is no such run.
    fn alloc(&self, pages: usize) -> Option<SharedPages>;

    /// Takes pages back. The device must not reach them any longer.
    fn free(&self, pages: SharedPages);
}

/// A [`DmaAlloc`] that outlives a death of the kernel: pages that a former life has had from it, and
/// that lie where no start of the kernel puts anything, can be had again with what they hold.
pub trait Retake: DmaAlloc {
    /// The run of `pages` pages at bus address `bus`, as a former life has left it; `None`, with
    /// nothing changed, if not all of it is free memory of this allocator's.
    fn retake(&self, bus: u64, pages: usize) -> Option<SharedPages>;
}

/// CPU access to memory of which only the bus address is at hand: what a RAM disk uses to play
/// the part of a DMA engine.
pub trait BusMemory {
    /// Copies `len` bytes from bus address `bus` into `to` at `offset`; false if any of it is not
    /// memory that this side may touch.
    #[must_use]
    fn copy_from_bus(&self, bus: u64, to: &SharedPages, offset: usize, len: usize) -> bool;

    /// Copies `len` bytes of `from` at `offset` to bus address `bus`; false as above.
    #[must_use]
    fn copy_to_bus(&self, from: &SharedPages, offset: usize, bus: u64, len: usize) -> bool;
}

impl<T: DmaAlloc + ?Sized> DmaAlloc for &T {
    fn alloc(&self, pages: usize) -> Option<SharedPages> {
        (**self).alloc(pages)
    }

    fn free(&self, pages: SharedPages) {
        (**self).free(pages);
    }
}

impl<T: Retake + ?Sized> Retake for &T {
    fn retake(&self, bus: u64, pages: usize) -> Option<SharedPages> {
        (**self).retake(bus, pages)
    }
}

impl<T: BusMemory + ?Sized> BusMemory for &T {
    fn copy_from_bus(&self, bus: u64, to: &SharedPages, offset: usize, len: usize) -> bool {
        (**self).copy_from_bus(bus, to, offset, len)
    }

    fn copy_to_bus(&self, from: &SharedPages, offset: usize, bus: u64, len: usize) -> bool {
        (**self).copy_to_bus(from, offset, bus, len)
    }
}

/// [`BusMemory`] where bus addresses are the CPU's own: a guest kernel with identity-mapped
/// memory behind an IOMMU that follows its guest-physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct IdentityMap {
    windows: &'static [Range<u64>],
}

impl IdentityMap {
    /// An accessor for the given windows of identity-mapped memory.
    ///
    /// # Safety
    /// Each window must be whole pages, identity-mapped for as long as the domain runs, and must
    /// hold nothing that a Rust reference covers: only memory handed out by a [`DmaAlloc`] and mapped grants.
    #[must_use]
    pub const unsafe fn new(windows: &'static [Range<u64>]) -> Self {
        Self { windows }
    }

    fn pages(&self, bus: u64, len: usize) -> Option<(SharedPages, usize)> {
        let end = bus.checked_add(u64::try_from(len).ok()?)?;
        self.windows
            .iter()
            .find(|w| w.start <= bus && end <= w.end)?;
        let inside = bus % PAGE_SIZE as u64;
        let page = bus - inside;
        let inside = usize::try_from(inside).ok()?;
        let base = NonNull::new(core::ptr::with_exposed_provenance_mut(
            usize::try_from(page).ok()?,
        ))?;
        let count = (inside + len).div_ceil(PAGE_SIZE);
        // SAFETY: the range is inside a window, and so are its pages, which `new` promised to be
        // mapped and free of references.
        Some((unsafe { SharedPages::from_raw(base, count, page) }, inside))
    }
}

impl IdentityMap {
    /// Reads words from bus address `bus`, a multiple of 8; false if any of it is not memory that
    /// this side may touch.
    #[must_use]
    pub fn read_words(&self, bus: u64, words: &mut [u64]) -> bool {
        if !bus.is_multiple_of(size_of::<u64>() as u64) {
            return false;
        }
        let Some((from, inside)) = self.pages(bus, size_of_val(words)) else {
            return false;
        };
        from.load_words(inside, words);
        true
    }
}

impl BusMemory for IdentityMap {
    fn copy_from_bus(&self, bus: u64, to: &SharedPages, offset: usize, len: usize) -> bool {
        let Some((from, inside)) = self.pages(bus, len) else {
            return false;
        };
        to.copy_from(offset, &from, inside, len);
        true
    }

    fn copy_to_bus(&self, from: &SharedPages, offset: usize, bus: u64, len: usize) -> bool {
        let Some((to, inside)) = self.pages(bus, len) else {
            return false;
        };
        to.copy_from(inside, from, offset, len);
        true
    }
}
