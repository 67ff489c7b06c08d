//! Disks that lose their write caches around a death of the kernel: one flush of each device fails, as
//! it does within one life.

use std::ops::Range;

use spindle_blkif::abi::RspStatus;
use spindle_block::DiskOptions;
use spindle_testkit::nvme::{Config as NvmeConfig, FakeNvme, Fault as NvmeFault, NamespaceConfig};
use spindle_testkit::virtio::{Config as VirtioConfig, FakeVirtio};

use spindle_simulate::world::{SECOND, Setup, World};

/// A disk with a write cache.
enum Model {
    Nvme(FakeNvme),
    Virtio(FakeVirtio),
}

impl Model {
    fn vanish(&self) {
        match self {
            Self::Nvme(model) => model.vanish(),
            Self::Virtio(model) => model.vanish(),
        }
    }

    fn come_back(&self) {
        match self {
            Self::Nvme(model) => model.come_back(),
            Self::Virtio(model) => model.come_back(),
        }
    }

    fn lose_power(&self) {
        self.vanish();
        self.come_back();
    }
}

const OPTIONS: DiskOptions = DiskOptions {
    queues: 2,
    depth: 16,
    timeout: std::time::Duration::from_secs(30),
};

/// A domain with a disk that one or two guests have, and a further disk that another guest has.
struct Domain {
    world: World,
    model: Model,
    /// Those with a part of the disk.
    guests: Vec<usize>,
    /// The one with the other disk, which loses nothing.
    other: usize,
}

impl Domain {
    fn with_nvme() -> Self {
        let mut model = None;
        let world = World::new(Setup::default(), |machine, disks| {
            let nvme = |serial| {
                let namespaces = [1, 2].map(|id| NamespaceConfig::new(id, 2048, 9));
                let config = NvmeConfig {
                    namespaces: namespaces.into(),
                    write_cache: true,
                    ..NvmeConfig::default()
                };
                let nvme = FakeNvme::new(machine.bus.clone(), config);
                if serial {
                    nvme.arm(NvmeFault::OtherSerial);
                }
                nvme
            };
            let (first, second) = (nvme(false), nvme(true));
            disks.add_nvme(&first, 0, OPTIONS);
            disks.add_nvme(&second, 1, OPTIONS);
            model = Some(Model::Nvme(first));
        });
        let targets = ["nvme0n1", "nvme0n2", "nvme1n1"];
        Self::connected(world, model.unwrap(), &targets)
    }

    fn with_virtio() -> Self {
        let mut model = None;
        let world = World::new(Setup::default(), |machine, disks| {
            let virtio = FakeVirtio::new(machine.bus.clone(), VirtioConfig::default());
            disks.add_virtio(&virtio, 0, OPTIONS);
            // All that tells them apart is where they are plugged in.
            let alike = FakeVirtio::new(machine.bus.clone(), VirtioConfig::default());
            disks.add_virtio(&alike, 1, OPTIONS);
            model = Some(Model::Virtio(virtio));
        });
        Self::connected(world, model.unwrap(), &["vda", "vdb"])
    }

    fn both() -> [fn() -> Self; 2] {
        [Self::with_nvme, Self::with_virtio]
    }

    /// All targets are attached; what is written to them is not flushed.
    fn connected(mut world: World, model: Model, targets: &[&str]) -> Self {
        let mut guests = Vec::new();
        for (domain, target) in (5..).zip(targets) {
            let guest = world.attach(domain, 51712, target, "w");
            world.connect(guest, 2, 1);
            world.write(guest, 0, 8, 7);
            guests.push(guest);
        }
        let other = guests.pop().unwrap();
        Self {
            world,
            model,
            guests,
            other,
        }
    }

    /// Waits until every guest is served again.
    fn served(&mut self) {
        for guest in self.guests.iter().copied().chain([self.other]) {
            let (id, _) = self.world.guests[guest].read(0, 0);
            let mut id = id;
            // As long as its disk is lost, a request that is taken fails.
            while self.world.answer(guest, 0, id) != RspStatus::OKAY {
                self.world.pass(500);
                (id, _) = self.world.guests[guest].read(0, 0);
            }
        }
    }

    /// How many flushes of a guest fail, of some by each of its rings.
    fn failed(&mut self, guest: usize) -> usize {
        let mut failed = 0;
        for ring in [0, 1, 1, 0] {
            let id = self.world.guests[guest].flush(ring);
            let status = self.world.answer(guest, ring, id);
            failed += usize::from(status != RspStatus::OKAY);
        }
        failed
    }

