//! What outlives a death of the kernel inside its own domain.
//!
//! Xen keeps a domain's event channels, grant mappings and xenstore connection as long as the
//! domain lives, whatever its kernel does. What the next life of the kernel has to know beyond
//! that is written into *kept memory*: pages that no start of the kernel clears. This crate has
//! the formats of what is written there.
//!
//! - [`journal`]: for each ring, which of its requests have no response yet; [`AtWork`]: which ring a
//!   core is serving.
//! - `records`: what control knows of its devices, ports, mappings and disks.
//! - `death`: why and where the last life ended.
//!
//! Kept memory is read by a kernel that may be of another version than the one that wrote it, after
//! a death that may have been caused by a stray write. Nothing read from it is trusted before it
//! is checked.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod at_work;
pub mod death;
pub mod journal;

pub use at_work::AtWork;
pub use journal::{Journal, JournalPages};
