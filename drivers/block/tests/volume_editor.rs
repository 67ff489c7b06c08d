//! Changes of logical volumes, access by access: what they leave on the disks, whatever their blocks are.

use spindle_block::{
    EditAccess, EditStep, Op, PhysicalVolumes, ReadError, SubmitError, Targets, Unit, Volume,
    VolumeChange, VolumeEditor, table,
};
use spindle_testkit::gpt::Gpt;
use spindle_testkit::image::Image;
use spindle_testkit::lvm::{LvmImage, LvmText};

const UUIDS: [&[u8; 32]; 2] = [
    b"AAAAAAaaaabbbbccccddddeeeeffffff",
    b"BBBBBBaaaabbbbccccddddeeeeffffff",
];
const SECTORS: usize = 4096;
const CREATE: VolumeChange = VolumeChange::Create {
    sectors: 1000,
    time: 1,
};

fn disk(number: usize, shift: u8) -> Volume {
    Volume {
        name: format!("nvme{number}n1"),
        aliases: Vec::new(),
        disk: number,
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

/// A group on a whole disk and on a partition that begins at this block of another, in blocks of 2 to the
/// power of `shift` bytes.
fn disks(shift: u8, start: u64) -> [Vec<u8>; 2] {
    let mut text = LvmText::new("vg0").on(UUIDS[0]).on(UUIDS[1]);
    text = text.with("web", &[(16, 0, &[(0, 0)])]);
    let image = |uuid, sectors| LvmImage::new(uuid, sectors, &text.text()).image();
    let blocks = SECTORS as u64 >> (shift - 9);
    let last = start + (2048 >> (shift - 9)) - 1;
    let mut parted = Gpt::new(shift, blocks)
        .with(1, start, last, "")
        .sealed()
        .image();
    let part = image(UUIDS[1], 2048);
    let at = (start << shift) as usize;
    parted[at..at + part.len()].copy_from_slice(&part);
    [image(UUIDS[0], SECTORS), parted]
}

fn look(bytes: &[Vec<u8>; 2], shift: u8) -> (Targets<&'static str>, PhysicalVolumes) {
    let mut physical = PhysicalVolumes::default();
    let mut families = Vec::new();
    for (number, bytes) in bytes.iter().enumerate() {
        let disk = disk(number, shift);
        let mut image = Image {
            bytes: bytes.clone(),
            block_shift: shift,
        };
        let found = table(&disk, &mut image).unwrap();
        physical.set(number, Unit(1), found.physical);
        families.push((disk, found.partitions));
    }
    let mut targets = Targets::new(families);
    let logical = physical.logical(&targets).unwrap();
    targets.set_logical(logical, &|_, _| Ok(()));
    (targets, physical)
}

/// Carries an access out; gives what is read.
fn carry_out(bytes: &mut [Vec<u8>; 2], access: &EditAccess) -> Vec<u8> {
    let size = 1 << access.block_shift;
    assert!(access.bytes <= 4096 && access.bytes.is_multiple_of(size));
    let at = access.block as usize * size;
    let place = &mut bytes[access.disk][at..at + access.bytes];
    match access.op {
        Op::Read => return place.to_vec(),
        Op::Write => place.copy_from_slice(&access.data),
        op => assert_eq!((op, access.bytes), (Op::Flush, 0)),
    }
    Vec::new()
}

fn editor(bytes: &[Vec<u8>; 2], shift: u8, what: VolumeChange) -> VolumeEditor {
    let (targets, physical) = look(bytes, shift);
    let editor = physical.edit(&targets, "vg0/new", what, 1);
    editor.unwrap_or_else(|reason| panic!("{reason}"))
}

#[test]
fn whole_blocks_are_written_and_what_is_around_stays() {
    for (shift, start) in [(9, 49), (12, 7)] {
        let mut bytes = disks(shift, start);
        // What is around the first area, and behind the text in it.
        for disk in &mut bytes {
            let at = disk.len() - 8192;
            disk[at..at + 64].fill(7);
        }
        let before = bytes.clone();
        let mut editor = editor(&bytes, shift, CREATE);
        assert_eq!(editor.units().count(), 2);
        let mut ops = Vec::new();
        let outcome = loop {
            match editor.step() {
                EditStep::Done(outcome) => break outcome,
                EditStep::Access(access) => {
                    // It is asked for again as long as there is no outcome.
                    let EditStep::Access(again) = editor.step() else {
                        panic!("another step");
                    };
                    let key = |it: &EditAccess| (it.op, it.disk, it.block, it.bytes);
                    assert_eq!(key(&again), key(&access));
                    ops.push(access.op);
                    let read = carry_out(&mut bytes, &access);
                    editor.add(Ok(read));
                }
            }
        };
        assert_eq!(outcome, Ok(()));
        let flushes = ops.iter().filter(|op| **op == Op::Flush).count();
        assert_eq!(flushes, 4, "each disk before the headers and at the end");
        assert_eq!(ops.last(), Some(&Op::Flush));
        let (targets, _) = look(&bytes, shift);
        let new = targets.volume(targets.named("vg0/new").unwrap());
        assert_eq!(new.sectors, 1000, "in two pieces");
        assert!(new.map.is_some());
        // Nothing but the areas: from 4 KiB on behind the label, 64 KiB.
        let area = |disk: usize| {
            let from = if disk == 0 { 0 } else { start << shift } as usize + 4096;
            from..from + (64 << 10)
        };
        for disk in 0..2 {
            let same =
                |at: &usize| area(disk).contains(at) || bytes[disk][*at] == before[disk][*at];
            assert!((0..bytes[disk].len()).all(|at| same(&at)), "{disk}");
        }
    }
}

#[test]
fn an_access_that_fails_ends_it_with_the_reason() {
    for failing in 0..200 {
        let mut bytes = disks(9, 49);
        let mut editor = editor(&bytes, 9, CREATE);
        let mut number = 0;
        let outcome = loop {
            match editor.step() {
                EditStep::Done(outcome) => break outcome,
                EditStep::Access(_) if number == failing => {
                    editor.add(Err(ReadError::NotTaken(SubmitError::Gone)));
                }
                EditStep::Access(access) => {
                    let read = carry_out(&mut bytes, &access);
                    editor.add(Ok(read));
                }
            }
            number += 1;
        };
        let (targets, _) = look(&bytes, 9);
        let is_there = targets.named("vg0/new").is_ok();
        assert!(targets.named("vg0/web").is_ok());
        match outcome {
            Ok(()) => {
                assert!(is_there);
                return;
            }
            Err(reason) => assert!(reason.contains("its metadata cannot be"), "{reason}"),
        }
    }
    panic!("it does not end");
}

#[test]
fn a_header_that_another_has_written_meanwhile_is_left_alone() {
    let mut bytes = disks(9, 49);
    let mut editor = editor(&bytes, 9, CREATE);
    let mut flushed = 0;
    let outcome = loop {
        match editor.step() {
            EditStep::Done(outcome) => break outcome,
            EditStep::Access(access) => {
                flushed += usize::from(access.op == Op::Flush);
                if flushed == 2 {
                    bytes[0][4096 + 40] ^= 1;
                    flushed += 1;
                }
                let read = carry_out(&mut bytes, &access);
                editor.add(Ok(read));
            }
        }
    };
    let reason = outcome.unwrap_err();
    assert!(reason.contains("another has changed its group"), "{reason}");
}

#[test]
fn groups_that_are_not_whole_or_that_guests_may_write_are_not_changed() {
    let refused = |targets: &Targets<&str>, physical: &PhysicalVolumes, name: &str| match physical
        .edit(targets, name, CREATE, 1)
    {
        Err(reason) => reason,
        Ok(_) => panic!("it is not refused"),
    };
    let bytes = disks(9, 49);
    let (mut targets, mut physical) = look(&bytes, 9);
    let unknown = refused(&targets, &physical, "vg1/new");
    assert_eq!(unknown, "there is no volume group vg1");
    let id = targets.claim("nvme1n1p1", spindle_block::Access::Write, "1/1");
    id.unwrap();
    let reason = refused(&targets, &physical, "vg0/new");
    assert_eq!(reason, "1/1 has nvme1n1p1 for writing");
    targets.release("1/1");
    targets.set_lost(0, "nvme0".into(), "gone".into(), false);
    let reason = refused(&targets, &physical, "vg0/new");
    assert_eq!(reason, "nvme0n1 is lost: gone");
    targets.set_found(0, "nvme0");
    physical.set(1, Unit(1), Vec::new());
    let reason = refused(&targets, &physical, "vg0/new");
    assert_eq!(reason, "a physical volume under it is not there");
}

#[test]
fn what_a_guest_writes_alone_says_nothing_of_the_volumes_of_others() {
    let bytes = disks(9, 49);
    let (mut targets, mut physical) = look(&bytes, 9);
    let claimed = targets.claim("nvme1n1p1", spindle_block::Access::Write, "1/1");
    claimed.unwrap();
    // It makes a group of that name there.
    let mut text = LvmText::new("vg0").on(UUIDS[1]);
    text.uuid = "Z".repeat(32);
    let mut image = Image {
        bytes: LvmImage::new(UUIDS[1], 2048, &text.text()).image(),
        block_shift: 9,
    };
    let part = Volume {
        name: "nvme1n1p1".into(),
        sectors: 2048,
        ..disk(1, 9)
    };
    let found = table(&part, &mut image).unwrap().physical;
    assert_eq!(found.len(), 1);
    physical.set(1, Unit(1), found);
    let served = |targets: &Targets<&str>| {
        let logical = physical.logical(targets).unwrap();
        let names = logical.volumes.iter().map(|volume| volume.name.clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(served(&targets), ["vg0/web"]);
    // Once it has left it, there is nothing that says which is right.
    targets.release("1/1");
    assert_eq!(served(&targets), [""; 0]);
}
