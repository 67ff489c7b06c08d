//! Boots a 64-bit guest kernel under Xen: PVH entry, long mode, page tables with W^X, and what
//! the domain builder said, as a typed [`BootInfo`].
//!
//! Use: call `entry!` with the kernel's main function, link with a script that defines the
//! section borders named below, and build for `x86_64-unknown-none`.
//!
//! The same image starts in a PVH domain, in an HVM container entered through
//! `firmware_override=`, and under plain `qemu-system-x86_64 -kernel`.
//!
//! | what | where | tested on the host |
//! | --- | --- | --- |
//! | ELF note, 32-bit entry, long mode | `entry.S` | no |
//! | start_info, memory map, modules | [`BootInfo`] | yes, hostile input included |
//! | command line | [`words`] | yes |
//! | sets of address ranges | [`Regions`] | yes |
//! | page tables | [`PageTables`] | yes |
//! | runs of pages | [`RunAllocator`] | yes |
//!
//! # Linking
//! The image is linked and loaded at its physical address, below 2 GiB. The linker script
//! defines, page-aligned: `__image_start`, `__text_start`, `__text_end`, `__rodata_start`,
//! `__rodata_end`, `__data_start`, `__data_end`, `__image_end`.
//!
//! # Requirements
//! A processor with long mode and NX; a start_info of version 1 (Xen 4.11 and later, QEMU 4.0 and
//! later), which carries the memory map.
#![cfg_attr(not(test), no_std)]

mod cmdline;
#[cfg(target_os = "none")]
mod entry;
mod info;
mod paging;
mod regions;
mod runs;
mod start_info;

pub use cmdline::{Word, Words, words};
#[cfg(target_os = "none")]
pub use entry::{Boot, IdentityTables, Image, enable_write_back, image};
pub use info::{BootError, BootInfo, COMMAND_LINE_MAX, MAP_MAX, MODULES_MAX, MapEntry, PhysRead};
pub use paging::{Kind, LIMIT as MAP_LIMIT, MapError, PageTables, TableMemory};
pub use regions::{REGIONS_MAX, Regions};
pub use runs::RunAllocator;
pub use start_info::{MemoryType, START_INFO_MAGIC};

/// Bytes in a page.
pub const PAGE: u64 = 4096;
