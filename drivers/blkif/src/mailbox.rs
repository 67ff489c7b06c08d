//! One slot between two cores: how control tells a ring core something, and hears from it.
//!
//! The side that looks costs itself one load of a word that nobody writes as long as there is
//! nothing to say, so a busy core can look at every turn without touching a line that another
//! core owns.

use crate::sync::{AtomicBool, Mutex, Ordering};

/// A slot for one message.
#[derive(Debug)]
#[repr(align(64))]
pub struct Mailbox<T> {
    full: AtomicBool,
    slot: Mutex<Option<T>>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Mailbox<T> {
    /// An empty mailbox.
    #[must_use]
    pub fn new() -> Self {
        Self {
            full: AtomicBool::new(false),
            slot: Mutex::new(None),
        }
    }

    /// Puts a message in. The receiver may be asleep: wake it afterwards.
    ///
    /// # Errors
    /// With the message, if the last one has not been taken yet.
    pub fn put(&self, message: T) -> Result<(), T> {
        let mut slot = self.slot.lock();
        if slot.is_some() {
            return Err(message);
        }
        *slot = Some(message);
        // Release: whoever sees the flag finds the message.
        self.full.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether there is a message.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Takes the message out, if there is one.
    #[inline]
    pub fn take(&self) -> Option<T> {
        if !self.is_full() {
            return None;
        }
        let mut slot = self.slot.lock();
        self.full.store(false, Ordering::Relaxed);
        slot.take()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_until_it_is_taken_and_a_second_one_is_refused() {
        let mailbox = Mailbox::new();
        assert_eq!(mailbox.take(), None);
        assert_eq!(mailbox.put(1), Ok(()));
        assert_eq!(mailbox.put(2), Err(2));
        assert!(mailbox.is_full());
        assert_eq!(mailbox.take(), Some(1));
        assert_eq!(mailbox.take(), None);
        assert_eq!(mailbox.put(3), Ok(()));
        assert_eq!(mailbox.take(), Some(3));
    }
}
