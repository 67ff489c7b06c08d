//! The control plane, without the hypervisor: which guest gets which disk, when a ring's memory is
//! mapped and unmapped, and what follows when a disk is lost.
//!
//! The kernel runs [`Control::turn`] again and again on its first vCPU, and [`run_core`] on the others. It
//! hands in a [`Hypervisor`], the [`Disks`] it has found, and [`Cores`] with a [`CoreWorker`] each; the
//! tests hand in models of these, and run the same code in virtual time.
//!
//! | file | what it decides |
//! | --- | --- |
//! | `control` | the loop: what xenbus, the cores and the disks have reported, and what follows |
//! | `devices` | which volume a device has, from the open to the close; sizes; what is removed |
//! | `connections` | a device's rings, from the connect to the disconnect |
//! | `rings` | a ring's grants, event channel, frames and share of memory |
//! | `cores` | orders and reports of the ring cores, and which core gets a ring |
//! | `disks` | what can be attached, and what the disks report: failures, disks that come and go, other sizes, health |
//! | `shares` | limits and weights of devices and groups: by disk line, option and order |
//! | `listing`, `statistics`, `published` | what is published in xenstore |
//! | `keeper`, `late`, `sweep`, `noted` | what outlives a death of the kernel: records, journals, mappings; what the last life has left is undone |
//! | `early` | what a former life had is served before xenstore is asked, and compared then |
//! | `leave` | the end of a life by an update: cores are drained, controllers stay enabled |
//! | `ram_disks` | which RAM disk is that of a former life, and which is new |
//! | `rounds` | when control looks at what, and how long it sleeps |
//! | `worker` | how a core runs its worker and sleeps |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod connections;
mod control;
mod cores;
mod devices;
mod disks;
mod early;
mod growth;
mod hypervisor;
mod keeper;
mod late;
mod leave;
mod listing;
mod noted;
mod published;
mod ram_disks;
mod rings;
mod rounds;
mod settings;
mod shares;
mod statistics;
mod sweep;
mod worker;

pub use control::{Control, Store};
pub use cores::{Cores, Runs};
pub use disks::{Disks, PageSource};
pub use hypervisor::{CONTROLS_SHARE, Hypervisor, UpdateStep};
pub use keeper::{Keep, Suspect};
pub use leave::{HandOver, LifeEnd};
pub use noted::NotedGrants;
pub use ram_disks::RamDisks;
pub use rounds::{LOOK_NS, Rounds, Sleep};
pub use worker::{CoreWorker, run_core};