    /// Once all are served, so many flushes fail of each device of the disk, and none of the other.
    fn expect(&mut self, count: Range<usize>, what: &str) {
        self.served();
        for guest in self.guests.clone() {
            let failed = self.failed(guest);
            assert!(count.contains(&failed), "{what}: guest {guest}: {failed}");
            assert_eq!(self.failed(guest), 0, "{what}: it is said once");
        }
        assert_eq!(self.failed(self.other), 0, "{what}: another disk");
        for guest in self.guests.iter().copied().chain([self.other]) {
            assert_eq!(self.world.state(guest), 4, "{what}");
            assert_eq!(self.world.error(guest), None, "{what}");
        }
    }
}

#[test]
fn deaths_alone_fail_no_flush() {
    for domain in Domain::both() {
        let mut domain = domain();
        domain.world.die();
        domain.expect(0..1, "one death");
        domain.world.die();
        domain.world.die();
        domain.world.pass(1);
        domain.world.die();
        domain.expect(0..1, "deaths in a row");
    }
}

#[test]
fn power_that_is_lost_and_back_before_a_death_that_comes_too_soon_to_notice() {
    for domain in Domain::both() {
        let mut domain = domain();
        domain.model.lose_power();
        domain.world.die();
        domain.expect(1..2, "one death");
        // A life that dies before it could do anything about it.
        domain.model.lose_power();
        domain.world.die();
        domain.world.die();
        domain.world.pass(1);
        domain.world.die();
        domain.expect(1..2, "deaths in a row");
    }
}

#[test]
fn a_disk_that_is_not_there_when_a_life_begins_has_lost_its_cache() {
    // A virtio device that is not on the bus then is not found later.
    for deaths in 1..3 {
        let mut domain = Domain::with_nvme();
        domain.model.vanish();
        for _ in 0..deaths {
            domain.world.die();
            domain.world.pass(300);
        }
        domain.model.come_back();
        domain.expect(1..2, "absent");
    }
}

/// Those that were on it are not taken up yet.
#[test]
fn power_that_is_lost_just_after_a_life_has_begun() {
    for domain in Domain::both() {
        for deaths in 1..3 {
            let mut domain = domain();
            for _ in 0..deaths {
                domain.world.die();
            }
            domain.model.vanish();
            domain.world.pass(100);
            domain.model.come_back();
            domain.expect(1..2, "before they are taken up");
        }
    }
}

/// However far it had got.
#[test]
fn a_loss_that_was_noticed_outlives_a_death_at_any_moment() {
    for domain in Domain::both() {
        for ms in (0..20).map(|step| 97 * step) {
            let mut domain = domain();
            domain.model.lose_power();
            domain.world.pass(ms);
            domain.world.die();
            domain.expect(1..2, &format!("{ms} ms after it"));
        }
    }
}

/// A controller that has no power for a moment while it is reset answers nothing wrong, and goes on.
#[test]
fn power_that_is_away_during_a_reset_outlives_a_death_at_any_moment() {
    for step in 0..20 {
        let mut domain = Domain::with_nvme();
        let Model::Nvme(nvme) = &domain.model else {
            unreachable!()
        };
        let nvme = nvme.clone();
        nvme.die();
        let resets = nvme.resets();
        let limit = 5 * SECOND;
        let disabled = domain.world.run_until(limit, |_| nvme.resets() > resets);
        assert!(disabled.is_some());
        domain.model.lose_power();
        let turns = domain.world.control_turns + step;
        domain.world.run_until(limit, |w| w.control_turns >= turns);
        domain.world.die();
        domain.expect(1..2, &format!("{step} turns after it"));
    }
}

#[test]
fn a_loss_that_was_not_yet_reported_is_reported_by_whichever_life_comes_to_it() {
    for domain in Domain::both() {
        let mut domain = domain();
        domain.model.vanish();
        domain.world.pass(3_000);
        domain.model.come_back();
        domain.served();
        for _ in 0..3 {
            domain.world.die();
            domain.served();
        }
        domain.expect(1..2, "three lives later");
        // Once it is reported, and that is on record, a death does not report it again.
        domain.world.pass(12_000);
        domain.world.die();
        domain.expect(0..1, "reported before");
    }
}

#[test]
fn a_device_whose_frontend_has_new_rings_after_the_death_hears_of_it_by_these() {
    for domain in Domain::both() {
        let mut domain = domain();
        let guest = domain.guests[0];
        domain.model.lose_power();
        domain.world.publish(guest, 2, 2);
        domain.world.die();
        let state = format!("{}/state", domain.world.guests[guest].vbd.back_dir());
        let writes = domain.world.store.writes(&state);
        domain.world.until("Connected", |w| {
            w.store.writes(&state) > writes && w.state(guest) == 4
        });
        domain.world.set_state(guest, 4);
        domain.expect(1..2, "with new rings");
    }
}
