//! A whole domain in virtual time, on one thread: the real control, ring cores and drivers, with models
//! of xenstored, the toolstack, guests and disks around them.
//!
//! [`world`] is that domain, which the tests of `spindle-control` drive step by step.
#![forbid(unsafe_code)]

pub mod world;
