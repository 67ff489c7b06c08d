//! The data path with all its types settled, as the kernel runs it.
//!
//! What is generic is compiled where its types are settled. That is here, so that it is compiled
//! for speed, while the kernel around it is compiled for size (`Cargo.toml` of the workspace).
//!
//! [`disk_types`] is the one list of disk types, for this crate and for the kernel.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod types;

mod queue;
mod worker;

pub use queue::Queue;
pub use worker::{Core, Events, Grants, RingWorker};
