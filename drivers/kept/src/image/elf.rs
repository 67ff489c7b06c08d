//! The image in an ELF file: checks that the file is what a domain builder would load, and lays it out as
//! it is to lie in memory.

use alloc::vec::Vec;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{ImageHead, Unfit};

/// `Elf64_Ehdr`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ElfHeader {
    ident: [u8; 16],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    segments_at: U64,
    sections_at: U64,
    flags: U32,
    header_len: U16,
    segment_len: U16,
    segments: U16,
    rest: [U16; 3],
}

/// `Elf64_Phdr`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ElfSegment {
    kind: U32,
    flags: U32,
    at: U64,
    virt: U64,
    phys: U64,
    in_file: U64,
    in_memory: U64,
    align: U64,
}

/// The note that says where an image is entered, with its name.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct EntryNote {
    name_len: U32,
    len: U32,
    kind: U32,
    name: [u8; 4],
    entry: U64,
}

const LOAD: u32 = 1;
const NOTE: u32 = 4;
const PHYS32_ENTRY: u32 = 18;
/// More than any image may have: what is in the file is as large as a kernel's memory at most.
const LARGEST: u64 = 16 << 20;

/// Why a file is no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFile {
    /// Not an ELF file for this kind of processor.
    #[error("it is not an ELF file of 64 bits for x86")]
    NotElf,
    /// A part of the file is not there.
    #[error("it is cut off, or damaged: {0} lies beyond its end")]
    CutOff(&'static str),
    /// Its segments do not lie as those of an image.
    #[error("its segments are not those of an image of Spindle: {0}")]
    Segments(&'static str),
    /// Nothing says where it is to be entered, or its head says another place.
    #[error("it has no note of its entry point, or one that its head contradicts")]
    Entry,
    /// The image in it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// An image, laid out.
#[derive(Clone, Debug)]
pub struct LaidOut {
    /// What it says of itself.
    pub head: ImageHead,
    /// What is to lie from its start on, without what is zero.
    pub bytes: Vec<u8>,
}

/// Lays out the image in an ELF file.
///
/// # Errors
/// [`BadFile`].
pub fn lay_out(file: &[u8]) -> Result<LaidOut, BadFile> {
    let (header, _) = ElfHeader::read_from_prefix(file).map_err(|_| BadFile::NotElf)?;
    // 64 bits, little-endian; an executable for x86-64.
    let is_elf = header.ident.starts_with(b"\x7fELF\x02\x01")
        && (header.kind.get(), header.machine.get()) == (2, 62)
        && usize::from(header.segment_len.get()) == size_of::<ElfSegment>();
    if !is_elf {
        return Err(BadFile::NotElf);
    }
    let at = header.segments_at.get();
    let len = u64::from(header.segments.get()) * size_of::<ElfSegment>() as u64;
    let table = part(file, at, len).ok_or(BadFile::CutOff("its table of segments"))?;
    let segments = <[ElfSegment]>::ref_from_bytes(table).map_err(|_| BadFile::NotElf)?;
    let loaded = || segments.iter().filter(|segment| segment.kind == LOAD);
    let start = loaded().map(|segment| segment.phys.get()).min();
    let start = start.ok_or(BadFile::Segments("there are none"))?;
    let mut bytes = Vec::new();
    let (mut reached, mut memory_end) = (start, start);
    for segment in loaded() {
        let (phys, in_file) = (segment.phys.get(), segment.in_file.get());
        let content = part(file, segment.at.get(), in_file).ok_or(BadFile::CutOff("a segment"))?;
        if segment.virt != phys || segment.in_memory < in_file {
            return Err(BadFile::Segments("one is not where it is linked"));
        }
        let end = phys.checked_add(segment.in_memory.get());
        let end = end.filter(|end| phys >= memory_end && end - start <= LARGEST);
        memory_end = end.ok_or(BadFile::Segments("they are not in order, or too large"))?;
        if in_file > 0 {
            bytes.resize((phys - start) as usize, 0);
            bytes.extend_from_slice(content);
            reached = phys + in_file;
        }
    }
    let head = ImageHead::read(&bytes)?;
    if head.start() != start || head.bss().start < reached || head.bss().end > memory_end {
        return Err(BadFile::Segments("its head contradicts them"));
    }
    bytes.resize(head.loaded() as usize, 0);
    let notes = segments.iter().filter(|segment| segment.kind == NOTE);
    let mut entries = notes.filter_map(|note| {
        let note = part(file, note.at.get(), note.in_file.get())?;
        let note = EntryNote::ref_from_prefix(note).ok()?.0;
        let is_entry = note.kind == PHYS32_ENTRY && &note.name == b"Xen\0" && note.name_len == 4;
        (is_entry && note.len == 8).then_some(note.entry.get())
    });
    if entries.next() != Some(head.entry()) {
        return Err(BadFile::Entry);
    }
    Ok(LaidOut { head, bytes })
}

fn part(file: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let at = usize::try_from(at).ok()?;
    file.get(at..at.checked_add(usize::try_from(len).ok()?)?)
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
