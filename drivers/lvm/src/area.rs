//! A metadata area: a header with a checksum of its own, and a text that may wrap around in the rest.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::crc::checksum;
use crate::source::read_bytes;
use crate::{Group, Reason, SECTOR, SectorSource, Unread, has_room, parse};

/// Metadata areas of a physical volume that are looked at; LVM makes two at most.
pub const MAX_AREAS: usize = 4;
/// Bytes of a metadata text: above what LVM writes to an area of the usual size, 1,044,480 bytes.
pub const MAX_TEXT: u64 = 512 << 10;

const MAGIC: [u8; 16] = *b" LVM2 x[5A%r0N*>";
const VERSION: u32 = 1;
/// The text is not to be read: LVM keeps others up to date.
const IGNORED: u32 = 1;

/// The first sector of an area.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct MdaHeader {
    /// Of the rest of the sector.
    checksum: U32,
    magic: [u8; 16],
    version: U32,
    /// Where it is itself, in bytes.
    start: U64,
    size: U64,
    /// What has been committed; what follows may never be.
    committed: RawLocation,
}
const _: () = assert!(size_of::<MdaHeader>() == 64);

/// Where a text is, in bytes from the start of the area.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct RawLocation {
    offset: U64,
    size: U64,
    checksum: U32,
    flags: U32,
}
const _: () = assert!(size_of::<RawLocation>() == 24);

/// What an area has.
enum AreaText {
    Text(u32, Vec<u8>),
    /// The text of this checksum that is known already.
    Known,
    None,
}

/// The newest metadata of some areas, and a note for each area that does not hold.
pub(crate) fn newest(
    source: &mut dyn SectorSource,
    areas: &[Range<u64>],
    notes: &mut Vec<Reason>,
) -> Result<Option<Group>, Unread> {
    let mut best: Option<Group> = None;
    for area in areas {
        let known = best.as_ref().map(|group| group.checksum);
        let text = match read_area(source, area, known) {
            Ok(text) => text,
            Err(AreaError::Stop) => return Err(Unread::Stop),
            Err(AreaError::Damaged(reason)) => {
                notes.push(reason);
                continue;
            }
        };
        let AreaText::Text(checksum, text) = text else {
            continue;
        };
        // What a text of short words takes at most while it is read: 27 bytes for each of its own, as far
        // as the limits of a group go.
        if !has_room((27 * text.len()).min(5 << 19) + (64 << 10)) {
            notes.push("there is no memory for the metadata");
            continue;
        }
        match parse(&text, checksum) {
            Err(reason) => notes.push(reason),
            Ok(group) => match &mut best {
                Some(best) if best.seqno == group.seqno => {
                    best.refused = Some("it has two versions of its metadata with one number");
                }
                Some(best) if best.seqno > group.seqno => {}
                _ => best = Some(group),
            },
        }
    }
    Ok(best)
}

/// Why an area gives no text.
enum AreaError {
    Stop,
    Damaged(Reason),
}

impl From<Unread> for AreaError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Bad => Self::Damaged("a metadata area cannot be read"),
            Unread::Stop => Self::Stop,
        }
    }
}

fn read_area(
    source: &mut dyn SectorSource,
    area: &Range<u64>,
    known: Option<u32>,
) -> Result<AreaText, AreaError> {
    let mut sector = vec![0; SECTOR as usize];
    read_bytes(source, area.start, &mut sector)?;
    let Ok((header, _)) = MdaHeader::ref_from_prefix(&sector) else {
        return Ok(AreaText::None);
    };
    let size = header.size.get();
    let summed = &sector[size_of::<U32>()..];
    let holds = header.magic == MAGIC
        && header.version.get() == VERSION
        && header.start.get() == area.start
        && area.start.checked_add(size) == Some(area.end)
        && header.checksum.get() == checksum(summed);
    if !holds {
        return Err(AreaError::Damaged(
            "the header of a metadata area does not hold",
        ));
    }
    let location = &header.committed;
    let (offset, length) = (location.offset.get(), location.size.get());
    if offset == 0 || location.flags.get() & IGNORED != 0 {
        return Ok(AreaText::None);
    }
    let crc = location.checksum.get();
    if known == Some(crc) {
        return Ok(AreaText::Known);
    }
    let room = size.saturating_sub(SECTOR);
    // LVM has room for the next version beside this one.
    let fits = offset >= SECTOR && offset < size && length <= room / 2 && length <= MAX_TEXT;
    if !fits {
        return Err(AreaError::Damaged(
            "a metadata area has a text of a bad size",
        ));
    }
    let mut text = Vec::new();
    if text.try_reserve_exact(length as usize).is_err() {
        return Err(AreaError::Damaged("there is no memory for the metadata"));
    }
    text.resize(length as usize, 0);
    let before_end = (size - offset).min(length) as usize;
    let (front, wrapped) = text.split_at_mut(before_end);
    read_bytes(source, area.start + offset, front)?;
    read_bytes(source, area.start + SECTOR, wrapped)?;
    if checksum(&text) != crc {
        return Err(AreaError::Damaged(
            "a metadata text does not have its checksum",
        ));
    }
    Ok(AreaText::Text(crc, text))
}
