//! What may be claimed beside what.

use super::*;
use crate::Unit;
use alloc::format;
use alloc::vec;

fn volume(name: &str, disk: usize, start: u64, sectors: u64) -> Volume {
    Volume {
        name: name.to_string(),
        aliases: Vec::new(),
        disk,
        unit: Unit(1),
        start,
        sectors,
        block_shift: 9,
        physical_block_shift: 9,
        read_only: false,
        write_cache: false,
        discard: None,
        description: String::new(),
        map: None,
    }
}

fn aliased(mut volume: Volume, aliases: &[&str]) -> Volume {
    volume.aliases = aliases.iter().map(ToString::to_string).collect();
    volume
}

/// `nvme0n1` of 100 blocks with two partitions, and the read-only `ram0`.
fn targets() -> Targets<&'static str> {
    let disk = aliased(volume("nvme0n1", 0, 0, 100), &["nvme-eui.0011"]);
    let first = aliased(
        volume("nvme0n1p1", 0, 10, 20),
        &["PARTUUID=ab12", "PARTLABEL=my data", "PARTLABEL=twin"],
    );
    let second = aliased(volume("nvme0n1p2", 0, 30, 70), &["PARTLABEL=twin"]);
    let mut ram = volume("ram0", 1, 0, 8);
    ram.read_only = true;
    Targets::new([(disk, vec![first, second]), (ram, Vec::new())])
}

#[test]
fn a_target_is_found_by_all_its_names() {
    for (target, name) in [
        ("nvme0n1", "nvme0n1"),
        ("/dev/nvme0n1", "nvme0n1"),
        ("nvme-eui.0011", "nvme0n1"),
        ("/dev/disk/by-id/nvme-eui.0011", "nvme0n1"),
        ("/dev/nvme0n1p1", "nvme0n1p1"),
        ("PARTUUID=AB12", "nvme0n1p1"),
        ("/dev/disk/by-partuuid/ab12", "nvme0n1p1"),
        ("PARTLABEL=my data", "nvme0n1p1"),
        ("PARTLABEL=my\\x20data", "nvme0n1p1"),
        ("/dev/disk/by-partlabel/my\\x20data", "nvme0n1p1"),
    ] {
        let mut targets = targets();
        let claimed = targets.claim(target, Access::Write, "1/51712");
        assert_eq!(targets.volume(claimed.unwrap()).name, name, "{target}");
    }
}

#[test]
fn an_unknown_target_is_told_what_there_is() {
    let told = |mut targets: Targets<&'static str>, target: &str| {
        let claim = targets.claim(target, Access::Write, "1/51712");
        claim.unwrap_err().to_string()
    };
    assert_eq!(
        told(targets(), "/dev/sda"),
        "no such target \"/dev/sda\"; have nvme0n1, nvme0n1p1, nvme0n1p2, ram0"
    );
    assert_eq!(
        told(Targets::default(), "x"),
        "no such target \"x\"; have no disk at all"
    );
    let disks = (0..50).map(|n| (volume(&format!("d{n}"), n, 0, 8), Vec::new()));
    assert!(told(Targets::new(disks), "x").ends_with("d11 and others"));
}

#[test]
fn a_name_that_two_partitions_claim_names_neither() {
    let mut targets = targets();
    let error = targets.claim("PARTLABEL=twin", Access::Read, "1/51712");
    assert_eq!(
        error.unwrap_err().to_string(),
        "target \"PARTLABEL=twin\" could be each of nvme0n1p1, nvme0n1p2; say which"
    );
    // A disk cannot take another one's name by claiming it as an alias.
    let rogue = aliased(volume("nvme1n1", 2, 0, 8), &["nvme0n1"]);
    let honest = volume("nvme0n1", 0, 0, 8);
    let mut targets = Targets::new([(rogue, Vec::new()), (honest, Vec::new())]);
    let claimed = targets.claim("nvme0n1", Access::Read, "1/51712");
    assert_eq!(targets.volume(claimed.unwrap()).disk, 0);
}

