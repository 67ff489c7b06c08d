//! What an attach and a detach cost xenstored beside many devices: requests, whatever the number.

use spindle_testkit::xenbus::{Bed, VBD};
use spindle_testkit::xenstored::Vbd;

fn nth(n: u16) -> Vbd {
    Vbd {
        frontend: n + 1,
        ..VBD
    }
}

/// A bed without quotas in the way.
fn wide() -> Bed {
    let mut bed = Bed::new();
    bed.settle();
    bed.store.set_quota(1_000_000);
    bed.store.set_watch_quota(10_000);
    bed
}

/// Requests of attaching and connecting this one.
fn attach(bed: &mut Bed, vbd: Vbd) -> usize {
    let before = bed.store.requests();
    bed.attach(vbd);
    bed.run(600);
    vbd.front_initialise(&mut bed.store);
    bed.settle();
    assert_eq!(vbd.back_state(&bed.store), 4, "{vbd:?}");
    vbd.set_front_state(&mut bed.store, 4);
    bed.settle();
    bed.store.requests() - before
}

/// Requests of detaching this one.
fn detach(bed: &mut Bed, vbd: Vbd) -> usize {
    let before = bed.store.requests();
    vbd.detach(&mut bed.store);
    bed.settle();
    vbd.set_front_state(&mut bed.store, 6);
    bed.run(2_000);
    assert!(bed.store.read(&vbd.back_dir()).is_none(), "{vbd:?}");
    bed.store.requests() - before
}

#[test]
#[cfg_attr(miri, ignore = "too many devices to interpret")]
fn an_attach_and_a_detach_cost_the_same_however_many_devices_there_are() {
    let mut bed = wide();
    // The first one makes the directories.
    attach(&mut bed, nth(0));
    let first = attach(&mut bed, nth(1));
    let alone = detach(&mut bed, nth(1));
    for n in 1..64 {
        let took = attach(&mut bed, nth(n));
        assert!(
            took <= first,
            "{took} for device {n}, {first} for the first"
        );
    }
    for n in [1, 32, 63] {
        let took = detach(&mut bed, nth(n));
        assert!(took <= alone + alone / 10, "{took}, {alone} for the first");
    }
    println!("attach {first}, detach {alone} requests");
}
