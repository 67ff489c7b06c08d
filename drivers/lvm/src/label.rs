//! The label of a physical volume, in one of the first four sectors, and what it leads to.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::area::{MAX_AREAS, newest};
use crate::crc::checksum;
use crate::source::read_bytes;
use crate::{Group, LvmUuid, Reason, SECTOR, SectorSource, Unread};

/// Sectors in which a label may stand.
const PLACES: u64 = 4;
/// Bytes at the start of a label that its checksum leaves out.
const UNSUMMED: usize = 20;

/// The start of the label's sector.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct LabelHeader {
    id: [u8; 8],
    /// The sector that it is in.
    sector: U64,
    /// Of all from `offset` to the sector's end.
    crc: U32,
    /// Bytes from the start of the sector to the [`PvHeader`].
    offset: U32,
    kind: [u8; 8],
}
const _: () = assert!(size_of::<LabelHeader>() == 32);

/// What a label is of. Lists of areas follow: those for data, then those for metadata.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct PvHeader {
    uuid: [u8; 32],
    /// In bytes.
    size: U64,
}
const _: () = assert!(size_of::<PvHeader>() == 40);

/// An area of the physical volume, in bytes; one of zeroes ends a list.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct AreaEntry {
    offset: U64,
    size: U64,
}
const _: () = assert!(size_of::<AreaEntry>() == 16);

/// A physical volume that was found.
#[derive(Clone, Debug)]
pub struct FoundPv {
    /// Its identifier.
    pub uuid: LvmUuid,
    /// Sectors of the disk or partition that it is on.
    pub sectors: u64,
    /// Sectors that are LVM's own: the labels and the metadata areas.
    pub reserved: Vec<Range<u64>>,
    /// The newest metadata on it; `None` if it has none of its own, or none that holds.
    pub group: Option<Arc<Group>>,
    /// Why no volume on it is served, if so.
    pub refused: Option<Reason>,
    /// What a person should know about its metadata areas, at most one note for each.
    pub notes: Vec<Reason>,
}

/// Looks for a physical volume; `None` if there is no label that holds.
///
/// # Errors
/// If reading has to stop.
pub fn find(source: &mut dyn SectorSource) -> Result<Option<FoundPv>, Unread> {
    let Some((uuid, areas)) = read_label(source)? else {
        return Ok(None);
    };
    let to_sectors = |area: &Range<u64>| area.start / SECTOR..area.end.div_ceil(SECTOR);
    let mut reserved: Vec<_> = areas.iter().map(to_sectors).collect();
    reserved.push(0..PLACES);
    let mut found = FoundPv {
        uuid,
        sectors: source.sectors(),
        reserved,
        group: None,
        refused: None,
        notes: Vec::new(),
    };
    found.group = newest(source, &areas, &mut found.notes)?.map(Arc::new);
    Ok(Some(found))
}

/// The identifier of a physical volume and its metadata areas, in bytes.
type PvLabel = (LvmUuid, Vec<Range<u64>>);

/// What the label of a physical volume says, if there is one that holds.
pub(crate) fn read_label(source: &mut dyn SectorSource) -> Result<Option<PvLabel>, Unread> {
    let mut sectors = vec![0; (PLACES * SECTOR) as usize];
    match read_bytes(source, 0, &mut sectors) {
        Ok(()) => {}
        Err(Unread::Bad) => return Ok(None),
        Err(Unread::Stop) => return Err(Unread::Stop),
    }
    let mut places = (0..).zip(sectors.chunks_exact(SECTOR as usize));
    Ok(places.find_map(|(number, sector)| label(number, sector)))
}

/// The same of this sector.
fn label(number: u64, sector: &[u8]) -> Option<PvLabel> {
    let (header, _) = LabelHeader::ref_from_prefix(sector).ok()?;
    let holds = header.id == *b"LABELONE"
        && header.kind == *b"LVM2 001"
        && header.sector.get() == number
        && header.crc.get() == checksum(&sector[UNSUMMED..]);
    let at = header.offset.get() as usize;
    let body = sector
        .get(at..)
        .filter(|_| holds && at >= size_of::<LabelHeader>())?;
    let (pv, mut rest) = PvHeader::ref_from_prefix(body).ok()?;
    // Those for data are in the text as well.
    while next_area(&mut rest)?.start != 0 {}
    let mut areas = Vec::new();
    loop {
        let area = next_area(&mut rest)?;
        if area.start == 0 {
            return Some((LvmUuid::new(pv.uuid)?, areas));
        }
        if areas.len() < MAX_AREAS {
            areas.push(area);
        }
    }
}

fn next_area(rest: &mut &[u8]) -> Option<Range<u64>> {
    let (entry, after) = AreaEntry::ref_from_prefix(rest).ok()?;
    *rest = after;
    let (start, size) = (entry.offset.get(), entry.size.get());
    Some(start..start.checked_add(size)?)
}
