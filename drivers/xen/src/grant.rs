//! Grant table operations (`public/grant_table.h`): the ABI structures, and the trait that the
//! data path uses to map, unmap and copy.

use alloc::boxed::Box;

use crate::{DomId, Errno};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A grant reference, as a frontend names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantRef(pub u32);

/// `GNTST_*`: the status of one operation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Default,
)]
#[repr(transparent)]
pub struct Status(pub i16);

impl Status {
    /// `GNTST_okay`.
    pub const OKAY: Self = Self(0);
    /// `GNTST_general_error`.
    pub const GENERAL_ERROR: Self = Self(-1);
    /// `GNTST_bad_domain`.
    pub const BAD_DOMAIN: Self = Self(-2);
    /// `GNTST_bad_gntref`.
    pub const BAD_GNTREF: Self = Self(-3);
    /// `GNTST_bad_handle`.
    pub const BAD_HANDLE: Self = Self(-4);
    /// `GNTST_bad_virt_addr`.
    pub const BAD_VIRT_ADDR: Self = Self(-5);
    /// `GNTST_permission_denied`.
    pub const PERMISSION_DENIED: Self = Self(-8);
    /// `GNTST_bad_copy_arg`.
    pub const BAD_COPY_ARG: Self = Self(-10);
    /// `GNTST_eagain`: the page is paged out; try again.
    pub const EAGAIN: Self = Self(-12);
    /// Not Xen's: set before the call, so that an operation Xen never reached reads as failed.
    pub const NOT_DONE: Self = Self(1);

    /// Whether the operation was carried out.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }
}

/// `GNTMAP_host_map`: into the guest's own address space, where its IOMMU follows.
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// `GNTMAP_readonly`.
pub const GNTMAP_READONLY: u32 = 1 << 2;
/// `GNTCOPY_source_gref`.
pub const GNTCOPY_SOURCE_GREF: u16 = 1 << 0;
/// `GNTCOPY_dest_gref`.
pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;

/// `struct gnttab_map_grant_ref`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapOp {
    /// In: guest-physical address to map at.
    pub host_addr: u64,
    /// In: `GNTMAP_*`.
    pub flags: u32,
    /// In: the peer's reference.
    pub gref: u32,
    /// In: the peer.
    pub dom: u16,
    /// Out.
    pub status: Status,
    /// Out: for the unmap.
    pub handle: u32,
    /// Out: machine address; not used behind an IOMMU.
    pub dev_bus_addr: u64,
}
const _: () = assert!(size_of::<MapOp>() == 32);

impl MapOp {
    /// Maps `gref` of `dom` at guest-physical address `at`.
    #[must_use]
    pub const fn new(dom: DomId, gref: GrantRef, at: u64, read_only: bool) -> Self {
        let flags = if read_only {
            GNTMAP_HOST_MAP | GNTMAP_READONLY
        } else {
            GNTMAP_HOST_MAP
        };
        Self {
            host_addr: at,
            flags,
            gref: gref.0,
            dom: dom.0,
            status: Status::NOT_DONE,
            handle: u32::MAX,
            dev_bus_addr: 0,
        }
    }
}

/// `struct gnttab_unmap_grant_ref`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapOp {
    /// In: where it was mapped.
    pub host_addr: u64,
    /// In: 0.
    pub dev_bus_addr: u64,
    /// In: from the map.
    pub handle: u32,
    /// Out.
    pub status: Status,
    /// Padding.
    pub pad: u16,
}
const _: () = assert!(size_of::<UnmapOp>() == 24);

impl UnmapOp {
    /// Undoes the mapping `handle` at guest-physical address `at`.
    #[must_use]
    pub const fn new(handle: u32, at: u64) -> Self {
        Self {
            host_addr: at,
            dev_bus_addr: 0,
            handle,
            status: Status::NOT_DONE,
            pad: 0,
        }
    }
}

/// One end of a copy: `struct gnttab_copy_ptr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyEnd {
    /// A grant reference (low 32 bits) or a guest frame number.
    pub frame: u64,
    /// Whose.
    pub dom: u16,
    /// Byte offset in the page.
    pub offset: u16,
    /// Padding.
    pub pad: u32,
}

impl CopyEnd {
    /// A page that `dom` granted.
    #[must_use]
    pub const fn granted(dom: DomId, gref: GrantRef, offset: u16) -> Self {
        Self {
            frame: gref.0 as u64,
            dom: dom.0,
            offset,
            pad: 0,
        }
    }

    /// Memory of our own, at guest-physical address `at`.
    #[must_use]
    pub const fn own(at: u64) -> Self {
        Self {
            frame: at >> 12,
            dom: DomId::SELF.0,
            offset: (at & 0xfff) as u16,
            pad: 0,
        }
    }
}

/// `struct gnttab_copy`: at most to the end of the page on both sides.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyOp {
    /// In: from.
    pub source: CopyEnd,
    /// In: to.
    pub dest: CopyEnd,
    /// In: bytes.
    pub len: u16,
    /// In: `GNTCOPY_*`, which ends are grants.
    pub flags: u16,
    /// Out.
    pub status: Status,
    /// Padding.
    pub pad: u16,
}
const _: () = assert!(size_of::<CopyOp>() == 40);

impl CopyOp {
    /// From a granted page into memory of our own.
    #[must_use]
    pub const fn from_grant(source: CopyEnd, to: u64, len: u16) -> Self {
        let flags = GNTCOPY_SOURCE_GREF;
        Self {
            source,
            dest: CopyEnd::own(to),
            len,
            flags,
            status: Status::NOT_DONE,
            pad: 0,
        }
    }

    /// From memory of our own into a granted page.
    #[must_use]
    pub const fn to_grant(from: u64, dest: CopyEnd, len: u16) -> Self {
        let flags = GNTCOPY_DEST_GREF;
        Self {
            source: CopyEnd::own(from),
            dest,
            len,
            flags,
            status: Status::NOT_DONE,
            pad: 0,
        }
    }
}

/// Grant hypercalls, each over a batch. Every operation's own status must be looked at after
/// `Ok`; after an `Err` the statuses tell which operations were still carried out
/// ([`Status::NOT_DONE`] = not).
pub trait GrantOps {
    /// `GNTTABOP_map_grant_ref`.
    ///
    /// # Errors
    /// The hypercall's own error.
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno>;

    /// `GNTTABOP_unmap_grant_ref`.
    ///
    /// # Errors
    /// The hypercall's own error.
    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno>;

    /// `GNTTABOP_copy`.
    ///
    /// # Errors
    /// The hypercall's own error.
    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno>;

    /// Reads 64-bit words from guest-physical address `at`, a multiple of 8, where a grant is
    /// mapped. No hypercall. False if that is not memory that may be read so.
    #[must_use]
    fn read(&self, at: u64, words: &mut [u64]) -> bool;
}

impl<G: GrantOps + ?Sized> GrantOps for Box<G> {
    fn map(&self, ops: &mut [MapOp]) -> Result<(), Errno> {
        (**self).map(ops)
    }

    fn unmap(&self, ops: &mut [UnmapOp]) -> Result<(), Errno> {
        (**self).unmap(ops)
    }

    fn copy(&self, ops: &mut [CopyOp]) -> Result<(), Errno> {
        (**self).copy(ops)
    }

    fn read(&self, at: u64, words: &mut [u64]) -> bool {
        (**self).read(at, words)
    }
}