#[test]
fn a_writer_is_alone_and_readers_share() {
    let mut targets = targets();
    targets.claim("nvme0n1", Access::Read, "1/51712").unwrap();
    targets.claim("nvme0n1", Access::Read, "2/51712").unwrap();
    assert!(matches!(
        targets.claim("nvme0n1", Access::Write, "3/51712"),
        Err(TargetError::InUse { holder, held: None, .. }) if holder == "1/51712"
    ));
    targets.release("1/51712");
    targets.release("2/51712");
    targets.claim("nvme0n1", Access::Write, "3/51712").unwrap();
    assert!(targets.claim("nvme0n1", Access::Read, "1/51712").is_err());
    targets.claim("nvme0n1", Access::Write, "3/51712").unwrap();
}

#[test]
fn a_guest_that_asks_to_share_writing_gets_it() {
    let mut targets = targets();
    targets.claim("nvme0n1", Access::Write, "1/51712").unwrap();
    targets
        .claim("nvme0n1", Access::SharedWrite, "2/51712")
        .unwrap();
    assert!(targets.claim("nvme0n1", Access::Write, "3/51712").is_err());
}

#[test]
fn writers_of_parts_of_blocks_share_with_each_other_only() {
    let mut targets = targets();
    let is_mixed = |result: Result<VolumeId, TargetError>| matches!(result, Err(TargetError::Mixed { holder, .. }) if holder == "1/51712");
    for (shift, mixed) in [(9, false), (12, true)] {
        for entry in &mut targets.entries[..3] {
            let volume = &mut entry.volume;
            volume.sectors <<= shift - volume.block_shift;
            volume.block_shift = shift;
        }
        targets
            .claim_512e("nvme0n1", Access::Write, "1/51712")
            .unwrap();
        let got = targets.claim("nvme0n1", Access::SharedWrite, "2/51712");
        assert_eq!(is_mixed(got), mixed);
        targets.release("2/51712");
        targets
            .claim_512e("nvme0n1", Access::SharedWrite, "2/51712")
            .unwrap();
        targets.release("2/51712");
        targets.claim("nvme0n1", Access::Write, "1/51712").unwrap();
        let got = targets.claim_512e("nvme0n1", Access::SharedWrite, "2/51712");
        assert_eq!(is_mixed(got), mixed);
        targets.release("2/51712");
        targets.release("1/51712");
    }
    // Nor by another name, which would have claims of its own.
    targets
        .entries
        .iter_mut()
        .for_each(|entry| entry.stale = false);
    targets
        .claim_512e("nvme0n1p1", Access::Write, "1/51712")
        .unwrap();
    let got = targets.claim_512e("nvme0n1", Access::SharedWrite, "2/51712");
    assert!(is_mixed(got));
    targets
        .claim_512e("nvme0n1p2", Access::SharedWrite, "2/51712")
        .unwrap();
    targets.claim("nvme0n1p2", Access::Read, "2/51712").unwrap();
    // Readers do not matter here.
    targets
        .claim_512e("nvme0n1p1", Access::Read, "1/51712")
        .unwrap();
    targets.claim("nvme0n1p1", Access::Read, "3/51712").unwrap();
    targets
        .claim("nvme0n1p1", Access::SharedWrite, "2/51712")
        .unwrap();
}

#[test]
fn a_write_protected_disk_is_only_given_to_readers() {
    let error = targets()
        .claim("ram0", Access::Write, "1/51712")
        .unwrap_err();
    assert_eq!(error, TargetError::ReadOnly("ram0".to_string()));
}

#[test]
fn a_disk_and_its_partitions_are_in_each_others_way_and_partitions_are_not() {
    let mut targets = targets();
    targets
        .claim("nvme0n1p1", Access::Write, "1/51712")
        .unwrap();
    targets
        .claim("nvme0n1p2", Access::Write, "2/51712")
        .unwrap();
    let error = targets
        .claim("nvme0n1", Access::Read, "3/51712")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "target \"nvme0n1\" is in use by 1/51712 (as \"nvme0n1p1\"), and not by readers only"
    );
    targets.release("1/51712");
    targets.release("2/51712");
    targets.claim("nvme0n1", Access::Read, "3/51712").unwrap();
    targets.claim("nvme0n1p1", Access::Read, "1/51712").unwrap();
    assert!(
        targets
            .claim("nvme0n1p1", Access::Write, "2/51712")
            .is_err()
    );
}

