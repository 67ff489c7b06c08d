//! How long things take when dom0 is busy: each answer of xenstored takes half a second, and libxl
//! gives up after ten.

use crate::bed::{BE, Bed, MS, VBD};
use spindle_testkit::xenstored::Vbd;

const ROUND_TRIP: u64 = 500;

/// The bed on a machine whose xenstored takes that long, set up, without any device.
fn busy() -> Bed {
    let mut bed = Bed::new();
    bed.settle();
    bed.store.set_quota(10_000);
    bed.store.set_pace(ROUND_TRIP * MS, 0);
    bed
}

/// A disk of its own guest, or one of the four of a guest.
fn vbd(n: u16) -> Vbd {
    let (frontend, device) = if n.is_multiple_of(2) {
        (n + 1, 0)
    } else {
        (1000 + n / 8, n / 2 % 4)
    };
    Vbd {
        frontend,
        device: 51712 + 16 * u32::from(device),
        ..VBD
    }
}

/// Round trips between the watch event and the answer to the commit that brought the backend to
/// `state`, which the store shows one earlier.
fn round_trips(bed: &mut Bed, vbd: Vbd, state: u32) -> u64 {
    let arrives = ROUND_TRIP;
    let took = bed.run_until(60_000, |bed| vbd.back_state(&bed.store) == state);
    let took = took.expect("in a minute") - arrives;
    assert!(took.is_multiple_of(ROUND_TRIP), "{took}");
    took / ROUND_TRIP + 1
}

#[test]
fn an_attach_takes_four_round_trips_however_many_devices_there_are() {
    let mut bed = busy();
    for n in 0..60 {
        let vbd = vbd(n);
        bed.attach(vbd);
        let took = round_trips(&mut bed, vbd, 2);
        assert!(took <= 4, "{took} for device {n}");
        // What is connected is no burden either.
        if n % 3 == 0 {
            bed.run(2_500);
            vbd.front_initialise(&mut bed.store);
            let took = round_trips(&mut bed, vbd, 4);
            assert!(took <= 5, "{took} until device {n} was connected");
        }
        // Sometimes the next one comes while the store is still talking of this one.
        if n % 5 == 0 {
            bed.run(5_000);
        }
    }
}

#[test]
fn many_disks_of_one_guest_are_attached_at_once_before_libxl_gives_up() {
    let mut bed = busy();
    let vbds = (0..24).map(|n| Vbd {
        device: 51712 + 16 * n,
        ..VBD
    });
    let vbds: Vec<Vbd> = vbds.collect();
    vbds.iter().for_each(|vbd| bed.attach(*vbd));
    let all = |bed: &Bed| vbds.iter().all(|vbd| vbd.back_state(&bed.store) == 2);
    let took = bed.run_until(60_000, all).expect("in a minute");
    assert!(took <= 8_000, "{took} ms");
}

#[test]
fn an_attach_does_not_wait_for_what_is_published() {
    let mut bed = busy();
    // xenstored handles twenty requests in a second.
    bed.store.set_pace(100 * MS, 50 * MS);
    bed.attach(VBD);
    let alone = bed.run_until(60_000, |bed| VBD.back_state(&bed.store) == 2);
    let alone = alone.expect("in a minute");
    bed.run(10_000);
    for n in 0..400 {
        bed.backend
            .publish(format!("data/spindle/stat/{n}"), "x".repeat(200));
    }
    // Refusals are published too.
    for frontend in 100..110 {
        Vbd { frontend, ..VBD }.attach(&mut bed.store, "nope", "w");
    }
    bed.run(20_000);
    let second = Vbd { frontend: 7, ..VBD };
    bed.attach(second);
    let took = bed.run_until(60_000, |bed| second.back_state(&bed.store) == 2);
    let took = took.expect("in a minute");
    let last = format!("/local/domain/{BE}/data/spindle/stat/399");
    assert!(
        bed.store.text(&last).is_none(),
        "publishing is over already"
    );
    assert!(took <= 2 * alone, "{took} ms, and {alone} ms alone");
    // And yet all is published in time.
    bed.run(60_000);
    assert!(bed.store.text(&last).is_some());
}

#[test]
fn a_disk_is_removed_well_before_libxl_gives_up() {
    for connected in [false, true] {
        let mut bed = busy();
        bed.attach(VBD);
        bed.run(5_000);
        if connected {
            VBD.front_initialise(&mut bed.store);
            bed.run(5_000);
            assert_eq!(VBD.back_state(&bed.store), 4);
        }
        VBD.destroy(&mut bed.store);
        let closed = round_trips(&mut bed, VBD, 6);
        assert!(closed <= 5, "{closed}");
        let gone = bed.run_until(60_000, |bed| bed.store.read(&VBD.back_dir()).is_none());
        assert!(gone.expect("in a minute") <= 3_500, "{gone:?}");
    }
}
