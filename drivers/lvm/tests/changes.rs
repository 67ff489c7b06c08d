//! Changes of a group: what the next metadata say, what is refused, and what a power cut leaves.

use proptest::prelude::*;
use spindle_lvm::{
    Assembled, FoundPv, Group, LogicalVolume, Rewrite, RewriteStep, SectorSource, Unchanged,
    VolumeChange, assemble, change, find,
};
use spindle_testkit::lvm::{LvmArea, LvmDisk as Disk, LvmImage, LvmText};

const FIRST: &[u8; 32] = b"AAAAAAaaaabbbbccccddddeeeeffffff";
const SECOND: &[u8; 32] = b"BBBBBBaaaabbbbccccddddeeeeffffff";
const SECTORS: usize = 1200;

/// Two physical volumes; the first has two metadata areas, of so many bytes, and all of them begin their
/// texts this far behind their starts.
fn disks(text: &str, size: u64, offset: u64) -> Vec<Disk> {
    let area = |start| LvmArea {
        start,
        size,
        offset,
        ..LvmArea::new(text)
    };
    let image = |uuid, starts: &[u64]| {
        let image = LvmImage {
            areas: starts.iter().map(|start| area(*start)).collect(),
            ..LvmImage::new(uuid, SECTORS, text)
        };
        Disk::new(image.image())
    };
    let behind = (SECTORS * 512) as u64 - size;
    vec![image(FIRST, &[4096, behind]), image(SECOND, &[4096])]
}

fn read(disks: &[Disk]) -> Assembled {
    let find = |disk: &Disk| find(&mut disk.clone()).unwrap().unwrap();
    let found: Vec<FoundPv> = disks.iter().map(find).collect();
    for pv in &found {
        assert!(pv.notes.is_empty(), "{:?}", pv.notes);
    }
    let mut groups = assemble(&found.iter().collect::<Vec<_>>());
    assert_eq!(groups.len(), 1);
    let assembled = groups.remove(0);
    assert_eq!(assembled.group.refused, None);
    assert_eq!(assembled.places, [Some(0), Some(1)]);
    assembled
}

fn plan(disks: &[Disk], name: &str, what: &VolumeChange) -> Result<Rewrite, Unchanged> {
    let group = read(disks).group;
    let mut disks = disks.to_vec();
    let mut sources: Vec<&mut dyn SectorSource> = Vec::new();
    for disk in &mut disks {
        sources.push(disk);
    }
    Rewrite::plan(&group, &mut sources, name, what, 7)
}

/// What is to be written, and the group after that.
fn steps(disks: &[Disk], name: &str, what: &VolumeChange) -> (Vec<RewriteStep>, Group) {
    let mut rewrite = plan(disks, name, what).unwrap_or_else(|error| panic!("{error:?}"));
    let group = rewrite.group().clone();
    let mut steps = Vec::new();
    while let Some(step) = rewrite.step() {
        steps.push(step);
    }
    assert_eq!(rewrite.step(), None);
    (steps, group)
}

fn write(disks: &mut [Disk], step: &RewriteStep) {
    if let RewriteStep::Write {
        pv,
        first,
        data,
        instead_of,
    } = step
    {
        let at = *first as usize * 512;
        let place = &mut disks[*pv].bytes[at..at + data.len()];
        assert!(instead_of.as_ref().is_none_or(|it| it == place));
        assert_eq!(at / 4096, (at + data.len() - 1) / 4096, "it is in one page");
        place.copy_from_slice(data);
    }
}

fn changed(disks: &mut [Disk], name: &str, what: &VolumeChange) -> Group {
    let (steps, mut group) = steps(disks, name, what);
    steps.iter().for_each(|step| write(disks, step));
    let new = read(disks).group;
    group.checksum = new.checksum;
    assert_eq!(new, group);
    group
}

