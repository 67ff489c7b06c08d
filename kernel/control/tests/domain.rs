//! The whole domain: xenstored, guests, an NVMe controller and a virtio device, from the attaches
//! over verified data to the detaches, after which nothing is left.

use spindle_simulate::world::guest::PAGE_SECTORS;
use spindle_simulate::world::{DISKS, World};

/// Which disk each guest has, with how many rings of how many pages.
const GUESTS: [(u16, u32, &str, usize, usize); 4] = [
    (5, 51712, "nvme0n1", 2, 1),
    (5, 51728, "vda", 1, 2),
    (6, 51712, "nvme0n2", 1, 1),
    (7, 51712, "ram0", 2, 4),
];

fn a_whole_life(cores: usize) {
    let (mut world, models) = World::with_all_disks(cores);
    for round in 0..3 {
        for (frontend, device, target, ..) in GUESTS {
            world.attach(frontend, device, target, "w");
        }
        for (guest, (.., rings, pages)) in GUESTS.into_iter().enumerate() {
            let rings = rings.min(cores.max(1));
            world.connect(guest, rings, pages);
        }
        for (frontend, device, target, ..) in GUESTS {
            let holder = format!("{frontend}/{device}:w");
            assert_eq!(world.holder(target), holder);
        }
        // What each one writes by any of its rings is there, and is not another's.
        let seed = |guest: usize, page: u64| round * 1000 + guest as u64 * 100 + page;
        for page in 0..20 {
            for guest in 0..GUESTS.len() {
                let ring = page as usize % world.guests[guest].ring_count();
                world.write(guest, ring, page * PAGE_SECTORS, seed(guest, page));
            }
        }
        for page in 0..20 {
            for guest in 0..GUESTS.len() {
                let ring = (page as usize + 1) % world.guests[guest].ring_count();
                world.verify(guest, ring, page * PAGE_SECTORS, seed(guest, page));
            }
        }
        let [mappings, ports, frames] = world.machine.left();
        assert!(mappings > 0 && ports > 0 && frames > 0);
        for guest in 0..GUESTS.len() {
            world.detach(guest);
            assert_eq!(world.error(guest), None);
        }
        world.assert_nothing_left();
        for disk in DISKS {
            assert_eq!(world.holder(disk), "-");
        }
        world.guests.clear();
    }
    world.shut_down();
    assert_eq!(world.shutdowns(), vec![(Ok(()), cores.max(1)); 3]);
    assert_eq!(models.nvme.violations(), Vec::<String>::new());
    assert_eq!(models.virtio.violations(), Vec::<String>::new());
}

#[test]
fn guests_come_write_read_and_go_and_nothing_is_left() {
    a_whole_life(2);
}

#[test]
fn with_one_vcpu_nothing_is_left_either() {
    a_whole_life(0);
}
