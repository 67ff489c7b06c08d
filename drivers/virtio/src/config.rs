//! Features, and what the configuration space says of the disk (5.2.3, 5.2.4).

use spindle_block::SECTOR_SIZE;
use virtio_drivers::transport::Transport;

use crate::Error;
use crate::request::kind;

bitflags::bitflags! {
    /// The features this driver knows; the names are the specification's, less their prefixes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Features: u64 {
        const SIZE_MAX = 1 << 1;
        const SEG_MAX = 1 << 2;
        const RO = 1 << 5;
        const BLK_SIZE = 1 << 6;
        const FLUSH = 1 << 9;
        const TOPOLOGY = 1 << 10;
        const MQ = 1 << 12;
        const DISCARD = 1 << 13;
        const WRITE_ZEROES = 1 << 14;
        const SECURE_ERASE = 1 << 16;
        const INDIRECT_DESC = 1 << 28;
        const VERSION_1 = 1 << 32;
        const ACCESS_PLATFORM = 1 << 33;
        const ORDER_PLATFORM = 1 << 36;
    }
}

/// Offsets in `struct virtio_blk_config` (5.2.4).
mod field {
    pub(super) const CAPACITY: usize = 0;
    pub(super) const SIZE_MAX: usize = 8;
    pub(super) const SEG_MAX: usize = 12;
    pub(super) const BLK_SIZE: usize = 20;
    pub(super) const PHYSICAL_BLOCK_EXP: usize = 24;
    pub(super) const NUM_QUEUES: usize = 34;
    pub(super) const DISCARD: usize = 36;
    pub(super) const DISCARD_ALIGNMENT: usize = 44;
    pub(super) const WRITE_ZEROES: usize = 48;
    pub(super) const WRITE_ZEROES_MAY_UNMAP: usize = 56;
    pub(super) const SECURE_ERASE: usize = 60;
    pub(super) const SECURE_ERASE_ALIGNMENT: usize = 68;
}

/// A request that gives blocks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Erase {
    /// Request type.
    pub(crate) kind: u32,
    /// `flags` of its range.
    pub(crate) flags: u32,
    /// The most sectors of one request; whole blocks, at least one.
    pub(crate) max_sectors: u32,
    /// Sectors that are given up at once; whole blocks, at least one.
    pub(crate) granularity: u32,
}

/// What the configuration space says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Length in sectors of 512 bytes; whole blocks.
    pub(crate) sectors: u64,
    /// log2 of the block size in bytes: 9 or 12.
    pub(crate) block_shift: u8,
    /// log2 of the physical block size in bytes.
    pub(crate) physical_block_shift: u8,
    /// The most pieces of memory in one request, at least 1.
    pub(crate) max_pieces: u32,
    /// The most bytes in a piece, at least a page.
    pub(crate) max_piece: u32,
    /// Virtqueues, at least 1.
    pub(crate) queues: u16,
    pub(crate) discard: Option<Erase>,
    pub(crate) secure_erase: Option<Erase>,
}

/// How often the configuration is read before it counts as unsettled.
const TRIES: usize = 16;
/// The largest plausible physical block: 1 MiB.
const MAX_PHYSICAL_SHIFT: u8 = 20;

/// The outcome of `read`, of which nothing changed meanwhile (2.5.1). Unlike
/// `Transport::read_consistent`, it ends.
fn settled<T: Transport, V>(
    transport: &T,
    read: impl Fn() -> virtio_drivers::Result<V>,
) -> Result<V, Error> {
    for _ in 0..TRIES {
        let before = transport.read_config_generation();
        let value = read().map_err(|_| Error::Configuration)?;
        if transport.read_config_generation() == before {
            return Ok(value);
        }
    }
    Err(Error::Unsettled)
}

/// The length of the disk, in whole blocks.
pub(crate) fn sectors(transport: &impl Transport, block_shift: u8) -> Result<u64, Error> {
    let [low, high] = settled(transport, || {
        transport.read_config_space::<[u32; 2]>(field::CAPACITY)
    })?;
    let sectors = u64::from(high) << 32 | u64::from(low);
    if sectors > i64::MAX as u64 / SECTOR_SIZE {
        return Err(Error::Size(sectors));
    }
    let per_block = 1 << (block_shift - 9);
    Ok(sectors / per_block * per_block)
}

impl Geometry {
    /// Reads it.
    pub(crate) fn read(transport: &impl Transport, features: Features) -> Result<Self, Error> {
        settled(transport, || Ok(Self::read_once(transport, features)))?
    }

