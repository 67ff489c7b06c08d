//! Toolstack, frontend, kernel and time in any order: the books that the test kernel keeps must
//! always add up, and a device that was asked to go must go.

use proptest::prelude::*;
use spindle_testkit::xenbus::{Bed, VBD, id};

#[derive(Clone, Debug)]
enum Move {
    Attach,
    WrongTarget,
    Detach,
    Destroy,
    RemoveBackend,
    Rings,
    State(u32),
    BackState(u32),
    Slow(bool),
    Conflicts(usize),
    RingRef(Vec<u8>),
    /// Other rings under a connection, as after a suspend.
    Resume(u8),
    Resized(u64),
    /// Nodes that may be added to those there are.
    Room(usize),
    Watches(usize),
    Refuse(Option<&'static str>),
    /// Some steps of the daemon only, so that moves meet half-done work.
    Breathe(usize),
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        2 => Just(Move::Attach),
        1 => Just(Move::WrongTarget),
        1 => Just(Move::Detach),
        1 => Just(Move::Destroy),
        1 => Just(Move::RemoveBackend),
        3 => Just(Move::Rings),
        5 => (0u32..8).prop_map(Move::State),
        1 => (0u32..8).prop_map(Move::BackState),
        2 => any::<bool>().prop_map(Move::Slow),
        1 => (0usize..20).prop_map(Move::Conflicts),
        1 => prop::collection::vec(any::<u8>(), 0..12).prop_map(Move::RingRef),
        1 => any::<u8>().prop_map(Move::Resume),
        1 => (1u64..9999).prop_map(Move::Resized),
        1 => (0usize..40).prop_map(Move::Room),
        1 => (2usize..6).prop_map(Move::Watches),
        1 => prop_oneof![Just(None), Just(Some("EACCES")), Just(Some("ENOSPC"))]
            .prop_map(Move::Refuse),
        4 => (0usize..30).prop_map(Move::Breathe),
        4 => (0u64..1500).prop_map(Move::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 120 }))]

    #[test]
    fn every_interleaving_keeps_the_books_and_ends_clean(
        moves in prop::collection::vec(moves(), 0..60),
        chunk in 1usize..300,
    ) {
        let mut bed = Bed::new();
        bed.store.set_chunk(chunk);
        for step in moves {
            let store = &mut bed.store;
            match step {
                Move::Attach if store.read(&VBD.back_dir()).is_none() => bed.attach(VBD),
                Move::WrongTarget if store.read(&VBD.back_dir()).is_none() => {
                    VBD.attach(store, "nope", "w");
                }
                Move::Attach | Move::WrongTarget => {}
                Move::Detach => VBD.detach(store),
                Move::Destroy => VBD.destroy(store),
                Move::RemoveBackend => store.remove(&VBD.back_dir()),
                Move::Rings => VBD.front_initialise(store),
                Move::State(state) => VBD.set_front_state(store, state),
                Move::BackState(state) if store.read(&VBD.back_dir()).is_some() => {
                    store.write(&VBD.back("state"), state.to_string());
                }
                Move::BackState(_) => {}
                Move::Slow(slow) => bed.kernel.slow = slow,
                Move::Conflicts(count) => store.force_conflicts(count),
                Move::RingRef(value) if store.read(&VBD.front_dir()).is_some() => {
                    store.write(&VBD.front("ring-ref"), value);
                }
                Move::RingRef(_) => {}
                Move::Resume(ring) if store.read(&VBD.front_dir()).is_some() => {
                    store.write(&VBD.front("ring-ref"), ring.to_string());
                    VBD.set_front_state(store, 3);
                }
                Move::Resume(_) => {}
                Move::Resized(sectors) => bed.backend.resized(id(VBD), sectors),
                Move::Room(nodes) => store.set_quota(store.owned() + nodes),
                Move::Watches(count) => store.set_watch_quota(count),
                Move::Refuse(errno) => {
                    for key in ["state", "sectors"] {
                        store.fail_writes(&VBD.back(key), errno);
                    }
                }
                Move::Breathe(steps) => bed.breathe(steps),
                Move::Pass(ms) => bed.run(ms),
            }
        }
        bed.kernel.slow = false;
        bed.store.force_conflicts(0);
        bed.store.set_quota(1000);
        bed.store.set_watch_quota(128);
        for key in ["state", "sectors"] {
            bed.store.fail_writes(&VBD.back(key), None);
        }
        // From any state, a new attach is served or can be taken away.
        VBD.destroy(&mut bed.store);
        bed.run(8000);
        prop_assert!(bed.kernel.connections.is_empty());
        // `state` 0 or an absent one is nobody's to act on; the toolstack takes such a
        // directory away itself.
        if VBD.back_state(&bed.store) == 0 {
            bed.store.remove(&VBD.back_dir());
            bed.run(1000);
        }
        prop_assert!(bed.store.read(&VBD.back_dir()).is_none());
        bed.assert_clean();
        bed.connect(VBD);
    }
}
