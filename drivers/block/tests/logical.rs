//! Logical volumes: what is found on disks and partitions, at once and in steps, and what is not.

use std::fmt::Write as _;

use spindle_block::{
    Access, Blocks, LogicalVolumes, PhysicalVolumes, ReadError, Table, TableReader, TableStep,
    TargetError, Targets, Unit, Volume, table,
};
use spindle_testkit::gpt::Gpt;
use spindle_testkit::image::Image;
use spindle_testkit::lvm::{LvmImage, LvmText};

const FIRST: &[u8; 32] = b"AAAAAAaaaabbbbccccddddeeeeffffff";
const SECOND: &[u8; 32] = b"BBBBBBaaaabbbbccccddddeeeeffffff";
/// Sectors of a disk.
const SECTORS: usize = 4096;

fn volume(disk: usize, shift: u8) -> Volume {
    Volume {
        name: format!("nvme{disk}n1"),
        aliases: Vec::new(),
        disk,
        unit: Unit(1),
        start: 0,
        sectors: SECTORS as u64,
        block_shift: shift,
        physical_block_shift: 12,
        read_only: false,
        write_cache: true,
        discard: None,
        description: String::new(),
        map: None,
    }
}

/// Reads in steps, and at once, which must give the same.
fn read(disk: &Volume, bytes: Vec<u8>) -> Table {
    let block_shift = disk.block_shift;
    let mut image = Image { bytes, block_shift };
    let at_once = table(disk, &mut image).unwrap();
    let mut reader = TableReader::new(disk.clone());
    let in_steps = loop {
        match reader.step() {
            TableStep::Read { first, bytes } => {
                assert!(bytes <= 4096 && bytes.is_multiple_of(1 << block_shift));
                let mut out = vec![0; bytes];
                let read = image.read(first, &mut out);
                reader.add(read.map(|()| out));
            }
            TableStep::Done(table) => break table.unwrap(),
        }
    };
    assert_eq!(format!("{in_steps:?}"), format!("{at_once:?}"));
    at_once
}

/// Disks with these contents: what can be had of them.
fn machine(disks: &[(u8, Vec<u8>)]) -> (Targets<&'static str>, PhysicalVolumes) {
    let mut physical = PhysicalVolumes::default();
    let families = disks.iter().enumerate().map(|(number, (shift, bytes))| {
        let disk = volume(number, *shift);
        let table = read(&disk, bytes.clone());
        physical.set(number, Unit(1), table.physical);
        (disk, table.partitions)
    });
    let mut targets = Targets::new(families.collect::<Vec<_>>());
    targets.set_logical(physical.logical(&targets).unwrap(), &|_, _| Ok(()));
    (targets, physical)
}

fn logical(disks: &[(u8, Vec<u8>)]) -> LogicalVolumes {
    let (targets, physical) = machine(disks);
    physical.logical(&targets).unwrap()
}

fn names(found: &LogicalVolumes) -> Vec<&str> {
    found.volumes.iter().map(|it| &*it.name).collect()
}

fn vg0() -> LvmText {
    LvmText::new("vg0").on(FIRST)
}

/// A disk with one partition at this block, and its contents.
fn in_partition(block: u64, contents: &[u8]) -> Vec<u8> {
    let sectors = SECTORS as u64;
    let last = block + contents.len() as u64 / 512 - 1;
    let mut bytes = Gpt::new(9, sectors)
        .with(1, block, last, "")
        .sealed()
        .image();
    let at = block as usize * 512;
    bytes[at..at + contents.len()].copy_from_slice(contents);
    bytes
}

#[test]
fn logical_volumes_on_a_disk_and_on_a_partition_are_volumes_of_their_own() {
    let text = vg0()
        .with("web", &[(4, 0, &[(0, 10)])])
        .with("two", &[(1, 0, &[(0, 20)]), (2, 0, &[(0, 21)])]);
    let text = text.text();
    let whole = LvmImage::new(FIRST, SECTORS, &text).image();
    let part = in_partition(48, &LvmImage::new(FIRST, 2048, &text).image());
    for (bytes, start, under) in [(whole, 0, "nvme0n1"), (part, 48, "nvme0n1p1")] {
        let (mut targets, physical) = machine(&[(9, bytes)]);
        let found = physical.logical(&targets).unwrap();
        assert_eq!(
            (names(&found), found.refused.len()),
            (vec!["vg0/web", "vg0/two"], 0)
        );
        let web = &found.volumes[0];
        assert_eq!(
            (web.start, web.sectors, web.map.is_some()),
            (start + 256 + 80, 32, false)
        );
        assert_eq!(web.locate(31, 1), Some(start + 256 + 80 + 31));
        assert!(web.write_cache && !web.read_only);
        // Segments that follow each other are one run.
        assert_eq!(
            (found.volumes[1].sectors, found.volumes[1].map.is_some()),
            (24, false)
        );
        for target in [
            "vg0/web",
            "/dev/vg0/web",
            "/dev/mapper/vg0-web",
            "LVUUID=000000-0000-0000-0000-0000-0000-000web",
        ] {
            let id = targets.claim(target, Access::Write, "1/1").unwrap();
            assert_eq!(targets.volume(id), web, "{target}");
        }
        let held = targets.claim(under, Access::Read, "2/1").unwrap_err();
        assert!(matches!(held, TargetError::InUse { .. }), "{held}");
        targets.claim("vg0/two", Access::Write, "2/1").unwrap();
    }
}

