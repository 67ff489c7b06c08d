//! Devices that come while a life of the kernel has yet to take up those of the former one: they do not
//! get what these had.

use spindle_testkit::gpt::Gpt;
use spindle_testkit::nvme::{Config as NvmeConfig, FakeNvme};

use spindle_simulate::world::{SECOND, World};

/// A domain with an NVMe disk that has a partition, and a RAM disk.
fn with_nvme() -> (World, FakeNvme) {
    with(|_| (), Some(64))
}

/// The same, but that the disk is not there, and that what is on it says whether it has partitions.
fn with_late_nvme() -> (World, FakeNvme) {
    with(FakeNvme::vanish, None)
}

fn with(change: impl FnOnce(&FakeNvme), partitions: Option<u64>) -> (World, FakeNvme) {
    let config = NvmeConfig {
        // What was written is there after power is back.
        write_cache: false,
        ..NvmeConfig::default()
    };
    World::with_nvme(2, config, change, |disks| {
        disks.add_ram("ram0", 1 << 20);
        disks.partitions = partitions;
    })
}

/// What two devices want that are in each other's way.
const RIVALS: [(&str, &str); 3] = [
    ("nvme0n1", "nvme0n1"),
    ("nvme0n1p1", "nvme0n1"),
    ("nvme0n1", "nvme0n1p1"),
];

/// The former device goes on once the other one is refused.
fn assert_former_goes_on(world: &mut World, former: usize, other: usize, what: &str) {
    world.until("refusal", |w| w.error(other).is_some());
    world.verify(former, 0, 8, 7);
    world.write(former, 0, 16, 9);
    let state = (world.state(former), world.error(former));
    assert_eq!(state, (4, None), "{what}");
}

#[test]
fn a_device_that_comes_during_a_death_does_not_get_the_disk_of_a_former_one() {
    for (had, wanted) in RIVALS {
        let (mut world, _) = with_nvme();
        let former = world.attach(9, 51712, had, "w");
        world.connect(former, 2, 1);
        world.write(former, 0, 8, 7);
        // Looked at before the other one.
        let other = world.attach(5, 51712, wanted, "w");
        world.die();
        assert_former_goes_on(&mut world, former, other, wanted);
    }
}

/// Its partitions are known some moments after it is.
#[test]
fn a_device_that_comes_with_a_late_disk_does_not_get_it_from_a_former_one() {
    let table = Gpt::new(9, 2048).with(1, 64, 511, "data");
    let image = table.sealed().image();
    for (had, wanted) in RIVALS {
        for ms in 0..20 {
            let (mut world, nvme) = with_late_nvme();
            let is_up = |w: &mut World| w.remotes[0].borrow().masters == Some(true);
            nvme.come_back();
            nvme.fill(1, &image);
            world.pass(5_000);
            let former = world.attach(9, 51712, had, "w");
            world.connect(former, 2, 1);
            world.write(former, 0, 8, 7);
            nvme.vanish();
            world.die();
            world.pass(500);
            nvme.come_back();
            world.run_until(10 * SECOND, is_up).unwrap();
            world.pass(ms);
            let other = world.attach(5, 51712, wanted, "w");
            let what = format!("{had}, then {wanted} after {ms} ms");
            assert_former_goes_on(&mut world, former, other, &what);
        }
    }
}

#[test]
fn a_device_waits_for_no_former_one_that_is_gone_or_closed_or_on_another_disk() {
    for closed in [false, true] {
        let (mut world, nvme) = with_nvme();
        let late = world.attach(8, 51712, "nvme0n1", "w");
        world.connect(late, 1, 1);
        let former = world.attach(9, 51712, "ram0", "w");
        world.connect(former, 1, 1);
        let vbd = world.guests[former].vbd;
        match closed {
            true => world.set_state(former, 6),
            false => world.poke(|store| vbd.destroy(store)),
        }
        // Whatever xenstored says of that is said to the life that ends.
        while world.store.step() {}
        nvme.vanish();
        world.die();
        let other = world.attach(5, 51712, "ram0", "w");
        let took = world.until("InitWait", |w| w.state(other) == 2);
        assert!(took < 2 * SECOND, "{took} ns");
        world.until("holder", |w| w.holder("ram0").starts_with("5/51712:w"));
    }
}