/// Every state that a power cut leaves: some sectors of the step that was under way, or any of the headers.
fn cut(disks: &[Disk], steps: &[RewriteStep], mut check: impl FnMut(&[Disk], bool)) {
    let mut now = disks.to_vec();
    let flush = steps.iter().position(|step| *step == RewriteStep::Flush);
    let (texts, headers) = steps.split_at(flush.unwrap());
    for step in texts {
        let RewriteStep::Write {
            pv, first, data, ..
        } = step
        else {
            panic!("only texts before the first flush");
        };
        for sectors in 1..=data.len() / 512 {
            let mut part = now.clone();
            write(
                &mut part,
                &RewriteStep::Write {
                    pv: *pv,
                    first: *first,
                    data: data[..sectors * 512].to_vec(),
                    instead_of: None,
                },
            );
            check(&part, false);
        }
        write(&mut now, step);
    }
    check(&now, false);
    assert_eq!(headers.last(), Some(&RewriteStep::Flush));
    let headers = &headers[1..headers.len() - 1];
    for some in 0..1_u32 << headers.len() {
        let mut part = now.clone();
        for (at, step) in headers.iter().enumerate() {
            let RewriteStep::Write { data, .. } = step else {
                panic!("only headers after it");
            };
            assert_eq!(data.len(), 512, "a sector is written or not");
            if some & 1 << at != 0 {
                write(&mut part, step);
            }
        }
        check(&part, some != 0);
    }
}

fn create(extents: u64) -> VolumeChange {
    let (sectors, time) = (extents * 8, 1_700_000_000);
    VolumeChange::Create { sectors, time }
}

fn extend(extents: u64) -> VolumeChange {
    let sectors = extents * 8;
    VolumeChange::Extend { sectors }
}

fn rename(to: &str) -> VolumeChange {
    VolumeChange::Rename { to: to.into() }
}

fn both() -> LvmText {
    LvmText::new("vg0").on(FIRST).on(SECOND)
}

/// Where it is: physical volumes, first extents there, and extents.
fn places(group: &Group, name: &str) -> Vec<(usize, u64, u64)> {
    let is_it = |volume: &&LogicalVolume| volume.name == name;
    let volume = group.logical.iter().find(is_it).unwrap();
    assert_eq!(volume.refused, None);
    let place = |segment: &spindle_lvm::LvSegment| {
        assert_eq!(segment.areas.len(), 1);
        let area = segment.areas[0];
        (area.pv, (area.first - 256) / 8, segment.sectors / 8)
    };
    volume.segments.iter().map(place).collect()
}

#[test]
fn volumes_are_made_extended_renamed_and_removed() {
    let mut disks = disks(&both().text(), 16 << 10, 512);
    let group = changed(&mut disks, "web", &create(60));
    assert_eq!((group.seqno, places(&group, "web")), (2, vec![(0, 0, 60)]));
    let group = changed(&mut disks, "db", &create(50));
    assert_eq!(
        places(&group, "db"),
        [(1, 0, 50)],
        "the first run that holds it"
    );
    assert_ne!(group.logical[0].uuid, group.logical[1].uuid);
    let group = changed(&mut disks, "web", &extend(80));
    assert_eq!(places(&group, "web"), [(0, 0, 80)], "one piece stays one");
    let group = changed(&mut disks, "log", &create(10));
    assert_eq!(places(&group, "log"), [(0, 80, 10)]);
    let group = changed(&mut disks, "web", &extend(100));
    assert_eq!(places(&group, "web"), [(0, 0, 80), (1, 50, 20)]);
    let group = changed(&mut disks, "web", &extend(135));
    let parts = [(0, 0, 80), (1, 50, 50), (0, 90, 5)];
    assert_eq!(places(&group, "web"), parts, "what is behind it first");
    let group = changed(&mut disks, "db", &rename("data"));
    assert_eq!(places(&group, "data"), [(1, 0, 50)]);
    let group = changed(&mut disks, "web", &VolumeChange::Remove);
    assert_eq!(group.logical.len(), 2);
    let group = changed(&mut disks, "data", &VolumeChange::Remove);
    assert_eq!(places(&group, "log"), [(0, 80, 10)]);
    let group = changed(&mut disks, "log", &VolumeChange::Remove);
    assert_eq!((group.seqno, group.logical.len()), (11, 0));
    let group = changed(&mut disks, "all", &create(200));
    assert_eq!(places(&group, "all"), [(0, 0, 100), (1, 0, 100)]);
}

