//! A kernel that dies and another that adopts its rings: the real ring core with its grants, its disk
//! and its guests, killed at any call that it makes to them.
//!
//! Guests know what their memory and their part of the disk must hold. They hear of responses by events
//! only, and every response must be one that they wait for. So a request that is lost or is answered
//! twice, a wrong byte, and a lost event all show.

mod bed;
mod guest;
mod mortal;

use bed::{Bed, SPOILT};
use guest::{Ask, PAGES};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask(Ask, usize, usize, usize),
    Hear(usize),
    Visit,
    /// The kernel dies in so many calls.
    Die(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop::sample::select(vec![
        Ask::Read,
        Ask::Write,
        Ask::ReadParts,
        Ask::WriteParts,
        Ask::Barrier,
        Ask::Flush,
        Ask::Discard,
        Ask::ReadList,
        Ask::WriteList,
    ]);
    let ask = (what, 0usize..4, 0..PAGES, 1usize..12)
        .prop_map(|(what, ring, page, count)| Step::Ask(what, ring, page, count));
    prop_oneof![
        12 => ask,
        2 => (0usize..4).prop_map(Step::Hear),
        6 => Just(Step::Visit),
        2 => (0usize..60).prop_map(Step::Die),
    ]
}

/// Plays it, and has all guests read what they have on the disk in the end.
fn play(steps: &[Step]) -> Bed {
    let mut bed = Bed::new();
    take_steps(&mut bed, steps);
    bed.settle();
    for page in 0..PAGES {
        bed.guests
            .iter_mut()
            .for_each(|guest| guest.ask(Ask::Read, page, 1));
        if page % 16 == 15 {
            bed.settle();
        }
    }
    bed
}

fn take_steps(bed: &mut Bed, steps: &[Step]) {
    for &step in steps {
        match step {
            Step::Ask(what, ring, page, count) => bed.guests[ring].ask(what, page, count),
            Step::Hear(ring) => bed.hear(ring),
            Step::Visit => drop(bed.visit()),
            Step::Die(calls) => bed.fate.set(Some(calls)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn no_guest_notices_more_than_a_pause(steps in prop::collection::vec(step(), 1..300)) {
        play(&steps).end();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// What was taken is done from the journal, and no other guest notices anything.
    #[test]
    #[cfg_attr(miri, ignore = "too many bytes to interpret")]
    fn a_guest_that_writes_over_its_ring_hurts_itself(
        before in prop::collection::vec(step(), 1..60),
        (from, bytes) in (0usize..200, prop::collection::vec(any::<u8>(), 1..200)),
        after in prop::collection::vec(step(), 1..60),
    ) {
        let mut bed = Bed::new();
        take_steps(&mut bed, &before);
        bed.guests[SPOILT].scribble(from, &bytes);
        take_steps(&mut bed, &[Step::Die(0), Step::Visit]);
        take_steps(&mut bed, &after);
        bed.end();
    }
}

/// What there is of each kind, once on every ring, with a death at every fourth call that is made for it.
#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn every_kind_of_request_survives_a_death() {
    let kinds = [
        Ask::Write,
        Ask::Read,
        Ask::WriteParts,
        Ask::ReadParts,
        Ask::WriteList,
        Ask::ReadList,
        Ask::Discard,
        Ask::Flush,
        Ask::Barrier,
    ];
    let (mut deaths, mut redone) = (0, 0);
    for (first, what) in kinds.into_iter().enumerate() {
        // With each kind at other calls, or it would take minutes.
        for calls in (first % 4..).step_by(4) {
            let mut steps = vec![Step::Die(calls)];
            for ring in 0..4 {
                steps.push(Step::Ask(Ask::Write, ring, 0, 4));
                steps.push(Step::Ask(what, ring, 8, 3));
                steps.push(Step::Ask(what, ring, 40, 2));
            }
            steps.extend([Step::Visit; 12]);
            let bed = play(&steps);
            let lives = bed.lives;
            redone += bed.redone;
            bed.end();
            if lives == 1 {
                break;
            }
            deaths += 1;
        }
    }
    assert!(deaths > 80, "{deaths}");
    assert!(redone > deaths, "{redone} of {deaths}");
}

/// The call that maps its grants is made for one ring.
#[test]
fn the_ring_that_was_being_served_is_noted() {
    for ring in [0, 1, 3] {
        let mut bed = Bed::new();
        bed.guests[ring].ask(Ask::Write, 0, 2);
        bed.fate.set(Some(0));
        assert!(bed.visit() && bed.lives == 1);
        assert_eq!(bed.blamed, Some(ring as u32));
        bed.end();
    }
}

/// That of an event is not.
#[test]
fn no_ring_is_noted_between_two() {
    let mut bed = Bed::new();
    bed.guests[0].ask(Ask::Flush, 0, 0);
    bed.fate.set(Some(0));
    bed.visit();
    assert_eq!((bed.lives, bed.blamed), (1, None));
    bed.end();
}
