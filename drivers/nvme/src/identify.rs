//! Identify data structures (5.15.2), as far as this driver reads them.

use alloc::string::String;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Values of CNS in an Identify command (5.15.1).
pub(crate) mod cns {
    pub(crate) const NAMESPACE: u32 = 0;
    pub(crate) const CONTROLLER: u32 = 1;
    pub(crate) const ACTIVE_NAMESPACES: u32 = 2;
}

/// Identify Controller (5.15.2.2).
#[repr(C)]
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct IdentifyController {
    _vendor: [u8; 4],
    /// SN.
    pub(crate) serial: [u8; 20],
    /// MN.
    pub(crate) model: [u8; 40],
    /// FR.
    pub(crate) firmware: [u8; 8],
    _to_mdts: [u8; 5],
    /// MDTS: log2 of the largest transfer in pages, 0 for no limit.
    pub(crate) mdts: u8,
    _to_rtd3e: [u8; 10],
    /// RTD3E: how long a normal shutdown may take, in microseconds, 0 if not said.
    pub(crate) shutdown_us: U32,
    _to_sqes: [u8; 420],
    /// SQES: log2 of the least (bits 3:0) and most bytes in a submission queue entry.
    pub(crate) sqes: u8,
    /// CQES: the same for completions.
    pub(crate) cqes: u8,
    _maxcmd: [u8; 2],
    /// NN: the highest namespace identifier.
    pub(crate) namespaces: U32,
    /// ONCS: optional commands.
    pub(crate) oncs: U16,
    _to_vwc: [u8; 3],
    /// VWC: bit 0 says that there is a volatile write cache.
    pub(crate) vwc: u8,
    _rest: [u8; 3570],
}

const _: () = assert!(size_of::<IdentifyController>() == 4096);
const _: () = assert!(core::mem::offset_of!(IdentifyController, mdts) == 77);
const _: () = assert!(core::mem::offset_of!(IdentifyController, shutdown_us) == 88);
const _: () = assert!(core::mem::offset_of!(IdentifyController, sqes) == 512);
const _: () = assert!(core::mem::offset_of!(IdentifyController, vwc) == 525);

/// An LBA format (5.15.2.1, figure 246).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct LbaFormat {
    /// MS: bytes of metadata per block.
    pub(crate) metadata: U16,
    /// LBADS: log2 of the bytes in a block.
    pub(crate) block_shift: u8,
    _performance: u8,
}

/// Identify Namespace (5.15.2.1).
#[repr(C)]
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct IdentifyNamespace {
    /// NSZE: blocks.
    pub(crate) blocks: U64,
    _capacity: [u8; 16],
    /// NSFEAT: bit 4 says that NPWG counts.
    pub(crate) features: u8,
    _nlbaf: u8,
    /// FLBAS: the format in use, its number in bits 3:0 and, above, 6:5.
    pub(crate) format: u8,
    _to_npwg: [u8; 37],
    /// NPWG: the write granularity in blocks, 0's based.
    pub(crate) write_granularity: U16,
    _to_nsattr: [u8; 33],
    /// NSATTR: bit 0 says write-protected.
    pub(crate) attributes: u8,
    _to_lbaf: [u8; 28],
    /// LBAF: the formats there are.
    pub(crate) formats: [LbaFormat; 64],
    _rest: [u8; 3712],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == 4096);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, format) == 26);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, write_granularity) == 64);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, attributes) == 99);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, formats) == 128);

/// Active namespace IDs (5.15.2.3): in ascending order, ended by 0.
#[repr(C)]
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct NamespaceList {
    pub(crate) ids: [U32; 1024],
}

const _: () = assert!(size_of::<NamespaceList>() == 4096);

/// A structure that Identify fills, on the heap: they are a page each, and stacks are small.
pub(crate) fn blank<T: FromZeros>() -> Option<alloc::boxed::Box<T>> {
    T::new_box_zeroed().ok()
}

/// A string as controllers give them, padded with spaces, made fit for a console: what is not
/// printable ASCII becomes `?`.
pub(crate) fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    let shown = field.iter().take(end).map(|&b| match b {
        0x20..=0x7e => char::from(b),
        _ => '?',
    });
    String::from(shown.collect::<String>().trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_trimmed_and_harmless() {
        assert_eq!(text(b"  QEMU NVMe Ctrl   "), "QEMU NVMe Ctrl");
        assert_eq!(text(b"a\x1b[2Jb\n\xff\0secret"), "a?[2Jb??");
        assert_eq!(text(b"\0\0"), "");
    }
}
