//! Options that are set while the kernel runs, and those that are not.

use spindle_simulate::world::{BACKEND, MS, Setup, World};

/// Has an administrator set an option; gives the answer.
fn set(world: &mut World, order: &str) -> String {
    let node = format!("/local/domain/{BACKEND}/data/spindle/setting");
    let word = world.now().to_string();
    world.poke(|store| store.write(&node, format!("{word} {order}")));
    world.until("answer", |world| {
        let answer = world.published("set");
        answer.is_some_and(|answer| answer.starts_with(&word))
    });
    let answer = world.published("set").unwrap_or_default();
    answer.split_once(' ').unwrap().1.to_string()
}

/// Turns of the first ring core in so much time.
fn turns(world: &mut World, ms: u64) -> usize {
    let before = world.machine.turns(0);
    world.pass(ms);
    world.machine.turns(0) - before
}

#[test]
fn cores_poll_as_long_as_was_set_last() {
    let setup = Setup {
        cores: 1,
        ..Setup::default()
    };
    let mut world = World::new(setup, |_, disks| disks.add_ram("ram0", 1 << 20));
    let guest = world.attach(5, 51712, "ram0", "w");
    world.connect(guest, 1, 1);
    world.pass(1000);
    let asleep = turns(&mut world, 100);
    assert_eq!(set(&mut world, "poll_us=always"), "done");
    world.pass(10);
    let polling = turns(&mut world, 100);
    assert!(
        polling > 100 && polling > 10 * asleep,
        "{asleep}, then {polling}"
    );
    assert_eq!(set(&mut world, "poll_us=0"), "done");
    world.pass(1000);
    let again = turns(&mut world, 100);
    assert!(again < polling / 10, "{again}");
    assert!(world.now() > MS);
}

#[test]
fn what_is_no_option_or_none_to_be_set_is_refused_by_name() {
    let mut world = World::new(Setup::default(), |_, disks| disks.add_ram("ram0", 1 << 20));
    for (order, answer) in [
        ("log=debug", "done"),
        (
            "log=loud",
            "refused: \"loud\" is no value for log: expected off, error, warn, info, debug or trace",
        ),
        (
            "lgo=info",
            "refused: unknown option \"lgo\"; did you mean \"log\"?",
        ),
        ("queues=2", "refused: queues is read when the kernel starts"),
        ("ram1=1M", "refused: ram1 is read when the kernel starts"),
        ("", "refused: unknown option \"\""),
    ] {
        let said = set(&mut world, order);
        assert!(said.starts_with(answer), "{order}: {said}");
    }
}
