//! The clock's structure in shared memory, while Xen changes it.

use std::sync::atomic::Ordering::Relaxed;

use spindle_hw::SharedPages;
use spindle_xen::clock::TimeInfo;

const AT: usize = 32;

fn page(version: u32) -> SharedPages {
    let page = SharedPages::host(1, 0);
    page.u32_at(AT).store(version, Relaxed);
    page.u64_at(AT + 8).store(1000, Relaxed);
    page.u64_at(AT + 16).store(7, Relaxed);
    // Half a nanosecond per tick after a shift by -1.
    page.u64_at(AT + 24).store(0xff << 32 | 1 << 31, Relaxed);
    page
}

#[test]
fn a_settled_structure_gives_the_time() {
    assert_eq!(TimeInfo::now_ns(&page(4), AT, || 1040), Some(17));
}

#[test]
fn a_structure_that_is_being_written_gives_none() {
    assert_eq!(TimeInfo::now_ns(&page(5), AT, || 1040), None);
    let changing = page(4);
    let xen = || {
        changing.u32_at(AT).store(6, Relaxed);
        1040
    };
    assert_eq!(TimeInfo::now_ns(&changing, AT, xen), None);
}
