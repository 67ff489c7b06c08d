//! The block interface as a backend serves it: rings, requests, grants, and the loop of a ring
//! core.
//!
//! Nothing here touches hardware or makes a hypercall itself: a [`RingCore`] is handed its disk
//! queues, grant operations and event sender, so the same code runs in the kernel, under
//! `cargo test` and under a fuzzer.
//!
//! | layer | file | what it holds |
//! | --- | --- | --- |
//! | wire | [`abi`] | layouts, operations, statuses |
//! | ring | [`ring`] | indices, hold-off, one copy of each request |
//! | request | [`request`] | validation of that copy against the volume |
//! | memory | [`cache`], [`pool`] | mapped grants for direct DMA; buffers for grant copy |
//! | ring state | [`session`] | a request from ring slot to response |
//! | device | [`gate`] | barriers across the rings of a device |
//! | | [`claims`] | who may write a block of which others write another part |
//! | sharing | `scheduler`, `depth`, [`pool`] | who may send how much to the disk, and hold how many buffers |
//! | core | [`ring_core`] | turns over many rings: poll, take, resolve, submit, answer |
//! | telling | [`moderation`] | whether a frontend is notified at once |
//! | around it | [`worker`], [`mailbox`], [`pacer`] | orders from control, and rest |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod abi;
pub mod batch;
pub mod cache;
pub mod claims;
mod counted;
mod depth;
mod fifo;
pub mod gate;
mod guests;
pub mod mailbox;
pub mod moderation;
pub mod pacer;
pub mod pool;
pub mod request;
pub mod ring;
pub mod ring_core;
mod room;
mod scheduler;
pub mod session;
mod stack;
pub mod stats;
mod sync;
mod turns;
mod turnstile;
pub mod window;
pub mod worker;

pub use claims::Claims;
pub use counted::Counted;
pub use gate::{Gate, Member};
pub use ring::BackRing;
pub use ring_core::{Config, Detached, RingCore, RingId, Work};
pub use room::{NoRoom, guest_share};
pub use session::{Attachment, Session, Unfit, Unusable};
pub use stats::RingStats;
pub use window::Window;
