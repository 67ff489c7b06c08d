//! What is found on a disk: labels, both metadata areas, damage, and what is refused.

use spindle_lvm::{FoundPv, Group, LvArea, assemble, find};
use spindle_testkit::lvm::{LvmArea, LvmDisk as Disk, LvmImage};

const FIRST: &[u8; 32] = b"AAAAAAaaaabbbbccccddddeeeeffffff";
const SECOND: &[u8; 32] = b"BBBBBBaaaabbbbccccddddeeeeffffff";
const SECTORS: usize = 4096;

fn look(image: &LvmImage) -> Option<FoundPv> {
    find(&mut Disk::new(image.image())).unwrap()
}

fn pv(name: &str, uuid: &[u8; 32]) -> String {
    let uuid = str::from_utf8(uuid).unwrap();
    format!(
        "{name} {{\nid = \"{uuid}\"\nstatus = [\"ALLOCATABLE\"]\nflags = []\npe_start = 256\npe_count = 100\n}}\n"
    )
}

fn lv(name: &str, segments: &str, count: usize) -> String {
    format!(
        "{name} {{\nid = \"{name:0>6}-aaaa-bbbb-cccc-dddd-eeee-ffffff\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\n\
         creation_host = \"a \\\"host\\\" }}\" # {{ \"\nsegment_count = {count}\n{segments}}}\n"
    )
}

fn segment(number: usize, start: u64, extents: u64, rest: &str) -> String {
    format!("segment{number} {{\nstart_extent = {start}\nextent_count = {extents}\n{rest}}}\n")
}

fn linear(number: usize, start: u64, extents: u64, at: &str) -> String {
    let rest = format!("type = \"striped\"\nstripe_count = 1\nstripes = [\n{at}\n]\n");
    segment(number, start, extents, &rest)
}

fn group(seqno: u64, extra: &str, pvs: &str, lvs: &str) -> String {
    format!(
        "vg0 {{\nid = \"VVVVVV-aaaa-bbbb-cccc-dddd-eeee-ffffff\"\nseqno = {seqno}\nformat = \"lvm2\"\n\
         status = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\nextent_size = 8\n{extra}\n\
         physical_volumes {{\n{pvs}}}\nlogical_volumes {{\n{lvs}}}\n}}\n\
         # Generated {{\ncontents = \"Text Format Volume Group\"\nversion = 1\n"
    )
}

fn with(lvs: &str) -> Group {
    let text = group(1, "", &pv("pv0", FIRST), lvs);
    let found = look(&LvmImage::new(FIRST, SECTORS, &text)).unwrap();
    Group::clone(&found.group.unwrap())
}

fn web() -> String {
    lv("web", &linear(1, 0, 4, "\"pv0\", 2"), 1)
}

fn reason(group: &Group, name: &str) -> Option<&'static str> {
    let mut volumes = group.logical.iter();
    volumes.find(|volume| volume.name == name).unwrap().refused
}

#[test]
fn a_linear_volume_is_where_its_extents_are() {
    let segments = linear(1, 0, 4, "\"pv0\", 2") + &linear(2, 4, 1, "\"pv0\", 9");
    let group = with(&lv("web", &segments, 2));
    let volume = &group.logical[0];
    assert_eq!(
        (volume.sectors(), volume.read_only, volume.refused),
        (40, false, None)
    );
    assert_eq!(
        volume.uuid.to_string(),
        "000web-aaaa-bbbb-cccc-dddd-eeee-ffffff"
    );
    let areas: Vec<_> = volume.segments.iter().map(|it| it.areas.clone()).collect();
    assert_eq!(
        areas,
        [
            vec![LvArea { pv: 0, first: 272 }],
            vec![LvArea { pv: 0, first: 328 }]
        ]
    );
    assert_eq!(
        (group.name.as_str(), group.seqno, group.extent_size),
        ("vg0", 1, 8)
    );
}

