//! What people are shown of how a life ended.

use std::collections::BTreeSet;

use spindle_hw::SharedPages;
use spindle_kept::Kept;
use spindle_kept::death::{Death, DeathCause};
use spindle_kept::layout::FIXED_PAGES;

/// The numbers are those of the records, which kernels of other versions read.
#[test]
fn each_cause_has_a_name_of_its_own_and_a_later_one_is_not_taken_for_another() {
    let causes = [
        (DeathCause::PANIC, 1, "panic"),
        (DeathCause::EXCEPTION, 2, "exception"),
        (DeathCause::NMI, 3, "NMI"),
        (DeathCause::HANG, 4, "hang"),
        (DeathCause::UPDATE, 5, "update"),
        (DeathCause(77), 77, "unknown cause"),
    ];
    for (cause, number, name) in causes {
        assert_eq!((cause.0, cause.to_string().as_str()), (number, name));
    }
    let names: BTreeSet<_> = causes.iter().map(|(cause, ..)| cause.to_string()).collect();
    assert_eq!(names.len(), causes.len());
}

/// A page has room for a few records: where that of the last life would be, an older one may be left.
#[test]
fn a_life_that_ended_without_a_word_is_not_shown_with_the_end_of_an_older_one() {
    let pages: &SharedPages = Box::leak(Box::new(SharedPages::host(FIXED_PAGES, 0)));
    let death = |life: u64| Death {
        cause: DeathCause::PANIC,
        core: 0,
        uptime_ns: 1,
        at_ns: life,
        ring: 0,
        message: heapless::String::new(),
        trace: heapless::Vec::new(),
    };
    for life in 1..=40 {
        let kept = if life == 1 {
            Kept::open(pages)
        } else {
            Kept::open_again(pages)
        };
        let lives = kept.unwrap().lives();
        // Every ninth says nothing.
        let before = !(life - 1_u64).is_multiple_of(9);
        let expected = (life > 1 && before).then(|| death(life - 1));
        assert_eq!(lives.last(), expected, "life {life}");
        if !life.is_multiple_of(9) {
            lives.end(&death(life));
        }
    }
}
