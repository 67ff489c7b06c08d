//! A disk's life, from the attach to the detach, in which any one notification is lost, or any two:
//! everything goes on within the time from one look to the next.

use std::sync::LazyLock;

use proptest::prelude::*;
use spindle_blkif::worker::{LOOK_NS as RINGS_NS, LOOK_WITHOUT_RINGS_NS};
use spindle_control::LOOK_NS;

use spindle_simulate::world::wires::{Fault, TICK_NS, Wire};
use spindle_simulate::world::{Setup, World};

/// Where the worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cores {
    /// On a core of its own.
    Own,
    /// In control's loop.
    Local,
}

/// What was seen of a disk's life.
#[derive(Debug, Default)]
struct Life {
    /// The steps, and how long each took.
    steps: Vec<(&'static str, u64)>,
    /// Every notification that was sent, lost ones included.
    sent: Vec<Wire>,
    /// Turns of control and the core in 10 s before anything is attached.
    idle_turns: [usize; 2],
    /// The same with an attached disk that nothing uses.
    attached_turns: [usize; 2],
}

impl Life {
    /// A disk's life with these notifications lost, by their numbers.
    fn run(cores: Cores, faults: &[(usize, Fault)]) -> Self {
        let setup = Setup {
            cores: usize::from(cores == Cores::Own),
            faults: faults.to_vec(),
            ..Setup::default()
        };
        let mut world = World::new(setup, |_, disks| disks.add_ram("ram0", 1 << 16));
        let mut life = Self::default();
        // Setting up, then asleep with nothing attached.
        world.pass(5000);
        life.idle_turns = turns(&mut world);
        let guest = world.attach(5, 51712, "ram0", "w");
        let vbd = world.guests[guest].vbd;
        life.step(&mut world, "InitWait", |w| w.state(0) == 2);
        world.pass(700);
        world.publish(guest, 1, 1);
        life.step(&mut world, "Connected", |w| w.state(0) == 4);
        world.set_state(guest, 4);
        for _ in 0..3 {
            world.pass(2500);
            world.guests[guest].read(0, 0);
            let answers = world.guests[guest].answer_count() + 1;
            life.step(&mut world, "response", |w| {
                w.guests[0].answer_count() == answers
            });
        }
        world.pass(5000);
        life.attached_turns = turns(&mut world);
        world.poke(|store| vbd.detach(store));
        // It waits for the frontend, which sees the toolstack's state.
        world.pass(100);
        world.set_state(guest, 6);
        life.step(&mut world, "Closed", |w| w.state(0) == 6);
        life.step(&mut world, "removal", |w| {
            w.store.read(&vbd.back_dir()).is_none()
        });
        world.pass(5000);
        world.assert_nothing_left();
        life.steps.push(("shutdown", world.shut_down()));
        life.sent = world.machine.wires.sent();
        life
    }

    /// How long all steps took.
    fn total(&self) -> u64 {
        self.steps.iter().map(|(_, took)| took).sum()
    }

    fn step(&mut self, world: &mut World, name: &'static str, done: impl Fn(&World) -> bool) {
        let took = world.until(name, |w| done(w));
        self.steps.push((name, took));
    }
}

/// Turns of control and of the core in the next 10 s.
fn turns(world: &mut World) -> [usize; 2] {
    let count = |world: &World| [world.control_turns, world.machine.turns(0)];
    let before = count(world);
    world.pass(10_000);
    let after = count(world);
    core::array::from_fn(|core| after[core] - before[core])
}

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
        Wire::ToStore | Wire::ToFront(_) => TICK_NS,
        // Control, with the only worker in its loop, looks at the rings as well.
        Wire::ToControl => LOOK_NS,
        Wire::RingToCore(_) if cores == Cores::Local => LOOK_NS,
        Wire::RingToCore(_) => RINGS_NS,
        Wire::OrderToCore(_) => LOOK_WITHOUT_RINGS_NS,
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
        for kind in [
            |wire| matches!(wire, Wire::ToControl),
            |wire| matches!(wire, Wire::ToStore),
            |wire| matches!(wire, Wire::ToFront(_)),
            |wire| matches!(wire, Wire::RingToCore(_)),
        ] as [fn(Wire) -> bool; 4]
        {
            let count = good.sent.iter().filter(|sent| kind(**sent)).count();
            assert!(count >= 3, "{cores:?}: {count} notifications");
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
    // With a disk attached, control publishes counters twice in that time.
    let [control, core] = life.attached_turns;
    assert!(
        (11..=13).contains(&control),
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
        assert_in_time(good, &life, 2 * bound(cores, Wire::OrderToCore(0)), &format!("{faults:?}"));
    }
}
