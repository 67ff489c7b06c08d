//! A queue of slot numbers with a fixed capacity, cheap enough for the data path.

use alloc::boxed::Box;

use crate::room::{NoRoom, filled};

/// First in, first out; never grows.
#[derive(Debug)]
pub(crate) struct Fifo {
    /// A power of two of places.
    items: Box<[u16]>,
    /// Taken and put in so far, wrapping.
    head: u32,
    tail: u32,
}

impl Fifo {
    /// Room for at least `capacity` items.
    pub(crate) fn new(capacity: usize) -> Result<Self, NoRoom> {
        Ok(Self {
            items: filled(0, capacity.next_power_of_two())?,
            head: 0,
            tail: 0,
        })
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.tail.wrapping_sub(self.head) as usize
    }

    /// The item `at` places from the front.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<u16> {
        if at >= self.len() {
            return None;
        }
        let mask = self.items.len() - 1;
        let at = (self.head as usize).wrapping_add(at);
        self.items.get(at & mask).copied()
    }

    /// Adds an item; there is room, since a ring's slots are never in a queue twice.
    #[inline]
    pub(crate) fn push(&mut self, item: u16) {
        debug_assert!(self.len() < self.items.len());
        let mask = self.items.len() - 1;
        self.items[self.tail as usize & mask] = item;
        self.tail = self.tail.wrapping_add(1);
    }

    /// Adds an item at the front.
    pub(crate) fn push_front(&mut self, item: u16) {
        debug_assert!(self.len() < self.items.len());
        let mask = self.items.len() - 1;
        self.head = self.head.wrapping_sub(1);
        self.items[self.head as usize & mask] = item;
    }

    /// Removes the front item.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u16> {
        let item = self.get(0)?;
        self.head = self.head.wrapping_add(1);
        Some(item)
    }
}
