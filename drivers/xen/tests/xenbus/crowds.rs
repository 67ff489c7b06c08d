//! More devices than there are places, and frontends that are not there or say the same once more.

use spindle_testkit::xenbus::{Bed, VBD};
use spindle_testkit::xenstored::Vbd;

fn nth(frontend: u16, number: u32) -> Vbd {
    Vbd {
        frontend,
        device: 51712 + 16 * number,
        ..VBD
    }
}

fn is_served(bed: &Bed, vbd: Vbd) -> bool {
    vbd.back_state(&bed.store) == 2
}

/// A bed with room in xenstore for all of them.
fn wide() -> Bed {
    let mut bed = Bed::new();
    bed.store.set_quota(1_000_000);
    bed.store.set_watch_quota(1_000);
    bed
}

/// The oldest of those who wait may be of a guest that has its share: the place is for another one's.
#[test]
fn a_place_goes_to_who_may_have_it_and_not_to_who_has_waited_longest() {
    let mut bed = wide();
    let attach = |bed: &mut Bed, vbd: Vbd| {
        bed.attach(vbd);
        bed.settle();
    };
    (0..33).for_each(|number| attach(&mut bed, nth(7, number)));
    (0..32).for_each(|number| attach(&mut bed, nth(8, number)));
    attach(&mut bed, nth(9, 0));
    let waiting = [nth(7, 32), nth(9, 0)];
    assert_eq!(waiting.map(|vbd| is_served(&bed, vbd)), [false, false]);
    nth(8, 3).destroy(&mut bed.store);
    bed.run(2_000);
    assert_eq!(waiting.map(|vbd| is_served(&bed, vbd)), [false, true]);
    let why = bed.error(nth(7, 32)).expect("a reason");
    assert!(why.contains("of this guest"), "{why}");
    // Its own guest's place is for it.
    nth(7, 0).destroy(&mut bed.store);
    bed.run(2_000);
    assert!(is_served(&bed, nth(7, 32)));
}

#[test]
fn a_device_whose_frontend_is_not_there_waits_for_it() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.store.remove(&VBD.front("state"));
    bed.run(600);
    assert!(is_served(&bed, VBD));
    bed.store.write(&VBD.back("feature-of-others"), "1");
    bed.run(5_000);
    assert!(is_served(&bed, VBD), "it has closed nothing");
    VBD.front_initialise(&mut bed.store);
    bed.run(100);
    assert_eq!(VBD.back_state(&bed.store), 4);
}

/// One whose rings were refused mends them and says that they are there, as it did before.
#[test]
fn a_frontend_that_was_refused_may_say_the_same_with_other_rings() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.run(600);
    VBD.front_initialise(&mut bed.store);
    bed.store.write(&VBD.front("ring-ref"), "no number");
    bed.run(2_000);
    assert_eq!(VBD.back_state(&bed.store), 6);
    let connects = bed.kernel.connects;
    // The same once more is no news.
    bed.store.write(&VBD.back("online"), "1");
    bed.run(2_000);
    assert_eq!(bed.kernel.connects, connects);
    VBD.front_initialise(&mut bed.store);
    bed.run(2_000);
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert_eq!(bed.kernel.connects, connects + 1);
}
