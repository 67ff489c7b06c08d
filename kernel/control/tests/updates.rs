//! The kernel is updated in its domain: the cores finish what they have taken, controllers stay enabled if
//! they do, and nothing that a guest or a disk does holds that up.

use spindle_testkit::nvme::{FakeNvme, Fault};

use spindle_simulate::world::guest::{all_okay, contents, pattern};
use spindle_simulate::world::{DISKS, MS, SECOND, World};

/// The most that an update waits for cores and disks, and a little for what is around that.
const BOUND: u64 = 260 * MS;

/// A controller that does nothing before it is ordered to, and a guest with its first namespace.
fn with_slow_nvme(cores: usize) -> (World, FakeNvme, usize) {
    let (mut world, nvme) = World::with_slow_nvme(cores);
    let guest = world.attach(5, 51712, "nvme0n1", "w");
    world.connect(guest, cores.max(1), 1);
    (world, nvme, guest)
}

/// Runs until the update that was asked for has followed; gives how long that took. `each` is done at
/// each step.
fn updated(world: &mut World, mut each: impl FnMut()) -> u64 {
    let since = world.now();
    let before = world.updates;
    while world.updates == before {
        assert!(world.now() < since + SECOND, "no update within a second");
        each();
        world.run_until(MS / 10, |_| false);
    }
    world.now() - since
}

/// All requests under way go well in the end.
fn answered(world: &mut World, guest: usize, nvme: &FakeNvme) {
    let disk = nvme.clone();
    world.until("answers", |w| {
        disk.run();
        w.guests[guest].outstanding() == 0
    });
    for ring in 0..world.guests[guest].ring_count() {
        assert!(all_okay(&world.guests[guest].take_answers(ring)));
    }
}

#[test]
fn what_was_taken_is_answered_and_nothing_is_done_twice() {
    for cores in [0, 2] {
        let (mut world, nvme, guest) = with_slow_nvme(cores);
        let _ = nvme.take_accesses();
        for round in 1..6 {
            for n in 0..6 {
                world.guests[guest].write(n as usize % cores.max(1), 8 * n, n + round);
            }
            world.pass(20);
            assert_eq!(
                world.guests[guest].answer_count(),
                0,
                "the disk has all of it"
            );
            world.ask_for_update(false);
            world.pass(20);
            // It comes while the cores are drained, and is left in the ring.
            world.guests[guest].write(0, 200, round);
            let disk = nvme.clone();
            let took = updated(&mut world, || {
                disk.run();
            });
            assert!(took < 100 * MS, "{took} ns, though the disk has answered");
            // The next life may have sent that already.
            assert!(nvme.waiting(1) <= 1, "nothing is done again");
            answered(&mut world, guest, &nvme);
            let blocks: Vec<_> = nvme.take_accesses().iter().map(|a| a.block).collect();
            assert_eq!(blocks.len(), 7, "{blocks:?}");
        }
        assert_eq!(nvme.resets(), 0, "it stays enabled");
        let disk = nvme.clone();
        for n in 0..6 {
            let (id, page) = world.guests[guest].read(0, 8 * n);
            world.until("read", |w| {
                disk.run();
                w.guests[guest].answer_count() > 0
            });
            assert_eq!(world.guests[guest].take_answers(0)[0].id, id);
            let expected = pattern(n + 5);
            assert!(contents(&page) == expected);
        }
        world.detach(guest);
        world.assert_nothing_left();
        world.shut_down();
        assert_eq!(nvme.violations(), Vec::<String>::new());
    }
}

#[test]
fn a_disk_that_does_not_answer_holds_an_update_up_for_no_longer_than_the_bound() {
    for cores in [0, 2] {
        let (mut world, nvme, guest) = with_slow_nvme(cores);
        for n in 0..6 {
            world.guests[guest].write(0, 8 * n, n);
        }
        world.pass(20);
        world.ask_for_update(false);
        let took = updated(&mut world, || {});
        assert!((100 * MS..BOUND).contains(&took), "{took} ns");
        assert_eq!(
            nvme.resets(),
            1,
            "commands of the former life may be under way"
        );
        world.pass(20);
        assert_eq!(nvme.waiting(1), 6, "all of them are done again");
        answered(&mut world, guest, &nvme);
        world.detach(guest);
        world.assert_nothing_left();
        assert_eq!(nvme.violations(), Vec::<String>::new());
    }
}

#[test]
fn a_core_that_hangs_holds_an_update_up_for_no_longer_than_the_bound() {
    let (mut world, nvme, guest) = with_slow_nvme(2);
    world.machine.hang(1, true);
    world.ask_for_update(false);
    let took = updated(&mut world, || {});
    assert!((100 * MS..BOUND).contains(&took), "{took} ns");
    assert_eq!(nvme.resets(), 1);
    world.guests[guest].write(1, 8, 7);
    answered(&mut world, guest, &nvme);
}

#[test]
fn a_controller_that_does_not_let_its_queues_go_is_reset() {
    let (mut world, nvme, guest) = with_slow_nvme(1);
    nvme.arm(Fault::SwallowAdmin(0x00));
    world.ask_for_update(false);
    let took = updated(&mut world, || {});
    assert!((50 * MS..BOUND).contains(&took), "{took} ns");
    assert_eq!(nvme.resets(), 1);
    world.guests[guest].write(0, 8, 7);
    answered(&mut world, guest, &nvme);
}

#[test]
fn disks_of_every_type_go_on_after_an_update_and_after_a_death_that_follows_it() {
    for cores in [0, 2] {
        let (mut world, models) = World::with_all_disks(cores);
        let mut guests = Vec::new();
        for (number, disk) in DISKS.into_iter().enumerate() {
            let guest = world.attach(5 + number as u16, 51712, disk, "w");
            world.connect(guest, cores.max(1), 1);
            world.write(guest, 0, 8, number as u64);
            guests.push(guest);
        }
        for round in 0..4 {
            if round == 2 {
                world.die();
            } else {
                world.update();
            }
            for (number, &guest) in guests.iter().enumerate() {
                world.verify(guest, 0, 8, number as u64);
                world.write(guest, 0, 16, number as u64 + round);
            }
        }
        assert_eq!(models.nvme.resets(), 1, "by the death");
        guests.into_iter().for_each(|guest| world.detach(guest));
        world.assert_nothing_left();
        world.shut_down();
        assert_eq!(models.nvme.violations(), Vec::<String>::new());
    }
}

#[test]
fn what_a_dry_run_asks_is_answered_with_which_controllers_would_stay_enabled() {
    let (mut world, models) = World::with_all_disks(2);
    world.ask_for_update(true);
    world.until("answer", |w| w.published("updated").is_some());
    assert_eq!(
        world.published("updated"),
        Some("1 fits: it fits; nvme0 stays enabled")
    );
    models.nvme.die();
    world.pass(1200);
    world.ask_for_update(true);
    world.pass(20);
    let answer = world.published("updated").unwrap();
    assert!(answer.contains("; nvme0 "), "{answer}");
    assert_eq!(world.updates, 0);
}
