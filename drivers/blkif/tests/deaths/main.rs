//! A kernel that dies between any two stores to a ring and its journal, and another that takes over:
//! every order of completions, for rings of a few slots whose guest asks as fast as it may.
//!
//! The real [`spindle_blkif::BackRing`] and [`spindle_kept::Journal`] are driven through every state
//! that they can come into. In each of them all that is asked for must be answered in the end, once, and
//! under its own number; and nothing is done for the guest after it had the response.

mod memory;
mod model;

use memory::Broken;
use model::{Act, Bounds, State, explore};

const SMALL: Bounds = Bounds {
    slots: 2,
    start: 0,
    requests: 5,
    deaths: 2,
};

#[test]
fn every_request_is_answered_once_wherever_the_kernel_dies() {
    let four = Bounds {
        slots: 4,
        requests: 5,
        deaths: 1,
        ..SMALL
    };
    let wrapping = Bounds {
        start: u32::MAX - 2,
        ..SMALL
    };
    for bounds in [SMALL, wrapping, four] {
        let states = explore(bounds, Broken::No);
        let states = states.unwrap_or_else(|error| panic!("{bounds:?}: {error}"));
        println!("{bounds:?}: {states} states");
        assert!(states > 1000);
    }
}

#[test]
fn a_journal_kept_in_a_wrong_way_is_found() {
    for broken in Broken::ALL {
        let found = explore(SMALL, broken);
        println!("{broken:?}: {found:?}");
        assert!(found.is_err(), "{broken:?}");
    }
}

/// A ring with one request, taken.
fn with_one(broken: Broken) -> State {
    let mut state = State::new(SMALL, broken);
    assert!(state.ask());
    assert_eq!(state.act(Act::Take(1)), Ok(true));
    state
}

/// [spdk#3766](https://github.com/spdk/spdk/issues/3766): the first request, whose numbers are all 0,
/// is no less under way than others.
#[test]
fn request_number_0_is_done_again() {
    let died = |broken| with_one(broken).die(0, Ok).and_then(State::recover);
    let state = died(Broken::No).unwrap();
    assert_eq!(state.held(), [0]);
    assert_eq!(state.finish(SMALL.requests), Ok(()));
    let state = died(Broken::ZeroIsNone).unwrap();
    assert!(state.finish(SMALL.requests).is_err());
}

#[test]
fn a_response_that_was_cut_off_half_way_is_written_again() {
    let state = with_one(Broken::No);
    let answer = |mut state: State| state.act(Act::Answer(0)).map(|_| state);
    let slots: Vec<_> = (0..=3)
        .map(|stores| state.die(stores, answer).unwrap().in_slot(0))
        .collect();
    // The journal comes first. Then the id is there, and the status is not.
    let [asked, whole] = [[1 | 2 << 8, 0], [0, 1]];
    assert_eq!(slots, [asked, asked, [0, 0], whole]);
    for stores in 0..=3 {
        let state = state.die(stores, answer).unwrap().recover().unwrap();
        assert_eq!(state.held(), [0], "no response was published");
        assert_eq!(state.finish(SMALL.requests), Ok(()));
    }
}
