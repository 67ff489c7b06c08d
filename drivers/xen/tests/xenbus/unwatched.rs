//! xenstored does not let us watch a frontend for a while: it is served all the same, and nothing
//! that it does is missed.

use spindle_testkit::xenbus::{Bed, MS, VBD, id};

fn refuse_watch(bed: &mut Bed, errno: Option<&'static str>) {
    bed.store.fail_watches(&VBD.front("state"), errno);
}

/// A guest that is served without a watch.
fn connected(errno: &'static str) -> Bed {
    let mut bed = Bed::new();
    refuse_watch(&mut bed, Some(errno));
    bed.attach(VBD);
    bed.run(700);
    assert_eq!(VBD.back_state(&bed.store), 2);
    VBD.front_initialise(&mut bed.store);
    bed.run(4_000);
    assert_eq!(VBD.back_state(&bed.store), 4, "{errno}");
    VBD.set_front_state(&mut bed.store, 4);
    bed
}

#[test]
fn a_guest_that_cannot_be_watched_is_looked_at_now_and_then() {
    for errno in ["EBUSY", "EAGAIN", "ENOMEM"] {
        let mut bed = connected(errno);
        bed.run(120_000);
        assert_eq!(VBD.back_state(&bed.store), 4, "it is at work");
        VBD.set_front_state(&mut bed.store, 6);
        // One look to give up the connection, one to say so.
        bed.run(6_500);
        assert_eq!(VBD.back_state(&bed.store), 6, "{errno}");
        assert!(bed.kernel.connections.is_empty());
        // Once it can be watched, that is all that is needed.
        refuse_watch(&mut bed, None);
        bed.run(3_500);
        assert_eq!(bed.store.watch_count(), 4);
        assert_eq!(bed.backend.next_deadline(), None);
    }
}

#[test]
fn a_guest_at_work_is_not_given_up_for_want_of_a_watch() {
    let mut bed = connected("EAGAIN");
    bed.run(5_000);
    refuse_watch(&mut bed, Some("E2BIG"));
    bed.run(60_000);
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert_eq!(bed.kernel.connections.len(), 1);
    refuse_watch(&mut bed, None);
    bed.run(3_500);
    assert_eq!(bed.store.watch_count(), 4);
}

#[test]
fn a_device_that_has_gone_is_not_looked_at_for_want_of_a_watch() {
    let mut bed = connected("EAGAIN");
    bed.run(60_000);
    VBD.destroy(&mut bed.store);
    bed.run(60_000);
    bed.assert_clean();
    assert_eq!(bed.backend.next_deadline(), None);
}

#[test]
fn a_look_in_which_two_things_are_refused_counts_once() {
    let mut bed = Bed::new();
    refuse_watch(&mut bed, Some("EAGAIN"));
    bed.store.fail_writes(&VBD.back("sectors"), Some("EAGAIN"));
    bed.attach(VBD);
    bed.run(5_000);
    assert_eq!(bed.error(VBD), None, "it may still pass");
    assert_eq!(VBD.back_state(&bed.store), 1);
    refuse_watch(&mut bed, None);
    bed.store.fail_writes(&VBD.back("sectors"), None);
    bed.run(3_500);
    assert_eq!(VBD.back_state(&bed.store), 2);

    // Where it does not, libxl hears of it in time.
    let mut bed = Bed::new();
    refuse_watch(&mut bed, Some("EAGAIN"));
    bed.store.fail_writes(&VBD.back("sectors"), Some("EAGAIN"));
    bed.attach(VBD);
    bed.run(9_000);
    assert!(bed.error(VBD).unwrap().ends_with("for seconds"));
    assert_eq!(bed.store.read(&VBD.back_dir()), None);
    bed.run(60_000);
    bed.assert_clean();
}

#[test]
fn what_was_refused_before_all_was_well_does_not_count() {
    let mut bed = Bed::new();
    refuse_watch(&mut bed, Some("EAGAIN"));
    bed.attach(VBD);
    bed.run(5_000);
    refuse_watch(&mut bed, None);
    bed.run(3_500);
    assert_eq!(bed.store.watch_count(), 4);
    // There is nothing to be written to a guest that is not there yet. When there is, that may be
    // refused as often as ever.
    bed.store.fail_writes(&VBD.back("state"), Some("EAGAIN"));
    VBD.set_front_state(&mut bed.store, 6);
    bed.run(5_000);
    assert_eq!(bed.error(VBD), None);
    bed.store.fail_writes(&VBD.back("state"), None);
    bed.run(3_500);
    assert_eq!(VBD.back_state(&bed.store), 6);
}

/// Whatever happens while the last try is under way is news.
#[test]
fn what_a_frontend_does_while_the_last_try_is_refused_is_seen() {
    for (after, written) in (9_500..10_300).step_by(10).zip(1..) {
        let mut bed = Bed::new();
        bed.connect(VBD);
        bed.store.set_pace(20 * MS, 0);
        bed.store.fail_writes(&VBD.back("sectors"), Some("EACCES"));
        bed.backend.resized(id(VBD), 4096 + written);
        bed.run(after);
        VBD.set_front_state(&mut bed.store, 6);
        bed.run(4_000);
        assert_eq!(VBD.back_state(&bed.store), 6, "after {after} ms");
    }
}
