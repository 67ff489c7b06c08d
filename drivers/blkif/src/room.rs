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
