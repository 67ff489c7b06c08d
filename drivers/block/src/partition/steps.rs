//! Reads a partition table, and LVM2's metadata, without waiting for the disk, for disks that come while
//! guests are served.
//!
//! The table is looked at from its beginning at each step, with what has been read so far, until
//! blocks are missing; then each partition likewise. The caller has these read in its own time and adds them.

use alloc::vec::Vec;

use spindle_hw::PAGE_SIZE;

use crate::{Blocks, ReadError, SECTOR_SIZE, Table, Volume, partitions};

/// The most bytes of a table and its backup that are kept while they are read: they share the heap with
/// all else that control does for guests. As all tools make them, the two take less than 40 KiB.
const MOST_BYTES: usize = 64 << 10;
/// The same for the metadata on one partition, whose text has `spindle_lvm`'s bound.
const MOST_LVM_BYTES: usize = MOST_BYTES + spindle_lvm::MAX_TEXT as usize;

/// What is next.
#[derive(Debug)]
pub enum TableStep {
    /// These blocks are to be read, and given to [`TableReader::add`].
    Read {
        /// The first one, counted from the start of the volume.
        first: u64,
        /// How many bytes from there on: whole blocks, at most a page.
        bytes: usize,
    },
    /// That is the table, or why there is none.
    Done(Result<Table, ReadError>),
}

/// A partition table that is being read.
#[derive(Debug)]
pub struct TableReader {
    disk: Volume,
    blocks: KnownBlocks,
    /// The table, once it is known.
    table: Option<Table>,
    /// How many volumes have been looked at for LVM2's metadata.
    looked: usize,
}

/// What has been read of a disk.
#[derive(Debug)]
pub(crate) struct KnownBlocks {
    block_shift: u8,
    count: u64,
    pieces: Vec<(u64, Result<Vec<u8>, ReadError>)>,
    /// The most bytes of these.
    most: usize,
    /// First block and bytes of what is missing.
    pub(crate) missing: Option<(u64, usize)>,
}

impl KnownBlocks {
    /// Nothing yet of so many sectors of 512 bytes, and never more than `most` bytes.
    fn new(block_shift: u8, sectors: u64, most: usize) -> Self {
        Self {
            block_shift,
            count: sectors / ((1 << block_shift) / SECTOR_SIZE),
            pieces: Vec::new(),
            most,
            missing: None,
        }
    }

    /// Nothing yet of so many sectors, with room for LVM2's metadata.
    pub(crate) fn for_metadata(block_shift: u8, sectors: u64) -> Self {
        Self::new(block_shift, sectors, MOST_LVM_BYTES)
    }

    /// Forgets all.
    pub(crate) fn forget(&mut self) {
        (self.pieces, self.missing) = (Vec::new(), None);
    }

    /// Adds what was missing last, or why it could not be read.
    pub(crate) fn add(&mut self, read: Result<Vec<u8>, ReadError>) {
        if let Some((first, _)) = self.missing.take() {
            self.pieces.push((first, read));
        }
    }
}

impl TableReader {
    /// A reader for the table of `disk`.
    #[must_use]
    pub fn new(disk: Volume) -> Self {
        Self {
            blocks: KnownBlocks::new(disk.block_shift, disk.sectors, MOST_BYTES),
            disk,
            table: None,
            looked: 0,
        }
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &Volume {
        &self.disk
    }

    /// What is to be done next; the same until [`TableReader::add`].
    pub fn step(&mut self) -> TableStep {
        self.blocks.missing = None;
        let read = self.go_on();
        match self.blocks.missing {
            Some((first, bytes)) => TableStep::Read { first, bytes },
            None => TableStep::Done(read),
        }
    }

    fn go_on(&mut self) -> Result<Table, ReadError> {
        let Self {
            disk,
            blocks,
            table,
            looked,
        } = self;
        if table.is_none() {
            *table = Some(partitions(disk, blocks)?);
            (blocks.pieces, blocks.most) = (Vec::new(), MOST_LVM_BYTES);
        }
        while let Some(known) = table {
            if !known.look(*looked, disk, blocks)? {
                break;
            }
            *looked += 1;
            blocks.pieces = Vec::new();
        }
        Ok(table.take().unwrap_or_default())
    }

    /// Adds what the last [`TableStep::Read`] asked for, or why it could not be read.
    pub fn add(&mut self, read: Result<Vec<u8>, ReadError>) {
        self.blocks.add(read);
    }
}

impl Blocks for KnownBlocks {
    fn block_shift(&self) -> u8 {
        self.block_shift
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let mut first = first;
        for piece in out.chunks_mut(PAGE_SIZE) {
            let fits = |read: &Result<Vec<u8>, _>| {
                let bytes = read.as_ref().map(Vec::len);
                bytes.is_ok_and(|bytes| bytes >= piece.len()) || bytes.is_err()
            };
            let mut known = self.pieces.iter();
            match known.find(|(at, read)| *at == first && fits(read)) {
                Some((_, Ok(bytes))) => piece.copy_from_slice(&bytes[..piece.len()]),
                Some((_, Err(error))) => return Err(*error),
                None => {
                    let kept = self.pieces.iter().flat_map(|(_, read)| read);
                    let kept = kept.map(Vec::len).sum::<usize>();
                    let full = kept >= MOST_BYTES && !spindle_lvm::has_room(MOST_BYTES);
                    if kept + piece.len() > self.most || full {
                        return Err(ReadError::NoMemory);
                    }
                    self.missing = Some((first, piece.len()));
                    return Err(ReadError::Pending);
                }
            }
            first += (piece.len() >> self.block_shift) as u64;
        }
        Ok(())
    }
}
