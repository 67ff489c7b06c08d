//! Logical volumes that are changed on disks that guests use: by others, which a rescan finds, and by
//! order.

use spindle_lvm::{Group, assemble, find};
use spindle_simulate::world::disks::Table;
use spindle_simulate::world::guest::pattern;
use spindle_simulate::world::{BACKEND, World};
use spindle_testkit::lvm::{LvmDisk, LvmImage, LvmSegment, LvmText};
use spindle_testkit::nvme::{Config as NvmeConfig, FakeNvme, NamespaceConfig};

const PVS: [&[u8; 32]; 2] = [
    b"AAAAAAaaaabbbbccccddddeeeeffffff",
    b"BBBBBBaaaabbbbccccddddeeeeffffff",
];
/// Blocks of a namespace, and the sector at which its extents of 8 sectors begin.
const BLOCKS: u64 = 2048;
const FIRST: u64 = 256;

/// A domain with a controller of two namespaces.
fn world(cores: usize) -> (World, FakeNvme) {
    let config = NvmeConfig {
        namespaces: [1, 2].map(|id| NamespaceConfig::new(id, BLOCKS, 9)).into(),
        write_cache: false,
        ..NvmeConfig::default()
    };
    let tables = |disks: &mut Table| disks.tables = true;
    let (mut world, model) = World::with_nvme(cores, config, |_| (), tables);
    world.until("watches", |w| w.published("ready").is_some());
    world.pass(100);
    (world, model)
}

