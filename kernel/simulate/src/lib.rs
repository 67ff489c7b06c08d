//! A whole domain in virtual time, on one thread: the real control, ring cores and drivers, with models
//! of xenstored, the toolstack, guests and disks around them.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`world`] | the domain and the machine; the tests of `spindle-control` drive it step by step |
//! | `life` | the scheduler: who goes on at each step, what goes wrong, what must hold, also of what is published |
//! | [`plan`], [`faults`], [`chance`] | what a run is made of, all of it drawn from one seed |
//! | `front` | a guest's frontend, with its memory: what it asks, and how it judges what it gets |
//! | `disk` | when a disk carries out what, and how it fails |
//! | `volume` | what each sector may hold |
//! | [`run`], `trace` | running plans, making a failing one smaller, the timeline |
//! | [`limit`] | when runs are stopped, by the real clock or the processor's |
//!
//! The same plan gives the same run. `cargo xtask simulate` runs plans from many seeds.
#![forbid(unsafe_code)]

pub mod chance;
mod disk;
pub mod faults;
mod front;
mod life;
pub mod limit;
pub mod plan;
pub mod run;
mod trace;
mod volume;
pub mod world;

pub use front::Tally;
pub use life::Outcome;
