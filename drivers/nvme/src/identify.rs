//! Identify data structures (5.15.2), as far as this driver reads them.

use alloc::string::String;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Values of CNS in an Identify command (5.15.1).
pub(crate) mod cns {
    pub(crate) const NAMESPACE: u32 = 0;
    pub(crate) const CONTROLLER: u32 = 1;
    pub(crate) const ACTIVE_NAMESPACES: u32 = 2;
    pub(crate) const NAMESPACE_DESCRIPTORS: u32 = 3;
    /// Identify Controller data of one command set; the NVM command set's number is 0.
    pub(crate) const NVM_LIMITS: u32 = 6;
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
    _to_cmic: [u8; 4],
    /// CMIC: whether the subsystem has other ports, controllers or functions.
    pub(crate) cmic: u8,
    /// MDTS: log2 of the largest transfer in pages, 0 for no limit.
    pub(crate) mdts: u8,
    _to_rtd3e: [u8; 10],
    /// RTD3E: how long a normal shutdown may take, in microseconds, 0 if not said.
    pub(crate) shutdown_us: U32,
    /// OAES: optional events.
    pub(crate) events: U32,
    _to_crdt: [u8; 32],
    /// CRDT1 to CRDT3: delays before another try, in units of 100 ms.
    pub(crate) retry_delays: [U16; 3],
    _to_sqes: [u8; 378],
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
    _awun: [u8; 2],
    /// AWUPF: blocks written whole or not at all when power fails, 0's based.
    pub(crate) awupf: U16,
    _to_subnqn: [u8; 238],
    /// SUBNQN: the subsystem's name, ended by a byte of zero; empty before 1.2.1.
    pub(crate) subnqn: [u8; 256],
    _rest: [u8; 3072],
}

const _: () = assert!(size_of::<IdentifyController>() == 4096);
const _: () = assert!(core::mem::offset_of!(IdentifyController, cmic) == 76);
const _: () = assert!(core::mem::offset_of!(IdentifyController, mdts) == 77);
const _: () = assert!(core::mem::offset_of!(IdentifyController, shutdown_us) == 88);
const _: () = assert!(core::mem::offset_of!(IdentifyController, retry_delays) == 128);
const _: () = assert!(core::mem::offset_of!(IdentifyController, sqes) == 512);
const _: () = assert!(core::mem::offset_of!(IdentifyController, vwc) == 525);
const _: () = assert!(core::mem::offset_of!(IdentifyController, awupf) == 528);
const _: () = assert!(core::mem::offset_of!(IdentifyController, subnqn) == 768);

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
    /// NSFEAT: bit 1 says that NAWUPF counts, bit 4 that NPWG and NPDG do.
    pub(crate) features: u8,
    _nlbaf: u8,
    /// FLBAS: the format in use, its number in bits 3:0 and, above, 6:5.
    pub(crate) format: u8,
    _to_nmic: [u8; 3],
    /// NMIC: bit 0 says that several controllers may have it at the same time.
    pub(crate) sharing: u8,
    _rescap: u8,
    /// FPI: bit 7 says that bits 6:0 count, the percentage of a format that is left.
    pub(crate) format_progress: u8,
    _to_nawupf: [u8; 3],
    /// NAWUPF: blocks written whole or not at all when power fails, 0's based.
    pub(crate) atomic_write: U16,
    _to_nabo: [u8; 4],
    /// NABO: the first block at which an atomic write may begin.
    pub(crate) atomic_offset: U16,
    _nabspf: [u8; 2],
    /// NOIOB: blocks from one boundary to the next that commands had better not cross, 0 if none.
    pub(crate) boundary: U16,
    _nvmcap: [u8; 16],
    /// NPWG: the write granularity in blocks, 0's based.
    pub(crate) write_granularity: U16,
    _npwa: [u8; 2],
    /// NPDG: the granularity of discards in blocks, 0's based.
    pub(crate) discard_granularity: U16,
    _to_nsattr: [u8; 29],
    /// NSATTR: bit 0 says write-protected.
    pub(crate) attributes: u8,
    _to_nguid: [u8; 4],
    /// NGUID: an identifier for all time, or zeroes.
    pub(crate) nguid: [u8; 16],
    /// EUI64: likewise.
    pub(crate) eui64: [u8; 8],
    /// LBAF: the formats there are.
    pub(crate) formats: [LbaFormat; 64],
    _rest: [u8; 3712],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == 4096);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, format) == 26);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, sharing) == 30);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, format_progress) == 32);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, atomic_write) == 36);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, atomic_offset) == 42);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, boundary) == 46);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, write_granularity) == 64);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, discard_granularity) == 68);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, attributes) == 99);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, nguid) == 104);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, eui64) == 120);
