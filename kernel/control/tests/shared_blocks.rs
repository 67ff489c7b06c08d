//! Guests that share a disk whose blocks are larger than their sectors.

use spindle_blkif::abi::RspStatus;
use spindle_block::DiskOptions;
use spindle_simulate::world::guest::{contents, pattern};
use spindle_simulate::world::{Setup, World};
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
