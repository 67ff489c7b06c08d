//! A polling NVMe driver: no interrupts, one queue pair per core, nothing shared between them.
//!
//! The control core brings a [`Controller`] up, which finds out who it is and which namespaces it
//! has; each ring core then gets a [`QueuePair`] of its own, which is a
//! [`spindle_block::DiskQueue`]. Everything that waits (bring-up, admin commands, shutdown) is in
//! [`Controller`] and bounded in time; a queue pair never waits, allocates, locks or logs.
//!
//! The disk is not trusted: whatever it writes into completions and identify pages is checked,
//! counted and, where it makes no sense, ignored. Section numbers are those of the NVM Express
//! base specification, revision 1.4.
//!
//! | file | what |
//! | --- | --- |
//! | `registers` | controller registers and doorbells |
//! | `command`, `status`, `identify` | what goes over the wire |
//! | `admin` | the admin queue |
//! | `series` | admin commands that control does not wait for |
//! | `controller`, `lifecycle` | bring-up and its end; readiness and shutdown |
//! | `discovery`, `identity`, `namespace` | from identify pages to volumes |
//! | `queues` | making queue pairs |
//! | `recovery`, `link` | aborts and resets, and what the cores have to do with them |
//! | `events`, `health` | what the controller tells unasked; the SMART log |
//! | `host_memory` | memory that the controller asks us for |
//! | `prp` | cutting a command into what one NVMe command can describe |
//! | `discard` | the same for a discard |
//! | `slots` | which command identifiers are in flight, and for whom |
//! | `queue` | the data path |
//!
//! Write Zeroes is not used: no request of blkif asks for zeroes, and a discard promises none.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod admin;
mod command;
mod controller;
mod discard;
mod discovery;
mod error;
mod events;
mod health;
mod host_memory;
mod identify;
mod identity;
mod lifecycle;
mod link;
mod namespace;
mod prp;
mod queue;
mod queues;
mod recovery;
mod registers;
mod series;
mod slots;
mod status;

pub use controller::Controller;
pub use error::Error;
pub use events::Change;
pub use health::HealthLog;
pub use identity::Identity;
pub use namespace::{Namespace, NamespaceError};
pub use queue::QueuePair;
pub use recovery::{Attention, Lost};
pub use registers::register_bytes;
pub use status::Status;

/// The most bytes one NVMe command moves, whatever the controller would take: it bounds the PRP
/// list that is kept ready for every command identifier.
pub const MAX_TRANSFER: u32 = 512 << 10;