#[test]
fn partitions_of_a_disk_that_was_given_out_whole_for_writing_are_refused() {
    let mut targets = targets();
    targets.claim("nvme0n1", Access::Write, "1/51712").unwrap();
    targets.release("1/51712");
    let error = targets.claim("nvme0n1p1", Access::Read, "2/51712");
    assert!(error.unwrap_err().to_string().contains("spindlectl rescan"));
    targets.claim("nvme0n1", Access::Write, "2/51712").unwrap();
}

#[test]
fn a_resized_disk_keeps_its_partitions_as_far_as_they_reach() {
    let mut targets = targets();
    assert!(targets.resize(0, Unit(1), 200).is_some());
    assert_eq!(targets.resize(0, Unit(1), 200), None, "no news");
    assert_eq!(targets.resize(0, Unit(2), 500), None, "not a disk");
    assert_eq!(targets.entries[0].volume.sectors, 200);
    assert_eq!(targets.entries[1].volume.sectors, 20);
    assert!(targets.resize(0, Unit(1), 50).is_some());
    targets
        .claim("nvme0n1p1", Access::Write, "1/51712")
        .unwrap();
    let error = targets.claim("nvme0n1p2", Access::Write, "2/51712");
    assert_eq!(
        error.unwrap_err(),
        TargetError::Beyond("nvme0n1p2".to_string())
    );
    // A namespace that is gone is one of no size.
    assert!(targets.resize(0, Unit(1), 0).is_some());
    let error = targets.claim("nvme0n1", Access::Write, "2/51712");
    assert_eq!(
        error.unwrap_err(),
        TargetError::Empty("nvme0n1".to_string())
    );
}

#[test]
fn who_has_a_volume_keeps_it_while_its_disk_is_smaller() {
    // What is held, and the controller by which the disk is seen to shrink, to how much; it grows again.
    for (held, usage, shrunk, sectors, wanted) in [
        ("nvme0n1p1", Access::Write, 0, 8, "nvme0n1"),
        ("nvme0n1p1", Access::Write, 1, 8, "nvme1n1"),
        ("nvme0n1", Access::Read, 0, 8, "nvme1n1p1"),
        ("nvme0n1", Access::Write, 0, 0, "nvme1n1"),
    ] {
        let mut targets = twins();
        targets.claim(held, usage, "1/51712").unwrap();
        assert!(targets.resize(shrunk, Unit(1), sectors).is_some());
        let refused = targets.claim(wanted, Access::Write, "2/51712");
        assert!(
            matches!(refused, Err(TargetError::InUse { .. })),
            "{wanted} beside {held}: {refused:?}"
        );
    }
}

#[test]
fn the_list_names_holders_and_harmless_aliases() {
    let mut targets = targets();
    targets.entries[1]
        .volume
        .aliases
        .push("PARTLABEL=\n1 \\ä".to_string());
    targets
        .claim("nvme0n1p1", Access::Write, "5/51712")
        .unwrap();
    targets
        .claim("nvme0n1p1", Access::SharedWrite, "6/51712")
        .unwrap();
    let lists: Vec<_> = targets
        .lists()
        .map(|(_, name, pages)| (name, pages.concat()))
        .collect();
    assert_eq!(
        lists[0],
        (
            "nvme0n1",
            "nvme0n1 100 512 w - nvme-eui.0011\n\
             nvme0n1p1 20 512 w 5/51712:w,6/51712:w! PARTUUID=ab12 PARTLABEL=my\\x20data \
             PARTLABEL=twin PARTLABEL=\\x0a1\\x20\\x5c\\xc3\\xa4\n\
             nvme0n1p2 70 512 w - PARTLABEL=twin"
                .to_string()
        )
    );
    assert_eq!(lists[1], ("ram0", "ram0 8 512 r -".to_string()));
}

