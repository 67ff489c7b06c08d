//! Where a core says which ring it is serving, as the next life looks for it.

use std::sync::atomic::Ordering::Acquire;

use spindle_hw::{PAGE_SIZE, SharedPages};
use spindle_kept::layout::{FIXED_PAGES, WORK_PAGE};
use spindle_kept::{AtWork, Kept};

#[test]
fn the_ring_at_work_is_noted_in_its_page_and_survives_the_next_start() {
    let pages: &SharedPages = Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0)));
    let kept = Kept::open(pages).unwrap();
    let core = AtWork::at(kept.work(), 2).unwrap();
    core.begin(700);
    // A cache line for each core, from the page's start on.
    assert_eq!(
        pages.u64_at(WORK_PAGE * PAGE_SIZE + 2 * 64).load(Acquire),
        701
    );
    let next = Kept::open(pages).unwrap();
    assert_eq!((kept.life(), next.life()), (1, 2));
    let cores = [1, 2, 3].map(|core| AtWork::read(&next.work(), core));
    assert_eq!(cores, [None, Some(700), None]);
}
