//! Guests of disks whose blocks are larger than their sectors.

use spindle_blkif::abi::RspStatus;
use spindle_block::DiskOptions;
use spindle_simulate::world::guest::{contents, pattern};
use spindle_simulate::world::{SECOND, Setup, World};
use spindle_testkit::nvme::{Config, FakeNvme, NamespaceConfig};

/// Both write a part of the same block at once, on two cores: each part is read, merged and written, and
/// neither may take the other's away.
#[test]
fn no_guest_takes_back_what_another_writes_to_the_same_block() {
    let setup = Setup::default();
    let queues = setup.cores as u16;
    let mut model = None;
    let mut world = World::new(setup, |machine, disks| {
        // It works on commands only when it is said to, so that both are under way.
        let config = Config {
            manual: true,
            namespaces: vec![NamespaceConfig::new(1, 256, 12)],
            ..Config::default()
        };
        let nvme = FakeNvme::new(machine.bus.clone(), config);
        let options = DiskOptions {
            queues,
            ..DiskOptions::default()
        };
        disks.add_nvme(&nvme, 0, options);
        model = Some(nvme);
    });
    let nvme = model.unwrap();
    let guests = [5, 6].map(|domain| {
        let guest = world.attach(domain, 51712, "512e:nvme0n1", "w!");
        world.connect(guest, 1, 1);
        guest
    });
    // Sectors 4 to 11 and 12 to 19: each has four of those of the block from 8 to 15.
    let starts = [4, 12];
    for (guest, start) in guests.into_iter().zip(starts) {
        world.guests[guest].write(0, start, start);
    }
    world.pass(20);
    for guest in guests {
        world.until("the response", |w| {
            nvme.run();
            w.guests[guest].answer_count() > 0
        });
        let answers = world.guests[guest].take_answers(0);
        assert_eq!(answers[0].status, RspStatus::OKAY);
    }
    for (guest, start) in guests.into_iter().zip(starts) {
        let (_, page) = world.guests[guest].read(0, start);
        world.until("the response", |w| {
            nvme.run();
            w.guests[guest].answer_count() > 0
        });
        assert!(contents(&page) == pattern(start), "from sector {start}");
        world.guests[guest].take_answers(0);
    }
}

/// Blocks of the same number are claimed apart on different disks: who writes to one does not wait for
/// a disk that stands still.
#[test]
fn a_guest_does_not_wait_for_the_block_of_another_disk() {
    let mut world = World::new(Setup::default(), |machine, disks| {
        let config = Config {
            manual: true,
            namespaces: vec![NamespaceConfig::new(1, 256, 12)],
            ..Config::default()
        };
        let nvme = FakeNvme::new(machine.bus.clone(), config);
        disks.add_nvme(&nvme, 0, DiskOptions::default());
        disks.change(0, |disk| disk.queues = Some(1));
        disks.add_ram("ram0", 1 << 20);
        disks.change(1, |disk| disk.large_blocks = true);
    });
    // Each after the other, as the later one might take what the first one has.
    let guests = [(5, "512e:nvme0n1"), (6, "512e:ram0")].map(|(domain, target)| {
        let guest = world.attach(domain, 51712, target, "w");
        world.connect(guest, 1, 1);
        guest
    });
    world.guests[guests[0]].write(0, 4, 1);
    world.pass(20);
    assert_eq!(world.guests[guests[0]].answer_count(), 0, "it is held");
    let before = world.now();
    world.write(guests[1], 0, 4, 2);
    world.verify(guests[1], 0, 4, 2);
    assert!(world.now() - before < SECOND / 10);
    assert_eq!(world.guests[guests[0]].answer_count(), 0, "it still is");
}