#[test]
fn a_list_always_fits_into_the_store() {
    let label = "x".repeat(36);
    let parts = |count: u64| {
        let part = |n| {
            let alias = format!("PARTLABEL={label}");
            aliased(volume(&format!("d0p{n}"), 0, n, 1), &[&alias])
        };
        (1..=count).map(part).collect()
    };
    // Each line has 63 bytes with its alias, and 16 without.
    for (count, aliases, pages, cut) in [
        (3, true, 1, false),
        (200, true, 8, false),
        (240, false, 3, false),
        (512, false, 5, false),
        (4000, false, 32, true),
    ] {
        let disk = volume("d0", 0, 0, 5000);
        let targets = Targets::<&str>::new([(disk, parts(count))]);
        let (.., list) = targets.lists().next().unwrap();
        assert!(list.iter().all(|page| page.len() <= 1792), "{count}");
        assert_eq!(list.len(), pages, "{count}");
        let text = list.join("\n");
        assert_eq!(text.contains("PARTLABEL"), aliases, "{count}");
        assert_eq!(text.contains("volumes more"), cut, "{count}");
        if !cut {
            let lines = text
                .lines()
                .map(|line| line.split(' ').next().unwrap_or_default());
            let names = (1..=count).map(|n| format!("d0p{n}"));
            assert!(
                lines.eq(core::iter::once("d0".into()).chain(names)),
                "{count}"
            );
        }
    }
}

/// Namespace 1 of one subsystem behind two controllers, with a partition each, and of another whose
/// maker gave all disks the same EUI-64.
fn twins() -> Targets<&'static str> {
    let names = ["nvme-S1-n1", "nvme-eui.00000000000000aa"];
    let family = |name: &str, disk, names: &[&str]| {
        let part = aliased(volume(&format!("{name}p1"), disk, 10, 20), &["PARTUUID=ab"]);
        (aliased(volume(name, disk, 0, 100), names), vec![part])
    };
    Targets::new([
        family("nvme0n1", 0, &names),
        family("nvme1n1", 1, &names),
        family("nvme2n1", 2, &["nvme-S2-n1", "nvme-eui.00000000000000aa"]),
    ])
}

/// Controller number `disk` is lost and writes nothing, or works.
fn set_lost(targets: &mut Targets<&'static str>, disk: usize, lost: bool) {
    let name = format!("nvme{disk}");
    match lost {
        true => targets.set_lost(disk, name, "it is gone".to_string(), false),
        false => targets.set_found(disk, &name),
    }
}

#[test]
fn a_twin_of_a_lost_controller_that_may_still_write_is_given_to_none() {
    let mut targets = twins();
    targets.set_lost(0, "nvme0".to_string(), "it hangs".to_string(), true);
    for target in ["nvme-S1-n1", "nvme1n1", "nvme1n1p1"] {
        for access in [Access::Read, Access::Write, Access::SharedWrite] {
            let error = targets.claim(target, access, "1/51712").unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, TargetError::MayChange { lost, .. } if lost == "nvme0"));
            assert!(
                text.contains("may still carry out what it was given"),
                "{text}"
            );
        }
    }
    // Another disk is none of its business.
    targets.claim("nvme2n1", Access::Write, "2/51712").unwrap();
    // It has been stopped since, or is back.
    targets.set_lost(0, "nvme0".to_string(), "it hangs".to_string(), false);
    let named = targets.claim("nvme-S1-n1", Access::Write, "1/51712");
    assert_eq!(targets.volume(named.unwrap()).name, "nvme1n1");
    targets.release("1/51712");
    targets.set_lost(0, "nvme0".to_string(), "it hangs".to_string(), true);
    assert!(targets.may_write(0) && !targets.may_write(1));
    targets.set_found(0, "nvme0");
    targets.claim("nvme1n1", Access::Write, "1/51712").unwrap();
}

#[test]
fn what_is_said_of_a_lost_controller_is_the_last_reason_as_long_as_it_is_lost() {
    let mut targets = targets();
    let refusal = |targets: &mut Targets<&'static str>, target: &str| {
        let claimed = targets.claim(target, Access::Write, "1/51712");
        claimed.unwrap_err().to_string()
    };
    targets.note_failed("nvme3".to_string(), "it did not start".to_string());
    targets.note_failed("nvme4".to_string(), "nor did this".to_string());
    assert!(refusal(&mut targets, "nvme3n1").ends_with("it did not start"));
    for reason in ["it does not answer", "it is on fire"] {
        targets.set_lost(7, "nvme3".to_string(), reason.to_string(), false);
        assert_eq!(targets.lost(7), Some(reason));
        assert!(refusal(&mut targets, "nvme3n1").ends_with(reason));
        assert!(targets.knows("nvme3"));
    }
    targets.set_found(7, "nvme3");
    assert_eq!(targets.lost(7), None);
    assert!(refusal(&mut targets, "nvme3n1").starts_with("no such target"));
    assert!(!targets.knows("nvme3"));
    assert!(refusal(&mut targets, "nvme4n1").ends_with("nor did this"));
}

