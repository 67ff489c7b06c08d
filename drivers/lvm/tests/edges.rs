//! The bounds of what is taken: the last extent, sector and letter that fit, and the first that do not.

use spindle_lvm::{FoundPv, Group, LvmUuid, VolumeChange, assemble, change, find, parse};
use spindle_testkit::lvm::{LvmDisk, LvmImage, LvmText};

const FIRST: &[u8; 32] = b"AAAAAAaaaabbbbccccddddeeeeffffff";
const SECOND: &[u8; 32] = b"BBBBBBaaaabbbbccccddddeeeeffffff";
/// As many as the two hundred extents of a usual volume end at.
const SECTORS: usize = 256 + 8 * 100;

fn both() -> LvmText {
    LvmText::new("vg0").on(FIRST).on(SECOND)
}

fn read(text: &str) -> Result<Group, &'static str> {
    parse(text.as_bytes(), 0)
}

fn refused(group: &Group, name: &str) -> Option<&'static str> {
    let mut volumes = group.logical.iter();
    volumes
        .find(|it| it.name == name)
        .expect("a volume")
        .refused
}

fn found(uuid: &[u8; 32], sectors: usize, text: &str) -> FoundPv {
    let image = LvmImage::new(uuid, sectors, text).image();
    find(&mut LvmDisk::new(image))
        .expect("read")
        .expect("a label")
}

#[test]
fn an_identifier_is_its_characters() {
    let uuid = LvmUuid::new(*FIRST).expect("an identifier");
    assert_eq!(uuid.characters().as_bytes(), FIRST);
    assert_eq!(LvmUuid::from_text(uuid.to_string().as_bytes()), Some(uuid));
}

#[test]
fn stripes_reach_to_the_last_extent_and_may_touch_each_other() {
    let text = both()
        .with("a", &[(4, 4, &[(0, 98), (1, 98)])])
        .with("b", &[(4, 4, &[(0, 96), (1, 96)])])
        .with("c", &[(96, 0, &[(0, 0)])]);
    let group = read(&text.text()).expect("a group");
    for name in ["a", "b", "c"] {
        assert_eq!(refused(&group, name), None, "{name}");
    }
    // One further, and they meet; or end behind the physical volume.
    let text = both()
        .with("a", &[(4, 4, &[(0, 97), (1, 97)])])
        .with("b", &[(4, 4, &[(0, 96), (1, 96)])]);
    let group = read(&text.text()).expect("a group");
    assert!(refused(&group, "a").is_some_and(|it| it.contains("shares extents")));
    let text = both().with("a", &[(4, 4, &[(0, 99), (1, 0)])]);
    let group = read(&text.text()).expect("a group");
    assert!(refused(&group, "a").is_some_and(|it| it.contains("has not")));
}

/// The first of all may reach over all the others.
#[test]
fn a_volume_that_others_lie_in_shares_extents_with_each_of_them() {
    let text = both()
        .with("all", &[(50, 0, &[(0, 0)])])
        .with("one", &[(2, 0, &[(0, 10)])])
        .with("two", &[(2, 0, &[(0, 20)])])
        .with("behind", &[(2, 0, &[(0, 50)])]);
    let group = read(&text.text()).expect("a group");
    for name in ["all", "one", "two"] {
        assert!(refused(&group, name).is_some(), "{name}");
    }
    assert_eq!(refused(&group, "behind"), None);
}

#[test]
fn a_stripe_is_a_power_of_two_that_divides_an_extent() {
    for (extent, stripe, fits) in [
        (8, 8, true),
        (8, 1, true),
        (8, 16, false),
        (12, 3, false),
        (12, 4, true),
    ] {
        let mut text = both().with("web", &[(4, stripe, &[(0, 0), (1, 0)])]);
        text.extent = extent;
        let group = read(&text.text()).expect("a group");
        assert_eq!(refused(&group, "web").is_none(), fits, "{extent} {stripe}");
    }
    // Three stripes cannot share four extents.
    let text = LvmText::new("vg0").on(FIRST).on(SECOND);
    let odd = text.with("web", &[(3, 4, &[(0, 0), (1, 0)])]);
    let group = read(&odd.text()).expect("a group");
    assert!(refused(&group, "web").is_some());
}

#[test]
fn a_tag_of_a_segment_names_no_volume() {
    let text = both()
        .with("web", &[(1, 0, &[(0, 0)])])
        .with("db", &[(1, 0, &[(0, 1)])]);
    let tagged = text.text().replacen(
        "type = \"striped\"",
        "tags = [\"db\"]\ntype = \"striped\"",
        1,
    );
    assert_eq!(refused(&read(&tagged).expect("a group"), "db"), None);
    let named = tagged.replace("tags", "parts");
    assert!(refused(&read(&named).expect("a group"), "db").is_some());
}