#[test]
fn a_striped_volume_has_an_area_for_each_stripe() {
    let stripes = "type = \"striped\"\nstripe_count = 2\nstripe_size = 4\nstripes = [\"pv0\", 0, \"pv1\", 7]\n";
    let pvs = pv("pv0", FIRST) + &pv("pv1", SECOND);
    let text = group(1, "", &pvs, &lv("web", &segment(1, 0, 6, stripes), 1));
    let group = look(&LvmImage::new(FIRST, SECTORS, &text))
        .unwrap()
        .group
        .unwrap();
    let segment = &group.logical[0].segments[0];
    assert_eq!((segment.sectors, segment.stripe), (48, 4));
    let second = LvArea { pv: 1, first: 312 };
    assert_eq!(segment.areas, [LvArea { pv: 0, first: 256 }, second]);
}

#[test]
fn a_label_may_be_in_each_of_four_sectors_and_must_hold() {
    let text = group(1, "", &pv("pv0", FIRST), &web());
    for label in 0..6 {
        let mut image = LvmImage::new(FIRST, SECTORS, &text);
        image.label = label;
        assert_eq!(look(&image).is_some(), label < 4, "{label}");
        // Not a bit of it.
        for byte in [0, 8, 16, 20, 25, 40, 66, 511] {
            image.damage = vec![usize::from(label) * 512 + byte];
            assert!(look(&image).is_none(), "{label} {byte}");
        }
    }
    assert!(look(&LvmImage::new(FIRST, 3, &text)).is_none(), "no room");
}

#[test]
fn the_newest_area_that_holds_is_taken() {
    let text = |seqno| group(seqno, "", &pv("pv0", FIRST), &web());
    let at_end = |text: &str| LvmArea {
        start: 1 << 20,
        ..LvmArea::new(text)
    };
    for (first, second) in [(3, 4), (4, 3)] {
        let mut image = LvmImage::new(FIRST, SECTORS, &text(first));
        image.areas.push(at_end(&text(second)));
        let seqno = |image: &LvmImage| look(image).unwrap().group.map(|group| group.seqno);
        assert_eq!(seqno(&image), Some(4));
        // A bit of the header, of the text, and one that cannot be read.
        let newest = if first == 4 { 4096 } else { 1 << 20 };
        for byte in [0, 10, 20, 24, 32, 40, 48, 56, 60, 511, 512, 700] {
            image.damage = vec![newest + byte];
            let found = look(&image).unwrap();
            assert_eq!(found.group.unwrap().seqno, 3, "{byte}");
            assert_eq!(found.notes.len(), 1);
        }
        image.damage.clear();
        let (bytes, bad, reads) = (image.image(), Some(newest as u64 / 512), 0);
        let worn = find(&mut Disk { bytes, bad, reads }).unwrap().unwrap();
        assert_eq!(worn.group.unwrap().seqno, 3);
        image.areas[usize::from(first == 3)].flags = 1;
        assert_eq!(seqno(&image), Some(3), "ignored");
    }
    let mut image = LvmImage::new(FIRST, SECTORS, &text(3));
    image.areas.push(at_end(&(text(3) + "# other")));
    assert!(
        look(&image).unwrap().group.unwrap().refused.is_some(),
        "which one?"
    );
}

#[test]
fn a_text_wraps_around_at_the_end_of_its_area() {
    let text = group(1, "", &pv("pv0", FIRST), &web());
    for offset in [512, 1000, (64 << 10) - 512, (64 << 10) - 1] {
        let mut image = LvmImage::new(FIRST, SECTORS, &text);
        image.areas[0].offset = offset;
        let found = look(&image).unwrap();
        assert_eq!(found.group.unwrap().logical.len(), 1, "{offset}");
    }
    for (offset, length) in [
        (511, None),
        (64 << 10, None),
        (512, Some(1 << 15)),
        (512, Some(u64::MAX)),
    ] {
        let mut image = LvmImage::new(FIRST, SECTORS, &text);
        (image.areas[0].offset, image.areas[0].length) = (offset, length);
        let found = look(&image).unwrap();
        assert!(
            found.group.is_none() && found.notes.len() == 1,
            "{offset} {length:?}"
        );
    }
}