#[test]
fn what_is_not_understood_stays() {
    let text = "# a comment with seqno = 1\nvg0 {\nid = \"VVVVVV-aaaa-bbbb-cccc-dddd-eeee-ffffff\"\nseqno = 9\nformat=\"lvm2\"\n\
        status = [\"RESIZEABLE\", \"READ\", \"WRITE\"] flags = []\nextent_size = 8\nmax_lv = 2\nnew_thing { seqno = 3 x = [\"}\"] }\n\
        physical_volumes {\npv0 {\nid = \"AAAAAA-aaaa-bbbb-cccc-dddd-eeee-ffffff\"\nstatus = [\"ALLOCATABLE\"]\n\
        pe_start = 256\npe_count = 100 # of them\nodd = \"\\\"{\"\n}\n}\nlogical_volumes {\n\
        a {\nid = \"000000-aaaa-bbbb-cccc-dddd-eeee-ffffff\"\ntags = [\"x\"]\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nsegment_count = 1\n\
        segment1 {\nstart_extent = 0\nextent_count = 4\ntype = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 0]\n} }\n}\n}\n\
        contents = \"Text Format Volume Group\"\nversion = 1\ncreation_time = 5\n";
    let (new, _) = change(text.as_bytes(), "a", &extend(6), 1).unwrap();
    let expected = text
        .replace("seqno = 9", "seqno = 10")
        .replace("extent_count = 4", "extent_count = 6");
    let new = String::from_utf8(new).unwrap();
    assert_eq!(new.trim_end_matches(['\0']).replace("\t", ""), expected);
    assert!(new.ends_with('\0'));
    let (new, _) = change(text.as_bytes(), "b", &create(1), 1).unwrap();
    let new = String::from_utf8(new).unwrap();
    let (before, after) = text.split_once("} }\n}\n}").unwrap();
    let (before, after) = (before.replace("seqno = 9", "seqno = 10"), after.to_string());
    assert!(
        new.starts_with(&before) && new.ends_with(&(after + "\0")),
        "{new}"
    );
    let (new, _) = change(text.as_bytes(), "a", &rename("c"), 1).unwrap();
    let new = String::from_utf8(new).unwrap();
    let expected = text
        .replace("seqno = 9", "seqno = 10")
        .replace("a {\nid = \"000000", "c {\nid = \"000000");
    assert_eq!(new, expected + "\0");
    // There may be two volumes.
    let (new, _) = change(text.as_bytes(), "b", &create(1), 1).unwrap();
    let more = change(&new, "c", &create(1), 1).unwrap_err();
    assert!(more.contains("as many logical volumes as it may have"));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let text = both()
        .with("web", &[(4, 0, &[(0, 0)])])
        .with("old", &[(2, 0, &[(1, 0)])]);
    let plain = text.text();
    let snapshot = plain.replacen("type = \"striped\"", "type = \"snapshot\"", 2);
    let pvmove = plain.replace(
        "stripes = [\"pv1\", 0]",
        "mirrors = [\"pv1\", 0, \"pv0\", 50]",
    );
    let with = |from: &str, to: &str| plain.replace(from, to);
    for (text, name, what, why) in [
        (
            &plain,
            "web",
            create(1),
            "there is a logical volume web already",
        ),
        (&plain, "new", create(200), "left, and 0 MiB are asked for"),
        (&plain, "new", create(0), "are asked for"),
        (&plain, "web", extend(4), "no volume is made smaller"),
        (&plain, "web", extend(1), "no volume is made smaller"),
        (&plain, "none", extend(9), "there is no such logical volume"),
        (
            &plain,
            "none",
            VolumeChange::Remove,
            "there is no such logical volume",
        ),
        (
            &plain,
            "web",
            rename("old"),
            "there is a logical volume old already",
        ),
        (
            &plain,
            "web",
            rename("a b"),
            "is no name for a logical volume",
        ),
        (
            &plain,
            "web",
            rename("pvmove0"),
            "is no name for a logical volume",
        ),
        (
            &plain,
            "web_rimage_0",
            create(1),
            "is no name for a logical volume",
        ),
        (&plain, "-n", create(1), "is no name for a logical volume"),
        (&snapshot, "web", VolumeChange::Remove, "it is a snapshot"),
        (&pvmove, "new", create(1), "it is not known where they are"),
        (
            &with("\"RESIZEABLE\", \"READ\", \"WRITE\"", "\"READ\""),
            "new",
            create(1),
            "its group is read-only",
        ),
        (
            &with("extent_size", "system_id = \"x\"\nextent_size"),
            "new",
            create(1),
            "belongs to another system",
        ),
        (
            &with("extent_size", "lock_type = \"dlm\"\nextent_size"),
            "new",
            create(1),
            "lock manager",
        ),
        (
            &with("\"ALLOCATABLE\"", ""),
            "new",
            create(1),
            "has 0 MiB left",
        ),
    ] {
        let error = change(text.as_bytes(), name, &what, 1).unwrap_err();
        assert!(error.contains(why), "{name}, {what:?}: {error}");
    }
}

