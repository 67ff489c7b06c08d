//! Stacks with a guard page.

// UNSAFETY: allocates memory by layout.
#![expect(unsafe_code)]

use alloc::alloc::alloc;
use core::alloc::Layout;

use xen_pvh_boot::{MapError, PAGE};

use super::map;

/// Why there is no stack.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StackError {
    /// The heap is full.
    OutOfMemory,
    /// The guard page could not be taken out.
    Guard(MapError),
}

impl core::fmt::Display for StackError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("no memory for a stack"),
            Self::Guard(e) => write!(f, "no guard page for a stack: {e}"),
        }
    }
}

/// A stack for a core or for exceptions: never freed, with an unmapped page below it.
pub(crate) struct Stack {
    top: u64,
}

impl Stack {
    /// A stack of `pages` pages.
    ///
    /// # Errors
    /// Without memory for it.
    pub(crate) fn new(pages: usize) -> Result<Self, StackError> {
        let page = PAGE as usize;
        let size = pages.saturating_add(1).saturating_mul(page);
        let layout = Layout::from_size_align(size, page).map_err(|_| StackError::OutOfMemory)?;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            return Err(StackError::OutOfMemory);
        }
        let base = base.expose_provenance() as u64;
        map::guard(base).map_err(StackError::Guard)?;
        Ok(Self {
            top: base + size as u64,
        })
    }

    /// The address above the stack, which is aligned to a page.
    pub(crate) fn leak_top(self) -> u64 {
        self.top
    }
}
