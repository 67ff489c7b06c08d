//! RAM disks over a death of the kernel: what they held is there, or they are empty and other ones.

use std::sync::atomic::Ordering::Relaxed;

use spindle_block::{BlockController, RamQueue};
use spindle_config::DiskSize;
use spindle_control::RamDisks;
use spindle_hw::SharedPages;
use spindle_kept::RamRecords;
use spindle_simulate::world::guest::all_okay;
use spindle_simulate::world::{Setup, World};
use spindle_testkit::mem::FakeBus;

const MIB: u64 = 1 << 20;

/// The memory of a domain, with the page of records.
struct Domain {
    bus: FakeBus,
    page: SharedPages,
    life: u64,
}

impl Domain {
    fn new() -> Self {
        Self {
            bus: FakeBus::new(),
            page: SharedPages::host(1, 0),
            life: 0,
        }
    }

    fn records(&self) -> RamRecords {
        RamRecords::begin(self.page.alias(), true)
    }

    /// A life in which these disks are asked for, by number and MiB; gives what each is described as,
    /// or why there is none.
    fn live(&mut self, wanted: &[(u8, u64)]) -> Vec<Result<String, String>> {
        self.life += 1;
        self.bus.die();
        let records = RamRecords::begin(self.page.alias(), self.life > 1);
        let mut disks = RamDisks::take_up(Some(records), &self.bus, self.life);
        let wanted: Vec<_> = wanted
            .iter()
            .map(|&(number, mib)| DiskSize {
                number,
                bytes: mib * MIB,
            })
            .collect();
        disks.keep_only(&wanted);
        let make = |disk: &DiskSize| {
            let made = disks.make(*disk, &self.bus)?;
            let made: &dyn BlockController<RamQueue<&FakeBus>> = &made;
            let [volume] = made.volumes(0).try_into().unwrap();
            assert_eq!(volume.name, format!("ram{}", disk.number));
            Ok(volume.description)
        };
        wanted.iter().map(make).collect()
    }

    fn pages(&self) -> usize {
        self.bus.outstanding()
    }

    /// Where a disk is, and the byte that it begins with.
    fn begins(&self, number: u8) -> (u64, u8) {
        let start = self.records().read(number).unwrap().runs[0].start;
        let byte = self
            .bus
            .at(start, 1, |pages, at| pages.u8_at(at).load(Relaxed));
        (start, byte.unwrap())
    }

    fn mark(&self, number: u8, byte: u8) {
        let (start, _) = self.begins(number);
        assert!(self.bus.write(start, &[byte]));
    }
}

fn okay(descriptions: &[&str]) -> Vec<Result<String, String>> {
    descriptions.iter().map(|it| Ok((*it).into())).collect()
}

#[test]
fn several_disks_are_found_again_in_any_order_life_after_life() {
    let mut domain = Domain::new();
    let both = okay(&["RAM disk, 2 MiB", "RAM disk, 1 MiB"]);
    assert_eq!(domain.live(&[(3, 2), (0, 1)]), both);
    domain.mark(3, 33);
    domain.mark(0, 11);
    let places = [domain.begins(3), domain.begins(0)];
    for _ in 0..3 {
        assert_eq!(domain.live(&[(3, 2), (0, 1)]), both);
        assert_eq!([domain.begins(3), domain.begins(0)], places);
        assert_eq!(domain.pages(), 3 * 256);
    }
    let turned = okay(&["RAM disk, 1 MiB", "RAM disk, 2 MiB"]);
    assert_eq!(domain.live(&[(0, 1), (3, 2)]), turned);
    assert_eq!([domain.begins(3), domain.begins(0)], places);
}

#[test]
fn a_record_that_does_not_check_makes_that_disk_another_one_from_then_on() {
    let mut domain = Domain::new();
    domain.live(&[(0, 1), (1, 1)]);
    domain.mark(0, 5);
    domain.mark(1, 6);
    domain.page.u8_at(40).fetch_xor(4, Relaxed);
    let shown = okay(&["RAM disk, 1 MiB, empty since start 2", "RAM disk, 1 MiB"]);
    assert_eq!(domain.live(&[(0, 1), (1, 1)]), shown);
    assert_eq!((domain.begins(0).1, domain.begins(1).1), (0, 6));
    // What is written to it stays.
    domain.mark(0, 7);
    assert_eq!(domain.live(&[(0, 1), (1, 1)]), shown);
    assert_eq!((domain.begins(0).1, domain.begins(1).1), (7, 6));
}

