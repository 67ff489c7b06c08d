//! Disks that change under guests: namespaces that are removed, formatted, replaced or new, and
//! controllers that are lost and come back, while the guests of others go on.

use spindle_blkif::abi::RspStatus;
use spindle_block::DiskOptions;
use spindle_nvme::Status;
use spindle_testkit::gpt::Gpt;
use spindle_testkit::nvme::{Config as NvmeConfig, FakeNvme, Fault as NvmeFault, NamespaceConfig};
use spindle_testkit::virtio::{Config as VirtioConfig, FakeVirtio, Fault as VirtioFault};

use spindle_simulate::world::disks::Table;
use spindle_simulate::world::guest::pattern;
use spindle_simulate::world::{BACKEND, SECOND, Setup, World};

/// A domain with a controller of two namespaces, and room for a third, and a RAM disk.
fn with_namespaces(cores: usize) -> (World, FakeNvme) {
    with_namespaces_that(cores, |_| ())
}

/// The same, with a controller of which something is changed before it is started.
fn with_namespaces_that(cores: usize, change: impl FnOnce(&FakeNvme)) -> (World, FakeNvme) {
    // What was written is there after power is back.
    with_namespaces_of(cores, false, change)
}

/// The same, with a write cache or without.
fn with_namespaces_of(
    cores: usize,
    write_cache: bool,
    change: impl FnOnce(&FakeNvme),
) -> (World, FakeNvme) {
    let namespaces = [(1, 2048), (2, 2048), (3, 0)];
    let config = NvmeConfig {
        namespaces: namespaces
            .map(|(id, blocks)| NamespaceConfig::new(id, blocks, 9))
            .into(),
        write_cache,
        ..NvmeConfig::default()
    };
    World::with_nvme(cores, config, change, |disks| {
        disks.add_ram("ram0", 1 << 20)
    })
}

/// A guest with `target`, connected by a ring on each core.
fn guest(world: &mut World, frontend: u16, target: &str, cores: usize) -> usize {
    let guest = world.attach(frontend, 51712, target, "w");
    world.connect(guest, cores.max(1), 1);
    guest
}

/// Lets `ms` milliseconds go by, in which `guest` writes and reads all the time, and gets every
/// answer within a tenth of a second.
fn undisturbed(world: &mut World, guest: usize, ms: u64) {
    let end = world.now() + ms * 1_000_000;
    let mut round = 0;
    while world.now() < end {
        for ring in 0..world.guests[guest].ring_count() {
            let before = world.now();
            let sector = 8 * (round % 32);
            world.write(guest, ring, sector, round);
            world.verify(guest, ring, sector, round);
            let took = world.now() - before;
            assert!(took < SECOND / 10, "{took} ns");
        }
        round += 1;
        world.pass(20);
    }
}

/// Expects the requests of a guest whose disk was removed to fail, and its error node to have `why`.
fn assert_closed(world: &mut World, guest: usize, why: &str) {
    let error = world.error(guest).expect("an error node").to_string();
    assert!(error.contains(why), "{error}");
    assert_eq!(world.state(guest), 4, "it stays connected");
    let path = world.guests[guest].vbd.back("sectors");
    assert_eq!(world.store.text(&path), Some("0"));
    for ring in 0..world.guests[guest].ring_count() {
        let id = world.guests[guest].write(ring, 8, 2);
        assert_eq!(world.answer(guest, ring, id), RspStatus::ERROR);
    }
}

/// Expects an attach to be refused with `why`.
fn assert_refused(world: &mut World, frontend: u16, target: &str, why: &str) {
    let guest = world.attach(frontend, 51712, target, "w");
    world.until("error", |w| w.error(guest).is_some());
    let error = world.error(guest).unwrap();
    assert!(error.contains(why), "{error}");
    world.destroy(guest);
}

#[test]
fn a_namespace_is_removed_under_a_guest_and_another_guest_does_not_notice() {
    for cores in [0, 2] {
        let (mut world, model) = with_namespaces(cores);
        let first = guest(&mut world, 5, "nvme0n1", cores);
        let other = guest(&mut world, 6, "nvme0n2", cores);
        world.write(first, 0, 0, 1);
        model.resize(1, 0);
        undisturbed(&mut world, other, 3000);
        assert_closed(&mut world, first, "the controller has it no longer");
        assert_refused(&mut world, 7, "nvme0n1", "the controller has it no longer");
        assert_eq!(world.published("targets/nvme0n1"), None);
        let list = world.published("disks").unwrap();
        assert!(!list.contains("nvme0n1"), "{list}");
        // It is there again, for who attaches it anew.
        model.resize(1, 4096);
        undisturbed(&mut world, other, 3000);
        assert_closed(&mut world, first, "the controller has it no longer");
        let next = guest(&mut world, 8, "nvme0n1", cores);
        world.write(next, 0, 4088, 3);
        world.verify(next, 0, 4088, 3);
        assert_eq!(world.holder("nvme0n1"), "8/51712:w");
        for guest in [first, other, next] {
            world.detach(guest);
        }
        world.assert_nothing_left();
        assert_eq!((model.resets(), model.violations()), (0, Vec::new()));
    }
}

