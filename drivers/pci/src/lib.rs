//! PCI for a guest kernel: finding functions, placing their memory and switching them on.
//!
//! Configuration space is reached by mechanism #1 (ports 0xCF8 and 0xCFC), the only one that both
//! QEMU behind a Xen HVM container and a bare `pc` machine offer without ACPI tables. Whoever
//! boots without firmware calls [`Bus::enable`] with [`Placement::Assign`]; behind firmware (or a
//! toolstack that mapped the registers), [`Placement::Keep`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod bar;
mod capability;
mod config;
mod function;
mod placed;
mod scan;
mod window;

pub use address::Address;
pub use bar::{MemoryBar, PciError, Placement};
pub use capability::{Capability, CapabilityId, CapabilityList};
pub use config::{Bus, CONFIG_ADDRESS, CONFIG_DATA};
pub use function::{Class, Function};
pub use placed::{PlacedFunction, in_known_order};
pub use window::BarWindow;
