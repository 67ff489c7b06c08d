//! What the control core decides, without the hypervisor: times and facts in, decisions out.
#![no_std]
#![forbid(unsafe_code)]

mod rounds;

pub use rounds::{LOOK_NS, Rounds, Sleep};
