//! A polling virtio-blk driver over PCI, modern transport: no interrupts, one virtqueue per core,
//! nothing shared between them.
//!
//! The control core brings a [`Disk`] up, which negotiates features and sets all virtqueues up
//! (virtio wants them before the device goes live); each ring core then gets a [`BlockQueue`] of
//! its own, which is a [`spindle_block::DiskQueue`]. Data goes to and from bus addresses, not
//! through slices: the memory is other domains', and no reference may cover it.
//!
//! The transport interface and its types are those of `virtio-drivers`. Its own queue and PCI
//! transport do not fit: `VirtQueue` takes Rust slices and allocates for each request;
//! `PciTransport` adds up what the device says without checks, waits without end when dropped, and
//! rings a queue through a register that all queues share.
//!
//! The disk is not trusted: whatever it writes into the used ring, status bytes and registers is
//! checked, counted and, where it makes no sense, ignored. Section numbers are those of the
//! virtio specification, version 1.2.
//!
//! | file | what |
//! | --- | --- |
//! | `layout` | where on PCI the registers are |
//! | `transport` | the registers as a `virtio_drivers::transport::Transport` |
//! | `config` | features, and what the configuration space says |
//! | `disk`, `volume` | health, size, queues, shutdown; what is offered |
//! | `bring_up` | from a reset to a disk that works, in steps that do not wait |
//! | `handover` | how queues go to ring cores, and back once the device is lost |
//! | `block_controller`, `revival` | all of that as a `spindle_block::BlockController`, of which one that is lost comes back |
//! | `request` | what goes over the wire |
//! | `ring` | a split virtqueue |
//! | `runs` | cutting a command's memory into what one request can describe |
//! | `slots` | which requests are in flight, and for whom |
//! | `sync` | words that cores share, or a model checker's |
//! | `engine`, `queue` | the data path; with its doorbell |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod block_controller;
mod bring_up;
mod config;
mod disk;
mod engine;
mod error;
mod handover;
mod layout;
mod queue;
mod request;
mod revival;
mod ring;
mod runs;
mod slots;
mod sync;
mod transport;
mod volume;

pub use block_controller::VirtioDisk;
pub use disk::{Disk, stop};
pub use error::Error;
pub use layout::{LAYOUT_WORDS, Layout, LayoutError, Region, is_block_device};
pub use queue::BlockQueue;
pub use transport::PciTransport;
pub use volume::name;
