//! Safe types over raw memory, device registers and ports: the one driver crate that may use
//! `unsafe`.
//!
//! Everything above it (`spindle-nvme`, `spindle-blkif`, `spindle-xen`, ...) forbids unsafe code
//! and reaches hardware only through what is here:
//!
//! | what | type | fake for tests |
//! | --- | --- | --- |
//! | memory that a device or another domain also writes | [`SharedPages`] | [`SharedPages::host`] |
//! | memory for DMA | trait [`DmaAlloc`] | `spindle_testkit::mem::FakeBus` |
//! | memory known only by its bus address | trait [`BusMemory`], [`IdentityMap`] | `FakeBus` |
//! | device registers | traits [`Registers`], [`NarrowRegisters`], [`Mmio`] | each controller model |
//! | x86 I/O ports | trait [`Ports`], [`X86Ports`] | each model |
//! | time | trait [`Clock`] | `spindle_testkit::mem::FakeClock` |
#![cfg_attr(not(any(test, feature = "host")), no_std)]
// UNSAFETY: this crate exists to wrap raw memory and I/O instructions in safe types.
#![expect(unsafe_code)]

mod bus;
mod clock;
mod mmio;
mod pages;
mod port;
#[cfg(test)]
mod tests;

pub use bus::{BusMemory, DmaAlloc, IdentityMap, Retake};
pub use clock::{Clock, Span};
pub use mmio::{Mmio, NarrowRegisters, Registers};
pub use pages::SharedPages;
pub use port::Ports;
#[cfg(target_arch = "x86_64")]
pub use port::X86Ports;

/// Bytes in a page, for the CPU, for grants and for every DMA structure here.
pub const PAGE_SIZE: usize = 4096;
