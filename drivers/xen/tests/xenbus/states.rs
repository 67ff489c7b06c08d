//! The order of the backend's states: a frontend may wait for any of them.

use spindle_testkit::frontends::{Frontend, LINUX_4};
use spindle_testkit::xenbus::{Bed, VBD, id};
use spindle_xen::Errno;
use spindle_xen::xenbus::Refusal;

/// A disk that is connected to a Linux guest.
fn connected() -> Bed {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.settle();
    let mut front = Frontend::boot(&LINUX_4, VBD, 8);
    for _ in 0..200 {
        front.step(&mut bed.store, bed.now);
        bed.run(50);
    }
    assert_eq!(VBD.back_state(&bed.store), 4, "connected");
    bed
}

/// The states that the backend shows, one after the other, within 200 ms.
fn shown(bed: &mut Bed) -> Vec<u32> {
    let mut states = vec![VBD.back_state(&bed.store)];
    for _ in 0..2_000 {
        bed.breathe(1);
        bed.now += 100_000;
        let state = VBD.back_state(&bed.store);
        if states.last() != Some(&state) {
            states.push(state);
        }
    }
    states
}

/// Linux' frontend reads what is offered, and asks for its rings, in `InitWait` (xenbus.h: 2) only.
#[test]
fn from_closed_it_goes_on_to_init_wait_whatever_the_frontend_is_ahead_of() {
    let mut bed = connected();
    for state in [5, 6] {
        VBD.set_front_state(&mut bed.store, state);
        bed.run(1_000);
    }
    assert_eq!(VBD.back_state(&bed.store), 6, "closed");
    // One that has left its keys as they were, and goes on at once.
    VBD.set_front_state(&mut bed.store, 3);
    assert_eq!(shown(&mut bed)[..2], [6, 2]);
}

/// As Linux' blkfront takes it (`blkback_changed`): the size is looked at when the state is written.
#[test]
fn a_disk_that_is_lost_has_no_sectors_and_says_why() {
    let mut bed = connected();
    assert_ne!(bed.store.text(&VBD.back("sectors")), Some("0"));
    bed.backend
        .emptied(id(VBD), &Refusal::new(Errno::EIO, "the disk is gone"));
    bed.settle();
    assert_eq!(bed.store.text(&VBD.back("sectors")), Some("0"));
    assert_eq!(VBD.back_state(&bed.store), 4, "it stays connected");
    let why = bed.error(VBD).unwrap_or_default();
    assert!(why.contains("the disk is gone"), "{why}");
}