#[test]
fn a_namespace_that_is_formatted_is_offered_anew_and_reached_by_nothing_old() {
    for cores in [0, 2] {
        for with_reset in [false, true] {
            let (mut world, model) = with_namespaces(cores);
            let old = guest(&mut world, 5, "nvme0n1", cores);
            let other = guest(&mut world, 6, "nvme0n2", cores);
            // One that waits to be tried again, and would be on the new blocks.
            for _ in 0..3 {
                model.arm(NvmeFault::FailIo(1, Status::NOT_READY.0));
            }
            let id = world.guests[old].write(0, 8, 1);
            world.pass(1);
            if with_reset {
                model.die();
            }
            model.reformat(1, 12);
            world.pass(3000);
            assert_eq!(world.answer(old, 0, id), RspStatus::ERROR);
            undisturbed(&mut world, other, 1000);
            let why = "it was formatted with blocks of 4096 bytes";
            assert_closed(&mut world, old, why);
            let _ = model.take_accesses();
            let list = world.published("targets/nvme0n1").expect("it is offered");
            assert!(list.contains(" 4096 w -"), "{list}");
            let new = guest(&mut world, 7, "nvme0n1", cores);
            let path = world.guests[new].vbd.back("sector-size");
            assert_eq!(world.store.text(&path), Some("4096"));
            world.write(new, 0, 16, 5);
            world.verify(new, 0, 16, 5);
            assert_closed(&mut world, old, why);
            let reached = model.take_accesses();
            let blocks = reached.iter().filter(|a| a.namespace == 1);
            let blocks: Vec<u64> = blocks.map(|a| a.block).collect();
            assert_eq!(blocks, [2, 2], "a write and a read of the new guest");
            for guest in [old, other, new] {
                world.detach(guest);
            }
            world.assert_nothing_left();
            assert_eq!(model.violations(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_namespace_is_not_offered_anew_before_every_core_has_done_what_it_was_ordered() {
    let (mut world, model) = with_namespaces(2);
    let old = guest(&mut world, 5, "nvme0n1", 2);
    world.machine.hang(1, true);
    model.reformat(1, 12);
    world.pass(5000);
    assert_eq!(world.remotes[0].borrow().closed, 0);
    assert_eq!(world.published("targets/nvme0n1"), None);
    assert_refused(&mut world, 7, "nvme0n1", "it was formatted");
    world.machine.hang(1, false);
    world.until("offer", |w| w.published("targets/nvme0n1").is_some());
    assert_eq!(world.remotes[0].borrow().closed, 1);
    assert_closed(&mut world, old, "it was formatted");
    world.detach(old);
    world.assert_nothing_left();
}

#[test]
fn a_core_that_stands_still_does_not_keep_control_busy() {
    let (mut world, model) = with_namespaces(2);
    world.machine.hang(1, true);
    model.resize(1, 0);
    world.pass(3000);
    assert_eq!(world.published("targets/nvme0n1"), None);
    let before = world.machine.turns(0);
    world.pass(60_000);
    let woken = world.machine.turns(0) - before;
    assert!(woken < 2000, "{woken} turns of a core in a minute");
    world.machine.hang(1, false);
    world.pass(5000);
    assert_eq!(world.remotes[0].borrow().closed, 1);
    model.resize(1, 64);
    world.until("offer", |w| w.published("targets/nvme0n1").is_some());
}

#[test]
fn a_core_without_a_queue_on_a_disk_is_not_waited_for() {
    let setup = Setup {
        cores: 2,
        ..Setup::default()
    };
    let mut model = None;
    let mut world = World::new(setup, |machine, disks| {
        let config = NvmeConfig {
            namespaces: vec![NamespaceConfig::new(1, 2048, 9)],
            ..NvmeConfig::default()
        };
        let controller = FakeNvme::new(machine.bus.clone(), config);
        disks.add_nvme(&controller, 0, DiskOptions::default());
        disks.change(0, |disk| disk.queues = Some(1));
        model = Some(controller);
    });
    let model = model.unwrap();
    world.machine.hang(1, true);
    model.reformat(1, 12);
    world.until("offer", |w| w.published("targets/nvme0n1").is_some());
    assert_eq!(world.remotes[0].borrow().closed, 1);
}

#[test]
fn a_frontend_that_comes_again_to_a_removed_disk_is_refused() {
    let (mut world, model) = with_namespaces(2);
    let connected = guest(&mut world, 5, "nvme0n1", 1);
    let waiting = world.attach(6, 51712, "nvme0n2", "w");
    world.until("InitWait", |w| w.state(waiting) == 2);
    model.resize(1, 0);
    model.resize(2, 0);
    world.pass(2500);
    world.publish(waiting, 1, 1);
    world.until("Closing", |w| w.state(waiting) == 5);
    let error = world.error(waiting).unwrap();
    assert!(error.contains("the controller has it no longer"), "{error}");
    for state in [5, 6] {
        world.set_state(connected, state);
        world.pass(500);
    }
    world.set_state(connected, 1);
    world.pass(500);
    world.publish(connected, 1, 1);
    world.pass(500);
    assert_ne!(world.state(connected), 4);
    world.destroy(waiting);
    world.destroy(connected);
    world.assert_nothing_left();
}

#[test]
fn partitions_of_a_namespace_that_is_removed_are_closed_with_it_and_no_others() {
    for cores in [0, 2] {
        let config = NvmeConfig {
            namespaces: [1, 2].map(|id| NamespaceConfig::new(id, 2048, 9)).into(),
            ..NvmeConfig::default()
        };
        let partitions = |disks: &mut Table| disks.partitions = Some(256);
        let (mut world, model) = World::with_nvme(cores, config, |_| (), partitions);
        let part = guest(&mut world, 5, "nvme0n1p1", cores);
        let other = guest(&mut world, 6, "nvme0n2p1", cores);
        world.write(part, 0, 0, 1);
        model.resize(1, 0);
        undisturbed(&mut world, other, 3000);
        let why = "the controller has it no longer";
        assert_closed(&mut world, part, why);
        for target in ["nvme0n1", "nvme0n1p1"] {
            assert_refused(&mut world, 7, target, why);
        }
        assert_eq!(world.published("targets/nvme0n1"), None);
        // What is under its number later has nothing of its partitions.
        model.resize(1, 2048);
        undisturbed(&mut world, other, 3000);
        let list = world.published("targets/nvme0n1").unwrap();
        assert!(!list.contains("nvme0n1p1"), "{list}");
        assert_closed(&mut world, part, why);
        let _ = model.take_accesses();
        let whole = guest(&mut world, 7, "nvme0n1", cores);
        world.write(whole, 0, 8, 3);
        world.verify(whole, 0, 8, 3);
        assert_closed(&mut world, part, why);
        let reached = model.take_accesses();
        let blocks = reached.iter().filter(|a| a.namespace == 1);
        let blocks: Vec<u64> = blocks.map(|a| a.block).collect();
        assert_eq!(blocks, [8, 8], "of the one that has all of it");
        for guest in [part, other, whole] {
            world.detach(guest);
        }
        world.assert_nothing_left();
    }
}

/// A domain with two controllers that have the same namespace.
fn with_twins() -> (World, Vec<FakeNvme>) {
    let mut models = Vec::new();
    let setup = Setup {
        cores: 2,
        ..Setup::default()
    };
    let world = World::new(setup, |machine, disks| {
        for number in 0..2 {
            let model = FakeNvme::new(machine.bus.clone(), NvmeConfig::default());
            let options = DiskOptions {
                queues: 2,
                depth: 16,
                ..DiskOptions::default()
            };
            disks.add_nvme(&model, number, options);
            models.push(model);
        }
    });
    (world, models)
}

#[test]
fn a_name_of_a_namespace_behind_two_controllers_means_the_one_that_works() {
    let (mut world, models) = with_twins();
    lose(&mut world, &models[0]);
    let name = "nvme-SPINDLE-0001-n1";
    let other = guest(&mut world, 5, name, 2);
    world.write(other, 0, 0, 1);
    assert_eq!(world.holder("nvme1n1"), "5/51712:w");
    world.detach(other);
    models[0].come_back();
    until_back(&mut world);
    let first = guest(&mut world, 6, name, 2);
    assert_eq!(world.holder("nvme0n1"), "6/51712:w");
    world.detach(first);
    world.assert_nothing_left();
}

#[test]
fn a_new_namespace_is_attached_without_a_restart() {
    let (mut world, model) = with_namespaces(2);
    let other = guest(&mut world, 6, "nvme0n2", 2);
    model.resize(3, 1024);
    undisturbed(&mut world, other, 2000);
    let list = world.published("disks").unwrap();
    assert!(list.contains("nvme0n3 1024 512 w"), "{list}");
    assert_eq!(world.holder("nvme0n3"), "-");
    let new = guest(&mut world, 7, "nvme0n3", 2);
    world.write(new, 1, 1016, 9);
    world.verify(new, 0, 1016, 9);
    assert_eq!(world.holder("nvme0n3"), "7/51712:w");
}

/// Has the controller go away, and waits until that is noticed.
fn lose(world: &mut World, model: &FakeNvme) {
    model.vanish();
    until_lost(world);
}

#[test]
fn what_is_lost_is_listed_as_that_until_it_is_back() {
    let (mut world, model) = with_namespaces(2);
    let first = guest(&mut world, 5, "nvme0n1", 2);
    world.until("health", |w| w.published("disk/nvme0").is_some());
    let modes = |world: &World| {
        let disks = world.published("disks").unwrap();
        let lines = ["targets/nvme0n1", "targets/nvme0n2", "targets/ram0"];
        let lines = lines.map(|node| world.published(node).unwrap());
        let mode = |line: &str| line.split(' ').nth(3).unwrap().to_string();
        let modes: Vec<_> = lines.iter().map(|line| mode(line)).collect();
        assert_eq!(disks.lines().map(mode).collect::<Vec<_>>(), modes);
        modes
    };
    assert_eq!(modes(&world), ["w", "w", "w"]);
    for _ in 0..2 {
        lose(&mut world, &model);
        assert_eq!(modes(&world), ["-", "-", "w"]);
        assert_eq!(world.published("disk/nvme0"), None);
        assert_eq!(world.holder("nvme0n1"), "5/51712:w");
        model.come_back();
        until_back(&mut world);
        assert_eq!(modes(&world), ["w", "w", "w"]);
    }
    world.detach(first);
}

#[test]
fn a_frontend_that_closes_is_answered_whatever_has_become_of_its_disk() {
    fn start_over(world: &mut World, guest: usize) {
        for state in [6, 1] {
            world.set_state(guest, state);
            world.pass(500);
        }
        world.publish(guest, 1, 1);
        world.pass(500);
    }
    type Blow = fn(&mut World, &FakeNvme, usize);
    let blows: [(&str, Blow); 7] = [
        ("nothing", |_, _, _| ()),
        ("lost", |world, model, _| lose(world, model)),
        ("lost, not noticed", |world, model, guest| {
            world.guests[guest].write(0, 0, 1);
            model.vanish();
        }),
        ("connected again while it is lost", |world, model, guest| {
            lose(world, model);
            start_over(world, guest);
        }),
        ("refused", |world, model, guest| {
            model.resize(1, 0);
            world.pass(2500);
            start_over(world, guest);
        }),
        ("removed", |world, model, _| {
            model.resize(1, 0);
            world.pass(2500);
        }),
        ("rings halted", |world, _, guest| {
            world.guests[guest].overrun(0);
            world.pass(2500);
        }),
    ];
    for cores in [0, 2] {
        for asked_first in [false, true] {
            for (name, blow) in blows {
                let (mut world, model) = with_namespaces(cores);
                let front = guest(&mut world, 5, "nvme0n1", cores);
                blow(&mut world, &model, front);
                let vbd = world.guests[front].vbd;
                if asked_first {
                    world.poke(|store| vbd.detach(store));
                }
                world.set_state(front, 5);
                world.until(&format!("Closing ({name})"), |w| w.state(front) >= 5);
                world.set_state(front, 6);
                let closed =
                    |w: &mut World| w.store.read(&vbd.back_dir()).is_none() || w.state(front) == 6;
                world.until(&format!("Closed ({name})"), closed);
                if !asked_first {
                    world.poke(|store| vbd.detach(store));
                }
                let gone = |w: &mut World| w.store.read(&vbd.back_dir()).is_none();
                world.until(&format!("removal ({name})"), gone);
                world.assert_nothing_left();
            }
        }
    }
}

/// A guest has `target` and loses it for a while, and another one with `ram0` does not notice. `lose` does
/// that in some way by the round's number, and tells whether the disk stays away until `come_back`.
/// With a write cache, one flush of the device fails after it.
fn assert_back(
    world: &mut World,
    (target, write_cache): (&str, bool),
    (cores, rounds): (usize, u64),
    lose: impl Fn(u64) -> bool,
    come_back: impl Fn(),
) {
    let first = guest(world, 5, target, cores);
    let other = guest(world, 6, "ram0", cores);
    for round in 0..rounds {
        world.write(first, 0, 0, round);
        let id = world.guests[first].flush(0);
        assert_eq!(world.answer(first, 0, id), RspStatus::OKAY);
        // What was not flushed may be lost with the power.
        world.write(first, 0, 16, round);
        let stays_away = lose(round);
        until_lost(world);
        if stays_away {
            undisturbed(world, other, 1000);
            for ring in 0..cores.max(1) {
                let id = world.guests[first].write(ring, 8, 2);
                assert_eq!(world.answer(first, ring, id), RspStatus::ERROR);
            }
            assert_refused(world, 7, target, &format!("{target} is lost: "));
            come_back();
        }
        undisturbed(world, other, 1000);
        until_back(world);
        for ring in 0..cores.max(1) {
            world.verify(first, ring, 0, round);
        }
        if write_cache {
            assert_one_flush_fails(world, first, cores.max(1));
        }
        for ring in 0..cores.max(1) {
            world.write(first, ring, 8, 7);
            world.verify(first, ring, 8, 7);
        }
        assert_eq!((world.state(first), world.error(first)), (4, None));
        undisturbed(world, other, 1000);
    }
    assert_eq!(world.holder(target), "5/51712:w");
    world.detach(first);
    world.detach(other);
}

/// Waits until the loss of the first disk is noticed, and every core has heard of it.
fn until_lost(world: &mut World) {
    world.until("loss", |w| w.remotes[0].borrow().masters == Some(false));
    world.pass(100);
}

/// Waits until the first disk is back, and works.
fn until_back(world: &mut World) {
    world.until("return", |w| w.remotes[0].borrow().masters == Some(true));
    world.pass(1000);
}

#[test]
fn a_lost_controller_is_back_for_those_who_have_it() {
    for cores in [0, 2] {
        for loose in [false, true] {
            let (mut world, model) = with_namespaces(cores);
            world.remotes[0].borrow_mut().loose = loose;
            let lose = |_| {
                model.vanish();
                true
            };
            let disk = ("nvme0n1", false);
            assert_back(&mut world, disk, (cores, 3), lose, || model.come_back());
            let next = guest(&mut world, 7, "nvme0n2", 1);
            world.write(next, 0, 0, 1);
            world.detach(next);
            assert_eq!(model.violations(), Vec::<String>::new());
        }
    }
}

/// Also if its rings were connected while the disk was away.
#[test]
fn what_a_lost_controller_had_in_its_cache_fails_one_flush_of_each_device() {
    for cores in [0, 2] {
        for reconnected in [false, true] {
            let (mut world, model) = with_namespaces_of(cores, true, |_| ());
            let first = guest(&mut world, 5, "nvme0n1", cores);
            let other = guest(&mut world, 6, "nvme0n2", cores);
            world.write(first, 0, 0, 1);
            if reconnected {
                world.set_state(first, 6);
                world.pass(500);
            }
            lose(&mut world, &model);
            if reconnected {
                world.set_state(first, 1);
                world.connect(first, cores.max(1), 1);
            }
            model.come_back();
            world.pass(10_000);
            for guest in [first, other] {
                assert_one_flush_fails(&mut world, guest, cores.max(1));
                world.detach(guest);
            }
        }
    }
}

#[test]
fn power_that_was_away_too_shortly_to_be_noticed_is_noticed_by_the_guests() {
    for cores in [0, 2] {
        let (mut world, model) = with_namespaces_of(cores, true, |_| ());
        let first = guest(&mut world, 5, "nvme0n1", cores);
        world.write(first, 0, 0, 1);
        model.vanish();
        model.come_back();
        until_back(&mut world);
        assert_one_flush_fails(&mut world, first, cores.max(1));
        world.write(first, 0, 0, 2);
        world.verify(first, 0, 0, 2);
        world.detach(first);
        world.assert_nothing_left();
    }
}

/// That the first flush of a guest with so many rings fails, and no other one.
fn assert_one_flush_fails(world: &mut World, guest: usize, rings: usize) {
    let mut expected = RspStatus::ERROR;
    for ring in (0..rings).chain(0..rings) {
        let id = world.guests[guest].flush(ring);
        assert_eq!(world.answer(guest, ring, id), expected);
        expected = RspStatus::OKAY;
    }
}

#[test]
fn another_disk_in_the_place_of_a_lost_one_gets_other_names() {
    for cores in [0, 2] {
        let (mut world, model) = with_namespaces(cores);
        let first = guest(&mut world, 5, "nvme0n1", cores);
        world.write(first, 0, 0, 1);
        world.until("health", |w| w.published("disk/nvme0").is_some());
        lose(&mut world, &model);
        model.arm(NvmeFault::OtherSerial);
        model.come_back();
        world.until("names", |w| w.published("targets/nvme1n1").is_some());
        let why = "another disk is in the place of its controller";
        assert_closed(&mut world, first, why);
        assert_refused(&mut world, 7, "nvme0n2", why);
        assert_eq!(world.published("targets/nvme0n1"), None);
        assert_eq!(world.published("disk/nvme0"), None);
        let _ = model.take_accesses();
        let next = guest(&mut world, 8, "nvme1n1", cores);
        world.write(next, 0, 16, 4);
        world.verify(next, 0, 16, 4);
        assert_closed(&mut world, first, why);
        let reached = model.take_accesses();
        let blocks: Vec<u64> = reached.iter().map(|a| a.block).collect();
        assert_eq!(blocks, [16, 16]);
        // It keeps these names when it is lost and back once more.
        lose(&mut world, &model);
        model.come_back();
        until_back(&mut world);
        world.verify(next, 0, 16, 4);
        for guest in [first, next] {
            world.detach(guest);
        }
        world.assert_nothing_left();
        assert_eq!(model.violations(), Vec::<String>::new());
    }
}

#[test]
fn another_disk_does_not_get_the_name_of_a_controller_without_volumes() {
    let setup = Setup {
        cores: 2,
        ..Setup::default()
    };
    let mut models = Vec::new();
    let mut world = World::new(setup, |machine, disks| {
        for (number, blocks) in [(0, 2048), (1, 0)] {
            let config = NvmeConfig {
                namespaces: vec![NamespaceConfig::new(1, blocks, 9)],
                ..NvmeConfig::default()
            };
            let model = FakeNvme::new(machine.bus.clone(), config);
            let options = DiskOptions {
                queues: 2,
                depth: 16,
                ..DiskOptions::default()
            };
            disks.add_nvme(&model, number, options);
            models.push(model);
        }
    });
    lose(&mut world, &models[0]);
    models[0].arm(NvmeFault::OtherSerial);
    models[0].come_back();
    world.until("names", |w| w.published("targets/nvme2n1").is_some());
    assert_eq!(world.published("targets/nvme1n1"), None);
}

#[test]
fn a_lost_controller_is_probed_less_and_less_often_and_not_while_a_core_is_late() {
    let (mut world, model) = with_namespaces(2);
    let probed = |world: &World| world.remotes[0].borrow().probed;
    lose(&mut world, &model);
    world.pass(130_000);
    let count = probed(&world);
    // After 1, 3, 7, 15, 31, 63 and 123 seconds.
    assert_eq!(count, 7);
    model.come_back();
    // A minute and more after it is back, what was before does not count.
    world.pass(125_000);
    assert_eq!(probed(&world), count + 1);
    let guest = guest(&mut world, 5, "nvme0n1", 2);
    world.write(guest, 0, 0, 1);
    // A core that hears late of the loss would take its queue out of use.
    world.machine.hang(1, true);
    lose(&mut world, &model);
    model.come_back();
    world.pass(8000);
    assert_eq!(probed(&world), count + 1);
    world.machine.hang(1, false);
    world.pass(4000);
    assert_eq!(probed(&world), count + 2);
    for ring in 0..2 {
        world.write(guest, ring, 0, 2);
        world.verify(guest, ring, 0, 2);
    }
    world.detach(guest);
    world.assert_nothing_left();
}

#[test]
fn a_controller_that_is_lost_again_and_again_is_brought_up_less_and_less_often() {
    let (mut world, model) = with_namespaces(2);
    let guest = guest(&mut world, 5, "nvme0n1", 2);
    let other = self::guest(&mut world, 6, "ram0", 2);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        lose(&mut world, &model);
        model.come_back();
        let before = world.now();
        world.until("return", |w| w.remotes[0].borrow().masters == Some(true));
        let took = world.now() - before;
        let about = seconds * SECOND;
        assert!(
            took + SECOND / 2 > about && took < about + 3 * SECOND / 2,
            "{took} ns, not {seconds} s"
        );
        undisturbed(&mut world, other, 500);
        world.write(guest, 0, 0, seconds);
    }
}

#[test]
fn a_controller_that_is_slow_to_come_up_is_served_without_a_restart() {
    for (cores, asked) in [(0, false), (2, false), (2, true)] {
        let (mut world, model) = with_namespaces_that(cores, FakeNvme::vanish);
        let other = guest(&mut world, 6, "ram0", cores);
        undisturbed(&mut world, other, 3000);
        let why = "nvme0 is out of use: controller does not answer";
        assert_refused(&mut world, 7, "nvme0n1", why);
        // By then the next look is half a minute away.
        undisturbed(&mut world, other, 32_000);
        model.come_back();
        let before = world.now();
        if asked {
            assert_eq!(rescan(&mut world), "1\nnvme0 works\nram0 works");
            assert!(world.now() - before < SECOND);
        } else {
            world.until("offer", |w| w.published("targets/nvme0n1").is_some());
        }
        undisturbed(&mut world, other, 1000);
        assert_eq!(world.holder("nvme0n1"), "-");
        assert_eq!(world.published("targets/nvme1n1"), None);
        let first = guest(&mut world, 7, "nvme0n1", cores);
        for ring in 0..cores.max(1) {
            world.write(first, ring, 0, 3);
            world.verify(first, ring, 0, 3);
        }
        assert_refused(&mut world, 8, "nvme0n7", "no such target");
        for guest in [first, other] {
            world.detach(guest);
        }
        world.assert_nothing_left();
        assert_eq!(model.violations(), Vec::<String>::new());
    }
}

/// dom0 writes the node that asks for a look; gives the answer.
fn rescan(world: &mut World) -> String {
    let before = world.published("rescanned").map(str::to_string);
    let path = format!("/local/domain/{BACKEND}/data/spindle/rescan");
    world.poke(|store| store.write(&path, "1"));
    world.until("answer", |w| w.published("rescanned") != before.as_deref());
    world.published("rescanned").unwrap().to_string()
}

#[test]
fn a_look_is_asked_for_by_a_node_and_answered() {
    for cores in [0, 2] {
        let (mut world, model) = with_namespaces(cores);
        let first = guest(&mut world, 5, "nvme0n1", cores);
        world.write(first, 0, 0, 1);
        assert_eq!(world.published("rescanned"), None, "nothing was asked");
        assert_eq!(rescan(&mut world), "1\nnvme0 works\nram0 works");
        lose(&mut world, &model);
        world.pass(40_000);
        let probed = world.remotes[0].borrow().probed;
        let answer = rescan(&mut world);
        let (start, end) = ("2\nnvme0 is lost: ", "\nram0 works");
        assert!(
            answer.starts_with(start) && answer.ends_with(end),
            "{answer}"
        );
        assert_eq!(world.remotes[0].borrow().probed, probed + 1);
        model.come_back();
        let before = world.now();
        assert_eq!(rescan(&mut world), "3\nnvme0 works\nram0 works");
        assert!(world.now() - before < SECOND, "it waits for no other look");
        world.verify(first, 0, 0, 1);
        world.detach(first);
        world.assert_nothing_left();
    }
}

#[test]
fn who_asks_again_and_again_is_answered_in_time() {
    let (mut world, model) = with_namespaces(2);
    model.hold_admin();
    let path = format!("/local/domain/{BACKEND}/data/spindle/rescan");
    let start = world.now();
    while world.published("rescanned").is_none() {
        world.poke(|store| store.write(&path, "1"));
        world.pass(5000);
        assert!(world.now() - start < 45 * SECOND, "no answer");
    }
    assert!(
        world.now() - start >= 30 * SECOND,
        "it is still being asked"
    );
}

#[test]
fn the_answer_to_a_look_says_which_disk_is_still_being_brought_up() {
    let mut model = None;
    let mut world = World::new(Setup::default(), |machine, disks| {
        // It asks for 50 s to become ready, which is longer than who asks is left without an answer.
        let config = NvmeConfig {
            timeout: 100,
            ..NvmeConfig::default()
        };
        let controller = FakeNvme::new(machine.bus.clone(), config);
        disks.add_nvme(&controller, 0, DiskOptions::default());
        disks.add_ram("ram0", 1 << 20);
        model = Some(controller);
    });
    let model = model.unwrap();
    lose(&mut world, &model);
    world.pass(5000);
    model.arm(NvmeFault::NeverReady);
    model.come_back();
    let text = "1\nnvme0 is still being brought up\nram0 works";
    assert_eq!(rescan(&mut world), text);
    world.pass(60_000);
    let answer = rescan(&mut world);
    assert!(answer.starts_with("2\nnvme0 is "), "{answer}");
    model.repair();
    world.until("work", |w| rescan(w).ends_with("nvme0 works\nram0 works"));
}

#[test]
fn a_controller_that_cannot_be_kept_from_memory_is_not_brought_up_again_and_again() {
    let (mut world, model) = with_namespaces(2);
    world.remotes[0].borrow_mut().loose = true;
    let guest = guest(&mut world, 5, "nvme0n1", 2);
    let works = |world: &mut World| {
        let id = world.guests[guest].write(0, 8, 2);
        world.answer(guest, 0, id) == RspStatus::OKAY
    };
    for round in 1..=4 {
        assert!(works(&mut world), "{round}");
        if round == 4 {
            // What was asked for while it worked is no consent to what comes later.
            assert_eq!(rescan(&mut world), "1\nnvme0 works\nram0 works");
        }
        lose(&mut world, &model);
        model.come_back();
        world.pass(5000);
    }
    let probed = world.remotes[0].borrow().probed;
    assert_eq!(probed, 3);
    world.pass(300_000);
    assert!(!works(&mut world));
    assert_eq!(world.remotes[0].borrow().probed, probed);
    assert_eq!(rescan(&mut world), "2\nnvme0 works\nram0 works");
    assert!(works(&mut world));
}

#[test]
fn one_that_comes_late_with_fewer_queues_than_cores_is_refused_with_what_helps() {
    let setup = Setup {
        cores: 2,
        ..Setup::default()
    };
    let mut model = None;
    let mut world = World::new(setup, |machine, disks| {
        let config = NvmeConfig {
            queues: 1,
            ..NvmeConfig::default()
        };
        let controller = FakeNvme::new(machine.bus.clone(), config);
        controller.vanish();
        let options = DiskOptions {
            queues: 2,
            ..DiskOptions::default()
        };
        disks.add_nvme(&controller, 0, options);
        model = Some(controller);
    });
    world.pass(100);
    model.unwrap().come_back();
    rescan(&mut world);
    let why = "grants 1 queues, and cores have 2; after a restart of this domain only 1 of them";
    assert_refused(&mut world, 7, "nvme0n1", why);
}

#[test]
fn what_no_event_tells_of_is_found_on_request() {
    let (mut world, model) = with_namespaces_that(2, |model| {
        // Asynchronous Event Request.
        model.arm(NvmeFault::FailAdmin(0x0c, 0x4002));
    });
    let other = guest(&mut world, 6, "nvme0n2", 2);
    model.resize(3, 64);
    undisturbed(&mut world, other, 3000);
    assert_eq!(world.published("targets/nvme0n3"), None);
    rescan(&mut world);
    world.pass(20);
    assert_eq!(world.holder("nvme0n3"), "-");
    undisturbed(&mut world, other, 1000);
}

/// A domain with a virtio disk, which is changed before it is started, and a RAM disk.
fn with_virtio(cores: usize, change: impl FnOnce(&FakeVirtio)) -> (World, FakeVirtio) {
    let setup = Setup {
        cores,
        ..Setup::default()
    };
    let mut model = None;
    let world = World::new(setup, |machine, disks| {
        let device = FakeVirtio::new(machine.bus.clone(), VirtioConfig::default());
        change(&device);
        let options = DiskOptions {
            queues: cores.max(1) as u16,
            depth: 16,
            ..DiskOptions::default()
        };
        disks.add_virtio(&device, 0, options);
        disks.add_ram("ram0", 1 << 20);
        model = Some(device);
    });
    (world, model.unwrap())
}

#[test]
fn a_lost_virtio_disk_is_back_for_those_who_have_it() {
    for cores in [0, 2] {
        for loose in [false, true] {
            let (mut world, model) = with_virtio(cores, |_| ());
            world.remotes[0].borrow_mut().loose = loose;
            let lose = |round| {
                let unplug = round % 2 == 0;
                match unplug {
                    true => model.vanish(),
                    false => model.die(),
                }
                unplug
            };
            // One that cannot be kept from memory comes back by itself three times.
            let rounds = if loose { 3 } else { 4 };
            let disk = ("vda", true);
            assert_back(&mut world, disk, (cores, rounds), lose, || {
                model.come_back()
            });
            if !loose {
                world.assert_nothing_left();
            }
            assert_eq!(model.violations(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_virtio_disk_that_was_plugged_in_larger_is_larger_for_its_guest() {
    let (mut world, model) = with_virtio(2, |_| ());
    let first = guest(&mut world, 5, "vda", 2);
    model.vanish();
    until_lost(&mut world);
    model.come_back_as(VirtioConfig {
        sectors: 8192,
        ..VirtioConfig::default()
    });
    let path = world.guests[first].vbd.back("sectors");
    world.until("size", |w| w.store.text(&path) == Some("8192"));
    world.pass(100);
    world.write(first, 1, 8000, 3);
    world.verify(first, 0, 8000, 3);
    world.detach(first);
    world.assert_nothing_left();
    assert_eq!(model.violations(), Vec::<String>::new());
}

#[test]
fn another_virtio_disk_in_the_place_of_a_lost_one_gets_another_name() {
    for cores in [0, 2] {
        let (mut world, model) = with_virtio(cores, |_| ());
        let first = guest(&mut world, 5, "vda", cores);
        world.write(first, 0, 0, 1);
        model.vanish();
        until_lost(&mut world);
        model.come_back_as(VirtioConfig {
            serial: Some("another"),
            ..VirtioConfig::default()
        });
        world.until("names", |w| w.published("targets/vdb").is_some());
        let why = "another disk is in its place";
        assert_closed(&mut world, first, why);
        assert_refused(&mut world, 7, "vda", why);
        assert_refused(&mut world, 7, "virtio-spindle_7", why);
        assert_eq!(world.published("targets/vda"), None);
        let requests = model.requests().len();
        let next = guest(&mut world, 8, "virtio-another", cores);
        world.write(next, 0, 16, 4);
        world.verify(next, 0, 16, 4);
        assert_closed(&mut world, first, why);
        assert_eq!(model.requests()[requests..], [1, 0]);
        // It keeps that name when it is lost and back once more.
        model.die();
        until_lost(&mut world);
        until_back(&mut world);
        world.verify(next, 0, 16, 4);
        for guest in [first, next] {
            world.detach(guest);
        }
        world.assert_nothing_left();
        assert_eq!(model.violations(), Vec::<String>::new());
    }
}

#[test]
fn a_virtio_device_that_failed_at_boot_is_tried_again_and_on_request() {
    for cores in [0, 2] {
        let (mut world, model) =
            with_virtio(cores, |model| model.arm(VirtioFault::RefusesFeatures));
        assert_refused(&mut world, 5, "vda", "device refuses features");
        assert_eq!(world.published("targets/vda"), None);
        let answer = rescan(&mut world);
        assert!(
            answer.starts_with(
                "1
vda is lost: "
            ),
            "{answer}"
        );
        let other = guest(&mut world, 6, "ram0", cores);
        undisturbed(&mut world, other, 60_000);
        let probed = world.remotes[0].borrow().probed;
        // After 1, 3, 7, 15 and 31 seconds, and on request.
        assert!((5..8).contains(&probed), "{probed}");
        model.repair(VirtioFault::RefusesFeatures);
        assert_eq!(
            rescan(&mut world),
            "2
vda works
ram0 works"
        );
        let list = world.published("disks").unwrap();
        assert!(list.contains("vda 2048 512 w"), "{list}");
        let first = guest(&mut world, 5, "virtio-spindle_7", cores);
        for ring in 0..cores.max(1) {
            world.write(first, ring, 8, 2);
            world.verify(first, ring, 8, 2);
        }
        world.detach(first);
        world.detach(other);
        world.assert_nothing_left();
        assert_eq!(model.violations(), Vec::<String>::new());
    }
}

/// A disk of so many blocks of 512 bytes, with a partition of 448 of them from block 64 on.
fn partitioned(blocks: u64) -> Vec<u8> {
    let table = Gpt::new(9, blocks).with(1, 64, 511, "data");
    table.sealed().image()
}

#[test]
fn partitions_of_a_namespace_that_comes_later_become_targets() {
    for cores in [0, 2] {
        let (mut world, model) = with_namespaces(cores);
        let other = guest(&mut world, 6, "nvme0n2", cores);
        model.resize(3, 1024);
        model.fill(3, &partitioned(1024));
        undisturbed(&mut world, other, 2000);
        let list = world.published("targets/nvme0n3").unwrap();
        assert!(list.contains("nvme0n3p1 448 512 w -"), "{list}");
        let part = guest(&mut world, 7, "PARTLABEL=data", cores);
        world.write(part, 0, 8, 3);
        world.verify(part, 0, 8, 3);
        assert_eq!(model.contents(3)[72 * 512..80 * 512], pattern(3));
        // It goes with its namespace, and comes again only if it is there again.
        model.resize(3, 0);
        undisturbed(&mut world, other, 2000);
        assert_closed(&mut world, part, "the controller has it no longer");
        assert_refused(
            &mut world,
            8,
            "nvme0n3p1",
            "the controller has it no longer",
        );
        model.resize(3, 1024);
        undisturbed(&mut world, other, 2000);
        let list = world.published("targets/nvme0n3").unwrap();
        assert!(!list.contains("nvme0n3p1"), "{list}");
        for guest in [part, other] {
            world.detach(guest);
        }
        world.assert_nothing_left();
        assert_eq!((model.resets(), model.violations()), (0, Vec::new()));
    }
}

#[test]
fn a_table_that_a_guest_has_written_is_read_again_on_request_and_not_under_a_guest() {
    for cores in [0, 2] {
        let (mut world, model) = with_namespaces(cores);
        let whole = guest(&mut world, 5, "nvme0n1", cores);
        model.fill(1, &partitioned(2048));
        rescan(&mut world);
        assert_refused(&mut world, 7, "nvme0n1p1", "no such target");
        world.detach(whole);
        assert_refused(&mut world, 7, "nvme0n1p1", "no such target");
        rescan(&mut world);
        let part = guest(&mut world, 7, "nvme0n1p1", cores);
        // It has left the table of targets meanwhile.
        model.fill(1, &[0; 512]);
        rescan(&mut world);
        undisturbed(&mut world, part, 1000);
        assert_eq!(model.contents(1)[..512], [0; 512]);
        world.detach(part);
        rescan(&mut world);
        assert_refused(&mut world, 7, "nvme0n1p1", "no such target");
        // One that had the whole disk makes what was read before untrustworthy.
        model.fill(1, &partitioned(2048));
        rescan(&mut world);
        let whole = guest(&mut world, 5, "nvme0n1", cores);
        world.detach(whole);
        assert_refused(&mut world, 8, "nvme0n1p1", "may not be where it was");
        rescan(&mut world);
        let part = guest(&mut world, 7, "nvme0n1p1", cores);
        undisturbed(&mut world, part, 100);
        world.detach(part);
        world.assert_nothing_left();
    }
}

#[test]
fn partitions_of_a_virtio_disk_that_comes_late_become_targets() {
    for cores in [0, 2] {
        let (mut world, model) =
            with_virtio(cores, |model| model.arm(VirtioFault::RefusesFeatures));
        model.fill(&partitioned(2048));
        assert_refused(&mut world, 5, "vda1", "device refuses features");
        model.repair(VirtioFault::RefusesFeatures);
        rescan(&mut world);
        let part = guest(&mut world, 5, "vda1", cores);
        world.write(part, 0, 8, 3);
        assert_eq!(model.contents()[72 * 512..80 * 512], pattern(3));
        world.detach(part);
        world.assert_nothing_left();
    }
}

#[test]
fn a_table_is_read_though_a_core_hangs_and_though_the_disk_is_lost_meanwhile() {
    for hung in [Some(0), Some(1), None] {
        for loose in [false, true] {
            let (mut world, model) = with_namespaces(2);
            world.remotes[0].borrow_mut().loose = loose;
            let ram = guest(&mut world, 6, "ram0", 1);
            if let Some(core) = hung {
                // It has something to do, by which it is known.
                world.machine.hang(core, true);
                model.resize(2, 0);
                world.pass(2000);
            } else {
                model.arm(NvmeFault::SwallowIo(2));
            }
            model.resize(3, 1024);
            model.fill(3, &partitioned(1024));
            world.pass(2000);
            if hung.is_none() {
                assert!(world.published("targets/nvme0n3").is_some());
                model.vanish();
                undisturbed(&mut world, ram, 2000);
                model.come_back();
                undisturbed(&mut world, ram, 5000);
            }
            world.until("partition", |w| {
                let list = w.published("targets/nvme0n3");
                list.is_some_and(|list| list.contains("nvme0n3p1"))
            });
            if let Some(core) = hung {
                world.machine.hang(core, false);
            }
            world.detach(ram);
            world.assert_nothing_left();
            assert_eq!(model.violations(), Vec::<String>::new());
        }
    }
}

#[test]
fn what_a_core_answers_before_it_knows_of_a_loss_counts_for_the_rings_to_come() {
    let (mut world, model) = with_namespaces_of(1, true, |_| ());
    let first = guest(&mut world, 5, "nvme0n1", 1);
    world.write(first, 0, 0, 1);
    // Carried out by the disk, and not seen by the core.
    let before = model.commands();
    let flush = world.guests[first].flush(0);
    let write = world.guests[first].write(0, 8, 2);
    let submitted = world.run_until(SECOND, |_| model.commands() == before + 2);
    assert!(submitted.is_some());
    world.machine.hang(0, true);
    world.set_state(first, 6);
    world.pass(500);
    lose(&mut world, &model);
    world.machine.hang(0, false);
    world.until("Closed", |w| w.state(first) == 6);
    let mut answers = world.guests[first].take_answers(0);
    answers.sort_by_key(|answer| answer.id);
    let answers: Vec<_> = answers.iter().map(|it| (it.id, it.status)).collect();
    let expected = [(flush, RspStatus::ERROR), (write, RspStatus::OKAY)];
    assert_eq!(
        answers, expected,
        "it has heard of a loss before that write"
    );
    world.set_state(first, 1);
    world.connect(first, 1, 1);
    model.come_back();
    until_back(&mut world);
    assert_one_flush_fails(&mut world, first, 1);
}

#[test]
fn a_twin_of_a_controller_that_may_still_write_is_refused_until_that_is_back() {
    let (mut world, models) = with_twins();
    let name = "nvme-SPINDLE-0001-n1";
    world.remotes[0].borrow_mut().loose = true;
    lose(&mut world, &models[0]);
    for target in [name, "nvme1n1"] {
        assert_refused(
            &mut world,
            5,
            target,
            "nvme0 has the same namespace, is lost",
        );
    }
    models[0].come_back();
    until_back(&mut world);
    let guest = guest(&mut world, 6, "nvme1n1", 2);
    undisturbed(&mut world, guest, 100);
}

/// A disk without a serial number is known by nothing but its size: after a time in which it may have
/// been exchanged it is another one.
#[test]
fn a_disk_without_a_serial_number_that_was_plugged_in_again_between_two_looks_is_another_one() {
    let plain = || VirtioConfig {
        serial: None,
        ..VirtioConfig::default()
    };
    for cores in [0, 2] {
        let setup = Setup {
            cores,
            ..Setup::default()
        };
        let mut model = None;
        let mut world = World::new(setup, |machine, disks| {
            let device = FakeVirtio::new(machine.bus.clone(), plain());
            let options = DiskOptions {
                queues: cores.max(1) as u16,
                depth: 16,
                ..DiskOptions::default()
            };
            disks.add_virtio(&device, 0, options);
            model = Some(device);
        });
        let model = model.unwrap();
        let first = guest(&mut world, 5, "vda", cores);
        world.write(first, 0, 0, 1);
        model.die();
        until_lost(&mut world);
        model.vanish();
        model.come_back_as(plain());
        until_back(&mut world);
        assert_closed(&mut world, first, "another disk is in its place");
        assert_eq!(
            model.contents()[..4096],
            [0; 4096],
            "nothing was written to it"
        );
        let next = guest(&mut world, 6, "vdb", cores);
        world.write(next, 0, 0, 2);
        for guest in [first, next] {
            world.detach(guest);
        }
        world.assert_nothing_left();
    }
}

#[test]
fn a_twin_of_one_that_did_not_stop_is_refused() {
    let (mut world, models) = with_twins();
    let first = guest(&mut world, 5, "nvme0n1", 2);
    models[0].hang();
    world.guests[first].write(0, 0, 1);
    world.pass(10);
    models[0].arm(NvmeFault::NeverIdle);
    models[0].die();
    until_lost(&mut world);
    world.pass(100);
    world.detach(first);
    let reason = "nvme0 has the same namespace, is lost";
    assert_refused(&mut world, 6, "nvme1n1", reason);
    // Nor is its table read, which may still be written.
    models[1].fill(1, &partitioned(models[1].contents(1).len() as u64 / 512));
    let has_partition = |world: &World| {
        let list = world.published("targets/nvme1n1").unwrap();
        list.contains("nvme1n1p1")
    };
    assert!(rescan(&mut world).contains("nvme0 is lost: "));
    assert!(!has_partition(&world));
    // It is pulled out: what it had not finished went with its power.
    models[0].vanish();
    rescan(&mut world);
    world.pass(2000);
    assert!(has_partition(&world));
    let next = guest(&mut world, 6, "nvme1n1", 2);
    world.write(next, 0, 0, 2);
    world.detach(next);
    models[0].come_back();
    until_back(&mut world);
    let next = guest(&mut world, 6, "nvme0n1", 2);
    world.write(next, 0, 0, 2);
    world.detach(next);
}