const _: () = assert!(core::mem::offset_of!(IdentifyNamespace, formats) == 128);

/// Active namespace IDs (5.15.2.3): in ascending order, ended by 0.
#[repr(C)]
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct NamespaceList {
    pub(crate) ids: [U32; 1024],
}

const _: () = assert!(size_of::<NamespaceList>() == 4096);

/// Namespace Identification Descriptors (5.15.2.4): each a type, a length, two unused bytes and
/// the identifier; a length of 0 ends them.
#[repr(C)]
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct NamespaceDescriptors {
    bytes: [u8; 4096],
}

impl NamespaceDescriptors {
    /// NIDT of a UUID.
    const UUID: u8 = 3;
    /// NIDT of the number of a command set (NVMe 2.0, 3.2.1.4).
    const COMMAND_SET: u8 = 4;

    /// The UUID, if there is one.
    pub(crate) fn uuid(&self) -> Option<[u8; 16]> {
        let id: [u8; 16] = self.find(Self::UUID)?.try_into().ok()?;
        Some(id).filter(|id| *id != [0; 16])
    }

    /// The command set that its commands are of; that of all older controllers if none is given.
    pub(crate) fn command_set(&self) -> u8 {
        match self.find(Self::COMMAND_SET) {
            Some(&[number]) => number,
            _ => 0,
        }
    }

    /// The first descriptor of a kind.
    fn find(&self, wanted: u8) -> Option<&[u8]> {
        let mut rest = &self.bytes[..];
        while let [kind, len, _, _, tail @ ..] = rest {
            let id = tail.get(..usize::from(*len)).filter(|id| !id.is_empty())?;
            if *kind == wanted {
                return Some(id);
            }
            rest = &tail[id.len()..];
        }
        None
    }
}

/// Identify Controller data of the NVM command set (NVM Command Set Specification 1.0, 4.1.5.4);
/// every limit is 0 where there is none.
#[repr(C)]
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct NvmLimits {
    _to_dmrl: [u8; 3],
    /// DMRL: ranges in a Dataset Management command.
    pub(crate) ranges: u8,
    /// DMRSL: blocks in one range.
    pub(crate) range_blocks: U32,
    /// DMSL: blocks in all ranges of a command.
    pub(crate) total_blocks: U64,
    _rest: [u8; 4080],
}

const _: () = assert!(size_of::<NvmLimits>() == 4096);
const _: () = assert!(core::mem::offset_of!(NvmLimits, range_blocks) == 4);

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

    #[test]
    fn the_uuid_is_found_among_other_descriptors_and_lengths_are_not_trusted() {
        let uuid_in = |descriptors: &[u8]| {
            let mut page = blank::<NamespaceDescriptors>().unwrap();
            page.bytes[..descriptors.len()].copy_from_slice(descriptors);
            page.uuid()
        };
        let eui = [1, 8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let uuid = [[3, 16, 0, 0].as_slice(), &[0x5a; 16]].concat();
        assert_eq!(uuid_in(&[&eui, &uuid[..]].concat()), Some([0x5a; 16]));
        assert_eq!(uuid_in(&eui), None);
        assert_eq!(uuid_in(&[3, 8, 0, 0, 1, 2, 3, 4]), None, "too short");
        assert_eq!(uuid_in(&[3, 16]), None, "not set");
        assert_eq!(uuid_in(&[0xff; 4096]), None);
    }
}