#[test]
fn a_name_of_twins_is_that_of_the_one_that_works_whatever_size_it_has() {
    let mut targets = twins();
    set_lost(&mut targets, 0, true);
    let (unit, sectors) = targets.disks().map(|d| (d.unit, d.sectors)).next().unwrap();
    assert!(targets.resize(1, unit, sectors * 2).is_some());
    let named = targets.named("nvme-S1-n1").unwrap();
    assert_eq!(targets.volume(named).name, "nvme1n1");
}

#[test]
fn a_namespace_behind_two_controllers_is_one_disk() {
    let mut targets = twins();
    targets.claim("nvme0n1", Access::Write, "1/51712").unwrap();
    for target in ["nvme1n1", "nvme1n1p1", "nvme-S1-n1"] {
        for usage in [Access::Read, Access::Write] {
            let refused = targets.claim(target, usage, "2/51712").unwrap_err();
            assert!(
                matches!(
                    &refused,
                    TargetError::InUse { .. } | TargetError::Stale { .. }
                ),
                "{target}: {refused}"
            );
        }
    }
    // Nor is it one as long as its partition is in use by the other way.
    let mut targets = twins();
    targets
        .claim("nvme1n1p1", Access::Write, "1/51712")
        .unwrap();
    assert!(targets.claim("nvme0n1", Access::Write, "2/51712").is_err());
    let first = targets
        .claim("nvme-S1-n1", Access::Write, "1/51712")
        .unwrap();
    assert_eq!(targets.volume(first).name, "nvme0n1", "either way will do");
    // But one that works is better than one that is lost, as long as there is one.
    for (disk, lost, name) in [
        (0, true, "nvme1n1"),
        (1, true, "nvme0n1"),
        (0, false, "nvme0n1"),
        (0, true, "nvme0n1"),
        (1, false, "nvme1n1"),
    ] {
        set_lost(&mut targets, disk, lost);
        let named = targets.named("nvme-S1-n1").unwrap();
        assert_eq!(targets.volume(named).name, name, "{disk} {lost}");
    }
    let named = targets.named("nvme0n1").unwrap();
    assert_eq!(targets.volume(named).name, "nvme0n1");
    // Readers share it, and one with the same identifier only is another disk.
    let mut targets = twins();
    targets.claim("nvme0n1", Access::Read, "1/51712").unwrap();
    targets.claim("nvme1n1", Access::Read, "2/51712").unwrap();
    targets.claim("nvme2n1", Access::Write, "3/51712").unwrap();
    let ambiguous = targets.claim("nvme-eui.00000000000000aa", Access::Read, "4/51712");
    assert!(matches!(ambiguous, Err(TargetError::Ambiguous { .. })));
    let of = |targets: &Targets<&str>, at: usize| {
        let disk = targets.entries[at].volume.clone();
        targets.same_as(&disk).map(|first| first.name.clone())
    };
    assert_eq!(
        [0, 2, 4].map(|at| of(&targets, at)),
        [None, Some("nvme0n1".into()), None]
    );
}

