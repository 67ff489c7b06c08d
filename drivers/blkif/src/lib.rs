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
//! | ring | [`ring`] | indices, hold-off, one copy of each request; the ring's journal ([`spindle_kept`]) |
//! | request | [`request`] | validation of that copy against the volume |
//! | memory | [`cache`], [`pool`] | mapped grants for direct DMA; buffers for grant copy |
//! | ring state | [`session`] | a request from ring slot to response |
//! | device | [`gate`] | barriers across the rings of a device |
//! | | [`claims`] | who may write a block of which others write another part |
//! | | [`losses`] | what a disk may have lost with its cache, and who is yet to learn of it |
//! | sharing | `scheduler`, `depth`, [`pool`] | who may send how much to the disk, and hold how many buffers |
//! | core | [`ring_core`] | turns over many rings: poll, take, resolve, submit, answer |
//! | | `block_access` | blocks that control wants to see |
//! | limits | [`session`]'s `limit` | what a ring may take now, by the token buckets of [`spindle_limits`] |
//! | telling | [`moderation`] | whether a frontend is notified at once |
//! | around it | [`worker`], [`mailbox`], [`pacer`], [`wait`] | orders from control, and rest |
//!
//! # Example
//! A guest reads a page of a RAM disk. Guest, grant table, event channels and memory are the test
//! kit's.
//!
//! ```
//! use spindle_blkif::abi::{Abi, Operation, RspStatus};
//! use spindle_blkif::{Attachment, Config, Gate, RingCore, Session, Window};
//! use spindle_block::RamDisk;
//! use spindle_hw::{DmaAlloc, SharedPages};
//! use spindle_kept::JournalPages;
//! use spindle_testkit::blkfront::Blkfront;
//! use spindle_testkit::grants::{FakeEvents, FakeGrants};
//! use spindle_testkit::mem::FakeBus;
//! use spindle_xen::DomId;
//! use spindle_xen::event::Port;
//!
//! let bus = FakeBus::new();
//! let (grants, events) = (FakeGrants::new(&bus), FakeEvents::default());
//! let disk = RamDisk::new(1 << 20, &bus).expect("memory");
//!
//! // A core with a queue on the disk, and buffers for data that is copied.
//! let config = Config::default();
//! let buffers = bus.alloc(config.segments).expect("buffers");
//! let queues = vec![disk.queue(64, &bus)];
//! let mut core = RingCore::new(config, queues, &grants, &events, buffers).expect("a core");
//!
//! // The guest's ring of one page, attached to the core.
//! let mut front = Blkfront::new(&grants, DomId(1), 1, 0);
//! let journal = JournalPages {
//!     pages: SharedPages::host(1, 0),
//!     first: 0,
//! };
//! let attachment = Attachment {
//!     domain: DomId(1),
//!     port: Port(1),
//!     volume: disk.volume("ram0", 0),
//!     abi: Abi::Native,
//!     start: 0,
//!     window: Some(Window::new(1 << 40, 32).expect("memory")), // where its grants are mapped
//!     persistent: true,
//!     indirect_segments: 0,
//!     gate: Gate::members(1).remove(0),
//!     claims: None,
//!     losses: Default::default(),
//!     journal, // as many pages as the ring has
//! };
//! let session = Session::new(front.ring(), attachment).expect("memory for the ring");
//! core.attach(session).expect("a place");
//!
//! let page = front.page(false);
//! let id = front.push(Operation::READ, 0, &[page.segment(0, 7)]);
//! front.publish();
//! let mut answers = Vec::new();
//! for now_ns in (0..100_000).step_by(1000) {
//!     core.visit(now_ns); // a poll iteration
//!     answers.extend(front.answers());
//! }
//! assert_eq!(answers.len(), 1);
//! assert_eq!((answers[0].id, answers[0].status), (id, RspStatus::OKAY));
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod abi;
pub mod batch;
mod block_access;
pub mod cache;
pub mod claims;
mod counted;
mod depth;
mod fifo;
pub mod gate;
mod guests;
pub mod losses;
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
pub mod stats;
mod sync;
mod turns;
mod turnstile;
pub mod wait;
pub mod window;
pub mod worker;

pub use block_access::BlockAccess;
pub use claims::Claims;
pub use counted::Counted;
pub use gate::{Gate, Member};
pub use losses::Losses;
pub use ring::BackRing;
pub use ring_core::{Config, Detached, RingCore, RingId, Work};
pub use room::{NoRoom, guest_share};
pub use session::{Attachment, RingGrowth, RingShare, Session, Unfit, Unusable};
pub use stats::RingStats;
pub use window::Window;
