//! The kernel dies and starts again in its domain: who was connected stays connected, and gets an answer
//! to every request.

use std::sync::atomic::Ordering::SeqCst;

use spindle_blkif::abi::RspStatus;
use spindle_block::DiskOptions;
use spindle_control::Suspect;
use spindle_hw::PAGE_SIZE;
use spindle_kept::{DeviceRecord, Records, layout};
use spindle_testkit::virtio::{Config as VirtioConfig, FakeVirtio};

use spindle_simulate::world::guest::{all_okay, contents, pattern};
use spindle_simulate::world::{SECOND, Setup, World};

fn with_ram(cores: usize) -> World {
    let setup = Setup {
        cores,
        ..Setup::default()
    };
    World::new(setup, |_, disks| {
        disks.add_ram("ram0", 1 << 20);
        disks.add_ram("ram1", 1 << 20);
    })
}

/// Two guests with a RAM disk each: domains 5 and 6.
fn with_two_guests() -> (World, [usize; 2]) {
    let mut world = with_ram(1);
    let guests = [("ram0", 5), ("ram1", 6)].map(|(disk, domain)| {
        let guest = world.attach(domain, 51712, disk, "w");
        world.connect(guest, 1, 1);
        guest
    });
    (world, guests)
}

/// All that stands in xenstore about a device, and how often its state was written.
fn shown(world: &World, guest: usize) -> (Vec<(String, String)>, usize) {
    let vbd = world.guests[guest].vbd;
    let dir = vbd.back_dir();
    let leaves = world.store.children(&dir);
    let value = |leaf: &String| world.store.text(&format!("{dir}/{leaf}")).map(String::from);
    let all = leaves
        .iter()
        .map(|leaf| (leaf.clone(), value(leaf).unwrap_or_default()));
    (all.collect(), world.store.writes(&format!("{dir}/state")))
}

#[test]
fn a_guest_goes_on_with_its_disk_and_xenstore_shows_no_change() {
    for cores in [0, 2] {
        let mut world = with_ram(cores);
        let guest = world.attach(5, 51712, "ram0", "w");
        world.connect(guest, cores.max(1), 2);
        world.write(guest, 0, 8, 7);
        let before = shown(&world, guest);
        world.die();
        world.verify(guest, 0, 8, 7);
        for ring in 0..cores.max(1) {
            world.write(guest, ring, 16, 9);
        }
        world.pass(2_000);
        assert_eq!(shown(&world, guest), before);
        assert_eq!(world.error(guest), None);
        world.detach(guest);
        world.assert_nothing_left();
        world.shut_down();
    }
}

/// Neither data nor the disks of other guests wait for xenstored, which is asked afterwards.
#[test]
fn guests_go_on_before_xenstored_has_answered_anything() {
    for cores in [0, 2] {
        let (mut world, nvme) = World::with_slow_nvme(cores);
        let guest = world.attach(5, 51712, "iops=100000:nvme0n1", "w");
        world.connect(guest, cores.max(1), 1);
        let before = shown(&world, guest);
        let write = world.guests[guest].write(0, 8, 7);
        world.pass(50);
        world.store_stands = true;
        world.die();
        for _ in 0..50 {
            nvme.run();
            world.pass(1);
        }
        let answers = world.guests[guest].take_answers(0);
        assert!(all_okay(&answers) && answers.iter().map(|it| it.id).eq([write]));
        assert!(!world.is_settled());
        world.store_stands = false;
        world.until("end of the recovery", |w| w.is_settled());
        let (_, page) = world.guests[guest].read(0, 8);
        for _ in 0..50 {
            nvme.run();
            world.pass(1);
        }
        assert!(contents(&page) == pattern(7));
        assert_eq!(shown(&world, guest), before);
        leave(&mut world, &[guest]);
    }
}

