//! Looking for an LVM2 physical volume on a disk or partition, by reading its blocks.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use spindle_hw::PAGE_SIZE;
use spindle_lvm::{SECTOR, SectorSource, Unread, find};

use super::LocatedPv;
use crate::{Blocks, ReadError, Volume};

/// Sectors that are read at once: those of a page, counted from the start of the volume.
const AT_ONCE: u64 = PAGE_SIZE as u64 / SECTOR;

/// A disk, or a partition of it, in sectors.
pub(super) struct VolumeSectors<'a> {
    blocks: &'a mut dyn Blocks,
    /// The volume's first block on what `blocks` reads.
    start: u64,
    sectors: u64,
    /// Why reading has ended.
    pub(super) error: Option<ReadError>,
}

impl<'a> VolumeSectors<'a> {
    /// A volume of so many `sectors`, whose blocks are those of `blocks` from block `start` on.
    pub(super) fn new(blocks: &'a mut dyn Blocks, start: u64, sectors: u64) -> Self {
        let per_block = (1 << blocks.block_shift()) / SECTOR;
        Self {
            sectors: sectors - sectors % per_block,
            blocks,
            start,
            error: None,
        }
    }
}

impl SectorSource for VolumeSectors<'_> {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), Unread> {
        let shift = self.blocks.block_shift() - SECTOR.trailing_zeros() as u8;
        let page = first - first % AT_ONCE;
        let mut bytes = vec![0; (AT_ONCE.min(self.sectors - page) * SECTOR) as usize];
        let skipped = ((first - page) * SECTOR) as usize;
        let read = self.blocks.read(self.start + (page >> shift), &mut bytes);
        match read {
            Ok(()) => {
                let wanted = bytes.get(skipped..skipped + out.len());
                out.copy_from_slice(wanted.ok_or(Unread::Bad)?);
                Ok(())
            }
            Err(ReadError::Failed(_) | ReadError::Range) => Err(Unread::Bad),
            Err(error) => {
                self.error = Some(error);
                Err(Unread::Stop)
            }
        }
    }
}

/// The physical volume on `volume`, which is `disk`, that `blocks` reads, or a partition of it. Notes
/// what a person should know.
pub(crate) fn physical_volume(
    volume: &Volume,
    disk: &Volume,
    blocks: &mut dyn Blocks,
    notes: &mut Vec<String>,
) -> Result<Option<LocatedPv>, ReadError> {
    let mut source = VolumeSectors::new(blocks, volume.start - disk.start, volume.sectors);
    let found = find(&mut source);
    let (error, name) = (source.error, &volume.name);
    match (found, error) {
        (Ok(found), _) => Ok(found.map(|found| {
            let own = found.notes.iter();
            notes.extend(own.map(|note| format!("LVM on {name}: {note}")));
            let volume = name.clone();
            LocatedPv { volume, found }
        })),
        (Err(_), None | Some(ReadError::NoMemory)) => {
            notes.push(format!("LVM on {name}: there is no room to read it"));
            Ok(None)
        }
        (Err(_), Some(error)) => Err(error),
    }
}