#[test]
fn areas_without_room_or_that_have_changed_are_left_alone() {
    let text = both().text();
    let refused = |disks: &[Disk], group: &Group| {
        let mut disks = disks.to_vec();
        let mut sources: Vec<&mut dyn SectorSource> = Vec::new();
        for disk in &mut disks {
            sources.push(disk);
        }
        match Rewrite::plan(group, &mut sources, "web", &create(1), 7) {
            Err(Unchanged::Refused(reason)) => reason,
            _ => panic!("it is not refused"),
        }
    };
    let full = disks(&text, 2048, 512);
    let reason = refused(&full, &read(&full).group);
    assert!(reason.contains("no room for the next version"), "{reason}");
    let mut disks = disks(&text, 16 << 10, 512);
    let group = read(&disks).group;
    changed(&mut disks, "web", &create(1));
    let reason = refused(&disks, &group);
    assert!(reason.contains("since it was read"), "{reason}");
    let (now, mut damaged) = (read(&disks).group, disks.clone());
    damaged[1].bytes[4096 + 8] ^= 1;
    assert!(refused(&damaged, &now).contains("vgck"));
    let swapped = [disks[1].clone(), disks[0].clone()];
    assert!(refused(&swapped, &now).contains("is not what it was"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 24 }))]

    /// Some changes one after the other, so that the texts wrap around, each cut at every sector.
    #[test]
    fn a_power_cut_leaves_the_old_or_the_new_metadata(
        offset in 1u64..20,
        size in 14u64..24,
        changes in prop::collection::vec((0u8..4, 0usize..4, 1u64..40), 1..8),
    ) {
        let mut disks = disks(&both().text(), size * 512, offset.min(size - 4) * 512);
        let mut names: Vec<String> = Vec::new();
        for (number, (what, which, extents)) in changes.into_iter().enumerate() {
            let known = (!names.is_empty()).then(|| names[which % names.len()].clone());
            let (name, what) = match (what, known) {
                (0, Some(name)) => (name, VolumeChange::Remove),
                (1, Some(name)) => (name, rename(&format!("n{number}"))),
                (2, Some(name)) => (name, extend(extents)),
                _ => (format!("c{number}"), create(extents)),
            };
            let old = read(&disks).group;
            let Ok(_) = plan(&disks, &name, &what) else {
                continue;
            };
            let (steps, mut new) = steps(&disks, &name, &what);
            let mut seen = [false; 2];
            let mut last = disks.clone();
            cut(&disks, &steps, |part, is_new| {
                let mut group = read(part).group;
                seen[usize::from(is_new)] = true;
                if is_new {
                    (group.checksum, new.checksum) = (0, 0);
                    assert_eq!(group, new);
                } else {
                    assert_eq!(group, old);
                }
                last = part.to_vec();
            });
            prop_assert!(seen == [true, true]);
            disks = last;
            names = new.logical.iter().map(|volume| volume.name.clone()).collect();
        }
    }
}