/// LVM writes another version of the group `vg0`, which is on both namespaces, and they are looked at.
fn write(
    world: &mut World,
    model: &FakeNvme,
    seqno: u64,
    volumes: &[(&str, &[LvmSegment<'_>])],
) -> String {
    let mut text = LvmText::new("vg0").on(PVS[0]).on(PVS[1]);
    text.seqno = seqno;
    for (name, segments) in volumes {
        text = text.with(name, segments);
    }
    for (namespace, uuid) in (1..).zip(PVS) {
        let image = LvmImage::new(uuid, BLOCKS as usize, &text.text()).image();
        model.fill(namespace, &image[..FIRST as usize * 512]);
    }
    rescan(world)
}

/// dom0 asks for a look; gives the answer without its number.
fn rescan(world: &mut World) -> String {
    let answer = ask(world, "rescan", "rescanned", "1");
    let (_, lines) = answer.split_once('\n').unwrap();
    lines.into()
}

fn ask(world: &mut World, node: &str, answer: &str, text: &str) -> String {
    let before = world.published(answer).map(str::to_string);
    let path = format!("/local/domain/{BACKEND}/data/spindle/{node}");
    world.poke(|store| store.write(&path, text));
    world.until("answer", |w| w.published(answer) != before.as_deref());
    world.published(answer).unwrap().to_string()
}

fn guest(world: &mut World, frontend: u16, target: &str, cores: usize) -> usize {
    let guest = world.attach(frontend, 51712, target, "w");
    world.connect(guest, cores.max(1), 1);
    guest
}

/// The size that a guest is shown, once that is so.
fn until_size(world: &mut World, guest: usize, sectors: u64) {
    let path = world.guests[guest].vbd.back("sectors");
    let sectors = sectors.to_string();
    world.until("the size", |w| w.store.text(&path) == Some(&sectors));
    assert_eq!(world.state(guest), 4);
}

/// What stands on a namespace at an extent.
fn at(model: &FakeNvme, namespace: u32, extent: u64) -> Vec<u8> {
    let from = (FIRST + 8 * extent) as usize * 512;
    model.contents(namespace)[from..from + 8 * 512].to_vec()
}

#[test]
fn a_volume_grows_under_its_guest_onto_another_disk_and_nothing_else_changes_for_that() {
    for cores in [0, 2] {
        let (mut world, model) = world(cores);
        write(&mut world, &model, 1, &[("web", &[(2, 0, &[(0, 0)])])]);
        let web = guest(&mut world, 5, "vg0/web", cores);
        until_size(&mut world, web, 16);
        world.write(web, 0, 8, 1);
        // At its end, then in another place, then onto another disk, in stripes.
        type Stage<'a> = (u64, &'a [LvmSegment<'a>], (u32, u64));
        let stages: [Stage<'_>; 3] = [
            (32, &[(4, 0, &[(0, 0)])], (1, 3)),
            (40, &[(4, 0, &[(0, 0)]), (1, 0, &[(0, 9)])], (1, 9)),
            (
                72,
                &[
                    (4, 0, &[(0, 0)]),
                    (1, 0, &[(0, 9)]),
                    (4, 8, &[(0, 20), (1, 30)]),
                ],
                (2, 31),
            ),
        ];
        for (number, (sectors, segments, last)) in (2..).zip(stages) {
            let answer = write(&mut world, &model, number, &[("web", segments)]);
            assert_eq!(answer, "nvme0 works");
            until_size(&mut world, web, sectors);
            for ring in 0..world.guests[web].ring_count() {
                world.write(web, ring, sectors - 8, number + ring as u64);
                world.verify(web, ring, 8, 1);
            }
            let rings = world.guests[web].ring_count() as u64;
            assert_eq!(at(&model, last.0, last.1), pattern(number + rings - 1));
        }
        // What is shrunk, moved or removed stays what it was.
        for (number, volumes, why) in [
            (5, &[("web", &[(4, 0, &[(0, 0)][..])][..])][..], "smaller"),
            (6, &[("web", &[(99, 0, &[(1, 0)][..])][..])], "elsewhere"),
            (
                7,
                &[("new", &[(1, 0, &[(1, 90)][..])][..])],
                "it was removed",
            ),
        ] {
            let answer = write(&mut world, &model, number, volumes);
            let line = answer.lines().nth(1).unwrap();
            assert!(line.starts_with("vg0/web: stays what it was"), "{line}");
            assert!(line.ends_with(why), "{line}");
            until_size(&mut world, web, 72);
            world.verify(web, 0, 8, 1);
        }
        let new = guest(&mut world, 6, "vg0/new", cores);
        world.write(new, 0, 0, 9);
        assert_eq!(at(&model, 2, 90), pattern(9));
        for guest in [web, new] {
            world.detach(guest);
        }
        assert_eq!(rescan(&mut world), "nvme0 works");
        world.assert_nothing_left();
        assert_eq!((model.resets(), model.violations()), (0, Vec::new()));
    }
}

/// An administrator has a volume changed; gives the answer without its word.
fn order(world: &mut World, text: &str) -> String {
    let word = world.now().to_string();
    let answer = ask(world, "volume", "volume-done", &format!("{word} {text}"));
    answer.strip_prefix(&format!("{word} ")).unwrap().into()
}

/// Both namespaces have the same metadata, and LVM would take them for in order.
fn assert_in_order(model: &FakeNvme) -> Group {
    let found = [1, 2].map(|namespace| {
        let found = find(&mut LvmDisk::new(model.contents(namespace)));
        let found = found.unwrap().unwrap();
        assert!(found.notes.is_empty());
        found
    });
    assert_eq!(found[0].group, found[1].group);
    let mut groups = assemble(&[&found[0], &found[1]]);
    groups.remove(0).group
}

#[test]
fn volumes_are_made_extended_renamed_and_removed_by_order() {
    for cores in [0, 2] {
        let (mut world, model) = world(cores);
        write(&mut world, &model, 1, &[("web", &[(99, 0, &[(0, 0)])])]);
        let web = guest(&mut world, 5, "vg0/web", cores);
        world.write(web, 0, 8, 1);
        assert_eq!(order(&mut world, "create vg0/db 40 1700000000"), "done");
        let db = guest(&mut world, 6, "vg0/db", cores);
        until_size(&mut world, db, 40);
        world.write(db, 0, 32, 2);
        assert_eq!(at(&model, 2, 4), pattern(2));
        // What is open grows, also in pieces and onto another disk.
        assert_eq!(order(&mut world, "extend vg0/db +16"), "done");
        until_size(&mut world, db, 56);
        assert_eq!(order(&mut world, "extend vg0/web 808"), "done");
        until_size(&mut world, web, 808);
        world.write(web, 0, 800, 3);
        assert_eq!(at(&model, 2, 8), pattern(3));
        world.verify(web, 0, 8, 1);
        let group = assert_in_order(&model);
        assert_eq!((group.seqno, group.logical.len()), (4, 2));
        for (text, why) in [
            ("remove vg0/db", "6/51712 has it open"),
            ("rename vg0/db data", "6/51712 has it open"),
            ("extend vg0/db 8", "no volume is made smaller"),
            ("extend vg0/none 8", "no such target"),
            ("create vg0/db 8 0", "there is a logical volume db already"),
            ("create vg0/new 8000 0", "MiB are asked for"),
            ("create vg1/new 8 0", "there is no volume group vg1"),
            ("create new 8 0", "is no GROUP/VOLUME"),
            ("frobnicate vg0/db", "it is no order"),
            ("create vg0/new 8", "it is no order"),
        ] {
            let answer = order(&mut world, text);
            let is_it = answer.starts_with("refused: ") && answer.contains(why);
            assert!(is_it, "{text}: {answer}");
        }
        assert_eq!(assert_in_order(&model).seqno, 4, "nothing was written");
        world.detach(db);
        assert_eq!(order(&mut world, "rename vg0/db data"), "done");
        let data = guest(&mut world, 6, "vg0/data", cores);
        world.verify(data, 0, 32, 2);
        assert_refused(&mut world, "vg0/db", "no such target");
        world.detach(data);
        assert_eq!(order(&mut world, "remove vg0/data"), "done");
        assert_refused(&mut world, "vg0/data", "no such target");
        assert_eq!(assert_in_order(&model).logical.len(), 1);
        world.detach(web);
        world.assert_nothing_left();
        assert_eq!((model.resets(), model.violations()), (0, Vec::new()));
    }
}

fn assert_refused(world: &mut World, target: &str, why: &str) {
    let guest = world.attach(9, 51712, target, "w");
    world.until("error", |w| w.error(guest).is_some());
    let error = world.error(guest).unwrap();
    assert!(error.contains(why), "{error}");
    world.destroy(guest);
}

#[test]
fn a_group_that_others_use_or_have_changed_is_not_changed() {
    let (mut world, model) = world(2);
    let web: &[LvmSegment<'_>] = &[(4, 0, &[(0, 0)])];
    write(&mut world, &model, 1, &[("web", web)]);
    let guest_of_web = guest(&mut world, 5, "vg0/web", 2);
    // Another has removed it, and what it has seems to be free.
    write(&mut world, &model, 2, &[]);
    let answer = order(&mut world, "create vg0/new 8 0");
    assert!(
        answer.contains("vg0/web is open, and its group"),
        "{answer}"
    );
    write(&mut world, &model, 3, &[("web", web)]);
    assert_eq!(order(&mut world, "create vg0/new 8 0"), "done");
    // Another has changed the group, and nothing was looked at since.
    let mut text = LvmText::new("vg0").on(PVS[0]).on(PVS[1]);
    text.seqno = 9;
    for (namespace, uuid) in (1..).zip(PVS) {
        let image = LvmImage::new(uuid, BLOCKS as usize, &text.text()).image();
        model.fill(namespace, &image[..FIRST as usize * 512]);
    }
    let answer = order(&mut world, "create vg0/more 8 0");
    assert!(answer.contains("since it was read"), "{answer}");
    assert_eq!(assert_in_order(&model).seqno, 9);
    world.detach(guest_of_web);
    // A guest that has one of its disks to itself could be writing there.
    rescan(&mut world);
    let whole = guest(&mut world, 6, "nvme0n2", 2);
    let answer = order(&mut world, "create vg0/more 8 0");
    assert!(
        answer.contains("6/51712 has nvme0n2 for writing"),
        "{answer}"
    );
    world.detach(whole);
    assert_eq!(order(&mut world, "create vg0/more 8 0"), "done");
    world.assert_nothing_left();
}

#[test]
fn a_change_of_a_disk_that_is_lost_is_answered_and_leaves_old_or_new_metadata() {
    for moment in 0..40 {
        let (mut world, model) = world(2);
        let web: &[LvmSegment<'_>] = &[(4, 0, &[(0, 0)])];
        write(&mut world, &model, 1, &[("web", web)]);
        let path = format!("/local/domain/{BACKEND}/data/spindle/volume");
        world.poke(|store| store.write(&path, "7 create vg0/new 8 0"));
        world.run_until(moment * 250_000, |_| false);
        model.vanish();
        world.until("answer", |w| w.published("volume-done").is_some());
        let answer = world.published("volume-done").unwrap();
        assert!(answer.starts_with("7 "), "{answer}");
        let group = [1, 2].map(|namespace| {
            let found = find(&mut LvmDisk::new(model.contents(namespace)));
            found.unwrap().unwrap().group.unwrap()
        });
        for group in group {
            assert_eq!(group.logical.len() as u64, group.seqno, "{answer}");
        }
    }
}

#[test]
fn a_death_at_any_moment_of_a_change_leaves_a_guest_its_volume() {
    let mut sizes = Vec::new();
    for moment in 0..60 {
        let (mut world, model) = world(2);
        let web: &[LvmSegment<'_>] = &[(4, 0, &[(0, 0)])];
        let next: &[LvmSegment<'_>] = &[(4, 0, &[(0, 4)])];
        write(&mut world, &model, 1, &[("web", web), ("next", next)]);
        let guest = guest(&mut world, 5, "vg0/web", 2);
        world.write(guest, 0, 24, 7);
        let path = format!("/local/domain/{BACKEND}/data/spindle/volume");
        world.poke(|store| store.write(&path, "7 extend vg0/web +8"));
        world.run_until(moment * 250_000, |_| false);
        world.die();
        world.verify(guest, 0, 24, 7);
        world.pass(3_000);
        assert_eq!((world.state(guest), world.error(guest)), (4, None));
        let path = world.guests[guest].vbd.back("sectors");
        sizes.push(world.store.text(&path).unwrap().to_string());
    }
    sizes.dedup();
    // An order that was not taken is carried out by the next life; one that was taken is lost or done.
    assert_eq!(sizes, ["40", "32", "40"]);
}

#[test]
fn a_volume_that_was_moved_under_its_guest_is_not_taken_for_it_after_a_death() {
    // Its first piece, and its second.
    for moved in [
        &[(2, 0, &[(0, 9)][..]), (2, 0, &[(1, 0)][..])][..],
        &[(2, 0, &[(0, 0)][..]), (2, 0, &[(1, 9)][..])],
    ] {
        let (mut world, model) = world(2);
        let web: &[LvmSegment<'_>] = &[(2, 0, &[(0, 0)]), (2, 0, &[(1, 0)])];
        write(&mut world, &model, 1, &[("web", web)]);
        let guest = guest(&mut world, 5, "vg0/web", 2);
        write(&mut world, &model, 2, &[("web", moved)]);
        assert_eq!(world.state(guest), 4, "it has what it had");
        world.die();
        world.until("Closed", |w| w.state(guest) == 6);
        let error = world.error(guest).unwrap();
        assert!(
            error.contains("is not the disk that vg0/web was"),
            "{error}"
        );
    }
}
