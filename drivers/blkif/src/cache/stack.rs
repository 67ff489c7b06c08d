//! Frames of a cache that are free, or are to be unmapped: a stack of them, each of which has the number
//! of the one below it, so that it takes no memory and never runs out of it.

use super::{Frame, NO_FRAME};

/// Frames, of which the last that was put there is taken first.
#[derive(Debug)]
pub(super) struct Stack {
    top: u16,
    count: u16,
}

impl Default for Stack {
    fn default() -> Self {
        Self {
            top: NO_FRAME,
            count: 0,
        }
    }
}

impl Stack {
    /// Puts frame `index` there, which must be on no stack.
    #[inline]
    pub(super) fn push(&mut self, frames: &mut [Frame], index: usize) {
        if let Some(frame) = frames.get_mut(index) {
            frame.used = self.top.into();
            self.top = index as u16;
            self.count += 1;
        }
    }

    /// Takes a frame away.
    #[inline]
    pub(super) fn pop(&mut self, frames: &[Frame]) -> Option<usize> {
        let index = usize::from(self.top);
        self.top = frames.get(index)?.used as u16;
        self.count -= 1;
        Some(index)
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.count.into()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.top == NO_FRAME
    }
}
