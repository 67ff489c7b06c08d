//! Namespaces: which of them can be served, and as what.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use spindle_block::{Discard, Unit, Volume};

use crate::identify::IdentifyNamespace;
use crate::namespace_table::LEAST_BYTES;
use crate::{Identity, Status};

/// Why a namespace is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// Formatted with metadata in or beside each block.
    #[error("formatted with {0} bytes of metadata per block; format it without")]
    Metadata(u16),
    /// Blocks neither of 512 nor of 4096 bytes.
    #[error("block size 2^{0} bytes is neither 512 nor 4096")]
    BlockSize(u8),
    /// It is not of the NVM command set: zoned, key-value, or something newer.
    #[error("it has {} command set, whose rules guests do not know", command_set(*.0))]
    CommandSet(u8),
    /// It is being formatted.
    #[error("it is being formatted, {0} % are left")]
    Formatting(u8),
    /// The controller does not say what it is.
    #[error("it cannot be identified: {0}")]
    Unidentified(Status),
    /// More bytes than can be counted.
    #[error("size of {blocks:#x} blocks is not plausible")]
    Size {
        /// Blocks as the controller says.
        blocks: u64,
    },
}

/// A namespace that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Namespace identifier.
    pub id: u32,
    /// Blocks.
    pub blocks: u64,
    /// log2 of the block size in bytes: 9 or 12.
    pub block_shift: u8,
    /// log2 of the bytes that are written whole or not at all, as far as writes that small cost
    /// more; at least `block_shift`.
    pub physical_block_shift: u8,
    /// Blocks that a discard frees at once.
    pub discard_blocks: u32,
    /// Blocks from one boundary to the next that commands had better not cross (NOIOB), as it
    /// reports them; 0 if there are none.
    pub boundary_blocks: u16,
    /// Whether it is write-protected.
    pub read_only: bool,
    /// Whether several controllers of its subsystem may have it.
    pub shared: bool,
    /// IEEE extended unique identifier, if it has one.
    pub eui64: Option<[u8; 8]>,
    /// Namespace globally unique identifier, if it has one.
    pub nguid: Option<[u8; 16]>,
    /// UUID, if it has one.
    pub uuid: Option<[u8; 16]>,
    /// Whether that could be read.
    pub(crate) described: bool,
}

/// NSFEAT bit 1: NAWUPF is given.
const HAS_ATOMIC_WRITE: u8 = 1 << 1;
/// NSFEAT bit 4: NPWG and its companions are given.
const HAS_GRANULARITY: u8 = 1 << 4;

impl Namespace {
    /// Reads what Identify said of namespace `id`; `None` if it is not active, which shows as a
    /// page of zeroes. `atomic_blocks` is what the controller says of all its namespaces.
    pub(crate) fn parse(
        id: u32,
        data: &IdentifyNamespace,
        atomic_blocks: u32,
    ) -> Result<Option<Self>, NamespaceError> {
        let blocks = data.blocks.get();
        if blocks == 0 {
            return Ok(None);
        }
        if let 0x81..=0xff = data.format_progress {
            return Err(NamespaceError::Formatting(data.format_progress & 0x7f));
        }
        // Bits 6:5 extend the number where there are more than 16 formats, and are 0 elsewhere.
        let number = data.format & 0xf | (data.format >> 5 & 3) << 4;
        let format = data.formats[usize::from(number)];
        if format.metadata.get() != 0 {
            return Err(NamespaceError::Metadata(format.metadata.get()));
        }
        let shift = format.block_shift;
        if !matches!(shift, 9 | 12) {
            return Err(NamespaceError::BlockSize(shift));
        }
        if blocks > i64::MAX as u64 >> shift {
            return Err(NamespaceError::Size { blocks });
        }
        let known = data.features & HAS_GRANULARITY != 0;
        let granularity = |zero_based: u16| if known { u32::from(zero_based) + 1 } else { 1 };
        let write = granularity(data.write_granularity.get());
        let write = if write.is_power_of_two() { write } else { 1 };
        let physical = write.min(atomic(data, atomic_blocks));
        Ok(Some(Self {
            id,
            blocks,
            block_shift: shift,
            physical_block_shift: shift + physical.ilog2() as u8,
            discard_blocks: granularity(data.discard_granularity.get()),
            boundary_blocks: data.boundary.get(),
            read_only: data.attributes & 1 != 0,
            shared: data.sharing & 1 != 0,
            eui64: Some(data.eui64).filter(|id| *id != [0; 8]),
            nguid: Some(data.nguid).filter(|id| *id != [0; 16]),
            uuid: None,
            described: false,
        }))
    }

