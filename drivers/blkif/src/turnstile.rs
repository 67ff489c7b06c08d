//! Who is next for something that rings of a core share and that has run out: buffers, or places
//! in a disk's queue.

use alloc::vec::Vec;

/// Rings that wait, first come first served. As long as anybody waits nobody else is let
/// through, or small requests of others could keep a large one waiting for ever.
#[derive(Debug)]
pub(crate) struct Turnstile {
    /// Has room for all rings from the start.
    waiting: Vec<u16>,
}

impl Turnstile {
    /// For at most `rings` rings.
    pub(crate) fn new(rings: usize) -> Self {
        Self {
            waiting: Vec::with_capacity(rings),
        }
    }

    /// Whether nobody waits.
    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether `ring`, which wants something, may try. If not it waits behind the others.
    #[inline]
    pub(crate) fn admits(&mut self, ring: u16) -> bool {
        match self.waiting.first() {
            None => true,
            Some(&first) if first == ring => true,
            Some(_) => {
                self.join(ring);
                false
            }
        }
    }

    /// `ring` tried and got nothing.
    pub(crate) fn join(&mut self, ring: u16) {
        if !self.waiting.contains(&ring) && self.waiting.len() < self.waiting.capacity() {
            self.waiting.push(ring);
        }
    }

    /// Only those that `want` something still wait.
    pub(crate) fn retain(&mut self, want: impl Fn(u16) -> bool) {
        self.waiting.retain(|&ring| want(ring));
    }

    /// `ring` got something, or wants nothing any longer.
    #[inline]
    pub(crate) fn leave(&mut self, ring: u16) {
        if !self.waiting.is_empty() {
            self.waiting.retain(|&other| other != ring);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_are_let_through_in_the_order_they_came() {
        let mut turnstile = Turnstile::new(3);
        assert!(turnstile.is_free() && turnstile.admits(1) && turnstile.admits(2));
        turnstile.join(1);
        assert!(!turnstile.is_free());
        assert!(!turnstile.admits(2) && !turnstile.admits(0) && !turnstile.admits(2));
        assert!(turnstile.admits(1));
        turnstile.leave(1);
        assert!(!turnstile.admits(1) && !turnstile.admits(0));
        assert!(turnstile.admits(2));
        turnstile.leave(2);
        assert!(turnstile.admits(0));
    }

    #[test]
    fn a_ring_that_goes_away_holds_nobody_up() {
        let mut turnstile = Turnstile::new(2);
        turnstile.join(0);
        assert!(!turnstile.admits(1));
        turnstile.leave(0);
        turnstile.leave(1);
        assert!(turnstile.admits(7));
    }
}
