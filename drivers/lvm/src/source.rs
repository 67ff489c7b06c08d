//! Where sectors come from: whole ones, read in pieces of at most a page.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

use crate::SECTOR;

/// The most bytes of one read, and what pieces are aligned to.
const PIECE: u64 = 4096;

/// Why sectors were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The medium cannot read them, or they lie beyond its end: what stands there is lost, and another
    /// copy may do.
    Bad,
    /// Reading ends here, for now or for good.
    Stop,
}

/// A disk or a partition of it.
pub trait SectorSource {
    /// Its size in sectors of 512 bytes.
    fn sectors(&self) -> u64;

    /// Reads `out.len()` bytes, a whole number of sectors and at most 4 KiB, from sector `first` on.
    ///
    /// # Errors
    /// See [`Unread`]; `out` may then hold a part.
    fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), Unread>;
}

/// Whether there is memory for so many bytes. Where it ends, an allocation that cannot fail is the end of
/// the kernel, and what is on a disk must not cause that.
#[must_use]
pub fn has_room(bytes: usize) -> bool {
    let mut room = Vec::<u8>::new();
    let reserved = room.try_reserve_exact(bytes).is_ok();
    // Or else the compiler would see that it is not used, and leave it out.
    black_box(&mut room);
    reserved
}

/// Reads bytes from wherever they begin.
pub(crate) fn read_bytes(
    source: &mut dyn SectorSource,
    at: u64,
    out: &mut [u8],
) -> Result<(), Unread> {
    let size = source.sectors().saturating_mul(SECTOR);
    let end = at.checked_add(out.len() as u64).ok_or(Unread::Bad)?;
    if end > size {
        return Err(Unread::Bad);
    }
    let mut piece = vec![0; PIECE as usize];
    let (mut at, mut out) = (at, out);
    while !out.is_empty() {
        let room = PIECE - at % PIECE;
        let length = room.min(out.len() as u64);
        let (first, behind) = (at / SECTOR, (at + length).div_ceil(SECTOR));
        let sectors = &mut piece[..((behind - first) * SECTOR) as usize];
        source.read(first, sectors)?;
        let (now, later) = out.split_at_mut(length as usize);
        let skipped = (at % SECTOR) as usize;
        now.copy_from_slice(&sectors[skipped..skipped + now.len()]);
        at += length;
        out = later;
    }
    Ok(())
}
