//! A disk's life, from the attach to the detach, in which any one notification is lost, or any two:
//! everything goes on within the time from one look to the next.

mod world;

use std::sync::LazyLock;

use proptest::prelude::*;
use spindle_blkif::worker::{LOOK_NS as RINGS_NS, LOOK_WITHOUT_RINGS_NS};
use spindle_control::LOOK_NS;

use crate::world::{Cores, Fault, Life, TICK_NS, Wire};

/// What else may come on top of a look: turns, naps, and answers of cores, which control looks for.
const SLACK_NS: u64 = 50_000_000;

static WITH_CORE: LazyLock<Life> = LazyLock::new(|| Life::run(Cores::Own, &[]));
static WITHOUT_CORE: LazyLock<Life> = LazyLock::new(|| Life::run(Cores::Local, &[]));

/// A life in which nothing is lost.
fn good(cores: Cores) -> &'static Life {
    match cores {
        Cores::Own => &WITH_CORE,
        Cores::Local => &WITHOUT_CORE,
    }
}

/// How much later a step may end when a notification on `wire` is lost.
fn bound(cores: Cores, wire: Wire) -> u64 {
    let look = match wire {
        Wire::ToStore | Wire::ToFront => TICK_NS,
        // Control, with the only worker in its loop, looks at the rings as well.
        Wire::ToControl => LOOK_NS,
        Wire::RingToCore if cores == Cores::Local => LOOK_NS,
        Wire::RingToCore => RINGS_NS,
        Wire::OrderToCore => LOOK_WITHOUT_RINGS_NS,
    };
    look + SLACK_NS
}

/// Asserts that every step of `life` ended no more than `late` after the same step of `good`.
fn assert_in_time(good: &Life, life: &Life, late: u64, what: &str) {
    for ((name, usual), (_, took)) in good.steps.iter().zip(&life.steps) {
        let over = took.saturating_sub(*usual);
        assert!(over <= late, "{what}: {name} took {took} ns, not {usual}");
    }
}

#[test]
fn a_life_with_any_one_notification_lost_goes_on_within_a_look() {
    for cores in [Cores::Own, Cores::Local] {
        let good = good(cores);
        for (name, took) in &good.steps {
            // Half a second is how long a removal is held back for the toolstack.
            assert!(*took < 600_000_000, "{cores:?}: {name} took {took} ns");
        }
        for wire in [
            Wire::ToControl,
            Wire::ToStore,
            Wire::ToFront,
            Wire::RingToCore,
        ] {
            let count = good.sent.iter().filter(|sent| **sent == wire).count();
            assert!(count >= 3, "{cores:?}: {count} notifications {wire:?}");
        }
        let mut late = [0; 2];
        for (number, wire) in good.sent.iter().enumerate() {
            for fault in [Fault::Vanishes, Fault::FindsItDeaf] {
                let life = Life::run(cores, &[(number, fault)]);
                let what = format!("{cores:?}, number {number}, {wire:?} {fault:?}");
                assert_in_time(good, &life, bound(cores, *wire), &what);
                // The faults are felt, or this shows nothing.
                let over = life.total().saturating_sub(good.total());
                late[fault as usize] += usize::from(over > TICK_NS / 2);
            }
        }
        assert!(late.iter().all(|&late| late >= 5), "{cores:?}: {late:?}");
    }
}

#[test]
fn an_idle_domain_wakes_about_once_a_second_for_each_core() {
    let life = good(Cores::Own);
    let [control, core] = life.idle_turns;
    assert!(
        (9..=11).contains(&control),
        "{control} turns of control in 10 s"
    );
    // Two turns for each look without rings are one too many.
    assert!((2..=3).contains(&core), "{core} turns of the core in 10 s");
    let [control, core] = life.attached_turns;
    assert!(
        (9..=11).contains(&control),
        "{control} turns of control in 10 s"
    );
    assert!((5..=6).contains(&core), "{core} turns of the core in 10 s");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 50 }))]

    #[test]
    fn a_life_with_any_two_notifications_lost_goes_on_within_two_looks(
        own in any::<bool>(),
        faults in [(any::<prop::sample::Index>(), any::<bool>()),
                   (any::<prop::sample::Index>(), any::<bool>())],
    ) {
        let cores = if own { Cores::Own } else { Cores::Local };
        let good = good(cores);
        let faults = faults.map(|(at, vanishes)| {
            let fault = if vanishes { Fault::Vanishes } else { Fault::FindsItDeaf };
            (at.index(good.sent.len()), fault)
        });
        let life = Life::run(cores, &faults);
        assert_in_time(good, &life, 2 * bound(cores, Wire::OrderToCore), &format!("{faults:?}"));
    }
}
