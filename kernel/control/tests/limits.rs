//! Limits of devices and groups, from the disk line, the options and orders, to the rings; also over a
//! death of the kernel. No guest can set any.

use spindle_config::Config;
use spindle_simulate::world::{BACKEND, MS, SECOND, Setup, World};

/// A domain with two RAM disks and these options.
fn with_options(options: &str, cores: usize) -> World {
    let mut config = Config::default();
    config.set_all(options, |error| panic!("{error}"));
    let setup = Setup {
        cores,
        config,
        ..Setup::default()
    };
    World::new(setup, |_, disks| {
        disks.add_ram("ram0", 1 << 20);
        disks.add_ram("ram1", 1 << 20);
    })
}

/// How many of more requests than are asked for in that time are answered within `ms`.
fn answered(world: &mut World, guest: usize, ms: u64) -> usize {
    let rings = world.guests[guest].ring_count();
    for ring in 0..rings {
        world.guests[guest].take_answers(ring);
    }
    let end = world.now() + ms * MS;
    let mut count = 0;
    while world.now() < end {
        for ring in 0..rings {
            count += world.guests[guest].take_answers(ring).len();
            while world.guests[guest].has_room(ring) {
                world.guests[guest].read(ring, 8);
            }
        }
        world.pass(5);
    }
    count
}

/// Has an administrator ask for limits; gives the answer.
fn order(world: &mut World, order: &str) -> String {
    let node = |leaf: &str| format!("/local/domain/{BACKEND}/data/spindle/{leaf}");
    let word = world.now().to_string();
    world.poke(|store| store.write(&node("limit"), format!("{word} {order}")));
    world.until("answer", |world| {
        let answer = world.published("limited");
        answer.is_some_and(|answer| answer.starts_with(&word))
    });
    let answer = world.published("limited").unwrap_or_default();
    answer.split_once(' ').unwrap().1.to_string()
}

#[test]
fn a_disk_line_limits_a_device_over_all_its_rings_and_says_so() {
    for cores in [0, 2] {
        let mut world = with_options("", cores);
        let line = "iops=100:burst=0:shared:weight=4:ram0";
        let guest = world.attach(5, 51712, line, "w");
        let rings = cores.max(1);
        world.connect(guest, rings, 1);
        let limits = "iops=100:burst=0:weight=4";
        assert_eq!(world.published("limits/5-51712"), Some(limits));
        assert_eq!(world.holder("ram0"), "5/51712:w!");
        let count = answered(&mut world, guest, 1000);
        assert!((98..=102).contains(&count), "{cores} cores: {count}");
        world.pass(6000);
        let line = world.published("stat/5-51712").unwrap();
        let held = line.split("held_ns=").nth(1).unwrap().split(' ').next();
        let held: u64 = held.unwrap().parse().unwrap();
        assert!(held > SECOND / 2, "{line}");
        world.detach(guest);
        assert_eq!(world.published("limits/5-51712"), None);
        world.assert_nothing_left();
    }
}

#[test]
fn options_hold_for_what_a_disk_line_does_not_say() {
    let options = "limits=iops=100:burst=0 group=db:iops=300:burst=0";
    let mut world = with_options(options, 1);
    let plain = world.attach(5, 51712, "ram0", "w");
    let own = world.attach(6, 51712, "iops=none:group=db:ram1", "w");
    world.connect(plain, 1, 1);
    world.connect(own, 1, 1);
    assert_eq!(world.published("limits/@db"), Some("iops=300:burst=0"));
    let count = answered(&mut world, plain, 1000);
    assert!((98..=102).contains(&count), "{count}");
    let count = answered(&mut world, own, 1000);
    assert!((294..=306).contains(&count), "{count}");
}

#[test]
fn a_bad_limit_is_refused_with_the_reason() {
    let mut world = with_options("", 1);
    let guest = world.attach(5, 51712, "iops=0:ram0", "w");
    world.until("refusal", |world| world.error(guest).is_some());
    let error = world.error(guest).unwrap();
    assert!(error.contains("\"0\" is no value for iops"), "{error}");
}

