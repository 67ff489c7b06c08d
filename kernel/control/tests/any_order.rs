//! Guests, toolstack, disks and cores do whatever they can in any order. Control goes on through all
//! of it, and when the last device is removed nothing is left.

use proptest::prelude::*;
use spindle_hw::Registers;
use spindle_testkit::gpt::Gpt;
use spindle_testkit::grants::{Call, Fault};
use spindle_testkit::xenstored::Vbd;
use spindle_xen::grant::Status;

use spindle_simulate::world::guest::Guest;
use spindle_simulate::world::{BACKEND, DISKS, Models, World};

/// The devices that come and go.
const DEVICES: [(u16, u32); 4] = [(5, 51712), (5, 51728), (6, 51712), (7, 51712)];
const TARGETS: [&str; 6] = [
    "nvme0n1",
    "nvme0n1p1",
    "nvme0n2",
    "vda",
    "ram0",
    "no such disk",
];

/// What happens next. Devices, targets and so on are numbers, taken modulo how many there are.
#[derive(Clone, Copy, Debug)]
enum Event {
    Attach {
        device: usize,
        target: usize,
        shared: bool,
    },
    Publish {
        device: usize,
        rings: usize,
        order: u32,
    },
    FrontState {
        device: usize,
        state: u32,
    },
    Detach {
        device: usize,
    },
    Destroy {
        device: usize,
    },
    Submit {
        device: usize,
        ring: usize,
        sector: u64,
        write: bool,
    },
    Overrun {
        device: usize,
    },
    ResizeNvme {
        blocks: u64,
    },
    ResizeVirtio {
        sectors: u64,
    },
    HoldVirtio,
    RunVirtio,
    FailNvme,
    ReformatNvme {
        block_shift: u8,
    },
    LoseNvme,
    ReturnNvme,
    LoseVirtio {
        unplug: bool,
    },
    ReturnVirtio,
    LoseRam,
    Rescan,
    Hang {
        core: usize,
        hung: bool,
    },
    RefuseMap {
        ahead: u64,
    },
    RefuseBind {
        ahead: usize,
    },
    Heap {
        short: bool,
    },
    Frames {
        left: usize,
    },
    Pass {
        ms: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let device = 0..DEVICES.len();
    prop_oneof![
        4 => (device.clone(), 0..TARGETS.len(), any::<bool>())
            .prop_map(|(device, target, shared)| Event::Attach { device, target, shared }),
        6 => (device.clone(), 1..3usize, 0..3u32)
            .prop_map(|(device, rings, order)| Event::Publish { device, rings, order }),
        4 => (device.clone(), 1..7u32)
            .prop_map(|(device, state)| Event::FrontState { device, state }),
        2 => device.clone().prop_map(|device| Event::Detach { device }),
        1 => device.clone().prop_map(|device| Event::Destroy { device }),
        6 => (device.clone(), 0..2usize, 0..300u64, any::<bool>())
            .prop_map(|(device, ring, sector, write)| Event::Submit {
                device, ring, sector, write
            }),
        1 => device.prop_map(|device| Event::Overrun { device }),
        1 => prop_oneof![Just(0), Just(512), Just(4096)]
            .prop_map(|blocks| Event::ResizeNvme { blocks }),
        1 => prop_oneof![Just(512), Just(1024), Just(4096)]
            .prop_map(|sectors| Event::ResizeVirtio { sectors }),
        1 => Just(Event::HoldVirtio),
        1 => Just(Event::RunVirtio),
        1 => Just(Event::FailNvme),
        1 => (9..13u8).prop_map(|block_shift| Event::ReformatNvme { block_shift }),
        2 => Just(Event::Rescan),
        1 => Just(Event::ReturnNvme),
        1 => Just(Event::ReturnVirtio),
        1 => prop_oneof![
            Just(Event::LoseNvme),
            any::<bool>().prop_map(|unplug| Event::LoseVirtio { unplug }),
            Just(Event::LoseRam),
        ],
        2 => (0..2usize, any::<bool>()).prop_map(|(core, hung)| Event::Hang { core, hung }),
        1 => (0..3u64).prop_map(|ahead| Event::RefuseMap { ahead }),
        1 => (0..3usize).prop_map(|ahead| Event::RefuseBind { ahead }),
        1 => any::<bool>().prop_map(|short| Event::Heap { short }),
        1 => prop_oneof![Just(0), Just(1060), Just(1 << 18)].prop_map(|left| Event::Frames { left }),
        8 => prop_oneof![Just(1), Just(20), Just(600), Just(2500)].prop_map(|ms| Event::Pass { ms }),
    ]
}

fn domain(cores: usize) -> (World, Models) {
    let (mut world, models) = World::with_all_disks(cores);
    // It is read when that is asked for.
    let table = Gpt::new(9, 2048).with(1, 64, 1023, "data");
    models.nvme.fill(1, &table.sealed().image());
    for (frontend, device) in DEVICES {
        let vbd = Vbd {
            backend: BACKEND,
            frontend,
            device,
        };
        world.guests.push(Guest::new(world.machine, vbd));
    }
    (world, models)
}

fn happen(world: &mut World, models: &Models, cores: usize, event: Event) {
    let machine = world.machine;
    let vbd = |device: usize, world: &World| world.guests[device].vbd;
    match event {
        Event::Attach {
            device,
            target,
            shared,
        } => {
            let vbd = vbd(device, world);
            if world.store.read(&vbd.back_dir()).is_none() {
                let mode = if shared { "w!" } else { "w" };
                world.poke(|store| vbd.attach(store, TARGETS[target], mode));
            }
        }
        Event::Publish {
            device,
            rings,
            order,
        } => {
            let vbd = vbd(device, world);
            if world.store.read(&vbd.front_dir()).is_some() {
                world.publish(device, rings, 1 << order);
            }
        }
        Event::FrontState { device, state } => world.set_state(device, state),
        Event::Detach { device } => {
            let vbd = vbd(device, world);
            world.poke(|store| vbd.detach(store));
        }
        Event::Destroy { device } => {
            let vbd = vbd(device, world);
            world.poke(|store| vbd.destroy(store));
        }
        Event::Submit {
            device,
            ring,
            sector,
            write,
        } => {
            let guest = &mut world.guests[device];
            if ring < guest.ring_count() && guest.has_room(ring) {
                if write {
                    guest.write(ring, sector * 8, sector);
                } else {
                    guest.read(ring, sector * 8);
                }
            }
        }
        Event::Overrun { device } => {
            if world.guests[device].ring_count() > 0 {
                world.guests[device].overrun(0);
            }
        }
        Event::ResizeNvme { blocks } => models.nvme.resize(1, blocks),
        Event::ResizeVirtio { sectors } => models.virtio.resize(sectors),
        Event::HoldVirtio => models.virtio.hold(),
        Event::RunVirtio => drop(models.virtio.run()),
        Event::FailNvme => models.nvme.die(),
        Event::ReformatNvme { block_shift } => models.nvme.reformat(1, block_shift),
        Event::Rescan => {
            let path = format!("/local/domain/{BACKEND}/data/spindle/rescan");
            world.poke(|store| store.write(&path, "1"));
        }
        Event::LoseNvme => models.nvme.vanish(),
        // Registers of one that went away read as all ones.
        Event::ReturnNvme if models.nvme.read32(0) == u32::MAX => models.nvme.come_back(),
        Event::ReturnNvme => {}
        Event::LoseVirtio { unplug: true } => models.virtio.vanish(),
        Event::LoseVirtio { unplug: false } => models.virtio.die(),
        Event::ReturnVirtio if models.virtio.is_away() => models.virtio.come_back(),
        Event::ReturnVirtio => {}
        Event::LoseRam => world.remotes[2].borrow_mut().lose = Some(true),
        Event::Hang { core, hung } => {
            if core < cores {
                machine.hang(core, hung);
            }
        }
        Event::RefuseMap { ahead } => {
            let fault = Fault::Operation(Status::BAD_GNTREF);
            machine.grants.inject(Call::Map, ahead, fault);
        }
        Event::RefuseBind { ahead } => machine.refuse_bind(ahead),
        Event::Heap { short } => machine.heap.set(if short { 1 << 20 } else { 64 << 20 }),
        Event::Frames { left } => machine.frames_left.set(left),
        Event::Pass { ms } => world.pass(ms),
    }
}

/// Lets events happen, then everything work again, and removes all devices.
fn live(cores: usize, events: &[Event]) {
    let (mut world, models) = domain(cores);
    for &event in events {
        happen(&mut world, &models, cores, event);
    }
    for core in 0..cores {
        world.machine.hang(core, false);
    }
    // What it holds is carried out, or lost with it.
    models.virtio.die();
    for device in 0..DEVICES.len() {
        let vbd = world.guests[device].vbd;
        if world.store.read(&vbd.back_dir()).is_some() {
            world.destroy(device);
        }
    }
    world.assert_nothing_left();
    for disk in DISKS {
        // A namespace may have been removed, and is not listed then.
        if world.published(&format!("targets/{disk}")).is_some() {
            assert_eq!(world.holder(disk), "-");
        }
    }
    // A controller that is lost is noticed, and one that is being reset is ready again.
    world.pass(20_000);
    let took = world.shut_down();
    assert!(took < 7_000_000_000, "{took}");
    let given = world.shutdowns();
    let queues: Vec<usize> = given.iter().map(|(_, queues)| *queues).collect();
    assert_eq!(queues, [cores.max(1); 3]);
    assert_eq!(models.nvme.violations(), Vec::<String>::new());
    // A device that has just failed is notified until it is noticed.
    let mut violations = models.virtio.violations();
    violations.retain(|violation| !violation.starts_with("notified queue"));
    assert_eq!(violations, Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 60 }))]

    #[test]
    fn whatever_happens_nothing_is_left_at_the_end(
        own in any::<bool>(),
        events in prop::collection::vec(event(), 1..80),
    ) {
        live(if own { 2 } else { 0 }, &events);
    }
}