/// Whatever has become of the frontend, what was taken up before xenstore was asked is given back.
#[test]
fn what_is_served_before_xenstored_answers_is_compared_with_what_it_says() {
    type Change = fn(&mut World, usize);
    let changes: [(Change, u32); 4] = [
        (|world, guest| world.set_state(guest, 5), 5),
        (|world, guest| world.publish(guest, 1, 2), 4),
        (
            |world, _| world.poke(|store| store.write(&format!("{}/mode", world_dir()), "r")),
            6,
        ),
        (
            |world, _| {
                let params = format!("{}/params", world_dir());
                world.poke(|store| store.write(&params, "iops=7:ram0"));
            },
            4,
        ),
    ];
    for (number, (change, state)) in changes.into_iter().enumerate() {
        for cores in [0, 2] {
            let mut world = with_ram(cores);
            let guest = world.attach(5, 51712, "ram0", "w");
            world.connect(guest, 1, 1);
            world.write(guest, 0, 8, 7);
            world.store_stands = true;
            world.die();
            world.pass(20);
            change(&mut world, guest);
            world.pass(20);
            world.store_stands = false;
            world.until("end of the recovery", |w| w.is_settled());
            let what = format!("state {state} after change {number}");
            world.until(&what, |w| w.state(guest) == state);
            world.pass(2_000);
            if state == 4 {
                world.set_state(guest, 4);
                world.verify(guest, 0, 8, 7);
                world.detach(guest);
            } else {
                world.set_state(guest, 6);
                world.destroy(guest);
            }
            world.assert_nothing_left();
            world.shut_down();
        }
    }
}

/// The journal of a device's first ring, as it is on record.
fn journal_of(world: &World, guest: usize) -> u32 {
    let kept = records(world);
    let domain = world.guests[guest].domain().0;
    let record = kept.iter().find(|record| record.domain == domain).unwrap();
    record.queues[0].journal.unwrap().first
}

fn records(world: &World) -> Vec<DeviceRecord> {
    Records::new(world.kept()).read().devices
}

/// Its frontend finds the device closed for `reason`, closes, connects again, and has its disk.
fn closed_with(world: &mut World, guest: usize, reason: &str) {
    world.until("Closed", |w| w.state(guest) == 6);
    // What is published gives way to everything else.
    world.until("reason", |w| w.error(guest).is_some());
    let error = world.error(guest).unwrap_or_default().to_string();
    assert!(error.contains(reason), "{error}");
    world.set_state(guest, 5);
    world.pass(50);
    world.set_state(guest, 6);
    world.pass(50);
    world.set_state(guest, 1);
    world.connect(guest, 1, 1);
    world.write(guest, 0, 0, 77);
    assert_eq!(world.error(guest), None);
}

fn leave(world: &mut World, guests: &[usize]) {
    guests.iter().for_each(|guest| world.detach(*guest));
    world.assert_nothing_left();
    assert_eq!(records(world), []);
    world.shut_down();
}

#[test]
fn requests_under_way_are_answered_once_by_the_next_life() {
    for cores in [0, 2] {
        let (mut world, nvme) = World::with_slow_nvme(cores);
        let guest = world.attach(5, 51712, "nvme0n1", "w");
        world.connect(guest, 1, 1);
        let writes: Vec<_> = (0..6)
            .map(|n| world.guests[guest].write(0, 8 * n, n))
            .collect();
        world.pass(50);
        assert_eq!(world.guests[guest].answer_count(), 0);
        world.die();
        // Again before the first of them is done.
        world.pass(1);
        world.die();
        let run = |world: &mut World| {
            for _ in 0..200 {
                nvme.run();
                world.pass(5);
            }
        };
        run(&mut world);
        let answers = world.guests[guest].take_answers(0);
        let mut ids: Vec<_> = answers.iter().map(|answer| answer.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, writes);
        assert!(all_okay(&answers));
        let (_, page) = world.guests[guest].read(0, 16);
        run(&mut world);
        assert!(contents(&page) == pattern(2));
        assert_eq!(world.guests[guest].outstanding(), 0);
        leave(&mut world, &[guest]);
    }
}

#[test]
fn several_guests_go_on_with_what_was_theirs() {
    let mut world = with_ram(2);
    let first = world.attach(5, 51712, "ram0", "w");
    let second = world.attach(6, 51712, "ram1", "w");
    world.connect(first, 2, 1);
    world.connect(second, 1, 4);
    world.write(first, 1, 0, 1);
    world.write(second, 0, 0, 2);
    let stat = world.until("statistics", |w| w.published("stat/5-51712").is_some());
    assert!(stat < 20 * SECOND);
    world.pass(12_000);
    let counted = world.published("stat/5-51712").unwrap().to_string();
    assert!(counted.contains(" wr_req=1 "), "{counted}");
    world.die();
    world.write(first, 1, 8, 3);
    world.pass(12_000);
    let counted = world.published("stat/5-51712").unwrap().to_string();
    assert!(counted.contains(" wr_req=2 "), "counters go on: {counted}");
    for (guest, ring) in [(first, 1), (second, 0)] {
        world.verify(guest, ring, 0, guest as u64 + 1);
    }
    assert!(
        world.holder("ram0").contains("5/51712"),
        "{}",
        world.holder("ram0")
    );
    // A third one can come, and another cannot have what is taken.
    let other = world.attach(7, 51712, "ram0", "w");
    world.until("refusal", |w| w.error(other).is_some());
    leave(&mut world, &[first, second]);
}