    /// Whether it may be the one that was `found` later: no name of it that could be read both times
    /// has changed.
    pub(crate) fn is_same(&self, found: &Self) -> bool {
        let read = self.described && found.described;
        let uuid = !read || self.uuid == found.uuid;
        uuid && (self.eui64, self.nguid) == (found.eui64, found.nguid)
    }

    /// Blocks from one boundary to the next that its commands end at, 0 if there are none or they
    /// are too close.
    pub(crate) fn boundary(&self) -> u16 {
        let blocks = self.boundary_blocks;
        if u64::from(blocks) << self.block_shift < LEAST_BYTES {
            return 0;
        }
        blocks
    }

    /// Says in the log if it reports a boundary that is not respected.
    pub(crate) fn log_boundary(&self) {
        if self.boundary_blocks != 0 && self.boundary() == 0 {
            log::warn!(
                "nvme: namespace {}: its optimal boundary of {} blocks is ignored, since that is \
                 less than {LEAST_BYTES} bytes",
                self.id,
                self.boundary_blocks
            );
        }
    }

    /// Its size in sectors of 512 bytes.
    pub(crate) fn sectors(&self) -> u64 {
        self.blocks << (self.block_shift - 9)
    }

    /// The namespace as a volume of disk `disk`, controller `controller` by name.
    pub(crate) fn volume(&self, identity: &Identity, disk: usize, controller: usize) -> Volume {
        Volume {
            name: format!("nvme{controller}n{}", self.id),
            aliases: self.aliases(identity),
            disk,
            unit: Unit(self.id),
            start: 0,
            sectors: self.sectors(),
            block_shift: self.block_shift,
            physical_block_shift: self.physical_block_shift,
            read_only: self.read_only,
            write_cache: identity.write_cache,
            discard: identity.discards().then_some(Discard {
                // At most 65,536 blocks of 4096 bytes.
                granularity: self.discard_blocks << self.block_shift,
                alignment: 0,
                secure: false,
            }),
            description: self.describe(identity),
            map: None,
        }
    }

    /// Names that follow the disk wherever it is plugged in, as Linux gives them in
    /// /dev/disk/by-id where it gives them: by serial number, EUI-64, NGUID and UUID. A namespace that
    /// several controllers may have gets one by the subsystem, which is the same behind each of them.
    fn aliases(&self, identity: &Identity) -> Vec<String> {
        let mut names = Vec::new();
        if !identity.serial.is_empty() {
            names.push(format!("nvme-{}-n{}", word(&identity.serial), self.id));
        }
        if self.shared && !identity.subsystem.is_empty() {
            names.push(format!(
                "nvme-nqn.{}-n{}",
                word(&identity.subsystem),
                self.id
            ));
        }
        names.extend(self.eui64.map(|id| format!("nvme-eui.{}", hex(&id))));
        names.extend(self.nguid.map(|id| format!("nvme-eui.{}", hex(&id))));
        names.extend(self.uuid.map(|id| {
            let parts = [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]];
            format!("nvme-uuid.{}", parts.map(hex).join("-"))
        }));
        names
    }

    fn describe(&self, identity: &Identity) -> String {
        let Identity {
            model,
            serial,
            firmware,
            ..
        } = identity;
        format!(
            "{model}, serial {serial}, firmware {firmware}, namespace {}",
            self.id
        )
    }
}

/// A command set by its number (NVMe 2.0, 3.1.2.1).
fn command_set(number: u8) -> &'static str {
    match number {
        1 => "the key-value",
        2 => "the zoned",
        _ => "an unknown",
    }
}

/// How many blocks are written whole or not at all when power fails; not always a power of two. Who
/// writes a physical block relies on it, whatever the size that costs least.
fn atomic(data: &IdentifyNamespace, of_controller: u32) -> u32 {
    let given = data.features & HAS_ATOMIC_WRITE != 0 && data.atomic_write.get() != 0;
    let blocks = match data.atomic_write.get() {
        blocks if given => u32::from(blocks) + 1,
        _ => of_controller,
    };
    // Such writes begin at block NABO, not at block 0.
    if data.atomic_offset.get() != 0 {
        return 1;
    }
    blocks.max(1)
}