#[test]
fn orders_change_what_they_name_and_nothing_if_they_are_wrong() {
    let mut world = with_options("", 1);
    let guest = world.attach(5, 51712, "weight=4:ram0", "w");
    world.connect(guest, 1, 1);
    assert!(answered(&mut world, guest, 200) > 1000);
    assert_eq!(order(&mut world, "5/51712 iops=100:burst=0"), "done");
    let limits = Some("iops=100:burst=0:weight=4");
    assert_eq!(world.published("limits/5-51712"), limits);
    let count = answered(&mut world, guest, 1000);
    assert!((98..=102).contains(&count), "{count}");
    for (wrong, why) in [
        ("5/51712 iops=200:weight=0", "\"0\" is no value for weight"),
        ("5/51728 iops=200", "5/51728 has no disk here"),
        ("@db group=other", "a group is in no other group"),
        ("@a.b iops=5", "neither GUEST/DEVICE nor @GROUP"),
        ("51712 iops=5", "neither GUEST/DEVICE nor @GROUP"),
    ] {
        let answer = order(&mut world, wrong);
        assert!(
            answer.starts_with("refused: ") && answer.contains(why),
            "{answer}"
        );
        assert_eq!(world.published("limits/5-51712"), limits, "{wrong}");
        assert_eq!(world.published("limits/@db"), None);
    }
    assert_eq!(order(&mut world, "5/51712 iops=none"), "done");
    assert!(answered(&mut world, guest, 200) > 1000);
}

#[test]
fn devices_of_a_group_share_its_limit_which_can_be_changed_under_them() {
    let mut world = with_options("", 2);
    let guests = [(5, "ram0"), (6, "ram1")].map(|(domain, disk)| {
        let guest = world.attach(domain, 51712, &format!("group=db:{disk}"), "w");
        world.connect(guest, 1, 1);
        guest
    });
    assert_eq!(order(&mut world, "@db iops=200:burst=0"), "done");
    // The other one keeps its ring full meanwhile, until all that is in it is done.
    while world.guests[guests[1]].has_room(0) {
        world.guests[guests[1]].read(0, 8);
    }
    let count = answered(&mut world, guests[0], 1000);
    assert!((165..=172).contains(&count), "{count} of 200, beside 32");
}

#[test]
fn what_was_ordered_outlives_the_kernel_and_ends_with_the_device() {
    let mut world = with_options("", 1);
    let guest = world.attach(5, 51712, "burst=0:ram0", "w");
    world.connect(guest, 1, 1);
    assert_eq!(order(&mut world, "5/51712 iops=100"), "done");
    assert_eq!(order(&mut world, "@db iops=7"), "done");
    world.write(guest, 0, 8, 7);
    for _ in 0..2 {
        world.die();
        world.verify(guest, 0, 8, 7);
        world.until("limits", |w| w.published("limits/5-51712").is_some());
        assert_eq!(world.published("limits/5-51712"), Some("iops=100:burst=0"));
        assert_eq!(world.published("limits/@db"), Some("iops=7"));
        let count = answered(&mut world, guest, 1000);
        assert!((98..=102).contains(&count), "{count}");
        world.until("answers", |w| w.guests[guest].outstanding() == 0);
        world.guests[guest].take_answers(0);
    }
    world.detach(guest);
    let guest = world.attach(5, 51712, "ram0", "w");
    world.connect(guest, 1, 1);
    assert_eq!(world.published("limits/5-51712"), None);
    assert!(answered(&mut world, guest, 200) > 1000);
}

#[test]
fn nothing_that_a_guest_writes_sets_or_lifts_a_limit() {
    let mut world = with_options("", 1);
    let guest = world.attach(5, 51712, "iops=100:burst=0:ram0", "w");
    let front = "/local/domain/5/device/vbd/51712";
    for (leaf, value) in [
        ("params", "iops=none:ram0"),
        ("limits", "iops=none"),
        ("iops", "none"),
        ("weight", "64"),
        ("group", "other"),
    ] {
        world.poke(|store| store.write(&format!("{front}/{leaf}"), value));
    }
    for path in [
        "/local/domain/5/data/spindle/limit",
        "/local/domain/5/data/limit",
    ] {
        world.poke(|store| store.write(path, "1 5/51712 iops=none"));
    }
    world.connect(guest, 1, 1);
    let limits = Some("iops=100:burst=0");
    assert_eq!(world.published("limits/5-51712"), limits);
    let count = answered(&mut world, guest, 1000);
    assert!((98..=102).contains(&count), "{count}");
}