#[test]
fn what_is_no_plain_volume_is_refused_with_the_reason() {
    for (kind, expected) in [
        ("thin", "it is a thin volume"),
        ("thin-pool", "it is a thin pool"),
        ("snapshot", "it is a snapshot"),
        ("raid1", "it is RAID"),
        ("mirror", "it is a mirror"),
        ("cache+X", "it is cached"),
        ("vdo-pool", "it is a VDO volume"),
        ("striped+X", "it has segments of an unknown kind"),
    ] {
        let rest = format!("type = \"{kind}\"\n");
        let group = with(&(web() + &lv("odd", &segment(1, 0, 1, &rest), 1)));
        assert_eq!(reason(&group, "odd"), Some(expected));
        assert_eq!(reason(&group, "web"), None, "beside {kind}");
    }
    for (from, to, expected) in [
        (
            "\"VISIBLE\"",
            "\"VISIBLE\", \"LOCKED\"",
            "it is locked, as by a pvmove that has not ended",
        ),
        ("\"VISIBLE\"", "\"PVMOVE\"", "it is part of a pvmove"),
        (
            ", \"VISIBLE\"",
            "",
            "it is a hidden part of another logical volume",
        ),
        ("\"READ\", ", "", "it has an unknown status"),
        (
            "\"VISIBLE\"",
            "\"VISIBLE\", \"NEW\"",
            "it has an unknown status",
        ),
        (
            "\"pv0\"",
            "\"web_tdata\"",
            "it lies on another logical volume",
        ),
        (
            "\"pv0\", 2",
            "\"pv0\", 97",
            "it has extents that its physical volume has not",
        ),
        (
            "start_extent = 0",
            "start_extent = 1",
            "its segments do not make a whole",
        ),
        (
            "extent_count = 4",
            "extent_count = 0",
            "its segments do not make a whole",
        ),
        (
            "segment_count = 1",
            "segment_count = 2",
            "its segments do not make a whole",
        ),
        (
            "stripe_count = 1",
            "stripe_count = 2",
            "its segments do not make a whole",
        ),
    ] {
        let changed = web().replace(from, to);
        assert_ne!(changed, web());
        let group = with(&changed);
        assert_eq!(reason(&group, "web"), Some(expected), "{to}");
        assert_eq!(group.logical[0].sectors(), 0);
    }
    let read_only = with(&web().replace("\"WRITE\", ", ""));
    assert!(read_only.logical[0].read_only && reason(&read_only, "web").is_none());
}

#[test]
fn what_another_volume_is_made_of_is_refused() {
    let rest = "type = \"snapshot\"\norigin = \"web\"\ncow_store = \"cow\"\n";
    let lvs = web()
        + &lv("cow", &linear(1, 0, 1, "\"pv0\", 20"), 1).replace(", \"VISIBLE\"", "")
        + &lv("snap0", &segment(1, 0, 4, rest), 1)
        + &lv("free", &linear(1, 0, 1, "\"pv0\", 21"), 1);
    let group = with(&lvs);
    assert!(reason(&group, "web").is_some());
    // What it is kept in has its name for people.
    assert_eq!(reason(&group, "cow"), Some("it is a snapshot"));
    let hidden: Vec<_> = group.logical.iter().map(|volume| volume.hidden).collect();
    assert_eq!(hidden, [false, false, true, false]);
    assert_eq!(reason(&group, "free"), None);
}

#[test]
fn volumes_that_share_extents_are_refused() {
    for (at, meets) in [(0, false), (1, true), (2, true), (5, true), (6, false)] {
        let group = with(&(web() + &lv("db", &linear(1, 0, 2, &format!("\"pv0\", {at}")), 1)));
        assert_eq!(reason(&group, "web").is_some(), meets, "{at}");
        assert_eq!(reason(&group, "db").is_some(), meets, "{at}");
    }
    let twice = linear(1, 0, 1, "\"pv0\", 3") + &linear(2, 1, 1, "\"pv0\", 3");
    assert!(reason(&with(&lv("web", &twice, 2)), "web").is_some());
}

