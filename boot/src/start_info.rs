//! The wire structures of PVH boot (`public/arch-x86/hvm/start_info.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_HVM_START_MAGIC_VALUE`.
pub const START_INFO_MAGIC: u32 = 0x336e_c578;

/// `struct hvm_start_info`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct StartInfo {
    pub(crate) magic: u32,
    pub(crate) version: u32,
    pub(crate) flags: u32,
    pub(crate) nr_modules: u32,
    pub(crate) modlist: u64,
    pub(crate) cmdline: u64,
    pub(crate) rsdp: u64,
    /// From version 1 on, like the rest.
    pub(crate) memmap: u64,
    pub(crate) memmap_entries: u32,
    pub(crate) reserved: u32,
}
const _: () = assert!(size_of::<StartInfo>() == 56);

/// `struct hvm_modlist_entry`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Module {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) cmdline: u64,
    pub(crate) reserved: u64,
}
const _: () = assert!(size_of::<Module>() == 32);

/// `struct hvm_memmap_table_entry`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct MemoryEntry {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) kind: MemoryType,
    pub(crate) reserved: u32,
}
const _: () = assert!(size_of::<MemoryEntry>() == 24);

/// `XEN_HVM_MEMMAP_TYPE_*`, which are the E820 types.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MemoryType(pub u32);

impl MemoryType {
    /// Usable memory.
    pub const RAM: Self = Self(1);
    /// Not to be touched.
    pub const RESERVED: Self = Self(2);
    /// ACPI tables.
    pub const ACPI: Self = Self(3);
    /// ACPI non-volatile storage.
    pub const NVS: Self = Self(4);
    /// Defective memory.
    pub const UNUSABLE: Self = Self(5);
    /// Switched-off memory.
    pub const DISABLED: Self = Self(6);
    /// Persistent memory.
    pub const PMEM: Self = Self(7);

    /// A word for the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RAM => "RAM",
            Self::RESERVED => "reserved",
            Self::ACPI => "ACPI",
            Self::NVS => "ACPI NVS",
            Self::UNUSABLE => "unusable",
            Self::DISABLED => "disabled",
            Self::PMEM => "persistent",
            _ => "unknown",
        }
    }
}