/// A serial number as a part of a name that needs no quoting.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::blank;
    use alloc::boxed::Box;

    fn page(blocks: u64, shift: u8) -> Box<IdentifyNamespace> {
        let mut page = blank::<IdentifyNamespace>().unwrap();
        page.blocks.set(blocks);
        page.formats[0].block_shift = shift;
        page
    }

    #[test]
    fn plain_formats_are_taken_and_others_refused_with_the_reason() {
        let parse = |page: &IdentifyNamespace| Namespace::parse(1, page, 8);
        assert_eq!(parse(&page(0, 9)), Ok(None));
        assert_eq!(parse(&page(8, 9)).unwrap().unwrap().block_shift, 9);
        assert_eq!(parse(&page(8, 12)).unwrap().unwrap().block_shift, 12);
        assert_eq!(parse(&page(8, 13)), Err(NamespaceError::BlockSize(13)));
        assert_eq!(parse(&page(8, 255)), Err(NamespaceError::BlockSize(255)));
        let huge = u64::MAX >> 8;
        assert_eq!(
            parse(&page(huge, 9)),
            Err(NamespaceError::Size { blocks: huge })
        );
        let mut with_metadata = page(8, 9);
        with_metadata.formats[0].metadata.set(8);
        assert_eq!(parse(&with_metadata), Err(NamespaceError::Metadata(8)));
        let mut formatting = page(8, 9);
        for (progress, left) in [(0x80, None), (0x40, None), (0xb0, Some(0x30))] {
            formatting.format_progress = progress;
            let error = left.map(NamespaceError::Formatting);
            assert_eq!(parse(&formatting).err(), error);
        }
    }

    #[test]
    fn the_format_in_use_is_the_one_that_counts() {
        let mut page = page(8, 9);
        page.formats[0x2f].block_shift = 12;
        page.format = 0x4f;
        assert_eq!(
            Namespace::parse(1, &page, 8).unwrap().unwrap().block_shift,
            12
        );
    }

    #[test]
    fn the_physical_block_is_the_write_granularity_if_that_is_given() {
        let mut page = page(8, 9);
        page.write_granularity.set(7);
        let shift = |page: &IdentifyNamespace| {
            Namespace::parse(1, page, 8)
                .unwrap()
                .unwrap()
                .physical_block_shift
        };
        assert_eq!(shift(&page), 9);
        page.features = 0x10;
        assert_eq!(shift(&page), 12);
        page.write_granularity.set(6);
        assert_eq!(shift(&page), 9, "7 blocks are no power of two");
        page.write_granularity.set(15);
        assert_eq!(
            shift(&page),
            12,
            "the controller writes 8 blocks atomically"
        );
        page.features |= 2;
        page.atomic_write.set(1);
        assert_eq!(shift(&page), 10, "the namespace 2");
        page.atomic_offset.set(1);
        assert_eq!(shift(&page), 9, "and not from block 0 on");
    }

    #[test]
    fn a_boundary_counts_from_16_kib_on() {
        for (shift, blocks, counts) in [
            (9, 0, 0),
            (9, 8, 0),
            (9, 31, 0),
            (9, 32, 32),
            (9, 33, 33),
            (12, 3, 0),
            (12, 4, 4),
            (12, u16::MAX, u16::MAX),
        ] {
            let mut page = page(8, shift);
            page.boundary.set(blocks);
            let found = Namespace::parse(1, &page, 8).unwrap().unwrap();
            assert_eq!((found.boundary_blocks, found.boundary()), (blocks, counts));
        }
    }

    #[test]
    fn aliases_are_those_of_linux_and_need_no_quoting() {
        let identity = Identity {
            serial: "S4 E/1".into(),
            ..Identity::default()
        };
        let mut page = page(8, 9);
        let found = Namespace::parse(3, &page, 1).unwrap().unwrap();
        assert_eq!(found.volume(&identity, 0, 0).aliases, ["nvme-S4_E_1-n3"]);
        assert_eq!(found.volume(&Identity::default(), 0, 0).aliases.len(), 0);
        page.sharing = 1;
        let shared = Namespace::parse(3, &page, 1).unwrap().unwrap();
        assert_eq!(shared.volume(&identity, 0, 0).aliases, ["nvme-S4_E_1-n3"]);
        let named = Identity {
            subsystem: "nqn.2019-08.org.qemu:one".into(),
            ..identity.clone()
        };
        assert_eq!(
            shared.volume(&named, 0, 0).aliases[1..],
            ["nvme-nqn.nqn.2019-08.org.qemu_one-n3"]
        );
        page.sharing = 0;
        page.eui64 = [0, 0x25, 0x38, 0x5b, 0x71, 0xb0, 0xf1, 0xd9];
        page.nguid = [0xab; 16];
        let mut found = Namespace::parse(3, &page, 1).unwrap().unwrap();
        found.uuid = Some(core::array::from_fn(|i| i as u8));
        assert_eq!(
            found.volume(&identity, 0, 0).aliases[1..],
            [
                "nvme-eui.0025385b71b0f1d9",
                "nvme-eui.abababababababababababababababab",
                "nvme-uuid.00010203-0405-0607-0809-0a0b0c0d0e0f"
            ]
        );
    }
}