    fn read_once(transport: &impl Transport, features: Features) -> Result<Self, Error> {
        let word = |feature: Features, at| match features.contains(feature) {
            true => transport
                .read_config_space::<u32>(at)
                .map(Some)
                .map_err(|_| Error::Configuration),
            false => Ok(None),
        };
        let narrow = |feature: Features, at| match features.contains(feature) {
            true => transport
                .read_config_space::<u8>(at)
                .map_err(|_| Error::Configuration),
            false => Ok(0),
        };
        let block_shift: u8 = match word(Features::BLK_SIZE, field::BLK_SIZE)? {
            None | Some(512) => 9,
            Some(4096) => 12,
            Some(other) => return Err(Error::BlockSize(other)),
        };
        let max_piece = word(Features::SIZE_MAX, field::SIZE_MAX)?.unwrap_or(u32::MAX);
        if max_piece < spindle_hw::PAGE_SIZE as u32 {
            return Err(Error::PieceSize(max_piece));
        }
        // Without the feature nothing is promised but one.
        let max_pieces = word(Features::SEG_MAX, field::SEG_MAX)?.unwrap_or(1).max(1);
        let queues = if features.contains(Features::MQ) {
            transport
                .read_config_space::<u16>(field::NUM_QUEUES)
                .map_err(|_| Error::Configuration)?
                .max(1)
        } else {
            1
        };
        let physical =
            block_shift.saturating_add(narrow(Features::TOPOLOGY, field::PHYSICAL_BLOCK_EXP)?);
        let erase = |feature, at, kind, flags, alignment: Option<usize>| {
            let Some(max) = word(feature, at)? else {
                return Ok(None);
            };
            let granularity = match alignment {
                Some(at) => word(feature, at)?.unwrap_or(1),
                None => 1,
            };
            Ok(Erase::new(kind, flags, max, granularity, block_shift))
        };
        let mut discard = erase(
            Features::DISCARD,
            field::DISCARD,
            kind::DISCARD,
            0,
            Some(field::DISCARD_ALIGNMENT),
        )?;
        if discard.is_none() && narrow(Features::WRITE_ZEROES, field::WRITE_ZEROES_MAY_UNMAP)? == 1
        {
            // Zeroes that need no room are what a discard may leave behind.
            discard = erase(
                Features::WRITE_ZEROES,
                field::WRITE_ZEROES,
                kind::WRITE_ZEROES,
                kind::UNMAP,
                None,
            )?;
        }
        let secure_erase = erase(
            Features::SECURE_ERASE,
            field::SECURE_ERASE,
            kind::SECURE_ERASE,
            0,
            Some(field::SECURE_ERASE_ALIGNMENT),
        )?;
        let writable = !features.contains(Features::RO);
        Ok(Self {
            sectors: sectors(transport, block_shift)?,
            block_shift,
            physical_block_shift: physical.min(MAX_PHYSICAL_SHIFT),
            max_pieces,
            max_piece,
            queues,
            discard: discard.filter(|_| writable),
            secure_erase: secure_erase.filter(|_| writable),
        })
    }
}

impl Erase {
    /// A request as announced; `None` if no block fits into it.
    fn new(kind: u32, flags: u32, max: u32, granularity: u32, block_shift: u8) -> Option<Self> {
        let block = 1 << (block_shift - 9);
        let plausible =
            |sectors: &u32| sectors.is_multiple_of(block) && *sectors <= MAX_GRANULARITY;
        let granularity = Some(granularity)
            .filter(plausible)
            .unwrap_or(block)
            .max(block);
        // Cut where the disk does, unless it takes less than that at once.
        let max_sectors = match max / granularity * granularity {
            0 => max / block * block,
            aligned => aligned,
        };
        (max_sectors > 0).then_some(Self {
            kind,
            flags,
            max_sectors,
            granularity,
        })
    }
}

/// The largest plausible granularity in sectors: 1 GiB.
const MAX_GRANULARITY: u32 = 1 << 21;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_erase_is_cut_at_the_granularity_and_into_whole_blocks() {
        let limits = |max, granularity, shift| {
            Erase::new(kind::DISCARD, 0, max, granularity, shift)
                .map(|e| (e.max_sectors, e.granularity))
        };
        assert_eq!(limits(100, 8, 9), Some((96, 8)));
        assert_eq!(limits(u32::MAX, 1, 9), Some((u32::MAX, 1)));
        assert_eq!(limits(100, 64, 12), Some((64, 64)));
        assert_eq!(
            limits(100, 128, 12),
            Some((96, 128)),
            "less than the granularity"
        );
        assert_eq!(
            limits(100, 3, 12),
            Some((96, 8)),
            "no whole number of blocks"
        );
        assert_eq!(limits(100, 0, 9), Some((100, 1)));
        assert_eq!(limits(100, u32::MAX, 9), Some((100, 1)));
        assert_eq!(limits(7, 0, 12), None);
        assert_eq!(limits(0, 1, 9), None);
    }
}