/// The reason for which the volume `web` of the first group is refused, of these disks.
fn assembled(images: &[LvmImage]) -> Option<&'static str> {
    let found: Vec<_> = images.iter().map(|image| look(image).unwrap()).collect();
    let groups = assemble(&found.iter().collect::<Vec<_>>());
    let first = &groups[0];
    let reason = reason(&first.group, "web");
    assert_eq!(first.group.logical[0].segments.is_empty(), reason.is_some());
    reason
}

#[test]
fn a_group_is_refused_as_a_whole_for_what_concerns_all_of_it() {
    for (extra, refused) in [
        ("", false),
        ("system_id = \"other\"", true),
        ("system_id = \"\"", false),
        ("lock_type = \"sanlock\"", true),
        ("lock_type = \"none\"", false),
        ("status = [\"READ\", \"EXPORTED\"]", true),
        ("status = [\"WRITE\"]", true),
        ("status = [\"READ\", \"NEW\"]", true),
        ("format = \"lvm3\"", true),
    ] {
        let text = group(1, extra, &pv("pv0", FIRST), &web());
        let reason = assembled(&[LvmImage::new(FIRST, SECTORS, &text)]);
        assert_eq!(reason.is_some(), refused, "{extra}: {reason:?}");
    }
}

#[test]
fn the_newest_metadata_of_all_disks_counts_and_each_disk_is_there_once() {
    let pvs = pv("pv0", FIRST) + &pv("pv1", SECOND);
    let on_both = linear(1, 0, 1, "\"pv0\", 1") + &linear(2, 1, 1, "\"pv1\", 1");
    let new = group(7, "", &pvs, &lv("web", &on_both, 2));
    let old = group(6, "", &pvs, &web());
    let disk = |uuid, text: &str| LvmImage::new(uuid, SECTORS, text);
    let images = [disk(FIRST, &old), disk(SECOND, &new)];
    let found: Vec<_> = images.iter().map(|image| look(image).unwrap()).collect();
    let groups = assemble(&found.iter().collect::<Vec<_>>());
    assert_eq!((groups.len(), groups[0].group.seqno), (1, 7));
    assert_eq!(groups[0].places, [Some(0), Some(1)]);
    assert_eq!(assembled(&images), None);

    let absent = assembled(&images[1..]);
    assert_eq!(absent, Some("a physical volume under it is not there"));
    let twice = [images.clone(), images.clone()].concat();
    assert_eq!(
        assembled(&twice),
        Some("a physical volume under it is there twice")
    );
    let mut small = images.clone();
    small[0].sectors = 256 + 100 * 8 - 1;
    assert!(assembled(&small).unwrap().contains("smaller"));
    small[0].sectors += 1;
    assert_eq!(assembled(&small), None);
    let missing = group(
        7,
        "",
        &pvs.replacen("flags = []", "flags = [\"MISSING\"]", 1),
        &web(),
    );
    assert!(
        assembled(&[disk(FIRST, &missing)])
            .unwrap()
            .contains("missing")
    );
    let torn = new.clone() + "# other";
    assert!(assembled(&[disk(FIRST, &new), disk(SECOND, &torn)]).is_some());
    let within = group(
        7,
        "",
        &pvs.replace("pe_start = 256", "pe_start = 100"),
        &web(),
    );
    assert!(
        assembled(&[disk(FIRST, &within)])
            .unwrap()
            .contains("where its metadata is")
    );
}

