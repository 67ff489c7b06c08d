//! The kernel has started again in its domain: which connections it takes up by what is in xenstore, and
//! how those end that it cannot.

use spindle_testkit::xenbus::{Bed, OFFER, VBD, id};
use spindle_xen::Errno;
use spindle_xen::xenbus::{FormerConnection, Offer, Refusal, RingLayout};

/// A guest that is connected, and its rings.
fn connected() -> (Bed, RingLayout) {
    let mut bed = Bed::new();
    bed.connect(VBD);
    let layout = bed.kernel.connections[&id(VBD)].layout.clone();
    (bed, layout)
}

fn known(layout: RingLayout) -> FormerConnection {
    let sectors = 2048;
    FormerConnection { layout, sectors }
}

/// All that the backend has in its directory, and how often it has written the state.
fn shown(bed: &Bed) -> (Vec<Option<String>>, usize) {
    let dir = VBD.back_dir();
    let leaves = bed.store.children(&dir).into_iter();
    let all = leaves.map(|leaf| bed.store.text(&format!("{dir}/{leaf}")).map(String::from));
    (all.collect(), bed.store.writes(&format!("{dir}/state")))
}

/// It has no connection, and its frontend is closed with this reason; it may connect anew.
fn ended(bed: &mut Bed, text: &str) {
    bed.run(5_000);
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert_eq!(bed.kernel.connects, 0);
    let error = bed.error(VBD).unwrap_or_default();
    assert!(error.contains(text), "{error}");
    VBD.set_front_state(&mut bed.store, 6);
    bed.run(100);
    VBD.set_front_state(&mut bed.store, 1);
    bed.run(600);
    VBD.front_initialise(&mut bed.store);
    bed.run(100);
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert!(!bed.kernel.connections[&id(VBD)].former);
}

#[test]
fn a_connection_that_is_as_it_was_is_taken_up_without_a_word() {
    let (mut bed, layout) = connected();
    let before = shown(&bed);
    bed.restart(OFFER, vec![(id(VBD), Ok(known(layout.clone())))]);
    bed.run(10_000);
    let connection = &bed.kernel.connections[&id(VBD)];
    assert!(connection.former && connection.layout == layout);
    assert_eq!(shown(&bed), before);
    assert_eq!(bed.error(VBD), None);
    VBD.detach(&mut bed.store);
    bed.run(100);
    assert_eq!(VBD.back_state(&bed.store), 5);
    VBD.set_front_state(&mut bed.store, 6);
    bed.run(2_000);
    bed.assert_clean();
}

#[test]
fn who_has_more_rings_than_are_offered_by_now_keeps_them() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.run(600);
    for (leaf, value) in [
        ("multi-queue-num-queues", "2"),
        ("ring-page-order", "1"),
        ("queue-0/event-channel", "7"),
        ("queue-0/ring-ref0", "10"),
        ("queue-0/ring-ref1", "11"),
        ("queue-1/event-channel", "8"),
        ("queue-1/ring-ref0", "12"),
        ("queue-1/ring-ref1", "13"),
    ] {
        bed.store.write(&VBD.front(leaf), value);
    }
    VBD.set_front_state(&mut bed.store, 3);
    bed.run(600);
    VBD.set_front_state(&mut bed.store, 4);
    bed.run(100);
    let layout = bed.kernel.connections[&id(VBD)].layout.clone();
    assert_eq!(layout.queues.len(), 2);
    let offer = Offer {
        max_queues: 1,
        max_ring_page_order: 0,
        ..OFFER
    };
    bed.restart(offer, vec![(id(VBD), Ok(known(layout.clone())))]);
    bed.run(1_000);
    assert_eq!(bed.kernel.connections[&id(VBD)].layout, layout);
    assert_eq!(bed.error(VBD), None);
}