#[test]
fn what_may_be_one_namespace_is_not_given_to_two_writers() {
    let (serial, eui) = ("nvme-S1-n1", "nvme-eui.00000000000000aa");
    let other_eui = "nvme-eui.00000000000000bb";
    let nguid = "nvme-eui.000000000000000000000000000000aa";
    let (uuid, other_uuid) = ("nvme-uuid.aa", "nvme-uuid.bb");
    let disk = |number: usize, aliases: &[&str], sectors, model: &str| {
        let mut disk = volume(&format!("nvme{number}n1"), number, 0, sectors);
        disk.description = format!("{model}, serial S1, firmware {number}, namespace 1");
        aliased(disk, aliases)
    };
    let same = |one: Volume, other: Volume| {
        let mut targets = Targets::new([(one, Vec::new()), (other, Vec::new())]);
        targets.claim("nvme0n1", Access::Write, "1/51712").unwrap();
        targets.claim("nvme1n1", Access::Write, "2/51712").is_err()
    };
    for (one, other, expected) in [
        // A list that cannot be read by one way leaves out a UUID.
        (&[serial, eui, uuid][..], &[serial, eui][..], true),
        (&[serial, eui], &[serial, eui, nguid], true),
        (&[serial, eui, uuid], &[serial, eui, other_uuid], false),
        (&[serial, eui, uuid], &[serial, other_eui, uuid], false),
        (&["nvme-S2-n1", eui], &[serial, eui], false),
        (&[eui], &[eui], false),
        (&["nvme-S1-n2", eui], &[serial, eui], false),
    ] {
        for (one, other) in [(one, other), (other, one)] {
            // The one has grown since the other was looked at.
            let pair = (disk(0, one, 100, "M"), disk(1, other, 200, "M"));
            assert_eq!(same(pair.0, pair.1), expected, "{one:?} {other:?}");
        }
    }
    // Nothing in common that tells, and nothing that tells them apart.
    for ids in [&[serial][..], &[serial, uuid]] {
        let one = || disk(0, &[serial], 100, "M");
        assert!(same(one(), disk(1, ids, 100, "M")));
        assert!(!same(one(), disk(1, ids, 200, "M")));
        assert!(!same(one(), disk(1, ids, 100, "N")));
        let mut formatted = disk(1, ids, 100, "M");
        formatted.block_shift = 12;
        assert!(!same(one(), formatted));
    }
}

#[test]
fn a_target_on_what_did_not_start_is_refused_with_the_reason() {
    let mut targets = targets();
    targets.note_failed("nvme1".to_string(), "it is on fire".to_string());
    targets.note_failed("vda".to_string(), "it has no queue".to_string());
    targets.note_failed("nvme0n2".to_string(), "it is zoned".to_string());
    let mut refusal = |target: &str| {
        let claimed = targets.claim(target, Access::Write, "1/51712");
        claimed.unwrap_err().to_string()
    };
    for target in ["nvme1n1", "/dev/nvme1n1p2", "nvme1"] {
        let why = "cannot be had: nvme1 is out of use: it is on fire";
        assert_eq!(refusal(target), format!("target \"{target}\" {why}"));
    }
    for target in ["vda", "vda1"] {
        assert!(refusal(target).ends_with("vda is out of use: it has no queue"));
    }
    assert!(refusal("nvme0n2").ends_with("nvme0n2 is out of use: it is zoned"));
    for target in ["nvme0n21", "nvme12n1", "nvme2n1", "vdaa", "vdb"] {
        assert!(refusal(target).starts_with("no such target"), "{target}");
    }
    assert!(targets.claim("nvme0n1", Access::Write, "1/51712").is_ok());
}

#[test]
fn a_shared_namespace_is_known_by_its_subsystem() {
    let disk = |name, number, aliases: &[&str]| {
        (aliased(volume(name, number, 0, 64), aliases), Vec::new())
    };
    let nqn = "nvme-nqn.nqn.2019-08.org.qemu_one-n1";
    let second_writer = |first: &[&str], second: &[&str]| {
        let mut targets = Targets::new([disk("nvme0n1", 0, first), disk("nvme1n1", 1, second)]);
        targets.claim("nvme0n1", Access::Write, "1/51712").unwrap();
        targets.claim("nvme1n1", Access::Write, "2/51712").is_ok()
    };
    // Each controller has a serial number of its own, as QEMU's have.
    assert!(!second_writer(&["nvme-a-n1", nqn], &["nvme-b-n1", nqn]));
    let eui = "nvme-eui.0011223344556677";
    assert!(!second_writer(
        &["nvme-a-n1", nqn, eui],
        &["nvme-b-n1", nqn]
    ));
    // All disks of some makers have one name for their subsystems.
    let other = "nvme-eui.0011223344556678";
    assert!(second_writer(
        &["nvme-a-n1", nqn, eui],
        &["nvme-b-n1", nqn, other]
    ));
    assert!(second_writer(&["nvme-a-n1"], &["nvme-b-n1", nqn]));
    assert!(second_writer(&["nvme-a-n1"], &["nvme-b-n1"]));
}
