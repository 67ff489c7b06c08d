//! What people are shown of how a life ended.

use std::collections::BTreeSet;

use spindle_kept::death::DeathCause;

/// The numbers are those of the records, which kernels of other versions read.
#[test]
fn each_cause_has_a_name_of_its_own_and_a_later_one_is_not_taken_for_another() {
    let causes = [
        (DeathCause::PANIC, 1, "panic"),
        (DeathCause::EXCEPTION, 2, "exception"),
        (DeathCause::NMI, 3, "NMI"),
        (DeathCause::HANG, 4, "hang"),
        (DeathCause(77), 77, "unknown cause"),
    ];
    for (cause, number, name) in causes {
        assert_eq!((cause.0, cause.to_string().as_str()), (number, name));
    }
    let names: BTreeSet<_> = causes.iter().map(|(cause, ..)| cause.to_string()).collect();
    assert_eq!(names.len(), causes.len());
}
