//! What lies where in kept memory, and how its life begins.
//!
//! | page | pages | what is there |
//! | --- | --- | --- |
//! | 0 | 1 | nothing: its address may be null |
//! | 1 | 1 | the kernel's code that runs while there is no image, executable |
//! | 2 | 1 | what that code works with |
//! | 3 | 4 | slots of cores, with the stacks that they wait on |
//! | 7 | 6 | page tables of that code |
//! | 13 | 1 | the header: magic, version, lives, which records count; how lives ended ([`death`](crate::death)); the last update |
//! | 14 | 2 | where the byte streams to and from xenstored stand |
//! | 16 | 1 | the tail of the log ([`LogTail`](crate::LogTail)) |
//! | 17 | 1 | where the memory of RAM disks is ([`RamRecords`](crate::RamRecords)) |
//! | 18 | 1 | which ring each core is at work on |
//! | 19 | 64 | grants that a vCPU is mapping, a page for each ([`Mappings`](crate::Mappings)), of which the last KiB has its last events ([`Recorder`](crate::Recorder)) |
//! | 83 | 128 | where each grant handle is mapped |
//! | 211 | 2 x 32 | the records, written by turns ([`Records`](crate::Records)) |
//! | 275 | the rest | journals of rings, each a run of whole pages |
//!
//! What the kernel has in pages 1 to 12 is its own affair (`kernel/src/restart`), but a change of it is
//! one of this layout, too, unless it is one that images of this layout neither read nor write, and that
//! is checked, as a [`WordNote`](crate::WordNote) is. Memory without the magic has never been used, or holds nothing that can
//! be believed: the life that finds it so is the first one.

use core::sync::atomic::Ordering::{Acquire, Release};

use spindle_hw::{PAGE_SIZE, SharedPages};

/// "Spindle!" in ASCII, read as a little-endian number.
const MAGIC: u64 = u64::from_le_bytes(*b"Spindle!");
/// Version of this layout, and of where the rooms for images lie before it. Memory of another one is not
/// used.
pub const VERSION: u32 = 5;

/// The page of the kernel's code.
pub const CODE: usize = 1;
/// The page of what that works with.
pub const STATE: usize = 2;
/// The first of the pages with slots of cores.
pub const SLOTS: usize = 3;
/// How many these are.
pub const SLOT_PAGES: usize = 4;
/// The first page of the tables of the kernel's code.
pub const TABLES: usize = SLOTS + SLOT_PAGES;
/// How many these are.
pub const TABLE_PAGES: usize = 6;

/// Where the header is, in bytes. It has a page.
const HEADER: usize = (TABLES + TABLE_PAGES) * PAGE_SIZE;
/// Where the header begins, with what says that it is one.
pub const MAGIC_AT: usize = HEADER;
const VERSION_AT: usize = HEADER + 8;
/// The number of the life that has begun last.
pub(crate) const LIFE_AT: usize = HEADER + 16;
/// Which writing of the records counts; its bank is the lowest bit.
pub(crate) const WRITING_AT: usize = HEADER + 24;
/// The life that has served last.
pub(crate) const SERVED_AT: usize = HEADER + 32;
/// How many lives have ended by an update.
pub(crate) const UPDATES_AT: usize = HEADER + 40;
/// Where the note of the last update is.
pub(crate) const UPDATE: usize = HEADER + 64;
/// How many bytes it has.
pub(crate) const UPDATE_LEN: usize = 232;
/// Where the records of deaths are, up to the end of the page.
pub(crate) const DEATHS: usize = HEADER + 512;
/// How many bytes these are.
pub(crate) const DEATHS_LEN: usize = PAGE_SIZE - 512;

/// The first of the pages for the streams to and from xenstored.
pub const STORE_PAGE: usize = HEADER / PAGE_SIZE + 1;
/// How many these are.
pub const STORE_PAGES: usize = 2;
/// The first of the pages for the log's tail.
pub const LOG_PAGE: usize = STORE_PAGE + STORE_PAGES;
/// How many these are.
pub const LOG_PAGES: usize = 1;
/// The page where the memory of RAM disks is noted.
pub const RAM_PAGE: usize = LOG_PAGE + LOG_PAGES;
/// The page where cores say which ring they are at work on.
pub const WORK_PAGE: usize = RAM_PAGE + 1;
/// vCPUs that can map grants.
pub const CALLERS: usize = 64;
/// Where the grants are that vCPUs are mapping, a page for each vCPU.
pub(crate) const CALLS: usize = (WORK_PAGE + 1) * PAGE_SIZE;
/// Bytes at the end of each for the last events of that vCPU.
pub(crate) const EVENT_BYTES: usize = 1024;
/// Grant handles that can be noted: those from 0 on.
pub const HANDLES: usize = 65_536;
/// Where the mapped address of each handle is.
pub(crate) const MAPPED: usize = CALLS + CALLERS * PAGE_SIZE;
/// Bytes of one of the two places for records.
pub(crate) const BANK_BYTES: usize = 32 * PAGE_SIZE;
/// Where the first of them is.
pub(crate) const BANKS: usize = MAPPED + HANDLES * size_of::<u64>();
/// Where the journals begin, in bytes.
pub const JOURNALS: usize = BANKS + 2 * BANK_BYTES;
/// Pages before the first journal: kept memory must have at least these.
pub const FIXED_PAGES: usize = JOURNALS / PAGE_SIZE;