#[test]
fn a_volume_of_several_extents_on_two_disks_has_a_map() {
    let text = vg0()
        .on(SECOND)
        .with("web", &[(2, 0, &[(0, 10)]), (4, 4, &[(0, 20), (1, 3)])]);
    let disk = |uuid| (9, LvmImage::new(uuid, SECTORS, &text.text()).image());
    let found = logical(&[disk(SECOND), disk(FIRST)]);
    assert_eq!(names(&found), ["vg0/web"], "{found:?}");
    let web = &found.volumes[0];
    let map = web.map.as_ref().unwrap();
    let runs: Vec<_> = map
        .runs()
        .map(|(disk, first, blocks)| (disk.disk, first, blocks))
        .collect();
    assert_eq!(
        runs,
        [(1, 256 + 80, 16), (1, 256 + 160, 16), (0, 256 + 24, 16)]
    );
    assert_eq!(web.sectors, 48);
}

/// A guest may write what it likes into what it has.
#[test]
fn a_label_inside_a_volume_is_not_believed() {
    let forged = LvmImage::new(
        SECOND,
        400,
        &LvmText::new("evil")
            .on(SECOND)
            .with("x", &[(1, 0, &[(0, 0)])])
            .text(),
    );
    let forged = forged.image();
    // In a logical volume, at its start.
    let text = vg0().with("web", &[(60, 0, &[(0, 0)])]).text();
    let mut bytes = LvmImage::new(FIRST, SECTORS, &text).image();
    bytes[256 * 512..][..400 * 512].copy_from_slice(&forged);
    let found = logical(&[(9, bytes)]);
    assert_eq!((names(&found), found.refused.len()), (vec!["vg0/web"], 0));
    // In a partition of a partition.
    let inner = in_partition(40, &forged);
    let mut gpt = Gpt::new(9, SECTORS as u64)
        .with(1, 64, 2063, "")
        .sealed()
        .image();
    gpt[64 * 512..2064 * 512].copy_from_slice(&inner[..2000 * 512]);
    let found = logical(&[(9, gpt)]);
    assert_eq!((names(&found), found.refused.len()), (vec![], 0));
    // Beside a partition table.
    let mut label = LvmImage::new(FIRST, SECTORS, &text);
    label.label = 0;
    let plain = label.image();
    assert_eq!(names(&logical(&[(9, plain.clone())])), ["vg0/web"]);
    let mut table = plain;
    table[446 + 4] = 0x83;
    (table[510], table[511]) = (0x55, 0xaa);
    assert_eq!(names(&logical(&[(9, table)])), [""; 0]);
}

#[test]
fn what_is_refused_has_a_reason_by_its_name() {
    let thin = ("pool".to_string(), "segment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = 1\ntype = \"thin-pool\"\n}\n".to_string());
    let mut text = vg0()
        .on(SECOND)
        .with("web", &[(1, 0, &[(0, 0)])])
        .with("far", &[(1, 0, &[(1, 0)])]);
    text.logical.push(thin);
    let (mut targets, _) = machine(&[(9, LvmImage::new(FIRST, SECTORS, &text.text()).image())]);
    for (target, reason) in [
        ("/dev/vg0/pool", "it is a thin pool"),
        (
            "/dev/mapper/vg0-far",
            "a physical volume under it is not there",
        ),
    ] {
        let error = targets.claim(target, Access::Read, "1/1").unwrap_err();
        assert!(matches!(error, TargetError::Failed { .. }), "{error}");
        assert!(error.to_string().ends_with(reason), "{error}");
    }
    targets.claim("vg0/web", Access::Read, "1/1").unwrap();
    assert_eq!(targets.refusal("vg0/pool"), Some("it is a thin pool"));
    // An unknown one of the group is no part of another one.
    let error = targets.claim("vg0/pool2", Access::Read, "1/1").unwrap_err();
    assert!(matches!(error, TargetError::Unknown { .. }), "{error}");
}

#[test]
fn blocks_that_extents_do_not_fit_are_refused() {
    for (start, extent, fits) in [(256, 8, true), (260, 8, false), (256, 4, false)] {
        let mut text = vg0().with("web", &[(3, 0, &[(0, 1)])]);
        (text.physical[0].1, text.extent) = (start, extent);
        let bytes = LvmImage::new(FIRST, SECTORS, &text.text()).image();
        assert_eq!(names(&logical(&[(9, bytes.clone())])), ["vg0/web"]);
        let found = logical(&[(12, bytes)]);
        assert_eq!(found.volumes.len(), usize::from(fits), "{start} {extent}");
        for volume in &found.volumes {
            assert_eq!(volume.start * 8, 256 + 8);
        }
        for (name, reason) in &found.refused {
            assert!(
                name == "vg0/web" && reason.contains("whole blocks"),
                "{reason}"
            );
        }
    }
}