#[test]
fn two_deaths_in_a_row_change_nothing_however_far_the_recovery_had_got() {
    for ms in (0..60).chain([200, 900, 1500]) {
        let mut world = with_ram(2);
        let guest = world.attach(5, 51712, "ram0", "w");
        world.connect(guest, 2, 1);
        world.write(guest, 1, 8, 7);
        let before = shown(&world, guest);
        world.die();
        world.pass(ms);
        world.die();
        world.verify(guest, 1, 8, 7);
        world.write(guest, 0, 0, 8);
        world.pass(2_000);
        assert_eq!(shown(&world, guest), before, "{ms} ms");
        leave(&mut world, &[guest]);
    }
}

#[test]
fn a_frontend_that_went_away_meanwhile_is_cleaned_up_after() {
    let mut world = with_ram(1);
    let closed = world.attach(5, 51712, "ram0", "w");
    let gone = world.attach(6, 51712, "ram1", "w");
    world.connect(closed, 1, 1);
    world.connect(gone, 1, 1);
    world.set_state(closed, 6);
    let vbd = world.guests[gone].vbd;
    world.poke(|store| vbd.destroy(store));
    world.die();
    world.until("Closed", |w| w.state(closed) == 6);
    world.until("removal", |w| w.store.read(&vbd.back_dir()).is_none());
    // It may come back.
    world.set_state(closed, 1);
    world.connect(closed, 1, 1);
    world.write(closed, 0, 0, 1);
    world.pass(70_000);
    leave(&mut world, &[closed]);
}

/// An update is given up if it is not settled in time.
#[test]
fn a_guest_that_ends_before_it_is_taken_up_is_not_waited_for() {
    let (mut world, [first, second]) = with_two_guests();
    assert!(world.is_settled());
    world.die();
    let (vbd, at) = (world.guests[second].vbd, world.now());
    world.poke(|store| vbd.destroy(store));
    world.until("settled", |w| w.is_settled());
    assert!(world.now() - at < 5 * SECOND, "{} ns", world.now() - at);
    world.write(first, 0, 0, 3);
    world.verify(first, 0, 0, 3);
    world.pass(70_000);
    leave(&mut world, &[first]);
}

#[test]
fn a_frontend_that_is_closing_gets_its_answers_and_is_closed() {
    for online in [true, false] {
        let (mut world, nvme) = World::with_slow_nvme(1);
        let guest = world.attach(5, 51712, "nvme0n1", "w");
        world.connect(guest, 1, 1);
        let id = world.guests[guest].write(0, 0, 1);
        world.pass(20);
        if !online {
            let vbd = world.guests[guest].vbd;
            world.poke(|store| vbd.detach(store));
            world.pass(20);
        }
        world.set_state(guest, 5);
        world.die();
        for _ in 0..100 {
            nvme.run_queue(1, 64);
            world.pass(5);
        }
        assert_eq!(world.answer(guest, 0, id), RspStatus::OKAY);
        world.until("Closing", |w| w.state(guest) == 5);
        world.set_state(guest, 6);
        world.until("Closed", |w| matches!(w.state(guest), 0 | 6));
        if online {
            let vbd = world.guests[guest].vbd;
            world.poke(|store| vbd.detach(store));
        }
        world.until("removal", |w| w.state(guest) == 0);
        world.assert_nothing_left();
    }
}

#[test]
fn without_its_record_a_frontend_is_closed_with_the_reason_though_it_closes_itself() {
    for state in [4, 5] {
        let (mut world, [guest, other]) = with_two_guests();
        world.write(other, 0, 0, 3);
        damage(&world, 5);
        world.set_state(guest, state);
        world.die();
        closed_with(&mut world, guest, "no record");
        world.verify(other, 0, 0, 3);
        leave(&mut world, &[guest, other]);
    }
}

/// Damages the record of a guest's device.
fn damage(world: &World, domain: u16) {
    let kept = world.kept();
    let before = records(world).len();
    // Kind and version of the record of a device, its length, its checksum, and the domain.
    for at in (0..kept.len()).step_by(64) {
        let mut line = [0; 24];
        kept.read_bytes(at, &mut line);
        let is_it = line[..4] == *b"REC1" && line[4] == 2 && line[20..22] == domain.to_le_bytes();
        if is_it {
            kept.u8_at(at + 23).fetch_xor(1, SeqCst);
            if records(world).len() < before {
                return;
            }
            kept.u8_at(at + 23).fetch_xor(1, SeqCst);
        }
    }
    panic!("there is no such record");
}