/// As by one who has a disk that was once in the group, or knows the identifiers otherwise.
#[test]
fn metadata_of_a_disk_that_the_others_do_not_know_moves_nothing_on_them() {
    let mine = group(6, "", &pv("pv0", FIRST), &web());
    let both = pv("pv0", FIRST) + &pv("pv1", SECOND);
    let disk = |uuid, text: &str| LvmImage::new(uuid, SECTORS, text);
    let moved = group(7, "", &both, &lv("web", &linear(1, 0, 1, "\"pv0\", 9"), 1));
    let reason = assembled(&[disk(FIRST, &mine), disk(SECOND, &moved)]);
    assert!(reason.unwrap().contains("does not know"));
    // An older one moves nothing, and neither does one that leaves the others alone.
    let older = moved.replace("seqno = 7", "seqno = 5");
    assert_eq!(assembled(&[disk(FIRST, &mine), disk(SECOND, &older)]), None);
    let reduced = group(
        7,
        "",
        &pv("pv1", SECOND),
        &lv("web", &linear(1, 0, 1, "\"pv1\", 9"), 1),
    );
    assert_eq!(
        assembled(&[disk(FIRST, &mine), disk(SECOND, &reduced)]),
        None
    );
    // Where it has reached one that is known, it counts.
    let third = b"CCCCCCaaaabbbbccccddddeeeeffffff";
    let known = group(6, "", &both, &web());
    let all = both + &pv("pv2", third);
    let extended = group(7, "", &all, &web());
    let disks = [
        disk(FIRST, &known),
        disk(SECOND, &extended),
        disk(third, &extended),
    ];
    assert_eq!(assembled(&disks), None);
    assert!(assembled(&[disk(FIRST, &known), disk(third, &extended)]).is_some());
}

#[test]
fn groups_of_one_name_or_on_one_disk_are_refused() {
    let mine = group(1, "", &pv("pv0", FIRST), &web());
    let other = |pvs: &str, name: &str| {
        let text = group(1, "", pvs, &web()).replace("VVVVVV", "WWWWWW");
        text.replace("vg0 {", name)
    };
    let disk = |uuid, text: &str| LvmImage::new(uuid, SECTORS, text);
    let apart = other(&pv("pv0", SECOND), "vg1 {");
    assert_eq!(assembled(&[disk(FIRST, &mine), disk(SECOND, &apart)]), None);
    let namesake = other(&pv("pv0", SECOND), "vg0 {");
    let reason = assembled(&[disk(FIRST, &mine), disk(SECOND, &namesake)]);
    assert!(reason.unwrap().contains("name"));
    let greedy = other(&(pv("pv0", SECOND) + &pv("pv1", FIRST)), "vg1 {");
    let reason = assembled(&[disk(FIRST, &mine), disk(SECOND, &greedy)]);
    assert!(reason.unwrap().contains("another group"));
}

#[test]
fn a_text_that_is_none_is_refused_in_words() {
    let good = group(1, "", &pv("pv0", FIRST), &web());
    for (from, to) in [
        ("vg0 {", "vg0 = {"),
        ("vg0 {", "v*0 {"),
        ("vg0 {", "-vg0 {"),
        ("seqno = 1", "seqno = -1"),
        ("seqno = 1", "seqno = 99999999999999999999999"),
        ("extent_size = 8", "extent_size = 0"),
        ("extent_size = 8", "extent_size = [8"),
        ("pe_count = 100", "pe_count = 18446744073709551615"),
        ("version = 1", "version = 2"),
        ("contents = ", "content = "),
        ("contents = ", "contents = \""),
        ("contents = ", "vg1 { }\ncontents = "),
        ("contents = ", "} contents = "),
        ("web {", "web/x {"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        let found = look(&LvmImage::new(FIRST, SECTORS, &text)).unwrap();
        assert!(found.group.is_none() && found.notes.len() == 1, "{to}");
    }
}

#[test]
fn a_text_that_is_known_is_not_read_twice() {
    let text = group(1, "", &pv("pv0", FIRST), &web());
    let mut image = LvmImage::new(FIRST, SECTORS, &text);
    let reads = |image: &LvmImage| {
        let (bytes, bad, reads) = (image.image(), None, 0);
        let mut disk = Disk { bytes, bad, reads };
        find(&mut disk).unwrap();
        disk.reads
    };
    let once = reads(&image);
    image.areas.push(LvmArea {
        start: 1 << 20,
        ..LvmArea::new(&text)
    });
    assert_eq!(reads(&image), once + 1, "the header only");
}