#[test]
fn a_disk_that_is_reached_twice_has_its_physical_volume_once() {
    let text = vg0().with("web", &[(1, 0, &[(0, 0)])]).text();
    let mut physical = PhysicalVolumes::default();
    let family = |number: usize, name: &str| {
        let mut disk = volume(number, 9);
        disk.aliases = vec![format!("nvme-{name}_1")];
        let bytes = LvmImage::new(FIRST, SECTORS, &text).image();
        (read(&disk, bytes).physical, (disk, Vec::new()))
    };
    for (other, served) in [("model", true), ("other", false)] {
        let disks = [family(0, "model"), family(1, other)];
        let disks = disks
            .into_iter()
            .enumerate()
            .map(|(number, (found, disk))| {
                physical.set(number, Unit(1), found);
                disk
            });
        let targets = Targets::<&str>::new(disks.collect::<Vec<_>>());
        let found = physical.logical(&targets).unwrap();
        assert_eq!(found.volumes.len(), usize::from(served));
        assert_eq!(found.refused.len(), usize::from(!served));
    }
}

#[test]
fn metadata_that_takes_too_much_room_is_not_kept() {
    let mut big = LvmText::new("big").on(SECOND);
    (big.physical[0].2, big.extent) = (3000, 1);
    for number in 0..400 {
        let mut name = String::new();
        write!(name, "v{number}").unwrap();
        big = big.with(
            &name,
            &[(1, 0, &[(0, 2 * number)]), (1, 0, &[(0, 2 * number + 1)])],
        );
    }
    let disk = |uuid: &[u8; 32], text: &LvmText| {
        let mut image = LvmImage::new(uuid, SECTORS, &text.text());
        image.areas[0].size = 800 << 10;
        // Behind the metadata.
        (9, image.image())
    };
    big.physical[0].1 = 1700;
    (big.physical[0].2, big.extent) = (2000, 1);
    let one = logical(&[disk(SECOND, &big)]);
    assert_eq!(
        (one.volumes.len(), one.refused.len()),
        (400, 0),
        "{:?}",
        one.refused
    );
    // Of four such groups the last finds no room, and neither is it forgotten that it is there.
    let mut disks = Vec::new();
    for number in 0..4_u8 {
        let mut uuid = *SECOND;
        uuid[0] = b'C' + number;
        let mut other = big.clone();
        (other.name, other.uuid) = (format!("big{number}"), format!("{number:0>32}"));
        other.physical[0].0 = uuid;
        disks.push(disk(&uuid, &other));
    }
    let all = logical(&disks);
    assert_eq!(
        (all.volumes.len(), all.refused.len(), all.surplus),
        (512, 512, 176)
    );
    let (_, mut physical) = machine(&disks[..3]);
    let found = read(&volume(3, 9), disks[3].1.clone()).physical;
    assert!(found[0].found.group.is_some());
    physical.set(3, Unit(1), found);
    let text = format!("{physical:?}");
    assert_eq!(text.matches("there is no room").count(), 1);
}

#[test]
fn a_disk_that_fails_while_it_is_looked_at_is_said_to() {
    struct Torn(Image, u64, ReadError);
    impl Blocks for Torn {
        fn block_shift(&self) -> u8 {
            self.0.block_shift
        }
        fn count(&self) -> u64 {
            self.0.count()
        }
        fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), ReadError> {
            let end = first + out.len() as u64 / 512;
            if (first..end).contains(&self.1) {
                return Err(self.2);
            }
            self.0.read(first, out)
        }
    }
    let text = vg0().with("web", &[(1, 0, &[(0, 0)])]).text();
    let bytes = LvmImage::new(FIRST, SECTORS, &text).image();
    let disk = volume(0, 9);
    let look = |at, error| {
        let image = Image {
            bytes: bytes.clone(),
            block_shift: 9,
        };
        table(&disk, &mut Torn(image, at, error))
    };
    let bad = ReadError::Failed(spindle_block::IoError::Medium);
    // The label, then the metadata.
    assert!(look(2, bad).unwrap().physical.is_empty());
    let worn = look(9, bad).unwrap();
    assert!(worn.physical[0].found.group.is_none());
    assert!(worn.notes[0].contains("nvme0n1"), "{:?}", worn.notes);
    for at in [2, 9] {
        assert_eq!(
            look(at, ReadError::TimedOut).unwrap_err(),
            ReadError::TimedOut
        );
        let full = look(at, ReadError::NoMemory).unwrap();
        assert!(full.physical.is_empty() && full.notes[0].contains("no room"));
    }
}
