//! How long things take when dom0 is busy: each answer of xenstored takes half a second, and libxl
//! gives up after ten.

use spindle_testkit::xenbus::{BE, Bed, MS, OFFER, VBD, id};
use spindle_testkit::xenstored::Vbd;
use spindle_xen::xenbus::FormerConnection;

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
#[cfg_attr(miri, ignore = "too many devices to interpret")]
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
        assert!(gone.expect("in a minute") <= 2_000, "{gone:?}");
    }
}

/// A guest whose devices write their states all the time, any of them.
struct Toggler {
    vbds: Vec<Vbd>,
    round: u32,
}

impl Toggler {
    fn new(bed: &mut Bed, guest: u16, devices: u32) -> Self {
        let vbds = (0..devices).map(|n| Vbd {
            frontend: guest,
            device: 51712 + 16 * n,
            ..VBD
        });
        let vbds: Vec<Vbd> = vbds.collect();
        for vbd in &vbds {
            bed.attach(*vbd);
            bed.run(1_000);
            vbd.front_initialise(&mut bed.store);
        }
        Self { vbds, round: 0 }
    }

    /// Every device writes its state once.
    fn toggle(&mut self, bed: &mut Bed) {
        for (n, vbd) in self.vbds.iter().enumerate() {
            self.round += 1;
            let states = [3, 4, 6, 1, 5];
            let state = states[(self.round as usize / 3 + n) % states.len()];
            vbd.set_front_state(&mut bed.store, state);
        }
    }
}

/// Lets `toggler` toggle every `every` ms until `vbd`'s backend is in `state`; gives the ms that
/// took.
fn beside(bed: &mut Bed, toggler: &mut Toggler, every: u64, vbd: Vbd, state: u32) -> u64 {
    let start = bed.now;
    while vbd.back_state(&bed.store) != state {
        assert!(bed.now < start + 60_000 * MS, "not in a minute");
        bed.run_until(every, |bed| vbd.back_state(&bed.store) == state);
        toggler.toggle(bed);
    }
    (bed.now - start) / MS
}

#[test]
#[cfg_attr(miri, ignore = "too many devices to interpret")]
fn a_guest_that_toggles_its_states_does_not_slow_down_another() {
    // In ms: the way to xenstored and back, its work for a request, and how long a toggle takes.
    for (latency, cost, every) in [(20, 0, 20), (0, 2, 20), (500, 0, 100)] {
        let mut times = [[0; 2]; 2];
        for (devices, [attach, connect]) in [0, 16].into_iter().zip(&mut times) {
            let mut bed = busy();
            bed.store.set_pace(latency * MS, cost * MS);
            let mut toggler = Toggler::new(&mut bed, 100, devices);
            let pause = |bed: &mut Bed, toggler: &mut Toggler, ms: u64| {
                for _ in 0..ms / every {
                    toggler.toggle(bed);
                    bed.run(every);
                }
            };
            // It has long had more than its share.
            pause(&mut bed, &mut toggler, 20_000);
            for guest in 1..=4 {
                pause(&mut bed, &mut toggler, 1_000);
                let vbd = Vbd {
                    frontend: guest,
                    ..VBD
                };
                bed.attach(vbd);
                let took = beside(&mut bed, &mut toggler, every, vbd, 2);
                *attach = took.max(*attach);
                pause(&mut bed, &mut toggler, 2_000);
                vbd.front_initialise(&mut bed.store);
                let took = beside(&mut bed, &mut toggler, every, vbd, 4);
                *connect = took.max(*connect);
            }
        }
        let [alone, beside] = times;
        println!("latency {latency}, cost {cost}: {alone:?} ms alone, {beside:?} beside a toggler");
        assert!(
            beside[0] <= 2 * alone[0].max(1),
            "{beside:?}, {alone:?} alone"
        );
        // What takes no priority waits for the one look that the other has under way.
        assert!(
            beside[1] <= 3 * alone[1].max(1),
            "{beside:?}, {alone:?} alone"
        );
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many devices to interpret")]
fn guests_take_turns_not_their_devices() {
    let mut bed = busy();
    bed.store.set_pace(100 * MS, 0);
    let mut togglers: Vec<Toggler> = (100..108)
        .map(|guest| Toggler::new(&mut bed, guest, 7))
        .collect();
    bed.attach(VBD);
    bed.run(60_000);
    // All of them have much to do at once, as when a host's guests boot.
    let mut toggle = |bed: &mut Bed| {
        togglers.iter_mut().for_each(|toggler| toggler.toggle(bed));
        bed.run(50);
    };
    for _ in 0..10 {
        toggle(&mut bed);
    }
    VBD.front_initialise(&mut bed.store);
    let start = bed.now;
    while VBD.back_state(&bed.store) != 4 {
        assert!(bed.now < start + 60_000 * MS, "not in a minute");
        toggle(&mut bed);
    }
    let took = (bed.now - start) / MS;
    println!("{took} ms");
    assert!(took <= 2_500, "{took} ms");
}

/// The kernel starts again with these connected, and xenstored takes so long for each request.
fn restarted(vbds: &[Vbd], cost: u64) -> Bed {
    let mut bed = Bed::new();
    vbds.iter().for_each(|vbd| bed.connect(*vbd));
    let former = vbds.iter().map(|vbd| {
        let layout = bed.kernel.connections[&id(*vbd)].layout.clone();
        let sectors = 2048;
        (id(*vbd), Ok(FormerConnection { layout, sectors }))
    });
    let former = former.collect();
    bed.store.set_pace(ROUND_TRIP * MS, cost);
    bed.restart(OFFER, former);
    bed
}

#[test]
fn former_connections_are_taken_up_before_anything_else_is_asked() {
    let mut bed = restarted(&[VBD], 10 * MS);
    for n in 0..100 {
        bed.backend
            .publish(format!("data/spindle/stat/{n}"), "x".repeat(200));
    }
    let took = bed.run_until(60_000, |bed| bed.kernel.connects == 1);
    // The watch, the state, five keys and the start of the transaction; a ring and nine keys of the
    // backend.
    let requests = 8 + 3 + 9;
    assert_eq!(took, Some(2 * ROUND_TRIP + 10 * requests));
}

#[test]
fn former_connections_are_taken_up_within_two_round_trips() {
    let vbds = [VBD, Vbd { frontend: 7, ..VBD }, Vbd { frontend: 9, ..VBD }];
    let mut bed = restarted(&vbds, 0);
    let took = bed.run_until(60_000, |bed| bed.kernel.connects == vbds.len());
    assert_eq!(took, Some(2 * ROUND_TRIP));
    // Others are found as ever, and nothing is written for these.
    let new = Vbd {
        frontend: 11,
        ..VBD
    };
    bed.attach(new);
    bed.run(10_000);
    assert_eq!(new.back_state(&bed.store), 2);
    assert!(vbds.iter().all(|vbd| vbd.back_state(&bed.store) == 4));
    assert!(bed.kernel.connections.values().all(|it| it.former));
}
