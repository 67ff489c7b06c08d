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
//! `__rodata_end`, `__data_start`, `__data_end`, `__bss_start`, `__image_end`, `__place_end`.
//! Memory from `__image_end` to `__place_end` belongs to the image, and is not used.
//!
//! # Starting again
//! A kernel may enter its image again in the same domain: see `Kept`.
//!
//! # Example
//! What the domain builder has left in memory, read on the host:
//!
//! ```
//! use xen_pvh_boot::{BootInfo, PhysRead, START_INFO_MAGIC, words};
//!
//! /// Memory from address 0 on; nothing else can be read.
//! struct Memory(Vec<u8>);
//!
//! impl PhysRead for Memory {
//!     fn read(&self, from: u64, out: &mut [u8]) -> bool {
//!         let from = from as usize;
//!         let bytes = self.0.get(from..from.saturating_add(out.len()));
//!         bytes.map(|bytes| out.copy_from_slice(bytes)).is_some()
//!     }
//! }
//!
//! // A start_info of version 1 at 0x100, with a command line and a map of one entry: 16 MiB of RAM.
//! let mut memory = Memory(vec![0; 0x1000]);
//! let mut put = |at: usize, bytes: &[u8]| memory.0[at..at + bytes.len()].copy_from_slice(bytes);
//! put(0x100, &START_INFO_MAGIC.to_le_bytes());
//! put(0x104, &1_u32.to_le_bytes());
//! put(0x118, &0x200_u64.to_le_bytes()); // address of the command line
//! put(0x128, &0x300_u64.to_le_bytes()); // address of the map
//! put(0x130, &1_u32.to_le_bytes()); // its entries
//! put(0x200, b"quiet disks=2\0");
//! put(0x308, &(16_u64 << 20).to_le_bytes()); // size; the entry's start is 0
//! put(0x310, &1_u32.to_le_bytes()); // RAM
//!
//! let info = BootInfo::read(&memory, 0x100)?;
//! assert_eq!(info.ram.end(), 16 << 20);
//! assert_eq!(info.ram.total(), 15 << 20); // the first MiB is left alone
//! let keys: Vec<&str> = words(&info.command_line).map(|word| word.key).collect();
//! assert_eq!(keys, ["quiet", "disks"]);
//!
//! // What makes no sense is an error, whatever wrote it.
//! assert!(BootInfo::read(&memory, 0x200).is_err());
//! # Ok::<(), xen_pvh_boot::BootError>(())
//! ```
//!
//! # Requirements
//! A processor with long mode and NX; a start_info of version 1 (Xen 4.11 and later, QEMU 4.0 and
//! later), which carries the memory map.
#![cfg_attr(not(test), no_std)]

mod cmdline;
#[cfg(target_os = "none")]
mod entry;
mod info;
#[cfg(target_os = "none")]
mod kept;
mod paging;
mod regions;
mod runs;
mod start_info;

pub use cmdline::{Argument, Words, words};
#[cfg(target_os = "none")]
pub use entry::{Boot, IdentityTables, Image, enable_write_back, image};
pub use info::{BootError, BootInfo, COMMAND_LINE_MAX, MAP_MAX, MODULES_MAX, MapEntry, PhysRead};
#[cfg(target_os = "none")]
pub use kept::{IMAGE_ROOM, KEPT_CODE_PAGE, Kept, START_AGAIN};
pub use paging::{LIMIT as MAP_LIMIT, MapError, MemoryKind, PageTables, TableMemory};
pub use regions::{REGIONS_MAX, Regions};
pub use runs::RunAllocator;
pub use start_info::{MemoryType, START_INFO_MAGIC};

/// Bytes in a page.
pub const PAGE: u64 = 4096;