/// Why kept memory cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kept memory has {0} pages, fewer than the {FIXED_PAGES} that are needed")]
pub struct TooSmall(
    /// Pages that there are.
    pub usize,
);

/// Begins a life: counts it, and gives its number, which is 1 if nothing was there that could be
/// read. Then all behind the kernel's own pages is cleared.
///
/// With `again` it is known that there was a life before, and the number is 2 at least. If the header
/// cannot be read then, neither records nor deaths are; the table of mappings is, since Xen undoes
/// none of its entries that is wrong, and the streams are.
///
/// # Errors
/// [`TooSmall`].
pub fn begin(pages: &SharedPages, again: bool) -> Result<u64, TooSmall> {
    if pages.len() < JOURNALS {
        return Err(TooSmall(pages.len() / PAGE_SIZE));
    }
    let word = |at| pages.u64_at(at);
    let known = word(MAGIC_AT).load(Acquire) == MAGIC
        && word(VERSION_AT).load(Acquire) == u64::from(VERSION);
    let counted = if known {
        word(LIFE_AT).load(Acquire)
    } else {
        0
    };
    let lives = counted.max(u64::from(again));
    if counted == 0 {
        // The magic goes first and comes last, so that a death in between leaves no half.
        word(MAGIC_AT).store(0, Release);
        pages.zero(HEADER, PAGE_SIZE);
        if lives == 0 {
            pages.zero(STORE_PAGE * PAGE_SIZE, JOURNALS - STORE_PAGE * PAGE_SIZE);
        }
        word(VERSION_AT).store(VERSION.into(), Release);
    }
    let life = lives.saturating_add(1);
    word(LIFE_AT).store(life, Release);
    word(MAGIC_AT).store(MAGIC, Release);
    Ok(life)
}

/// Pages of journals that there is room for.
#[must_use]
pub fn journal_pages(pages: &SharedPages) -> usize {
    pages.len().saturating_sub(JOURNALS) / PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_counted_and_what_is_strange_begins_anew() {
        let pages = SharedPages::host(FIXED_PAGES, 0);
        assert_eq!(begin(&pages, false), Ok(1));
        assert_eq!(begin(&pages, false), Ok(2));
        pages.u64_at(WRITING_AT).store(7, Release);
        assert_eq!(begin(&pages, false), Ok(3));
        assert_eq!(pages.u64_at(WRITING_AT).load(Acquire), 7);
        for at in [MAGIC_AT, VERSION_AT] {
            pages.u8_at(at).fetch_xor(1, Release);
            assert_eq!(begin(&pages, false), Ok(1), "word at {at}");
            assert_eq!(pages.u64_at(WRITING_AT).load(Acquire), 0);
        }
    }

    #[test]
    fn a_life_that_is_known_not_to_be_the_first_finds_what_was_mapped() {
        let pages = SharedPages::host(FIXED_PAGES, 0);
        assert_eq!(begin(&pages, false), Ok(1));
        assert_eq!(begin(&pages, true), Ok(2));
        pages.u64_at(WRITING_AT).store(7, Release);
        pages.u64_at(MAPPED).store(0x1000, Release);
        pages.u64_at(MAGIC_AT).store(0, Release);
        assert_eq!(begin(&pages, true), Ok(2));
        assert_eq!(pages.u64_at(WRITING_AT).load(Acquire), 0);
        assert_eq!(pages.u64_at(MAPPED).load(Acquire), 0x1000);
        assert_eq!(begin(&pages, true), Ok(3));
    }

    #[test]
    fn the_kernels_own_pages_are_left_alone_and_too_little_memory_is_refused() {
        let pages = SharedPages::host(FIXED_PAGES, 0);
        let last = HEADER - size_of::<u64>();
        pages.u64_at(last).store(5, Release);
        assert_eq!(begin(&pages, false), Ok(1));
        assert_eq!(pages.u64_at(last).load(Acquire), 5);
        let small = SharedPages::host(FIXED_PAGES - 1, 0);
        assert_eq!(begin(&small, false), Err(TooSmall(FIXED_PAGES - 1)));
    }
}