#[test]
fn without_the_header_all_are_closed_with_the_reason_and_nothing_is_left() {
    let (mut world, [guest, other]) = with_two_guests();
    world.write(guest, 0, 0, 1);
    world.kept().u64_at(layout::MAGIC_AT).fetch_xor(1, SeqCst);
    world.die();
    closed_with(&mut world, guest, "no record");
    closed_with(&mut world, other, "no record");
    leave(&mut world, &[guest, other]);
}

#[test]
fn a_damaged_journal_costs_its_device_only() {
    let (mut world, [guest, other]) = with_two_guests();
    world.write(other, 0, 0, 3);
    let first = layout::FIXED_PAGES + journal_of(&world, guest) as usize;
    for at in (0..PAGE_SIZE).step_by(8) {
        world
            .kept()
            .u64_at(first * PAGE_SIZE + at)
            .store(u64::MAX, SeqCst);
    }
    world.die();
    closed_with(&mut world, guest, "");
    world.verify(other, 0, 0, 3);
    leave(&mut world, &[guest, other]);
}

#[test]
fn a_disk_that_is_gone_is_waited_for_and_then_the_device_is_closed() {
    for comes in [true, false] {
        let (mut world, nvme) = World::with_slow_nvme(1);
        let guest = world.attach(5, 51712, "nvme0n1", "w");
        world.connect(guest, 1, 1);
        let id = world.guests[guest].write(0, 0, 1);
        world.pass(20);
        nvme.vanish();
        let before = shown(&world, guest);
        world.die();
        world.pass(10_000);
        assert_eq!(shown(&world, guest), before);
        if comes {
            nvme.come_back();
            let took = world.run_until(60 * SECOND, |w| {
                nvme.run_queue(1, 64);
                w.guests[guest].answer_count() > 0
            });
            assert!(took.is_some());
            assert_eq!(world.answer(guest, 0, id), RspStatus::OKAY);
            assert_eq!(shown(&world, guest), before);
            leave(&mut world, &[guest]);
        } else {
            let took = world.until("Closed", |w| w.state(guest) == 6);
            assert!(took < 30 * SECOND, "{took}");
            assert!(
                world.error(guest).unwrap().contains("nvme0"),
                "{:?}",
                world.error(guest)
            );
        }
    }
}

#[test]
fn what_a_former_life_has_published_goes_with_what_it_was_about() {
    let (mut world, nvme) = World::with_slow_nvme(1);
    let guest = world.attach(5, 51712, "nvme0n1", "w");
    world.connect(guest, 1, 1);
    world.until("counters", |w| w.published("stat/5-51712").is_some());
    assert!(world.published("targets/nvme0n1").is_some());
    let vbd = world.guests[guest].vbd;
    let errors = "/local/domain/3/error/backend/vbd/5";
    world.guests[guest].overrun(0);
    world.until("refusal", |w| w.error(guest).is_some());
    world.set_state(guest, 6);
    world.until("Closed", |w| w.state(guest) == 6);
    world.poke(|store| vbd.destroy(store));
    nvme.vanish();
    world.die();
    world.pass(2_000);
    assert_eq!(world.published("targets/nvme0n1"), None);
    assert_eq!(world.published("stat/5-51712"), None);
    assert_eq!(world.store.read(errors), None);
}

