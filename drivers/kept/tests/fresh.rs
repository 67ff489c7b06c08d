//! What a first life clears, and what it leaves alone: exactly the pages that are said to be kept memory's.

use std::sync::atomic::Ordering::Release;

use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_kept::layout::{FIXED_PAGES, HANDLES, MAGIC_AT, STORE_PAGE};
use spindle_kept::{AtWork, JournalPlace, Kept, Records};

/// Pages of journals behind the fixed ones.
const JOURNALS: usize = 4;

/// Memory that holds what some other system has left there.
fn used() -> &'static SharedPages {
    let pages = Box::leak(Box::new(SharedPages::host(FIXED_PAGES + JOURNALS, 0)));
    pages.write_bytes(0, &vec![0xff; pages.len()]);
    pages
}

fn bytes(pages: &SharedPages, page: usize) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE];
    pages.read_bytes(page * PAGE_SIZE, &mut bytes);
    bytes
}

#[test]
fn a_first_life_clears_all_but_the_kernels_own_pages_and_the_journals() {
    let pages = used();
    assert_eq!(Kept::open(pages).unwrap().life(), 1);
    let header = MAGIC_AT / PAGE_SIZE;
    // Magic, version and lives come first.
    assert!(bytes(pages, header)[24..].iter().all(|&byte| byte == 0));
    for page in (0..header).chain(STORE_PAGE..FIXED_PAGES + JOURNALS) {
        let expected = match page {
            _ if page < header || page >= FIXED_PAGES => 0xff,
            _ => 0,
        };
        let is_expected = bytes(pages, page).iter().all(|&byte| byte == expected);
        assert!(is_expected, "page {page}");
    }
    assert_eq!(STORE_PAGE, header + 1);
}

#[test]
fn records_and_mappings_are_in_no_page_of_each_other() {
    let pages = used();
    let kept = Kept::open(pages).unwrap();
    for handle in 0..HANDLES as u32 {
        assert!(kept.mappings().note(handle, 0x1000));
    }
    let mut records: Records = kept.records();
    // Both banks, and the first one once more.
    for _ in 0..3 {
        assert_eq!(records.write([].iter()), 0);
    }
    assert_eq!(kept.mappings().mapped().count(), HANDLES);
    for handle in 0..HANDLES as u32 {
        kept.mappings().forget(handle, 0x1000);
    }
    assert_eq!(records.read().damaged, 0);
    for page in FIXED_PAGES..FIXED_PAGES + JOURNALS {
        assert!(bytes(pages, page).iter().all(|&byte| byte == 0xff));
    }
}

#[test]
fn a_journal_is_a_run_of_pages_behind_the_fixed_ones() {
    let pages = used();
    let kept = Kept::open(pages).unwrap();
    let place = |first, pages| JournalPlace { first, pages };
    let journal = kept.journal(place(1, 2)).unwrap();
    assert_eq!(journal.len(), 2 * PAGE_SIZE);
    journal.u64_at(0).store(7, Release);
    journal.u64_at(2 * PAGE_SIZE - 8).store(8, Release);
    let word = |at: usize| pages.u64_at(at).load(std::sync::atomic::Ordering::Acquire);
    let start = (FIXED_PAGES + 1) * PAGE_SIZE;
    assert_eq!((word(start), word(start + 2 * PAGE_SIZE - 8)), (7, 8));
    let all = u32::try_from(JOURNALS).unwrap();
    assert!(kept.journal(place(0, all)).is_some());
    for beyond in [place(0, all + 1), place(all, 1), place(u32::MAX, 1)] {
        assert!(kept.journal(beyond).is_none(), "{beyond:?}");
    }
}

#[test]
fn of_more_pages_than_one_the_first_has_the_cores() {
    let pages = SharedPages::host(2, 0);
    let core = AtWork::at(pages.alias(), 63).unwrap();
    core.begin(3);
    assert_eq!(AtWork::read(&pages, 63), Some(3));
    let page = SharedPages::host(1, 0);
    assert_eq!(AtWork::read(&page, 64), None, "no core's");
}
