//! The control plane, without the hypervisor: which guest gets which disk, when a ring's memory is
//! mapped and unmapped, and what follows when a disk is lost.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod connections;
mod control;
mod cores;
mod disks;
mod hypervisor;
mod listing;
mod rings;
mod rounds;
mod statistics;
mod worker;

pub use control::{Control, Store};
pub use cores::{Cores, Runs};
pub use disks::{Care, DiskTable};
pub use hypervisor::{CONTROLS_SHARE, Hypervisor};
pub use rounds::{LOOK_NS, Rounds, Sleep};
pub use worker::{CoreWorker, run_core};