#[test]
fn memory_that_is_not_free_any_more_is_left_to_who_has_it() {
    let mut domain = Domain::new();
    domain.live(&[(0, 2)]);
    let (start, _) = domain.begins(0);
    let record = domain.records().read(0).unwrap();
    domain.bus.remove(record.runs[1].start).unwrap();
    let shown = domain.live(&[(0, 2)]);
    assert_eq!(shown, okay(&["RAM disk, 2 MiB, empty since start 2"]));
    assert_ne!(domain.begins(0).0, start);
    assert_eq!(domain.pages(), 2 * 256);
}

#[test]
fn what_is_asked_for_in_another_size_or_not_at_all_gives_its_memory_back_first() {
    let mut domain = Domain::new();
    domain.live(&[(0, 2), (1, 1)]);
    domain.bus.set_limit(4 * 256);
    let shown = domain.live(&[(1, 4)]);
    assert_eq!(shown, okay(&["RAM disk, 4 MiB, empty since start 2"]));
    assert_eq!(domain.pages(), 4 * 256);
    assert_eq!(domain.records().read(0), None);
    assert_eq!(domain.live(&[(1, 4)]), shown);
    // The same size, said in another way.
    domain.bus.die();
    let mut disks = RamDisks::take_up(Some(domain.records()), &domain.bus, 4);
    let (number, bytes) = (1, 4 * MIB - 1);
    disks.keep_only(&[DiskSize { number, bytes }]);
    assert_eq!(domain.pages(), 4 * 256);
    let record = domain.records().read(1).unwrap();
    assert_eq!((record.bytes(), record.life), (4 * MIB, 2));
}

#[test]
fn a_disk_without_memory_says_so_and_is_not_on_record() {
    let mut domain = Domain::new();
    domain.bus.set_limit(2 * 256);
    for _ in 0..2 {
        let shown = domain.live(&[(0, 1), (1, 2), (2, 1)]);
        assert!(shown[0].is_ok() && shown[2].is_ok(), "{shown:?}");
        assert_eq!(shown[1], Err("no memory for 2 MiB".into()));
        assert_eq!(domain.records().read(1), None);
        assert_eq!(domain.pages(), 2 * 256);
    }
}

#[test]
fn one_in_more_pieces_than_a_record_holds_is_empty_in_the_next_life() {
    let mut domain = Domain::new();
    // No two chunks of this bus are neighbours.
    assert_eq!(domain.live(&[(0, 15)]), okay(&["RAM disk, 15 MiB"]));
    assert_eq!(domain.records().read(0), None);
    let shown = domain.live(&[(0, 15)]);
    assert_eq!(shown, okay(&["RAM disk, 15 MiB, empty since start 2"]));
    let mut none = RamDisks::take_up(None, &domain.bus, 1);
    let wanted = DiskSize {
        number: 0,
        bytes: 1,
    };
    none.keep_only(&[wanted]);
    assert!(none.make(wanted, &domain.bus).is_ok());
}

#[test]
fn guests_read_what_they_have_written_over_deaths_and_are_closed_if_it_is_lost() {
    let setup = Setup {
        cores: 2,
        ..Setup::default()
    };
    let mut world = World::new(setup, |_, disks| {
        disks.add_ram("ram0", MIB);
        disks.add_ram("ram1", MIB);
    });
    let kept = world.attach(5, 51712, "ram0", "w");
    let lost = world.attach(6, 51712, "ram1", "w");
    for guest in [kept, lost] {
        world.connect(guest, 2, 1);
        world.write(guest, 0, 8, 7);
        world.write(guest, 1, 16, 9);
    }
    world.die();
    for guest in [kept, lost] {
        world.verify(guest, 0, 16, 9);
    }
    // In flight at the death.
    let writes: Vec<_> = (0..4)
        .map(|n| world.guests[kept].write(1, 32 + 8 * n, n))
        .collect();
    world.ram_records().remove(1);
    world.die();
    world.until("answers", |w| w.guests[kept].answer_count() == writes.len());
    let answers = world.guests[kept].take_answers(1);
    assert!(all_okay(&answers));
    let mut ids: Vec<_> = answers.iter().map(|answer| answer.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, writes);
    for n in 0..4 {
        world.verify(kept, 0, 32 + 8 * n, n);
    }
    world.verify(kept, 0, 8, 7);
    world.until("Closed", |w| w.state(lost) == 6);
    let error = world.error(lost).unwrap_or_default();
    assert!(error.contains("is not the disk"), "{error}");
    world.detach(kept);
    world.set_state(lost, 6);
    let vbd = world.guests[lost].vbd;
    world.poke(|store| vbd.detach(store));
    world.until("removal", |w| w.state(lost) == 0);
    world.assert_nothing_left();
    world.shut_down();
}