/// A device that has `had` is closed if its backend finds `has` by its name after a death.
fn is_closed_when_given(mut world: World, had: &str, has: &str) {
    let guest = world.attach(5, 51712, had, "w");
    world.connect(guest, 1, 1);
    world.poke(|store| store.write(&format!("{}/params", world_dir()), has));
    world.die();
    world.until("Closed", |w| w.state(guest) == 6);
    world.until("error", |w| w.error(guest).is_some());
    let error = world.error(guest).unwrap();
    let expected = format!("{has} is not the disk that {had} was");
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn another_disk_in_its_place_is_not_taken_for_it() {
    is_closed_when_given(with_ram(1), "ram0", "ram1");
}

/// As emulated disks are, and cheap ones: names and serial numbers are the same, or there are none.
#[test]
fn a_disk_that_is_alike_is_not_taken_for_it() {
    for serial in [Some("0001"), None] {
        let world = World::new(Setup::default(), |machine, disks| {
            for number in 0..2 {
                let config = VirtioConfig {
                    serial,
                    ..VirtioConfig::default()
                };
                let model = FakeVirtio::new(machine.bus.clone(), config);
                disks.add_virtio(&model, number, DiskOptions::default());
            }
        });
        is_closed_when_given(world, "vda", "vdb");
    }
}

fn world_dir() -> String {
    "/local/domain/3/backend/vbd/5/51712".into()
}

#[test]
fn a_death_at_any_moment_of_an_attach_leaves_a_device_that_connects() {
    for step in 0..40 {
        let mut world = with_ram(1);
        let guest = world.attach(5, 51712, "ram0", "w");
        // A frontend as it goes on by itself, in a kernel that dies early or late.
        let mut died = false;
        let mut ms = 0;
        while world.state(guest) != 4 && ms < 30_000 {
            if world.state(guest) == 2 && world.guests[guest].ring_count() == 0 {
                world.publish(guest, 1, 1);
            }
            if !died && ms >= step * 15 {
                died = true;
                world.die();
            }
            world.pass(1);
            ms += 1;
        }
        assert_eq!(world.state(guest), 4, "death after {} ms", step * 15);
        world.set_state(guest, 4);
        if !died {
            world.die();
        }
        world.write(guest, 0, 0, 1);
        assert_eq!(world.error(guest), None);
        leave(&mut world, &[guest]);
    }
}

#[test]
fn a_death_at_any_moment_of_a_detach_leaves_nothing() {
    for ms in (0..12).chain([100, 499, 500, 501, 700]) {
        let mut world = with_ram(1);
        let guest = world.attach(5, 51712, "ram0", "w");
        world.connect(guest, 1, 1);
        let vbd = world.guests[guest].vbd;
        world.poke(|store| vbd.detach(store));
        world.until("Closing", |w| w.state(guest) == 5);
        if ms % 2 == 0 {
            world.set_state(guest, 6);
        }
        world.pass(ms);
        world.die();
        world.pass(ms);
        world.set_state(guest, 6);
        world.until("removal", |w| w.store.read(&vbd.back_dir()).is_none());
        world.assert_nothing_left();
        // What xenstore had nothing about is forgotten later.
        world.pass(70_000);
        assert_eq!(records(&world), []);
    }
}

#[test]
fn who_is_given_another_disk_soon_after_a_death_gets_that() {
    let mut world = with_ram(1);
    let guest = world.attach(5, 51712, "ram0", "w");
    world.connect(guest, 1, 1);
    let vbd = world.guests[guest].vbd;
    world.poke(|store| vbd.destroy(store));
    world.die();
    world.until("removal", |w| w.store.read(&vbd.back_dir()).is_none());
    let guest = world.attach(5, 51712, "ram1", "w");
    world.connect(guest, 1, 1);
    world.write(guest, 0, 0, 1);
    leave(&mut world, &[guest]);
}

#[test]
fn a_frontend_that_has_new_rings_is_connected_anew() {
    let mut world = with_ram(1);
    let guest = world.attach(5, 51712, "ram0", "w");
    world.connect(guest, 1, 1);
    world.write(guest, 0, 0, 1);
    world.publish(guest, 1, 2);
    world.die();
    let writes = shown(&world, guest).1;
    world.until("Connected", |w| {
        shown(w, guest).1 > writes && w.state(guest) == 4
    });
    world.set_state(guest, 4);
    world.verify(guest, 0, 0, 1);
    assert_eq!(world.error(guest), None);
    leave(&mut world, &[guest]);
}

#[test]
fn a_ring_that_was_at_work_at_two_deaths_within_a_minute_is_left_out() {
    for (seconds, left_out) in [(10, true), (70, false)] {
        let (mut world, [guest, other]) = with_two_guests();
        for _ in 0..2 {
            world.pass(seconds * 1000);
            let journal = journal_of(&world, guest);
            let at_ns = world.now();
            world.die_at(Some(Suspect { journal, at_ns }));
        }
        world.write(other, 0, 0, 3);
        if left_out {
            closed_with(&mut world, guest, "two deaths");
        } else {
            world.write(guest, 0, 0, 3);
        }
        leave(&mut world, &[guest, other]);
    }
}

#[test]
fn a_disk_that_got_another_size_meanwhile_is_shown_with_that() {
    let (mut world, nvme) = World::with_slow_nvme(1);
    let guest = world.attach(5, 51712, "nvme0n1", "w");
    world.connect(guest, 1, 1);
    nvme.resize(1, 4096);
    world.die();
    world.until("the new size", |w| {
        let leaves = shown(w, guest).0;
        leaves.contains(&("sectors".into(), "4096".into()))
    });
    assert_eq!(world.state(guest), 4);
    assert_eq!(world.error(guest), None);
    leave(&mut world, &[guest]);
}
