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
pub(crate) enum AreaError {
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

/// The header of an area, as it stands on the disk, once that holds.
pub(crate) struct AreaHeader {
    pub(crate) sector: Vec<u8>,
    /// Where it begins, in bytes.
    pub(crate) start: u64,
    pub(crate) size: u64,
    /// Where its text is, from there on, and how long; nowhere if the offset is 0.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) checksum: u32,
    /// The text is not to be read: LVM keeps others up to date.
    pub(crate) ignored: bool,
}

impl AreaHeader {
    /// Bytes that texts may take.
    pub(crate) fn room(&self) -> u64 {
        self.size.saturating_sub(SECTOR)
    }

    /// The sector that makes another text count, which no other is to follow.
    pub(crate) fn committing(&self, offset: u64, text: &[u8]) -> Vec<u8> {
        let mut sector = self.sector.clone();
        let location = RawLocation {
            offset: offset.into(),
            size: (text.len() as u64).into(),
            checksum: checksum(text).into(),
            flags: 0.into(),
        };
        let none = [0; size_of::<RawLocation>()];
        let at = size_of::<MdaHeader>() - size_of::<RawLocation>();
        let locations = [location.as_bytes(), &none].concat();
        sector[at..at + locations.len()].copy_from_slice(&locations);
        let sum = checksum(&sector[size_of::<U32>()..]);
        sector[..size_of::<U32>()].copy_from_slice(&sum.to_le_bytes());
        sector
    }
}

/// Reads the header of an area.
pub(crate) fn read_header(
    source: &mut dyn SectorSource,
    area: &Range<u64>,
) -> Result<AreaHeader, AreaError> {
    let mut sector = vec![0; SECTOR as usize];
    read_bytes(source, area.start, &mut sector)?;
    let bad = AreaError::Damaged("the header of a metadata area does not hold");
    let Ok((header, _)) = MdaHeader::ref_from_prefix(&sector) else {
        return Err(bad);
    };
    let size = header.size.get();
    let summed = &sector[size_of::<U32>()..];
    let holds = header.magic == MAGIC
        && header.version.get() == VERSION
        && header.start.get() == area.start
        && area.start.checked_add(size) == Some(area.end)
        && header.checksum.get() == checksum(summed);
    if !holds {
        return Err(bad);
    }
    let location = &header.committed;
    Ok(AreaHeader {
        start: area.start,
        size,
        offset: location.offset.get(),
        length: location.size.get(),
        checksum: location.checksum.get(),
        ignored: location.flags.get() & IGNORED != 0,
        sector,
    })
}

fn read_area(
    source: &mut dyn SectorSource,
    area: &Range<u64>,
    known: Option<u32>,
) -> Result<AreaText, AreaError> {
    let header = read_header(source, area)?;
    if header.offset == 0 || header.ignored {
        return Ok(AreaText::None);
    }
    if known == Some(header.checksum) {
        return Ok(AreaText::Known);
    }
    let text = read_text(source, &header)?;
    Ok(AreaText::Text(header.checksum, text))
}

/// Reads the text of an area, which has its checksum.
pub(crate) fn read_text(
    source: &mut dyn SectorSource,
    header: &AreaHeader,
) -> Result<Vec<u8>, AreaError> {
    let &AreaHeader {
        start,
        size,
        offset,
        length,
        ..
    } = header;
    // LVM has room for the next version beside this one.
    let fits =
        offset >= SECTOR && offset < size && length <= header.room() / 2 && length <= MAX_TEXT;
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
    read_bytes(source, start + offset, front)?;
    read_bytes(source, start + SECTOR, wrapped)?;
    if checksum(&text) != header.checksum {
        return Err(AreaError::Damaged(
            "a metadata text does not have its checksum",
        ));
    }
    Ok(text)
}
