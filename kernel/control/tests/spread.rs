//! Volumes on several disks: where their rings are served, and what the loss of one disk is to them.

use spindle_blkif::abi::RspStatus;
use spindle_simulate::world::disks::SpreadVolume;
use spindle_simulate::world::{SECOND, Setup, World};

/// Eight sectors of each disk in turn.
const LV: SpreadVolume = SpreadVolume {
    name: "vg0/lv",
    stretches: &[(64, 8, &[("ram1", 8), ("ram0", 16)])],
};
/// The first sector that is on `ram1`, and the first that is on `ram0`.
const ON_RAM1: u64 = 0;
const ON_RAM0: u64 = 8;

/// Three cores, of which one has a queue on the first disk, and all have one on the others.
fn world() -> World {
    let setup = Setup {
        cores: 3,
        ..Setup::default()
    };
    World::new(setup, |_, disks| {
        for name in ["ram0", "ram1", "ram2"] {
            disks.add_ram(name, 1 << 20);
        }
        disks.change(0, |disk| disk.queues = Some(1));
        disks.spread = Some(LV);
    })
}

fn read(world: &mut World, guest: usize, sector: u64) -> RspStatus {
    let (id, _) = world.guests[guest].read(0, sector);
    world.answer(guest, 0, id)
}

#[test]
fn a_ring_is_served_where_there_is_a_queue_on_every_disk_of_its_volume() {
    let mut world = world();
    // The core that has one is not the one with the fewest rings.
    let other = world.attach(5, 51712, "ram2", "w");
    world.connect(other, 1, 1);
    let guest = world.attach(6, 51712, "vg0/lv", "w");
    world.connect(guest, 1, 1);
    let path = "/local/domain/3/backend/vbd/6/51712/multi-queue-max-queues";
    assert_eq!(world.store.text(path), Some("1"));
    for sector in [ON_RAM1, ON_RAM0, ON_RAM1 + 4, 56] {
        world.write(guest, 0, sector, sector + 1);
        world.verify(guest, 0, sector, sector + 1);
    }
}

#[test]
fn a_volume_of_which_a_disk_is_lost_fails_there_and_is_given_to_no_other() {
    let mut world = world();
    let guest = world.attach(5, 51712, "vg0/lv", "w!");
    world.connect(guest, 1, 1);
    world.remotes[0].borrow_mut().lose = Some(true);
    let is_lost = |w: &mut World| {
        let text = w.published("targets/ram0").unwrap_or_default();
        text.split(' ').nth(3) == Some("-")
    };
    world.until("the loss", is_lost);
    world.pass(10);
    assert_eq!(read(&mut world, guest, ON_RAM0), RspStatus::ERROR);
    assert_eq!(read(&mut world, guest, ON_RAM1), RspStatus::OKAY);
    let late = world.attach(6, 51712, "vg0/lv", "w!");
    let refused = |w: &mut World| w.error(late).is_some();
    world.run_until(5 * SECOND, refused);
    let error = world.error(late).unwrap_or_default();
    assert!(error.contains("lost"), "{error}");
}
