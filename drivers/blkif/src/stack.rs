//! A stack of free slot numbers with a fixed capacity, cheap enough for the data path.

use alloc::boxed::Box;

use crate::room::{NoRoom, room_for};

/// Last in, first out, so that what was used last, and is still in the CPU's cache, is used next;
/// never grows.
#[derive(Debug)]
pub(crate) struct Stack {
    items: Box<[u16]>,
    len: usize,
}

impl Stack {
    /// All numbers below `count`.
    pub(crate) fn all_below(count: u16) -> Result<Self, NoRoom> {
        let mut items = room_for(count.into())?;
        items.extend((0..count).rev());
        Ok(Self {
            items: items.into(),
            len: count.into(),
        })
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The item that is next to go.
    #[inline]
    pub(crate) fn last(&self) -> Option<u16> {
        self.items.get(self.len.wrapping_sub(1)).copied()
    }

    /// Removes what [`Stack::last`] gave; there must have been something.
    #[inline]
    pub(crate) fn pop(&mut self) {
        debug_assert!(self.len > 0);
        self.len = self.len.wrapping_sub(1);
    }

    /// Takes an item back; there is room, since no number is in the stack twice.
    #[inline]
    pub(crate) fn push(&mut self, item: u16) {
        debug_assert!(self.len < self.items.len());
        if let Some(place) = self.items.get_mut(self.len) {
            *place = item;
            self.len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_back_last_goes_first_and_an_empty_stack_stays_empty() {
        let mut stack = Stack::all_below(3).unwrap();
        assert_eq!((stack.len(), stack.last()), (3, Some(0)));
        stack.pop();
        stack.pop();
        stack.push(0);
        assert_eq!((stack.len(), stack.last()), (2, Some(0)));
        stack.pop();
        stack.pop();
        assert_eq!((stack.len(), stack.last()), (0, None));
    }
}
