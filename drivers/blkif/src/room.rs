//! A ring's memory: all of it taken when the ring is made, and refused rather than lacked, since a
//! guest chooses how many rings there are and how large they are.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// There is no memory for a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not enough memory for the ring")]
pub struct NoRoom;

/// `count` times `value`.
///
/// # Errors
/// Without memory for them.
pub(crate) fn filled<T: Clone>(value: T, count: usize) -> Result<Box<[T]>, NoRoom> {
    let mut items = room_for(count)?;
    items.resize(count, value);
    Ok(items.into())
}

/// An empty vector with room for `count`.
///
/// # Errors
/// Without memory for it.
pub(crate) fn room_for<T>(count: usize) -> Result<Vec<T>, NoRoom> {
    let mut items = Vec::new();
    items.try_reserve_exact(count).map_err(|_| NoRoom)?;
    Ok(items)
}

/// Bytes that one more ring of a guest may take, if the rings of all guests take `all`, this
/// guest's take `own` of those, and `left` are left for rings.
///
/// A guest may have half of what there is for rings, so that one with many disks leaves something
/// to the others; its first ring may take whatever is left.
#[must_use]
pub fn guest_share(own: usize, all: usize, left: usize) -> usize {
    if own == 0 {
        return left;
    }
    let most = all.saturating_add(left) / 2;
    most.saturating_sub(own).min(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many rings of `size` bytes a guest gets of `left`, beside others that have `others`.
    fn rings(size: usize, others: usize, mut left: usize) -> usize {
        let mut own = 0;
        while guest_share(own, others + own, left) >= size {
            own += size;
            left -= size;
        }
        own / size
    }

    #[test]
    fn a_guest_gets_half_of_the_memory_for_rings_and_at_least_one_ring() {
        assert_eq!(rings(100, 0, 4000), 20);
        // Others have taken a quarter, or all but a little.
        assert_eq!(rings(100, 1000, 3000), 20);
        assert_eq!(rings(100, 3500, 500), 5);
        assert_eq!(rings(100, 0, 150), 1);
        assert_eq!(rings(100, 0, 99), 0);
        // One that has more than its half, since others have left, gets no more.
        assert_eq!(guest_share(3000, 3000, 1000), 0);
    }
}
