//! The block interface as a backend serves it: rings and requests.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod abi;
pub mod request;
pub mod ring;

pub use ring::BackRing;