#[test]
fn a_size_that_is_another_one_by_now_is_shown() {
    let (mut bed, layout) = connected();
    let former = FormerConnection {
        sectors: 1024,
        ..known(layout)
    };
    let (_, writes) = shown(&bed);
    bed.restart(OFFER, vec![(id(VBD), Ok(former))]);
    bed.run(1_000);
    assert_eq!(bed.store.text(&VBD.back("sectors")), Some("2048"));
    assert_eq!(shown(&bed).1, writes + 1);
    assert_eq!(VBD.back_state(&bed.store), 4);
}

#[test]
fn one_that_is_closing_is_taken_up_so_that_its_requests_are_answered() {
    for detached in [false, true] {
        let (mut bed, layout) = connected();
        if detached {
            VBD.detach(&mut bed.store);
            bed.run(100);
        }
        VBD.set_front_state(&mut bed.store, 5);
        bed.restart(OFFER, vec![(id(VBD), Ok(known(layout)))]);
        bed.run(1_000);
        assert!(bed.kernel.connections[&id(VBD)].former);
        assert_eq!(VBD.back_state(&bed.store), 5);
        VBD.set_front_state(&mut bed.store, 6);
        bed.run(1_000);
        assert!(bed.kernel.connections.is_empty());
    }
}

#[test]
fn rings_that_are_initialised_anew_are_connected_anew() {
    for known in [true, false] {
        let (mut bed, layout) = connected();
        VBD.set_front_state(&mut bed.store, 3);
        let former = known.then(|| (id(VBD), Ok(self::known(layout))));
        let (_, writes) = shown(&bed);
        bed.restart(OFFER, former.into_iter().collect());
        bed.run(1_000);
        assert!(!bed.kernel.connections[&id(VBD)].former);
        assert_eq!(VBD.back_state(&bed.store), 4);
        assert!(shown(&bed).1 > writes, "its frontend waits for that");
        assert_eq!(bed.error(VBD), None);
    }
}

#[test]
fn other_rings_than_were_known_end_the_connection() {
    let (mut bed, mut layout) = connected();
    layout.queues[0].event_channel += 1;
    bed.restart(OFFER, vec![(id(VBD), Ok(known(layout)))]);
    ended(&mut bed, "other rings");
}

#[test]
fn what_is_not_known_or_left_out_ends_also_if_its_frontend_closes_itself() {
    for state in [4, 5] {
        for reason in [None, Some("poison")] {
            let (mut bed, _) = connected();
            VBD.set_front_state(&mut bed.store, state);
            let refusal = |text| (id(VBD), Err(Refusal::new(Errno::EIO, text)));
            bed.restart(OFFER, reason.map(refusal).into_iter().collect());
            ended(&mut bed, reason.unwrap_or("no record"));
        }
    }
}

#[test]
fn a_disk_that_is_refused_ends_the_connection() {
    let (mut bed, layout) = connected();
    bed.store.write(&VBD.back("params"), "another");
    bed.restart(OFFER, vec![(id(VBD), Ok(known(layout)))]);
    bed.run(5_000);
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert_eq!(bed.error(VBD), Some("2 no such target"));
}

#[test]
fn who_has_closed_or_gone_meanwhile_is_cleaned_up_after() {
    let (mut bed, layout) = connected();
    VBD.set_front_state(&mut bed.store, 6);
    bed.restart(OFFER, vec![(id(VBD), Ok(known(layout.clone())))]);
    bed.run(1_000);
    assert_eq!(VBD.back_state(&bed.store), 6);
    assert_eq!((bed.kernel.connects, bed.error(VBD)), (0, None));
    VBD.destroy(&mut bed.store);
    bed.restart(OFFER, vec![(id(VBD), Ok(known(layout)))]);
    bed.run(2_000);
    bed.assert_clean();
}

#[test]
fn one_that_was_half_attached_goes_on_from_what_is_there() {
    let mut bed = Bed::new();
    bed.attach(VBD);
    bed.run(600);
    bed.restart(OFFER, Vec::new());
    bed.run(600);
    assert_eq!(VBD.back_state(&bed.store), 2);
    VBD.front_initialise(&mut bed.store);
    bed.restart(OFFER, Vec::new());
    bed.run(600);
    assert_eq!(VBD.back_state(&bed.store), 4);
    assert_eq!(bed.error(VBD), None);
}
