//! A window of guest frames that hold nothing, where one ring's grants are mapped.

use alloc::boxed::Box;

use spindle_hw::PAGE_SIZE;

use crate::room::{NoRoom, filled};

/// Consecutive unpopulated guest frames. Behind an IOMMU that follows the guest's physical
/// addresses, a frame's address is also where devices reach it.
#[derive(Debug)]
pub struct Window {
    base: u64,
    /// Frames whose unmap failed: something may still be mapped there, so they are never used
    /// again, not by the next ring either.
    unusable: Box<[bool]>,
}

impl Window {
    /// The `frames` frames from bus address `base` on; a multiple of the page size.
    ///
    /// # Errors
    /// Without memory for a byte for each frame.
    pub fn new(base: u64, frames: usize) -> Result<Self, NoRoom> {
        Ok(Self {
            base,
            unusable: filled(false, frames)?,
        })
    }

    /// Bus address of the first frame.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Number of frames, usable or not.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.unusable.len()
    }

    /// How many frames can never be used again.
    #[must_use]
    pub fn unusable(&self) -> usize {
        self.unusable.iter().filter(|&&bad| bad).count()
    }

    /// Whether `frame` can be used.
    #[must_use]
    pub fn is_usable(&self, frame: usize) -> bool {
        self.unusable.get(frame) == Some(&false)
    }

    /// Gives a frame up for good.
    pub(crate) fn condemn(&mut self, frame: usize) {
        if let Some(bad) = self.unusable.get_mut(frame) {
            *bad = true;
        }
    }

    /// Where `frame` is.
    #[inline]
    pub(crate) fn bus(&self, frame: usize) -> u64 {
        self.base + (frame * PAGE_SIZE) as u64
    }

    /// Which frame holds `bus`.
    #[inline]
    pub(crate) fn frame(&self, bus: u64) -> usize {
        (bus.wrapping_sub(self.base) / PAGE_SIZE as u64) as usize
    }
}
