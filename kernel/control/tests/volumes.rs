//! Logical volumes that are changed on disks that guests use: by others, which a rescan finds.

use spindle_block::DiskOptions;
use spindle_simulate::world::guest::pattern;
use spindle_simulate::world::{BACKEND, Setup, World};
use spindle_testkit::lvm::{LvmImage, LvmSegment, LvmText};
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
    let setup = Setup {
        cores,
        ..Setup::default()
    };
    let mut model = None;
    let mut world = World::new(setup, |machine, disks| {
        let config = NvmeConfig {
            namespaces: [1, 2].map(|id| NamespaceConfig::new(id, BLOCKS, 9)).into(),
            write_cache: false,
            ..NvmeConfig::default()
        };
        let controller = FakeNvme::new(machine.bus.clone(), config);
        let options = DiskOptions {
            queues: cores.max(1) as u16,
            depth: 16,
            ..DiskOptions::default()
        };
        disks.add_nvme(&controller, 0, options);
        model = Some(controller);
    });
    world.until("watches", |w| w.published("ready").is_some());
    world.pass(100);
    (world, model.unwrap())
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
