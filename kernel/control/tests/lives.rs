//! Every way in which a device's life can go: attaches that fail half-way, disks that are lost or
//! change their size in every state, cores that hang.

use spindle_blkif::Session;
use spindle_blkif::abi::{Abi, RspStatus};
use spindle_block::DiskOptions;
use spindle_control::CONTROLS_SHARE;
use spindle_testkit::grants::{Call, Fault};
use spindle_testkit::nvme::{Config as NvmeConfig, FakeNvme};
use spindle_testkit::virtio::{Config as VirtioConfig, FakeVirtio};
use spindle_xen::Errno;
use spindle_xen::grant::Status;

use spindle_simulate::world::disks::Table;
use spindle_simulate::world::machine::Machine;
use spindle_simulate::world::{MS, SECOND, Setup, World};

/// Frames of a ring's cache.
const CACHE: usize = 32 * 33;

fn options(cores: usize) -> DiskOptions {
    DiskOptions {
        queues: cores.max(1) as u16,
        depth: 16,
        ..DiskOptions::default()
    }
}

fn with_ram(setup: Setup) -> World {
    World::new(setup, |_, disks| disks.add_ram("ram0", 1 << 20))
}

/// A world whose only disk is on the model that `add` makes and returns.
fn with_model<M>(cores: usize, add: impl FnOnce(&'static Machine, &mut Table) -> M) -> (World, M) {
    let mut model = None;
    let setup = Setup {
        cores,
        ..Setup::default()
    };
    let world = World::new(setup, |machine, disks| model = Some(add(machine, disks)));
    (world, model.unwrap())
}

fn with_virtio(cores: usize) -> (World, FakeVirtio) {
    with_model(cores, |machine, disks| {
        let device = FakeVirtio::new(machine.bus.clone(), VirtioConfig::default());
        disks.add_virtio(&device, 0, options(cores));
        device
    })
}

fn with_nvme(cores: usize) -> (World, FakeNvme) {
    with_model(cores, |machine, disks| {
        let controller = FakeNvme::new(machine.bus.clone(), NvmeConfig::default());
        disks.add_nvme(&controller, 0, options(cores));
        controller
    })
}

/// Bytes of heap that a ring of one page takes.
fn footprint() -> usize {
    Session::footprint(1, Abi::Native, CACHE, true, false, 0)
}

/// Publishes two rings, of which something refuses the second or a page of it, and expects an error
/// with `text` in it and nothing left. Then the frontend tries again, and has its disk.
fn refused_half_way(
    mut world: World,
    pages: usize,
    text: &str,
    make: impl Fn(&mut World, usize),
    mend: impl Fn(&Machine),
) {
    let guest = world.attach(5, 51712, "ram0", "w");
    world.until("InitWait", |w| w.state(guest) == 2);
    let before = world.machine.left();
    make(&mut world, guest);
    world.publish(guest, 2, pages);
    world.until("error", |w| w.error(guest).is_some());
    let error = world.error(guest).unwrap().to_string();
    assert!(error.contains(text), "{error}");
    assert_eq!(world.machine.left(), before, "after: {error}");
    assert_eq!(world.holder("ram0"), "5/51712:w");
    mend(world.machine);
    for state in [5, 6] {
        world.set_state(guest, state);
        world.pass(500);
    }
    world.set_state(guest, 1);
    world.connect(guest, 2, pages);
    for ring in 0..2 {
        world.write(guest, ring, 8, 7 + ring as u64);
        world.verify(guest, 1 - ring, 8, 7 + ring as u64);
    }
    world.detach(guest);
    assert_eq!(world.machine.left(), before);
    assert_eq!(world.holder("ram0"), "-");
}

#[test]
fn a_ring_that_cannot_be_mapped_takes_the_others_with_it() {
    for pages in [1, 4] {
        for page in 0..pages as u64 {
            for (fault, text) in [
                (Fault::Operation(Status::BAD_GNTREF), "grant status -3"),
                (Fault::Hypercall(Errno::ENOMEM), "cannot map the ring"),
            ] {
                let ahead = pages as u64 + page;
                let make = |world: &mut World, _: usize| {
                    world.machine.grants.inject(Call::Map, ahead, fault);
                };
                refused_half_way(with_ram(Setup::default()), pages, text, make, |_| {});
            }
        }
    }
}

#[test]
fn a_ring_without_an_event_channel_takes_the_others_with_it() {
    let make = |world: &mut World, _: usize| world.machine.refuse_bind(1);
    let text = "cannot bind event-channel";
    refused_half_way(with_ram(Setup::default()), 1, text, make, |_| {});
}

#[test]
fn a_ring_for_which_there_is_no_memory_takes_the_others_with_it() {
    let mend = |machine: &Machine| machine.heap.set(64 << 20);
    let ring = footprint();
    // Enough for both, but one guest may have half of what there is for rings: 1.5 of them, and 2 KiB.
    let heap = 2 * ring + 4096;
    let (need, own, most) = (ring.div_ceil(1024), ring / 1024, (3 * ring + 4096) / 2048);
    let share_used_up = format!(
        "share of memory is used up: the ring takes {need} KiB, its other rings take {own} KiB, and \
         one guest may have {most} KiB;"
    );
    let left = (ring - 1) / 1024;
    let no_memory = format!("not enough memory: the ring takes {need} KiB of the {left} KiB left;");
    for (heap, text) in [(heap, share_used_up), (ring - 1, no_memory)] {
        let make = |world: &mut World, _: usize| world.machine.heap.set(CONTROLS_SHARE + heap);
        refused_half_way(with_ram(Setup::default()), 1, &text, make, mend);
    }
}

#[test]
fn a_ring_that_takes_the_last_of_the_memory_is_served() {
    let mut world = with_ram(Setup::default());
    world.machine.heap.set(CONTROLS_SHARE + footprint());
    let guest = world.attach(5, 51712, "ram0", "w");
    world.connect(guest, 1, 1);
    world.write(guest, 0, 8, 7);
    world.verify(guest, 0, 8, 7);
    world.detach(guest);
    world.assert_nothing_left();
}

#[test]
fn a_ring_without_frames_takes_the_others_with_it() {
    let make = |world: &mut World, _: usize| world.machine.frames_left.set(1 + CACHE);
    let mend = |machine: &Machine| machine.frames_left.set(1 << 18);
    let text = "no guest frames left";
    refused_half_way(with_ram(Setup::default()), 1, text, make, mend);
}

#[test]
fn a_ring_without_frames_for_a_cache_is_served_by_copies() {
    let mut world = with_ram(Setup::default());
    world.machine.frames_left.set(2 + CACHE);
    let guest = world.attach(5, 51712, "ram0", "w");
    world.connect(guest, 2, 1);
    for ring in 0..2 {
        world.write(guest, ring, 8 * ring as u64, 1);
        world.verify(guest, 1 - ring, 8 * ring as u64, 1);
    }
    assert!(world.machine.grants.counts().copies > 0);
    world.detach(guest);
    world.assert_nothing_left();
    assert_eq!(world.machine.frames_left.get(), 2 + CACHE);
}

#[test]
fn a_ring_that_its_core_refuses_takes_the_others_with_it() {
    let setup = Setup {
        rings: 1,
        ..Setup::default()
    };
    let mut world = World::new(setup, |_, disks| {
        disks.add_ram("ram0", 1 << 20);
        disks.add_ram("ram1", 1 << 20);
    });
    let first = world.attach(5, 51712, "ram0", "w");
    world.connect(first, 1, 1);
    let before = world.machine.left();
    let second = world.attach(6, 51712, "ram1", "w");
    world.until("InitWait", |w| w.state(second) == 2);
    world.publish(second, 2, 1);
    world.until("error", |w| w.error(second).is_some());
    let error = world.error(second).unwrap();
    assert!(error.contains("no place for another ring"), "{error}");
    assert_eq!(world.machine.left(), before);
    // The other guest does not notice; with one ring the second has its disk as well, on the core
    // that has room.
    world.write(first, 0, 0, 1);
    for state in [5, 6] {
        world.set_state(second, state);
        world.pass(500);
    }
    world.set_state(second, 1);
    world.connect(second, 1, 1);
    world.write(second, 0, 0, 2);
    world.verify(first, 0, 0, 1);
    world.verify(second, 0, 0, 2);
    world.detach(second);
    world.detach(first);
    world.assert_nothing_left();
}

#[test]
fn rings_that_were_refused_do_not_count_where_others_are_placed() {
    let setup = Setup {
        rings: 1,
        ..Setup::default()
    };
    let mut world = World::new(setup, |_, disks| {
        disks.add_ram("ram0", 1 << 20);
        disks.add_ram("ram1", 1 << 20);
        disks.change(1, |disk| disk.queues = Some(1));
    });
    // Only the first core has a queue on this one, and is refused two rings of it.
    for device in [51712, 51728] {
        let guest = world.attach(5, device, "ram1", "w!");
        world.until("InitWait", |w| w.state(guest) == 2);
        world.machine.refuse_bind(0);
        world.publish(guest, 1, 1);
        world.until("error", |w| w.error(guest).is_some());
        world.destroy(guest);
    }
    for frontend in [6, 7] {
        let guest = world.attach(frontend, 51712, "ram0", "w!");
        world.connect(guest, 1, 1);
        world.write(guest, 0, 0, 3);
        world.verify(guest, 0, 0, 3);
    }
}

#[test]
fn a_disk_without_queues_is_not_connected() {
    let mut world = World::new(Setup::default(), |_, disks| {
        disks.add_ram("ram0", 1 << 20);
        disks.change(0, |disk| disk.queues = Some(0));
    });
    let guest = world.attach(5, 51712, "ram0", "w");
    world.until("InitWait", |w| w.state(guest) == 2);
    world.publish(guest, 1, 1);
    world.until("error", |w| w.error(guest).is_some());
    let error = world.error(guest).unwrap();
    assert!(error.contains("no ring core has a queue"), "{error}");
    world.destroy(guest);
    world.assert_nothing_left();
}

#[test]
fn a_disk_with_a_queue_on_one_core_has_all_rings_there() {
    let mut world = World::new(Setup::default(), |_, disks| {
        disks.add_ram("ram0", 1 << 20);
        disks.change(0, |disk| disk.queues = Some(1));
    });
    for device in [51712, 51728] {
        let guest = world.attach(5, device, "ram0", "w!");
        world.connect(guest, 1, 1);
        world.write(guest, 0, 0, 3);
    }
    let offered = world.guests[0].vbd.back("multi-queue-max-queues");
    assert_eq!(world.store.text(&offered), Some("1"));
    for guest in 0..2 {
        world.verify(guest, 0, 0, 3);
        world.detach(guest);
    }
    world.assert_nothing_left();
}

#[test]
fn a_ring_that_breaks_the_protocol_is_halted_and_others_go_on() {
    for cores in [0, 2] {
        let setup = Setup {
            cores,
            ..Setup::default()
        };
        let mut world = World::new(setup, |_, disks| {
            disks.add_ram("ram0", 1 << 20);
            disks.add_ram("ram1", 1 << 20);
        });
        let good = world.attach(5, 51712, "ram0", "w");
        let bad = world.attach(6, 51712, "ram1", "w");
        world.connect(good, 1, 1);
        world.connect(bad, 1, 1);
        world.guests[bad].overrun(0);
        world.until("error", |w| w.error(bad).is_some());
        let error = world.error(bad).unwrap();
        assert!(error.contains("ring halted"), "{error}");
        world.write(good, 0, 0, 1);
        world.verify(good, 0, 0, 1);
        world.destroy(bad);
        world.detach(good);
        world.assert_nothing_left();
    }
}

#[test]
fn a_disk_that_is_lost_while_a_ring_drains_lets_the_ring_go() {
    for cores in [0, 2] {
        for loose in [false, true] {
            let (mut world, model) = with_virtio(cores);
            let guest = world.attach(5, 51712, "vda", "w");
            world.connect(guest, cores.max(1), 1);
            world.write(guest, 0, 0, 1);
            model.hold();
            let id = world.guests[guest].write(0, 8, 2);
            world.pass(10);
            let vbd = world.guests[guest].vbd;
            world.poke(|store| vbd.detach(store));
            world.until("Closing", |w| w.state(guest) == 5);
            world.set_state(guest, 6);
            // The disk holds the request, so that the ring stays.
            world.pass(3000);
            assert_eq!(world.state(guest), 5);
            assert!(world.machine.left()[0] > 0);
            if loose {
                world.remotes[0].borrow_mut().lose = Some(false);
            } else {
                model.die();
            }
            world.until("removal", |w| w.store.read(&vbd.back_dir()).is_none());
            let answers = world.guests[guest].take_answers(0);
            assert_eq!(answers.len(), 1, "cores {cores}, loose {loose}");
            assert_eq!((answers[0].id, answers[0].status), (id, RspStatus::ERROR));
            world.pass(100);
            // What a disk may still write to is not used again.
            assert_eq!(world.machine.left(), [0, 0, usize::from(loose)]);
            assert_eq!(world.holder("vda"), "-");
            // It is not given out any more, and one that is refused it does not keep it from others.
            for frontend in [6, 7] {
                let next = world.attach(frontend, 51712, "vda", "w");
                world.until("error", |w| w.error(next).is_some());
                let error = world.error(next).unwrap();
                assert!(error.contains("vda is lost"), "{error}");
                assert_eq!(world.holder("vda"), "-");
            }
        }
    }
}

/// A connected guest asks a disk that has been lost for a while, on cores with a vCPU of their own or
/// on control's. Another guest that is to have it hears why it does not.
fn asks_a_lost_disk(mut world: World, target: &str, rings: usize, lose: impl FnOnce(&World)) {
    let guest = world.attach(5, 51712, target, "w");
    world.connect(guest, rings, 1);
    lose(&world);
    world.pass(1500);
    for ring in 0..rings {
        let id = world.guests[guest].write(ring, 8, 2);
        assert_eq!(world.answer(guest, ring, id), RspStatus::ERROR, "{target}");
    }
    assert_eq!(world.state(guest), 4);
    let next = world.attach(6, 51712, target, "w");
    world.until("error", |w| w.error(next).is_some());
    let error = world.error(next).unwrap();
    assert!(error.contains(&format!("{target} is lost")), "{error}");
    world.detach(guest);
    world.assert_nothing_left();
}

#[test]
fn a_disk_that_is_lost_answers_what_a_connected_guest_asks_with_errors() {
    for cores in [0, 2] {
        let rings = cores.max(1);
        let (world, model) = with_virtio(cores);
        asks_a_lost_disk(world, "vda", rings, |_| model.die());
        let (world, model) = with_nvme(cores);
        asks_a_lost_disk(world, "nvme0n1", rings, |_| model.vanish());
        let setup = Setup {
            cores,
            ..Setup::default()
        };
        asks_a_lost_disk(with_ram(setup), "ram0", rings, |world| {
            world.remotes[0].borrow_mut().lose = Some(true);
        });
    }
}

/// The size that a guest is shown.
fn sectors(world: &World, guest: usize) -> &str {
    let path = world.guests[guest].vbd.back("sectors");
    world.store.text(&path).unwrap_or("")
}

/// Writes to the last page of a disk of `sectors`, and beyond it.
fn assert_size(world: &mut World, guest: usize, size: u64) {
    assert_eq!(sectors(world, guest), size.to_string());
    for ring in 0..world.guests[guest].ring_count() {
        world.write(guest, ring, size - 8, 5);
        world.verify(guest, ring, size - 8, 5);
        let id = world.guests[guest].write(ring, size, 6);
        assert_eq!(world.answer(guest, ring, id), RspStatus::ERROR);
    }
}

#[test]
fn a_disk_gets_another_size_in_every_state_of_its_device() {
    for cores in [0, 2] {
        for size in [1024, 4096] {
            let rings = cores.max(1);
            // Before it is attached.
            let (mut world, model) = with_nvme(cores);
            model.resize(1, size);
            world.pass(1500);
            let guest = world.attach(5, 51712, "nvme0n1", "w");
            world.connect(guest, rings, 1);
            assert_size(&mut world, guest, size);
            // Connected.
            for size in [512, 2048, size] {
                model.resize(1, size);
                world.pass(1500);
                assert_size(&mut world, guest, size);
            }
            // In InitWait.
            world.detach(guest);
            let guest = world.attach(5, 51728, "nvme0n1", "w");
            world.until("InitWait", |w| w.state(guest) == 2);
            model.resize(1, 3072);
            world.pass(1500);
            world.connect(guest, rings, 1);
            assert_size(&mut world, guest, 3072);
            world.detach(guest);
            world.assert_nothing_left();
            assert_eq!(model.violations(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_disk_gets_another_size_before_a_core_has_answered() {
    for size in [1024, 4096] {
        let (mut world, model) = with_nvme(2);
        let guest = world.attach(5, 51712, "nvme0n1", "w");
        world.until("InitWait", |w| w.state(guest) == 2);
        for core in 0..2 {
            world.machine.hang(core, true);
        }
        world.publish(guest, 2, 1);
        world.pass(2000);
        assert_eq!(world.state(guest), 2, "no core has answered");
        assert!(world.machine.left()[0] > 0, "the rings are mapped");
        // The last of two counts.
        for size in [512, size] {
            model.resize(1, size);
            world.pass(1500);
        }
        for core in 0..2 {
            world.machine.hang(core, false);
        }
        world.until("Connected", |w| w.state(guest) == 4);
        world.set_state(guest, 4);
        assert_size(&mut world, guest, size);
        world.detach(guest);
        world.assert_nothing_left();
    }
}

#[test]
fn a_disk_gets_another_size_while_a_ring_drains() {
    for cores in [0, 2] {
        let (mut world, model) = with_virtio(cores);
        let guest = world.attach(5, 51712, "vda", "w");
        world.connect(guest, cores.max(1), 1);
        model.hold();
        let id = world.guests[guest].write(0, 8, 2);
        world.pass(10);
        let vbd = world.guests[guest].vbd;
        world.poke(|store| vbd.detach(store));
        world.until("Closing", |w| w.state(guest) == 5);
        world.set_state(guest, 6);
        model.resize(1024);
        world.pass(1500);
        assert_eq!(model.run(), 1);
        world.until("removal", |w| w.store.read(&vbd.back_dir()).is_none());
        let answers = world.guests[guest].take_answers(0);
        assert_eq!(answers.len(), 1);
        assert_eq!((answers[0].id, answers[0].status), (id, RspStatus::OKAY));
        world.assert_nothing_left();
        let list = world.published("targets/vda").unwrap();
        assert!(list.starts_with("vda 1024 "), "{list}");
    }
}

#[test]
fn a_disk_that_is_reset_keeps_its_guests_waiting_for_a_moment_only() {
    let (mut world, model) = with_nvme(2);
    let guest = world.attach(5, 51712, "nvme0n1", "w");
    world.connect(guest, 2, 1);
    for ring in 0..2 {
        world.write(guest, ring, 8, 1);
    }
    // Both cores sleep, and only one of them has a request to wake for.
    world.pass(5000);
    model.hang();
    model.die();
    let id = world.guests[guest].write(0, 16, 2);
    let took = world.until("response", |w| w.guests[guest].answer_count() > 0);
    assert!(took < 1500 * MS, "{took}");
    assert_eq!(model.resets(), 1);
    assert_eq!(world.answer(guest, 0, id), RspStatus::OKAY);
    world.verify(guest, 1, 16, 2);
    world.detach(guest);
    world.assert_nothing_left();
}

#[test]
fn another_size_is_that_of_the_disk_which_reports_it() {
    let mut model = None;
    let mut world = World::new(Setup::default(), |machine, disks| {
        disks.add_ram("ram0", 1 << 20);
        let device = FakeVirtio::new(machine.bus.clone(), VirtioConfig::default());
        disks.add_virtio(&device, 0, options(2));
        model = Some(device);
    });
    world.pass(1500);
    model.unwrap().resize(1024);
    world.pass(1500);
    for line in ["vda 1024 512 ", "ram0 2048 512 "] {
        let name = line.split(' ').next().unwrap();
        let list = world.published(&format!("targets/{name}")).unwrap();
        assert!(list.starts_with(line), "{list}");
    }
}

#[test]
fn queues_that_partition_tables_were_read_through_are_used_by_the_first_core() {
    let mut world = World::new(Setup::default(), |machine, disks| {
        let controller = FakeNvme::new(machine.bus.clone(), NvmeConfig::default());
        disks.add_nvme(&controller, 0, options(2));
        disks.partitions = Some(64);
    });
    let guest = world.attach(5, 51712, "nvme0n1p1", "w");
    world.connect(guest, 2, 1);
    assert_size(&mut world, guest, 64);
    world.detach(guest);
    world.assert_nothing_left();
}

#[test]
fn a_guest_that_goes_before_its_rings_are_attached_leaves_nothing() {
    for destroyed in [false, true] {
        let mut world = with_ram(Setup::default());
        let guest = world.attach(5, 51712, "ram0", "w");
        world.until("InitWait", |w| w.state(guest) == 2);
        // One core answers, and one does not.
        world.machine.hang(1, true);
        world.publish(guest, 2, 1);
        world.pass(1000);
        let vbd = world.guests[guest].vbd;
        if destroyed {
            world.poke(|store| vbd.destroy(store));
        } else {
            world.poke(|store| vbd.detach(store));
            world.set_state(guest, 6);
        }
        world.pass(3000);
        assert!(world.machine.left()[0] > 0, "a core has the ring");
        assert_eq!(world.holder("ram0"), "5/51712:w");
        world.machine.hang(1, false);
        world.until("removal", |w| w.store.read(&vbd.back_dir()).is_none());
        world.assert_nothing_left();
        assert_eq!(world.holder("ram0"), "-");
    }
}

#[test]
fn a_ring_that_cannot_be_unmapped_keeps_its_frames() {
    let mut world = with_ram(Setup::default());
    let guest = world.attach(5, 51712, "ram0", "w");
    world.connect(guest, 2, 1);
    let fault = Fault::Operation(Status::GENERAL_ERROR);
    world.machine.grants.inject(Call::Unmap, 0, fault);
    world.detach(guest);
    world.pass(100);
    // The mapping is still there, and so are its frames.
    assert_eq!(world.machine.left(), [1, 0, 1]);
    assert_eq!(world.holder("ram0"), "-");
}

#[test]
fn a_shutdown_does_not_wait_for_a_hung_core() {
    let (mut world, model) = with_nvme(2);
    let hung = world.attach(5, 51712, "nvme0n1", "w");
    world.connect(hung, 2, 1);
    world.write(hung, 0, 0, 1);
    world.machine.hang(1, true);
    let took = world.shut_down();
    // Eight seconds for the guests, six for the cores.
    assert!((13 * SECOND..16 * SECOND).contains(&took), "{took}");
    assert!(world.machine.has_stopped(0) && !world.machine.has_stopped(1));
    // The controller is off with one queue given back, and its cache written out.
    assert_eq!(world.shutdowns(), [(Ok(()), 1)]);
    assert_eq!(model.violations(), Vec::<String>::new());
}

#[test]
fn a_shutdown_waits_for_guests_that_close() {
    for cores in [0, 2] {
        let (mut world, _) = with_nvme(cores);
        let guest = world.attach(5, 51712, "nvme0n1", "w");
        world.connect(guest, 1, 1);
        world.write(guest, 0, 0, 1);
        let path = "/local/domain/3/control/shutdown";
        world.poke(|store| store.write(path, "poweroff"));
        world.until("Closing", |w| w.state(guest) == 5);
        assert!(world.ended.is_none());
        world.set_state(guest, 6);
        let took = world.until("end", |w| w.ended.is_some());
        assert!(took < SECOND, "{took}");
        assert_eq!(world.machine.left(), [0, 0, 0]);
        assert_eq!(world.shutdowns(), [(Ok(()), cores.max(1))]);
    }
}

#[test]
fn two_guests_do_not_get_one_disk() {
    let mut world = with_ram(Setup::default());
    let first = world.attach(5, 51712, "ram0", "w");
    world.connect(first, 1, 1);
    let second = world.attach(6, 51712, "ram0", "w");
    world.until("error", |w| w.error(second).is_some());
    let error = world.error(second).unwrap();
    assert!(error.contains("5/51712"), "{error}");
    assert_eq!(world.holder("ram0"), "5/51712:w");
    world.write(first, 0, 0, 1);
    world.detach(first);
    world.assert_nothing_left();
}
