//! What lies where in kept memory, and how its life begins.
//!
//! | pages | what is there |
//! | --- | --- |
//! | 1 | the header: magic, version of the layout, lives, which records count |
//! | 1 | the death note (`death`) |
//! | 1 | which ring each core is at work on |
//! | 2 | where the byte streams to and from xenstored stand |
//! | 64 | grants that a vCPU is mapping, a page for each ([`Mappings`](crate::Mappings)) |
//! | 128 | where each grant handle is mapped |
//! | 2 x 32 | the records, written by turns ([`Records`](crate::Records)) |
//! | the rest | journals of rings, each a run of whole pages |
//!
//! Memory without the magic has never been used, or holds nothing that can be believed: the life
//! that finds it so is the first one.

use core::sync::atomic::Ordering::{Acquire, Release};

use spindle_hw::{PAGE_SIZE, SharedPages};

/// "Spindle!" in ASCII, read as a little-endian number.
const MAGIC: u64 = u64::from_le_bytes(*b"Spindle!");
/// Version of this layout. Memory of another one is not used.
const VERSION: u64 = 1;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 8;
const LIVES_AT: usize = 16;
/// Which writing of the records counts; its bank is the lowest bit.
pub(crate) const WRITING_AT: usize = 24;

/// Where the death note is, in bytes. It has a page.
pub const DEATH_NOTE: usize = PAGE_SIZE;
/// Where cores say which ring they are at work on, in bytes. It has a page.
pub const WORK: usize = 2 * PAGE_SIZE;
/// The first of the pages for the streams to and from xenstored.
pub const STORE_PAGE: usize = 3;
/// How many these are.
pub const STORE_PAGES: usize = 2;
/// vCPUs that can map grants.
pub const CALLERS: usize = 64;
/// Where the grants are that vCPUs are mapping, a page for each vCPU.
pub(crate) const CALLS: usize = (STORE_PAGE + STORE_PAGES) * PAGE_SIZE;
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
/// read. Then all but the death note and the rings at work is cleared.
///
/// With `again` it is known that there was a life before, and the number is 2 at least. Records are
/// not read then if the header cannot be; the table of mappings is, since Xen undoes none of its
/// entries that is wrong.
///
/// # Errors
/// [`TooSmall`].
pub fn begin(pages: &SharedPages, again: bool) -> Result<u64, TooSmall> {
    if pages.len() < JOURNALS {
        return Err(TooSmall(pages.len() / PAGE_SIZE));
    }
    let word = |at| pages.u64_at(at);
    let known = word(MAGIC_AT).load(Acquire) == MAGIC && word(VERSION_AT).load(Acquire) == VERSION;
    let counted = if known {
        word(LIVES_AT).load(Acquire)
    } else {
        0
    };
    let lives = counted.max(u64::from(again));
    if counted == 0 {
        // The magic goes first and comes last, so that a death in between leaves no half.
        word(MAGIC_AT).store(0, Release);
        pages.zero(WRITING_AT, PAGE_SIZE - WRITING_AT);
        if lives == 0 {
            pages.zero(STORE_PAGE * PAGE_SIZE, JOURNALS - STORE_PAGE * PAGE_SIZE);
        }
        word(VERSION_AT).store(VERSION, Release);
    }
    let life = lives.saturating_add(1);
    word(LIVES_AT).store(life, Release);
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
    fn the_death_note_is_left_alone_and_too_little_memory_is_refused() {
        let pages = SharedPages::host(FIXED_PAGES, 0);
        pages.u64_at(DEATH_NOTE).store(5, Release);
        assert_eq!(begin(&pages, false), Ok(1));
        assert_eq!(pages.u64_at(DEATH_NOTE).load(Acquire), 5);
        let small = SharedPages::host(FIXED_PAGES - 1, 0);
        assert_eq!(begin(&small, false), Err(TooSmall(FIXED_PAGES - 1)));
    }
}