#[test]
fn a_text_has_one_group_whose_volumes_are_there_once() {
    let text = both().text();
    assert!(read(&text).is_ok());
    let two = format!("other {{\n}}\n{text}");
    assert_eq!(read(&two), Err("its metadata text has two groups"));
    let twice = Err("its group has a physical volume twice");
    let second = String::from_utf8_lossy(SECOND);
    let first = String::from_utf8_lossy(FIRST);
    assert_eq!(
        read(&text.replace(&*second, &first)),
        twice,
        "of one identifier"
    );
    assert_eq!(read(&text.replace("pv1", "pv0")), twice, "of one name");
    // What is reckoned with places of sectors fits.
    for (start, is_taken) in [((1_u64 << 55) - 801, true), ((1 << 55) - 800, false)] {
        let far = text.replace("pe_start = 256", &format!("pe_start = {start}"));
        assert_eq!(read(&far).is_ok(), is_taken, "{start}");
    }
}

#[test]
fn names_are_of_letters_and_no_longer_than_those_of_the_device_mapper() {
    let longest = "n".repeat(120 - "vg0".len());
    let text = both().text();
    let (sectors, time) = (8, 0);
    let create = VolumeChange::Create { sectors, time };
    let made = |name: &str| change(text.as_bytes(), name, &create, 1);
    assert!(made(&longest).is_ok());
    for name in [&format!("{longest}n"), "", ".", "..", "-a", "a/b", "a b"] {
        assert!(made(name).is_err(), "{name}");
    }
    for name in [".a", "...", "a-", "+", "_"] {
        assert!(made(name).is_ok(), "{name}");
    }
    let group = |name: &str| {
        let (name, text) = (name.into(), LvmText::new("vg0").on(FIRST));
        read(&LvmText { name, ..text }.text())
    };
    assert!(group(&"g".repeat(127)).is_ok());
    for name in [&"g".repeat(128), ".", "..", "-g"] {
        assert!(group(name).is_err(), "{name}");
    }
}

#[test]
fn a_physical_volume_must_hold_its_extents_apart_from_its_metadata() {
    let text = both().with("web", &[(1, 0, &[(0, 0)])]).text();
    let why = |change: &dyn Fn(&mut FoundPv)| {
        let second = found(SECOND, SECTORS, &text);
        let mut first = found(FIRST, SECTORS, &text);
        change(&mut first);
        let all = assemble(&[&first, &second]);
        (all[0].group.logical[0].refused, all[0].places.clone())
    };
    let there = (None, vec![Some(0), Some(1)]);
    assert_eq!(why(&|_| ()), there);
    let (reason, places) = why(&|pv| pv.sectors -= 1);
    assert!(reason.is_some_and(|it| it.contains("smaller than")));
    assert_eq!(places, [None, Some(1)]);
    // Metadata directly before its extents and directly behind them.
    assert_eq!(why(&|pv| pv.reserved = vec![0..256, 1056..2000]), there);
    for reserved in [0..257, 1055..2000, 300..301] {
        let (reason, _) = why(&|pv| pv.reserved = [reserved.clone()].into());
        assert!(reason.is_some_and(|it| it.contains("where its metadata is")));
    }
    let (reason, _) = why(&|pv| pv.refused = Some("for this"));
    assert_eq!(reason, Some("for this"));
}

/// One without extents has nothing that could be in the way.
#[test]
fn a_physical_volume_without_extents_meets_no_metadata() {
    let mut text = both().with("web", &[(1, 0, &[(1, 0)])]);
    text.physical[0] = (*FIRST, 10, 0);
    let text = text.text();
    let (first, second) = (found(FIRST, SECTORS, &text), found(SECOND, SECTORS, &text));
    let all = assemble(&[&first, &second]);
    assert_eq!(all[0].places, [Some(0), Some(1)]);
}

#[test]
fn a_volume_grows_by_whole_extents_of_the_right_segment() {
    // Two segments of one length; the last one goes on, and has its number raised.
    let text = both().with("web", &[(4, 0, &[(0, 0)]), (4, 0, &[(0, 50)])]);
    let sectors = 8 * 12;
    let (new, group) = change(
        text.text().as_bytes(),
        "web",
        &VolumeChange::Extend { sectors },
        1,
    )
    .expect("a larger volume");
    let sizes: Vec<u64> = group.logical[0]
        .segments
        .iter()
        .map(|it| it.sectors)
        .collect();
    assert_eq!(sizes, [32, 64]);
    assert_eq!(read(&String::from_utf8_lossy(&new)), Ok(group));
    // What is too much is said in MiB.
    let error = change(
        text.text().as_bytes(),
        "web",
        &VolumeChange::Extend { sectors: 4 << 21 },
        1,
    );
    let error = error.expect_err("too much");
    assert!(error.contains("4095 MiB are asked for"), "{error}");
}
