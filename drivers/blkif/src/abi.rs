//! The wire: layouts and numbers of `public/io/blkif.h` and `public/io/ring.h` on x86.

use core::mem::offset_of;

pub use spindle_xen::xenbus::Abi;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `BLKIF_MAX_SEGMENTS_PER_REQUEST`: segments that fit into a ring slot.
pub const MAX_SEGMENTS: usize = 11;

/// Most segments of an indirect request that are offered. All of them fit on one page.
pub const MAX_INDIRECT_SEGMENTS: usize = 256;

/// `BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST`.
pub const MAX_INDIRECT_PAGES: usize = 8;

/// Sectors of 512 bytes in a page: `first_sect` and `last_sect` are below this.
pub const SECTORS_PER_PAGE: u8 = 8;

/// `BLKIF_DISCARD_SECURE`, in the byte after the operation.
pub const DISCARD_SECURE: u8 = 1 << 0;

/// Bytes of ring header before the first slot.
pub const RING_HEADER: usize = 64;

/// The largest ring that is accepted, in pages (`XENBUS_MAX_RING_GRANT_ORDER` = 4).
pub const MAX_RING_PAGES: usize = 16;

/// `BLKIF_OP_*`, as the frontend chose it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Operation(pub u8);

impl Operation {
    /// `BLKIF_OP_READ`.
    pub const READ: Self = Self(0);
    /// `BLKIF_OP_WRITE`.
    pub const WRITE: Self = Self(1);
    /// `BLKIF_OP_WRITE_BARRIER`.
    pub const WRITE_BARRIER: Self = Self(2);
    /// `BLKIF_OP_FLUSH_DISKCACHE`.
    pub const FLUSH: Self = Self(3);
    /// `BLKIF_OP_DISCARD`.
    pub const DISCARD: Self = Self(5);
    /// `BLKIF_OP_INDIRECT`.
    pub const INDIRECT: Self = Self(6);
}

/// `BLKIF_RSP_*`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct RspStatus(pub i16);

impl RspStatus {
    /// `BLKIF_RSP_OKAY`.
    pub const OKAY: Self = Self(0);
    /// `BLKIF_RSP_ERROR`.
    pub const ERROR: Self = Self(-1);
    /// `BLKIF_RSP_EOPNOTSUPP`.
    pub const EOPNOTSUPP: Self = Self(-2);
}

/// `struct blkif_request_segment`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RawSegment {
    /// The granted page.
    pub gref: u32,
    /// First 512-byte sector of the page to transfer.
    pub first_sect: u8,
    /// Last sector to transfer, inclusive.
    pub last_sect: u8,
    /// Padding.
    pub pad: u16,
}
const _: () = assert!(size_of::<RawSegment>() == 8);

impl RawSegment {
    /// A segment as it lies in one 64-bit word of a slot.
    #[inline]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            gref: word as u32,
            first_sect: (word >> 32) as u8,
            last_sect: (word >> 40) as u8,
            pad: 0,
        }
    }
}

/// `struct blkif_request`, native (x86_64) layout.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct NativeRequest {
    /// What to do.
    pub operation: Operation,
    /// How many of `segments` count.
    pub nr_segments: u8,
    /// The frontend's device handle; nobody looks at it.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Given back in the response.
    pub id: u64,
    /// Start, in 512-byte sectors.
    pub sector_number: u64,
    /// The memory.
    pub segments: [RawSegment; MAX_SEGMENTS],
}
const _: () = assert!(size_of::<NativeRequest>() == 112);
const _: () = assert!(offset_of!(NativeRequest, id) == 8);
const _: () = assert!(offset_of!(NativeRequest, sector_number) == 16);
const _: () = assert!(offset_of!(NativeRequest, segments) == 24);

/// `struct blkif_request_discard`, native (x86_64) layout.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct NativeDiscard {
    /// [`Operation::DISCARD`].
    pub operation: Operation,
    /// [`DISCARD_SECURE`] or 0.
    pub flag: u8,
    /// The frontend's device handle; nobody looks at it.
    pub handle: u16,
    /// Padding.
    pub pad: u32,
    /// Given back in the response.
    pub id: u64,
    /// Start, in 512-byte sectors.
    pub sector_number: u64,
    /// Length, in 512-byte sectors; it lies where other requests have their first segment.
    pub nr_sectors: u64,
}
const _: () = assert!(size_of::<NativeDiscard>() == 32);
const _: () = assert!(offset_of!(NativeDiscard, nr_sectors) == offset_of!(NativeRequest, segments));

/// `struct blkif_request_indirect`, native (x86_64) layout.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct NativeIndirect {
    /// [`Operation::INDIRECT`].
    pub operation: Operation,
    /// [`Operation::READ`] or [`Operation::WRITE`].
    pub indirect_op: Operation,
    /// How many segments are listed.
    pub nr_segments: u16,
    /// Padding.
    pub pad: u32,
    /// Given back in the response.
    pub id: u64,
    /// Start, in 512-byte sectors.
    pub sector_number: u64,
    /// The frontend's device handle; nobody looks at it.
    pub handle: u16,
    /// Padding.
    pub pad2: u16,
    /// The pages that list the segments, 512 [`RawSegment`]s each.
    pub indirect_grefs: [u32; MAX_INDIRECT_PAGES],
    /// Padding.
    pub pad3: u32,
}
const _: () = assert!(size_of::<NativeIndirect>() == 64);
const _: () = assert!(offset_of!(NativeIndirect, handle) == offset_of!(NativeRequest, segments));
const _: () = assert!(offset_of!(NativeIndirect, indirect_grefs) == 28);

/// `struct blkif_request` as an i386 compiler lays it out, which aligns 64-bit words to 4 bytes:
/// the native one without the padding before `id`. The requests below differ in the same way.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, packed(4))]
pub struct X86_32Request {
    /// What to do.
    pub operation: Operation,
    /// How many of `segments` count.
    pub nr_segments: u8,
    /// The frontend's device handle; nobody looks at it.
    pub handle: u16,
    /// Given back in the response.
    pub id: u64,
    /// Start, in 512-byte sectors.
    pub sector_number: u64,
    /// The memory.
    pub segments: [RawSegment; MAX_SEGMENTS],
}
const _: () = assert!(size_of::<X86_32Request>() == 108);
const _: () = assert!(offset_of!(X86_32Request, id) == 4);
const _: () = assert!(offset_of!(X86_32Request, sector_number) == 12);
const _: () = assert!(offset_of!(X86_32Request, segments) == 20);

impl From<NativeRequest> for X86_32Request {
    fn from(native: NativeRequest) -> Self {
        Self {
            operation: native.operation,
            nr_segments: native.nr_segments,
            handle: native.handle,
            id: native.id,
            sector_number: native.sector_number,
            segments: native.segments,
        }
    }
}

/// `struct blkif_response`, native (x86_64) layout. An i386 compiler leaves `pad2` out.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct NativeResponse {
    /// From the request.
    pub id: u64,
    /// From the request.
    pub operation: Operation,
    /// Padding; zero, so that nothing of ours leaks (XSA-216).
    pub pad: u8,
    /// The outcome.
    pub status: RspStatus,
    /// Padding; zero.
    pub pad2: u32,
}
const _: () = assert!(size_of::<NativeResponse>() == 16);

const _: () = assert!(Abi::Native.slot_bytes() == size_of::<NativeRequest>());
const _: () = assert!(Abi::X86_32.slot_bytes() == size_of::<X86_32Request>());
